"""Lists of named transforms in a configuration, such as `masks: [{volatility_cap: {target: 0.15}}, no_short]`."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_serializer, model_validator

from jaxppo.arguments import OWN_NAME, OwnName


class Keys(BaseModel):
    """Keys of a section or of an item: frozen and strict; an unknown key is a mistake."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


OWN = "function"
"""Kind of an item that is a user's own code."""


class OwnFunction(Keys):
    """A function of your own; its keys are the arguments of the function."""

    path: OwnName
    """`module:function`."""
    options: dict[str, Any] | None = None
    """Its arguments by name."""


class Item(Keys):
    """One item of a list: a name and its keys.

    A subclass has a field `NAME: ItsKeys | None = None` for every name, its own or from `kinds`:
    `class MaskConfig(Item, kinds={"no_short": NoShortKeys})`. With `own`, the keys of a user's own code, a name may be
    `module:function`.
    """

    def __init_subclass__(
        cls, kinds: Mapping[str, type[Keys]] | None = None, own: type[OwnFunction] | None = None, **options: Any
    ):
        super().__init_subclass__(**options)
        kinds = {**(kinds or {}), **({} if own is None else {OWN: own})}
        # Before pydantic collects the fields, so that they are as if they had been written in the class.
        cls.__annotations__ = {name: keys | None for name, keys in kinds.items()} | inspect.get_annotations(cls)
        for name in kinds:
            setattr(cls, name, None)

    @model_validator(mode="after")
    def _one(self) -> Item:
        if len(self.model_fields_set) != 1:
            raise ValueError(self.form())
        return self

    @model_serializer
    def _shown(self) -> dict[str, Any]:
        if self.kind == OWN:
            return {self.values.path: self.values.options or {}}
        return {self.kind: self.values.model_dump(mode="json", exclude_none=True)}

    @property
    def label(self) -> str:
        """Its name as it is written: that of its kind, or `module:function`."""
        return self.values.path if self.kind == OWN else self.kind

    @property
    def kind(self) -> str:
        """Its name."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)

    @property
    def values(self) -> Any:
        """Its keys."""
        return getattr(self, self.kind)

    @classmethod
    def form(cls) -> str:
        """What an item looks like, in words."""
        name, model = next(iter(cls.kinds().items()))
        key = next(iter(model.model_fields), None)
        return (
            f"one name, with its keys if it has any, such as {{{name}: {'{}' if key is None else f'{{{key}: ...}}'}}}"
        )

    @classmethod
    def written_names(cls) -> list[str]:
        """What may stand as its name."""
        return [OWN_NAME if name == OWN else name for name in cls.model_fields]

    @classmethod
    def kinds(cls) -> dict[str, type[Keys]]:
        """Name and keys of every kind of item."""
        return {name: typing.get_args(field.annotation)[0] for name, field in cls.model_fields.items()}


def item_of(annotation: Any) -> type[Item] | None:
    """The class of the items of `tuple[ITEM, ...]` or of `ITEM | None`; None for any other annotation."""
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    found = typing.get_args(annotation)[:1] if typing.get_origin(annotation) is tuple or union else ()
    return found[0] if found and isinstance(found[0], type) and issubclass(found[0], Item) else None


def written_out(items: Any) -> Any:
    """A list of items whose short forms (a name alone, a name without keys, own code) have become mappings."""
    return [_written_out(item) for item in items] if isinstance(items, list) else items


def _written_out(item: Any) -> Any:
    item = {item: {}} if isinstance(item, str) else item
    if not isinstance(item, dict):
        return item
    name, keys = next(iter(item.items()), ("", None))
    if len(item) == 1 and ":" in str(name):
        return {OWN: {"path": name, "options": keys or None}}
    return {name: {} if keys is None else keys for name, keys in item.items()}
