"""Keys of the section `features`: what the encoder reads."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from jaxppo.arguments import Text
from jaxppo.config.from_signature import key_of
from jaxppo.config.items import Keys
from jaxppo.envs import features
from jaxppo.envs.market.own_columns import ColumnGroup, Columns, OwnNormalisation


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


class FeaturesConfig(Keys):
    """What the encoder reads."""

    groups: features.Groups = key_of(features.compute_features, "groups")
    normalisation_window: int = key_of(features.compute_features, "normalisation_window")
    normalise: dict[features.Unbounded, features.Normalisation] | None = key_of(features.compute_features, "normalise")
    columns: dict[Text, ColumnsConfig] | None = None
    """Group of your own -> columns of the prices that it reads, such as `news: [sentiment]` or
    `{columns: [sentiment], lag: 1, normalise: rank}`; `data.columns` says when values were published."""

    @property
    def column_groups(self) -> tuple[ColumnGroup, ...]:
        """The groups of own columns, in order."""
        return tuple(ColumnGroup(name, **dict(keys)) for name, keys in (self.columns or {}).items())


def check_features(config: FeaturesConfig) -> None:
    """Refuses groups that are named twice, and normalisations of groups that are not there.

    Args:
      config: the section.

    Raises:
      ValueError: names the key.
    """
    if len(set(config.groups)) != len(config.groups):
        raise ValueError(f"features.groups {list(config.groups)} must name each group once")
    for name, group in (config.columns or {}).items():
        if len(set(group.columns)) < len(group.columns):
            raise ValueError(f"features.columns.{name} {list(group.columns)} must name each column once")
    if repeated := {*(config.columns or {})} & {*config.groups}:
        raise ValueError(f"features.columns names a group {min(repeated)}, and so does features.groups")
    if surplus := {*(config.normalise or {})} - {*config.groups}:
        raise ValueError(f"features.normalise names {min(surplus)}, which is not among features.groups")
