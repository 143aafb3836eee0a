"""Distributions of discrete and hierarchical actions."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import struct


class MaskedCategorical(struct.PyTreeNode):
    """Categorical over the allowed actions of each asset.

    Masked logits are replaced by the smallest finite number, so probability and gradient of a masked action are exactly
    zero and nothing is NaN.

    Reference: Huang and Ontanon (2020). https://arxiv.org/abs/2006.14171

    Attributes:
      logits: `[..., A, n]` float32.
      mask: `[..., A, n]` bool; a row without True allows its first action, which holds.
    """

    logits: jax.Array
    mask: jax.Array

    @property
    def allowed(self) -> jax.Array:
        """`[..., A, n]` bool, at least one True in every row."""
        return self.mask | ((_places(self.mask) == 0) & ~self.mask.any(axis=-1, keepdims=True))

    def log_probabilities(self) -> jax.Array:
        """Log-probabilities `[..., A, n]`; the smallest finite number where masked."""
        lowest = jnp.finfo(self.logits.dtype).min
        masked = jax.nn.log_softmax(jnp.where(self.allowed, self.logits, lowest), axis=-1)
        return jnp.where(self.allowed, masked, lowest)

    def probabilities(self) -> jax.Array:
        """Probabilities `[..., A, n]`; exactly 0 where masked."""
        return jnp.where(self.allowed, jnp.exp(self.log_probabilities()), 0.0)

    def sample(self, uniform: jax.Array) -> jax.Array:
        """Inverts the distribution function at `uniform` `[..., A]` in [0, 1): allowed actions, int32 `[..., A]`."""
        # Sums at allowed actions alone: a parallel sum may differ in the last digit where nothing is added.
        cumulative = jnp.where(self.allowed, jnp.cumsum(self.probabilities(), axis=-1), 0.0)
        threshold = uniform[..., None] * cumulative.max(axis=-1, keepdims=True)
        return jnp.argmax(cumulative > threshold, axis=-1).astype(jnp.int32)

    def mode(self) -> jax.Array:
        """Most probable action of each asset, int32 `[..., A]`."""
        return jnp.argmax(self.log_probabilities(), axis=-1).astype(jnp.int32)

    def squash(self, action: jax.Array) -> jax.Array:
        """Action for the environment: the same."""
        return action

    def restricted(self, mask: jax.Array) -> MaskedCategorical:
        """The same logits over other allowed actions, `[..., A, n]` bool."""
        return self.replace(mask=mask)

    def per_asset(self, n_assets: int) -> MaskedCategorical:
        """Splits `[A, n]` into a batch of A distributions of one asset, `[A, 1, n]`."""
        return MaskedCategorical(self.logits.reshape(n_assets, 1, -1), self.mask.reshape(n_assets, 1, -1))

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Joint log-probability `[...]` of int32 actions `[..., A]`."""
        # Selected rather than gathered: neither that nor its derivative, a scatter, can be part of a larger kernel.
        log_p = self.log_probabilities()
        return jnp.where(_places(log_p) == action[..., None], log_p, 0.0).sum(axis=-1).sum(axis=-1)

    def entropy(self) -> jax.Array:
        """Joint entropy `[...]`, nats."""
        return self.entropy_per_asset().sum(axis=-1)

    def entropy_bonus(self) -> jax.Array:
        """Term that an entropy bonus rewards, `[...]` nats: entropies relative to the largest that each mask allows.

        `sum_i H_i log(n) / log(n_i)` with `n_i` of the n actions of asset i allowed: the entropy where all are, and as
        much for an even choice among few. An asset without a choice does not count.
        """
        return self.entropy_bonus_per_asset().sum(axis=-1)

    def entropy_bonus_per_asset(self) -> jax.Array:
        """Terms `[..., A]` of `entropy_bonus`."""
        n_allowed = self.allowed.sum(axis=-1)
        largest = jnp.log(jnp.maximum(n_allowed, 2).astype(self.logits.dtype))
        share = jnp.where(n_allowed > 1, self.entropy_per_asset() / largest, 0.0)
        return share * math.log(self.allowed.shape[-1])

    def entropy_per_asset(self) -> jax.Array:
        """Entropies `[..., A]`, nats."""
        log_p = self.log_probabilities()
        return -jnp.where(self.allowed, jnp.exp(log_p) * log_p, 0.0).sum(axis=-1)

    def kl(self, other: MaskedCategorical) -> jax.Array:
        """KL(self || other) `[...]`, nats, of two distributions with the same mask."""
        return self.kl_per_asset(other).sum(axis=-1)

    def kl_per_asset(self, other: MaskedCategorical) -> jax.Array:
        """Terms `[..., A]` of `kl`, nats."""
        log_p, log_q = self.log_probabilities(), other.log_probabilities()
        return jnp.where(self.allowed, jnp.exp(log_p) * (log_p - log_q), 0.0).sum(axis=-1)


class DirectionAndSize(MaskedCategorical):
    """Categoricals in two steps: a direction, then a size among the actions of that direction.

    A direction is allowed if one of its actions is. Entropy and divergence are those of the actions.

    Attributes:
      logits: `[..., A, d + n]` float32: of d directions, then of n actions among those of the same direction.
      mask: `[..., A, n]` bool; a row without True allows its first action, which holds.
      sizes: number of actions of each of the d directions, in the order of the actions; their sum is n.
    """

    sizes: tuple[int, ...] = struct.field(pytree_node=False, kw_only=True)

    def per_asset(self, n_assets: int) -> DirectionAndSize:
        """Splits `[A, n]` into a batch of A distributions of one asset, `[A, 1, n]`."""
        return jax.tree.map(lambda x: x.reshape(n_assets, 1, -1), self)

    def log_probabilities(self) -> jax.Array:
        """Log-probabilities `[..., A, n]`; the smallest finite number where masked."""
        direction, sizes = self._steps()
        lowest = jnp.finfo(self.logits.dtype).min
        both = jnp.concatenate([direction[..., i, None] + size for i, size in enumerate(sizes)], axis=-1)
        return jnp.where(self.allowed, both, lowest)

    def mode(self) -> jax.Array:
        """Most probable size of the most probable direction of each asset, int32 `[..., A]`."""
        direction, sizes = self._steps()
        first = [sum(self.sizes[:i]) for i in range(len(self.sizes))]
        best = jnp.stack([start + size.argmax(axis=-1) for start, size in zip(first, sizes, strict=True)], axis=-1)
        chosen = jnp.take_along_axis(best, direction.argmax(axis=-1, keepdims=True), axis=-1)
        return chosen[..., 0].astype(jnp.int32)

    def _steps(self) -> tuple[jax.Array, list[jax.Array]]:
        """Log-probabilities of directions `[..., A, d]`, and of the sizes of each, given it."""
        n_directions = len(self.sizes)
        ends = [sum(self.sizes[: i + 1]) for i in range(n_directions - 1)]
        masks = jnp.split(self.allowed, ends, axis=-1)
        logits = jnp.split(self.logits[..., n_directions:], ends, axis=-1)
        sizes = [_log_softmax(values, allowed) for values, allowed in zip(logits, masks, strict=True)]
        any_allowed = jnp.stack([allowed.any(axis=-1) for allowed in masks], axis=-1)
        return _log_softmax(self.logits[..., :n_directions], any_allowed), sizes


def _places(x: jax.Array) -> jax.Array:
    """Place of each number on the last axis, int32 `[..., n]` of the same shape."""
    return jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)


def _log_softmax(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Log-softmax over the last axis; the smallest finite number where masked, equal over a row without True."""
    lowest = jnp.finfo(logits.dtype).min
    values = jax.nn.log_softmax(jnp.where(mask, logits, lowest), axis=-1)
    return jnp.where(mask | ~mask.any(axis=-1, keepdims=True), values, lowest)


class Hierarchical(struct.PyTreeNode):
    """Bucket of gross exposure for the portfolio, then a direction for each asset, then a size.

    Autoregressive: preferences and mask of an asset depend on the bucket. Given the bucket, assets are independent, so
    probability, entropy and divergence of the joint action are exact sums of conditionals.

    Attributes:
      bucket: `[..., B]` logits of the buckets, the first of which is risk off.
      asset: `[..., A, d + n]` logits of directions and sizes of each asset, see `DirectionAndSize`.
      shift: `[..., B, d + n]` added to the logits of all assets in each bucket.
      mask: `[..., A, B, n]` bool, allowed actions of each asset in each bucket; the first, which holds, always is.
      sizes: number of actions of each direction, see `DirectionAndSize`.
    """

    bucket: jax.Array
    asset: jax.Array
    shift: jax.Array
    mask: jax.Array
    sizes: tuple[int, ...] = struct.field(pytree_node=False)

    @property
    def buckets(self) -> MaskedCategorical:
        """Distribution over buckets, `[..., 1, B]`."""
        # Where every asset can only hold, the last bucket alone is allowed: the others would differ in name only.
        open_to_choice = self.mask[..., -1, 1:].any(axis=(-2, -1))[..., None, None]
        logits = self.bucket[..., None, :]
        return MaskedCategorical(logits, jnp.broadcast_to(open_to_choice, logits.shape).at[..., -1].set(True))

    @property
    def actions(self) -> DirectionAndSize:
        """Distribution over the actions of every asset in every bucket, `[..., A, B, n]`."""
        return DirectionAndSize(self.asset[..., :, None, :] + self.shift[..., None, :, :], self.mask, sizes=self.sizes)

    def given(self, bucket: jax.Array) -> DirectionAndSize:
        """Distribution over the actions of the assets `[..., A, n]`, given a bucket, int32 `[...]`."""
        shift = jnp.take_along_axis(self.shift, bucket[..., None, None], axis=-2)
        mask = jnp.take_along_axis(self.mask, bucket[..., None, None, None], axis=-2)[..., 0, :]
        return DirectionAndSize(self.asset + shift, mask, sizes=self.sizes)

    def probabilities(self) -> jax.Array:
        """Joint probabilities `[..., A, B, n]` of the bucket and the action of each asset."""
        return self.buckets.probabilities()[..., 0, :][..., None, :, None] * self.actions.probabilities()

    def sample(self, uniform: jax.Array) -> jax.Array:
        """Bucket, then actions, int32 `[..., 1 + A]`, at `uniform` `[..., 1 + A]` in [0, 1)."""
        bucket = self.buckets.sample(uniform[..., :1])
        return jnp.concatenate([bucket, self.given(bucket[..., 0]).sample(uniform[..., 1:])], axis=-1)

    def mode(self) -> jax.Array:
        """Most probable bucket, then direction and size of each asset given the bucket, int32 `[..., 1 + A]`."""
        bucket = self.buckets.mode()
        return jnp.concatenate([bucket, self.given(bucket[..., 0]).mode()], axis=-1)

    def squash(self, action: jax.Array) -> jax.Array:
        """Action for the environment: the same."""
        return action

    def restricted(self, mask: jax.Array) -> Hierarchical:
        """The same logits over other allowed actions, `[..., A, B, n]` bool."""
        return self.replace(mask=mask)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Joint log-probability `[...]` of int32 actions `[..., 1 + A]`."""
        bucket, of_assets = action[..., :1], action[..., 1:]
        return self.buckets.log_prob(bucket) + self.given(bucket[..., 0]).log_prob(of_assets)

    def entropy(self) -> jax.Array:
        """Joint entropy `[...]`, nats: of the bucket, and the mean over buckets of those of the assets."""
        return self._chained(self.buckets.entropy(), self.actions.entropy_per_asset())

    def entropy_bonus(self) -> jax.Array:
        """Term that an entropy bonus rewards, `[...]` nats: `entropy`, each choice relative to what its mask allows."""
        # Probabilities of buckets without gradient: a bucket is not to be preferred for offering more to choose.
        return self._chained(self.buckets.entropy_bonus(), self.actions.entropy_bonus_per_asset(), given=True)

    def kl(self, other: Hierarchical) -> jax.Array:
        """KL(self || other) `[...]`, nats, of two distributions with the same mask; by the chain rule."""
        return self._chained(self.buckets.kl(other.buckets), self.actions.kl_per_asset(other.actions))

    def _chained(self, of_bucket: jax.Array, of_assets: jax.Array, given: bool = False) -> jax.Array:
        """Sum of `[...]` and of the mean over buckets of `[..., A, B]`, with fixed probabilities if `given`."""
        probability = self.buckets.probabilities()[..., 0, :]
        probability = jax.lax.stop_gradient(probability) if given else probability
        return of_bucket + (probability * of_assets.sum(axis=-2)).sum(axis=-1)
