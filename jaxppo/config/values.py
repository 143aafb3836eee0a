"""Numbers and texts that keys of a configuration may hold, and what all its sections have in common."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

LARGEST = 1e15
"""Bound of every number: float32 arithmetic on larger ones overflows."""


def _whole(value: Any) -> Any:
    """Accepts `1e6` where a whole number is asked for."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Positive = Annotated[int, Field(ge=1, le=2**20)]
BoundedInt = Annotated[int, Field(ge=1, le=256)]
Bars = Annotated[int, Field(ge=0, le=2**20)]
Budget = Annotated[int, BeforeValidator(_whole), Field(ge=1, le=10**15)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0, le=LARGEST)]
PositiveFloat = Annotated[float, Field(gt=0.0, le=LARGEST)]
Factor = Annotated[float, Field(ge=0.1, le=10.0)]
Power = Annotated[float, Field(ge=0.0, le=4.0)]
Text = Annotated[str, Field(min_length=1)]
Day = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2})?(Z|[+-]\d{2}:?\d{2})?)?$")]
Share = Annotated[float, Field(gt=0.0, lt=1.0)]


class Section(BaseModel):
    """Frozen and strict; an unknown key is a mistake."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )
