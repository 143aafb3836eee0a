"""Any gymnax environment as a task: P paths, on each K environments that meet the same noise."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from jaxppo.config import PPOConfig
from jaxppo.policy.networks.actor_critic import Params
from jaxppo.policy.networks.head import ActionConfig
from jaxppo.policy.networks.mlp import MLPActorCritic
from jaxppo.policy.rollout import DATA_AXIS, Rollout
from jaxppo.ppo.returns import discounted_future
from jaxppo.ppo.task import Task


class PathState(struct.PyTreeNode):
    """State of the K environments of a path. Leading axis P under `vmap`.

    Attributes:
      observation: `[K, n]` float32, flattened.
      env: `[K]` environment states.
      episode_return: `[K]` rewards of the running episode.
      last_return: `[K]` return of the last finished episode, 0 before the first.
    """

    observation: jax.Array
    env: Any
    episode_return: jax.Array
    last_return: jax.Array


def n_inputs(env: environment.Environment, params: Any) -> int:
    """Length of the flattened observation.

    Args:
      env: the environment.
      params: its parameters.

    Raises:
      ValueError: the observation is not one array.
    """
    space = env.observation_space(params)
    if not isinstance(space, spaces.Box | spaces.Discrete):
        raise ValueError(f"{env.name} observes a {type(space).__name__}; only arrays can be learned from")
    return int(np.prod(space.shape, dtype=int))


def action_config(env: environment.Environment, params: Any, std: float) -> ActionConfig:
    """Actions of the environment as the head parameterises them; boxes are scaled to [-1, 1].

    Args:
      env: the environment.
      params: its parameters.
      std: standard deviation of a continuous action at the start, > 0.

    Raises:
      ValueError: the action space is neither discrete nor a bounded box.
    """
    space = env.action_space(params)
    if isinstance(space, spaces.Discrete):
        return ActionConfig("discrete", int(space.n), -1.0, 1.0)
    if isinstance(space, spaces.Box) and np.all(np.isfinite(space.low)) and np.all(np.isfinite(space.high)):
        n = int(np.prod(space.shape, dtype=int))
        return ActionConfig("continuous", 1, -1.0, 1.0, n_components=n, std=std)
    raise ValueError(
        f"{env.name} acts in a {type(space).__name__}; only Discrete and bounded Box spaces can be learned"
    )


def n_market(env: environment.Environment, params: Any) -> int:
    """Length of `info["market"]`, the exogenous input of a step; 0 without it.

    Args:
      env: the environment.
      params: its parameters.
    """

    def one_step(key: jax.Array) -> Any:
        key_reset, key_step = jax.random.split(key)
        _, state = env.reset(key_reset, params)
        action = jnp.zeros(env.action_space(params).shape, env.action_space(params).dtype)
        return env.step(key_step, state, action, params)[-1].get("market", jnp.zeros(0))

    return int(np.prod(jax.eval_shape(one_step, jax.random.key(0)).shape, dtype=int))


def to_env_action(env: environment.Environment, params: Any, action: jax.Array) -> jax.Array:
    """Converts an action of the head into one of the environment.

    Args:
      env: the environment.
      params: its parameters.
      action: `[n_components]` from `distribution.squash`.
    """
    space = env.action_space(params)
    if isinstance(space, spaces.Discrete):
        return action[0]
    unit = 0.5 * (action.reshape(space.shape) + 1.0)
    return space.low + (space.high - space.low) * unit


def gymnax_task(network: MLPActorCritic, env: environment.Environment, params: Any, config: PPOConfig) -> Task:
    """Builds the task of an environment.

    The K environments of a path get the same keys: where a step's noise does not depend on state and action, they meet
    the same exogenous input and differ in their actions alone.

    Args:
      network: actor and critic.
      env: the environment.
      params: its parameters; the task's functions take any of the same shapes.
      config: hyper-parameters.

    Raises:
      ValueError: `config.hindsight_critic` for an environment that does not show its exogenous input.
    """
    acts = action_config(env, params, 1.0)
    draws = (config.chunk, config.portfolios, acts.n_components)
    if config.hindsight_critic and not n_market(env, params):
        raise ValueError(f"ppo.hindsight_critic needs info['market'], which {env.name} does not have")

    def start(params: Any, keys: jax.Array) -> PathState:
        def one(key: jax.Array) -> PathState:
            observation, state = env.reset(key, params)
            zero = jnp.zeros(())
            return PathState(flat(observation), state, zero, zero)

        # The dtype again, as a weak type would compile the next iteration anew.
        states, n = jax.vmap(one)(keys), config.portfolios
        return jax.tree.map(lambda x: jnp.repeat(x[:, None], n, axis=1).astype(x.dtype), states)

    def collect(
        net: Params, params: Any, states: PathState, keys: jax.Array, progress: jax.Array, explore: bool = True
    ) -> tuple[PathState, Rollout]:
        """A rollout, differentiable in `net` but for the parameters of the values."""
        del progress
        fixed = jax.lax.stop_gradient(net)
        key_act, key_env = jax.vmap(lambda key: tuple(jax.random.split(key)))(keys)
        uniform = jax.vmap(lambda key: jax.random.uniform(key, draws), out_axes=1)(key_act)
        act = jax.vmap(jax.vmap(lambda action: to_env_action(env, params, action)))
        over_portfolios = jax.vmap(env.step, in_axes=(None, 0, 0, None))
        over_paths = jax.vmap(over_portfolios, in_axes=(0, 0, 0, None))

        def one_step(carry: Any, xs: tuple[jax.Array, jax.Array]) -> tuple[Any, dict[str, Any]]:
            (states, observed), (u, step) = carry, xs
            # Written in its final place: observations may be large, and to transpose them afterwards is slow.
            seen = jax.lax.stop_gradient(states.observation)
            observed = jax.lax.dynamic_update_slice_in_dim(observed, seen[:, None], step, axis=1)
            key = jax.vmap(jax.random.fold_in, in_axes=(0, None))(key_env, step)
            distribution = network.distribution(net, states.observation)
            action = distribution.sample(u) if explore else distribution.mode()
            chosen = act(distribution.squash(action))
            observation, state, reward, terminated, truncated, info = over_paths(key, states.env, chosen, params)
            reward, ended = reward.astype(jnp.float32), terminated | truncated
            total = states.episode_return + reward
            out = {
                "final_value": _value_if(truncated.any(), network, fixed, flat(info["final_observation"], 2)),
                "action": action,
                "behaviour": distribution,
                "log_prob": distribution.log_prob(action),
                "reward": reward,
                "terminated": terminated,
                "truncated": truncated & ~terminated,
                "market": flat(info["market"], 2) if config.hindsight_critic else None,
            }
            last = jnp.where(ended, total, states.last_return)
            states = PathState(flat(observation, 2), state, jnp.where(ended, 0.0, total), last)
            return (states, observed), out

        observed = jnp.zeros((len(keys), config.chunk, *states.observation.shape[1:]))
        (states, observed), out = jax.lax.scan(one_step, (states, observed), (uniform, jnp.arange(config.chunk)))
        out = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), out)
        return states, _rollout(network, fixed, states, {"observation": observed, **out}, config)

    def predict(net: Params, params: Any, rollout: Rollout) -> tuple[Any, jax.Array]:
        del params
        value = network.value(net, rollout.inputs, rollout.hindsight)
        return network.distribution(net, rollout.inputs), value

    of_gradient = (collect if acts.kind == "continuous" else None, network.critic_layers)
    return Task(start, collect, predict, _metrics, network.value_layer, config.chunk, *of_gradient)


def flat(observation: jax.Array, batch_dims: int = 0) -> jax.Array:
    """Flattens an observation to float32.

    Args:
      observation: `[*batch, ...]`.
      batch_dims: leading axes that stay.
    """
    return observation.astype(jnp.float32).reshape(*observation.shape[:batch_dims], -1)


def _value_if(needed: jax.Array, network: MLPActorCritic, net: Params, observation: jax.Array) -> jax.Array:
    """Values of observations `[P, K, n]`, or zeros unless `needed`; under `vmap` both are computed."""
    n_quantiles = () if network.quantiles == 1 else (network.quantiles,)
    zeros = jnp.zeros((*observation.shape[:-1], *n_quantiles))
    return jax.lax.cond(needed, lambda: network.value(net, observation), lambda: zeros)


def _rollout(
    network: MLPActorCritic, net: Params, states: PathState, out: dict[str, Any], config: PPOConfig
) -> Rollout:
    """Completes the fields `out` of the steps by the values of all observations but the final ones."""
    observation, market, final = out.pop("observation"), out.pop("market"), out.pop("final_value")
    ended = out["terminated"] | out["truncated"]
    ahead = _ahead(market, ended, config) if config.hindsight_critic else None
    now = None if ahead is None else ahead[:, :-1]
    last = network.value(net, states.observation, None if ahead is None else ahead[:, -1])
    value = network.value(net, observation, now)
    after = jnp.concatenate([value[:, 1:], last[:, None]], axis=1)
    cut = out["truncated"] if network.quantiles == 1 else out["truncated"][..., None]
    return Rollout(
        inputs=observation,
        hindsight=now,
        value=value,
        value_after=jnp.where(cut, final, after),
        info={"last_return": states.last_return},
        **out,
    )


def _ahead(market: jax.Array, ended: jax.Array, config: PPOConfig) -> jax.Array:
    """Discounted exogenous inputs to the end of the chunk or episode and the share of the chunk that is left.

    `[P, S, K, m]` to `[P, S + 1, K, m + 1]`; see `jaxppo.ppo.trading_task.market_ahead`.
    """
    going = 1.0 - ended[..., None]
    one = jnp.full_like(market[..., :1], config.chunk**-0.5)
    inputs = jnp.concatenate([market, one], axis=-1) * config.chunk**-0.5
    ahead = jax.vmap(lambda x, trace: discounted_future(x, trace, config.gamma))(inputs, going)
    return jnp.concatenate([ahead, jnp.zeros_like(ahead[:, :1])], axis=1)


def _metrics(rollout: Rollout) -> dict[str, jax.Array]:
    """Mean and standard deviation of the reward per step, and mean return of every environment's last episode."""
    mean = jax.lax.pmean(rollout.reward.mean(), DATA_AXIS)
    variance = jax.lax.pmean(jnp.square(rollout.reward - mean).mean(), DATA_AXIS)
    returns = jax.lax.pmean(rollout.info["last_return"].mean(), DATA_AXIS)
    return {"reward": mean, "reward_std": jnp.sqrt(variance), "episode_return": returns}
