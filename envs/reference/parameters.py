"""Checks of the parameters of problems."""

from __future__ import annotations

import math


def checked(name: str, value: float, condition: bool, allowed: str) -> float:
    """Returns a parameter as a float.

    Args:
      name: of the parameter, for the message.
      value: the parameter.
      condition: whether it is in its range.
      allowed: the range in words.

    Raises:
      ValueError: the condition does not hold, or the value is not finite.
    """
    if not (condition and math.isfinite(value)):
        raise ValueError(f"{name} is {value}; it must be {allowed}")
    return float(value)


def positive(name: str, value: float) -> float:
    """Returns a parameter as a float.

    Args:
      name: of the parameter, for the message.
      value: the parameter, finite and > 0; anything else raises ValueError.
    """
    return checked(name, value, value > 0, "finite and > 0")


def non_negative(name: str, value: float) -> float:
    """Returns a parameter as a float.

    Args:
      name: of the parameter, for the message.
      value: the parameter, finite and >= 0; anything else raises ValueError.
    """
    return checked(name, value, value >= 0, "finite and >= 0")


def positive_int(name: str, value: float) -> int:
    """Returns a count as an int.

    Args:
      name: of the parameter, for the message.
      value: the parameter, a whole number >= 1; anything else raises ValueError.
    """
    return int(checked(name, value, value >= 1 and value % 1 == 0, "a whole number >= 1"))


def count_steps(maturity: float, dt: float) -> int:
    """Counts the steps until maturity.

    Args:
      maturity: units of time, > 0.
      dt: length of a step, > 0.

    Raises:
      ValueError: either is not positive, or the maturity is no whole number of steps.
    """
    positive("maturity", maturity)
    positive("dt", dt)
    n_steps = round(maturity / dt)
    if n_steps < 1 or abs(maturity / dt - n_steps) > 1e-6 * n_steps:
        raise ValueError(f"dt is {dt}; it must divide maturity ({maturity}) into a whole number of steps, >= 1")
    return n_steps
