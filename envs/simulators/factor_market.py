"""A market with a known predictable factor, and the best Sharpe ratio that anybody can reach on it."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple, TypedDict, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.market.windows import linear_recurrence
from jaxppo.envs.simulators.bars import DailyBars, Levels, daily_market, log_path

MEDIAN_VOLUME, VOLUME_SCALE = 1e6, 0.5
POLICIES = ("optimal", "linear", "sign")
SMALLEST_FACTOR_RETURN = -0.9
"""The predicted return of a bar is cut off here, far outside of any sensible `strength * volatility`."""


def predictable_factor(
    key: jax.Array,
    n_bars: int,
    n_assets: int = 1,
    *,
    strength: float = 0.1,
    persistence: float = 0.9,
    signal_noise: float = 0.0,
    volatility: float = 0.01,
    volume_scale: float = VOLUME_SCALE,
    **bars: Unpack[FactorBars],
) -> MarketData:
    """Market whose next open-to-close return is predicted by a factor that the volume reveals.

    Each asset has its own factor and its own shocks, independent of the others:

    - factor: `f_{t+1} = persistence * f_t + sqrt(1 - persistence^2) * e_{t+1}`, unit variance, stationary start;
    - signal, known at the close of t: `log volume_t = log median_volume + volume_scale * (f_t + signal_noise * e'_t)`;
    - return from the open to the close of t+1: `E[close_{t+1} / open_{t+1} | f_t] = 1 + strength * volatility * f_t`;
    - gap from the close of t to the open of t+1: expected simple return 0 whatever the factor, so that an order
      decided at the close of t and filled at the open of t+1 misses nothing.

    Holding from the open of t+1 to the open of t+2 earns `strength * volatility * f_t` on average, with volatility
    `volatility` in log terms.

    Args:
      key: consumed.
      n_bars: T, static.
      n_assets: A, static.
      strength: expected return in units of `volatility` for a factor of 1; about the per-bar Sharpe ratio.
      persistence: of the factor per bar, in [0, 1).
      signal_noise: standard deviation of the noise in the signal, in units of the factor's, >= 0.
      volatility: standard deviation of the log return per bar, > 0.
      volume_scale: deviation of the log volume for a factor of 1, > 0.
      **bars: `gap_share`, `start_price`, `half_spread`, `median_volume`: fields of `DailyBars`; the half-spread is 0 by
        default, so that the Sharpe ratio before costs can be earned.
    """
    given: FactorBars = {"half_spread": 0.0, **bars}
    daily = DailyBars(**given, volume_deviation=volume_scale)
    model = _Model(strength, persistence, signal_noise, volatility, daily.gap_share)
    return _with_factor(key, n_bars, n_assets, model, daily.start_price, daily.levels)[0]


class FactorBars(TypedDict, total=False):
    """Fields of `DailyBars` that `predictable_factor` takes."""

    gap_share: jax.Array | float
    start_price: jax.Array | float
    half_spread: jax.Array | float
    median_volume: jax.Array | float


class _Model(NamedTuple):
    """Parameters of `predictable_factor` but for sizes and levels."""

    strength: float
    persistence: float
    signal_noise: float
    volatility: float
    gap_share: jax.Array | float


@functools.partial(jax.jit, static_argnames=("n_bars", "n_assets"))
def _with_factor(
    key: jax.Array, n_bars: int, n_assets: int, model: _Model, start_price: jax.Array | float, levels: Levels
) -> tuple[MarketData, jax.Array]:
    """The market of `predictable_factor` and its factor `[T, A]`, whose row t predicts the body of bar t+1."""
    shape, persistence = (n_bars, n_assets), model.persistence
    normal_key, start_key, extremes_key = jax.random.split(key, 3)
    for_factor, for_noise, for_gap, for_body = jax.random.normal(normal_key, (4, *shape))
    start = jax.random.normal(start_key, (1, n_assets))
    factor = linear_recurrence(persistence, jnp.concatenate([start, jnp.sqrt(1 - persistence**2) * for_factor]))
    before, factor = factor[:-1], factor[1:]
    signal = factor + model.signal_noise * for_noise
    predicted = model.strength * before
    returns = gap_and_predicted_body((for_gap, for_body), predicted, model.volatility, model.gap_share)
    deviation = jnp.broadcast_to(jnp.sqrt(1 - model.gap_share) * model.volatility, shape)
    return daily_market(extremes_key, *log_path(*returns, start_price), deviation, signal, levels), factor


def revealed_factor(
    market: MarketData, *, median_volume: float = MEDIAN_VOLUME, volume_scale: float = VOLUME_SCALE
) -> jax.Array:
    """Reads the signal `[T, A]` in the volumes of `predictable_factor`, known at each close; without noise the factor.

    Args:
      market: `[T, A]`, of `predictable_factor`.
      median_volume: the market's, shares.
      volume_scale: the market's deviation of the log volume for a factor of 1.
    """
    return (jnp.log(market.volume) - math.log(median_volume)) / volume_scale


def gap_and_predicted_body(
    normals: tuple[jax.Array, jax.Array], predicted: jax.Array, volatility: float, gap_share: jax.Array | float
) -> tuple[jax.Array, jax.Array]:
    """Log returns from close to open, of expected simple return 0, and from open to close, `[T, A]` each.

    Args:
      normals: independent standard normals `[T, A]` of the gap and of the body.
      predicted: `[T, A]` expected simple return of the body, in units of `volatility`.
      volatility: standard deviation of the log return per bar.
      gap_share: share of the variance that falls on the gap.
    """
    for_gap, for_body = normals
    gap_deviation, body_deviation = jnp.sqrt(gap_share) * volatility, jnp.sqrt(1 - gap_share) * volatility
    drift = jnp.log1p(jnp.maximum(volatility * predicted, SMALLEST_FACTOR_RETURN))
    gap = gap_deviation * for_gap - 0.5 * gap_deviation**2
    return gap, drift + body_deviation * for_body - 0.5 * body_deviation**2


def filter_variance(persistence: float, signal_noise: float) -> float:
    """Variance of the factor given the volumes up to and including t, in steady state; in [0, 1).

    The positive root P of `phi^2 P^2 + (1 - phi^2)(1 + n^2) P - n^2 (1 - phi^2) = 0`, the fixed point of the Kalman
    filter: predicted variance `M = phi^2 P + 1 - phi^2`, updated `P = n^2 M / (n^2 + M)`.

    Args:
      persistence: phi, in [0, 1).
      signal_noise: n, >= 0.
    """
    fresh, noise = 1 - persistence**2, signal_noise**2
    linear = fresh * (1 + noise)
    return 2 * noise * fresh / (linear + math.sqrt(linear**2 + 4 * persistence**2 * noise * fresh))


def predictable_factor_sharpe(
    strength: float,
    persistence: float = 0.9,
    signal_noise: float = 0.0,
    *,
    volatility: float = 0.01,
    n_assets: int = 1,
    policy: str = "linear",
) -> float:
    """Sharpe ratio per bar, before costs, of following the filtered factor of `predictable_factor`.

    At the close of t the factor is `f ~ N(g, P)` given the volumes seen, with `P = filter_variance(...)` and
    `g ~ N(0, 1 - P)`. With `a = strength * volatility` and `v = exp(volatility^2) - 1`, the simple return R from the
    open of t+1 to the open of t+2 has

        E[R | g] = a g,      E[R^2 | g] = v (1 + 2 a g + a^2 (g^2 + P)) + a^2 (g^2 + P),

    and a position w(g), as a fraction of equity, has the Sharpe ratio `E[w R] / sqrt(E[w^2 R^2] - E[w R]^2)`:

    - `linear`, w = g: `a k / sqrt(v (k + a^2 (3 k^2 + P k)) + a^2 (2 k^2 + P k))` with `k = 1 - P`;
    - `sign`, w = sign(g), for agents that are all in or all out: `m / sqrt(v (1 + a^2) + a^2 - m^2)`,
      `m = a sqrt(2 k / pi)`;
    - `optimal`, the maximum over all w: `w = E[R|g] / E[R^2|g]`, Sharpe ratio `sqrt(B / (1 - B))` with
      `B = E[E[R|g]^2 / E[R^2|g]]` (numerical quadrature). It exceeds `linear` by a factor of about `1 + 3 strength^4`.

    Args:
      strength: expected return in units of `volatility` for a factor of 1.
      persistence: of the factor per bar, in [0, 1).
      signal_noise: standard deviation of the noise in the signal, >= 0.
      volatility: standard deviation of the log return per bar, > 0.
      n_assets: independent assets, each traded by the same policy; the ratio grows with their square root
        (for `optimal` this is the best of the policies that treat the assets separately).
      policy: `linear`, `sign` or `optimal`.

    Returns:
      Sharpe ratio per bar; times `sqrt(bars per year)` per year.

    Raises:
      ValueError: an unknown policy, or a parameter out of range.

    Reference: Kalman (1960); Ferson, Siegel (2001), The efficient use of conditioning information, for `optimal`.
    """
    if policy not in POLICIES:
        raise ValueError(f"unknown policy {policy!r}; the policies are {', '.join(POLICIES)}")
    if not (0 <= persistence < 1 and signal_noise >= 0 and volatility > 0 and n_assets >= 1):
        raise ValueError(
            "need 0 <= persistence < 1, signal_noise >= 0, volatility > 0 and n_assets >= 1, got "
            f"{persistence}, {signal_noise}, {volatility} and {n_assets}"
        )
    unknown = filter_variance(persistence, signal_noise)
    seen = 1 - unknown
    scale, variance = strength * volatility, math.expm1(volatility**2)
    if policy == "sign":
        mean = scale * math.sqrt(2 * seen / math.pi)
        ratio = mean / math.sqrt(variance * (1 + scale**2) + scale**2 - mean**2)
    elif policy == "linear":
        fourth = scale**2 * (3 * seen**2 + unknown * seen)
        ratio = scale * seen / math.sqrt(variance * (seen + fourth) + fourth - (scale * seen) ** 2)
    else:
        nodes, weights = np.polynomial.hermite_e.hermegauss(80)
        filtered = math.sqrt(seen) * nodes
        square = scale**2 * (filtered**2 + unknown)
        second = variance * (1 + 2 * scale * filtered + square) + square
        share = float(np.sum(weights * (scale * filtered) ** 2 / second) / np.sum(weights))
        ratio = math.copysign(math.sqrt(share / (1 - share)), strength)
    return ratio * math.sqrt(n_assets)
