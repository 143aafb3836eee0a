"""What a quantile critic costs: training iterations with a mean, with 32 quantiles, and with advantages they distort.

    python -m benchmarks.quantiles [--repetitions 10]

The quick start's learner (32 paths x 8 portfolios x 64 bars, transformer of two layers of width 64, window 32) on a
simulated market of five assets. All take turns in one process; the median counts. Run it alone on the machine.
"""

from __future__ import annotations

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.recording import record
from benchmarks.throughput import all_costs, iterations_in_turn
from jaxppo.config import PPOConfig
from jaxppo.envs import simulators
from jaxppo.envs.market import features
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.policy.networks import EncoderConfig, make_actor_critic
from jaxppo.ppo import data_mesh, make_learner, trading_task
from jaxppo.ppo.iteration import TrainState
from jaxppo.ppo.learner import Learner
from jaxppo.ppo.trading_task import action_config

LEVELS = (-1.0, -0.5, 0.0, 0.5, 1.0)

N_ASSETS = 5
CRITICS: dict[str, tuple[int, dict[str, Any]]] = {
    "mean": (1, {}),
    "32 quantiles": (32, {}),
    "32 quantiles, cvar 0.25": (32, {"distortion": "cvar", "distortion_level": 0.25}),
    "32 quantiles, wang 0.5": (32, {"distortion": "wang", "distortion_level": 0.5}),
}


def learner_with(quantiles: int, changes: dict[str, Any]) -> tuple[Learner, TrainState, Any]:
    """Learner, first state and market."""
    sizes = tuple(s.stop - s.start for s in features.group_slices(features.GROUPS).values())
    encoder = EncoderConfig("transformer", sizes, 64, 2, 8, 32, 2, True, jnp.dtype("float32"))
    env = TradingEnv(
        levels=LEVELS,
        n_assets=N_ASSETS,
        observation="index",
        window=encoder.context,
        start="random",
    )
    policy, net = make_actor_critic(encoder, action_config(env, 0.6), jax.random.key(0), quantiles=quantiles)
    config = PPOConfig(paths=32, portfolios=8, chunk=64, micro_batch=2, **changes)
    learner = make_learner(trading_task(policy, env, config), config, data_mesh(jax.devices()[:1]))
    market = simulators.gbm(jax.random.key(1), 3000, N_ASSETS)
    params = learner.replicate(env.make_params(market, all_costs(), episode_bars=128))
    return learner, learner.init(net, 0, params), params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=10)
    chosen = parser.parse_args()
    built = {name: learner_with(*critic) for name, critic in CRITICS.items()}
    memory = {}
    for name, (learner, state, params) in built.items():
        needs = learner.iterate.lower(state, params, jnp.float32(0.0)).compile().memory_analysis()
        memory[name] = {"temporary_bytes": needs.temp_size_in_bytes, "argument_bytes": needs.argument_size_in_bytes}
    seconds = iterations_in_turn(built, chosen.repetitions)
    median = {name: float(np.median(taken)) for name, taken in seconds.items()}
    ratio = {name: median[name] / median["mean"] for name in built}
    print({name: round(x, 3) for name, x in median.items()}, {name: round(x, 3) for name, x in ratio.items()})
    print(record("quantiles", {"over_mean": ratio, "median_seconds": median, "memory": memory, "seconds": seconds}))


if __name__ == "__main__":
    main()
