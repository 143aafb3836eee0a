"""Books of strategies: rules and agents that share one account, with capital by rule."""

from jaxppo.book.allocation import PARTS, Allocation, AllocationRule, allocation_rule
from jaxppo.book.paper_accounts import AGENT
from jaxppo.book.sizing import BookState, book, strategy_names
from jaxppo.policy.rules import (
    Strategy,
    buy_and_hold,
    equal_weight,
    inverse_volatility,
    mean_reversion,
    rule,
    trend,
    volatility_target,
)

__all__ = [
    "AGENT",
    "PARTS",
    "Allocation",
    "AllocationRule",
    "BookState",
    "Strategy",
    "allocation_rule",
    "book",
    "buy_and_hold",
    "equal_weight",
    "inverse_volatility",
    "mean_reversion",
    "rule",
    "strategy_names",
    "trend",
    "volatility_target",
]
