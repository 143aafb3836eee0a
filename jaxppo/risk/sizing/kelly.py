"""Fractional Kelly sizing of several assets, with what estimation errors leave of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxppo.envs.execution.portfolio import Portfolio
from jaxppo.envs.market.index import own_returns
from jaxppo.envs.trading.view import MarketView
from jaxppo.risk.sizing.estimation import kan_zhou_scale, ledoit_wolf, sample_covariance, shrunk_mean, solve
from jaxppo.risk.sizing.transform import SizingTransform, scaling


def kelly(
    fraction: float = 0.5,
    *,
    window: int = 504,
    every: int = 1,
    shrink_mean: bool = True,
    shrink_covariance: bool = True,
    scale: Literal["none", "known", "unknown"] = "known",
    max_leverage: float = 1.0,
    tolerance: float = 0.1,
    mean: jax.Array | Sequence[float] | None = None,
    covariance: jax.Array | Sequence[Sequence[float]] | None = None,
) -> SizingTransform:
    """Targets are shares of the fractional Kelly position `fraction c C^-1 m`, and its sign is part of it.

    A target of the position limit is the whole of it: `sizes = targets / position_limit * fraction c C^-1 m`, with mean
    `m` and covariance `C` of the simple returns of one bar over the last `window` bars, and the scale `c` of Kan and
    Zhou. There is no position before that many returns are known, nor in assets that have not been listed for that
    long. Without shrinkage and scale this is plain Kelly.

    Args:
      fraction: of the Kelly position, > 0.
      window: bars, >= 2.
      every: bars from one estimate to the next, >= 1; it is held in between.
      shrink_mean: see `shrunk_mean`.
      shrink_covariance: see `ledoit_wolf`; otherwise the sample covariance.
      scale: "none", or `kan_zhou_scale` with the covariance taken as "known" (which suits a shrunk one) or "unknown".
      max_leverage: largest gross exposure of the fractional Kelly position, > 0.
      tolerance: relative change of an asset's factor up to which the last one is kept, >= 0.
      mean: `[A]` simple return per bar; None to estimate it. Given ones are known: nothing is shrunk or scaled.
      covariance: `[A, A]`, likewise; given together with `mean`.

    Raises:
      ValueError: an argument outside its range; later, a market that is not longer than the window.
    """
    if not fraction > 0 or not max_leverage > 0:
        raise ValueError(f"fraction ({fraction}) and max_leverage ({max_leverage}) must be > 0")
    if window < 2 or every < 1:
        raise ValueError(f"window ({window}) must be >= 2 and every ({every}) >= 1")
    if scale not in ("none", "known", "unknown"):
        raise ValueError(f"scale is {scale!r}; it must be 'none', 'known' or 'unknown'")
    if (mean is None) != (covariance is None):
        raise ValueError("mean and covariance must be given together")

    def estimate(returns: jax.Array, included: jax.Array) -> jax.Array:
        """Kelly weights `[A]` of `[window, A]` returns."""
        average = jnp.where(included, returns.mean(axis=0), 0.0)
        shrunk = ledoit_wolf(returns, included)[0] if shrink_covariance else sample_covariance(returns, included)
        weights = solve(shrunk, shrunk_mean(average, shrunk, window, included) if shrink_mean else average)
        if scale != "none":
            squared_sharpe = jnp.maximum(average @ solve(shrunk, average), 0.0)
            known = scale == "known"
            weights = weights * kan_zhou_scale(squared_sharpe, window, jnp.sum(included), known_covariance=known)
        return jnp.where(included, weights, 0.0)

    def table(view: MarketView) -> jax.Array:
        """`[T, A]` factors."""
        n_bars, n_assets = view.market.n_bars, view.market.n_assets
        if mean is not None:
            m, c = jnp.asarray(mean, jnp.float32), jnp.asarray(covariance, jnp.float32)
            if m.shape != (n_assets,) or c.shape != (n_assets, n_assets):
                raise ValueError(f"mean {m.shape} and covariance {c.shape} do not fit {n_assets} assets")
            found = jnp.broadcast_to(solve(c, m), (n_bars, n_assets))
        else:
            found = _held_between(view, window, every, estimate)
        return _within(fraction * found, max_leverage) / view.position_limit

    def factor(own: Any, row: jax.Array, portfolio: Portfolio, targets: jax.Array) -> tuple[jax.Array, Any]:
        return row, own

    return scaling("kelly", table, lambda n_assets: (), factor, tolerance=tolerance, cap=max_leverage)


def _within(weights: jax.Array, max_leverage: float) -> jax.Array:
    """`[T, A]` weights scaled down to a gross exposure."""
    gross = jnp.sum(jnp.abs(weights), axis=-1, keepdims=True)
    return weights * jnp.minimum(1.0, max_leverage / jnp.maximum(gross, max_leverage * 1e-6))


def _held_between(view: MarketView, window: int, every: int, estimate: Any) -> jax.Array:
    """Weights `[T, A]`: those of the last bar `window + k every`, from the returns of the `window` bars up to it."""
    market = view.market
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
