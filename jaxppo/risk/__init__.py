"""Risk: metrics of returns; objectives, constraints and rewards of learning; sizing; monitored limits."""

from jaxppo.risk import constraints, lagrangian, metrics, monitor, objectives, rewards, sizing, streaming
from jaxppo.risk.shaping import PenalisedConstraint, RewardShaping, ShapingState, shape_rewards

__all__ = [
    "PenalisedConstraint",
    "RewardShaping",
    "ShapingState",
    "constraints",
    "lagrangian",
    "metrics",
    "monitor",
    "objectives",
    "rewards",
    "shape_rewards",
    "sizing",
    "streaming",
]
