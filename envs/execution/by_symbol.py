"""Numbers that all assets share, or that each has for itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jaxppo.arguments import OpenFraction, PositiveFloat, PositiveFraction, PriceOffset

PerSymbol = PositiveFloat | Mapping[str, PositiveFloat]
"""A number for all symbols, or one for each that is named."""
PerSymbolFraction = OpenFraction | Mapping[str, OpenFraction]
"""Likewise, of fractions in (0, 1)."""
PerSymbolShare = PositiveFraction | Mapping[str, PositiveFraction]
"""Likewise, of fractions in (0, 1]."""
PerSymbolOffset = PriceOffset | Mapping[str, PriceOffset]
"""Likewise, of distances from a price, of either sign."""


def given(value: float | None) -> Any:
    """A number as an array `[]`; `()` for None."""
    return () if value is None else jnp.asarray(value, jnp.float32)


def of_symbols(name: str, value: float | Mapping[str, float] | None, symbols: tuple[str, ...]) -> Any:
    """A number for all assets, `[]`, or one of each, `[A]`, 0 where none is named; `()` for None.

    Args:
      name: of the argument, for messages.
      value: as the argument has it.
      symbols: of the market's assets, in order.

    Raises:
      ValueError: a symbol that is not among them.
    """
    if not isinstance(value, Mapping):
        return given(value)
    unknown = sorted({*value} - {*symbols})
    if unknown:
        known = ", ".join(symbols[:8]) or "no symbols"
        raise ValueError(f"{name} has a value for {unknown[0]}; the market has {known}")
    return jnp.asarray([value.get(symbol, 0.0) for symbol in symbols], jnp.float32)
