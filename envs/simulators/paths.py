"""Generative markets: `simulators.<name>(key, n_bars, ...) -> MarketData`.

All of them are compiled with static `n_bars` and `n_assets` (every other argument is traced), can be `vmap`ped over the
key, and speak **per bar**: a volatility of 0.01 is 1 % a bar, about 16 % a year for daily bars. Bars are weekdays, the
first a Monday. A `drift` is the log of the expected gross *simple* return, `E[close_{t+1} / close_t] = exp(drift)`, so
drift 0 makes the price itself, not its logarithm, a martingale.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Unpack

import jax
import jax.numpy as jnp

from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.market.windows import linear_recurrence
from jaxppo.envs.simulators.bars import (
    BarOptions,
    DailyBars,
    bar_shocks,
    correlate,
    daily_market,
    gap_and_body,
    log_path,
)
from jaxppo.envs.simulators.markov import markov_path, stationary_law

__all__ = ["gbm", "ornstein_uhlenbeck", "regime_switching", "stochastic_volatility_jumps"]

COMMON_ARGS = """key: consumed.
n_bars: T, static.
n_assets: A, static.
correlation: of the return shocks, one number in (-1 / (A - 1), 1) or a positive definite `[A, A]` matrix.
**bars: `gap_share`, `start_price`, `half_spread`, `median_volume`, `volume_deviation`: fields of `DailyBars`."""
"""Arguments of every simulator; `{common}` stands for them in the docstrings."""


def _simulator(function: Callable[..., MarketData]) -> Callable[..., MarketData]:
    """Compiles a generative market with static sizes, and completes its docstring."""
    common = COMMON_ARGS.replace("\n", "\n  ")
    function.__doc__ = inspect.cleandoc(function.__doc__ or "").replace("{common}", common)
    return jax.jit(function, static_argnames=("n_bars", "n_assets"))


def _per_bar(x: jax.Array | float, shape: tuple[int, int]) -> jax.Array:
    """A number or `[A]` as `[T, A]`."""
    return jnp.broadcast_to(jnp.asarray(x, jnp.float32), shape)


@_simulator
def gbm(
    key: jax.Array,
    n_bars: int,
    n_assets: int = 1,
    *,
    drift: jax.Array | float = 0.0,
    volatility: jax.Array | float = 0.01,
    correlation: jax.Array | float = 0.0,
    **bars: Unpack[BarOptions],
) -> MarketData:
    """Geometric Brownian motion: `log(close_{t+1} / close_t) ~ N(drift - volatility^2 / 2, volatility^2)`.

    Example:
      >>> import jax
      >>> from jaxppo.envs import simulators
      >>> simulators.gbm(jax.random.key(0), n_bars=250, n_assets=2, volatility=0.01, correlation=0.5)
      MarketData(250 bars x 2 assets)

    Args:
      drift: log of the expected gross return per bar; a number or `[A]`.
      volatility: standard deviation of the log return per bar, >= 0; a number or `[A]`.
      {common}
    """
    shape, daily = (n_bars, n_assets), DailyBars(**bars)
    normal_key, extremes_key = jax.random.split(key)
    for_gap, for_body, for_volume = jax.random.normal(normal_key, (3, *shape))
    deviation = _per_bar(volatility, shape)
    shocks = bar_shocks(for_gap, for_body, correlation, daily.gap_share)
    returns = gap_and_body(shocks, _per_bar(drift, shape), deviation, daily.gap_share)
    body_deviation = jnp.sqrt(1 - daily.gap_share) * deviation
    return daily_market(extremes_key, *log_path(*returns, daily.start_price), body_deviation, for_volume, daily.levels)


@_simulator
def ornstein_uhlenbeck(
    key: jax.Array,
    n_bars: int,
    n_assets: int = 1,
    *,
    reversion: jax.Array | float = 0.02,
    volatility: jax.Array | float = 0.01,
    correlation: jax.Array | float = 0.0,
    **bars: Unpack[BarOptions],
) -> MarketData:
    """Mean-reverting log price: `dX = -reversion * X dt + volatility dB`, `price = start_price * exp(X)`, dt in bars.

    Sampled from the exact transition law over the gap (`gap_share` of a bar) and the rest of the bar, and started in
    the stationary law `N(0, volatility^2 / (2 reversion))` around `start_price`; half-life `log(2) / reversion` bars.
    The highs and lows take the diffusion inside a bar as Brownian.

    Args:
      reversion: per bar, > 0; a number or `[A]`.
      volatility: standard deviation of the diffusion per bar, >= 0; a number or `[A]`.
      {common}

    Reference: Glasserman (2003), Monte Carlo Methods in Financial Engineering, eq. 3.40.
    """
    shape, daily = (n_bars, n_assets), DailyBars(**bars)
    normal_key, start_key, extremes_key = jax.random.split(key, 3)
    for_gap, for_body, for_volume = jax.random.normal(normal_key, (3, *shape))
    reversion, volatility = _per_bar(reversion, (1, n_assets)), _per_bar(volatility, (1, n_assets))
    stationary = volatility / jnp.sqrt(2 * reversion)
    gap_deviation = stationary * jnp.sqrt(-jnp.expm1(-2 * reversion * daily.gap_share))
    body_deviation = stationary * jnp.sqrt(-jnp.expm1(-2 * reversion * (1 - daily.gap_share)))
    gap_shock = gap_deviation * correlate(for_gap, correlation)
    body_shock = body_deviation * correlate(for_body, correlation)
    start = stationary * correlate(jax.random.normal(start_key, (1, n_assets)), correlation)
    drive = jnp.exp(-reversion * (1 - daily.gap_share)) * gap_shock + body_shock
    drive = drive.at[0].add((jnp.exp(-reversion) * start)[0])
    close_level = linear_recurrence(jnp.exp(-reversion), drive)
    previous = jnp.concatenate([start, close_level[:-1]])
    open_level = jnp.exp(-reversion * daily.gap_share) * previous + gap_shock
    centre = jnp.broadcast_to(jnp.log(jnp.asarray(daily.start_price, jnp.float32)), shape)
    deviation = jnp.broadcast_to(body_deviation, shape)
    return daily_market(extremes_key, centre + open_level, centre + close_level, deviation, for_volume, daily.levels)


@_simulator
def regime_switching(
    key: jax.Array,
    n_bars: int,
    n_assets: int = 1,
    *,
    drifts: Sequence[float] | jax.Array = (0.0006, -0.001),
    volatilities: Sequence[float] | jax.Array = (0.008, 0.02),
    transition: Sequence[Sequence[float]] | jax.Array = ((0.99, 0.01), (0.03, 0.97)),
    correlation: jax.Array | float = 0.3,
    **bars: Unpack[BarOptions],
) -> MarketData:
    """Markov-switching Gaussian returns; all assets share the regime, which starts in its stationary law.

    Args:
      drifts: `[S]` log of the expected gross return per bar in each regime.
      volatilities: `[S]` standard deviation of the log return per bar in each regime, >= 0.
      transition: `[S, S]` probability of the next bar's regime (column) given this bar's (row); rows sum to 1 and every
        regime can be reached from every other.
      {common}

    Reference: Hamilton (1989), A new approach to the economic analysis of nonstationary time series.
    """
    shape, daily = (n_bars, n_assets), DailyBars(**bars)
    regime_key, normal_key, extremes_key = jax.random.split(key, 3)
    for_gap, for_body, for_volume = jax.random.normal(normal_key, (3, *shape))
    transition = jnp.asarray(transition, jnp.float32)
    regime = markov_path(regime_key, n_bars, stationary_law(transition), transition)
    drift, deviation = (
        jnp.broadcast_to(jnp.asarray(values, jnp.float32)[regime][:, None], shape) for values in (drifts, volatilities)
    )
    shocks = bar_shocks(for_gap, for_body, correlation, daily.gap_share)
    returns = gap_and_body(shocks, drift, deviation, daily.gap_share)
    body_deviation = jnp.sqrt(1 - daily.gap_share) * deviation
    return daily_market(extremes_key, *log_path(*returns, daily.start_price), body_deviation, for_volume, daily.levels)


@_simulator
def stochastic_volatility_jumps(
    key: jax.Array,
    n_bars: int,
    n_assets: int = 1,
    *,
    drift: jax.Array | float = 0.0,
    volatility: jax.Array | float = 0.01,
    reversion: float = 0.03,
    volatility_of_variance: float = 0.0015,
    leverage: float = -0.6,
    jump_rate: float = 0.01,
    jump_mean: float = -0.02,
    jump_deviation: float = 0.03,
    correlation: jax.Array | float = 0.3,
    **bars: Unpack[BarOptions],
) -> MarketData:
    """Heston variance per asset, stepped bar by bar, plus lognormal jumps in the opening gap (Bates).

    `v_{t+1} = v_t + reversion (volatility^2 - v_t^+) + volatility_of_variance sqrt(v_t^+) z_t` (full truncation); the
    log return of the bar is `N(., v_t^+)` and its shock has correlation `leverage` with z. At most one jump a bar, with
    probability `jump_rate` and log size `N(jump_mean, jump_deviation^2)`; its expectation is taken out of the drift, so
    `E[close_{t+1} / close_t] = exp(drift)` exactly.

    Args:
      drift: log of the expected gross return per bar; a number or `[A]`.
      volatility: square root of the long-run variance per bar, > 0, jumps apart; a number or `[A]`.
      reversion: of the variance, per bar, in (0, 1).
      volatility_of_variance: per bar, >= 0; the variance keeps away from 0 for about `2 reversion volatility^2 >
        volatility_of_variance^2`.
      leverage: in [-1, 1].
      jump_rate: in [0, 1).
      jump_mean: log return of a jump.
      jump_deviation: standard deviation of the log size of a jump, >= 0.
      {common}

    Reference: Bates (1996), Jumps and stochastic volatility; Lord, Koekkoek, van Dijk (2010), A comparison of biased
    simulation schemes for stochastic volatility models (full truncation).
    """
    shape, daily = (n_bars, n_assets), DailyBars(**bars)
    normal_key, jump_key, extremes_key = jax.random.split(key, 3)
    for_gap, for_body, for_variance, for_size, for_volume = jax.random.normal(normal_key, (5, *shape))
    shocks = bar_shocks(for_gap, for_body, correlation, daily.gap_share)
    variance_shock = leverage * (shocks[0] + shocks[1]) + jnp.sqrt(1 - leverage**2) * for_variance
    long_run = jnp.square(_per_bar(volatility, (1, n_assets)))[0]

    def step(variance: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        positive = jnp.maximum(variance, 0)
        moved = variance + reversion * (long_run - positive) + volatility_of_variance * jnp.sqrt(positive) * z
        return moved, positive

    _, variance = jax.lax.scan(step, long_run, variance_shock)
    jumps = jax.random.bernoulli(jump_key, jump_rate, shape)
    size = jump_mean + jump_deviation * for_size
    compensator = jnp.log1p(jump_rate * jnp.expm1(jump_mean + 0.5 * jump_deviation**2))
    gap, body = gap_and_body(shocks, _per_bar(drift, shape), jnp.sqrt(variance), daily.gap_share)
    returns = gap + jnp.where(jumps, size, 0) - compensator, body
    body_deviation = jnp.sqrt((1 - daily.gap_share) * variance)
    return daily_market(extremes_key, *log_path(*returns, daily.start_price), body_deviation, for_volume, daily.levels)
