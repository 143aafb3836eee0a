"""The book of a configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from envs.execution import Costs
from envs.portfolio import FillRule
from jaxppo.config_book import BookSizing, RunStrategy, StrategyConfig
from jaxppo.risk.book import strategies
from jaxppo.risk.book.capital import capital_rule
from jaxppo.risk.book.shadow import AGENT
from jaxppo.risk.book.sizing import book
from jaxppo.risk.book.strategies import Strategy
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
    rule = capital_rule(**keys)
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
