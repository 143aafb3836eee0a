"""What the metrics of an iteration cost: the same program without them, with them, and with them written down.

    python -m benchmarks.monitoring [--repetitions 20]

Without them the compiler drops whatever only they need. The three take turns in one process; the median counts.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

import gymnax
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.recording import record
from benchmarks.throughput import trading_learner
from jaxppo.config import PPOConfig
from jaxppo.policy.networks.mlp import MLPConfig, make_mlp_actor_critic
from jaxppo.ppo import data_mesh, make_learner
from jaxppo.ppo.gymnax_task import action_config, gymnax_task, n_inputs
from jaxppo.ppo.iteration import TrainState
from jaxppo.ppo.learner import Learner
from jaxppo.training.loggers import MetricsLog


def cartpole_learner() -> tuple[Learner, TrainState, Any]:
    """A perceptron of two layers of 64 on 64 copies of CartPole, 64 steps an iteration."""
    env, params = gymnax.make("CartPole-v1")
    config = PPOConfig(paths=64, portfolios=1, chunk=64, reward_scale=1.0)
    shape, action = MLPConfig(n_inputs(env, params), 0, 64, 2), action_config(env, params, 0.6)
    policy, net = make_mlp_actor_critic(shape, action, jax.random.key(0))
    learner = make_learner(gymnax_task(policy, env, params, config), config, data_mesh(jax.devices()[:1]))
    return learner, learner.init(net, 0, params), params


def turns(learner: Learner, first: TrainState, params: Any, log: MetricsLog) -> dict[str, Callable[[], None]]:
    """One iteration of each way to train; all go on from a state of their own."""
    without = jax.jit(lambda state: learner.step(state, params, jnp.float32(0.0))[0], donate_argnums=0)
    with_them = jax.jit(lambda state: learner.step(state, params, jnp.float32(0.0)), donate_argnums=0)
    states = {name: jax.tree.map(jnp.copy, first) for name in ("without", "computed", "written")}
    count = 0

    def blind() -> None:
        states["without"] = jax.block_until_ready(without(states["without"]))

    def computed() -> None:
        states["computed"], metrics = jax.block_until_ready(with_them(states["computed"]))
        del metrics

    def written() -> None:
        nonlocal count
        states["written"], metrics = jax.block_until_ready(with_them(states["written"]))
        count += 1
        log.write({"iteration": count, **{name: float(x) for name, x in jax.device_get(metrics).items()}})

    return {"without": blind, "computed": computed, "written": written}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=20)
    chosen = parser.parse_args()
    cases = {
        "CartPole-v1, perceptron, 64 x 64 steps": cartpole_learner,
        "trading, transformer, K = 8, 64 x 8 x 128 steps": lambda: trading_learner("chunk", 64, 64, 8, 4, 64),
    }
    rows = []
    for name, build in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            log = MetricsLog(pathlib.Path(folder), 0)
            run = turns(*build(), log)
            for one in run.values():
                one()
            seconds = {way: [] for way in run}
            for _ in range(chosen.repetitions):
                for way, one in run.items():
                    started = time.perf_counter()
                    one()
                    seconds[way].append(time.perf_counter() - started)
            log.close()
        median = {way: float(np.median(taken)) for way, taken in seconds.items()}
        ratio = {way: median[way] / median["without"] for way in ("computed", "written")}
        rows.append({"case": name, "over_without": ratio, "median_seconds": median, "seconds": seconds})
        print(name, median, ratio, flush=True)
    print(record("monitoring", {"rows": rows}))


if __name__ == "__main__":
    main()
