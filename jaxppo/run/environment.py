"""The trading environment of a configuration: its masks, sizing, rewards and fills, and their tables."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

from jaxppo.book.base import tilted
from jaxppo.config import Config
from jaxppo.config.book import RunStrategy
from jaxppo.envs.execution.costs import Costs, make_costs
from jaxppo.envs.execution.exits import make_exits
from jaxppo.envs.execution.fill_rule import FillRule
from jaxppo.envs.execution.limit_orders import make_limit_orders
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.market.own_columns import check_columns
from jaxppo.envs.market.periods import periods_per_year
from jaxppo.envs.market.timeframes import bars_per_timeframe
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.view import MarketView
from jaxppo.errors import ConfigError
from jaxppo.masks import MaskTransform
from jaxppo.masks.hours import usual_minutes
from jaxppo.own_code import call_of, find
from jaxppo.policy.protocol import Policy
from jaxppo.risk.rewards import RewardTransform
from jaxppo.risk.sizing import Sizing, SizingTransform
from jaxppo.run.base import make_base
from jaxppo.run.transforms import make_book, make_masks, make_rewards, make_sizing


def costs_of(config: Config, market: MarketData) -> Costs:
    """The costs of a run on a market.

    Args:
      config: of the run.
      market: whose symbols values by symbol name.

    Raises:
      ConfigError: a value for a symbol that the market has not, or own code that is not found.
    """
    symbols, section = market.info.symbols, "exits"
    try:
        exits = make_exits(**config.exits.model_dump(), symbols=symbols)
        section = "limit_orders"
        limits = make_limit_orders(**config.limit_orders.model_dump(), symbols=symbols)
        section = "costs"
        costs = make_costs(**config.costs.model_dump(exclude={"function", "options"}), symbols=symbols)
    except ValueError as error:
        raise ConfigError(f"{section}.{error}") from None
    costs = costs.replace(exits=exits, limit_orders=limits)
    if config.costs.function is None:
        return costs
    key = "costs.function"
    return costs.replace(own=call_of(find(config.costs.function, key), key, config.costs.options or {}, first=3))


def _check_payments(config: Config, market: MarketData) -> None:
    """Refuses what funding, dividends and splits do not go with."""
    paid = not (isinstance(market.funding, tuple) and isinstance(market.dividends, tuple))
    if paid and config.env.fill_price == "decision_close":
        raise ConfigError(
            "env.fill_price is decision_close, but funding and dividends are paid on what was held before the bar; use "
            "next_open"
        )
    by_share = {"commission_per_share": config.costs.commission_per_share, "lot_size": config.costs.lot_size}
    named = next((name for name, value in by_share.items() if value), None)
    if config.data.splits is not None and named is not None:
        raise ConfigError(
            f"costs.{named} counts shares of today, and data.splits counts those of the first bar; use "
            "costs.commission_bps, or prices that are adjusted for splits"
        )


OpenRun = Callable[[RunStrategy, MarketData], Policy]
"""Opens an agent that was trained before, as a strategy of a book on these prices."""


def make_env(config: Config, market: MarketData, context: int, open_run: OpenRun) -> TradingEnv:
    """The environment of a run.

    Args:
      config: of the run.
      market: its prices.
      context: bars that one decision of its network depends on.
      open_run: opens the trained agents of a book.

    Raises:
      ConfigError: the configuration does not fit the market.
    """
    if "carry" in config.features.groups and isinstance(market.carry, tuple):
        raise ConfigError("features.groups names carry, but the prices have no column carry (expected return a year)")
    try:
        check_columns(market, config.features.column_groups)
    except ValueError as error:
        raise ConfigError(f"features.columns: {error}") from None
    if config.costs.margin_volatility is not None and isinstance(market.futures, tuple):
        raise ConfigError(
            f"costs.margin_volatility is {config.costs.margin_volatility:g}, but no asset is a future; name them in "
            "data.futures"
        )
    _check_payments(config, market)
    costs = costs_of(config, market)
    displacement = config.costs.transient_impact > 0 or config.costs.permanent_impact > 0
    try:
        fill_rule = FillRule(
            config.env.latency_bars,
            config.env.unfilled,
            config.env.fill_price,
            displacement=displacement,
            exits=not isinstance(costs.exits, tuple),
            delisting=config.env.delisting,
            limit_orders=not isinstance(costs.limit_orders, tuple),
        )
    except ValueError as error:
        raise ConfigError(f"env: {error}") from None
    env = TradingEnv(
        n_assets=market.n_assets,
        actions=config.env.actions,
        levels=config.env.levels,
        gross_buckets=config.env.gross_buckets,
        position_limit=config.env.position_limit,
        observation="index",
        window=context,
        fill_rule=fill_rule,
        start=config.env.start,
        groups=config.features.groups,
        normalisation_window=config.features.normalisation_window,
        normalise=config.features.normalise,
        columns=config.features.own_groups,
        timeframes=_timeframes(config, market),
        masks=_masks(config, market),
        rewards=_rewards(config, market),
    )
    env.sizing = _sizing(config, market, copy.copy(env), costs, open_run)
    return env


def _timeframes(config: Config, market: MarketData) -> dict[str, int]:
    """The configured coarser bars, and most bars of the market in one of them.

    Raises:
      ConfigError: they cannot be made of its bars.
    """
    try:
        return bars_per_timeframe(market, config.features.timeframes)
    except ValueError as error:
        raise ConfigError(f"features.timeframes: {error}") from None


def _masks(config: Config, market: MarketData) -> MaskTransform | None:
    """The configured masks.

    Raises:
      ConfigError: one of them does not fit the market.
    """
    try:
        masks = make_masks(config.masks, market.info.symbols, config.data.calendar)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    for number, part in enumerate(masks.parts if masks is not None else ()):
        if part.name == "session":  # the one that fails on a market may do so before anything is compiled
            _rows(f"masks[{number}]", part, MarketView(market, 1.0, 1.0))
            _flat_in_time(number, config, market)
    return masks


def _rewards(config: Config, market: MarketData) -> RewardTransform | None:
    """The configured rewards.

    Raises:
      ConfigError: one of them does not fit the others.
    """
    try:
        return make_rewards(config.rewards, periods_per_year(market))
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _flat_in_time(number: int, config: Config, market: MarketData) -> None:
    """A ConfigError if orders to close positions before the close would fill after it."""
    flat, latency = config.masks[number].values.flat_minutes, config.env.latency_bars
    least = latency * float(usual_minutes(market)[-1])
    if flat is not None and flat < least:
        raise ConfigError(
            f"masks[{number}].session.flat_minutes is {flat:g}; orders fill env.latency_bars {latency} x "
            f"{least / latency:g} minutes later, so it must be at least {least:g} for positions to be closed in time"
        )


def _sizing(config: Config, market: MarketData, env: TradingEnv, costs: Costs, open_run: OpenRun) -> Sizing | None:
    """The configured sizing; `env` is the environment without it.

    Raises:
      ConfigError: a transform whose keys do not fit together.
    """
    opened = partial(_opened, open_run, market)
    make_tilts = None
    if config.policy.base is not None:
        policy = make_base(config.policy.base, opened)
        make_tilts = partial(tilted, policy, env, costs, tilt=config.policy.tilt)
    of_book = partial(make_book, env=env, costs=costs, initial_cash=config.env.initial_cash, open_run=opened)
    try:
        return make_sizing(config.sizing, of_book, make_tilts)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _opened(open_run: OpenRun, market: MarketData, run: RunStrategy) -> Policy:
    """An agent that was trained before, on these prices."""
    return open_run(run, market)


def transform_table(name: str, transform: MaskTransform | Sizing | None, view: MarketView) -> Any:
    """What a list of transforms precomputes from the market.

    Args:
      name: of the list, for messages.
      transform: the chain; None for nothing.
      view: of the market.

    Raises:
      ConfigError: a transform that this market does not allow.
    """
    parts = () if transform is None else transform.parts
    return tuple(_rows(f"{name}[{number}]", part, view) for number, part in enumerate(parts))


def _rows(name: str, part: MaskTransform | SizingTransform, view: MarketView) -> Any:
    """The table of one transform; see `transform_table`."""
    try:
        return part.table(view)
    except ValueError as error:
        raise ConfigError(f"{name}.{part.name}: {error}") from None
