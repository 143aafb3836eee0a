"""What a configuration key accepts, in words: for error messages and for the reference page."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from jaxppo.config.items import Item, item_of
from jaxppo.config.schema import Config
from jaxppo.config.values import Day

SCALARS = {int: "whole number", float: "number", bool: "true or false", str: "text"}


def keys(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every dotted key that holds a value, in the order of the configuration, and its field."""
    for name, field in model.model_fields.items():
        if is_section(field):
            yield from keys(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def sections() -> dict[str, type[BaseModel]]:
    """Name and model of every section."""
    return {name: field.annotation for name, field in Config.model_fields.items() if is_section(field)}


def lists() -> dict[str, type[Item]]:
    """Name and item of every list of named transforms."""
    found = {name: item_of(field.annotation) for name, field in Config.model_fields.items()}
    return {name: item for name, item in found.items() if item is not None}


def nested(model: type[BaseModel], path: Sequence[Any]) -> dict[str, FieldInfo]:
    """Fields of the innermost mapping that the parent of a location in a model leads to."""
    fields: dict[str, FieldInfo] = {}
    for part in path:
        if part not in model.model_fields:
            continue
        inner = _model_in(model.model_fields[part].annotation)
        if inner is None:
            break
        model = inner
        fields = dict(model.model_fields)
    return fields or dict(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that an annotation holds, itself, in a union or as the values of a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(option) for option in typing.get_args(annotation))
    return next((model for model in found if model is not None), None)


def is_section(field: FieldInfo) -> bool:
    """Whether a field is a mapping of keys."""
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def accepted(field: FieldInfo) -> str:
    """What a key accepts, for example `number > 0 or null`."""
    return _describe(field.annotation, tuple(field.metadata))


def takes_text(field: FieldInfo) -> bool:
    """Whether plain text is a possible value."""
    return any(_bare(option) is str for option in _options(field.annotation))


def takes_list(field: FieldInfo) -> bool:
    """Whether a list is a possible value."""
    return any(typing.get_origin(_bare(option)) is tuple for option in _options(field.annotation))


def _options(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union, or the type itself."""
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if union else (annotation,)


def _bare(annotation: Any) -> Any:
    return typing.get_args(annotation)[0] if typing.get_origin(annotation) is typing.Annotated else annotation


def _describe(annotation: Any, metadata: tuple[Any, ...] = ()) -> str:
    if annotation == Day:
        return "date such as 2010-12-31"
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _describe(arguments[0], metadata + arguments[1:])
    if annotation is type(None):
        return "null"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(option) for option in arguments)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"mapping of {', '.join(annotation.model_fields)}"
    if origin is dict:
        return f"mapping of names to a {_describe(arguments[1])}"
    if origin is tuple and arguments[-1] is not Ellipsis:
        ends = "[first, last]" if arguments[0] == Day else "[low, high]"
        return f"{ends}, each a {_describe(arguments[0])}"
    if origin is tuple:
        filled = "non-empty " if _bound(metadata, "min_length") else ""
        return f"{filled}list of {_describe(arguments[0]).removeprefix('one of ')}"
    if annotation is str and _bound(metadata, "min_length"):
        return "non-empty text"
    return SCALARS[annotation] + _range(metadata)


def _range(metadata: tuple[Any, ...]) -> str:
    """The range that constraints leave, for example ` in [0, 1)`; nothing where there is none."""
    low, above, high, below = (_bound(metadata, name) for name in ("ge", "gt", "le", "lt"))
    if low is above is None:
        return ""
    return f" in {f'({above}' if low is None else f'[{low}'}, {f'{below})' if high is None else f'{high}]'}"


def _bound(metadata: tuple[Any, ...], name: str) -> str | None:
    """The constraint of that name as text, or None."""
    flat = [limit for entry in metadata for limit in (entry.metadata if isinstance(entry, FieldInfo) else [entry])]
    value = next((getattr(limit, name) for limit in flat if hasattr(limit, name)), None)
    return f"{value:g}" if isinstance(value, float) else None if value is None else str(value)
