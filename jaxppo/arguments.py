"""Ranges of arguments, written once in the signature of a factory: Python calls and configuration files check them.

`Annotated` types for signatures, such as `target: PositiveRatio`; `checked`, which refuses a call with a value outside
them; `describe`, what they allow in words. `jaxppo.config` derives configuration keys from the same signatures.
"""

from __future__ import annotations

import collections.abc
import contextlib
import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ParamSpec, TypeVar

import jax
import pydantic
from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo

P = ParamSpec("P")
T = TypeVar("T")

SMALLEST, LARGEST = 1e-9, 1e15
"""Bounds of every number that is not 0: float32 arithmetic beyond them loses its digits or overflows."""
LONGEST_SHOWN = 100

PositiveInt = Annotated[int, Field(ge=1, le=2**20)]
NonNegativeInt = Annotated[int, Field(ge=0, le=2**20)]
AtLeastTwo = Annotated[int, Field(ge=2, le=2**20)]
AtLeastThree = Annotated[int, Field(ge=3, le=2**20)]
BoundedInt = Annotated[int, Field(ge=1, le=256)]
Delay = Annotated[int, Field(ge=1, le=1000)]
EpisodeLength = Annotated[int, Field(ge=1, le=2**30)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PriceOffset = Annotated[float, Field(ge=-0.5, le=0.5)]
DelistingReturn = Annotated[float, Field(ge=-1.0, le=10.0)]
OpenFraction = Annotated[float, Field(ge=1e-6, le=0.999999)]
PositiveFraction = Annotated[float, Field(ge=1e-6, le=1.0)]
ProperFraction = Annotated[float, Field(ge=0.0, le=0.999999)]
TailLevel = Annotated[float, Field(ge=0.5, le=0.999)]

NonNegativeFloat = Annotated[float, Field(ge=0.0, le=LARGEST)]
PositiveFloat = Annotated[float, Field(ge=SMALLEST, le=LARGEST)]
NonNegativeRatio = Annotated[float, Field(ge=0.0, le=1e6)]
PositiveRatio = Annotated[float, Field(ge=1e-6, le=1e6)]
Ratio = Annotated[float, Field(ge=-1e6, le=1e6)]
Multiple = Annotated[float, Field(ge=1.0, le=1e6)]
PositiveCoefficient = Annotated[float, Field(ge=1e-6, le=1000.0)]
Coefficient = Annotated[float, Field(ge=0.0, le=1000.0)]
Factor = Annotated[float, Field(ge=0.1, le=10.0)]
Cash = Annotated[float, Field(ge=1e-4, le=LARGEST)]
Leverage = Annotated[float, Field(ge=1e-4, le=1000.0)]
BasisPoints = Annotated[float, Field(ge=0.0, le=1000.0)]
Charge = Annotated[float, Field(ge=0.0, le=1e6)]
CostFactor = Annotated[float, Field(ge=0.0, le=100.0)]
YearlyRate = Annotated[float, Field(ge=0.0, le=10.0)]
Power = Annotated[float, Field(ge=0.0, le=4.0)]

Numbers = Annotated[tuple[float, ...], Field(min_length=1)]
Text = Annotated[str, Field(min_length=1)]
Day = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2})?(Z|[+-]\d{2}:?\d{2})?)?$")]
Date = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]

OWN_NAME = "module:function"
"""What stands for the name of a user's own code."""
OWN_NAME_PATTERN = r"^[^\W\d][\w.]*:[^\W\d]\w*$"
LONGEST_OWN_NAME = 200
OwnName = Annotated[str, Field(pattern=OWN_NAME_PATTERN, max_length=LONGEST_OWN_NAME)]


class _CodeOnly:
    """Marks an argument that no configuration key sets."""


CodeOnly = Annotated[T, _CodeOnly()]
"""An argument that code sets and a configuration file does not, such as the symbols of a market."""


def is_code_only(annotation: Any) -> bool:
    """Whether an annotation is a `CodeOnly`."""
    return any(isinstance(entry, _CodeOnly) for entry in getattr(annotation, "__metadata__", ()))


def checked(factory: Callable[P, T]) -> Callable[P, T]:
    """Refuses calls of a factory whose arguments are outside the ranges of their annotations.

    Arguments are passed on as they are. Tracers and arrays other than scalars pass unchecked: their values are not
    known, or not one.

    Args:
      factory: any function; arguments whose annotation is no number, text or collection of them are not checked.

    Returns:
      The factory, which now raises a ValueError that names the argument, its value and what is allowed.
    """
    signature = inspect.signature(factory)

    @functools.wraps(factory)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        check(factory, signature.bind(*args, **kwargs).arguments)
        return factory(*args, **kwargs)

    return call


def check(factory: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Checks values against the annotations of a function, or of the fields of a NamedTuple.

    Args:
      factory: the function, or the class of a NamedTuple.
      arguments: name -> value; names without an annotation are not checked.

    Raises:
      ValueError: names the argument, its value and what is allowed.
    """
    validators = _validators(factory)
    for name, value in arguments.items():
        unknown = isinstance(value, jax.core.Tracer) or (isinstance(value, jax.Array) and value.ndim > 0)
        if name not in validators or unknown:
            continue
        allowed, validator = validators[name]
        try:
            # Text that looks like a number is no number.
            validator.validate_python(value, strict=isinstance(value, str))
        except pydantic.ValidationError:
            shown = repr(value)
            shown = shown if len(shown) <= LONGEST_SHOWN else shown[:LONGEST_SHOWN] + " ..."
            raise ValueError(f"{name} is {shown}; allowed: {allowed}") from None


@functools.cache
def _validators(factory: Callable[..., Any]) -> dict[str, tuple[str, pydantic.TypeAdapter]]:
    """What is allowed, and validator, of each argument whose type can be described."""
    found = {}
    for name, annotation in argument_types(factory).items():
        with contextlib.suppress(KeyError):  # an array, a callable
            found[name] = describe(annotation, null="None"), pydantic.TypeAdapter(annotation)
    return found


def argument_types(factory: Callable[..., Any]) -> dict[str, Any]:
    """Name and annotation, ranges included, of each argument of a function or class, or field of a NamedTuple."""
    typed = inspect.unwrap(factory)
    if isinstance(typed, type) and not (hasattr(typed, "_fields") or dataclasses.is_dataclass(typed)):
        typed = inspect.unwrap(typed.__init__)  # type: ignore[misc]
    hints = typing.get_type_hints(typed, include_extras=True)
    return {name: hints[name] for name in parameters_of(factory) if name in hints}


def parameters_of(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Name -> parameter of a function or class; of a `flax.nnx.Module`, whose calls go through its metaclass, too."""
    if isinstance(factory, type) and type(factory).__call__ is not type.__call__:
        return dict(list(inspect.signature(factory.__init__).parameters.items())[1:])  # type: ignore[misc]
    return inspect.signature(factory).parameters


SCALARS: dict[Any, str] = {
    int: "whole number",
    float: "number",
    bool: "true or false",
    str: "text",
    Any: "value",
}


def describe(annotation: Any, metadata: tuple[Any, ...] = (), *, null: str = "null") -> str:
    """Says what a type allows, for example `number in (0, 1] or null`.

    Args:
      annotation: the type.
      metadata: constraints beside those in the annotation.
      null: word for None.

    Raises:
      KeyError: a type that is no number, text or collection of them, such as an array.
    """
    if annotation in (Day, Date):
        return "date such as 2010-12-31"
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return describe(arguments[0], metadata + arguments[1:], null=null)
    if annotation is type(None):
        return null
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(option, null=null) for option in arguments)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        written = getattr(annotation, "written_names", None)  # of an item of a list
        return f"mapping of {', '.join(annotation.model_fields if written is None else written())}"
    if isinstance(annotation, type) and hasattr(annotation, "_fields"):
        fields = {name: describe(field, null=null) for name, field in argument_types(annotation).items()}
        return f"tuple of {', '.join(fields)}"
    if origin in (dict, collections.abc.Mapping):
        chosen, value = (describe(argument, null=null).removeprefix("one of ") for argument in arguments)
        if typing.get_origin(arguments[0]) is typing.Literal:
            return f"mapping of {chosen} to {value}"
        return f"mapping of names to a {value}"
    if origin is tuple and arguments[-1] is not Ellipsis:
        if arguments[0] == Text:
            return f"list of {len(arguments)}, each a {describe(arguments[0], null=null)}"
        ends = "[first, last]" if arguments[0] == Day else "[low, high]"
        return f"{ends}, each a {describe(arguments[0], null=null)}"
    if origin in (tuple, collections.abc.Sequence):
        filled = "non-empty " if _bound(metadata, "min_length") else ""
        return f"{filled}list of {describe(arguments[0], null=null).removeprefix('one of ')}"
    if annotation is str and _bound(metadata, "min_length"):
        return "non-empty text"
    if annotation is str and _bound(metadata, "pattern") == OWN_NAME_PATTERN:
        return OWN_NAME
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
