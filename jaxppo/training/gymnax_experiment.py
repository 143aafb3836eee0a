"""Training on any gymnax environment: scored by the return of whole episodes."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import gymnax
import jax
import jax.numpy as jnp
from gymnax.environments import environment

from jaxppo.config import Config, ConfigError, dump_config
from jaxppo.policy.networks.actor_critic import Params
from jaxppo.policy.networks.mlp import MLPConfig, MLPPolicy, make_mlp_policy
from jaxppo.ppo.gymnax_task import action_config, flat, gymnax_task, n_inputs, n_market, to_env_action
from jaxppo.ppo.learner import shuffle_groups
from jaxppo.report.page import render_training
from jaxppo.run.objectives import make_reward_shaping
from jaxppo.run.setup import select_devices
from jaxppo.training.experiment import Experiment

VALIDATION_EPISODES, TEST_EPISODES = 32, 256
LONGEST_EPISODE = 100_000


def gymnax_experiment(config: Config) -> Experiment:
    """The environment `config.env.name`: mean return of validation episodes selects, other episodes are the result.

    Raises:
      ConfigError: there is no such environment, or the policy cannot learn from it.
    """
    env, params = _make(config)
    devices = select_devices(config)
    ppo = config.ppo
    try:
        shuffle_groups(ppo, len(devices))
        action = action_config(env, params, config.policy.action_std)
        ahead = n_market(env, params) + 1 if config.ppo.hindsight_critic else 0
        inputs, of = n_inputs(env, params), config.policy
        shape = MLPConfig(inputs, ahead, of.width, of.layers, of.quantiles)
        policy, net = make_mlp_policy(shape, action, jax.random.key(config.seed))
        task = gymnax_task(policy, env, params, ppo)
    except ValueError as error:
        raise ConfigError(f"env.name is {config.env.name!r}: {error}") from None
    test_key, validation_key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 1))
    play = jax.jit(lambda net, keys: jax.vmap(lambda key: episode(policy, env, params, net, key))(keys))

    def score(net: Params, folder: pathlib.Path, iteration: int) -> dict[str, float]:
        returns, _ = play(net, jax.random.split(jax.random.clone(validation_key), VALIDATION_EPISODES))
        return {"return": float(returns.mean())}

    def finish(
        net: Params, summary: dict[str, Any], rows: Sequence[dict[str, Any]], folder: pathlib.Path
    ) -> dict[str, Any]:
        returns, lengths = play(net, jax.random.split(jax.random.clone(test_key), TEST_EPISODES))
        figures = {
            "mean_return": float(returns.mean()),
            "standard_error": float(returns.std(ddof=1) / TEST_EPISODES**0.5),
            "worst_return": float(returns.min()),
            "mean_length": float(lengths.mean()),
            "episodes": TEST_EPISODES,
        }
        text = render_training(folder.name, {**summary, "evaluation": figures}, rows, dump_config(config))
        (folder / "report.html").write_text(text, encoding="utf-8")
        return {"evaluation": figures}

    def describe(summary: dict[str, Any]) -> str:
        figures = summary["evaluation"]
        return (
            f"{config.env.name}, {figures['episodes']} new episodes: mean return {figures['mean_return']:.2f} "
            f"(standard error {figures['standard_error']:.2f}), worst {figures['worst_return']:.2f}"
        )

    def show(row: dict[str, float]) -> dict[str, str]:
        shown = {"return": f"{row['episode_return']:.1f}"}
        return {**shown, "validation": f"{row['validation_return']:.1f}"} if "validation_return" in row else shown

    return Experiment(
        config=config,
        ppo=ppo,
        devices=devices,
        task=task,
        net=net,
        params=params,
        data={"environment": config.env.name, "fingerprint": config.env.name},
        criterion="return",
        score=score,
        derive=lambda row: {},
        show=show,
        finish=finish,
        describe=describe,
        risk=make_reward_shaping(config),
    )


def episode(
    policy: MLPPolicy, env: environment.Environment, params: Any, net: Params, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return `[]` and length `[]` of one episode under the most probable actions. Consumes `key`."""
    key_reset, key_steps = jax.random.split(key)
    observation, state = env.reset(key_reset, params)

    def going(carry: tuple[Any, ...]) -> jax.Array:
        return ~carry[2] & (carry[4] < LONGEST_EPISODE)

    def one_step(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        observation, state, _, total, length = carry
        distribution = policy.distribution(net, flat(observation))
        action = to_env_action(env, params, distribution.squash(distribution.mode()))
        key_step = jax.random.fold_in(key_steps, length)
        observation, state, reward, terminated, truncated, _ = env.step(key_step, state, action, params)
        return observation, state, terminated | truncated, total + reward, length + 1

    start = (observation, state, jnp.zeros((), bool), jnp.zeros(()), jnp.zeros((), jnp.int32))
    *_, total, length = jax.lax.while_loop(going, one_step, start)
    return total, length


def _make(config: Config) -> tuple[environment.Environment, Any]:
    """The registered environment and its default parameters."""
    if config.policy.kind != "mlp":
        raise ConfigError(f"policy.kind is {config.policy.kind!r}; env.name {config.env.name!r} needs policy.kind mlp")
    if config.training.episodes is not None:
        raise ConfigError("training.episodes counts trading episodes; set training.steps or training.minutes instead")
    if config.env.name not in gymnax.registered_envs:
        known = ", ".join(("trading", *gymnax.registered_envs))
        raise ConfigError(f"env.name is {config.env.name!r}; allowed: {known}")
    return gymnax.make(config.env.name)
