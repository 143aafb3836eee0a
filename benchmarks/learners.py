"""Seconds of an iteration of the pathwise learner beside one of PPO, of the same steps and the same network, in turns.

    python -m benchmarks.learners [--repetitions 8]

Five assets, all costs, continuous actions, 32 paths with 4 portfolios over 64 bars; PPO and the fit of the critic take
4 epochs of 4 minibatches. Run it alone on the machine.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.recording import record
from benchmarks.throughput import all_costs, iterations_in_turn
from jaxppo.config import PathwiseConfig, PPOConfig
from jaxppo.envs import simulators
from jaxppo.envs.market import features
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.policy.networks import EncoderConfig, make_actor_critic
from jaxppo.ppo import data_mesh, make_learner, trading_task
from jaxppo.ppo.iteration import TrainState
from jaxppo.ppo.learner import Learner
from jaxppo.ppo.trading_task import action_config

NETWORKS = ("transformer", "mlp", "linear")
N_ASSETS = 5


def learner_of(kind: str, pathwise: PathwiseConfig | None) -> tuple[Learner, TrainState, Any]:
    """Learner, first state and market; None for PPO."""
    sizes = tuple(s.stop - s.start for s in features.group_slices(features.GROUPS).values())
    encoder = EncoderConfig(kind, sizes, 64, 2, 8, 32, 2, True, jnp.dtype("float32"))
    env = TradingEnv(n_assets=N_ASSETS, actions="continuous", observation="index", window=encoder.context)
    policy, net = make_actor_critic(encoder, action_config(env, 0.6), jax.random.key(0))
    config = PPOConfig(paths=32, portfolios=4, chunk=64, micro_batch=2)
    task = trading_task(policy, env, config)
    learner = make_learner(task, config, data_mesh(jax.devices()[:1]), pathwise=pathwise)
    market = simulators.gbm(jax.random.key(1), 3000, N_ASSETS)
    params = learner.replicate(env.make_params(market, all_costs(), episode_bars=128))
    return learner, learner.init(net, 0, params), params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=8)
    repetitions = parser.parse_args().repetitions
    rows = {}
    for kind in NETWORKS:
        built = {"ppo": learner_of(kind, None), "pathwise": learner_of(kind, PathwiseConfig(explore=False))}
        seconds = iterations_in_turn(built, repetitions)
        ratios = [one / other for one, other in zip(seconds["pathwise"], seconds["ppo"], strict=True)]
        rows[kind] = {"pathwise_over_ppo": statistics.median(ratios), "of_turns": ratios}
        print(f"{kind}: a pathwise iteration takes {rows[kind]['pathwise_over_ppo']:.2f} times one of PPO", flush=True)
    print(record("learners", {"steps_of_an_iteration": 32 * 4 * 64, "networks": rows}))


if __name__ == "__main__":
    main()
