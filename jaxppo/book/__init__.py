"""Books of strategies: rules and agents that share one account, with an allocation by rule."""

from jaxppo.book.allocation import PARTS, Allocation, AllocationRule
from jaxppo.book.paper_accounts import AGENT
from jaxppo.book.sizing import BookState, book, strategy_names

__all__ = [
    "AGENT",
    "PARTS",
    "Allocation",
    "AllocationRule",
    "BookState",
    "book",
    "strategy_names",
]
