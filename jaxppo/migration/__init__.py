"""Agents of other libraries: checkpoints of Stable-Baselines3, read without it."""

from jaxppo.migration.model import Sb3Model
from jaxppo.migration.normalisation import Normalisation
from jaxppo.migration.sb3 import load_sb3

__all__ = ["Normalisation", "Sb3Model", "load_sb3"]
