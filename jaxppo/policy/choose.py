"""Choosing actions within limits that assets share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxppo.envs.execution.limits import Constraint, sequential_allocation
from jaxppo.envs.trading.environment import TradingEnv


def choose(
    env: TradingEnv,
    distribution: Any,
    mask: jax.Array,
    constraint: Constraint | None,
    pick: Callable[[Any, Any], jax.Array],
) -> tuple[jax.Array, jax.Array]:
    """Actions of one account, and the masks under which they were chosen.

    Under shared budgets the assets choose in turn, and what the earlier ones leave masks the later ones. Restricted to
    the returned mask, the log-probability of the returned action is the exact one of the joint choice,
    `sum_i log p(a_i | a_1 .. a_{i-1})`; entropy and divergences are those of the conditionals that were met, whose mean
    over draws is the joint one. Of hierarchical actions the turns of every bucket are drawn, for the same reason.

    Args:
      env: the environment.
      distribution: over the actions of one account.
      mask: `[A, ...]` what each asset may do while the others hold, see `Observation.mask`.
      constraint: what the masks allow; None for everything.
      pick: `(distribution, place) -> action`; gets the distribution of one asset and its place, or all, `slice(None)`.
        The bucket of hierarchical actions has the first place.

    Returns:
      The action, and the mask `[A, ...]` that each asset had when it was its turn, in every bucket where there are
      buckets.
    """
    if constraint is None or not constraint.limits.budgets:
        return pick(distribution, slice(None)), mask
    n_assets = mask.shape[0]

    def all_in_sequence(each: Any, bucket: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Actions and met masks of all assets, `bucket` `[0]`, or `[1]` where there are buckets."""

        def turn(asset: jax.Array, low: jax.Array, high: jax.Array) -> tuple[jax.Array, Any]:
            feasible_hold, tradable = constraint.feasible_hold[asset], constraint.tradable[asset]
            allowed = env.feasible_actions(low, high, feasible_hold, tradable)
            allowed = allowed[bucket[0]] if bucket.size else allowed
            own = jax.tree.map(lambda x: x[asset], each).restricted(allowed[None])
            action = pick(own, asset + bucket.size)
            # Without a bar nothing moves, whatever a bucket would cut.
            target = env.target_of(jnp.concatenate([bucket, own.squash(action)]), feasible_hold)
            return jnp.where(tradable, target, feasible_hold), (action, allowed)

        _, (action, met) = sequential_allocation(constraint, turn)
        return action.reshape(-1), met

    if env.actions != "hierarchical":
        return all_in_sequence(distribution.per_asset(n_assets), jnp.zeros(0, jnp.int32))
    bucket = pick(distribution.buckets, 0)
    action, met = jax.vmap(lambda b: all_in_sequence(distribution.given(b).per_asset(n_assets), b[None]))(
        jnp.arange(env.num_buckets)
    )
    return jnp.concatenate([bucket, action[bucket[0]]]), met.swapaxes(0, 1)
