"""The book of a configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jaxppo.book.allocation import allocation_rule
from jaxppo.book.paper_accounts import AGENT
from jaxppo.book.sizing import book
from jaxppo.config.book import BookSizing, RunStrategy, StrategyConfig
from jaxppo.envs.execution.costs import Costs
from jaxppo.envs.execution.portfolio import FillRule
from jaxppo.policy import rules as strategies
from jaxppo.policy.rules import Strategy
from jaxppo.risk.sizing.transform import Sizing, SizingTransform

OpenRun = Callable[[RunStrategy], Strategy]
RULES = ("buy_and_hold", "trend", "mean_reversion", "inverse_volatility")


def make_book(
    config: BookSizing,
    *,
    costs: Costs,
    fill_rule: FillRule,
    initial_cash: float,
    open_run: OpenRun,
    before: Sequence[SizingTransform] = (),
    after: Sequence[SizingTransform] = (),
) -> Sizing:
    """The configured book; arguments as for `book`, and what opens a trained agent.

    Raises:
      ValueError: names the key that does not fit.
    """
    keys = {name: value for name, value in config if name != "strategies"}
    rule = allocation_rule(**keys)
    chosen = []
    for number, item in enumerate(config.strategies):
        try:
            chosen.append(_strategy(item, open_run))
        except ValueError as error:
            raise ValueError(f"strategies[{number}].{item.kind}: {error}") from None
    if AGENT not in chosen:
        raise ValueError("strategies leaves out agent, whose decisions would then count for nothing; name it")
    return book(chosen, rule, costs=costs, fill_rule=fill_rule, initial_cash=initial_cash, before=before, after=after)


def _strategy(item: StrategyConfig, open_run: OpenRun) -> Strategy | str:
    """One strategy; see `make_book`."""
    if item.kind == "agent":
        return AGENT
    if item.kind == "run":
        return open_run(item.run)
    return {name: getattr(strategies, name) for name in RULES}[item.kind](**dict(item.values))
