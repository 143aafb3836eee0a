"""PPO's losses, for batches of any shape."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def clipped_surrogate(log_ratio: jax.Array, advantage: jax.Array, clip: float) -> jax.Array:
    """`-min(rho A, clip(rho, 1 - eps, 1 + eps) A)` per sample, `rho = exp(log_ratio)`.

    Args:
      log_ratio: `[...]` log-probability of the action now minus when it was taken.
      advantage: `[...]`.
      clip: eps > 0.

    References:
      Schulman et al. (2017), eq. 7. https://arxiv.org/abs/1707.06347
    """
    ratio = jnp.exp(log_ratio)
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1.0 - clip, 1.0 + clip) * advantage)


def squared_value_error(value: jax.Array, target: jax.Array) -> jax.Array:
    """`(v - target)^2 / 2` per sample."""
    return 0.5 * jnp.square(value - target)


def kl_estimate(log_ratio: jax.Array) -> jax.Array:
    """`rho - 1 - log rho` per sample: unbiased for KL(old || new), never negative (Schulman's k3)."""
    return jnp.expm1(log_ratio) - log_ratio


def clipped_fraction(log_ratio: jax.Array, clip: float) -> jax.Array:
    """1 where the ratio is outside the clip range, else 0, per sample."""
    return (jnp.abs(jnp.expm1(log_ratio)) > clip).astype(jnp.float32)
