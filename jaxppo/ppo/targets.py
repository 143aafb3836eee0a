"""From a rollout to what the losses compare with: advantages, value targets, and the scale of values."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxppo.config import PPOConfig
from jaxppo.config.critic import check_critic
from jaxppo.policy.networks.actor_critic import Params
from jaxppo.policy.rollout import DATA_AXIS, Rollout
from jaxppo.ppo.returns import (
    distorted_advantages,
    generalised_advantage_estimation,
    lambda_returns,
    n_step_returns,
    return_atoms,
)
from jaxppo.risk.distortion import cell_weights, distorted_value, midpoints

SMALLEST_SPREAD = 1e-4


@struct.dataclass
class ValueStatistics:
    """Running moments of the value targets; the network's values are in units of their spread, around their mean.

    Moments are kept around the mean: in float32 a mean square would lose a spread of a thousandth of the mean.

    Attributes:
      mean: `[]`, 0 before the first update.
      variance: `[]`, 1 before the first update.
      weight: `[]` sum of weights, which corrects the start; 0 before the first update.
    """

    mean: jax.Array
    variance: jax.Array
    weight: jax.Array

    @property
    def spread(self) -> jax.Array:
        """`[]` standard deviation, at least `SMALLEST_SPREAD`."""
        return jnp.sqrt(jnp.maximum(self.variance, SMALLEST_SPREAD**2))

    def normalise(self, value: jax.Array) -> jax.Array:
        """Values to network units."""
        return (value - self.mean) / self.spread

    def denormalise(self, value: jax.Array) -> jax.Array:
        """Network units to values."""
        return self.mean + self.spread * value

    def include(self, targets: jax.Array, rate: float) -> ValueStatistics:
        """With the moments of these targets, over all devices, at weight `rate`."""
        mean = jax.lax.pmean(targets.mean(), DATA_AXIS)
        variance = jax.lax.pmean(jnp.square(targets - mean).mean(), DATA_AXIS)
        weight = (1.0 - rate) * self.weight + rate
        share = rate / weight
        step = mean - self.mean
        between = share * jnp.square(step)
        return ValueStatistics(
            mean=self.mean + share * step,
            variance=(1.0 - share) * (self.variance + between) + share * variance,
            weight=weight,
        )


def no_statistics() -> ValueStatistics:
    """Before the first update: values are what the network says."""
    return ValueStatistics(jnp.zeros(()), jnp.ones(()), jnp.zeros(()))


def preserve_outputs(net: Params, layer: tuple[str, ...], before: ValueStatistics, after: ValueStatistics) -> Params:
    """Rescales the critic's last layer so that its denormalised values stay what they were.

    Args:
      net: nested dict of parameters.
      layer: path of the layer in `net`.
      before: statistics its outputs are in units of.
      after: statistics they shall be in units of.

    References:
      van Hasselt et al. (2016), Pop-Art, proposition 1. https://arxiv.org/abs/1602.07714
    """
    if layer:
        name, *rest = layer
        return {**net, name: preserve_outputs(net[name], tuple(rest), before, after)}
    kernel = net["kernel"] * (before.spread / after.spread)
    return {"kernel": kernel, "bias": after.normalise(before.denormalise(net["bias"]))}


@struct.dataclass
class Targets:
    """What the losses compare with. Leading axis P.

    Attributes:
      advantage: `[P, S, K]`, normalised over the whole batch, all devices.
      value: `[P, S, K]` value targets, or `[P, S, K, N]` equally likely returns, network units.
      old_value: like `value`, values in the rollout, network units.
    """

    advantage: jax.Array
    value: jax.Array
    old_value: jax.Array


def leave_one_out(advantage: jax.Array) -> jax.Array:
    """Subtracts the mean over the other portfolios, `[..., K]`.

    Given the exogenous market, the others' advantages do not depend on a portfolio's own action, so the mean policy
    gradient does not change; the market's luck, which they share, cancels. One portfolio is left as it is.
    """
    n = advantage.shape[-1]
    return advantage if n == 1 else (advantage - advantage.mean(axis=-1, keepdims=True)) * (n / (n - 1))


def estimate(rollout: Rollout, value: jax.Array, value_after: jax.Array, config: PPOConfig) -> tuple[Any, Any]:
    """Advantages and returns `[P, S, K]`, before any normalisation.

    Args:
      rollout: the rollout.
      value: `[P, S, K]` denormalised.
      value_after: `[P, S, K]` denormalised.
      config: discount, lambdas, mixtures.
    """

    def one(r_t: jax.Array, terminated: jax.Array, truncated: jax.Array, v_tm1: jax.Array, v_t: jax.Array) -> Any:
        discount_t = config.gamma * (1.0 - terminated)
        trace_t = (1.0 - terminated) * (1.0 - truncated)
        step = (r_t * config.reward_scale, discount_t, v_tm1, v_t, trace_t)
        advantage = generalised_advantage_estimation(*step, config.gae_lambda)
        trace = config.gae_lambda if config.target_lambda is None else config.target_lambda
        returns = lambda_returns(*step, trace)
        if config.advantage_n_step or config.target_n_step:
            n_step = n_step_returns(step[0], discount_t, v_t, trace_t, config.n_steps)
            advantage += config.advantage_n_step * (n_step - v_tm1 - advantage)
            returns += config.target_n_step * (n_step - returns)
        return advantage, returns

    over_portfolios = jax.vmap(one, in_axes=1, out_axes=1)
    ends = (rollout.terminated.astype(jnp.float32), rollout.truncated.astype(jnp.float32))
    return jax.vmap(over_portfolios)(rollout.reward, *ends, value, value_after)


def estimate_distribution(
    rollout: Rollout, value: jax.Array, value_after: jax.Array, config: PPOConfig
) -> tuple[jax.Array, jax.Array]:
    """Advantages `[P, S, K]` and equally likely returns `[P, S, K, N]`, before any normalisation.

    Args:
      rollout: the rollout.
      value: `[P, S, K, N]` quantiles, denormalised.
      value_after: `[P, S, K, N]` quantiles, denormalised.
      config: discount, lambda, distortion, mixture of the advantage.
    """

    def one(r_t: jax.Array, terminated: jax.Array, truncated: jax.Array, q_tm1: jax.Array, q_t: jax.Array) -> Any:
        discount_t = config.gamma * (1.0 - terminated)
        trace_t = (1.0 - terminated) * (1.0 - truncated)
        r_t = r_t * config.reward_scale
        atoms = return_atoms(r_t, discount_t, q_t, trace_t)
        if config.distortion == "none":
            return None, atoms
        mixture = (config.gae_lambda, config.n_steps, config.advantage_n_step)
        return distorted_advantages(r_t, discount_t, q_tm1, q_t, trace_t, weights, *mixture), atoms

    weights = _weights(value, config)
    ends = (rollout.terminated.astype(jnp.float32), rollout.truncated.astype(jnp.float32))
    over_portfolios = jax.vmap(one, in_axes=1, out_axes=1)
    advantage, atoms = jax.vmap(over_portfolios)(rollout.reward, *ends, value, value_after)
    if advantage is None:
        advantage, _ = estimate(rollout, value.mean(axis=-1), value_after.mean(axis=-1), config)
    return advantage, atoms


def _weights(quantiles: jax.Array, config: PPOConfig) -> np.ndarray:
    return cell_weights(quantiles.shape[-1], config.distortion, config.distortion_level or 0.0)


def make_targets(
    rollout: Rollout, config: PPOConfig, before: ValueStatistics
) -> tuple[Targets, ValueStatistics, dict[str, jax.Array]]:
    """Targets, the statistics that their values are in units of, and metrics. Runs under `shard_map`.

    Statistics and metrics of values that are quantiles are those of their means.

    Args:
      rollout: this device's paths.
      config: hyper-parameters.
      before: statistics that the rollout's values are in units of.

    Raises:
      ValueError: hyper-parameters that the critic excludes, see `jaxppo.config.critic`.
    """
    known, after_known = before.denormalise(rollout.value), before.denormalise(rollout.value_after)
    distributional = known.ndim > rollout.reward.ndim
    check_critic(known.shape[-1] if distributional else 1, config)
    if distributional:
        advantage, goal = estimate_distribution(rollout, known, after_known, config)
        value, returns = known.mean(axis=-1), goal.mean(axis=-1)
    else:
        advantage, goal = estimate(rollout, known, after_known, config)
        value, returns = known, goal
    error, mean = jax.lax.pmean((jnp.square(returns - value).mean(), returns.mean()), DATA_AXIS)
    spread = jax.lax.pmean(jnp.square(returns - mean).mean(), DATA_AXIS)
    plain = _spread(advantage)[1]
    if config.control_variate:
        advantage = leave_one_out(advantage)
    centre, scale = _spread(advantage)
    after = before
    if config.value_normalisation != "none":
        after = before.include(returns, config.value_statistics_rate)
    targets = Targets((advantage - centre) / (scale + 1e-8), after.normalise(goal), after.normalise(known))
    metrics = {
        "explained_variance": 1.0 - error / jnp.maximum(spread, 1e-12),
        "value_target": mean,
        "advantage_std": scale,
        "control_variate_ratio": jnp.square(scale / jnp.maximum(plain, 1e-12)),
    }
    if distributional:
        metrics |= _distribution_metrics(known, goal, config)
    return targets, after, metrics


def _distribution_metrics(quantiles: jax.Array, atoms: jax.Array, config: PPOConfig) -> dict[str, jax.Array]:
    """How far the critic's quantiles are from what they stand for, and the mean distorted value of a state.

    `quantile_error` is the mean over i of `|share of returns below q_i - tau_i|`: 0 where the critic is calibrated.
    """
    below = (atoms[..., None, :] < quantiles[..., :, None]).mean(axis=(*range(atoms.ndim - 1), -1))
    error = jnp.abs(jax.lax.pmean(below, DATA_AXIS) - midpoints(below.shape[0])).mean()
    if config.distortion == "none":
        return {"quantile_error": error}
    distorted = distorted_value(quantiles, _weights(quantiles, config)).mean()
    return {"quantile_error": error, "distorted_value": jax.lax.pmean(distorted, DATA_AXIS)}


def _spread(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation over the whole batch, all devices."""
    mean = jax.lax.pmean(x.mean(), DATA_AXIS)
    return mean, jnp.sqrt(jax.lax.pmean(jnp.square(x - mean).mean(), DATA_AXIS))
