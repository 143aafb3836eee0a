"""Choosing actions within limits that assets share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from envs.limits import Constraint, in_turn
from envs.trading import TradingEnv


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
    over draws is the joint one.

    Args:
      env: the environment.
      distribution: over the actions of one account.
      mask: `[A, ...]` what each asset may do while the others hold, see `Observation.mask`.
      constraint: what the masks allow; None for everything.
      pick: `(distribution, place) -> action`; gets the distribution of one asset and its place, or all, `slice(None)`.
        The bucket of hierarchical actions has the first place.

    Returns:
      The action, and the mask `[A, ...]` that each asset had when it was its turn; that of a hierarchical action
      changes in the bucket that was chosen.
    """
    if constraint is None or not constraint.limits.budgets:
        return pick(distribution, slice(None)), mask
    hierarchical = env.actions == "hierarchical"
    bucket = pick(distribution.buckets, 0) if hierarchical else jnp.zeros(0, jnp.int32)
    each = (distribution.given(bucket[0]) if hierarchical else distribution).per_asset(mask.shape[0])

    def turn(asset: jax.Array, low: jax.Array, high: jax.Array) -> tuple[jax.Array, Any]:
        keep = constraint.keep[asset]
        allowed = env.actions_within(low, high, keep, constraint.tradable[asset])
        allowed = allowed[bucket[0]] if hierarchical else allowed
        own = jax.tree.map(lambda x: x[asset], each).restricted(allowed[None])
        action = pick(own, asset + bucket.shape[0])
        return env.target_of(jnp.concatenate([bucket, own.squash(action)]), keep), (action, allowed)

    _, (action, met) = in_turn(constraint, turn)
    action = jnp.concatenate([bucket, action.reshape(-1)])
    return action, mask.at[:, bucket[0]].set(met) if hierarchical else met
