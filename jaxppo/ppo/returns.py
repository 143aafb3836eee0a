"""Returns and advantages of one trajectory, unbatched.

All take the values before and after each transition as separate arguments: a truncated transition bootstraps from the
value of its *final* observation in `v_t` with `trace_t = 0`, which the value of the next episode's first state cannot
stand in for; a terminated one has `discount_t = 0` as well. After the last transition every estimate bootstraps from
`v_t[-1]`.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp


def generalised_advantage_estimation(
    r_t: jax.Array, discount_t: jax.Array, v_tm1: jax.Array, v_t: jax.Array, trace_t: jax.Array, lambda_: float
) -> jax.Array:
    """`A_{t-1} = delta_t + discount_t lambda trace_t A_t`, `delta_t = r_t + discount_t v_t - v_{t-1}`.

    Args:
      r_t: `[S]` rewards.
      discount_t: `[S]` gamma, or 0 where the transition terminated.
      v_tm1: `[S]` values of the states acted in.
      v_t: `[S]` values of the states arrived at, before any reset.
      trace_t: `[S]` 1, or 0 where the transition ends an episode (terminated or truncated).
      lambda_: in [0, 1].

    Returns:
      `[S]` advantages.

    References:
      Schulman et al. (2016), eq. 16. https://arxiv.org/abs/1506.02438
    """
    chex.assert_rank([r_t, discount_t, v_tm1, v_t, trace_t], 1)
    delta_t = r_t + discount_t * v_t - v_tm1

    def backward(advantage: jax.Array, xs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        delta, weight = xs
        advantage = delta + weight * advantage
        return advantage, advantage

    weights = discount_t * lambda_ * trace_t
    _, advantages = jax.lax.scan(backward, jnp.zeros_like(delta_t[0]), (delta_t, weights), reverse=True)
    return advantages


def lambda_returns(
    r_t: jax.Array, discount_t: jax.Array, v_tm1: jax.Array, v_t: jax.Array, trace_t: jax.Array, lambda_: float
) -> jax.Array:
    """`G_{t-1} = r_t + discount_t ((1 - lambda trace_t) v_t + lambda trace_t G_t)`, `[S]`.

    The advantage of `generalised_advantage_estimation` plus `v_tm1`, which drops out.

    Args:
      r_t: as in `generalised_advantage_estimation`, like the others.
      discount_t: see there.
      v_tm1: see there.
      v_t: see there.
      trace_t: see there.
      lambda_: see there.

    References:
      Sutton and Barto (2018), eq. 12.18 with values that are fixed.
    """
    return v_tm1 + generalised_advantage_estimation(r_t, discount_t, v_tm1, v_t, trace_t, lambda_)


def n_step_returns(r_t: jax.Array, discount_t: jax.Array, v_t: jax.Array, trace_t: jax.Array, n: int) -> jax.Array:
    """`G_{t-1} = r_t + discount_t r_{t+1} + ... + discount_t ... discount_{t+n-1} v_{t+n-1}`, `[S]`.

    Shorter where an episode or the trajectory ends before n transitions: then it bootstraps there.

    Args:
      r_t: as in `generalised_advantage_estimation`, like the others.
      discount_t: see there.
      v_t: see there.
      trace_t: see there.
      n: transitions, >= 1.

    Raises:
      ValueError: `n` is below 1.

    References:
      Sutton and Barto (2018), eq. 7.1.
    """
    chex.assert_rank([r_t, discount_t, v_t, trace_t], 1)
    if n < 1:
        raise ValueError(f"n is {n}; it must be >= 1")
    trace_t = trace_t.at[-1].set(0.0)

    def one_more(_: int, following: jax.Array) -> jax.Array:
        later = jnp.concatenate([following[1:], v_t[-1:]])
        return r_t + discount_t * (trace_t * later + (1.0 - trace_t) * v_t)

    return jax.lax.fori_loop(0, min(n, r_t.shape[0]) - 1, one_more, r_t + discount_t * v_t)


def discounted_future(x_t: jax.Array, trace_t: jax.Array, discount: float) -> jax.Array:
    """`h_{t-1} = x_t + discount trace_t h_t`: what is still to come, along the leading axis.

    Args:
      x_t: `[S, ...]`.
      trace_t: broadcasts to `x_t`; 0 where the transition ends an episode.
      discount: in [0, 1].
    """

    def backward(later: jax.Array, xs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x, trace = xs
        now = x + discount * trace * later
        return now, now

    trace_t = jnp.broadcast_to(trace_t, x_t.shape)
    return jax.lax.scan(backward, jnp.zeros_like(x_t[0]), (x_t, trace_t), reverse=True)[1]
