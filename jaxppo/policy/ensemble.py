"""Several parameters of one network as one policy: the mean of their targets."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.envs.execution.portfolio import expected_weights
from jaxppo.envs.market import kernels
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.policy.agent import Decision, agent, decide
from jaxppo.policy.networks.actor_critic import ActorCritic, Params
from jaxppo.policy.networks.encoder import Bars
from jaxppo.policy.protocol import Encoding, Observed, Policy, Targets


class EnsembleParams(struct.PyTreeNode):
    """Parameters of an ensemble.

    Attributes:
      nets: `[n, ...]` parameters of the network.
      share: `[]` in [0, 1], of the targets that are traded.
    """

    nets: Params
    share: jax.Array


def ensemble(
    network: ActorCritic,
    nets: Params,
    env: TradingEnv,
    decision: Decision = "mode",
    *,
    share: float | jax.Array = 1.0,
    name: str = "ensemble",
    platform: str | None = None,
) -> Policy:
    """Trades `share / n sum_i w_i`, with `w_i` the targets of n agents.

    An agent that holds counts as what the account holds; where all hold nothing is traded. Every agent decides as if
    the account were its own at full size: positions and outstanding orders count `1 / share` times for it. A share of 0
    closes all positions.

    Args:
      network: encoder and head of all agents.
      nets: `[n, ...]` their parameters.
      env: action space that the network was built for.
      decision: see `jaxppo.policy.agent.agent`.
      share: `[]` in [0, 1].
      name: for tables and messages.
      platform: that it runs on, such as "cpu"; None for that of JAX's default device.
    """
    platform = kernels.platform() if platform is None else platform
    params = EnsembleParams(nets, jnp.asarray(share, jnp.float32))
    return _ensemble(network, env, decision, platform)._replace(name=name, params=params)


@functools.lru_cache(maxsize=128)
def _ensemble(network: ActorCritic, env: TradingEnv, decision: Decision, platform: str) -> Policy:
    """An ensemble without parameters; the same one for the same arguments, so that it is compiled once."""
    one = agent(network, (), env, decision, platform=platform)
    of_one = one.encoding
    assert of_one is not None

    def encode(params: EnsembleParams, whole: Bars, first: jax.Array, n_bars: int) -> jax.Array:
        # One after the other: what an encoder needs at a time takes megabytes.
        each = jax.lax.map(lambda net: of_one.encode(net, whole, first, n_bars), params.nets)
        return jnp.moveaxis(each, 0, 2)

    def apply(params: EnsembleParams, state: Any, observed: Observed) -> tuple[Targets, Any]:
        share, present = params.share, _held(observed)
        full = _at_full_size(observed, jnp.where(share > 0.0, share, 1.0))

        def of_net(net: Params, encoded: jax.Array) -> Targets:
            return decide(network, env, net, full._replace(encoded=encoded), decision)

        weights, hold = jax.vmap(of_net)(params.nets, observed.encoded)
        weights = jnp.mean(jnp.where(hold, present, share * weights), axis=0)
        closed = share == 0.0
        return Targets(jnp.where(closed, 0.0, weights), jnp.all(hold, axis=0) & ~closed), state

    encoding = Encoding(of_one.inputs, encode, of_one.block, of_one.batch_size)
    return Policy("ensemble", apply, warmup=env.first_decision, encoding=encoding)


def _held(observed: Observed) -> jax.Array:
    """Target weights `[A]` that holding stands for."""
    return expected_weights(observed.portfolio) if observed.constraint is None else observed.constraint.present


def _at_full_size(observed: Observed, share: jax.Array) -> Observed:
    """What an agent reads of an account that trades a share `[]` of its targets: positions and orders at full size."""
    portfolio, seen, constraint = observed.portfolio, observed.observation, observed.constraint
    assert seen is not None, "an agent decides on what its environment shows it"
    portfolio = portfolio.replace(
        shares=portfolio.shares / share,
        unfilled=portfolio.unfilled / share,
        in_flight=tuple(orders / share for orders in portfolio.in_flight),
    )
    # Weight and outstanding orders of an asset, mean gross and net of the account; what is left is no size.
    seen = seen.replace(
        asset=jnp.concatenate([seen.asset[:, :2] / share, seen.asset[:, 2:]], axis=-1),
        account=jnp.concatenate([seen.account[:2] / share, seen.account[2:]]),
    )
    if constraint is not None:
        constraint = constraint.replace(held=constraint.present / share)
    return observed._replace(portfolio=portfolio, observation=seen, constraint=constraint)
