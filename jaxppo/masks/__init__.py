"""Action masks: limits of what an account may hold, as transforms that compose.

Whoever decides (the sampled policy in training, its mode in a backtest, a rule, somebody else's trainer), the
environment executes the nearest decision within the limits.
"""

from jaxppo.envs.execution.limits import Limits
from jaxppo.envs.trading.transform import MaskTransform
from jaxppo.envs.trading.view import MarketView
from jaxppo.masks.account import GroupBudget, holding_period, liquidity, risk_budget, turnover
from jaxppo.masks.market import box_limits, halt, no_short, regime, session, volatility_cap
from jaxppo.masks.transform import apply_each, chain, market_only
from jaxppo.policy.choose import choose

__all__ = [
    "GroupBudget",
    "Limits",
    "MarketView",
    "MaskTransform",
    "apply_each",
    "box_limits",
    "chain",
    "choose",
    "halt",
    "holding_period",
    "liquidity",
    "market_only",
    "no_short",
    "regime",
    "risk_budget",
    "session",
    "turnover",
    "volatility_cap",
]
