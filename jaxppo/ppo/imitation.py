"""Fitting a policy to decisions that are given, before it learns: a start for the network."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import optax

from jaxppo.envs.execution.portfolio import open_portfolio
from jaxppo.envs.trading.account import BarRow
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.types import EnvParams
from jaxppo.policy.encoding import encode_paths
from jaxppo.policy.networks.actor_critic import ActorCritic, Params
from jaxppo.ppo.decisions import decision

STEPS = 400
BARS = 1024
"""Bars of a step, about: stretches of `n_bars` are drawn until there are so many."""
LEARNING_RATE = 1e-2
"""Adam step size at the start; it falls to zero by a cosine."""


def flat_decisions(
    policy: ActorCritic, net: Params, env: TradingEnv, params: EnvParams, first: jax.Array, n_bars: int
) -> jax.Array:
    """Target weights `[P, n, A]` that a flat account decides on, without randomness.

    Args:
      policy: the network.
      net: its parameters.
      env: the environment; masks, sizing and base are left out.
      params: the market and its costs.
      first: `[P]` int32 first bars.
      n_bars: bars from each of them on.
    """
    decide = decision(policy, net, env, explore=False)
    prepared = encode_paths(policy, net, params, first, n_bars, None)

    def at(bar: jax.Array, ready: jax.Array) -> jax.Array:
        portfolio = open_portfolio(params.market.mark(bar), params.initial_cash, env.fill_rule)
        # One account of a bar, as a batch of one; nothing is drawn.
        account = jax.tree.map(lambda x: x[None], env.open_account(portfolio))
        row = BarRow(bar, params.table[bar + 1], params.market.tradable[bar])
        view = jax.vmap(lambda one: env.view(one, row, limited=False))(account)
        return decide(account, view, row.replace(policy=(ready, jnp.zeros((1, env.num_actions)))))[0][0]

    bars = first[:, None] + jnp.arange(n_bars)[None]
    return jax.vmap(jax.vmap(at))(bars, prepared)


@partial(jax.jit, static_argnames=("policy", "env", "n_bars"))
def imitate(
    policy: ActorCritic,
    net: Params,
    env: TradingEnv,
    params: EnvParams,
    wanted: jax.Array,
    key: jax.Array,
    *,
    n_bars: int,
) -> Params:
    """Fits the decisions of a flat account to given ones, by their squared distance, in `STEPS` steps of Adam.

    A flat account, so that what is learned reads the market and not the position. Consumes `key`.

    Args:
      policy: the network.
      net: its parameters.
      env: the environment; a base is left out.
      params: the market, with the period that bars are drawn from.
      wanted: `[T, A]` target weights at each close.
      key: randomness of the bars that are drawn.
      n_bars: of each stretch that is drawn.
    """
    drawn = params.replace(max_steps_in_episode=jnp.asarray(n_bars, jnp.int32))
    optimiser = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, STEPS))
    scale = jnp.sqrt(jnp.maximum(jnp.mean(jnp.square(wanted)), 1e-12))

    def loss(net: Params, first: jax.Array) -> jax.Array:
        bars = first[:, None] + jnp.arange(n_bars)[None]
        apart = (flat_decisions(policy, net, env, params, first, n_bars) - wanted[bars]) / scale
        return jnp.mean(jnp.square(jnp.where(params.market.tradable[bars], apart, 0.0)))

    def step(carry: tuple[Params, optax.OptState], key: jax.Array) -> tuple[tuple[Params, optax.OptState], None]:
        net, state = carry
        first = jax.vmap(lambda key: env.draw_start(key, drawn))(jax.random.split(key, max(BARS // n_bars, 1)))
        moves, state = optimiser.update(jax.grad(loss)(net, first), state)
        return (optax.apply_updates(net, moves), state), None

    return jax.lax.scan(step, (net, optimiser.init(net)), jax.random.split(key, STEPS))[0][0]
