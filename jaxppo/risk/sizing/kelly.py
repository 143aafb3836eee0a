"""Fractional Kelly sizing of several assets, corrected for estimation errors."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxppo.arguments import AtLeastTwo, CodeOnly, PositiveInt, PositiveRatio, ProperFraction, checked
from jaxppo.envs.execution.portfolio import Portfolio
from jaxppo.envs.market import streaming
from jaxppo.envs.market.index import own_returns
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.market.precision import matmul
from jaxppo.envs.market.rows import newest, running_count
from jaxppo.envs.market.windows import shift
from jaxppo.envs.trading.transform import SizingTransform
from jaxppo.envs.trading.view import MarketView
from jaxppo.risk.sizing.estimation import kan_zhou_scale, ledoit_wolf, sample_covariance, shrunk_mean, solve
from jaxppo.risk.sizing.transform import scaling


@checked
def kelly(
    fraction: PositiveRatio = 0.5,
    *,
    window: AtLeastTwo = 504,
    every: PositiveInt = 1,
    shrink: Literal["none", "mean", "covariance", "both"] = "both",
    scale: Literal["none", "known", "unknown"] = "known",
    max_leverage: PositiveRatio = 1.0,
    tolerance: ProperFraction = 0.1,
    moments: CodeOnly[tuple[Any, Any] | None] = None,
) -> SizingTransform:
    """Reads targets as shares of the fractional Kelly position, whose sign counts: the position limit is all of it.

    `sizes = targets / position_limit * fraction c C^-1 m`, with mean `m`
    and covariance `C` of the simple returns of one bar over the last `window` bars, and the scale `c` of Kan and Zhou.
    There is no position before that many returns are known, nor in assets that have not been listed for that long.
    Without shrinkage and scale this is plain Kelly.

    Args:
      fraction: share of the Kelly position that the largest target takes.
      window: bars that mean and covariance are estimated from; no position before there are as many.
      every: bars from one estimate to the next, which holds in between.
      shrink: which estimates are shrunk: means towards the mean of all (James-Stein), the covariance towards a multiple
        of the identity (Ledoit-Wolf), both or none.
      scale: Kan and Zhou's scale for estimation errors, with the covariance taken as known (which suits a shrunk one)
        or as unknown; or none.
      max_leverage: largest gross exposure of the fractional Kelly position, multiple of equity.
      tolerance: relative change of an asset's factor that is not traded.
      moments: known mean `[A]` and covariance `[A, A]` of the simple returns of one bar, of which nothing is shrunk or
        scaled; None to estimate them.

    Raises:
      ValueError: an argument outside its range; later, a market that is not longer than the window.
    """
    shrinks_mean, shrinks_covariance = shrink in ("mean", "both"), shrink in ("covariance", "both")

    def estimate(returns: jax.Array, included: jax.Array) -> jax.Array:
        """Kelly weights `[A]` of `[window, A]` returns."""
        average = jnp.where(included, returns.mean(axis=0), 0.0)
        shrunk = ledoit_wolf(returns, included)[0] if shrinks_covariance else sample_covariance(returns, included)
        weights = solve(shrunk, shrunk_mean(average, shrunk, window, included) if shrinks_mean else average)
        if scale != "none":
            squared_sharpe = jnp.maximum(matmul(average, solve(shrunk, average)), 0.0)
            known = scale == "known"
            weights = weights * kan_zhou_scale(squared_sharpe, window, jnp.sum(included), known_covariance=known)
        return jnp.where(included, weights, 0.0)

    def table(view: MarketView) -> jax.Array:
        """`[T, A]` factors."""
        n_bars, n_assets = view.market.n_bars, view.market.n_assets
        if moments is not None:
            mean, covariance = (jnp.asarray(moment, jnp.float32) for moment in moments)
            if mean.shape != (n_assets,) or covariance.shape != (n_assets, n_assets):
                raise ValueError(f"mean {mean.shape} and covariance {covariance.shape} do not fit {n_assets} assets")
            found = jnp.broadcast_to(solve(covariance, mean), (n_bars, n_assets))
        else:
            found = _held_between(view, window, every, estimate)
        return _capped(fraction * found, max_leverage) / view.position_limit

    def factor(state: Any, row: jax.Array, portfolio: Portfolio, targets: jax.Array) -> tuple[jax.Array, Any]:
        return row, state

    warmup = window if moments is None else 0
    return scaling("kelly", table, factor, warmup=warmup, tolerance=tolerance, cap=max_leverage)


def _capped(weights: jax.Array, max_leverage: float) -> jax.Array:
    """Scales `[T, A]` weights down to a gross exposure."""
    gross = jnp.sum(jnp.abs(weights), axis=-1, keepdims=True)
    return weights * jnp.minimum(1.0, max_leverage / jnp.maximum(gross, max_leverage * 1e-6))


def _held_between(view: MarketView, window: int, every: int, estimate: Any) -> jax.Array:
    """Estimates weights `[T, A]` at the bars `window + k every`, from the returns of the `window` bars up to each."""
    market = view.market
    if streaming.current() is not None:
        return _held_in_stream(market, window, every, estimate)
    if market.n_bars <= window:
        raise ValueError(f"window is {window} bars; the market has {market.n_bars} and needs at least one more")
    returns, _ = own_returns(market)
    listed = jnp.cumsum(market.tradable, axis=0) > 0
    bars = jnp.arange(window, market.n_bars, every)

    def one(bar: jax.Array) -> jax.Array:
        included = listed[bar - window]
        last = jax.lax.dynamic_slice_in_dim(returns, bar - window + 1, window)
        return estimate(jnp.where(included[None], last, 0.0), included)

    found = jax.lax.map(one, bars)
    rows = jnp.arange(market.n_bars)
    held = found[jnp.clip((rows - window) // every, 0, bars.shape[0] - 1)]
    return jnp.where((rows >= window)[:, None], held, 0.0)


def _held_in_stream(market: MarketData, window: int, every: int, estimate: Any) -> jax.Array:
    """`_held_between` of the newest row, `[1, A]`."""
    stream = streaming.current()
    assert stream is not None
    last = newest(own_returns(market)[0], window)
    included = shift(running_count(market.tradable) > 0, window)[0]
    since = stream.axis.before - window

    def update(held: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = jax.lax.cond(
            (since >= 0) & (since % every == 0),
            lambda: estimate(jnp.where(included[None], last, 0.0), included)[None],
            lambda: held,
        )
        return found, found

    return stream.remember((1, market.n_assets), jnp.float32, update)
