"""Code of a user's own that Python gives beside a configuration: functions in the place of names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypedDict, Unpack

from jaxppo.config.load import validate_config
from jaxppo.config.schema import Config
from jaxppo.errors import ConfigError
from jaxppo.own_code import registered_name

Part = str | Callable[..., Any] | Mapping[Any, Any]
"""A part as YAML has it, or with a function in the place of its name: `no_mondays`, `{shrunk: {"factor": 2.0}}`."""


class OwnParts(TypedDict, total=False):
    """Code of a user's own that Python gives beside a configuration.

    Attributes:
      features: group -> function, or keys of `features.functions` with a function.
      masks: behind those of the configuration, as the others.
      rewards: likewise.
      sizing: likewise.
      base: in the place of `policy.base`.
      policy: in the place of `policy.kind`, with `policy.options`.
    """

    features: Mapping[str, Part]
    masks: Sequence[Part]
    rewards: Sequence[Part]
    sizing: Sequence[Part]
    base: Part
    policy: Part


def with_own(config: Config, **own: Unpack[OwnParts]) -> Config:
    """The configuration with code of a user's own, which then has names.

    Example:
      >>> from jaxppo import load_config
      >>> from jaxppo.config import with_own
      >>> def gap(market):
      ...     return market.open / market.close - 1.0
      >>> with_own(load_config(), features={"gap": gap}).features.functions["gap"].lag
      0

    Args:
      config: of a run.
      **own: the code, see `OwnParts`.

    Raises:
      ConfigError: a part that is none, without a name, or that the configuration does not allow.
    """
    if surplus := own.keys() - OwnParts.__annotations__.keys():
        raise TypeError(f"{min(surplus)!r} is no part; {', '.join(OwnParts.__annotations__)} are")
    if not own:
        return config
    tree, named = config.model_dump(mode="json"), _Named()
    for key in ("masks", "rewards", "sizing"):
        given = own.get(key, ())
        if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
            raise ConfigError(f"{key} is {given!r}; a list of functions, names or mappings is expected")
        tree[key] = [*tree[key], *(named.part(one, f"{key}[{number}]") for number, one in enumerate(given))]
    if "base" in own:
        tree["policy"]["base"] = named.part(own["base"], "base")
    if "policy" in own:
        network = named.part(own["policy"], "policy")
        if isinstance(network, Mapping) and len(network) != 1:
            raise ConfigError(f"policy is {own['policy']!r}; one function, or one with its options, is expected")
        kind, options = next(iter(network.items())) if isinstance(network, Mapping) else (network, None)
        tree["policy"] |= {"kind": kind, "options": options}
    features = own.get("features", {})
    if not isinstance(features, Mapping):
        raise ConfigError(f"features is {features!r}; a mapping of names to functions is expected")
    groups = {
        name: {**one, "function": named.name(one.get("function"), f"features.{name}")}
        if isinstance(one, Mapping)
        else named.name(one, f"features.{name}")
        for name, one in features.items()
    }
    tree["features"]["functions"] = {**(tree["features"]["functions"] or {}), **groups} or None
    return validate_config(tree)


class _Named:
    """Names functions, and registers those that no module has."""

    def __init__(self) -> None:
        self._seen: dict[str, Any] = {}

    def part(self, given: Part, key: str) -> Any:
        """A part as YAML has it."""
        if isinstance(given, Mapping):
            return {self.name(name, key): keys for name, keys in given.items()}
        return self.name(given, key)

    def name(self, given: Any, key: str) -> str:
        """`module:function` of a function; a text as it is."""
        if isinstance(given, str):
            return given
        if not (inspect.isfunction(given) or inspect.isclass(given)) or given.__name__ == "<lambda>":
            raise ConfigError(f"{key} is {given!r}; a function with a name (def) is expected")
        name = registered_name(given)
        if self._seen.setdefault(name, given) is not given:
            raise ConfigError(f"{key}: two functions are called {name}; give one another name with jaxppo.register")
        return name
