"""The check that a function of a market never looks ahead: replace all bars after t, and nothing before may move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.envs.market.market_data import MarketData

REPLACEMENTS = 2
"""Independent random futures that every check tries."""


def randomise_after(market: MarketData, t: int, key: jax.Array) -> MarketData:
    """The market with every field of every bar after t drawn anew, unrelated to what was there; bars <= t untouched.

    Args:
      market: `[T, A]` bars.
      t: last bar to keep, `0 <= t < T - 1`.
      key: consumed.
    """
    names = ("open", "high", "low", "spread", "volume", "tradable", "minute", "session", "weekday", "seconds", "level",
             "carry", "columns")  # fmt: skip
    keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
    shape, bars = market.close.shape, market.close.shape[:1]
    level = 3 * jax.random.normal(keys["level"], shape)
    open_, close = jnp.exp(level), jnp.exp(level + 0.3 * jax.random.normal(keys["open"], shape))
    fresh = {
        "open": open_,
        "close": close,
        "high": jnp.maximum(open_, close) * jnp.exp(jax.random.exponential(keys["high"], shape)),
        "low": jnp.minimum(open_, close) * jnp.exp(-jax.random.exponential(keys["low"], shape)),
        "volume": jnp.exp(5 + 5 * jax.random.normal(keys["volume"], shape)),
        "half_spread": 0.01 * jax.random.exponential(keys["spread"], shape),
        "tradable": jax.random.bernoulli(keys["tradable"], 0.7, shape),
        "minute_of_day": jax.random.randint(keys["minute"], bars, 0, 1440),
        "session": market.session[t] + jnp.cumsum(jax.random.randint(keys["session"], bars, 0, 3)),
        "day_of_week": jax.random.randint(keys["weekday"], bars, 0, 7),
        "seconds_since_previous": 1e5 * jax.random.exponential(keys["seconds"], bars),
    }
    if not isinstance(market.carry, tuple):
        fresh["carry"] = jax.random.normal(keys["carry"], shape)
    fresh["columns"] = jax.tree.map(lambda x: jax.random.normal(keys["columns"], x.shape), market.columns)
    replaced = {
        name: jax.tree.map(
            lambda old, new: jnp.concatenate([old[: t + 1], new[t + 1 :].astype(old.dtype)]),
            getattr(market, name),
            values,
        )
        for name, values in fresh.items()
    }
    return market.replace(**replaced)


def assert_causal(fn: Callable[[MarketData], Any], market: MarketData, t: int, key: jax.Array) -> None:
    """Raises AssertionError unless `fn(market)` at rows <= t is bit-equal whatever happens after t.

    Also raises if nothing after t changes anything in the result: such a check would prove nothing.

    Args:
      fn: market to a pytree of arrays with leading axis T.
      market: `[T, A]` bars.
      t: last bar that is kept, `0 <= t < T - 1`.
      key: consumed.
    """
    expected = jax.tree.map(np.asarray, fn(market))
    moved = False
    for replacement in jax.random.split(key, REPLACEMENTS):
        actual = jax.tree.map(np.asarray, fn(randomise_after(market, t, replacement)))
        for (path, before), after in zip(
            jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(actual), strict=True
        ):
            name = jax.tree_util.keystr(path) or "the result"
            assert before.shape[0] == market.n_bars, f"{name} has no leading time axis: {before.shape}"
            differs = (before != after) & ~((before != before) & (after != after))
            early = np.argwhere(differs[: t + 1])
            assert not len(early), (
                f"{name} looks ahead: {early[0].tolist()} of {len(early)} values changed by bars > {t}"
            )
            moved |= bool(differs[t + 1 :].any())
    assert moved, f"no value after bar {t} depends on the bars after it"
