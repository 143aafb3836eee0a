"""A run: its folder, periods, devices, checkpoints, register of trials, and how it is opened.

What is exported stands in `__init__.pyi`; it is imported when it is first used: files and locks are used without runs.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
