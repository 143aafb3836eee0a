"""Networks of a user's own, which take the place of the encoder's blocks: tokens of bars in, their memories out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxppo.arguments import parameters_of
from jaxppo.errors import ConfigError
from jaxppo.own_code import Call, OwnCode, call_of, said, type_shown

SHAPE = ("width", "layers", "heads", "window", "expansion")
"""Keys of `policy` that a function gets which takes them."""
GIVEN = (*SHAPE, "dtype", "rngs")
"""All arguments that are no options of it."""


@dataclasses.dataclass(frozen=True)
class OwnNetwork:
    """A network of a user's own (static).

    Attributes:
      make: called with `rngs=nnx.Rngs`; returns a module that is called with tokens `[P, context - 1 + S, A, D]` of
        bars and `listed` `[P, context - 1 + S, A]` bool, and returns the memories `[P, S, A, D]` of the last S bars.
      context: bars that one memory depends on, >= 1: the bar itself and those before it.
    """

    make: Callable[..., Any]
    context: int


def own_network(code: OwnCode, key: str, options: Mapping[str, Any], shape: Mapping[str, Any]) -> OwnNetwork:
    """The network that a function of a user's own makes.

    Args:
      code: the function.
      key: that names it, for messages.
      options: its further arguments, by name.
      shape: `SHAPE` of the policy and `dtype`, the name of the compute dtype; the function gets what it takes of these.

    Raises:
      ConfigError: names the function and what is wrong: an option, an error that it raises, or what it returns.
    """
    where = f"{key} {code.name}"
    call_of(code, key, options, given=GIVEN)
    taken = parameters_of(code.function)
    of_policy = {name: value for name, value in shape.items() if name in taken}
    call = call_of(code, key, {**options, **of_policy}, given=("rngs",))
    make = call if "rngs" in taken else _Drawn(call)
    try:
        module = make(rngs=nnx.Rngs(0))
    except (Exception, SystemExit) as error:  # whatever the code of a user raises is a mistake of the user
        raise ConfigError(f"{where}: {said(error)}") from error
    if not isinstance(module, nnx.Module) or not callable(module):
        raise ConfigError(f"{where} returns {type_shown(module)}; a flax.nnx.Module with a __call__ is expected")
    context = getattr(module, "context", None)
    if type(context) is not int or context < 1:
        raise ConfigError(
            f"{where}: the module's context is {context!r}; the number of bars that one memory depends on is expected, "
            "a whole number >= 1"
        )
    _check_module(where, module, context, shape)
    return OwnNetwork(make, context)


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """A function without randomness, called as if it had some."""

    call: Call

    def __call__(self, rngs: nnx.Rngs) -> Any:
        del rngs
        return self.call()


def _check_module(where: str, module: nnx.Module, context: int, shape: Mapping[str, Any]) -> None:
    """Refuses a module with other state than parameters, or whose memories have another shape."""
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    if other := sorted({type(leaf).__name__ for leaf in jax.tree.leaves(rest, is_leaf=_is_variable)}):
        raise ConfigError(
            f"{where}: the module keeps {', '.join(other)}; only parameters (nnx.Param) are expected, and no "
            "randomness: policy.dropout drops its tokens, an nnx.RNN takes rngs=False and initial_carry"
        )
    try:
        hash(graph)
    except TypeError as error:
        raise ConfigError(f"{where}: what the module keeps beside its parameters must be hashable: {error}") from None
    paths, steps, assets, width = 2, 3, 2, shape["width"]
    tokens = jax.ShapeDtypeStruct((paths, context - 1 + steps, assets, width), jnp.dtype(shape["dtype"]))
    listed = jax.ShapeDtypeStruct(tokens.shape[:-1], bool)
    try:
        found = jax.eval_shape(lambda p, x, there: nnx.merge(graph, p)(x, there), params, tokens, listed)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{where}: called with tokens {list(tokens.shape)}: {said(error)}") from error
    expected = (paths, steps, assets, width)
    if getattr(found, "shape", None) != expected or not jnp.issubdtype(found.dtype, jnp.floating):
        is_ = f"{found.dtype}{list(found.shape)}" if hasattr(found, "shape") else type_shown(found)
        raise ConfigError(
            f"{where}: of tokens {list(tokens.shape)} and a context of {context} bars it makes {is_}; the memories "
            f"{list(expected)} of the last {steps} bars are expected"
        )


def _is_variable(leaf: Any) -> bool:
    return isinstance(leaf, nnx.Variable)


def sliding(x: jax.Array, window: int) -> jax.Array:
    """The window of every bar that has a whole one: what a network that reads windows makes of a chunk.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxppo.policy.networks import sliding
      >>> sliding(jnp.arange(4.0).reshape(1, 4, 1, 1), 3)[0, :, :, 0, 0].tolist()
      [[0.0, 1.0, 2.0], [1.0, 2.0, 3.0]]

    Args:
      x: `[P, window - 1 + S, A, ...]`.
      window: bars of a window, >= 1; the last one is the bar itself.

    Returns:
      `[P, S, window, A, ...]`, of `window` times the size.
    """
    rows = np.arange(x.shape[1] - window + 1)[:, None] + np.arange(window)
    return x[:, rows]
