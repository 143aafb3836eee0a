"""Keys of the section `features`: what the encoder reads."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from jaxppo.arguments import OwnName, Text
from jaxppo.config.from_signature import key_of
from jaxppo.config.items import Keys
from jaxppo.envs import features
from jaxppo.envs.market.feature_groups import COARSE
from jaxppo.envs.market.own_columns import ColumnGroup, Columns, OwnNormalisation
from jaxppo.envs.market.own_functions import FunctionGroup
from jaxppo.envs.market.timeframes import Timeframes
from jaxppo.own_code import call_of, find


class ColumnsConfig(Keys):
    """A feature group of your own columns; a list of them for short."""

    columns: Columns = key_of(ColumnGroup, "columns")
    lag: int = key_of(ColumnGroup, "lag")
    normalise: OwnNormalisation = key_of(ColumnGroup, "normalise")

    @model_validator(mode="before")
    @classmethod
    def _written_out(cls, given: Any) -> Any:
        given = {"columns": given} if isinstance(given, list | tuple) else given
        if isinstance(given, dict) and isinstance(given.get("columns"), list):
            given = {**given, "columns": tuple(given["columns"])}  # which JSON has no type for
        return given


class FunctionConfig(Keys):
    """A feature group of your own code; `module:function` for short."""

    function: OwnName
    """`module:function`: takes a market and returns `[T, A]` numbers, or `[T, A, n]` for n names, NaN where unknown."""
    options: dict[str, Any] | None = None
    """Its further arguments, by name."""
    names: Columns | None = key_of(FunctionGroup, "names")
    lag: int = key_of(FunctionGroup, "lag")
    warmup: int = key_of(FunctionGroup, "warmup")
    normalise: OwnNormalisation = key_of(FunctionGroup, "normalise")

    @model_validator(mode="before")
    @classmethod
    def _written_out(cls, given: Any) -> Any:
        given = {"function": given} if isinstance(given, str) else given
        if isinstance(given, dict) and isinstance(given.get("names"), list):
            given = {**given, "names": tuple(given["names"])}  # which JSON has no type for
        return given


class FeaturesConfig(Keys):
    """What the encoder reads."""

    groups: features.Groups = key_of(features.compute_features, "groups")
    normalisation_window: int = key_of(features.compute_features, "normalisation_window")
    timeframes: Timeframes = key_of(features.compute_features, "timeframes")
    normalise: dict[features.Unbounded, features.Normalisation] | None = key_of(features.compute_features, "normalise")
    columns: dict[Text, ColumnsConfig] | None = None
    """Group of your own -> columns of the prices that it reads, such as `news: [sentiment]` or
    `{columns: [sentiment], lag: 1, normalise: rank}`; `data.columns` says when values were published."""
    functions: dict[Text, FunctionConfig] | None = None
    """Group of your own -> function that computes it, such as `slope: my_features:slope` or `{function:
    my_features:slope, options: {span: 20}, normalise: rank}`."""

    @property
    def column_groups(self) -> tuple[ColumnGroup, ...]:
        """The groups of own columns, in order."""
        return tuple(ColumnGroup(name, **dict(keys)) for name, keys in (self.columns or {}).items())

    @property
    def function_groups(self) -> tuple[FunctionGroup, ...]:
        """The groups of own functions, in order.

        Raises:
          ConfigError: a function that is not found, or does not take its options.
        """
        found = []
        for name, keys in (self.functions or {}).items():
            key = f"features.functions.{name}"
            function = call_of(find(keys.function, key), key, keys.options or {}, first=1)
            how = keys.model_dump(include={"names", "lag", "warmup", "normalise"})
            found.append(FunctionGroup(name, function, **how))
        return tuple(found)

    @property
    def own_groups(self) -> tuple[ColumnGroup | FunctionGroup, ...]:
        """All groups of a user's own, in the order of their features."""
        return (*self.column_groups, *self.function_groups)


def check_features(config: FeaturesConfig) -> None:
    """Refuses groups that are named twice, and normalisations of groups that are not there.

    Args:
      config: the section.

    Raises:
      ValueError: names the key.
    """
    if len(set(config.groups)) != len(config.groups):
        raise ValueError(f"features.groups {list(config.groups)} must name each group once")
    if len(set(config.timeframes)) != len(config.timeframes):
        raise ValueError(f"features.timeframes {list(config.timeframes)} must name each length once")
    if config.timeframes and not set(config.groups) & {*COARSE}:
        raise ValueError(f"features.timeframes has the groups {', '.join(COARSE)}, none of which features.groups names")
    for name, group in (config.columns or {}).items():
        if len(set(group.columns)) < len(group.columns):
            raise ValueError(f"features.columns.{name} {list(group.columns)} must name each column once")
    for name, function in (config.functions or {}).items():
        if function.names is not None and len(set(function.names)) < len(function.names):
            raise ValueError(f"features.functions.{name}.names {list(function.names)} must name each feature once")
    taken = dict.fromkeys(config.groups, "groups")
    for key in ("columns", "functions"):
        for name in getattr(config, key) or ():
            if name in taken:
                raise ValueError(f"features.{key} names a group {name}, and so does features.{taken[name]}")
            taken[name] = key
    if surplus := {*(config.normalise or {})} - {*config.groups}:
        raise ValueError(f"features.normalise names {min(surplus)}, which is not among features.groups")
