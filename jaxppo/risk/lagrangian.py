"""The multiplier of one constraint, by a PID rule on the relative violation of its limit."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct


class Gains(NamedTuple):
    """How a multiplier follows the violation of its limit.

    Attributes:
      proportional: multiplier per unit of smoothed violation, >= 0.
      integral: multiplier gained per unit of violation and measurement, >= 0.
      derivative: multiplier per unit by which the smoothed violation rose over `delay` measurements, >= 0.
      smoothing: weight of the past in the smoothed violation, in [0, 1).
      delay: measurements that the derivative looks back, >= 1.
      maximum: largest multiplier, > 0.
    """

    proportional: float = 0.2
    integral: float = 0.02
    derivative: float = 0.2
    smoothing: float = 0.8
    delay: int = 5
    maximum: float = 10.0


@struct.dataclass
class Multiplier:
    """State of one multiplier; all zero before the first measurement.

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
    """Before the first measurement.

    Raises:
      ValueError: a gain outside its range.
    """
    for name in ("proportional", "integral", "derivative"):
        if not getattr(gains, name) >= 0.0:
            raise ValueError(f"{name} is {getattr(gains, name)}; it must be >= 0")
    if not 0.0 <= gains.smoothing < 1.0:
        raise ValueError(f"smoothing is {gains.smoothing}; it must be in [0, 1)")
    if gains.delay < 1 or not gains.maximum > 0.0:
        raise ValueError(f"delay ({gains.delay}) must be >= 1 and maximum ({gains.maximum}) > 0")
    zero = jnp.zeros(())
    return Multiplier(zero, zero, zero, jnp.zeros(gains.delay), jnp.zeros((), bool))


def follow(gains: Gains, state: Multiplier, violation: jax.Array) -> Multiplier:
    """The multiplier after one more measurement.

    With the violation `e_t`, bounded to [-1, 1], smoothed to `s_t = a s_{t-1} + (1 - a) e_t` from `s_0 = e_0` on:

        I_t = clip(I_{t-1} + Ki e_t, 0, max),   D_t = max(0, s_t - s_{t-delay})
        lambda_t = clip(Kp s_t + I_t + Kd D_t, 0, max)

    The first measurement fills the past, so that there is no rise before the second. With `Kp = Kd = 0` this is the
    plain Lagrangian, projected gradient ascent on the multiplier.

    Args:
      gains: of the rule.
      state: before.
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
