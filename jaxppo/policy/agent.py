"""A trained network as a policy, without its randomness."""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import jax

from jaxppo.envs.market import kernels
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.policy.choose import choose
from jaxppo.policy.encoding import chunk_of, market_bars
from jaxppo.policy.networks.actor_critic import ActorCritic, Params
from jaxppo.policy.networks.encoder import Bars
from jaxppo.policy.protocol import Encoding, Observed, Policy, Targets

Decision = Literal["mode", "mean"]
BLOCK = 500
"""Bars of one encoder pass, which has the context before them to read again."""
CPU_PATHS = 64
"""Paths that an agent trades side by side on a CPU; what it reads of each takes megabytes."""
MOST_PATHS = 1024
ENCODED = {"gpu": 2**28, "tpu": 2**25}
"""Paths on an accelerator at most, and numbers of the model's width that are encoded at a time: about 40 bytes of
memory each on a GPU, and 200 on a TPU, which pads small axes."""
CPU_BATCH_SIZE = 1
"""Paths that are encoded together on a CPU, so that the working set fits its cache."""


def agent(
    network: ActorCritic,
    net: Params,
    env: TradingEnv,
    decision: Decision = "mode",
    *,
    name: str = "agent",
    platform: str | None = None,
) -> Policy:
    """The agent that decides in `env` by a network.

    Args:
      network: encoder and head.
      net: its parameters.
      env: action space that the network was built for.
      decision: "mode" takes the most probable action; "mean" the probability-weighted mean of the targets of discrete
        and hierarchical ones, see `TradingEnv.expected_target`. Continuous actions are the same either way: the median
        of a squashed Gaussian, the mean of a Beta distribution.
      name: for tables and messages.
      platform: that it runs on, such as "cpu"; None for that of JAX's default device.
    """
    platform = kernels.platform() if platform is None else platform
    return _agent(network, env, decision, platform)._replace(name=name, params=net)


def paths_side_by_side(network: ActorCritic, n_assets: int, platform: str) -> int:
    """Paths that an agent trades side by side at most: what its encoder needs of them has to fit the device.

    Args:
      network: encoder and head.
      n_assets: A.
      platform: such as "gpu".
    """
    if platform == "cpu":
        return CPU_PATHS
    of_a_path = (BLOCK + network.context - 1) * n_assets * network.dropout_shape[1]
    fitting = ENCODED.get(platform, min(ENCODED.values())) // of_a_path
    return 2 ** int(math.log2(min(max(fitting, 1), MOST_PATHS)))


@functools.lru_cache(maxsize=128)
def _agent(network: ActorCritic, env: TradingEnv, decision: Decision, platform: str) -> Policy:
    """An agent without parameters; the same one for the same arguments, so that it is compiled once."""

    def encode(net: Params, whole: Bars, first: jax.Array, n_bars: int) -> jax.Array:
        n_paths = first.shape[0]
        at_a_time = math.gcd(CPU_BATCH_SIZE, n_paths) if platform == "cpu" else n_paths

        def some(xs: tuple[Bars, jax.Array]) -> jax.Array:
            bars, first = xs
            return network.encode(net, jax.vmap(lambda x, b: chunk_of(x, b, network.context, n_bars))(bars, first))

        pieces = jax.tree.map(lambda x: x.reshape(-1, at_a_time, *x.shape[1:]), (whole, first))
        encoded = jax.lax.map(some, pieces)
        return encoded.reshape(-1, *encoded.shape[2:])

    def apply(net: Params, state: Any, observed: Observed) -> tuple[Targets, Any]:
        return decide(network, env, net, observed, decision), state

    encoding = Encoding(market_bars, encode, BLOCK, paths_side_by_side(network, env.n_assets, platform))
    return Policy("agent", apply, warmup=env.first_decision, encoding=encoding)


def decide(network: ActorCritic, env: TradingEnv, net: Params, observed: Observed, decision: Decision) -> Targets:
    """The decision of a network for one account at one bar.

    Args:
      network: encoder and head.
      env: action space.
      net: parameters.
      observed: with `encoded` `[A, 2 D]`.
      decision: see `agent`.
    """
    portfolio, seen, constraint = observed.portfolio, observed.observation, observed.constraint
    assert seen is not None, "an agent decides on what its environment shows it"
    distribution, _ = network.act(net, observed.encoded, seen)
    if decision == "mean" and env.actions in ("discrete", "hierarchical"):
        return Targets(*env.expected_target(distribution.probabilities(), portfolio, constraint))
    action, mask = choose(env, distribution, seen.mask, constraint, lambda one, _: one.mode())
    return Targets(*env.decode(distribution.restricted(mask).squash(action), portfolio, constraint))
