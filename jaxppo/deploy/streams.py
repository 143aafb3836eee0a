"""What can be computed bar by bar: refuses parts of a run that cannot, before anything is traded on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.envs.market.market_data import PER_ASSET, MarketData, slice_bars
from jaxppo.envs.market.streaming import streamed
from jaxppo.envs.trading.view import MarketView
from jaxppo.errors import ConfigError
from jaxppo.run.setup import Setup

COMPARED = 256
"""Bars, after the first decision, over which tables of a user's own code are compared."""
TOLERANCE = 1e-3
"""Relative difference up to which they are the same."""


def check_streams(setup: Setup) -> None:
    """Refuses what cannot be known from a memory of constant size.

    Args:
      setup: of the run.

    Raises:
      ConfigError: a part that learns from all prices so far, or prices converted by a column of rates.
    """
    config = setup.config
    base = config.policy.base
    named = [("policy.base", None if base is None else base.kind)]
    for number, item in enumerate(config.sizing):
        strategies = item.values.strategies if item.kind == "book" else ()
        named += [(f"sizing[{number}].book.strategies[{i}]", one.kind) for i, one in enumerate(strategies)]
    for key, kind in named:
        if kind == "feature_portfolios":
            raise ConfigError(f"{key} is feature_portfolios, which is fitted on all prices so far; it cannot be live")
    if setup.env.fill_rule.exits:
        raise ConfigError(
            "exits closes positions inside a bar, and a live policy decides at closes; train without them, and leave "
            "such orders with the broker"
        )
    if config.data.rate_column is not None:
        raise ConfigError("data.rate_column converts prices; a live policy needs prices in the currency of the account")


def check_own_base(setup: Setup) -> None:
    """Refuses a base of the user's own code whose table is another one when bars come one by one.

    Args:
      setup: of the run.

    Raises:
      ConfigError: the first bar at which it is.
    """
    base, sizing = setup.config.policy.base, setup.env.sizing
    if base is None or base.kind != "function" or sizing is None:
        return
    part = next(part for part in sizing.parts if part.name == "base")
    first = setup.env.first_decision
    market = slice_bars(setup.market, 0, min(setup.market.n_bars, first + COMPARED))

    def table(market: MarketData) -> Any:
        return part.table(MarketView(market, setup.periods_per_year, setup.env.position_limit)).policy

    whole = table(market)
    try:
        rows = row_by_row(table, market)
    except (TypeError, ValueError, IndexError, jax.errors.JAXTypeError) as error:
        why = str(error).split("\n")[0]
        raise ConfigError(f"policy.base {base.values.path}: its table cannot be computed bar by bar: {why}") from None
    for ours, theirs in zip(jax.tree.leaves(rows), jax.tree.leaves(whole), strict=True):
        ours, theirs = (np.asarray(x, np.float64)[first:] for x in (ours, theirs))
        same = np.isclose(ours, theirs, TOLERANCE, TOLERANCE * 1e-2, equal_nan=True)
        if not same.all():
            bar = first + int(np.argwhere(~same)[0][0])
            raise ConfigError(
                f"policy.base {base.values.path}: at bar {bar} its table is another one when bars come one by one; "
                "look along time with jaxppo.envs.market.windows and own_bars alone"
            )


def row_by_row(function: Callable[[MarketData], Any], market: MarketData) -> Any:
    """Calls a function of tables with one bar after the other.

    Args:
      function: `MarketData -> pytree` with leading axis T.
      market: `[T, A]` bars, unbatched.

    Returns:
      What `function(market)` returns, if `jaxppo.envs.market.streaming` knows of everything in it that remembers.
    """
    first, step = streamed(function)
    names = [name for name, x in vars(market).items() if name not in PER_ASSET and not isinstance(x, tuple)]
    tables = jax.tree.map(lambda x: x[:, None], {name: getattr(market, name) for name in names})
    memory = first(market.replace(**jax.tree.map(lambda x: x[0], tables)))

    def one(memory: Any, numbered: Any) -> tuple[Any, Any]:
        number, row = numbered
        found, memory = step(memory, number, market.replace(**row))
        return memory, jax.tree.map(lambda x: x[0], found)

    numbers = jnp.arange(market.n_bars, dtype=jnp.int32)
    return jax.jit(lambda memory, rows: jax.lax.scan(one, memory, rows)[1])(memory, (numbers, tables))
