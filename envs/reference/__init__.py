"""Problems whose optimal policy and value are known: what a trained agent is scored against."""

from envs.reference.almgren_chriss import AlmgrenChriss
from envs.reference.ar1 import ProportionalCostAR1, QuadraticCostAR1
from envs.reference.davis_norman import DavisNorman
from envs.reference.garleanu_pedersen import GarleanuPedersen
from envs.reference.grossman_zhou import GrossmanZhou
from envs.reference.market_making import AvellanedaStoikov, CarteaJaimungal
from envs.reference.merton import Merton
from envs.reference.predictable_premium import KimOmberg
from envs.reference.problem import Problem, simulate
from envs.reference.spread import OUSpread

__all__ = [
    "AlmgrenChriss",
    "AvellanedaStoikov",
    "CarteaJaimungal",
    "DavisNorman",
    "GarleanuPedersen",
    "GrossmanZhou",
    "KimOmberg",
    "Merton",
    "OUSpread",
    "Problem",
    "ProportionalCostAR1",
    "QuadraticCostAR1",
    "simulate",
]
