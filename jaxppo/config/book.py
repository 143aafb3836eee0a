"""Keys of a book of strategies, in the list of sizing transforms."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from jaxppo.arguments import PositiveInt, Text
from jaxppo.book.allocation import AllocationRule, Part
from jaxppo.config.from_signature import key_of, keys_of
from jaxppo.config.items import Item, Keys, OwnFunction, written_out
from jaxppo.policy import rules


class AgentStrategy(Keys):
    """The policy of the run."""


class RunStrategy(Keys):
    """An agent that was trained before."""

    folder: Text
    """Folder of its run; `{run: FOLDER}` for short."""
    name: Text | None = None
    """Name in the book; absent: that of the folder."""


class OwnPolicy(OwnFunction):
    """A policy of your own: `module:function` returns a `jaxppo.Policy`; its keys are the arguments of the function."""


RULES = ("buy_and_hold", "trend", "mean_reversion", "inverse_volatility", "feature_portfolios")


class _Named(Keys):
    name: Text | None = None
    """Name in the book; absent: that of the rule."""


class StrategyConfig(Item, kinds={name: keys_of(getattr(rules, name), base=_Named) for name in RULES}, own=OwnPolicy):
    """One strategy: a name and its keys."""

    agent: AgentStrategy | None = None
    run: RunStrategy | None = None


def short_run(item: Any) -> Any:
    """`{run: {folder: FOLDER}}` for `{run: FOLDER}`; any other item as it is."""
    short = isinstance(item, dict) and isinstance(item.get("run"), str)
    return {"run": {"folder": item["run"]}} if short else item


def with_folders(items: Any) -> Any:
    """`written_out`, with `{run: FOLDER}` for `{run: {folder: FOLDER}}`; takes a list of items."""
    items = written_out(items)
    return tuple(short_run(item) for item in items) if isinstance(items, list) else items


class BookSizing(Keys):
    """Holds what several strategies hold, by their allocations; transforms before it size the agent alone."""

    strategies: Annotated[tuple[StrategyConfig, ...], BeforeValidator(with_folders), Field(min_length=1)]
    """The strategies, `agent` among them, such as `[agent, trend, buy_and_hold, {run: runs/NAME}]`."""
    parts: tuple[Part, ...] = key_of(AllocationRule, "parts")
    span: int = key_of(AllocationRule, "span")
    mean_span: int = key_of(AllocationRule, "mean_span")
    warmup: int = key_of(AllocationRule, "warmup")
    drawdown_limit: float = key_of(AllocationRule, "drawdown_limit")
    kelly_fraction: float = key_of(AllocationRule, "kelly_fraction")
    cut: float = key_of(AllocationRule, "cut")
    readmit: float = key_of(AllocationRule, "readmit")
    cooldown: PositiveInt | None = key_of(AllocationRule, "cooldown")
    max_total: float = key_of(AllocationRule, "max_total")
    rebalance: float = key_of(AllocationRule, "rebalance")
