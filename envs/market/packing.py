"""Many small arrays as few: a kernel that writes ten results is launched ten times on an accelerator."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.envs.market.kernels import platform


class Layout(NamedTuple):
    """Where the leaves of a pytree lie in its vectors.

    Attributes:
      structure: of the pytree.
      shapes: of its leaves.
      dtypes: of its leaves.
      vectors: vector that each leaf is a part of; the parts are in the order of the leaves.
    """

    structure: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]
    vectors: tuple[int, ...]


class Packed(struct.PyTreeNode):
    """A pytree as few vectors: one of its floats, integers and bools of at most 32 bits each, one of any other dtype.

    Attributes:
      vectors: `[..., n]` each.
      layout: of the pytree.
    """

    vectors: tuple[jax.Array, ...]
    layout: Layout = struct.field(pytree_node=False)


def pack(tree: Any) -> Packed:
    """Joins the leaves of a pytree. Integers go by their bits, so that nothing is rounded.

    Args:
      tree: pytree of arrays of any shapes.
    """
    leaves, structure = jax.tree.flatten(tree)
    dtypes = tuple(jax.dtypes.result_type(x) for x in leaves)
    words = [_into_word(jnp.ravel(x)) for x in leaves]
    distinct = list(dict.fromkeys(x.dtype for x in words))
    vectors = tuple(jnp.concatenate([x for x in words if x.dtype == one]) for one in distinct)
    places = tuple(distinct.index(x.dtype) for x in words)
    return Packed(vectors, Layout(structure, tuple(map(jnp.shape, leaves)), dtypes, places))


def unpack(packed: Packed) -> Any:
    """The pytree of what `pack` joined; of vectors `[..., n]`, leaves `[..., *shape]`.

    Args:
      packed: from `pack`, stacked or batched.
    """
    layout, ends, leaves = packed.layout, [0] * len(packed.vectors), []
    for shape, dtype, number in zip(layout.shapes, layout.dtypes, layout.vectors, strict=True):
        vector, first = packed.vectors[number], ends[number]
        ends[number] = first + math.prod(shape)
        leaf = vector[..., first : ends[number]].reshape(*vector.shape[:-1], *shape)
        leaves.append(_from_word(leaf, dtype))
    return jax.tree.unflatten(layout.structure, leaves)


def _into_word(x: jax.Array) -> jax.Array:
    if x.dtype == bool:
        return x.astype(jnp.float32)
    return jax.lax.bitcast_convert_type(x, jnp.float32) if x.dtype in (jnp.int32, jnp.uint32) else x


def _from_word(x: jax.Array, dtype: Any) -> jax.Array:
    if dtype in (jnp.int32, jnp.uint32):
        return jax.lax.bitcast_convert_type(x, dtype)
    return x if x.dtype == dtype else x != 0


def pack_parts(tree: Any, like: Any) -> Any:
    """Packs the parts of a pytree that have the structure of another, such as moments of parameters.

    Args:
      tree: pytree.
      like: pytree.
    """
    structure: Any = jax.tree.structure(like)

    def alike(part: Any) -> bool:
        return bool(structure == jax.tree.structure(part))

    return jax.tree.map(lambda part: pack(part) if alike(part) else part, tree, is_leaf=alike)


def unpack_parts(tree: Any) -> Any:
    """Unpacks what `pack_parts` packed."""

    def packed(part: Any) -> bool:
        return isinstance(part, Packed)

    return jax.tree.map(lambda part: unpack(part) if packed(part) else part, tree, is_leaf=packed)


def packed_scan(step: Callable[[Any, Any], tuple[Any, Any]], start: Any, rows: Any) -> tuple[Any, Any]:
    """`jax.lax.scan` of a step with many small results: on a GPU, what it carries and returns is packed.

    Args:
      step: `(carry, row) -> (carry, result)`.
      start: carry before the first row.
      rows: pytree of arrays `[S, ...]`.

    Returns:
      The last carry, and the results `[S, ...]`.
    """
    if platform() != "gpu":
        return jax.lax.scan(step, start, rows)

    def one(carry: Packed, row: Packed) -> tuple[Packed, Packed]:
        carried, result = step(unpack(carry), unpack(row))
        return pack(carried), pack(result)

    last, results = jax.lax.scan(one, pack(start), jax.vmap(pack)(rows))
    return unpack(last), unpack(results)
