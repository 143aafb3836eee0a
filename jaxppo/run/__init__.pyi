from . import build, checkpoints, data, devices, files, folder, lock, periods, regimes, setup, ship, trials
from .saved import SavedRun, load_run

__all__ = [
    "SavedRun",
    "build",
    "checkpoints",
    "data",
    "devices",
    "files",
    "folder",
    "load_run",
    "lock",
    "periods",
    "regimes",
    "setup",
    "ship",
    "trials",
]
