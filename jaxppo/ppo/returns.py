"""Returns and advantages of one trajectory, unbatched.

Values before and after each transition are separate arguments, as the value after a truncated transition is that of the
episode's final observation, not of the next episode's first. After the last transition every estimate bootstraps from
`v_t[-1]`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.risk.distortion import marginal_utility


def generalised_advantage_estimation(
    r_t: jax.Array, discount_t: jax.Array, v_tm1: jax.Array, v_t: jax.Array, trace_t: jax.Array, lambda_: float
) -> jax.Array:
    """Advantages `A_{t-1} = delta_t + discount_t lambda trace_t A_t`, `delta_t = r_t + discount_t v_t - v_{t-1}`.

    Example, of three transitions with values of zero:
      >>> import jax.numpy as jnp
      >>> from jaxppo.ppo import generalised_advantage_estimation
      >>> r_t, discount_t = jnp.array([1.0, 0.0, 2.0]), jnp.full(3, 0.5)
      >>> generalised_advantage_estimation(r_t, discount_t, jnp.zeros(3), jnp.zeros(3), jnp.ones(3), 1.0)
      Array([1.5, 1. , 2. ], dtype=float32)

    Args:
      r_t: `[S]` rewards.
      discount_t: `[S]` gamma, or 0 where the transition terminated.
      v_tm1: `[S]` values of the states acted in.
      v_t: `[S]` values of the states arrived at, before any reset.
      trace_t: `[S]` 1, or 0 where the transition ends an episode (terminated or truncated).
      lambda_: in [0, 1].

    Returns:
      `[S]` advantages.

    Reference: Schulman et al. (2016), eq. 16. https://arxiv.org/abs/1506.02438
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
    """Lambda-returns `G_{t-1} = r_t + discount_t ((1 - lambda trace_t) v_t + lambda trace_t G_t)`, `[S]`.

    Args:
      r_t: `[S]` rewards.
      discount_t: `[S]` gamma, or 0 where the transition terminated.
      v_tm1: `[S]` values of the states acted in.
      v_t: `[S]` values of the states arrived at, before any reset.
      trace_t: `[S]` 1, or 0 where the transition ends an episode.
      lambda_: in [0, 1].

    Reference: Sutton and Barto (2018), eq. 12.18 with fixed values.
    """
    # `v_tm1` drops out of the sum.
    return v_tm1 + generalised_advantage_estimation(r_t, discount_t, v_tm1, v_t, trace_t, lambda_)


def n_step_returns(r_t: jax.Array, discount_t: jax.Array, v_t: jax.Array, trace_t: jax.Array, n: int) -> jax.Array:
    """n-step returns `G_{t-1} = r_t + discount_t r_{t+1} + ... + discount_t ... discount_{t+n-1} v_{t+n-1}`, `[S]`.

    Where an episode or the trajectory ends before n transitions, the return bootstraps there.

    Args:
      r_t: `[S]` rewards.
      discount_t: `[S]` gamma, or 0 where the transition terminated.
      v_t: `[S]` values of the states arrived at, before any reset.
      trace_t: `[S]` 1, or 0 where the transition ends an episode.
      n: transitions, >= 1.

    Raises:
      ValueError: `n` is below 1.

    Reference: Sutton and Barto (2018), eq. 7.1.
    """
    chex.assert_rank([r_t, discount_t, v_t, trace_t], 1)
    if n < 1:
        raise ValueError(f"n is {n}; it must be >= 1")
    trace_t = trace_t.at[-1].set(0.0)

    def one_more(_: int, following: jax.Array) -> jax.Array:
        later = jnp.concatenate([following[1:], v_t[-1:]])
        return r_t + discount_t * (trace_t * later + (1.0 - trace_t) * v_t)

    return jax.lax.fori_loop(0, min(n, r_t.shape[0]) - 1, one_more, r_t + discount_t * v_t)


def return_atoms(r_t: jax.Array, discount_t: jax.Array, q_t: jax.Array, trace_t: jax.Array) -> jax.Array:
    """N equally likely returns `G^j_{t-1} = r_t + discount_t ((1 - trace_t) q^j_t + trace_t G^j_t)`, `[S, N]`.

    Rewards to the end of the episode or trajectory, then the quantiles of the state arrived at there: one sample of the
    n-step distributional Bellman target, n being all that is left. A lambda-return has no counterpart, as an average of
    atoms is not the mixture of their distributions.

    Args:
      r_t: `[S]` rewards.
      discount_t: `[S]` gamma, or 0 where the transition terminated.
      q_t: `[S, N]` quantiles of the return from the states arrived at, in any order.
      trace_t: `[S]` 1, or 0 where the transition ends an episode.

    References:
      Bellemare et al. (2017), eq. 2 (https://arxiv.org/abs/1707.06887); Hessel et al. (2018), for n steps
      (https://arxiv.org/abs/1710.02298).
    """
    chex.assert_rank([r_t, discount_t, trace_t, q_t], [1, 1, 1, 2])

    def backward(later: jax.Array, xs: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        r, discount, q, trace = xs
        now = r + discount * ((1.0 - trace) * q + trace * later)
        return now, now

    return jax.lax.scan(backward, q_t[-1], (r_t, discount_t, q_t, trace_t), reverse=True)[1]


class StepMixture(NamedTuple):
    """Mixture of k-step returns: `n_step_weight` of the n-step return, and lambda-weights over all k for the rest.

    Attributes:
      lambda_: in [0, 1].
      n: transitions of the n-step return, >= 1.
      n_step_weight: share of the n-step return, in [0, 1].
    """

    lambda_: float
    n: int = 1
    n_step_weight: float = 0.0


def distorted_advantages(
    r_t: jax.Array,
    discount_t: jax.Array,
    q_tm1: jax.Array,
    q_t: jax.Array,
    trace_t: jax.Array,
    weights: np.ndarray,
    mixture: StepMixture,
) -> jax.Array:
    """Advantages under a distortion of the return.

    `A_{t-1} = sum_k (1 - lambda) lambda^{k-1} mean_j u(G^{k,j}) - mean_i u(q^i_{t-1})`, where
    `G^{k,j} = r_t + ... + discount ... r_{t+k-1} + discount ... q^j_{t+k-1}` are the N atoms of the k-step return, and
    `u = marginal_utility(., q_{t-1}, weights)` belongs to the state acted in. Where the critic is right, each term has
    the expectation `d rho(Z(s)) / d pi(a|s)`, up to a constant of the state: the policy ascends the distorted value of
    the return from every state that it meets. That is the objective of a policy that is greedy in `rho(Z(s, a))`, not
    the distorted value of whole episodes, which would count gains before s: distortions other than the mean and the
    worst case are not time-consistent. With equal weights `u(x) = x`, and this is `generalised_advantage_estimation`
    with the means of the quantiles.

    Costs S^2 N evaluations of u, each as many operations as the weights have changes: one or two for "cvar".

    Args:
      r_t: `[S]` rewards.
      discount_t: `[S]` gamma, or 0 where the transition terminated.
      q_tm1: `[S, N]` quantiles of the return from the states acted in, in any order.
      q_t: `[S, N]` quantiles of the return from the states arrived at, in any order.
      trace_t: `[S]` 1, or 0 where the transition ends an episode.
      weights: `[N]` from `jaxppo.risk.distortion.cell_weights`.
      mixture: weights of the k-step returns.

    Returns:
      `[S]` advantages.

    References:
      Tamar et al. (2015), for the gradient of "cvar" (https://arxiv.org/abs/1404.3862); Dabney et al. (2018b), section
      3, for the objective (https://arxiv.org/abs/1806.06923); Lim and Malik (2022), for how it differs from the static
      one (NeurIPS 35).
    """
    # Generalised advantage estimation with rho(Z(s)) for the value would not do: the expectation of the one-step term,
    # E[r + discount rho(Z(s'))], does not price the risk of the step, and with lambda = 1 the distorted values cancel
    # but for a baseline.
    chex.assert_rank([r_t, discount_t, trace_t, q_tm1, q_t], [1, 1, 1, 2, 2])
    lambda_, n, n_step_weight = mixture
    trace_t = trace_t.at[-1].set(0.0)

    def utility(atoms: jax.Array) -> jax.Array:
        return marginal_utility(atoms, q_tm1, weights).mean(axis=-1)

    def one_more(carry: Any, k: jax.Array) -> tuple[Any, None]:
        total, earned, discount, left, going, step = carry
        r, further, trace, q = step
        earned, discount = earned + discount * r, discount * further
        last = jnp.where(k == n, 1.0, 1.0 - trace)
        weight = (1.0 - n_step_weight) * left * (1.0 - lambda_ * trace) + n_step_weight * going * last
        total += weight * utility(earned[:, None] + discount[:, None] * q)
        left, going = left * lambda_ * trace, going * (1.0 - last)
        # The next transition of every state; those that come in from the other end have no weight left.
        return (total, earned, discount, left, going, jax.tree.map(lambda x: jnp.roll(x, -1, axis=0), step)), None

    zeros, ones = jnp.zeros_like(r_t), jnp.ones_like(r_t)
    start = (zeros, zeros, ones, ones, ones, (r_t, discount_t, trace_t, q_t))
    (total, *_), _ = jax.lax.scan(one_more, start, jnp.arange(1, r_t.shape[0] + 1))
    return total - utility(q_tm1)


def discounted_future(x_t: jax.Array, trace_t: jax.Array, discount: float) -> jax.Array:
    """Discounted sums to the end, `h_{t-1} = x_t + discount trace_t h_t`, along the leading axis.

    Args:
      x_t: `[S, ...]` terms of the sums.
      trace_t: broadcasts to `x_t`; 0 where the transition ends an episode.
      discount: in [0, 1].
    """

    def backward(later: jax.Array, xs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x, trace = xs
        now = x + discount * trace * later
        return now, now

    trace_t = jnp.broadcast_to(trace_t, x_t.shape)
    return jax.lax.scan(backward, jnp.zeros_like(x_t[0]), (x_t, trace_t), reverse=True)[1]
