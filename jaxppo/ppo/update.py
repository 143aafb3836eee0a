"""Epochs of minibatch updates on one rollout."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from envs.types import EnvParams
from jaxppo.config import PPOConfig
from jaxppo.networks.policy import Params, Policy
from jaxppo.ppo import losses
from jaxppo.ppo.returns import generalised_advantage_estimation
from jaxppo.ppo.rollout import Rollout, encode_paths

DATA_AXIS = "data"


@struct.dataclass
class Targets:
    """What the losses compare with. Leading axis P.

    Attributes:
      advantage: `[P, S, K]` normalised over the whole batch, all devices.
      value: `[P, S, K]` value targets, in scaled reward.
    """

    advantage: jax.Array
    value: jax.Array


def make_targets(rollout: Rollout, config: PPOConfig) -> Targets:
    """Advantages and value targets of a rollout; runs under `shard_map` and normalises across `DATA_AXIS`."""

    def one(r_t: jax.Array, terminated: jax.Array, value: jax.Array, final_value: jax.Array) -> jax.Array:
        going = 1.0 - terminated
        after = jnp.concatenate([value[1:], final_value[None]])
        return generalised_advantage_estimation(
            r_t * config.reward_scale, config.gamma * going, value, after, going, config.gae_lambda
        )

    per_portfolio = jax.vmap(jax.vmap(one, in_axes=(1, 1, 1, 0), out_axes=1))
    terminated = rollout.terminated.astype(jnp.float32)
    advantage = per_portfolio(rollout.reward, terminated, rollout.value, rollout.final_value)
    mean = jax.lax.pmean(advantage.mean(), DATA_AXIS)
    variance = jax.lax.pmean(jnp.square(advantage - mean).mean(), DATA_AXIS)
    return Targets(advantage=(advantage - mean) / (jnp.sqrt(variance) + 1e-8), value=advantage + rollout.value)


def ppo_loss(
    net: Params, policy: Policy, params: EnvParams, rollout: Rollout, targets: Targets, config: PPOConfig
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss of a minibatch of paths; the mean over `DATA_AXIS` is inside, so that its gradient is the global one."""
    chunk = rollout.log_prob.shape[1]
    prepared = encode_paths(policy, net, params, rollout.bar, chunk, None)
    distribution, value = policy.act(net, prepared[:, :, None], rollout.seen)
    log_ratio = distribution.log_prob(rollout.action) - rollout.log_prob
    entropy = distribution.entropy().mean()
    actor = losses.clipped_surrogate(log_ratio, targets.advantage, config.clip).mean()
    critic = losses.squared_value_error(value, targets.value).mean()
    loss = actor + config.value_coefficient * critic - config.entropy_coefficient * entropy
    metrics = {
        "loss": loss,
        "policy_loss": actor,
        "value_loss": critic,
        "entropy": entropy,
        "kl": losses.kl_estimate(log_ratio).mean(),
        "clip_fraction": losses.clipped_fraction(log_ratio, config.clip).mean(),
    }
    return jax.lax.pmean((loss, metrics), DATA_AXIS)


def loss_and_gradient(
    net: Params, policy: Policy, params: EnvParams, rollout: Rollout, targets: Targets, config: PPOConfig
) -> tuple[Params, dict[str, jax.Array]]:
    """Gradient of `ppo_loss`, accumulated over `config.micro_batch` paths at a time, and the mean metrics."""
    n_paths = rollout.bar.shape[0]
    micro = n_paths if config.micro_batch is None else min(config.micro_batch, n_paths)

    def gradient(piece: tuple[Rollout, Targets]) -> tuple[Params, dict[str, jax.Array]]:
        return jax.grad(ppo_loss, has_aux=True)(net, policy, params, *piece, config)

    if micro == n_paths:
        return gradient((rollout, targets))
    pieces = jax.tree.map(lambda x: x.reshape(n_paths // micro, micro, *x.shape[1:]), (rollout, targets))

    def add(total: Any, piece: tuple[Rollout, Targets]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradient(piece)), None

    shape = jax.eval_shape(gradient, jax.tree.map(lambda x: x[0], pieces))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shape)
    total, _ = jax.lax.scan(add, zeros, pieces)
    return jax.tree.map(lambda x: x * (micro / n_paths), total)


def shuffled_minibatches(key: jax.Array, groups: jax.Array, group_size: int, n_minibatches: int) -> jax.Array:
    """Splits the paths of a shard into minibatches, shuffling within fixed groups of neighbours.

    The groups do not depend on the number of devices, so neither does the membership of any minibatch.

    Args:
      key: randomness of this epoch, the same on every device. Consumed.
      groups: `[G]` int32, global indices of the groups that live on this shard, in order.
      group_size: paths per group, a multiple of `n_minibatches`.
      n_minibatches: M.

    Returns:
      `[M, G * group_size / M]` int32 positions within the shard.
    """
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, groups)
    order = jax.vmap(lambda k: jax.random.permutation(k, group_size))(keys)
    position = order + jnp.arange(groups.shape[0])[:, None] * group_size
    return position.reshape(groups.shape[0], n_minibatches, -1).swapaxes(0, 1).reshape(n_minibatches, -1)


def update(
    net: Params,
    opt_state: optax.OptState,
    optimiser: optax.GradientTransformation,
    learning_rate: jax.Array,
    policy: Policy,
    params: EnvParams,
    rollout: Rollout,
    config: PPOConfig,
    key: jax.Array,
    groups: jax.Array,
) -> tuple[Params, optax.OptState, dict[str, jax.Array]]:
    """`epochs * minibatches` steps of clipped PPO. Runs under `shard_map`. Consumes `key`.

    Args:
      net: parameters.
      opt_state: state of `optimiser`.
      optimiser: gradient to direction; the step size is applied here.
      learning_rate: `[]` step size of this iteration.
      policy: the policy.
      params: the market that the rollout came from.
      rollout: this shard's paths.
      config: hyper-parameters.
      key: randomness of the shuffles, the same on every device.
      groups: `[G]` global indices of this shard's shuffle groups.

    Returns:
      New parameters, optimiser state, and metrics averaged over the steps.
    """
    targets = make_targets(rollout, config)
    group_size = rollout.bar.shape[0] // groups.shape[0]

    def one_step(carry: Any, index: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        net, opt_state = carry
        batch = jax.tree.map(lambda x: x[index], (rollout, targets))
        gradient, metrics = loss_and_gradient(net, policy, params, *batch, config)
        direction, opt_state = optimiser.update(gradient, opt_state, net)
        net = jax.tree.map(lambda p, d: p - learning_rate * d, net, direction)
        return (net, opt_state), {**metrics, "gradient_norm": optax.tree.norm(gradient)}

    keys = jax.random.split(key, config.epochs)
    order = jax.vmap(lambda k: shuffled_minibatches(k, groups, group_size, config.minibatches))(keys)
    (net, opt_state), metrics = jax.lax.scan(one_step, (net, opt_state), order.reshape(-1, order.shape[-1]))
    residual = jnp.square(targets.value - rollout.value)
    error = jax.lax.pmean(residual.mean(), DATA_AXIS)
    mean = jax.lax.pmean(targets.value.mean(), DATA_AXIS)
    spread = jax.lax.pmean(jnp.square(targets.value - mean).mean(), DATA_AXIS)
    averaged = jax.tree.map(jnp.mean, metrics)
    return net, opt_state, {**averaged, "explained_variance": 1.0 - error / jnp.maximum(spread, 1e-12)}
