"""Configuration keys from the signatures and docstrings of the functions that they are arguments of.

A function says once what an argument is: its annotation is type and range, its default the default, its entry under
`Args:` the text of the reference page. Arguments marked `CodeOnly` are no keys.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import operator
import re
import types
import typing
from collections.abc import Callable
from typing import Any

from pydantic import Field, create_model
from pydantic.fields import FieldInfo

from jaxppo.arguments import argument_types, is_code_only
from jaxppo.config.items import Keys

ENTRY = re.compile(r"^ {2}\*{0,2}(\w+): (.*)")
"""First line of an argument in a docstring without its indentation."""
YAML_WORDS = {"None": "null", "True": "true", "False": "false"}
"""Words of YAML for Python's."""


def keys_of(factory: Callable[..., Any], *, base: type[Keys] = Keys, **changed: Any) -> type[Keys]:
    """Builds the model of the keys that a factory has: those of its arguments that are not `CodeOnly`.

    Args:
      factory: a function, or the class of a NamedTuple.
      base: model whose keys it has as well.
      **changed: name -> (annotation, field) where the key is another than the argument.
    """
    fields: dict[str, Any] = {
        name: changed.get(name) or (_in_yaml(annotation), key_of(factory, name))
        for name, annotation in argument_types(factory).items()
        if not is_code_only(annotation)
    }
    # There is no source to read docstrings of attributes from: pydantic would look for it in every module, for seconds.
    options = {"use_attribute_docstrings": False}
    return create_model(_class_name(factory), __base__=base, __doc__=summary(factory), __cls_kwargs__=options, **fields)


def _in_yaml(annotation: Any) -> Any:
    """The type of a key: the keys of a NamedTuple for the tuple, a dict for any mapping."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if isinstance(annotation, type) and hasattr(annotation, "_fields"):
        return keys_of(annotation)
    if origin is collections.abc.Mapping:
        return types.GenericAlias(dict, (inner[0], _in_yaml(inner[1])))
    if origin in (typing.Union, types.UnionType):
        return functools.reduce(operator.or_, map(_in_yaml, inner))
    return annotation


def key_of(factory: Callable[..., Any], name: str, *, prefix: str = "") -> Any:
    """Builds the field of one key: its range, default and text are those of an argument.

    Args:
      factory: a function, or the class of a NamedTuple.
      name: of the argument.
      prefix: begins the text, such as the case in which the key is read.

    Returns:
      A pydantic field, for `name: float = key_of(factory, "name")` in a model.
    """
    default = inspect.signature(factory).parameters[name].default
    text = texts(factory)[name]
    metadata = FieldInfo.from_annotation(argument_types(factory)[name]).metadata
    bounds: dict[str, Any] = {
        bound: getattr(entry, bound)
        for entry in metadata
        for bound in ("gt", "ge", "lt", "le")
        if hasattr(entry, bound)
    }
    return Field(
        ... if default is inspect.Parameter.empty else default,
        description=prefix + text if prefix else text[:1].upper() + text[1:],
        **bounds,
    )


def summary(factory: Callable[..., Any]) -> str:
    """First paragraph of a docstring, in one line and in the words of YAML."""
    return _of_yaml(" ".join((inspect.getdoc(factory) or "").partition("\n\n")[0].split()))


@functools.cache
def texts(factory: Callable[..., Any]) -> dict[str, str]:
    """Reads name and text of each argument in a docstring (`Args:` or `Attributes:`), in the words of YAML."""
    lines = (inspect.getdoc(factory) or "").splitlines()
    found: dict[str, str] = {}
    name, inside = "", False
    for line in lines:
        if line in ("Args:", "Attributes:"):
            inside = True
        elif inside and line and not line.startswith(" "):
            inside = False
        elif inside and (entry := ENTRY.match(line)):
            name, found[entry[1]] = entry[1], entry[2]
        elif inside and line:
            found[name] += " " + line.strip()
    return {name: _of_yaml(text) for name, text in found.items()}


def _of_yaml(text: str) -> str:
    text = re.sub(r'`"(\w+)"`', r"`\1`", text)
    return re.sub(r"\b(None|True|False)\b", lambda word: YAML_WORDS[word[0]], text)


def _class_name(factory: Callable[..., Any]) -> str:
    return "".join(word.capitalize() for word in factory.__name__.split("_")) + "Keys"
