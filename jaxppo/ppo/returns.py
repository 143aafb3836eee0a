"""Advantages and value targets of one trajectory."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def generalised_advantage_estimation(
    r_t: jax.Array, discount_t: jax.Array, v_tm1: jax.Array, v_t: jax.Array, trace_t: jax.Array, lambda_: float
) -> jax.Array:
    """Generalised advantage estimation, unbatched.

    `A_{t-1} = delta_t + discount_t lambda trace_t A_t`, `delta_t = r_t + discount_t v_t - v_{t-1}`.

    Values before and after each transition are separate arguments: a truncated transition bootstraps from the value of
    its *final* observation in `v_t` with `trace_t = 0`, which the value of the next episode's first state cannot
    stand in for.

    Args:
      r_t: `[S]` rewards.
      discount_t: `[S]` gamma, or 0 where the transition terminated.
      v_tm1: `[S]` values of the states acted in.
      v_t: `[S]` values of the states arrived at, before any reset.
      trace_t: `[S]` 1, or 0 where the transition ends an episode (terminated or truncated).
      lambda_: in [0, 1].

    Returns:
      `[S]` advantages; value targets are `advantage + v_tm1`.

    References:
      Schulman et al. (2016), eq. 16. https://arxiv.org/abs/1506.02438
    """
    delta_t = r_t + discount_t * v_t - v_tm1

    def backward(advantage: jax.Array, xs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        delta, weight = xs
        advantage = delta + weight * advantage
        return advantage, advantage

    weights = discount_t * lambda_ * trace_t
    _, advantages = jax.lax.scan(backward, jnp.zeros_like(delta_t[0]), (delta_t, weights), reverse=True)
    return advantages
