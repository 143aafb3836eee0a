"""What own code costs: the same mask, sizing, reward and feature, and the same network, by the names that ship, and as
`module:function`.

    python -m benchmarks.own_code [--repetitions 40]

The quick start's learner on a simulated market of five assets, built from configurations that say the same in pairs.
They take turns in one process; the fastest counts, since other work on the machine only adds. Compilations are counted
by JAX's own events, from the second iteration of each on, and once more after each is built again from its
configuration.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.recording import record
from benchmarks.throughput import iterations_in_turn
from jaxppo import masks
from jaxppo.config import validate_config
from jaxppo.envs import simulators
from jaxppo.envs.market.market_data import MarketData
from jaxppo.masks import MarketView, MaskTransform
from jaxppo.policy.networks.actor_critic import make_actor_critic
from jaxppo.policy.networks.blocks import FeedForward
from jaxppo.policy.networks.config import EncoderConfig
from jaxppo.ppo import data_mesh, make_learner, trading_task
from jaxppo.ppo.iteration import TrainState
from jaxppo.ppo.learner import Learner
from jaxppo.risk import rewards, sizing
from jaxppo.risk.rewards import RewardTransform
from jaxppo.risk.sizing import SizingTransform
from jaxppo.run import own_checks
from jaxppo.run.build import build
from jaxppo.run.setup import Setup

COMPILED = "/jax/core/compile/backend_compile_duration"
SHARED: dict[str, Any] = {
    "ppo": {"micro_batch": 2},
    "env": {"position_limit": 0.4},
    "training": {"steps": 1, "devices": 1},
}
BUILT_IN: dict[str, Any] = {
    "features": {"columns": {"gap": ["gap"]}},
    "masks": [{"volatility_cap": {"target": 0.1}}],
    "sizing": [{"volatility_target": {"target": 0.1}}],
    "rewards": [{"turnover_penalty": {"weight": 0.001}}],
}
OWN: dict[str, Any] = {
    "features": {"functions": {"gap": "benchmarks.own_code:gap"}},
    "masks": [{"benchmarks.own_code:cap": {"target": 0.1}}],
    "sizing": [{"benchmarks.own_code:target": {"target": 0.1}}],
    "rewards": [{"benchmarks.own_code:penalty": {"weight": 0.001}}],
}
FORMS = {
    "built-in": BUILT_IN,
    "own": OWN,
    "built-in network": {"policy": {"kind": "mlp"}},
    "own network": {"policy": {"kind": "benchmarks.own_code:Perceptron"}},
}


class Perceptron(nnx.Module):
    """The perceptron that ships."""

    context = 1

    def __init__(self, rngs: nnx.Rngs, width: int, layers: int, heads: int, expansion: int, dtype: str):
        config = EncoderConfig("mlp", (), width, layers, heads, 1, expansion, False, jnp.dtype(dtype))
        self.blocks = nnx.List([FeedForward(config, rngs) for _ in range(layers)])

    def __call__(self, tokens: jax.Array, listed: jax.Array) -> jax.Array:
        for block in self.blocks:
            tokens = block(tokens)
        return tokens


def gap(market: MarketData) -> jax.Array:
    """Log return from open to close."""
    return jnp.log(market.close / market.open)


def cap(*, target: float) -> MaskTransform:
    """The mask that ships."""
    return masks.volatility_cap(target)


def target(*, target: float) -> SizingTransform:
    """The sizing that ships."""
    return sizing.volatility_target(target)


def penalty(*, weight: float) -> RewardTransform:
    """The reward that ships."""
    return rewards.turnover_penalty(weight)


def built(keys: dict[str, Any], market: MarketData) -> Setup:
    """The run of a configuration."""
    return build(validate_config(SHARED | keys), market)


def learner_of(setup: Setup) -> tuple[Learner, TrainState, Any]:
    """Learner, first state and market."""
    network, net = make_actor_critic(setup.encoder, setup.action, jax.random.key(0))
    learner = make_learner(trading_task(network, setup.env, setup.ppo), setup.ppo, data_mesh(setup.devices))
    params = learner.replicate(setup.period_params("train"))
    return learner, learner.init(net, 0, params), params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=40)
    chosen = parser.parse_args()
    market = simulators.gbm(jax.random.key(1), 3000, 5)
    market = market.replace(columns={"gap": gap(market)})
    compiled: list[float] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, seconds, **_: compiled.append(seconds) if name == COMPILED else None
    )
    first = {name: built(keys, market) for name, keys in FORMS.items()}
    learners = {name: learner_of(setup) for name, setup in first.items()}
    programs = {
        name: str(learner.iterate.trace(state, params, jnp.float32(0)).jaxpr)  # type: ignore[attr-defined]
        for name, (learner, state, params) in learners.items()
    }
    iterations_in_turn(learners, 0)
    again = {name: learner_of(setup)[1] for name, setup in first.items()}
    built_states = len(compiled)
    learners = {name: (learner, again[name], params) for name, (learner, _, params) in learners.items()}
    seconds = iterations_in_turn(learners, chosen.repetitions)
    while_training = len(compiled) - built_states
    counts = {}
    for name, keys in FORMS.items():
        start = len(compiled)
        built(keys, market)
        counts[name] = len(compiled) - start
    fastest = {name: min(taken) for name, taken in seconds.items()}
    own_checks._passed.clear()
    own, view = first["own"], MarketView(market, 252.0, 0.4)
    began = time.perf_counter()
    own_checks.check_own_code(own.config, own.env, view)
    checks = time.perf_counter() - began
    content = {
        "own_over_built_in": fastest["own"] / fastest["built-in"],
        "own_network_over_built_in": fastest["own network"] / fastest["built-in network"],
        "same_program": programs["own"] == programs["built-in"],
        "compilations_while_training": while_training,
        "compilations_when_built_again": counts,
        "seconds_of_checks": checks,
        "fastest_seconds": fastest,
        "median_seconds": {name: float(np.median(taken)) for name, taken in seconds.items()},
        "seconds": seconds,
    }
    print({name: value for name, value in content.items() if name != "seconds"})
    print(record("own_code", content))


if __name__ == "__main__":
    main()
