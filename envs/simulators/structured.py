"""Markets with one known source of predictability: volumes far back in time, or the return of another asset."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.simulators.bars import Levels, daily_market, log_path
from jaxppo.envs.simulators.factor_market import gap_and_predicted_body

GAP_SHARE = 0.2
LEVELS = Levels(half_spread=0.0, median_volume=1e6, volume_deviation=0.5)


@functools.partial(jax.jit, static_argnames=("n_bars", "n_assets", "delay", "span"))
def delayed_signal(
    key: jax.Array,
    n_bars: int,
    n_assets: int = 1,
    *,
    delay: int = 30,
    span: int = 10,
    strength: float = 0.2,
    volatility: float = 0.01,
) -> tuple[MarketData, jax.Array]:
    """Market whose returns are predicted by volumes of long ago, and by nothing else.

    Log volumes are independent over bars and assets, `log volume_t = log 1e6 + 0.5 x_t`. The expected simple return
    from the open to the close of t+1 is `strength volatility s_t` with `s_t = (x_{t-delay-span+1} + .. + x_{t-delay}) /
    sqrt(span)`; gaps have expected return 0. The half-spread is 0.

    Args:
      key: consumed.
      n_bars: T, static.
      n_assets: A, static; independent.
      delay: bars from the last volume that counts to the decision, >= 0, static.
      span: volumes that count, >= 1, static.
      strength: expected return in units of `volatility` for a signal of 1; about the best Sharpe ratio per bar.
      volatility: standard deviation of the log return per bar, > 0.

    Returns:
      The market, and the signal s `[T, A]`, standard normal, known at each close.
    """
    normals_key, volume_key, extremes_key = jax.random.split(key, 3)
    normals = tuple(jax.random.normal(normals_key, (2, n_bars, n_assets)))
    x = jax.random.normal(volume_key, (delay + span + n_bars, n_assets))
    total = jnp.cumsum(jnp.concatenate([jnp.zeros((1, n_assets)), x]), axis=0)
    # Row i of `sums` covers the `span` volumes from i on; the first predicts bar 0.
    sums = (total[span:] - total[:-span]) / span**0.5
    predicting = sums[: n_bars + 1]
    market = _market(extremes_key, normals, strength * predicting[:-1], volatility, x[delay + span :])
    return market, predicting[1:]


@functools.partial(jax.jit, static_argnames=("n_bars", "n_assets"))
def lead_lag(
    key: jax.Array, n_bars: int, n_assets: int = 3, *, strength: float = 0.2, volatility: float = 0.01
) -> tuple[MarketData, jax.Array]:
    """Market in which the return of the first asset predicts that of all others one bar later, and nothing else does.

    With `s_t` the standardised log return of the first asset from the close of t-1 to the close of t, the expected
    simple return of the others from the open to the close of t+1 is `strength volatility s_t`. The half-spread is 0.

    Args:
      key: consumed.
      n_bars: T, static.
      n_assets: A >= 2, static.
      strength: expected return in units of `volatility` for a leader's move of one standard deviation.
      volatility: standard deviation of the log return per bar, > 0.

    Returns:
      The market, and the signal s `[T, A]`, standard normal, known at each close; 0 for the first asset.
    """
    normals_key, volume_key, extremes_key = jax.random.split(key, 3)
    for_gap, for_body = jax.random.normal(normals_key, (2, n_bars, n_assets))
    leader = (GAP_SHARE**0.5 * for_gap + (1 - GAP_SHARE) ** 0.5 * for_body)[:, :1]
    follows = jnp.arange(n_assets)[None] > 0
    signal = jnp.where(follows, leader, 0.0)
    predicted = strength * jnp.concatenate([jnp.zeros_like(signal[:1]), signal[:-1]])
    x = jax.random.normal(volume_key, (n_bars, n_assets))
    return _market(extremes_key, (for_gap, for_body), predicted, volatility, x), signal


def _market(
    key: jax.Array, normals: tuple[jax.Array, jax.Array], predicted: jax.Array, volatility: float, x: jax.Array
) -> MarketData:
    """Market with predicted bodies `[T, A]`, in units of `volatility`, and standardised log volumes x `[T, A]`."""
    returns = gap_and_predicted_body(normals, predicted, volatility, GAP_SHARE)
    deviation = jnp.broadcast_to((1 - GAP_SHARE) ** 0.5 * volatility, x.shape)
    return daily_market(key, *log_path(*returns, 100.0), deviation, x, LEVELS)
