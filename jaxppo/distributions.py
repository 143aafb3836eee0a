"""Action distributions: one independent component per asset, joint log-probability and entropy summed over assets."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.scipy.special import betaln, digamma

SMALLEST_SHARE = 1e-6
"""Shares stay this far from the ends of the interval, so that their log-density is finite."""


@struct.dataclass
class MaskedCategorical:
    """Categorical over the allowed actions of each asset.

    Masked logits are replaced by the smallest finite number, so probability and gradient of a masked action are exactly
    zero and nothing is NaN (Huang and Ontanon, 2020, https://arxiv.org/abs/2006.14171).

    Attributes:
      logits: `[..., A, n]` float32.
      mask: `[..., A, n]` bool; a row without True allows its first action, which holds.
    """

    logits: jax.Array
    mask: jax.Array

    @property
    def allowed(self) -> jax.Array:
        """`[..., A, n]` bool, at least one True in every row."""
        return self.mask.at[..., 0].set(self.mask[..., 0] | ~self.mask.any(axis=-1))

    def log_probabilities(self) -> jax.Array:
        """`[..., A, n]`; the smallest finite number where masked."""
        lowest = jnp.finfo(self.logits.dtype).min
        masked = jax.nn.log_softmax(jnp.where(self.allowed, self.logits, lowest), axis=-1)
        return jnp.where(self.allowed, masked, lowest)

    def probabilities(self) -> jax.Array:
        """`[..., A, n]`; exactly 0 where masked."""
        return jnp.where(self.allowed, jnp.exp(self.log_probabilities()), 0.0)

    def sample(self, uniform: jax.Array) -> jax.Array:
        """Inverts the distribution function at `uniform` `[..., A]` in [0, 1): int32 `[..., A]`, always allowed
        actions.

        Only the sums at allowed actions count: a parallel sum may differ in its last digit where nothing is added.
        """
        cumulative = jnp.where(self.allowed, jnp.cumsum(self.probabilities(), axis=-1), 0.0)
        threshold = uniform[..., None] * cumulative.max(axis=-1, keepdims=True)
        return jnp.argmax(cumulative > threshold, axis=-1).astype(jnp.int32)

    def mode(self) -> jax.Array:
        """Most probable action of each asset, int32 `[..., A]`."""
        return jnp.argmax(self.log_probabilities(), axis=-1).astype(jnp.int32)

    def squash(self, action: jax.Array) -> jax.Array:
        """What the environment takes: the action itself."""
        return action

    def restricted(self, mask: jax.Array) -> MaskedCategorical:
        """The same logits over other allowed actions `[..., A, n]` bool."""
        return self.replace(mask=mask)

    def per_asset(self, n_assets: int) -> MaskedCategorical:
        """`[A, n]` as a batch of A distributions of one asset, `[A, 1, n]`."""
        return MaskedCategorical(self.logits.reshape(n_assets, 1, -1), self.mask.reshape(n_assets, 1, -1))

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Joint log-probability `[...]` of int32 actions `[..., A]`."""
        chosen = jnp.take_along_axis(self.log_probabilities(), action[..., None], axis=-1)
        return chosen[..., 0].sum(axis=-1)

    def entropy(self) -> jax.Array:
        """Joint entropy `[...]`, nats."""
        return self.entropy_per_asset().sum(axis=-1)

    def entropy_bonus(self) -> jax.Array:
        """What an entropy bonus rewards, `[...]` nats: entropies in shares of the largest that each mask allows.

        `sum_i H_i log(n) / log(n_i)` with `n_i` of the n actions of asset i allowed: the entropy itself where all are,
        and as much for being undecided where few are. An asset without a choice does not count.
        """
        return self.entropy_bonus_per_asset().sum(axis=-1)

    def entropy_bonus_per_asset(self) -> jax.Array:
        """Terms `[..., A]` of `entropy_bonus`."""
        n_allowed = self.allowed.sum(axis=-1)
        largest = jnp.log(jnp.maximum(n_allowed, 2).astype(self.logits.dtype))
        share = jnp.where(n_allowed > 1, self.entropy_per_asset() / largest, 0.0)
        return share * math.log(self.allowed.shape[-1])

    def entropy_per_asset(self) -> jax.Array:
        """`[..., A]`, nats."""
        log_p = self.log_probabilities()
        return -jnp.where(self.allowed, jnp.exp(log_p) * log_p, 0.0).sum(axis=-1)

    def kl(self, other: MaskedCategorical) -> jax.Array:
        """KL(self || other) `[...]`, nats, of two distributions with the same mask."""
        return self.kl_per_asset(other).sum(axis=-1)

    def kl_per_asset(self, other: MaskedCategorical) -> jax.Array:
        """`[..., A]`, nats."""
        log_p, log_q = self.log_probabilities(), other.log_probabilities()
        return jnp.where(self.allowed, jnp.exp(log_p) * (log_p - log_q), 0.0).sum(axis=-1)


@struct.dataclass
class DirectionAndSize(MaskedCategorical):
    """Categoricals in two steps: a direction, then a size among its actions, both over what is allowed.

    A direction is allowed if one of its actions is. Entropy and divergence are those of the actions.

    Attributes:
      logits: `[..., A, d + n]` float32: of d directions, then of n actions, each among those of its direction.
      mask: `[..., A, n]` bool; a row without True allows its first action, which holds.
      sizes: numbers of actions of the d directions, in the order of the actions; their sum is n.
    """

    sizes: tuple[int, ...] = struct.field(pytree_node=False, kw_only=True)

    def per_asset(self, n_assets: int) -> DirectionAndSize:
        """`[A, n]` as a batch of A distributions of one asset, `[A, 1, n]`."""
        return jax.tree.map(lambda x: x.reshape(n_assets, 1, -1), self)

    def log_probabilities(self) -> jax.Array:
        """`[..., A, n]`; the smallest finite number where masked."""
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


def _log_softmax(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Over the last axis; the smallest finite number where masked, but even where nothing is allowed."""
    lowest = jnp.finfo(logits.dtype).min
    values = jax.nn.log_softmax(jnp.where(mask, logits, lowest), axis=-1)
    return jnp.where(mask | ~mask.any(axis=-1, keepdims=True), values, lowest)


@struct.dataclass
class Hierarchical:
    """A bucket of gross exposure for the portfolio, then for each asset a direction, then its size.

    Autoregressive: what an asset prefers and what it may do depend on the bucket. Given the bucket, assets are
    independent, so probability, entropy and divergence of the joint action are exact sums of conditionals.

    Attributes:
      bucket: `[..., B]` logits of the buckets, the first of which is risk off.
      own: `[..., A, d + n]` logits of directions and sizes, see `DirectionAndSize`.
      shift: `[..., B, d + n]` what is added to those of all assets in each bucket.
      mask: `[..., A, B, n]` bool, allowed actions of each asset in each bucket; holding, the first, always is.
      sizes: see `DirectionAndSize`.
    """

    bucket: jax.Array
    own: jax.Array
    shift: jax.Array
    mask: jax.Array
    sizes: tuple[int, ...] = struct.field(pytree_node=False)

    @property
    def buckets(self) -> MaskedCategorical:
        """Over buckets, `[..., 1, B]`: the last alone where no asset can do anything but hold in it."""
        open_to_choice = self.mask[..., -1, 1:].any(axis=(-2, -1))[..., None, None]
        logits = self.bucket[..., None, :]
        return MaskedCategorical(logits, jnp.broadcast_to(open_to_choice, logits.shape).at[..., -1].set(True))

    @property
    def actions(self) -> DirectionAndSize:
        """Of every asset in every bucket, `[..., A, B, n]`."""
        return DirectionAndSize(self.own[..., :, None, :] + self.shift[..., None, :, :], self.mask, sizes=self.sizes)

    def given(self, bucket: jax.Array) -> DirectionAndSize:
        """Actions of the assets `[..., A, n]` in a bucket, int32 `[...]`."""
        shift = jnp.take_along_axis(self.shift, bucket[..., None, None], axis=-2)
        mask = jnp.take_along_axis(self.mask, bucket[..., None, None, None], axis=-2)[..., 0, :]
        return DirectionAndSize(self.own + shift, mask, sizes=self.sizes)

    def probabilities(self) -> jax.Array:
        """`[..., A, B, n]` of the bucket and the action of each asset together."""
        return self.buckets.probabilities()[..., 0, :][..., None, :, None] * self.actions.probabilities()

    def sample(self, uniform: jax.Array) -> jax.Array:
        """Bucket, then actions, int32 `[..., 1 + A]`, from as many numbers in [0, 1)."""
        bucket = self.buckets.sample(uniform[..., :1])
        return jnp.concatenate([bucket, self.given(bucket[..., 0]).sample(uniform[..., 1:])], axis=-1)

    def mode(self) -> jax.Array:
        """Most probable bucket, then in it the most probable direction and size of each asset, int32 `[..., 1 + A]`."""
        bucket = self.buckets.mode()
        return jnp.concatenate([bucket, self.given(bucket[..., 0]).mode()], axis=-1)

    def squash(self, action: jax.Array) -> jax.Array:
        """What the environment takes: the action itself."""
        return action

    def restricted(self, mask: jax.Array) -> Hierarchical:
        """The same logits over other allowed actions `[..., A, B, n]` bool."""
        return self.replace(mask=mask)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Joint log-probability `[...]` of int32 actions `[..., 1 + A]`."""
        bucket, own = action[..., :1], action[..., 1:]
        return self.buckets.log_prob(bucket) + self.given(bucket[..., 0]).log_prob(own)

    def entropy(self) -> jax.Array:
        """Joint entropy `[...]`, nats: that of the bucket, and the mean of those that the assets have in it."""
        return self._chained(self.buckets.entropy(), self.actions.entropy_per_asset())

    def entropy_bonus(self) -> jax.Array:
        """What an entropy bonus rewards: `entropy` with each choice in shares of what it allows.

        Its gradient takes the probabilities of buckets as given: those in which there is more to choose are not
        preferred for that, least of all to risk off, in which there is nothing.
        """
        return self._chained(self.buckets.entropy_bonus(), self.actions.entropy_bonus_per_asset(), given=True)

    def kl(self, other: Hierarchical) -> jax.Array:
        """KL(self || other) `[...]`, nats, of two distributions with the same mask; by the chain rule."""
        return self._chained(self.buckets.kl(other.buckets), self.actions.kl_per_asset(other.actions))

    def _chained(self, of_bucket: jax.Array, of_assets: jax.Array, given: bool = False) -> jax.Array:
        """`[...]` and `[..., A, B]`, whose mean over buckets is taken, with probabilities without gradient if given."""
        chance = self.buckets.probabilities()[..., 0, :]
        chance = jax.lax.stop_gradient(chance) if given else chance
        return of_bucket + (chance * of_assets.sum(axis=-2)).sum(axis=-1)


class _OnIntervals:
    """What distributions with intervals `low`, `high` per component share."""

    low: jax.Array
    high: jax.Array

    def restricted(self, mask: jax.Array) -> Any:
        """The same on other intervals: `[..., A, 2]` smallest and largest action of each asset."""
        per_asset = self.low.shape[-1] // mask.shape[-2]
        low, high = (jnp.repeat(mask[..., i], per_asset, axis=-1) for i in (0, 1))
        return self.replace(low=low, high=high)

    def per_asset(self, n_assets: int) -> Any:
        """`[A n]`, n components of each asset, as a batch of A distributions of one asset, `[A, n]`."""
        return jax.tree.map(lambda x: x.reshape(n_assets, -1), self)

    def _total(self, terms: jax.Array) -> jax.Array:
        """Sum `[...]` over the components that have a choice."""
        return jnp.where(self.high > self.low, terms, 0.0).sum(axis=-1)

    def _chosen(self, x: jax.Array) -> jax.Array:
        """Parameters of the components that have a choice, 0 for the others: those must not have a gradient."""
        return jnp.where(self.high > self.low, x, 0.0)

    def _log_width(self) -> jax.Array:
        """Logarithm of the width of each interval; 0 where there is no choice."""
        return jnp.log(jnp.where(self.high > self.low, self.high - self.low, 1.0))


@struct.dataclass
class Gaussian(_OnIntervals):
    """One Gaussian per asset or component; `[low, high]` is what the environment takes.

    Attributes:
      mean: `[..., A]`.
      log_std: `[..., A]`.
      low: smallest action, `[..., A]`.
      high: largest action, `[..., A]`; where it equals `low` there is nothing to choose, and the component does
        not count in probabilities, entropies and divergences.
    """

    mean: jax.Array
    log_std: jax.Array
    low: jax.Array
    high: jax.Array

    def sample(self, uniform: jax.Array) -> jax.Array:
        """Inverts the distribution function at `uniform` `[..., A]` in [0, 1): unbounded `[..., A]`."""
        inside = jnp.clip(uniform, 1e-6, 1.0 - 1e-6)
        return self.mean + jnp.exp(self.log_std) * math.sqrt(2.0) * jax.scipy.special.erfinv(2.0 * inside - 1.0)

    def mode(self) -> jax.Array:
        """The mean, which is the decision of the deterministic policy; unbounded `[..., A]`."""
        return self.mean

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Joint log-density `[...]` of unbounded actions `[..., A]`."""
        return self._total(self._log_density(action))

    def _log_density(self, action: jax.Array) -> jax.Array:
        log_std = self._chosen(self.log_std)
        z = self._chosen(action - self.mean) * jnp.exp(-log_std)
        return -0.5 * z**2 - log_std - 0.5 * math.log(2.0 * math.pi)

    def entropy(self) -> jax.Array:
        """Joint entropy `[...]` of the unbounded action, nats."""
        return self._total(self.log_std + 0.5 * math.log(2.0 * math.pi * math.e))

    def entropy_bonus(self) -> jax.Array:
        """What an entropy bonus rewards: the entropy."""
        return self.entropy()

    def kl(self, other: Gaussian) -> jax.Array:
        """KL(self || other) `[...]`, nats, of the unbounded actions."""
        log_std, log_other = self._chosen(self.log_std), self._chosen(other.log_std)
        difference = jnp.square(self._chosen(self.mean - other.mean) * jnp.exp(-log_other))
        log_ratio = log_std - log_other
        return self._total(0.5 * (jnp.exp(2.0 * log_ratio) + difference - 1.0) - log_ratio)


@struct.dataclass
class ClippedGaussian(Gaussian):
    """A Gaussian whose actions the environment takes clipped: a linear decision rule stays linear inside the box."""

    def squash(self, action: jax.Array) -> jax.Array:
        """Unbounded to `[low, high]`."""
        return jnp.clip(action, self.low, self.high)


@struct.dataclass
class SquashedGaussian(Gaussian):
    """A Gaussian squashed into `[low, high]` by tanh, which is a bijection: the divergence is that of the Gaussians.

    The entropy stays that before squashing, since the squashed one has no closed form: a bonus on it widens the
    Gaussian without end, so keep its weight small.
    """

    def squash(self, action: jax.Array) -> jax.Array:
        """Unbounded to `[low, high]`."""
        inside = self.low + (self.high - self.low) * 0.5 * (jnp.tanh(action) + 1.0)
        return jnp.clip(inside, self.low, self.high)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Joint log-density `[...]` of the squashed action, given unbounded `[..., A]`.

        `log N(u) - log(1 - tanh(u)^2) - log((high - low) / 2)`, with `log(1 - tanh(u)^2) = 2 (log 2 - u -
        softplus(-2u))`.
        """
        jacobian = 2.0 * (math.log(2.0) - action - jax.nn.softplus(-2.0 * action)) - math.log(2.0)
        return self._total(self._log_density(action) - jacobian - self._log_width())


@struct.dataclass
class Beta(_OnIntervals):
    """One Beta distribution per asset or component, stretched over its interval; it has no mass at or beyond its ends.

    In float32 the divergence of two that are nearly equal is exact to about 1e-6 for alpha and beta of a few units, and
    to 1e-3 at a thousand: log-gamma functions of that size cancel.

    Attributes:
      alpha: `[..., A]` > 1: the density falls to 0 at both ends.
      beta: `[..., A]` > 1.
      low: smallest action, `[..., A]`.
      high: largest action, `[..., A]`; where it equals `low` there is nothing to choose, and the component does not
        count.

    References:
      Chou, Maturana, Scherer (2017), Improving stochastic policy gradients in continuous control with deep
      reinforcement learning using the Beta distribution. https://proceedings.mlr.press/v70/chou17a.html
    """

    alpha: jax.Array
    beta: jax.Array
    low: jax.Array
    high: jax.Array

    def sample(self, uniform: jax.Array) -> jax.Array:
        """Inverts the distribution function at `uniform` `[..., A]` in [0, 1) by bisection: shares in (0, 1).

        Samples have no gradient.
        """
        alpha, beta = jax.lax.stop_gradient((self.alpha, self.beta))

        def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            least, most = ends
            middle = 0.5 * (least + most)
            below = jax.scipy.special.betainc(alpha, beta, middle) < uniform
            return jnp.where(below, middle, least), jnp.where(below, most, middle)

        ends = (jnp.zeros_like(alpha), jnp.ones_like(alpha))
        least, most = jax.lax.fori_loop(0, 24, halve, ends)
        return jnp.clip(0.5 * (least + most), SMALLEST_SHARE, 1.0 - SMALLEST_SHARE)

    def mode(self) -> jax.Array:
        """The mean share, which is the decision of the deterministic policy, `[..., A]`."""
        return self.alpha / (self.alpha + self.beta)

    def squash(self, action: jax.Array) -> jax.Array:
        """Share in (0, 1) to `[low, high]`."""
        return jnp.clip(self.low + (self.high - self.low) * action, self.low, self.high)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Joint log-density `[...]` of the stretched action, given shares `[..., A]`."""
        terms = (self.alpha - 1.0) * jnp.log(action) + (self.beta - 1.0) * jnp.log1p(-action)
        return self._total(terms - betaln(self.alpha, self.beta) - self._log_width())

    def entropy(self) -> jax.Array:
        """Joint entropy `[...]` of the stretched action, nats."""
        return self._total(self._share_entropy() + self._log_width())

    def entropy_bonus(self) -> jax.Array:
        """What an entropy bonus rewards: the entropy of the shares, whatever the width of the intervals; at most 0."""
        return self._total(self._share_entropy())

    def _share_entropy(self) -> jax.Array:
        a, b = self.alpha, self.beta
        spread = (a - 1.0) * digamma(a) + (b - 1.0) * digamma(b) - (a + b - 2.0) * digamma(a + b)
        return betaln(a, b) - spread

    def kl(self, other: Beta) -> jax.Array:
        """KL(self || other) `[...]`, nats, of two distributions on the same intervals."""
        a, b = self.alpha, self.beta
        more_a, more_b = a - other.alpha, b - other.beta
        terms = more_a * digamma(a) + more_b * digamma(b) - (more_a + more_b) * digamma(a + b)
        return self._total(betaln(other.alpha, other.beta) - betaln(a, b) + terms)
