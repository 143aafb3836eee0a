"""Pathwise update: the gradient of what accounts earn, through the accounting of whole chunks.

Bars do not depend on actions, so for a policy without randomness the derivative of the rewards by the parameters is
exact: that of the scan over the bars. A chunk is cut off by the critic, as in the short-horizon actor-critic.

References:
  Xu et al. (2022), Accelerated policy learning with parallel differentiable simulation. https://arxiv.org/abs/2204.07137
  Lim, Zohren, Roberts (2019), Enhancing time series momentum strategies using deep neural networks, for the ratio of
  Sharpe as the objective. https://arxiv.org/abs/1904.04912
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxppo.config import PathwiseConfig, PPOConfig
from jaxppo.policy.networks.actor_critic import Params
from jaxppo.policy.rollout import DATA_AXIS, Rollout
from jaxppo.ppo.targets import ValueStatistics
from jaxppo.ppo.update import Batch, Objective, descend, shuffled_minibatches, value_loss

SMALLEST_DEVIATION = 1e-6
"""Smallest standard deviation of the returns of bars that the Sharpe ratio divides by."""


class Earned(NamedTuple):
    """What the objective reads of a rollout.

    Attributes:
      gain: `[]` sum of what is maximised, over this device's accounts, divided by their number.
      rollout: that it was computed from, rewards shaped.
      extra: what the function that unrolled it returned beside.
    """

    gain: jax.Array
    rollout: Rollout
    extra: Any


def discounted_rewards(rollout: Rollout, values: ValueStatistics, config: PPOConfig, bootstrap: bool) -> jax.Array:
    """Mean over accounts `[]` of the discounted scaled rewards of a chunk, episode by episode, and of what follows.

    Args:
      rollout: of P paths; `value_after` counts where an episode is cut, and at the end of the chunk.
      values: that the rollout's values are normalised by.
      config: discount and reward scale.
      bootstrap: False leaves out what follows.
    """
    ended = rollout.terminated | rollout.truncated
    going = config.gamma * (1.0 - jnp.moveaxis(ended, 1, 0))
    begun = jnp.ones_like(going[0])

    def one(weight: jax.Array, going: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.where(going > 0, weight * going, 1.0), weight

    weight = jnp.moveaxis(jax.lax.scan(one, begun, going)[1], 0, 1)
    total = jnp.sum(weight * rollout.reward * config.reward_scale, axis=1)
    if bootstrap:
        after = values.denormalise(rollout.value_after)
        after = after.mean(axis=-1) if after.ndim > ended.ndim else after
        cut = rollout.truncated.at[:, -1].set(True) & ~rollout.terminated
        total += jnp.sum(jnp.where(cut, config.gamma * weight * after, 0.0), axis=1)
    return total.mean()


def sharpe_ratio(rollout: Rollout) -> jax.Array:
    """Sharpe ratio per bar `[]` of the log returns of all accounts and bars together, over all devices.

    Its derivative is right on each device for its own accounts: that of `mean / deviation` linearised at the moments
    of all of them.

    Args:
      rollout: of trading.
    """
    returns = rollout.info["log_growth"]
    fixed = jax.lax.stop_gradient(returns)
    mean = jax.lax.pmean(fixed.mean(), DATA_AXIS)
    square = jax.lax.pmean(jnp.square(fixed).mean(), DATA_AXIS)
    deviation = jnp.sqrt(jnp.maximum(square - jnp.square(mean), SMALLEST_DEVIATION**2))
    by_mean, by_square = 1.0 / deviation + mean**2 / deviation**3, -0.5 * mean / deviation**3
    linear = by_mean * returns.mean() + by_square * jnp.square(returns).mean()
    return mean / deviation + linear - jax.lax.stop_gradient(linear)


def ascent(
    net: Params,
    unroll: Callable[[Params], tuple[Rollout, Any]],
    values: ValueStatistics,
    config: PPOConfig,
    pathwise: PathwiseConfig,
) -> tuple[Params, Earned]:
    """Gradient of minus the objective, over all devices, and what was earned. Runs under `shard_map`.

    Args:
      net: parameters.
      unroll: `net -> (rollout, anything)`, differentiable.
      values: that the rollout's values are normalised by.
      config: discount and reward scale.
      pathwise: the objective.
    """

    def loss(net: Params) -> tuple[jax.Array, Earned]:
        rollout, extra = unroll(net)
        if pathwise.objective == "sharpe":
            gain = sharpe_ratio(rollout)
        else:
            gain = discounted_rewards(rollout, values, config, pathwise.bootstrap)
        return -gain, jax.lax.stop_gradient(Earned(gain, rollout, extra))

    gradient, earned = jax.grad(loss, has_aux=True)(net)
    return jax.lax.pmean(gradient, DATA_AXIS), earned


def parts_of(net: Params, paths: tuple[tuple[str, ...], ...]) -> dict[str, Params]:
    """Parts of nested parameters by their paths, those that there are; keys are the paths joined by dots."""
    found = {}
    for path in paths:
        part = net
        for name in path:
            part = part.get(name) if part is not None else None
        if part is not None:
            found[".".join(path)] = part
    return found


def with_parts(net: Params, parts: dict[str, Params]) -> Params:
    """The parameters with other parts, from `parts_of`."""
    for path, part in parts.items():
        net = _with_part(net, path.split("."), part)
    return net


def _with_part(net: Params, path: list[str], part: Params) -> Params:
    name, *rest = path
    return {**net, name: _with_part(net[name], rest, part) if rest else part}


def fit_critic(
    net: Params,
    opt_state: optax.OptState,
    optimiser: optax.GradientTransformation,
    batch: Batch,
    objective: Objective,
    key: jax.Array,
    groups: jax.Array,
) -> tuple[Params, optax.OptState, dict[str, jax.Array]]:
    """Fits the layers that are the critic's alone, in `epochs * minibatches` steps. Runs under `shard_map`.

    Args:
      net: parameters.
      opt_state: of `optimiser`, for `parts_of(net, task.critic_layers)`.
      optimiser: gradient to direction.
      batch: this shard's paths.
      objective: task and hyper-parameters.
      key: randomness of the shuffles, the same on every device. Consumed.
      groups: `[G]` global indices of this shard's shuffle groups.

    Returns:
      New parameters, optimiser state, and metrics.
    """
    task, config, rate = objective.task, objective.config, objective.coefficients.learning_rate

    def loss(critic: dict[str, Params], piece: Batch) -> jax.Array:
        _, value = task.predict(with_parts(net, critic), objective.params, piece.rollout)
        return value_loss(value, piece.targets, config)

    def step(carry: Any, index: jax.Array) -> tuple[Any, tuple[jax.Array, jax.Array]]:
        critic, opt_state = carry
        piece = jax.tree.map(lambda x: x[index], batch)
        found = jax.lax.pmean(jax.value_and_grad(loss)(critic, piece), DATA_AXIS)
        moved = descend(critic, opt_state, optimiser, found[1], rate, found[0])
        return moved[:2], (found[0], moved[2])

    keys = jax.random.split(key, config.epochs)
    size = batch.rollout.log_prob.shape[0] // groups.shape[0]
    order = jax.vmap(lambda k: shuffled_minibatches(k, groups, size, config.minibatches))(keys)
    start = (parts_of(net, task.critic_layers), opt_state)
    (critic, opt_state), (losses, taken) = jax.lax.scan(step, start, order.reshape(-1, order.shape[-1]))
    mean = jnp.sum(jnp.where(taken, losses, 0.0)) / taken.sum()
    return with_parts(net, critic), opt_state, {"value_loss": mean, "skipped_updates": jnp.sum(1.0 - taken)}
