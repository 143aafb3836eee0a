"""gymnax without the environments that it brings, until one of them is asked for.

One of them puts an array on the device when it is imported. That starts JAX's backend: a process that has started it
cannot be forked, and `jax.distributed.initialize` comes too late.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
import types
from typing import Any

PACKAGES = ("gymnax", "gymnax.environments")
NEEDED = ("gymnax.environments.spaces", "gymnax.environments.environment")
"""What the trading environment builds on; neither touches a device."""


class _Deferred(types.ModuleType):
    """A package whose code runs when something of it is asked for that is not there yet."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what tools ask of every module
            raise AttributeError(name)
        if f"{self.__name__}.{name}" in NEEDED:
            return importlib.import_module(f"{self.__name__}.{name}")
        self.__class__ = types.ModuleType  # type: ignore[assignment]  # an ordinary module from now on
        spec = self.__spec__
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module(self)
        return getattr(self, name)


def defer_gymnax() -> None:
    """Has gymnax import only what is asked for of `NEEDED`, unless it is imported already or no ordinary package."""
    if PACKAGES[0] in sys.modules:
        return
    path = None
    for name in PACKAGES:
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None or spec.submodule_search_locations is None:
            return
        module = _Deferred(name)
        module.__spec__, module.__loader__, module.__file__ = spec, spec.loader, spec.origin
        module.__path__, module.__package__ = spec.submodule_search_locations, name
        sys.modules[name], path = module, spec.submodule_search_locations
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
