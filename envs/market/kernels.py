"""Where the kernels of a CPU begin and end: hints to its compiler that change no formula.

XLA makes one kernel of every array that is kept, and repeats in it what the array is made of, as long as that is cheap:
a chain of fifty additions and comparisons that ten arrays read is computed ten times. It does not look into a call.
Kernels of loops whose state is larger than a kilobyte are called one by one, for every array and every pass; a call
that is marked is one kernel instead, loops and all (the mark is that of XLA's own `SmallWhileLoopHoistingPass`).
Other devices have kernels of several results, and no use for either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
from jax.experimental.xla_metadata import set_xla_metadata

Result = TypeVar("Result")

# fmt: off
SIMPLE = frozenset({
    "abs", "add", "and", "broadcast_in_dim", "ceil", "clamp", "concatenate", "cond", "convert_element_type", "copy",
    "cos", "custom_jvp_call", "custom_vmap_call", "div", "dynamic_slice", "dynamic_update_slice", "eq", "exp",
    "exp2", "expm1", "floor", "ge", "gt", "integer_pow", "iota", "is_finite", "jit", "le", "log", "log1p",
    "logistic", "lt", "max", "min", "mul", "ne", "neg", "not", "or", "pad", "pow", "reduce_and", "reduce_max",
    "reduce_min", "reduce_or", "reduce_sum", "rem", "reshape", "round", "rsqrt", "scan", "select_n", "sign", "sin",
    "slice", "sqrt", "square", "squeeze", "stack", "stop_gradient", "sub", "tanh", "transpose", "while",
    "xla_metadata_value", "xor",
})
# fmt: on
"""Operations that one kernel can consist of; not among them: calls of libraries, sorting, scattering."""


def once(function: Callable[..., Result], *arguments: Any) -> Result:
    """`function(*arguments)`, computed once for all who read it.

    Args:
      function: of arrays, pure.
      arguments: pytrees of arrays.
    """
    if jax.default_backend() != "cpu":
        return function(*arguments)
    return set_xla_metadata(jax.jit(function)(*arguments), inlineable="false")


def in_one(function: Callable[..., Result], *arguments: Any) -> Result:
    """`function(*arguments)`, computed by one kernel where it consists of `SIMPLE` operations.

    For loops of many small steps: thousands of bars of a few hundred accounts. Takes the arguments of `once`.
    """
    if jax.default_backend() != "cpu":
        return function(*arguments)
    if not set(_operations(jax.make_jaxpr(function)(*arguments).jaxpr)) <= SIMPLE:
        return function(*arguments)
    return set_xla_metadata(jax.jit(function)(*arguments), inlineable="false", xla_cpu_small_call="true")


def _operations(jaxpr: Any) -> Iterator[str]:
    """Names of all operations of a program, inner ones included."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program):
            if _is_program(inner):
                yield from _operations(getattr(inner, "jaxpr", inner))


def _is_program(x: Any) -> bool:
    return hasattr(x, "eqns")
