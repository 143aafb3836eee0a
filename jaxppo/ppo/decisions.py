"""Decisions of the portfolios of a rollout: drawn from the policy, or differentiable."""

from __future__ import annotations

from typing import Any

import jax

from jaxppo.envs.trading.account import Account, BarRow, Decide, View
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.policy.choose import choose
from jaxppo.policy.networks.actor_critic import ActorCritic, Params


def decision(policy: ActorCritic, net: Params, env: TradingEnv, *, explore: bool, expected: bool = False) -> Decide:
    """The decisions of K portfolios, for `OneBar.step_bar`.

    `BarRow.policy` holds what the head reads and uniform draws `[K, n_components]`. The decision comes with what the
    portfolios saw, the distributions and the actions.

    Args:
      policy: the network.
      net: its parameters.
      env: the environment.
      explore: whether actions are drawn; otherwise they are the most probable ones.
      expected: whether the mean target of discrete and hierarchical actions is traded, which has a derivative.
    """
    mean = expected and env.actions in ("discrete", "hierarchical")

    def act(distribution: Any, mask: jax.Array, constraint: Any, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        draws = u.reshape(-1, 2 if env.actions == "band" else 1)

        def pick(one: Any, place: Any) -> jax.Array:
            return one.sample(draws[place].reshape(-1)) if explore else one.mode()

        return choose(env, distribution, mask, constraint, pick)

    def decide(account: Account, view: View, row: BarRow) -> tuple[jax.Array, jax.Array, Any]:
        ready, u = row.policy
        seen, constraint = view.observation, view.constraint
        distribution = policy.distribution(net, ready[None], seen)
        action, mask = jax.vmap(act)(distribution, seen.mask, constraint, u)
        if mean:
            weights, hold = jax.vmap(env.expected_target)(distribution.probabilities(), account.portfolio, constraint)
        seen, distribution = seen.replace(mask=mask), distribution.restricted(mask)
        if not mean:
            weights, hold = jax.vmap(env.decode)(distribution.squash(action), account.portfolio, constraint)
        return weights, hold, (seen, distribution, action)

    return decide
