"""Books of strategies: rules and agents that share one account, with capital by rule."""

from jaxppo.risk.book.capital import PARTS, Capital, CapitalRule, capital_rule
from jaxppo.risk.book.shadow import AGENT
from jaxppo.risk.book.sizing import BookState, book, strategy_names
from jaxppo.risk.book.strategies import (
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
    "BookState",
    "Capital",
    "CapitalRule",
    "Strategy",
    "book",
    "buy_and_hold",
    "capital_rule",
    "equal_weight",
    "inverse_volatility",
    "mean_reversion",
    "rule",
    "strategy_names",
    "trend",
    "volatility_target",
]
