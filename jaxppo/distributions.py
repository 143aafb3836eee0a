"""Action distributions: one independent component per asset, joint log-probability and entropy summed over assets."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class MaskedCategorical:
    """Categorical over the allowed actions of each asset.

    Masked logits are replaced by the smallest finite number, so probability and gradient of a masked action are exactly
    zero and nothing is NaN (Huang and Ontanon, 2020, https://arxiv.org/abs/2006.14171).

    Attributes:
      logits: `[..., A, n]` float32.
      mask: `[..., A, n]` bool, at least one True in every row.
    """

    logits: jax.Array
    mask: jax.Array

    def log_probabilities(self) -> jax.Array:
        """`[..., A, n]`; the smallest finite number where masked."""
        lowest = jnp.finfo(self.logits.dtype).min
        masked = jax.nn.log_softmax(jnp.where(self.mask, self.logits, lowest), axis=-1)
        return jnp.where(self.mask, masked, lowest)

    def probabilities(self) -> jax.Array:
        """`[..., A, n]`; exactly 0 where masked."""
        return jnp.where(self.mask, jnp.exp(self.log_probabilities()), 0.0)

    def sample(self, uniform: jax.Array) -> jax.Array:
        """Inverts the distribution function at `uniform` `[..., A]` in [0, 1): int32 `[..., A]`, always allowed
        actions.

        Only the sums at allowed actions count: a parallel sum may differ in its last digit where nothing is added.
        """
        cumulative = jnp.where(self.mask, jnp.cumsum(self.probabilities(), axis=-1), 0.0)
        threshold = uniform[..., None] * cumulative.max(axis=-1, keepdims=True)
        return jnp.argmax(cumulative > threshold, axis=-1).astype(jnp.int32)

    def mode(self) -> jax.Array:
        """Most probable action of each asset, int32 `[..., A]`."""
        return jnp.argmax(self.log_probabilities(), axis=-1).astype(jnp.int32)

    def squash(self, action: jax.Array) -> jax.Array:
        """What the environment takes: the action itself."""
        return action

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Joint log-probability `[...]` of int32 actions `[..., A]`."""
        chosen = jnp.take_along_axis(self.log_probabilities(), action[..., None], axis=-1)
        return chosen[..., 0].sum(axis=-1)

    def entropy(self) -> jax.Array:
        """Joint entropy `[...]`, nats."""
        log_p = self.log_probabilities()
        return -jnp.where(self.mask, jnp.exp(log_p) * log_p, 0.0).sum(axis=(-2, -1))

    def kl(self, other: MaskedCategorical) -> jax.Array:
        """KL(self || other) `[...]`, nats, of two distributions with the same mask."""
        log_p, log_q = self.log_probabilities(), other.log_probabilities()
        return jnp.where(self.mask, jnp.exp(log_p) * (log_p - log_q), 0.0).sum(axis=(-2, -1))


@struct.dataclass
class SquashedGaussian:
    """Gaussian per asset, squashed into `[low, high]` by tanh. Actions are stored before squashing.

    Attributes:
      mean: `[..., A]` before squashing.
      log_std: `[..., A]`.
      low: smallest action.
      high: largest action.
    """

    mean: jax.Array
    log_std: jax.Array
    low: float = struct.field(pytree_node=False)
    high: float = struct.field(pytree_node=False)

    def sample(self, uniform: jax.Array) -> jax.Array:
        """Inverts the distribution function at `uniform` `[..., A]` in [0, 1): unsquashed `[..., A]`."""
        inside = jnp.clip(uniform, 1e-6, 1.0 - 1e-6)
        return self.mean + jnp.exp(self.log_std) * math.sqrt(2.0) * jax.scipy.special.erfinv(2.0 * inside - 1.0)

    def mode(self) -> jax.Array:
        """The squashed mean is the decision of the deterministic policy; unsquashed `[..., A]`."""
        return self.mean

    def squash(self, action: jax.Array) -> jax.Array:
        """Unsquashed to `[low, high]`."""
        return self.low + (self.high - self.low) * 0.5 * (jnp.tanh(action) + 1.0)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Joint log-density `[...]` of the squashed action, given unsquashed `[..., A]`.

        `log N(u) - log(1 - tanh(u)^2) - log((high - low) / 2)`, with `log(1 - tanh(u)^2) = 2 (log 2 - u -
        softplus(-2u))`.
        """
        z = (action - self.mean) * jnp.exp(-self.log_std)
        density = -0.5 * z**2 - self.log_std - 0.5 * math.log(2.0 * math.pi)
        jacobian = 2.0 * (math.log(2.0) - action - jax.nn.softplus(-2.0 * action)) + math.log(
            (self.high - self.low) / 2.0
        )
        return (density - jacobian).sum(axis=-1)

    def entropy(self) -> jax.Array:
        """Entropy of the Gaussian before squashing `[...]`, nats: the squashed one has no closed form."""
        return (self.log_std + 0.5 * math.log(2.0 * math.pi * math.e)).sum(axis=-1)

    def kl(self, other: SquashedGaussian) -> jax.Array:
        """KL(self || other) `[...]`, nats: that of the Gaussians before squashing, which is a bijection."""
        difference = jnp.square((self.mean - other.mean) * jnp.exp(-other.log_std))
        log_ratio = self.log_std - other.log_std
        return (0.5 * (jnp.exp(2.0 * log_ratio) + difference - 1.0) - log_ratio).sum(axis=-1)
