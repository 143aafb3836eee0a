"""NumPy arrays and numbers in pickles that were read as data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from jaxppo.migration.pickled import Name, Record

RECONSTRUCTED = ("numpy._core.multiarray._reconstruct", "numpy.core.multiarray._reconstruct")
FROM_BUFFER = ("numpy._core.numeric._frombuffer", "numpy.core.numeric._frombuffer")
SCALAR = ("numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar")
NAMES = frozenset(("numpy.ndarray", "numpy.dtype", *RECONSTRUCTED, *FROM_BUFFER, *SCALAR))
"""Names in the pickle of an array."""
KINDS = "biuf"
"""Kinds of numbers that are read: truth values, integers, floats."""


def array_of(value: Any) -> np.ndarray:
    """The array that a record of a pickle stands for, in the order of its rows.

    Raises:
      ValueError: something else, or not as many bytes as its shape needs.
    """
    if not isinstance(value, Record):
        raise ValueError("is no array")
    if value.name in FROM_BUFFER:
        content, dtype, shape, order = value.arguments
        columns_first = order == "F"
    elif value.name in RECONSTRUCTED:
        _, shape, dtype, columns_first, content = value.state
    else:
        raise ValueError(f"is {value.name}, not an array")
    read, sizes = dtype_of(dtype), tuple(shape)
    if not isinstance(content, bytes | bytearray) or not all(isinstance(n, int) and n >= 0 for n in sizes):
        raise ValueError("is an array of something else than numbers")
    if math.prod(sizes) * read.itemsize != len(content):
        raise ValueError(f"is an array {sizes} of {len(content)} bytes")
    return np.frombuffer(bytes(content), read).reshape(sizes, order="F" if columns_first else "C")


def number_of(value: Any) -> float | int:
    """A number, NumPy's own or Python's.

    Raises:
      ValueError: something else.
    """
    if isinstance(value, int | float):
        return value
    if isinstance(value, Record) and value.name in SCALAR:
        dtype, content = value.arguments
        return np.frombuffer(content, dtype_of(dtype), count=1)[0].item()
    raise ValueError("is no number")


def dtype_of(value: Any) -> np.dtype:
    """The type of number that a record of a pickle stands for.

    Raises:
      ValueError: something else, or no type of numbers.
    """
    if not isinstance(value, Record) or value.name != "numpy.dtype":
        raise ValueError(f"is of type {value.text if isinstance(value, Name) else 'unknown'}")
    code = str(value.arguments[0])
    order = str(value.state[1]) if isinstance(value.state, tuple) else "|"
    if code[:1] not in KINDS or not code[1:].isdigit() or order not in "<>|=":
        raise ValueError(f"is of type {code}; numbers are expected")
    return np.dtype(f"{order}{code}" if order in "<>" else code)
