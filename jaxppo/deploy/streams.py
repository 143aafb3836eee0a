"""What can be computed bar by bar: refuses parts of a run that cannot, before anything is traded on them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.config import Config
from jaxppo.config.items import OWN
from jaxppo.config.own import is_own
from jaxppo.envs.market.market_data import PER_ASSET, MarketData, slice_bars
from jaxppo.envs.market.own_functions import FunctionGroup
from jaxppo.envs.market.streaming import streamed
from jaxppo.envs.trading.view import MarketView
from jaxppo.errors import ConfigError
from jaxppo.own_code import said
from jaxppo.policy.protocol import Policy
from jaxppo.run.own import own_policies, part_of
from jaxppo.run.regimes import find_regimes
from jaxppo.run.setup import Setup

_PAID = "data.{} are paid, and a live policy knows no ex-dates; export a run on adjusted prices"
COMPARED = 256
"""Bars, after the first decision, over which tables of a user's own code are compared."""
TOLERANCE = 1e-3
"""Relative difference up to which they are the same."""


def check_streams(setup: Setup) -> None:
    """Refuses what cannot be known from a memory of constant size, or at the close of a bar.

    Args:
      setup: of the run.

    Raises:
      ConfigError: see `check_configured`, or a market that was given with dividends.
    """
    check_configured(setup.config)
    if not isinstance(setup.market.dividends, tuple):
        raise ConfigError(_PAID.format("dividends"))


def check_configured(config: Config) -> None:
    """`check_streams` of what a configuration alone says.

    Args:
      config: of the run.

    Raises:
      ConfigError: a part that learns from all prices so far, prices converted by a column of rates, dividends, splits,
        exits or limit orders.
    """
    base = config.policy.base
    named = [("policy.base", None if base is None else base.kind)]
    for number, item in enumerate(config.sizing):
        strategies = item.values.strategies if item.kind == "book" else ()
        named += [(f"sizing[{number}].book.strategies[{i}]", one.kind) for i, one in enumerate(strategies)]
    for key, kind in named:
        if kind == "feature_portfolios":
            raise ConfigError(f"{key} is feature_portfolios, which is fitted on all prices so far; it cannot be live")
    if config.data.rate_column is not None:
        raise ConfigError("data.rate_column converts prices; a live policy needs prices in the currency of the account")
    for name in ("splits", "dividends"):
        if getattr(config.data, name) is not None:
            raise ConfigError(_PAID.format(name))
    exits = config.exits
    if not exits.stop_loss is exits.take_profit is exits.trailing_stop is None:
        raise ConfigError(
            "exits closes positions inside a bar, and a live policy decides at closes; train without them, and leave "
            "such orders with the broker"
        )
    if config.limit_orders.offset is not None:
        raise ConfigError(
            f"limit_orders.offset is {config.limit_orders.offset}, and a live policy sends orders at the market alone; "
            "train without limit_orders"
        )


def check_own_streams(setup: Setup) -> None:
    """Refuses own code whose table is another one when bars come one by one.

    Args:
      setup: of the run.

    Raises:
      ConfigError: names the function and the first bar at which it is.
    """
    config, env = setup.config, setup.env
    tables: list[tuple[str, Callable[[MarketView], Any]]] = []
    for group in config.features.function_groups:
        path = (config.features.functions or {})[group.name].function
        tables.append((f"features.functions.{group.name} {path}", partial(_values, group)))
    for key, items, chain in (("masks", config.masks, env.masks), ("sizing", config.sizing, env.sizing)):
        for number, item in enumerate(items):
            if item.kind == OWN:
                tables.append((f"{key}[{number}] {item.label}", part_of(chain, item).table))
    if is_own(config.regimes.kind):
        tables.append((f"regimes.kind {config.regimes.kind}", lambda view: view.regimes))
    tables += [(label, partial(_table, policy)) for label, policy in own_policies(config, traded=True).items()]
    first = env.first_decision
    n_bars = min(setup.market.n_bars, first + COMPARED)
    market = slice_bars(setup.market, 0, n_bars)
    for label, table in tables:

        def of_market(market: MarketData, table: Callable[[MarketView], Any] = table) -> Any:
            found, _ = find_regimes(config.regimes, market, n_bars - 1, config.seed)
            return table(MarketView(market, setup.periods_per_year, env.position_limit, found))

        check_row_by_row(label, of_market, market, first)


def _values(group: FunctionGroup, view: MarketView) -> Any:
    """Raw values of a feature group."""
    return group.values(view.market)


def _table(policy: Policy, view: MarketView) -> Any:
    """Table of a policy."""
    return policy.table(policy.params, view)


def check_row_by_row(label: str, table: Callable[[MarketData], Any], market: MarketData, first: int) -> None:
    """Refuses a function whose rows are others when bars come one by one.

    Args:
      label: name of it.
      table: `MarketData -> pytree` with leading axis T.
      market: `[T, A]` bars.
      first: bar from which rows are compared.

    Raises:
      ConfigError: names it and the first bar.
    """
    whole = table(market)
    try:
        rows = row_by_row(table, market)
    except (TypeError, ValueError, IndexError, jax.errors.JAXTypeError) as error:
        raise ConfigError(f"{label}: its table cannot be computed bar by bar: {said(error)}") from None
    for ours, theirs in zip(jax.tree.leaves(rows), jax.tree.leaves(whole), strict=True):
        ours, theirs = (np.asarray(x, np.float64)[first:] for x in (ours, theirs))
        same = np.isclose(ours, theirs, TOLERANCE, TOLERANCE * 1e-2, equal_nan=True)
        if not same.all():
            bar = first + int(np.argwhere(~same)[0][0])
            raise ConfigError(
                f"{label}: at bar {bar} its table is another one when bars come one by one; look along time with "
                "jaxppo.envs.market.windows and own_bars alone"
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
