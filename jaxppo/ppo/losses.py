"""PPO's losses, per sample, for batches of any shape."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxppo.risk.distortion import midpoints

COEFFICIENT_RANGE = (1e-6, 1e6)
"""Bounds of a penalty coefficient."""


def surrogate(
    log_ratio: jax.Array, advantage: jax.Array, clip: float | None = None, dual_clip: float | None = None
) -> jax.Array:
    """Surrogate loss `-min(rho A, clip(rho, 1 - eps, 1 + eps) A)`, `rho = exp(log_ratio)`; for `A < 0` at most `-c A`.

    Args:
      log_ratio: `[...]` log-probability of the action now minus when it was taken.
      advantage: `[...]`.
      clip: eps > 0; None for the plain surrogate `-rho A`.
      dual_clip: c > 1; None for no second bound.

    References:
      Schulman et al. (2017), eq. 7. https://arxiv.org/abs/1707.06347
      Ye et al. (2020), eq. 5, the dual clip. https://arxiv.org/abs/1912.09729
    """
    ratio = jnp.exp(log_ratio)
    gain = ratio * advantage
    if clip is not None:
        gain = jnp.minimum(gain, jnp.clip(ratio, 1.0 - clip, 1.0 + clip) * advantage)
    if dual_clip is not None:
        gain = jnp.where(advantage < 0, jnp.maximum(gain, dual_clip * advantage), gain)
    return -gain


def squared_value_error(value: jax.Array, target: jax.Array) -> jax.Array:
    """Squared error `(v - target)^2 / 2`.

    Args:
      value: `[...]`.
      target: `[...]`.
    """
    return 0.5 * jnp.square(value - target)


def clipped_value_error(value: jax.Array, target: jax.Array, old_value: jax.Array, clip: float) -> jax.Array:
    """Larger of the squared errors of `v` and of `v` clipped to within `clip` of the value in the rollout.

    Args:
      value: `[...]`.
      target: `[...]`.
      old_value: `[...]` in the rollout.
      clip: > 0, in the unit of the values.

    Reference:
      Engstrom et al. (2020), section 3. https://arxiv.org/abs/2005.12729
    """
    near = old_value + jnp.clip(value - old_value, -clip, clip)
    return jnp.maximum(squared_value_error(value, target), squared_value_error(near, target))


def huber_value_error(value: jax.Array, target: jax.Array, delta: float) -> jax.Array:
    """Huber error: `e^2 / 2` for `|e| <= delta`, else `delta (|e| - delta / 2)`.

    Args:
      value: `[...]`.
      target: `[...]`.
      delta: > 0, in the unit of the values.
    """
    error = jnp.abs(value - target)
    return jnp.where(error <= delta, 0.5 * jnp.square(error), delta * (error - 0.5 * delta))


def quantile_value_error(quantiles: jax.Array, target: jax.Array, kappa: float) -> jax.Array:
    """Quantile error `sum_i mean_j |tau_i - 1{u_ij < 0}| L(u_ij)`, `u_ij = target_j - q_i`, `tau_i = (i - 1/2) / N`.

    `L(u)` is `|u|` for kappa = 0, minimal at the quantiles of the targets. For kappa > 0 it is Huber's function over
    kappa, whose minimum moves from the quantiles to expectiles as kappa grows.

    Args:
      quantiles: `[..., N]`; the i-th is the one at `tau_i`, wherever it lies among the others.
      target: `[..., M]` equally likely returns.
      kappa: >= 0, in the unit of the values.

    Returns:
      `[...]`.

    References:
      Dabney et al. (2018), eq. 10. https://arxiv.org/abs/1710.10044
      Dabney et al. (2018b), eq. 3, for the division by kappa. https://arxiv.org/abs/1806.06923
    """
    one, other = quantiles[..., :, None], target[..., None, :]
    size = jnp.abs(other - one) if kappa == 0.0 else huber_value_error(one, other, kappa) / kappa
    tau = jnp.asarray(midpoints(quantiles.shape[-1]), jnp.float32).reshape((1,) * (quantiles.ndim - 1) + (-1, 1))
    return (jnp.where(other < one, 1.0 - tau, tau) * size).mean(axis=-1).sum(axis=-1)


def kl_estimate(log_ratio: jax.Array) -> jax.Array:
    """Estimates KL(old || new) by `rho - 1 - log rho`: unbiased, never negative (Schulman's k3)."""
    return jnp.expm1(log_ratio) - log_ratio


def clipped_fraction(log_ratio: jax.Array, clip: float) -> jax.Array:
    """1 where the ratio is outside the clip range, else 0.

    Args:
      log_ratio: `[...]`.
      clip: half the width of the range around 1, > 0.
    """
    return (jnp.abs(jnp.expm1(log_ratio)) > clip).astype(jnp.float32)


def doubled_or_halved(coefficient: jax.Array, kl: jax.Array, target: float) -> jax.Array:
    """Doubles the coefficient where `kl > 1.5 target`, halves it where `kl < target / 1.5`.

    Args:
      coefficient: `[]` weight of the KL penalty, > 0.
      kl: `[]` measured divergence, nats.
      target: nats, > 0.

    Reference:
      Schulman et al. (2017), section 4. https://arxiv.org/abs/1707.06347
    """
    factor = jnp.where(kl > 1.5 * target, 2.0, jnp.where(kl < target / 1.5, 0.5, 1.0))
    return jnp.clip(coefficient * factor, *COEFFICIENT_RANGE)


def log_integral(coefficient: jax.Array, kl: jax.Array, target: float, gain: float) -> jax.Array:
    """Integral control of the logarithm of the coefficient: `log c <- log c + gain * min(kl / target - 1, 3)`.

    Args:
      coefficient: `[]` weight of the KL penalty, > 0.
      kl: `[]` measured divergence, nats.
      target: nats, > 0.
      gain: per iteration, > 0.
    """
    # An error of log(kl / target) would bring the mean logarithm to the target; divergences of single iterations are so
    # skewed that their mean would lie far above.
    error = jnp.minimum(kl / target - 1.0, 3.0)
    return jnp.clip(coefficient * jnp.exp(gain * error), *COEFFICIENT_RANGE)
