from .saved import SavedRun, load_run

__all__ = ["SavedRun", "load_run"]
