"""Sizing transforms: from the targets of a decision to the sizes that are traded."""

from jaxppo.envs.trading.transform import SizingTransform
from jaxppo.risk.sizing.drawdown import drawdown_control
from jaxppo.risk.sizing.estimation import kan_zhou_scale, ledoit_wolf, shrunk_mean
from jaxppo.risk.sizing.kelly import kelly
from jaxppo.risk.sizing.parity import equal_risk_contribution, risk_parity
from jaxppo.risk.sizing.projection import project, projection
from jaxppo.risk.sizing.transform import Sizing, SizingState, chain, scaling
from jaxppo.risk.sizing.units import risk_units
from jaxppo.risk.sizing.volatility import volatility_target

__all__ = [
    "Sizing",
    "SizingState",
    "SizingTransform",
    "chain",
    "drawdown_control",
    "equal_risk_contribution",
    "kan_zhou_scale",
    "kelly",
    "ledoit_wolf",
    "project",
    "projection",
    "risk_parity",
    "risk_units",
    "scaling",
    "shrunk_mean",
    "volatility_target",
]
