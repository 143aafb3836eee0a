"""A traced function in operations that ONNX has: the same values, by other primitives of JAX.

What changes, and why:
  - calls (`jit`, custom derivatives and batching rules, checkpoints) are inlined: ONNX has none;
  - a scan of one step is its body: jax2onnx loses shapes within it;
  - a gather of few slices is these slices, and a scatter to few places selections: jax2onnx takes them for others;
  - starts of slices are kept within bounds: a `Slice` counts those below 0 from the end;
  - a selection among booleans is logic: onnxruntime has no `Where` of them;
  - a running sum without sign is one with it, which wraps at the same place: onnxruntime has no `CumSum` of them;
  - what has no elements is a constant: onnxruntime cannot reshape it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

MOST_SLICES = 256
"""Slices of a gather, and places of a scatter, that are written out one by one."""
CALLS = {
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vmap_call": "call",
}
"""Primitives that call a function -> the parameter that it is in."""
SLICES = {"dynamic_slice": 1, "dynamic_update_slice": 2}
"""Primitives that slice -> arrays that they take before the starts."""
SCATTERS = ("scatter", "scatter-add")
IDENTITIES = ("name", "xla_metadata_value")
IN_BOUNDS = (lax.GatherScatterMode.CLIP, lax.GatherScatterMode.PROMISE_IN_BOUNDS)


def plain(function: Callable[..., Sequence[jax.Array]], *like: Any) -> Callable[..., tuple[jax.Array, ...]]:
    """A function of arrays that returns the same as another, in operations that ONNX has.

    Args:
      function: of arrays, returns arrays.
      like: arrays of the shapes and types that it is called with.
    """
    closed = jax.make_jaxpr(function)(*like)
    return lambda *arrays: tuple(_evaluated(closed, arrays))


def _evaluated(closed: Any, arrays: Sequence[Any]) -> list[Any]:
    """What a jaxpr, closed or without constants, says of arrays."""
    jaxpr = getattr(closed, "jaxpr", closed)
    known: dict[Any, Any] = dict(zip(jaxpr.constvars, getattr(closed, "consts", ()), strict=True))
    known |= dict(zip(jaxpr.invars, arrays, strict=True))

    def value(place: Any) -> Any:
        return place.val if isinstance(place, core.Literal) else known[place]

    for step in jaxpr.eqns:
        known |= dict(zip(step.outvars, _applied(step, [value(place) for place in step.invars]), strict=True))
    return [value(place) for place in jaxpr.outvars]


def _applied(step: Any, arrays: list[Any]) -> list[Any]:
    """What one operation says of arrays."""
    name, params, out = step.primitive.name, step.params, [place.aval for place in step.outvars]
    if out and all(0 in getattr(like, "shape", ()) for like in out):
        return [jnp.zeros(like.shape, like.dtype) for like in out]
    if name in CALLS:
        return _evaluated(params[CALLS[name]], arrays)
    if name in IDENTITIES:
        return arrays
    if name == "concatenate":
        return [lax.concatenate([x for x in arrays if 0 not in x.shape], params["dimension"])]
    if name == "scan" and params["length"] == 1:
        return _body(params, arrays)
    if name == "select_n" and out[0].dtype == arrays[0].dtype == bool:
        return [_select(jnp.broadcast_to(arrays[0], out[0].shape), arrays[2], arrays[1])]
    if name == "cumsum" and out[0].dtype == jnp.uint32:
        summed = step.primitive.bind(lax.convert_element_type(arrays[0], jnp.int32), **params)
        return [lax.convert_element_type(summed, jnp.uint32)]
    if name == "gather" and _is_few_slices(step):
        return [_slices(step, *arrays)]
    if name in SCATTERS and _is_few_places(step):
        return [_scattered(step, *arrays)]
    if name in SLICES:  # of an array, or of one with an update
        n_given = SLICES[name]
        sizes = params["slice_sizes"] if n_given == 1 else arrays[1].shape
        arrays = [*arrays[:n_given], *_within(arrays[n_given:], arrays[0].shape, sizes)]
    found = step.primitive.bind(*arrays, **{key: _rewritten(value) for key, value in params.items()})
    return list(found) if step.primitive.multiple_results else [found]


def _rewritten(param: Any) -> Any:
    """A parameter of an operation: functions in it (bodies of loops, branches) are rewritten."""
    if type(param) is tuple:  # not one with names, such as the numbers of axes
        return tuple(_rewritten(one) for one in param)
    if not isinstance(param, core.ClosedJaxpr):
        return param
    return jax.make_jaxpr(lambda *arrays: _evaluated(param, arrays))(*param.in_avals)


def _body(params: dict[str, Any], arrays: list[Any]) -> list[Any]:
    """A scan of one step."""
    n_carried, first = params["num_carry"], params["num_consts"] + params["num_carry"]
    found = _evaluated(params["jaxpr"], [*arrays[:first], *(x[0] for x in arrays[first:])])
    return [*found[:n_carried], *(x[None] for x in found[n_carried:])]


def _select(where: Any, one: Any, other: Any) -> Any:
    """`one` where `where` holds, else `other`; all of one shape."""
    return (where & one) | (~where & other) if one.dtype == bool else lax.select(where, one, other)


def _within(starts: Sequence[Any], shape: Sequence[int], sizes: Sequence[int]) -> list[Any]:
    """Starts of a slice, moved so that it lies within an array."""
    last = [n - size for n, size in zip(shape, sizes, strict=True)]
    return [jnp.clip(start, 0, most) for start, most in zip(starts, last, strict=True)]


def _is_few_slices(step: Any) -> bool:
    """Whether a gather takes few slices, all of them within bounds."""
    return step.params["mode"] in IN_BOUNDS and int(np.prod(step.invars[1].aval.shape[:-1])) <= MOST_SLICES


def _slices(step: Any, array: Any, starts: Any) -> Any:
    """A gather, slice by slice."""
    numbers, batch, out = step.params["dimension_numbers"], starts.shape[:-1], step.outvars[0].aval
    dropped = tuple(int(axis) for axis in (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims))
    batched = [(int(a), int(b)) for a, b in _pairs(numbers.operand_batching_dims, numbers.start_indices_batching_dims)]
    found = []
    for place in np.ndindex(*batch):
        first = [jnp.zeros((), starts.dtype)] * array.ndim
        for number, axis in enumerate(numbers.start_index_map):
            first[int(axis)] = starts[(*place, number)]
        for axis, of_batch in batched:
            first[axis] = jnp.asarray(place[of_batch], starts.dtype)
        first = _within(first, array.shape, step.params["slice_sizes"])
        found.append(lax.squeeze(lax.dynamic_slice(array, first, step.params["slice_sizes"]), dropped))
    stacked = jnp.stack(found).reshape(*batch, *found[0].shape)
    offsets = [int(axis) for axis in numbers.offset_dims]
    order = [axis for axis in range(out.ndim) if axis not in offsets] + offsets
    return lax.transpose(stacked, [order.index(axis) for axis in range(out.ndim)])


def _places(numbers: Any, starts: Any) -> list[int]:
    """Axes of the indices of a scatter that number its places, without those of a batch and the last one."""
    return [axis for axis in range(starts.ndim - 1) if axis not in numbers.scatter_indices_batching_dims]


def _is_few_places(step: Any) -> bool:
    """Whether a scatter writes to few places of one axis, in every element of a batch, or nowhere."""
    numbers, starts = step.params["dimension_numbers"], step.invars[1].aval
    axes = numbers.scatter_dims_to_operand_dims
    return (
        len(axes) == 1
        and tuple(axes) == tuple(numbers.inserted_window_dims)
        and int(np.prod([starts.shape[axis] for axis in _places(numbers, starts)])) <= MOST_SLICES
        and step.params["mode"] == lax.GatherScatterMode.FILL_OR_DROP
    )


def _scattered(step: Any, array: Any, starts: Any, update: Any) -> Any:
    """A scatter to few places, one after the other."""
    numbers = step.params["dimension_numbers"]
    axes, windows = _places(numbers, starts), numbers.update_window_dims
    of_starts = [axis for axis in range(update.ndim) if axis not in windows]
    for place in np.ndindex(*(starts.shape[axis] for axis in axes)):
        one, value = starts, update
        for axis, number in zip(axes, place, strict=True):
            one = lax.slice_in_dim(one, number, number + 1, axis=axis)
            value = lax.slice_in_dim(value, number, number + 1, axis=of_starts[axis])
        array = _placed(step, array, one, value)
    return array


def _placed(step: Any, array: Any, starts: Any, update: Any) -> Any:
    """A scatter to one place, as a selection by its number along the axis."""
    numbers = step.params["dimension_numbers"]
    axis = int(numbers.scatter_dims_to_operand_dims[0])
    batched = {int(a): int(b) for a, b in _pairs(numbers.operand_batching_dims, numbers.scatter_indices_batching_dims)}
    windows = [int(one) for one in numbers.update_window_dims]
    of_starts = [one for one in range(update.ndim) if one not in windows]  # in the order of the axes of `starts`
    whole = [one for one in range(array.ndim) if one != axis and one not in batched]
    order = [
        of_starts[batched[one]] if one in batched else windows[whole.index(one)]
        for one in range(array.ndim)
        if one != axis
    ]
    shape = tuple(1 if one == axis else n for one, n in enumerate(array.shape))
    order += [one for one in of_starts if one not in order]
    update = lax.transpose(update, order).reshape(shape)
    number = starts[..., 0]
    order = list(batched.values()) + [one for one in range(number.ndim) if one not in batched.values()]
    number = lax.transpose(number, order).reshape([n if one in batched else 1 for one, n in enumerate(array.shape)])
    here = lax.broadcasted_iota(starts.dtype, array.shape, axis) == jnp.broadcast_to(number, array.shape)
    update = jnp.broadcast_to(update, array.shape).astype(array.dtype)
    return _select(here, array + update if step.primitive.name == "scatter-add" else update, array)


def _pairs(axes: Sequence[Any], others: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Batched axes of an array, in order, with those of its indices."""
    return sorted(zip(axes, others, strict=True))
