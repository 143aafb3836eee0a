"""Environment steps and seconds to 95 % of the optimum: this learner and stable-baselines3's PPO on the same problem.

    python -m benchmarks.against_sb3 [--problems QuadraticCostAR1 ...] [--seeds 3] [--default-steps 204800]

stable-baselines3 runs with its default hyper-parameters, and with those of `benchmarks/studies.py`, in iterations of
2,048 steps as ours, as far as it has them. Its environments are steps of the same compiled program, one call for all of
them. Every agent is scored on the same episodes, off the clock.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from benchmarks.recording import record
from benchmarks.studies import GOAL, SMALL, STUDIES, Study, learnable, observed_score
from jaxppo.envs.reference import Problem
from jaxppo.ppo import data_mesh, make_learner
from jaxppo.ppo.gymnax_task import to_env_action

PROBLEMS = ("QuadraticCostAR1", "ProportionalCostAR1", "GarleanuPedersen")
"""Those that are observed as flat arrays and last as long as a rollout or longer."""
POINTS = 100
"""Points of a learning curve."""


class Environments(VecEnv):
    """Copies of a problem for stable-baselines3; their actions are scaled to [-1, 1]."""

    render_mode = None

    def __init__(self, problem: Problem, n_envs: int, seed: int):
        env, params = problem.env, problem.params
        space, action = env.observation_space(params), env.action_space(params)
        super().__init__(
            n_envs,
            gymnasium.spaces.Box(-np.inf, np.inf, space.shape, np.float32),
            gymnasium.spaces.Box(-1.0, 1.0, action.shape, np.float32),
        )

        def step(key: jax.Array, states: Any, actions: jax.Array) -> Any:
            key, key_step = jax.random.split(key)
            scaled = jax.vmap(lambda a: to_env_action(env, params, a))(actions)
            keys = jax.random.split(key_step, n_envs)
            return key, jax.vmap(env.step, in_axes=(0, 0, 0, None))(keys, states, scaled, params)

        self._key, self._step = jax.random.key(seed), jax.jit(step)
        self._start = jax.jit(lambda key: jax.vmap(env.reset, in_axes=(0, None))(jax.random.split(key, n_envs), params))

    def reset(self) -> np.ndarray:
        self._key, key_start = jax.random.split(self._key)
        observation, self._states = self._start(key_start)
        return np.array(observation)

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        self._key, after = self._step(self._key, self._states, self._actions)
        observation, self._states, reward, terminated, truncated, info = after
        terminated, truncated = np.asarray(terminated), np.asarray(truncated)
        ended, infos = terminated | truncated, [{} for _ in range(self.num_envs)]
        if ended.any():
            final = np.asarray(info["final_observation"])
            for i in np.flatnonzero(ended):
                cut = bool(truncated[i] and not terminated[i])
                infos[i] = {"terminal_observation": final[i], "TimeLimit.truncated": cut}
        return np.array(observation), np.array(reward, np.float32), ended, infos

    def close(self) -> None: ...

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise AttributeError(f"{attr_name} cannot be set: the environments are steps of one compiled program")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise AttributeError(f"there is no {method_name}: the environments are steps of one compiled program")

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs


class Clock(BaseCallback):
    """Keeps the actor after every `every` steps, with the seconds of training until then."""

    def __init__(self, every: int):
        super().__init__()
        self.every, self.seen, self.paused = every, [], 0.0

    def _on_training_start(self) -> None:
        self.started = time.perf_counter()

    def _on_rollout_start(self) -> None:
        now = time.perf_counter()
        if self.num_timesteps >= (len(self.seen) + 1) * self.every:
            layers = actor_layers(self.model)
            self.seen.append((self.num_timesteps, now - self.started - self.paused, layers))
            self.paused += time.perf_counter() - now

    def _on_training_end(self) -> None:
        self._on_rollout_start()

    def _on_step(self) -> bool:
        return True


def actor_layers(model: PPO) -> list[tuple[np.ndarray, np.ndarray]]:
    """Kernels and biases of the actor of a "MlpPolicy" whose layers end in tanh, the last one without."""
    actor = [*model.policy.mlp_extractor.policy_net, model.policy.action_net]
    layers = [layer for layer in actor if isinstance(layer, torch.nn.Linear)]
    return [(x.weight.detach().numpy().T.copy(), x.bias.detach().numpy().copy()) for x in layers]


def torch_agent(problem: Problem, net: Any) -> Callable[[jax.Array, Any], jax.Array]:
    """The layers of an actor as a policy of `jaxppo.envs.reference.simulate`, without randomness."""

    def act(observation: jax.Array, state: Any) -> jax.Array:
        del state
        hidden = observation
        for weight, bias in net[:-1]:
            hidden = jnp.tanh(hidden @ weight + bias)
        weight, bias = net[-1]
        return to_env_action(problem.env, problem.params, jnp.clip(hidden @ weight + bias, -1.0, 1.0))

    return act


def scored(
    kept: list[tuple[int, float, Any]], score: Callable[[Any], dict[str, float]]
) -> list[tuple[int, float, float]]:
    """`(steps, seconds, per cent)` of what was kept `(steps, seconds, parameters)`: up to the goal, and the last."""
    curve = []
    for steps, seconds, net in kept[:-1]:
        curve.append((steps, seconds, score(net)["percent"]))
        if curve[-1][-1] >= GOAL:
            break
    steps, seconds, net = kept[-1]
    return [*curve, (steps, seconds, score(net)["percent"])]


def summary(label: str, curves: list[list[tuple[int, float, float]]], **more: Any) -> dict[str, Any]:
    """Steps and seconds to the goal of each seed, from its `(steps, seconds, per cent)`."""
    first = [next((point for point in curve if point[2] >= GOAL), None) for curve in curves]
    row = {
        "agent": label,
        "steps_to_95": [None if point is None else point[0] for point in first],
        "seconds_to_95": [None if point is None else point[1] for point in first],
        "final": [curve[-1][2] for curve in curves],
        "seconds": [curve[-1][1] for curve in curves],
        "steps": curves[0][-1][0],
        "curves": curves,
        **more,
    }
    print(label, {name: row[name] for name in ("steps_to_95", "seconds_to_95", "final", "seconds")}, flush=True)
    return row


def theirs(study: Study, label: str, seeds: int, steps: int, n_envs: int, **choices: Any) -> dict[str, Any]:
    """Trains stable-baselines3's PPO and scores it on the way."""
    problem = study.build()
    score = observed_score(problem, lambda net: torch_agent(problem, net))
    curves = []
    for seed in range(seeds):
        clock = Clock(max(steps // POINTS, n_envs * choices.get("n_steps", 2048)))
        environments = Environments(problem, n_envs, seed)
        environments.reset()
        environments.step(np.zeros((n_envs, *environments.action_space.shape), np.float32))
        model = PPO("MlpPolicy", environments, seed=seed, device="cpu", **choices)
        model.learn(steps, callback=clock)
        curves.append(scored(clock.seen, score))
    shown = {name: value for name, value in choices.items() if isinstance(value, int | float | dict)}
    if "learning_rate" in choices:
        shown["learning_rate"] = [choices["learning_rate"](left) for left in (1.0, 0.0)]
    return summary(label, curves, n_envs=n_envs, hyper_parameters=shown)


def ours(study: Study, seeds: int) -> dict[str, Any]:
    """Trains ours, one seed after the other, iteration by iteration as the trainer does."""
    config = study.ppo
    task, first_net, params, _, _, score = learnable(study, config)
    learner = make_learner(task, config, data_mesh(jax.devices()[:1]))
    curves, compilation = [], 0.0
    for seed in range(seeds):
        net = first_net(jax.random.fold_in(jax.random.key(seed), 1))
        started = time.perf_counter()
        if seed == 0:
            spare = learner.init(jax.tree.map(jnp.copy, net), seed, params)
            jax.block_until_ready(learner.iterate(spare, params, jnp.float32(0.0)))
            compilation = time.perf_counter() - started
        state = learner.init(net, seed, params)
        jax.block_until_ready(state)
        started, paused, kept = time.perf_counter(), 0.0, []
        for iteration in range(study.iterations):
            state, _ = learner.iterate(state, params, jnp.float32(iteration / study.iterations))
            jax.block_until_ready(state)
            now = time.perf_counter()
            steps = (iteration + 1) * learner.steps_per_iteration
            kept.append((steps, now - started - paused, jax.tree.map(np.asarray, state.params)))
            paused += time.perf_counter() - now
        curves.append(scored(kept, score))
    shown = config.model_dump()
    return summary("jaxppo", curves, seconds_of_compilation=compilation, hyper_parameters=shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=PROBLEMS[:1])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--default-steps", type=int, default=204_800, help="of stable-baselines3's default settings")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    for name in chosen.problems:
        study = dataclasses.replace(STUDIES[name], ppo=STUDIES[name].ppo.model_copy(update=SMALL), iterations=100)
        config = study.ppo
        n_envs = config.paths * config.portfolios
        same = {
            "n_steps": config.chunk,
            "batch_size": n_envs * config.chunk // config.minibatches,
            "n_epochs": config.epochs,
            "learning_rate": lambda left, rate=config.learning_rate: rate * left,
            "gamma": config.gamma,
            "gae_lambda": config.gae_lambda,
            "policy_kwargs": {"log_std_init": float(np.log(study.std))},
        }
        rows = [
            ours(study, chosen.seeds),
            theirs(
                study,
                "stable-baselines3, same settings",
                chosen.seeds,
                study.iterations * n_envs * config.chunk,
                n_envs,
                **same,
            ),
            theirs(study, "stable-baselines3, default settings", chosen.seeds, chosen.default_steps, 1),
        ]
        content = {"problem": name, "seeds": chosen.seeds, "torch_threads": chosen.threads, "rows": rows}
        print(record(f"against_sb3_{name}", content))


if __name__ == "__main__":
    main()
