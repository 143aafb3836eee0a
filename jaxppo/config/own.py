"""The own code that a configuration names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from jaxppo.config.features import FunctionConfig
from jaxppo.config.items import OwnFunction


def own_names(config: BaseModel, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Walks the functions of a user's own that a configuration names.

    Args:
      config: where to begin.
      prefix: begins every key.

    Yields:
      Key, such as `masks[0]`, and `module:function`.
    """
    if isinstance(config, OwnFunction):
        yield prefix.removesuffix(".function."), config.path
    elif isinstance(config, FunctionConfig):
        yield prefix.removesuffix("."), config.function
    else:
        for name in type(config).model_fields:
            yield from _within(getattr(config, name), prefix + name)


def _within(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, BaseModel):
        yield from own_names(value, f"{key}.")
    elif isinstance(value, tuple):
        for number, one in enumerate(value):
            yield from _within(one, f"{key}[{number}]")
    elif isinstance(value, Mapping):
        for name, one in value.items():
            yield from _within(one, f"{key}.{name}")
