"""Multiplier of one constraint, by a PID rule on the relative violation of its limit."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.arguments import Delay, NonNegativeRatio, PositiveCoefficient, PositiveRatio, ProperFraction, check


class Gains(NamedTuple):
    """Gains of the PID rule by which a multiplier follows the violation of its limit.

    Attributes:
      proportional: multiplier per unit of smoothed relative violation.
      integral: multiplier gained per measurement and unit of relative violation.
      derivative: multiplier per unit by which the smoothed relative violation rose over `delay` measurements.
      smoothing: weight of the past in the smoothed violation.
      delay: measurements over which a rise is measured.
      maximum: largest multiplier; at 1 a bar at twice a limit costs one standard deviation of the mean reward of a
        rollout.
    """

    proportional: NonNegativeRatio = 0.2
    integral: PositiveCoefficient = 0.02
    derivative: NonNegativeRatio = 0.2
    smoothing: ProperFraction = 0.8
    delay: Delay = 5
    maximum: PositiveRatio = 10.0


class Multiplier(struct.PyTreeNode):
    """State of the PID rule; all zero before the first measurement.

    Attributes:
      value: `[]` the multiplier, in [0, maximum].
      integral: `[]` sum of violations times the integral gain, in [0, maximum].
      smoothed: `[]` exponential average of the violation.
      past: `[delay]` its latest values, oldest first.
      measured: `[]` bool, whether there was a measurement.
    """

    value: jax.Array
    integral: jax.Array
    smoothed: jax.Array
    past: jax.Array
    measured: jax.Array


def start(gains: Gains) -> Multiplier:
    """Starts a multiplier at zero, before the first measurement.

    Raises:
      ValueError: a gain outside its range.
    """
    check(Gains, gains._asdict())
    zero = jnp.zeros(())
    return Multiplier(zero, zero, zero, jnp.zeros(gains.delay), jnp.zeros((), bool))


def follow(gains: Gains, state: Multiplier, violation: jax.Array) -> Multiplier:
    """Moves the multiplier by one more measurement.

    With the violation `e_t`, bounded to [-1, 1], smoothed to `s_t = a s_{t-1} + (1 - a) e_t` from `s_0 = e_0` on:

        I_t = clip(I_{t-1} + Ki e_t, 0, max),   D_t = max(0, s_t - s_{t-delay})
        lambda_t = clip(Kp s_t + I_t + Kd D_t, 0, max)

    The first measurement fills the past, so that there is no rise before the second. With `Kp = Kd = 0` this is the
    plain Lagrangian, projected gradient ascent on the multiplier.

    Args:
      gains: of the rule.
      state: before the measurement.
      violation: `[]` measured value over the limit less 1; negative where the limit holds.

    Reference: Stooke, Achiam & Abbeel, "Responsive safety in reinforcement learning by PID Lagrangian methods", ICML
    2020, algorithm 2.
    """
    error = jnp.clip(violation, -1.0, 1.0)
    smoothed = jnp.where(state.measured, gains.smoothing * state.smoothed + (1.0 - gains.smoothing) * error, error)
    past = jnp.where(state.measured, state.past, smoothed)
    rise = jnp.maximum(smoothed - past[0], 0.0)
    integral = jnp.clip(state.integral + gains.integral * error, 0.0, gains.maximum)
    value = jnp.clip(gains.proportional * smoothed + integral + gains.derivative * rise, 0.0, gains.maximum)
    return Multiplier(value, integral, smoothed, jnp.append(past[1:], smoothed), jnp.ones_like(state.measured))
