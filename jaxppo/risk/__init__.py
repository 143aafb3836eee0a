"""Risk: metrics of return series, whole or bar by bar; objectives and constraints of learning."""

from jaxppo.risk import constraints, lagrangian, metrics, objectives, streaming
from jaxppo.risk.stage import Charged, RiskStage, RiskState, risk_stage

__all__ = [
    "Charged",
    "RiskStage",
    "RiskState",
    "constraints",
    "lagrangian",
    "metrics",
    "objectives",
    "risk_stage",
    "streaming",
]
