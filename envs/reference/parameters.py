"""Checks of the parameters of problems."""

from __future__ import annotations

import math

BOX_DEVIATIONS = 4.0
"""Standard deviations of the optimal position that the action box holds."""


def checked(name: str, value: float, condition: bool, allowed: str) -> float:
    """Returns `value` as a float.

    Raises:
      ValueError: the condition does not hold, or the value is not finite.
    """
    if not (condition and math.isfinite(value)):
        raise ValueError(f"{name} is {value}; it must be {allowed}")
    return float(value)


def positive(name: str, value: float) -> float:
    """Returns `value` as a float; raises ValueError unless it is finite and above 0."""
    return checked(name, value, value > 0, "finite and > 0")


def counted(name: str, value: int) -> int:
    """Returns `value` as an int; raises ValueError unless it is a whole number >= 1."""
    return int(checked(name, value, value >= 1 and value % 1 == 0, "a whole number >= 1"))


def count_steps(maturity: float, dt: float) -> int:
    """Number of steps of length `dt` in `maturity`.

    Raises:
      ValueError: either is not positive, or the maturity is no whole number of steps.
    """
    positive("maturity", maturity)
    positive("dt", dt)
    n_steps = round(maturity / dt)
    if n_steps < 1 or abs(maturity / dt - n_steps) > 1e-6 * n_steps:
        raise ValueError(f"dt is {dt}; it must divide maturity ({maturity}) into a whole number of steps, >= 1")
    return n_steps
