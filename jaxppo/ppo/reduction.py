"""What the pieces of a batch add up to: over micro-batches on one device, then over the devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxppo.policy.rollout import DATA_AXIS

EXTREMES = {"ratio_max": jnp.maximum, "ratio_min": jnp.minimum}
"""Metrics that are extremes instead of means, and what joins two of them."""
EXTREMES_OF_NOTHING = {"ratio_max": -jnp.inf, "ratio_min": jnp.inf}


def varying(tree: Any) -> Any:
    """Copies, one a device, of what is the same on all devices.

    Derivatives by the copies are those of this device alone. Parameters are copied before they are cast to a lower
    precision: their derivatives would else be summed over the devices in that precision, in every use.

    Args:
      tree: pytree of arrays, in a program that runs on each device of `DATA_AXIS`.
    """
    if DATA_AXIS not in jax.sharding.get_abstract_mesh().manual_axes:
        return tree  # `vmap` knows no difference
    return jax.lax.pcast(tree, DATA_AXIS, to="varying")


def over_devices(metrics: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Metrics `[...]` of all devices from those of each: means, and `EXTREMES`."""
    reduced = jax.lax.pmean({name: x for name, x in metrics.items() if name not in EXTREMES}, DATA_AXIS)
    extremes = {"ratio_max": metrics["ratio_max"], "ratio_min": -metrics["ratio_min"]}
    extremes = jax.lax.pmax(extremes, DATA_AXIS)
    return {**reduced, "ratio_max": extremes["ratio_max"], "ratio_min": -extremes["ratio_min"]}


def accumulate(compute: Callable[[Any], Any], batch: Any, micro_batch: int | None) -> Any:
    """Mean of what is computed of the pieces of a batch, on this device; of `EXTREMES`, the extremes.

    Args:
      compute: piece -> pytree of arrays, a mean over its paths.
      batch: pytree of arrays `[P, ...]`.
      micro_batch: paths of a piece; None takes all at once.
    """
    n_paths = jax.tree.leaves(batch)[0].shape[0]
    micro = n_paths if micro_batch is None else min(micro_batch, n_paths)
    if micro == n_paths:
        return compute(batch)
    pieces = jax.tree.map(lambda x: x.reshape(n_paths // micro, micro, *x.shape[1:]), batch)
    shapes = jax.eval_shape(compute, jax.tree.map(lambda x: x[0], pieces))
    start = jax.tree.map_with_path(
        lambda path, s: jnp.full(s.shape, EXTREMES_OF_NOTHING.get(_name(path), 0.0), s.dtype), shapes
    )

    def add(total: Any, piece: Any) -> tuple[Any, None]:
        joined = jax.tree.map_with_path(
            lambda path, a, b: EXTREMES.get(_name(path), jnp.add)(a, b), total, compute(piece)
        )
        return joined, None

    total, _ = jax.lax.scan(add, varying(start), pieces)
    share = micro / n_paths
    return jax.tree.map_with_path(lambda path, x: x if _name(path) in EXTREMES else x * share, total)


def _name(path: tuple[Any, ...]) -> str:
    return str(getattr(path[-1], "key", "")) if path else ""
