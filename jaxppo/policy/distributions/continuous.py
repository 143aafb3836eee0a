"""Distributions of continuous actions: independent components on intervals."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.scipy.special import betaln, digamma

from jaxppo.envs.market.safe import with_derivative

SMALLEST_SHARE = 1e-6
"""Shares stay this far from the ends of the interval, so that their log-density is finite."""


class _OnIntervals:
    """Distribution on an interval from `low` to `high` for each component; mixed into a `PyTreeNode`."""

    low: jax.Array
    high: jax.Array

    def restricted(self, mask: jax.Array) -> Any:
        """The same distribution on other intervals: `[..., A, 2]` smallest and largest action of each asset."""
        per_asset = self.low.shape[-1] // mask.shape[-2]
        low, high = (jnp.repeat(mask[..., i], per_asset, axis=-1) for i in (0, 1))
        return self.replace(low=low, high=high)  # type: ignore[attr-defined] # of the PyTreeNode

    def per_asset(self, n_assets: int) -> Any:
        """Splits `[A n]`, n components of each asset, into a batch of A distributions of one asset, `[A, n]`."""
        return jax.tree.map(lambda x: x.reshape(n_assets, -1), self)

    def _total(self, terms: jax.Array) -> jax.Array:
        """Sum `[...]` over the components that have a choice."""
        return jnp.where(self.high > self.low, terms, 0.0).sum(axis=-1)

    def _chosen(self, x: jax.Array) -> jax.Array:
        """Parameters of the components that have a choice, 0 for the others."""
        # Before any function of them: a gradient through `where` alone would be NaN where the function is not finite.
        return jnp.where(self.high > self.low, x, 0.0)

    def _log_width(self) -> jax.Array:
        """Logarithm of the width of each interval; 0 where there is no choice."""
        return jnp.log(jnp.where(self.high > self.low, self.high - self.low, 1.0))


class Gaussian(_OnIntervals, struct.PyTreeNode):
    """One Gaussian per asset or component; the environment takes actions in `[low, high]`.

    Attributes:
      mean: `[..., A]`.
      log_std: `[..., A]`.
      low: smallest action, `[..., A]`.
      high: largest action, `[..., A]`; where it equals `low`, the component has no choice and does not count in
        probabilities, entropies and divergences.
    """

    mean: jax.Array
    log_std: jax.Array
    low: jax.Array
    high: jax.Array

    def sample(self, uniform: jax.Array) -> jax.Array:
        """Inverts the distribution function at `uniform` `[..., A]` in [0, 1): unbounded `[..., A]`."""
        # The inverse is infinite at the ends.
        inside = jnp.clip(uniform, 1e-6, 1.0 - 1e-6)
        return self.mean + jnp.exp(self.log_std) * math.sqrt(2.0) * jax.scipy.special.erfinv(2.0 * inside - 1.0)

    def mode(self) -> jax.Array:
        """Mean, the decision of the deterministic policy; unbounded `[..., A]`."""
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
        """Term that an entropy bonus rewards, `[...]` nats: the entropy."""
        return self.entropy()

    def kl(self, other: Gaussian) -> jax.Array:
        """KL(self || other) `[...]`, nats, of the unbounded actions."""
        log_std, log_other = self._chosen(self.log_std), self._chosen(other.log_std)
        difference = jnp.square(self._chosen(self.mean - other.mean) * jnp.exp(-log_other))
        log_ratio = log_std - log_other
        return self._total(0.5 * (jnp.exp(2.0 * log_ratio) + difference - 1.0) - log_ratio)


class ClippedGaussian(Gaussian):
    """Gaussian whose actions are clipped for the environment: a linear decision rule stays linear inside the box."""

    def squash(self, action: jax.Array) -> jax.Array:
        """Maps unbounded actions to `[low, high]`; the derivative is 1 outside too (straight-through)."""
        # Else no gradient could lead back what is out of the box.
        return with_derivative(jnp.clip(action, self.low, self.high), action)


class SquashedGaussian(Gaussian):
    """Gaussian squashed into `[low, high]` by tanh, which is a bijection: the divergence is that of the Gaussians.

    The entropy is that before squashing, as that after it has no closed form. A bonus on it widens the Gaussian without
    end: give it a small weight.
    """

    def squash(self, action: jax.Array) -> jax.Array:
        """Maps unbounded actions to `[low, high]`."""
        inside = self.low + (self.high - self.low) * 0.5 * (jnp.tanh(action) + 1.0)
        # Rounding may leave the interval by a digit.
        return jnp.clip(inside, self.low, self.high)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Joint log-density `[...]` of the squashed action, given unbounded `[..., A]`.

        `log N(u) - log(1 - tanh(u)^2) - log((high - low) / 2)`.
        """
        # log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)), which does not underflow for large u.
        jacobian = 2.0 * (math.log(2.0) - action - jax.nn.softplus(-2.0 * action)) - math.log(2.0)
        return self._total(self._log_density(action) - jacobian - self._log_width())


class Beta(_OnIntervals, struct.PyTreeNode):
    """One Beta distribution per asset or component, stretched over `[low, high]`; the ends have no mass.

    In float32 the divergence of two nearly equal distributions is exact to about 1e-6 for alpha and beta of a few
    units, and to 1e-3 at a thousand: log-gamma functions of that size cancel.

    Attributes:
      alpha: `[..., A]` > 1: the density falls to 0 at both ends.
      beta: `[..., A]` > 1.
      low: smallest action, `[..., A]`.
      high: largest action, `[..., A]`; where it equals `low`, the component has no choice and does not count.

    Reference:
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
        """Mean share, the decision of the deterministic policy, `[..., A]`."""
        return self.alpha / (self.alpha + self.beta)

    def squash(self, action: jax.Array) -> jax.Array:
        """Maps shares in (0, 1) to `[low, high]`."""
        return jnp.clip(self.low + (self.high - self.low) * action, self.low, self.high)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Joint log-density `[...]` of the stretched action, given shares `[..., A]`."""
        terms = (self.alpha - 1.0) * jnp.log(action) + (self.beta - 1.0) * jnp.log1p(-action)
        return self._total(terms - betaln(self.alpha, self.beta) - self._log_width())

    def entropy(self) -> jax.Array:
        """Joint entropy `[...]` of the stretched action, nats."""
        return self._total(self._share_entropy() + self._log_width())

    def entropy_bonus(self) -> jax.Array:
        """Term that an entropy bonus rewards, `[...]` nats <= 0: the entropy of the shares, whatever the intervals."""
        return self._total(self._share_entropy())

    def _share_entropy(self) -> jax.Array:
        a, b = self.alpha, self.beta
        spread = (a - 1.0) * digamma(a) + (b - 1.0) * digamma(b) - (a + b - 2.0) * digamma(a + b)
        return betaln(a, b) - spread

    def kl(self, other: Beta) -> jax.Array:
        """KL(self || other) `[...]`, nats, of two distributions on the same intervals."""
        a, b = self.alpha, self.beta
        change_a, change_b = a - other.alpha, b - other.beta
        terms = change_a * digamma(a) + change_b * digamma(b) - (change_a + change_b) * digamma(a + b)
        return self._total(betaln(other.alpha, other.beta) - betaln(a, b) + terms)
