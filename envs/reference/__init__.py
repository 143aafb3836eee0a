"""Problems whose optimal policy and value are known: what a trained agent is scored against."""

from jaxppo.envs.reference.almgren_chriss import AlmgrenChriss
from jaxppo.envs.reference.ar1 import ProportionalCostAR1, QuadraticCostAR1
from jaxppo.envs.reference.davis_norman import DavisNorman
from jaxppo.envs.reference.garleanu_pedersen import GarleanuPedersen
from jaxppo.envs.reference.grossman_zhou import GrossmanZhou
from jaxppo.envs.reference.market_making import AvellanedaStoikov, CarteaJaimungal
from jaxppo.envs.reference.merton import Merton
from jaxppo.envs.reference.predictable_premium import KimOmberg
from jaxppo.envs.reference.problem import Problem, simulate
from jaxppo.envs.reference.spread import OUSpread

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
