"""Dropout whose masks are drawn once per path and iteration, so that a rollout and its update see the same network."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def draw_masks(key: jax.Array, rate: jax.Array, n_places: int, width: int) -> jax.Array:
    """Draws the factors of the units at every place of the network: 0, or `1 / (1 - rate)`. Consumes `key`.

    All bars and assets of a path share the factors.

    Args:
      key: randomness of a path.
      rate: `[]` in [0, 1), share of the units that is dropped.
      n_places: places where something is dropped.
      width: units at each.

    Returns:
      `[n_places, width]` float32.

    Reference: Gal and Ghahramani (2016), A theoretically grounded application of dropout in recurrent neural networks,
      section 4. https://arxiv.org/abs/1512.05287
    """
    retained = jax.random.uniform(key, (n_places, width)) >= rate
    return retained / (1.0 - rate)


def drop(x: jax.Array, masks: jax.Array | None, place: int) -> jax.Array:
    """Multiplies the units at a place of the network by their dropout masks.

    Args:
      x: `[P, ..., D]`.
      masks: `[P, n_places, D]` from `draw_masks`; None drops nothing.
      place: number of the place.
    """
    if masks is None:
        return x
    scale = jnp.expand_dims(masks[:, place], range(1, x.ndim - 1))
    return x * scale.astype(x.dtype)
