"""Hints to XLA's CPU compiler about the boundaries of its kernels; they change no result.

XLA's CPU backend makes one kernel per stored array and repeats cheap inputs in each: fifty additions that ten arrays
read are computed ten times. It does not look into calls, so a marked call is computed once. A loop whose state exceeds
a kilobyte becomes a call per array and iteration; the mark of XLA's own `SmallWhileLoopHoistingPass` makes the whole
loop one kernel. Other devices have kernels of several results and need neither.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata

from jaxppo.envs.market import streaming

Result = TypeVar("Result")


def platform() -> str:
    """Platform, such as "cpu", that a program is traced for: of `jax.default_device`, else JAX's default backend."""
    device = jax.config.jax_default_device  # type: ignore[attr-defined]  # JAX defines it as it is imported
    if device is None:
        return jax.default_backend()
    return device if isinstance(device, str) else device.platform


def traced_for(device: jax.Device, function: Callable[..., Result]) -> Callable[..., Result]:
    """A function whose programs are those of a device, whatever JAX's default device is.

    Args:
      device: that runs it, also one to compile for that this machine does not have.
      function: pure function of arrays, which is compiled as a whole.
    """

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Result:
        if platform() == device.platform:
            return function(*arguments, **keywords)
        with jax.default_device(device):
            return function(*arguments, **keywords)

    return call


def compiled(function: Callable[..., Result], *, inline: bool = True, **options: Any) -> Callable[..., Result]:
    """Compiles a function once for each shape where it is called outside of a program.

    `lax.cond` and `lax.scan` compile their branches and bodies anew at every such call. Within a stream
    (`jaxppo.envs.market.streaming`) it is traced in place: what it remembers lies outside of it. Numbers are arrays
    there too, so that both compute with the same digits.

    Args:
      function: pure function of arrays.
      inline: whether it leaves no trace within a program.
      **options: of `jax.jit`.
    """
    jitted = jax.jit(function, inline=inline, **options)
    names = inspect.signature(function)
    static = {list(names.parameters)[place] for place in _several(options.get("static_argnums"))}
    static |= set(_several(options.get("static_argnames")))

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Result:
        if streaming.current() is None:
            return jitted(*arguments, **keywords)
        given = names.bind(*arguments, **keywords)
        traced = {name: _as_array(x) for name, x in given.arguments.items() if name not in static}
        given.arguments.update(traced)
        return function(*given.args, **given.kwargs)

    return call


def _several(x: Any) -> tuple[Any, ...]:
    """Static arguments as `jax.jit` is told of them: one, several or none."""
    return () if x is None else (x,) if isinstance(x, int | str) else tuple(x)


def _as_array(x: Any) -> Any:
    """A number as the array that a compiled function is given."""
    return jnp.asarray(x) if isinstance(x, int | float) else x


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
"""Operations that one kernel may hold; library calls, sorting and scattering are not among them."""


def once(function: Callable[..., Result], *arguments: Any) -> Result:
    """Calls a function whose results many arrays read, so that it is computed once.

    Args:
      function: pure function of arrays.
      arguments: pytrees of arrays.
    """
    if platform() != "cpu":
        return function(*arguments)
    return set_xla_metadata(jax.jit(function)(*arguments), inlineable="false")


def rounded(x: jax.Array) -> jax.Array:
    """A product that is added to something, rounded first: `x`, but the largest number for infinity.

    Compilers contract `a * b + c` to one operation without the rounding between, in one program and not in the next.
    They do not look through a bound that no number passes.

    Args:
      x: floating point, any shape.
    """
    largest = float(jnp.finfo(x.dtype).max)
    return jnp.clip(x, -largest, largest)


def in_one(function: Callable[..., Result], *arguments: Any) -> Result:
    """Calls a function as one kernel where it consists of `SIMPLE` operations only.

    Meant for loops of many small steps, such as thousands of bars of a few hundred accounts.

    Args:
      function: pure function of arrays.
      arguments: pytrees of arrays.
    """
    if platform() != "cpu":
        return function(*arguments)
    if not set(_operations(jax.make_jaxpr(function)(*arguments).jaxpr)) <= SIMPLE:
        return function(*arguments)
    return set_xla_metadata(jax.jit(function)(*arguments), inlineable="false", xla_cpu_small_call="true")


def _operations(jaxpr: Any) -> Iterator[str]:
    """Names of all operations of a jaxpr, nested ones included."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program):
            if _is_program(inner):
                yield from _operations(getattr(inner, "jaxpr", inner))


def _is_program(x: Any) -> bool:
    return hasattr(x, "eqns")
