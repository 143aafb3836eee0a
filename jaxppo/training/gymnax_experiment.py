"""Training on any gymnax environment: scored by the return of whole episodes."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnax
import jax
import jax.numpy as jnp
from gymnax.environments import environment

from jaxppo.config import Config, dump_config
from jaxppo.errors import ConfigError
from jaxppo.policy.networks.actor_critic import Params
from jaxppo.policy.networks.mlp import MLPActorCritic, MLPConfig, make_mlp_actor_critic
from jaxppo.ppo.gymnax_task import action_config, flat, gymnax_task, n_inputs, n_market, to_env_action
from jaxppo.ppo.learner import shuffle_groups
from jaxppo.report.page import render_training
from jaxppo.run.devices import training_devices
from jaxppo.run.objectives import make_reward_shaping
from jaxppo.training.experiment import Evaluator, Experiment, MakeEvaluator

VALIDATION_EPISODES, TEST_EPISODES = 32, 256
LONGEST_EPISODE = 100_000


class GymnaxSetup(NamedTuple):
    """What a run on a gymnax environment is made of.

    Attributes:
      config: the configuration.
      env: the environment `config.env.name`.
      params: its default parameters.
    """

    config: Config
    env: environment.Environment
    params: Any


def gymnax_experiment(
    config: Config, make_evaluator: MakeEvaluator, *, devices: Sequence[jax.Device] | None = None
) -> Experiment:
    """Trains a network on the environment `config.env.name`.

    Args:
      config: the configuration.
      make_evaluator: makes the evaluator of the `GymnaxSetup` and the network.
      devices: to train on; None leaves them to the configuration.

    Raises:
      ConfigError: there is no such environment, or the policy cannot learn from it.
    """
    env, params = _make(config)
    ppo, devices = config.ppo, training_devices(config) if devices is None else list(devices)
    try:
        shuffle_groups(ppo, len(devices))
        action = action_config(env, params, config.policy.action_std)
        ahead = n_market(env, params) + 1 if config.ppo.hindsight_critic else 0
        inputs, of = n_inputs(env, params), config.policy
        shape = MLPConfig(inputs, ahead, of.width, of.layers, of.quantiles)
        network, net = make_mlp_actor_critic(shape, action, jax.random.key(config.seed))
        task = gymnax_task(network, env, params, ppo)
    except ValueError as error:
        raise ConfigError(f"env.name is {config.env.name!r}: {error}") from None
    evaluator = make_evaluator(GymnaxSetup(config, env, params), network)
    validated = f"validation_{evaluator.criterion}"

    def show(row: dict[str, float]) -> dict[str, str]:
        shown = {"return": f"{row['episode_return']:.1f}"}
        return {**shown, "validation": f"{row[validated]:.1f}"} if validated in row else shown

    return Experiment(
        config=config,
        ppo=ppo,
        devices=devices,
        task=task,
        net=net,
        params=params,
        data={"environment": config.env.name, "fingerprint": config.env.name},
        evaluator=evaluator,
        derive=lambda row: {},
        show=show,
        risk=make_reward_shaping(config),
    )


def episode_evaluator(setup: GymnaxSetup, network: MLPActorCritic) -> Evaluator:
    """Selects by the mean return of validation episodes, and evaluates other episodes at the end.

    Args:
      setup: environment and configuration.
      network: whose most probable actions are taken.
    """
    config, env, params = setup
    test_key, validation_key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 1))
    play = jax.jit(lambda net, keys: jax.vmap(lambda key: episode(network, env, params, net, key))(keys))

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

    return Evaluator("return", score, finish, describe)


def episode(
    network: MLPActorCritic, env: environment.Environment, params: Any, net: Params, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Plays one episode with the most probable actions. Consumes `key`.

    Args:
      network: that acts.
      env: a gymnax environment.
      params: of the environment.
      net: parameters of the network.
      key: of the reset and of every step.

    Returns:
      The episode's return `[]` and its length `[]` in steps, at most `LONGEST_EPISODE`.
    """
    key_reset, key_steps = jax.random.split(key)
    observation, state = env.reset(key_reset, params)

    def going(carry: tuple[Any, ...]) -> jax.Array:
        return ~carry[2] & (carry[4] < LONGEST_EPISODE)

    def one_step(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        observation, state, _, total, length = carry
        distribution = network.distribution(net, flat(observation))
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
