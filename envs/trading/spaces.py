"""Spaces that gymnax lacks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from gymnax.environments import spaces


class MultiDiscrete(spaces.Space):
    """A vector of independent choices, `[n]` int32 with entry i in `[0, categories[i])`.

    Args:
      categories: number of choices of each entry, all >= 1.
    """

    def __init__(self, categories: tuple[int, ...]):
        if not categories or min(categories) < 1:
            raise ValueError(f"categories {categories} must be a non-empty tuple of counts >= 1")
        self.categories = tuple(categories)
        self.shape = (len(categories),)
        self.dtype = jnp.int32

    def __repr__(self) -> str:
        return f"MultiDiscrete({self.categories})"

    def sample(self, key: jax.Array) -> jax.Array:
        """Uniform sample, `[n]` int32. Consumes `key`."""
        return jax.random.randint(key, self.shape, 0, jnp.asarray(self.categories), jnp.int32)

    def contains(self, x: jax.Array) -> jax.Array:
        """Whether every entry is in range, `[]` bool."""
        return jnp.all((x >= 0) & (x < jnp.asarray(self.categories)))
