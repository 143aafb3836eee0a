"""The linear policy: targets are a linear function of features and position, with the same weights for every asset.

Tens of weights are what the noise of real prices leaves room for. The critic is a small perceptron.

Reference: Brandt, Santa-Clara, Valkanov (2009), Parametric portfolio policies.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxppo.envs.trading.types import Observation
from jaxppo.policy.networks.config import EncoderConfig
from jaxppo.policy.networks.encoder import Bars, Cache
from jaxppo.policy.networks.head import (
    N_HINDSIGHT,
    N_PORTFOLIO,
    ActionConfig,
    distribution_of,
    portfolio_inputs,
    value_of,
)


class FeaturesAsTheyAre(nnx.Module):
    """Encoder without parameters: the memory of a bar is its features, 0 where unknown."""

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs):
        del rngs
        self.config = config

    def __call__(self, bars: Bars, masks: jax.Array | None = None) -> jax.Array:
        """Memory `[P, S, A, F]` of S bars.

        Args:
          bars: of P paths.
          masks: not read: there is nothing to drop.
        """
        del masks
        return jnp.nan_to_num(bars.features.astype(jnp.float32))

    def start(self, n_paths: int, n_assets: int) -> Cache:
        """Creates the cache before the first bar; there is nothing to remember.

        Args:
          n_paths: P.
          n_assets: A.
        """
        del n_assets
        nothing = jnp.zeros((n_paths, 0))
        return Cache(jnp.zeros((), jnp.int32), nothing.astype(jnp.uint32), nothing, ())

    def step(self, cache: Cache, bars: Bars) -> tuple[Cache, jax.Array]:
        """Encodes one bar.

        Args:
          cache: from `start` or the bar before.
          bars: the next bar of each path, `T = 1`.

        Returns:
          The next cache, and the memory `[P, A, F]`.
        """
        return cache.replace(count=cache.count + 1), self(bars)[:, 0]


class LinearHead(nnx.Module):
    """Action parameters of each asset, linear in its features and its position; they start at 0."""

    def __init__(
        self, config: EncoderConfig, action: ActionConfig, hindsight: bool, rngs: nnx.Rngs, quantiles: int = 1
    ):
        inputs, width = sum(config.groups) + N_PORTFOLIO, config.width
        zeros = nnx.initializers.zeros
        self.action, self.quantiles = action, quantiles
        self.actor = nnx.Linear(inputs, action.n_outputs, kernel_init=zeros, rngs=rngs)
        self.inputs = nnx.Linear(inputs, width, rngs=rngs)
        self.critic = nnx.Linear(width, width, rngs=rngs)
        self.value = nnx.Linear(width, quantiles, kernel_init=nnx.initializers.orthogonal(1.0), rngs=rngs)
        self.hindsight = nnx.Linear(N_HINDSIGHT, width, use_bias=False, rngs=rngs) if hindsight else None
        if action.kind == "hierarchical":
            outputs = action.n_buckets * (1 + action.n_outputs)
            self.bucket = nnx.Linear(inputs, outputs, kernel_init=zeros, rngs=rngs)
        if action.kind == "continuous" and action.distribution != "beta":
            self.log_std = nnx.Param(jnp.full((action.n_components,), math.log(action.std), jnp.float32))

    def prepare(self, memory: jax.Array, listed: jax.Array) -> jax.Array:
        """The memory as it is.

        Args:
          memory: `[..., A, F]` of the market.
          listed: `[..., A]` bool; not read.
        """
        del listed
        return memory

    def __call__(
        self, prepared: jax.Array, observation: Observation, hindsight: jax.Array | None = None
    ) -> tuple[Any, jax.Array]:
        """Action distribution and value; see `Head`.

        Args:
          prepared: from `prepare`; broadcasts against the observations.
          observation: of the portfolios, batch `[...]`.
          hindsight: `[..., A, 2]` future of the market, for the value alone; None for nothing ahead.

        Raises:
          ValueError: `hindsight` for a critic that was built without.
        """
        own = portfolio_inputs(observation)
        x = jnp.concatenate([jnp.broadcast_to(prepared, (*own.shape[:-1], prepared.shape[-1])), own], axis=-1)
        of_portfolio = self.bucket(x.mean(axis=-2)) if self.action.kind == "hierarchical" else None
        log_std = self.log_std[...] if hasattr(self, "log_std") else None
        distribution = distribution_of(self.action, self.actor(x), observation, log_std, of_portfolio)
        return distribution, value_of(self, self.inputs(x), hindsight)
