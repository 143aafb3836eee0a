"""Action masks: limits of what an account may hold, as transforms that compose.

Whoever decides (the sampled policy in training, its mode in a backtest, a rule, somebody else's trainer), the
environment executes the nearest decision within the limits.
"""

from jaxppo.envs.trading.transform import MaskTransform
from jaxppo.envs.trading.view import MarketView
from jaxppo.masks.account import GroupBudget, holding_period, liquidity, risk_budget, turnover
from jaxppo.masks.market import halt, no_short, regime, session, volatility_cap
from jaxppo.masks.transform import apply_each, chain
from jaxppo.policy.choose import choose

__all__ = [
    "GroupBudget",
    "MarketView",
    "MaskTransform",
    "apply_each",
    "chain",
    "choose",
    "halt",
    "holding_period",
    "liquidity",
    "no_short",
    "regime",
    "risk_budget",
    "session",
    "turnover",
    "volatility_cap",
]
