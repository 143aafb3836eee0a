"""The own code that a configuration names."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from jaxppo.arguments import LONGEST_OWN_NAME, OWN_NAME_PATTERN
from jaxppo.config.features import FunctionConfig
from jaxppo.config.items import OwnFunction
from jaxppo.config.learning import PolicyConfig
from jaxppo.config.risk import ObjectiveConfig
from jaxppo.config.schema import DataConfig, RegimesConfig
from jaxppo.config.trading import CostsConfig
from jaxppo.envs.data.sources.request import kind_of

NAMING: dict[type[BaseModel], str] = {
    RegimesConfig: "kind",
    ObjectiveConfig: "kind",
    DataConfig: "path",
    CostsConfig: "function",
    PolicyConfig: "kind",
}
"""Section -> key of it that may name a function."""


def is_own(name: str) -> bool:
    """Whether a text is `module:function`, and neither a source of prices nor the name of a file that is there."""
    named = len(name) <= LONGEST_OWN_NAME and re.match(OWN_NAME_PATTERN, name) is not None
    return named and kind_of(name) is None and not pathlib.Path(name).exists()


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
        key = NAMING.get(type(config))
        name = None if key is None else getattr(config, key)
        if isinstance(name, str) and is_own(name):
            yield f"{prefix}{key}", name
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
