"""A hint to the compiler that changes no formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
from jax.experimental.xla_metadata import set_xla_metadata

Result = TypeVar("Result")


def apart(function: Callable[..., Result], *arguments: object) -> Result:
    """`function(*arguments)`, on a CPU computed once for all who read it.

    Its compiler makes one kernel of every result and repeats in each what it is made of, as long as that is cheap: a
    chain of fifty additions and comparisons that ten results read is computed ten times. It does not look into a call.

    Args:
      function: of arrays, pure.
      arguments: pytrees of arrays.
    """
    if jax.default_backend() != "cpu":
        return function(*arguments)
    return set_xla_metadata(jax.jit(function)(*arguments), inlineable="false")
