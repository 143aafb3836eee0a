"""What a configuration key accepts, in words: for error messages and for the reference page."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from jaxppo.config_schema import Config, Day

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
    if origin is tuple:
        repeated = arguments[-1] is Ellipsis
        return f"list of {_describe(arguments[0])}" if repeated else f"list of {len(arguments)}: {_describe(arguments[0])}"
    return SCALARS[annotation] + _range(metadata)


def _range(metadata: tuple[Any, ...]) -> str:
    """The range that constraints leave, for example ` in [0, 1)`; nothing where there is none."""
    flat = [limit for entry in metadata for limit in (entry.metadata if isinstance(entry, FieldInfo) else [entry])]
    low = next((f"[{_number(limit.ge)}" for limit in flat if isinstance(limit, Ge)), None)
    low = low or next((f"({_number(limit.gt)}" for limit in flat if isinstance(limit, Gt)), None)
    high = next((f"{_number(limit.le)}]" for limit in flat if isinstance(limit, Le)), None)
    high = high or next((f"{_number(limit.lt)})" for limit in flat if isinstance(limit, Lt)), None)
    if low and high:
        return f" in {low}, {high}"
    return " that is not empty" if any(isinstance(limit, MinLen) for limit in flat) else ""


def _number(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
