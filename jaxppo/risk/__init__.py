"""Risk: metrics of returns; objectives, constraints and rewards of learning; sizing, books, watched limits."""

from jaxppo.risk import book, constraints, lagrangian, metrics, monitor, objectives, rewards, sizing, streaming
from jaxppo.risk.stage import Charged, RiskStage, RiskState, risk_stage

__all__ = [
    "Charged",
    "RiskStage",
    "RiskState",
    "book",
    "constraints",
    "lagrangian",
    "metrics",
    "monitor",
    "objectives",
    "rewards",
    "risk_stage",
    "sizing",
    "streaming",
]
