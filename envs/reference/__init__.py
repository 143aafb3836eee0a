"""Problems whose optimal policy and value are known: what a trained agent is scored against."""

from envs.reference.ar1 import ProportionalCostAR1, QuadraticCostAR1
from envs.reference.garleanu_pedersen import GarleanuPedersen
from envs.reference.predictable_premium import KimOmberg
from envs.reference.problem import Problem, simulate
from envs.reference.spread import OUSpread

__all__ = [
    "GarleanuPedersen",
    "KimOmberg",
    "OUSpread",
    "Problem",
    "ProportionalCostAR1",
    "QuadraticCostAR1",
    "simulate",
]
