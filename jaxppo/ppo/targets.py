"""Targets of the losses from a rollout: advantages, value targets, and the scale of values."""

from __future__ import annotations

from collections.abc import Callable
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
    StepMixture,
    distorted_advantages,
    generalised_advantage_estimation,
    lambda_returns,
    n_step_returns,
    return_atoms,
)
from jaxppo.risk.distortion import cell_weights, distorted_value, midpoints

SMALLEST_SPREAD = 1e-4
"""Smallest standard deviation that values are divided by."""


class ValueStatistics(struct.PyTreeNode):
    """Running moments of the value targets; the network's values are normalised by their mean and spread.

    Attributes:
      mean: `[]`, 0 before the first update.
      variance: `[]` around the mean, 1 before the first update.
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
        """Converts values to network units."""
        return (value - self.mean) / self.spread

    def denormalise(self, value: jax.Array) -> jax.Array:
        """Converts network units to values."""
        return self.mean + self.spread * value

    def include(self, targets: jax.Array, rate: float) -> ValueStatistics:
        """Updates the moments by those of new targets, over all devices.

        Args:
          targets: any shape, this device's.
          rate: weight of the new targets, in (0, 1].
        """
        # Around the mean: in float32 a mean square would lose a spread of a thousandth of the mean.
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
    """Statistics before the first update: values are the network's outputs."""
    return ValueStatistics(jnp.zeros(()), jnp.ones(()), jnp.zeros(()))


def preserve_outputs(net: Params, layer: tuple[str, ...], before: ValueStatistics, after: ValueStatistics) -> Params:
    """Rescales the critic's last layer so that its denormalised values stay what they were.

    Args:
      net: nested dict of parameters.
      layer: path of the layer in `net`.
      before: statistics that the outputs are normalised by.
      after: statistics that they will be normalised by.

    Reference: van Hasselt et al. (2016), Pop-Art, proposition 1. https://arxiv.org/abs/1602.07714
    """
    if layer:
        name, *rest = layer
        return {**net, name: preserve_outputs(net[name], tuple(rest), before, after)}
    kernel = net["kernel"] * (before.spread / after.spread)
    return {"kernel": kernel, "bias": after.normalise(before.denormalise(net["bias"]))}


class Targets(struct.PyTreeNode):
    """Targets of the losses. Leading axis P.

    Attributes:
      advantage: `[P, S, K]`, normalised over the whole batch, all devices.
      value: `[P, S, K]` value targets, or `[P, S, K, N]` equally likely returns, network units.
      old_value: like `value`, values in the rollout, network units.
    """

    advantage: jax.Array
    value: jax.Array
    old_value: jax.Array


def leave_one_out(advantage: jax.Array) -> jax.Array:
    """Subtracts the mean over the other portfolios, `[..., K]`; a single portfolio stays as it is."""
    # Given the exogenous market, the advantages of the others do not depend on a portfolio's action: the mean policy
    # gradient does not change, while the market's luck, which all share, cancels.
    n = advantage.shape[-1]
    return advantage if n == 1 else (advantage - advantage.mean(axis=-1, keepdims=True)) * (n / (n - 1))


def estimate(rollout: Rollout, value: jax.Array, value_after: jax.Array, config: PPOConfig) -> tuple[Any, Any]:
    """Estimates advantages and returns `[P, S, K]`, before any normalisation.

    Args:
      rollout: the rollout.
      value: `[P, S, K]` of the states acted in, denormalised.
      value_after: `[P, S, K]` of the states arrived at, denormalised.
      config: discount, lambdas, mixtures.
    """

    def one(r_t: jax.Array, discount_t: jax.Array, trace_t: jax.Array, v_tm1: jax.Array, v_t: jax.Array) -> Any:
        step = (r_t, discount_t, v_tm1, v_t, trace_t)
        advantage = generalised_advantage_estimation(*step, config.gae_lambda)
        trace = config.gae_lambda if config.target_lambda is None else config.target_lambda
        returns = lambda_returns(*step, trace)
        if config.advantage_n_step or config.target_n_step:
            n_step = n_step_returns(r_t, discount_t, v_t, trace_t, config.n_steps)
            advantage += config.advantage_n_step * (n_step - v_tm1 - advantage)
            returns += config.target_n_step * (n_step - returns)
        return advantage, returns

    return _for_trajectories(one, rollout, value, value_after, config)


def _estimate_distribution(
    rollout: Rollout, value: jax.Array, value_after: jax.Array, config: PPOConfig
) -> tuple[jax.Array, jax.Array]:
    """Estimates advantages `[P, S, K]` and equally likely returns `[P, S, K, N]`; arguments as for `estimate`."""

    def one(r_t: jax.Array, discount_t: jax.Array, trace_t: jax.Array, q_tm1: jax.Array, q_t: jax.Array) -> Any:
        atoms = return_atoms(r_t, discount_t, q_t, trace_t)
        if config.distortion == "none":
            return None, atoms
        mixture = StepMixture(config.gae_lambda, config.n_steps, config.advantage_n_step)
        return distorted_advantages(r_t, discount_t, q_tm1, q_t, trace_t, weights, mixture), atoms

    weights = _weights(value, config)
    advantage, atoms = _for_trajectories(one, rollout, value, value_after, config)
    if advantage is None:
        advantage, _ = estimate(rollout, value.mean(axis=-1), value_after.mean(axis=-1), config)
    return advantage, atoms


def _for_trajectories(
    one: Callable[..., Any], rollout: Rollout, value: jax.Array, value_after: jax.Array, config: PPOConfig
) -> Any:
    """`one(r_t, discount_t, trace_t, v_tm1, v_t)` of every portfolio of every path."""

    def estimated(r_t: jax.Array, terminated: jax.Array, truncated: jax.Array, v_tm1: jax.Array, v_t: jax.Array) -> Any:
        discount_t = config.gamma * (1.0 - terminated)
        trace_t = (1.0 - terminated) * (1.0 - truncated)
        return one(r_t * config.reward_scale, discount_t, trace_t, v_tm1, v_t)

    over_portfolios = jax.vmap(estimated, in_axes=1, out_axes=1)
    ends = (rollout.terminated.astype(jnp.float32), rollout.truncated.astype(jnp.float32))
    return jax.vmap(over_portfolios)(rollout.reward, *ends, value, value_after)


def _weights(quantiles: jax.Array, config: PPOConfig) -> np.ndarray:
    return cell_weights(quantiles.shape[-1], config.distortion, config.distortion_level or 0.0)


def make_targets(
    rollout: Rollout, config: PPOConfig, before: ValueStatistics
) -> tuple[Targets, ValueStatistics, dict[str, jax.Array]]:
    """Computes the targets of a rollout. Runs under `shard_map`.

    Statistics and metrics of a quantile critic are those of the means of the quantiles.

    Args:
      rollout: this device's paths.
      config: hyper-parameters.
      before: statistics that the rollout's values are normalised by.

    Returns:
      The targets, the statistics that their values are normalised by, and metrics.

    Raises:
      ValueError: hyper-parameters that the critic excludes, see `jaxppo.config.critic`.
    """
    old_value, value_after = before.denormalise(rollout.value), before.denormalise(rollout.value_after)
    distributional = old_value.ndim > rollout.reward.ndim
    check_critic(old_value.shape[-1] if distributional else 1, config)
    if distributional:
        advantage, goal = _estimate_distribution(rollout, old_value, value_after, config)
        value, returns = old_value.mean(axis=-1), goal.mean(axis=-1)
    else:
        advantage, goal = estimate(rollout, old_value, value_after, config)
        value, returns = old_value, goal
    error, mean = jax.lax.pmean((jnp.square(returns - value).mean(), returns.mean()), DATA_AXIS)
    spread = jax.lax.pmean(jnp.square(returns - mean).mean(), DATA_AXIS)
    plain = _spread(advantage)[1]
    if config.control_variate:
        advantage = leave_one_out(advantage)
    centre, scale = _spread(advantage)
    after = before
    if config.value_normalisation != "none":
        after = before.include(returns, config.value_statistics_rate)
    targets = Targets((advantage - centre) / (scale + 1e-8), after.normalise(goal), after.normalise(old_value))
    metrics = {
        "explained_variance": 1.0 - error / jnp.maximum(spread, 1e-12),
        "value_target": mean,
        "advantage_std": scale,
        "control_variate_ratio": jnp.square(scale / jnp.maximum(plain, 1e-12)),
    }
    if distributional:
        metrics |= _distribution_metrics(old_value, goal, config)
    return targets, after, metrics


def _distribution_metrics(quantiles: jax.Array, atoms: jax.Array, config: PPOConfig) -> dict[str, jax.Array]:
    """Calibration error of the critic's quantiles, and the mean distorted value of a state.

    `quantile_error` is the mean over i of `|share of returns below q_i - tau_i|`.
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
