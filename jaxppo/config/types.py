"""Every key of a configuration, and what it accepts in words: for error messages and for the reference page."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from jaxppo.arguments import describe
from jaxppo.config.items import Item, item_of
from jaxppo.config.schema import Config


def keys(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Walks all dotted keys that hold a value, in the order of the configuration.

    Args:
      model: where to begin.
      prefix: begins every key.

    Yields:
      Key and field.
    """
    for name, field in model.model_fields.items():
        section = _section(field)
        if section is not None:
            yield from keys(section, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def sections(model: type[BaseModel] = Config, prefix: str = "") -> dict[str, type[BaseModel]]:
    """Finds every section, under dotted names those that are inside another.

    Args:
      model: where to begin.
      prefix: begins every name.

    Returns:
      Name and model.
    """
    found: dict[str, type[BaseModel]] = {}
    for name, field in model.model_fields.items():
        if (section := _section(field)) is not None:
            found |= {prefix + name: section, **sections(section, f"{prefix}{name}.")}
    return found


def lists() -> dict[str, type[Item]]:
    """Name and item of every list of named transforms."""
    found = {name: item_of(field.annotation) for name, field in Config.model_fields.items()}
    return {name: item for name, item in found.items() if item is not None}


def all_lists() -> dict[str, type[Item]]:
    """`lists`, and under dotted names those that are keys of a section."""
    inner = {
        f"{section}.{name}": item_of(field.annotation)
        for section, model in sections().items()
        for name, field in model.model_fields.items()
    }
    return lists() | {name: item for name, item in inner.items() if item is not None}


def nested(model: type[BaseModel], path: Sequence[Any]) -> dict[str, FieldInfo]:
    """Finds the fields of the innermost mapping on the way to a location.

    Args:
      model: where the way begins.
      path: names and numbers of the location's parent.
    """
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


def _section(field: FieldInfo) -> type[BaseModel] | None:
    """The model of a field that is a mapping of keys."""
    found = field.annotation
    return found if isinstance(found, type) and issubclass(found, BaseModel) else None


def accepted(field: FieldInfo) -> str:
    """What a key accepts, for example `number in (0, 1] or null`."""
    return describe(field.annotation, tuple(field.metadata))


def takes_text(field: FieldInfo) -> bool:
    """Whether plain text is a possible value."""
    return any(_bare(option) is str for option in _options(field.annotation))


def is_whole_field(field: FieldInfo) -> bool:
    """Whether whole numbers are the only value beside null."""
    return {_bare(option) for option in _options(field.annotation)} - {type(None)} == {int}


def is_number(field: FieldInfo) -> bool:
    """Whether numbers are the only values beside null."""
    return {_bare(option) for option in _options(field.annotation)} - {type(None)} <= {int, float}


def takes_texts(field: FieldInfo) -> bool:
    """Whether a list of texts is the only value beside null."""
    lists_ = [_bare(option) for option in _options(field.annotation) if option is not type(None)]
    return len(lists_) == 1 and typing.get_origin(lists_[0]) is tuple and _bare(typing.get_args(lists_[0])[0]) is str


def takes_list(field: FieldInfo) -> bool:
    """Whether a list is a possible value."""
    return any(typing.get_origin(_bare(option)) is tuple for option in _options(field.annotation))


def _options(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union, or the type itself."""
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if union else (annotation,)


def _bare(annotation: Any) -> Any:
    return typing.get_args(annotation)[0] if typing.get_origin(annotation) is typing.Annotated else annotation
