"""Agents in per cent of closed-form optima: trains on each reference problem, several seeds in one compiled program.

    python -m benchmarks.optimality table [--problems QuadraticCostAR1 ...] [--seeds 5]
    python -m benchmarks.optimality ablation [--problem QuadraticCostAR1]

`table` trains with the defaults of each problem; `ablation` compares control variate and hindsight critic over K.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.recording import record
from envs import reference
from jaxppo.config import PPOConfig
from jaxppo.networks.mlp import MLPConfig, MLPPolicy, make_mlp_policy
from jaxppo.ppo.gymnax_task import action_config, gymnax_task, n_inputs, n_market, to_env_action
from jaxppo.ppo.population import train_population

WATCH_EPISODES = 256
TEST_EPISODES = 4096


@dataclasses.dataclass(frozen=True)
class Study:
    """How one problem is learned.

    Attributes:
      build: makes the problem.
      ppo: hyper-parameters.
      iterations: of each agent.
      every: iterations between two points of the learning curve.
      std: standard deviation of the actions at the start.
      width: hidden units.
    """

    build: Callable[[], reference.Problem]
    ppo: PPOConfig
    iterations: int
    every: int = 5
    std: float = 0.3
    width: int = 64


def _ppo(**changes: Any) -> PPOConfig:
    """Hyper-parameters that the studies share: 16,384 steps an iteration, 32 paths with 8 portfolios."""
    shared = {
        "paths": 32,
        "portfolios": 8,
        "chunk": 64,
        "epochs": 4,
        "minibatches": 8,
        "learning_rate": 1e-3,
        "schedule": "linear",
        "gamma": 0.97,
        "gae_lambda": 0.9,
        "entropy_coefficient": 0.0,
        "reward_scale": 1.0,
        "value_normalisation": "popart",
    }
    return PPOConfig(**{**shared, **changes})


STUDIES: dict[str, Study] = {
    "QuadraticCostAR1": Study(lambda: reference.QuadraticCostAR1(), _ppo(), 100),
    "ProportionalCostAR1": Study(lambda: reference.ProportionalCostAR1(), _ppo(gamma=0.99), 200, std=0.1),
    "GarleanuPedersen": Study(lambda: reference.GarleanuPedersen(), _ppo(gamma=0.99), 100),
    "GarleanuPedersen10": Study(lambda: reference.GarleanuPedersen(n_assets=10), _ppo(gamma=0.99), 200, std=0.15),
    "KimOmberg": Study(lambda: reference.KimOmberg(), _ppo(gamma=1.0, gae_lambda=0.95, chunk=100), 100),
    "OUSpread": Study(lambda: reference.OUSpread(), _ppo(gamma=1.0, gae_lambda=0.95, chunk=100), 100),
}


def policy_of(
    study: Study, problem: reference.Problem, hindsight: bool
) -> tuple[MLPPolicy, Callable[[jax.Array], Any]]:
    """The policy, and key to its first parameters."""
    env, params = problem.env, problem.params
    action = action_config(env, params, study.std)
    ahead = n_market(env, params) + 1 if hindsight else 0
    shape = MLPConfig(n_inputs(env, params), ahead, study.width, 2)
    policy, _ = make_mlp_policy(shape, action, jax.random.key(0))
    return policy, lambda key: make_mlp_policy(shape, action, key)[1]


def percent(problem: reference.Problem, policy: MLPPolicy, net: Any, key: jax.Array, n_paths: int) -> jax.Array:
    """Value of the policy's modes, `[]`: the known optimum plus the mean paired difference to it on the same paths."""

    def act(observation: jax.Array, state: Any) -> jax.Array:
        distribution = policy.distribution(net, observation.reshape(-1))
        return to_env_action(problem.env, problem.params, distribution.squash(distribution.mode()))

    ours = reference.simulate(problem, act, key, n_paths)
    best = reference.simulate(problem, lambda _, state: problem.optimal_action(state), jax.random.clone(key), n_paths)
    return problem.optimal_value() + jnp.mean(ours - best)


def study(name: str, seeds: int, **changes: Any) -> dict[str, Any]:
    """Trains `seeds` agents and scores them on episodes that none was trained on."""
    chosen = STUDIES[name]
    problem, config = chosen.build(), chosen.ppo.model_copy(update=changes)
    policy, first = policy_of(chosen, problem, config.hindsight_critic)
    task = gymnax_task(policy, problem.env, problem.params, config)
    started = time.perf_counter()
    nets, metrics, curve = train_population(
        task,
        config,
        first,
        problem.params,
        range(seeds),
        chosen.iterations,
        watch=lambda net: percent(problem, policy, net, jax.random.key(10**6), WATCH_EPISODES),
        every=chosen.every,
    )
    jax.block_until_ready(nets)
    seconds = time.perf_counter() - started
    final = jax.jit(jax.vmap(lambda net: percent(problem, policy, net, jax.random.key(10**6 + 1), TEST_EPISODES)))(nets)
    scores = np.array([problem.percent_of_optimum(float(value)) for value in final])
    curves = np.array([[problem.percent_of_optimum(float(v)) for v in row] for row in np.asarray(curve)])
    steps = config.paths * config.portfolios * config.chunk
    at = (np.arange(curves.shape[1]) + 1) * chosen.every * steps
    reached = [int(at[np.argmax(row >= 95.0)]) if (row >= 95.0).any() else None for row in curves]
    return {
        "problem": name,
        "changes": changes,
        "optimal_value": problem.optimal_value(),
        "percent": scores.tolist(),
        "mean": float(scores.mean()),
        "worst": float(scores.min()),
        "steps_to_95": reached,
        "market_bars_to_95": [None if n is None else n // config.portfolios for n in reached],
        "env_steps": chosen.iterations * steps,
        "seconds_all_seeds_with_compilation": seconds,
        "curve_steps": at.tolist(),
        "curve_mean": curves.mean(axis=0).tolist(),
        "ppo": config.model_dump(),
        "control_variate_ratio": float(np.asarray(metrics["control_variate_ratio"])[:, -10:].mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=("table", "ablation"))
    parser.add_argument("--problems", nargs="+", choices=tuple(STUDIES), default=tuple(STUDIES))
    parser.add_argument("--seeds", type=int, default=5)
    chosen = parser.parse_args()
    rows = []
    if chosen.experiment == "table":
        runs = [(name, {}) for name in chosen.problems]
    else:
        runs = [
            (name, {"paths": 256 // k, "portfolios": k, "control_variate": variate, "hindsight_critic": hindsight})
            for name in chosen.problems
            for k in (1, 4, 16)
            for variate in ((False, True) if k > 1 else (False,))
            for hindsight in (False, True)
        ]
    for name, changes in runs:
        row = study(name, chosen.seeds, **changes)
        rows.append(row)
        print(f"{name:22} {changes} mean {row['mean']:.2f} % worst {row['worst']:.2f} %, {row['steps_to_95']} to 95 %")
    print(record(f"optimality_{chosen.experiment}", {"seeds": chosen.seeds, "rows": rows}))


if __name__ == "__main__":
    main()
