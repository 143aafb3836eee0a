"""Masks, sizing, rewards and monitored limits of a configuration: its keys are the arguments of their factories."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from jaxppo import masks
from jaxppo.book.allocation import AllocationRule
from jaxppo.book.paper_accounts import AGENT
from jaxppo.book.sizing import book
from jaxppo.config.book import BookSizing, RunStrategy
from jaxppo.config.items import OWN, Item, OwnFunction
from jaxppo.config.masks import MaskConfig
from jaxppo.config.monitor import MonitorConfig
from jaxppo.config.rewards import RewardConfig
from jaxppo.config.sizing import STAGES, SizingConfig
from jaxppo.envs.execution.costs import Costs
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.transform import MaskTransform, RewardTransform, SizingTransform
from jaxppo.policy import rules
from jaxppo.policy.protocol import Policy
from jaxppo.risk import monitor, rewards, sizing
from jaxppo.risk.rewards import NO_MOMENTS, BaseMoments
from jaxppo.risk.sizing import Sizing
from jaxppo.run.own import own_policy, own_transform

OpenRun = Callable[[RunStrategy], Policy]


def make_masks(items: Sequence[MaskConfig], names: tuple[str, ...], calendar: str | None) -> MaskTransform | None:
    """Chains the configured masks; None for none.

    Args:
      items: in order.
      names: symbols of the market's assets.
      calendar: calendar of the data, for masks of trading hours that name none.

    Raises:
      ValueError: names the mask that does not fit.
    """

    def one(item: Item) -> MaskTransform:
        keys = dict(item.values)
        if item.kind == "regime":
            sides = {name: keys.pop(name) for name in ("bull", "bear", "sideways", "crisis")}
            keys["sides"] = {name: side for name, side in sides.items() if side is not None}
        if item.kind == "session":
            keys["calendar"] = keys["calendar"] or calendar
            if keys["calendar"] is None:
                raise ValueError("calendar is absent; name one here or as data.calendar")
        if item.kind == "risk_budget" and keys["groups"]:
            keys["groups"] = {name: masks.GroupBudget(**dict(group)) for name, group in keys["groups"].items()}
        return _build(getattr(masks, item.kind), keys, names=names)

    parts = _each("masks", items, one, own=partial(own_transform, names=names))
    return masks.chain(*parts) if parts else None


def make_rewards(
    items: Sequence[RewardConfig], periods: float, moments: BaseMoments = NO_MOMENTS
) -> RewardTransform | None:
    """Chains the configured reward transforms; None for none.

    Args:
      items: in order.
      periods: bars per year.
      moments: of the base in the training period.

    Raises:
      ValueError: own code that does not fit; names it.
    """
    of_run: dict[str, Any] = {"periods": periods, "moments": moments}

    def one(item: Item) -> RewardTransform:
        return _build(getattr(rewards, item.kind), dict(item.values), **of_run)

    parts = _each("rewards", items, one, own=partial(own_transform, **of_run))
    return rewards.chain(*parts) if parts else None


def make_monitor(items: Sequence[MonitorConfig], periods: float) -> monitor.Monitor:
    """Builds the configured limits on monitored metrics.

    Args:
      items: in order.
      periods: bars per year.
    """
    return monitor.Monitor(
        tuple(_build(getattr(monitor, item.kind), dict(item.values), periods=periods) for item in items)
    )


def make_sizing(
    items: Sequence[SizingConfig],
    make_book: Callable[..., Sizing],
    make_tilts: Callable[..., Sizing] | None = None,
) -> Sizing | None:
    """Chains the configured sizing transforms; None for none.

    Args:
      items: in order.
      make_book: builds the book of a `BookSizing` and the transforms `before` and `after` it, see `make_book`.
      make_tilts: builds the base of the policy and the transforms `before` it, of tilts, and `after` it, likewise; None
        without a base.

    Raises:
      ValueError: names the transform whose keys do not fit together.
    """

    def one(item: Item) -> SizingTransform:
        return _build(getattr(sizing, item.kind), dict(item.values))

    kinds = [item.kind for item in items]
    at = kinds.index("book") if "book" in kinds else len(kinds)
    if make_tilts is not None:
        shares = max((place + 1 for place, kind in enumerate(kinds) if STAGES.get(kind) == 0), default=0)
        return make_tilts(
            before=_each("sizing", items[:shares], one), after=_each("sizing", items[shares:], one, shares)
        )
    before, after = _each("sizing", items[:at], one), _each("sizing", items[at + 1 :], one, at + 1)
    if at == len(kinds):
        return sizing.chain(*before) if before else None
    try:
        return make_book(items[at].book, before=before, after=after)
    except ValueError as error:
        raise ValueError(f"sizing[{at}].book: {error}") from None


def make_book(
    config: BookSizing,
    *,
    env: TradingEnv,
    costs: Costs,
    initial_cash: float,
    open_run: OpenRun,
    before: Sequence[SizingTransform] = (),
    after: Sequence[SizingTransform] = (),
) -> Sizing:
    """Builds the configured book.

    Args:
      config: its keys.
      env: what the book trades in.
      costs: of the paper accounts: those of the environment.
      initial_cash: of the paper accounts, currency, > 0.
      open_run: opens a trained agent.
      before: transforms of the agent's decisions.
      after: transforms of the book's targets.

    Raises:
      ValueError: names the key that does not fit.
    """

    def one(item: Item) -> Policy | str:
        if item.kind == "agent":
            return AGENT
        if item.kind == "run":
            return open_run(item.values)
        keys = dict(item.values)
        name = keys.pop("name") or item.kind
        return getattr(rules, item.kind)(**keys)._replace(name=name)

    rule = AllocationRule(**{name: value for name, value in config if name != "strategies"})
    strategies = _each("strategies", config.strategies, one, own=own_policy)
    if AGENT not in strategies:
        raise ValueError("strategies leaves out agent, whose decisions would then count for nothing; name it")
    return book(strategies, rule, env=env, costs=costs, initial_cash=initial_cash, before=before, after=after)


def _each(
    name: str,
    items: Iterable[Item],
    build: Callable[[Item], Any],
    first: int = 0,
    own: Callable[[OwnFunction, str], Any] = own_transform,
) -> list[Any]:
    """Builds each item, own code with `own`; a ValueError names the list and the item, which counts from `first`."""
    parts = []
    for number, item in enumerate(items, start=first):
        if item.kind == OWN:
            parts.append(own(item.values, f"{name}[{number}]"))
            continue
        try:
            parts.append(build(item))
        except ValueError as error:
            raise ValueError(f"{name}[{number}].{item.kind}: {error}") from None
    return parts


def _build(factory: Callable[..., Any], keys: dict[str, Any], **from_run: Any) -> Any:
    """Calls a factory with its keys and with what it takes of the run."""
    taken = inspect.signature(factory).parameters
    return factory(**keys, **{name: value for name, value in from_run.items() if name in taken})
