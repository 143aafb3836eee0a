"""Sweeps: agents that differ in hyper-parameters and seeds, trained as one program, of which validation chooses one."""

from jaxppo.sweep.members import combinations, member_config
from jaxppo.sweep.training import Sweep, sweep

__all__ = ["Sweep", "combinations", "member_config", "sweep"]
