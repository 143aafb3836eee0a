"""A run: its folder, periods, devices, checkpoints, register of trials, and how it is opened."""

from jaxppo.run.saved import SavedRun, load_run

__all__ = ["SavedRun", "load_run"]
