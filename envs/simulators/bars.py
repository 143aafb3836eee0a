"""Building blocks of generative markets: correlated shocks, price bars around a log-price path, the calendar."""

from __future__ import annotations

from typing import NamedTuple, TypedDict

import jax
import jax.numpy as jnp

from jaxppo.envs.market.market_data import MarketData

SECONDS_PER_DAY = 86400


class Levels(NamedTuple):
    """Levels of spreads and volumes of a simulated market.

    Attributes:
      half_spread: fraction of the price, >= 0; a number or `[A]`.
      median_volume: shares.
      volume_deviation: standard deviation of the log volume.
    """

    half_spread: jax.Array | float
    median_volume: jax.Array | float
    volume_deviation: jax.Array | float


class BarOptions(TypedDict, total=False):
    """Fields of `DailyBars` by name, as a simulator takes them."""

    gap_share: jax.Array | float
    start_price: jax.Array | float
    half_spread: jax.Array | float
    median_volume: jax.Array | float
    volume_deviation: jax.Array | float


class DailyBars(NamedTuple):
    """What bars of a simulated market have beside the law of their returns.

    Attributes:
      gap_share: share of a bar's variance that falls between the previous close and the open, in [0, 1).
      start_price: price before the first bar, > 0; a number or `[A]`.
      half_spread: constant half-spread, fraction of the price, >= 0; a number or `[A]`.
      median_volume: shares; volume is lognormal, independent over bars.
      volume_deviation: standard deviation of the log volume.
    """

    gap_share: jax.Array | float = 0.2
    start_price: jax.Array | float = 100.0
    half_spread: jax.Array | float = 1e-4
    median_volume: jax.Array | float = 1e6
    volume_deviation: jax.Array | float = 0.5

    @property
    def levels(self) -> Levels:
        """Its spreads and volumes."""
        return Levels(self.half_spread, self.median_volume, self.volume_deviation)


def correlate(normals: jax.Array, correlation: jax.Array | float) -> jax.Array:
    """Correlates standard normals over assets.

    Args:
      normals: `[..., A]`, independent.
      correlation: one number in (-1 / (A - 1), 1) for every pair of assets, or a positive definite `[A, A]` matrix;
        outside of that the result is NaN.
    """
    correlation = jnp.asarray(correlation, jnp.float32)
    if correlation.ndim == 0:
        identity = jnp.eye(normals.shape[-1], dtype=jnp.float32)
        correlation = identity + correlation * (1 - identity)
    root = jnp.linalg.cholesky(correlation)
    return jnp.matmul(normals, root.T, precision=jax.lax.Precision.HIGHEST)


def bar_shocks(
    gap_normals: jax.Array, body_normals: jax.Array, correlation: jax.Array | float, gap_share: jax.Array | float
) -> tuple[jax.Array, jax.Array]:
    """Shocks of the gap and of the body of each bar, `[T, A]` each, of variances `gap_share` and `1 - gap_share`.

    Args:
      gap_normals: `[T, A]` independent standard normals.
      body_normals: `[T, A]` independent standard normals.
      correlation: over assets, as in `correlate`.
      gap_share: share of the bar's variance that falls between the previous close and the open, in [0, 1).
    """
    return (
        jnp.sqrt(gap_share) * correlate(gap_normals, correlation),
        jnp.sqrt(1 - gap_share) * correlate(body_normals, correlation),
    )


def gap_and_body(
    shocks: tuple[jax.Array, jax.Array], drift: jax.Array, deviation: jax.Array, gap_share: jax.Array | float
) -> tuple[jax.Array, jax.Array]:
    """Gaussian log returns of each bar from close to open and from open to close, `[T, A]` each.

    Args:
      shocks: of gap and body, from `bar_shocks`.
      drift: `[T, A]` log of the expected gross simple return of the bar: `E[exp(gap + body)] = exp(drift)`.
      deviation: `[T, A]` standard deviation of the log return of the bar.
      gap_share: share of the bar's variance and growth that falls on the gap, in [0, 1).
    """
    gap_shock, body_shock = shocks
    growth = drift - 0.5 * jnp.square(deviation)
    return gap_share * growth + deviation * gap_shock, (1 - gap_share) * growth + deviation * body_shock


def log_path(gap: jax.Array, body: jax.Array, start_price: jax.Array | float) -> tuple[jax.Array, jax.Array]:
    """Compounds log returns to log open and log close, `[T, A]` each.

    Args:
      gap: `[T, A]` log return from the previous close to the open.
      body: `[T, A]` log return from open to close.
      start_price: price before the first bar, > 0; a number or `[A]`.
    """
    start = jnp.broadcast_to(jnp.log(jnp.asarray(start_price, jnp.float32)), gap.shape)
    log_close = start + jnp.cumsum(gap + body, axis=0)
    return log_close - body, log_close


def bridge_extremes(key: jax.Array, body: jax.Array, deviation: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draws maximum (>= 0) and minimum (<= 0), relative to the open, of a Brownian bridge from 0 to `body`.

    `maximum = (body + sqrt(body^2 + 2 deviation^2 E)) / 2` with E standard exponential. Each extreme has its exact
    distribution given the body; given the body the two are drawn independently, which widens the range a little
    (Parkinson's volatility of such bars is 1.3 % high).

    Args:
      key: consumed.
      body: `[T, A]` log return from open to close.
      deviation: `[T, A]` standard deviation of the diffusion between open and close.

    Reference: Beaglehole, Dybvig, Zhou (1997), Going to extremes, eq. 3.
    """
    up, down = jax.random.exponential(key, (2, *body.shape))
    square, doubled = jnp.square(body), 2 * jnp.square(deviation)
    maximum = 0.5 * (body + jnp.sqrt(square + doubled * up))
    minimum = 0.5 * (body - jnp.sqrt(square + doubled * down))
    return jnp.maximum(maximum, jnp.maximum(body, 0)), jnp.minimum(minimum, jnp.minimum(body, 0))


def business_days(n_bars: int) -> dict[str, jax.Array]:
    """Calendar fields of `MarketData` for daily bars on weekdays; bar 0 is a Monday and there are no holidays."""
    bar = jnp.arange(n_bars, dtype=jnp.int32)
    days = jnp.where(bar % 5 == 0, 3, 1) * (bar > 0)
    return {
        "minute_of_day": jnp.zeros(n_bars, jnp.int32),
        "session": bar,
        "day_of_week": bar % 5,
        "seconds_since_previous": (days * SECONDS_PER_DAY).astype(jnp.float32),
    }


def daily_market(
    key: jax.Array,
    log_open: jax.Array,
    log_close: jax.Array,
    body_deviation: jax.Array,
    volume_normals: jax.Array,
    levels: Levels,
) -> MarketData:
    """Builds a complete daily market around a path of log opens and log closes.

    Args:
      key: consumed.
      log_open: `[T, A]`.
      log_close: `[T, A]`.
      body_deviation: `[T, A]` standard deviation of the diffusion between open and close, for the highs and lows.
      volume_normals: `[T, A]` standardised log volumes.
      levels: of spreads and volumes.
    """
    maximum, minimum = bridge_extremes(key, log_close - log_open, body_deviation)
    open_, close = jnp.exp(log_open), jnp.exp(log_close)
    shape = open_.shape
    return MarketData(
        open=open_,
        high=jnp.maximum(jnp.exp(log_open + maximum), jnp.maximum(open_, close)),
        low=jnp.minimum(jnp.exp(log_open + minimum), jnp.minimum(open_, close)),
        close=close,
        volume=jnp.exp(jnp.log(levels.median_volume) + levels.volume_deviation * volume_normals),
        half_spread=jnp.broadcast_to(jnp.asarray(levels.half_spread, jnp.float32), shape),
        tradable=jnp.ones(shape, bool),
        volume_known=jnp.ones(shape[1], bool),
        **business_days(shape[0]),
    )
