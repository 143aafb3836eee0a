"""Throughput of this learner and of rejax's PPO on the same gymnax environments; CartPole as in its YAML, ten seeds.

    python -m benchmarks.against_rejax [--seeds 10] [--repetitions 8]

Both train perceptrons of two layers of 64 with the same numbers of environments, steps, epochs and minibatches. The two
take turns in one process; each run is `ITERATIONS` iterations, compiled before, and the median of the runs counts.
"""

from __future__ import annotations

import argparse
import pathlib
import time
from collections.abc import Callable
from typing import Any

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import rejax
from gymnax.wrappers.compat import LegacyStepAPIWrapper

from benchmarks.recording import record
from jaxppo.config import PPOConfig, load_config
from jaxppo.policy.networks.mlp import MLPConfig, make_mlp_actor_critic
from jaxppo.ppo import data_mesh, make_learner
from jaxppo.ppo.gymnax_task import action_config, gymnax_task, n_inputs
from jaxppo.ppo.population import train_population

CASES = [("CartPole-v1", 64, 64), ("CartPole-v1", 256, 128), ("Breakout-MinAtar", 64, 128)]
"""Environment, copies of it, steps per iteration."""
ITERATIONS = 10
CARTPOLE = pathlib.Path(__file__).parents[1] / "configs" / "cartpole.yaml"
SOLVED = 475.0
"""Mean return over 100 episodes at which gym calls CartPole-v1 solved."""


class Copied(LegacyStepAPIWrapper):
    """gymnax's four-value step, for rejax; it copies its environment, which the wrapper does not survive."""

    def __copy__(self) -> Copied:
        return self

    def __deepcopy__(self, memo: Any) -> Copied:
        return self


def ours(name: str, paths: int, chunk: int) -> Callable[[], float]:
    """A function that trains for `ITERATIONS` iterations and returns its seconds."""
    env, params = gymnax.make(name)
    config = _config(paths, chunk)
    policy, net = make_mlp_actor_critic(
        MLPConfig(n_inputs(env, params), 0, 64, 2), action_config(env, params, 0.6), jax.random.key(0)
    )
    learner = make_learner(gymnax_task(policy, env, params, config), config, data_mesh(jax.devices()[:1]))
    state = learner.init(net, 0, params)

    def run() -> float:
        nonlocal state
        started = time.perf_counter()
        for iteration in range(ITERATIONS):
            state, _ = learner.iterate(state, params, jnp.float32(iteration / ITERATIONS))
        jax.block_until_ready(state)
        return time.perf_counter() - started

    return run


def theirs(name: str, paths: int, chunk: int) -> Callable[[], float]:
    """The same of rejax, without evaluations."""
    env, params = gymnax.make(name)
    steps = paths * chunk * ITERATIONS
    algorithm = rejax.PPO.create(
        env=Copied(env),
        env_params=params,
        num_envs=paths,
        num_steps=chunk,
        num_epochs=4,
        num_minibatches=4,
        learning_rate=1e-3,
        total_timesteps=steps,
        eval_freq=steps,
        agent_kwargs={"hidden_layer_sizes": (64, 64), "activation": "tanh"},
    )
    algorithm = algorithm.replace(eval_callback=lambda *_: ())
    train = jax.jit(lambda state: algorithm.train(train_state=state)[0], donate_argnums=0)
    state = jax.block_until_ready(algorithm.init_state(jax.random.key(0)))

    def run() -> float:
        nonlocal state
        started = time.perf_counter()
        state = jax.block_until_ready(train(state))
        return time.perf_counter() - started

    return run


def cartpole(seeds: int, iterations: int) -> dict[str, Any]:
    """Mean return of 100 episodes of the decisions without randomness, every ten iterations and at the end."""
    env, params = gymnax.make("CartPole-v1")
    config, shape = load_config(CARTPOLE).ppo, MLPConfig(n_inputs(env, params), 0, 64, 2)
    action = action_config(env, params, 0.6)
    policy, _ = make_mlp_actor_critic(shape, action, jax.random.key(0))

    def greedy_return(net: Any) -> jax.Array:
        def episode(key: jax.Array) -> jax.Array:
            def one_step(carry: Any, _: None) -> tuple[Any, jax.Array]:
                observation, state, going = carry
                chosen = policy.distribution(net, observation).mode()[0]
                # CartPole moves without randomness: the key is only passed on.
                observation, state, reward, terminated, _ = env.step_env(key, state, chosen, params)
                return (observation, state, going & ~terminated), reward * going

            start = (*env.reset_env(key, params), jnp.ones((), bool))
            return jax.lax.scan(one_step, start, None, length=params.max_steps_in_episode)[1].sum()

        return jax.vmap(episode)(jax.random.split(jax.random.key(10**6), 100)).mean()

    _, _, returns = train_population(
        gymnax_task(policy, env, params, config),
        config,
        lambda key: make_mlp_actor_critic(shape, action, key)[1],
        params,
        range(seeds),
        iterations,
        evaluate=greedy_return,
        every=10,
    )
    returns, steps = np.asarray(returns), config.paths * config.portfolios * config.chunk
    solved = returns >= SOLVED
    return {
        "seeds": seeds,
        "ppo": config.model_dump(),
        "env_steps": iterations * steps,
        "steps_to_solved": [_from_then_on(row, 10 * steps) for row in solved],
        "final_return": returns[:, -1].tolist(),
        "solved_at_the_end": int(solved[:, -1].sum()),
        "returns": returns.tolist(),
    }


def _from_then_on(solved: np.ndarray, steps: int) -> int | None:
    """Steps of the first of the points, `steps` apart, from which on all are solved."""
    unsolved = np.flatnonzero(~solved)
    first = 0 if unsolved.size == 0 else int(unsolved[-1]) + 1
    return None if first == solved.size else (first + 1) * steps


def _config(paths: int, chunk: int) -> PPOConfig:
    return PPOConfig(
        paths=paths,
        portfolios=1,
        chunk=chunk,
        epochs=4,
        minibatches=4,
        learning_rate=1e-3,
        gamma=0.99,
        entropy_coefficient=0.0,
        reward_scale=1.0,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=120, help="of every CartPole agent")
    parser.add_argument("--repetitions", type=int, default=8)
    chosen = parser.parse_args()
    rows = []
    for name, paths, chunk in CASES:
        runs = {"jaxppo": ours(name, paths, chunk), "rejax": theirs(name, paths, chunk)}
        for run in runs.values():
            run()
        seconds = {who: [] for who in runs}
        for _ in range(chosen.repetitions):
            for who, run in runs.items():
                seconds[who].append(run())
        rate = {who: paths * chunk * ITERATIONS / float(np.median(taken)) for who, taken in seconds.items()}
        row = {"environment": name, "environments": paths, "steps": chunk, "env_steps_per_second": rate}
        rows.append({**row, "ratio": rate["jaxppo"] / rate["rejax"], "seconds": seconds})
        print(name, paths, chunk, rate, rows[-1]["ratio"], flush=True)
    solved = cartpole(chosen.seeds, chosen.iterations)
    print(solved)
    print(record("against_rejax", {"throughput": rows, "cartpole": solved}))


if __name__ == "__main__":
    main()
