"""Agents that ship: the orders of the morning, export, and a policy that trades bar by bar.

What is exported stands in `__init__.pyi`; it is imported when it is first used: a live policy loads nothing of a
trainer.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
