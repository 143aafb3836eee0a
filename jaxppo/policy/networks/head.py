"""Head: action parameters per asset and a value, from the memory of the market and the state of a portfolio."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxppo.envs.trading.types import N_ACCOUNT_FEATURES, N_ASSET_FEATURES, Observation
from jaxppo.policy.distributions import Beta, Hierarchical, MaskedCategorical, SquashedGaussian
from jaxppo.policy.networks.attention import masked_attention, present_or_itself
from jaxppo.policy.networks.config import EncoderConfig

N_HINDSIGHT = 2
EVEN = math.log(math.e - 1.0)
"""Added before the softplus of a Beta distribution's parameters, so that they start as Beta(2, 2)."""
N_PORTFOLIO = N_ASSET_FEATURES + N_ACCOUNT_FEATURES


@dataclasses.dataclass(frozen=True)
class ActionConfig:
    """Actions that the head parameterises (static).

    Attributes:
      kind: "discrete" (masked categoricals), "hierarchical" (a bucket, then directions and sizes) or "continuous".
      n_actions: choices of each component; ignored by "continuous".
      low: smallest continuous action; the mask of an observation takes its place.
      high: largest continuous action, likewise.
      std: standard deviation of a continuous action before squashing, at the start; not for "beta".
      distribution: of a continuous action on its interval, "squashed_gaussian" or "beta".
      n_components: components of an action, for each asset where there are assets.
      n_buckets: buckets of "hierarchical".
      sizes: of "hierarchical": number of actions of each direction, see `DirectionAndSize`.
      at_zero: whether the outputs for actions start at exactly 0, as tilts around a base do.
    """

    kind: str
    n_actions: int
    low: float
    high: float
    std: float = 0.6
    n_components: int = 1
    distribution: str = "squashed_gaussian"
    n_buckets: int = 0
    sizes: tuple[int, ...] = ()
    at_zero: bool = False

    @property
    def n_outputs(self) -> int:
        """Numbers that the head computes for each asset."""
        if self.kind == "continuous":
            return self.n_components * (2 if self.distribution == "beta" else 1)
        return self.n_actions + len(self.sizes)


def into_float32(x: jax.Array, kernel: jax.Array, dimensions: Any, **options: Any) -> jax.Array:
    """`jax.lax.dot_general` of a lower precision with float32 results, whose derivatives are of the lower precision.

    The derivative by `x` would else be float32, as large as a hidden layer.

    Args:
      x: `[..., n]`.
      kernel: `[n, m]`, of the same dtype.
      dimensions: see `jax.lax.dot_general`.
      **options: likewise.
    """
    product: Callable[..., jax.Array] = partial(jax.lax.dot_general, dimension_numbers=dimensions, **options)

    @jax.custom_jvp
    def one(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return product(x, kernel, preferred_element_type=jnp.float32)

    @one.defjvp
    def derivative(at: tuple[jax.Array, ...], along: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        slope = product(along[0], at[1]) + product(at[0], along[1])
        return one(*at), slope.astype(jnp.float32)

    return one(x, kernel)


class CrossAttention(nnx.Module):
    """Attention of every position of a portfolio to the memories of all listed assets at the same bar.

    Keys and values do not depend on the portfolio: they are computed once per path and bar.
    """

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs):
        self.heads = config.heads
        self.key_value = nnx.Linear(config.width, 2 * config.width, use_bias=False, dtype=config.dtype, rngs=rngs)
        self.query = nnx.Linear(N_PORTFOLIO, config.width, dtype=config.dtype, rngs=rngs)
        self.out = nnx.Linear(config.width, 2 * config.width, use_bias=False, dtype=config.dtype, rngs=rngs)

    def prepare(self, memory: jax.Array, listed: jax.Array) -> jax.Array:
        """Joins key, value and listing, `[..., A, 2 D + 1]` in the compute dtype.

        Args:
          memory: `[..., A, D]`.
          listed: `[..., A]` bool.
        """
        key_value = self.key_value(memory)
        return jnp.concatenate([key_value, listed[..., None].astype(key_value.dtype)], axis=-1)

    def __call__(self, prepared: jax.Array, portfolio: jax.Array) -> jax.Array:
        """`[..., A, 2 D + 1]` and `[..., A, n]` to `[..., A, 2 D]`."""
        key_value, listed = prepared[..., :-1], prepared[..., -1] > 0
        key, value = (self._heads(x) for x in jnp.split(key_value, 2, axis=-1))
        attended = masked_attention(self._heads(self.query(portfolio)), key, value, present_or_itself(listed)).out
        return self.out(attended.swapaxes(-2, -3).reshape(*portfolio.shape[:-1], -1))

    def _heads(self, x: jax.Array) -> jax.Array:
        """`[..., A, H * D]` to `[..., H, A, D]`."""
        return x.reshape(*x.shape[:-1], self.heads, -1).swapaxes(-2, -3)


def distribution_of(
    action: ActionConfig,
    out: jax.Array,
    observation: Observation,
    log_std: jax.Array | None = None,
    of_portfolio: jax.Array | None = None,
) -> Any:
    """Distribution over actions from what a head computes.

    Args:
      action: what is parameterised.
      out: `[..., A, action.n_outputs]`.
      observation: of the portfolios, batch `[...]`; its mask restricts the distribution.
      log_std: `[n_components]` of a squashed Gaussian.
      of_portfolio: `[..., n_buckets * (1 + n_outputs)]` for hierarchical actions.
    """
    if action.kind == "discrete":
        return MaskedCategorical(out, observation.mask)
    if action.kind == "hierarchical":
        assert of_portfolio is not None, "a head computes it for these actions"
        bucket, shift = jnp.split(of_portfolio, [action.n_buckets], axis=-1)
        shift = shift.reshape(*bucket.shape, action.n_outputs)
        return Hierarchical(bucket, out, shift, observation.mask, sizes=action.sizes)
    if action.distribution == "beta":
        shape = (*out.shape[:-2], -1)
        alpha, beta = (1.0 + jax.nn.softplus(x + EVEN).reshape(shape) for x in jnp.split(out, 2, axis=-1))
        return Beta(alpha, beta, alpha, alpha).restricted(observation.mask)
    assert log_std is not None, "a head has it for these actions"
    log_std = jnp.broadcast_to(jnp.reshape(log_std, (1,) * (out.ndim - 1) + (-1,)), out.shape)
    mean, log_std = (x.reshape(*x.shape[:-2], -1) for x in (out, log_std))
    return SquashedGaussian(mean, log_std, mean, mean).restricted(observation.mask)


def value_of(head: Any, for_critic: jax.Array, hindsight: jax.Array | None) -> jax.Array:
    """Value `[...]`, or `[..., N]` of a quantile critic, by the layers `critic`, `value` and `hindsight` of a head.

    Args:
      head: with these layers and `quantiles`.
      for_critic: `[..., A, D]` of every asset, before the nonlinearity.
      hindsight: `[..., A, 2]` future of the market; None for nothing ahead.

    Raises:
      ValueError: `hindsight` for a critic that was built without.
    """
    if hindsight is not None:
        if head.hindsight is None:
            raise ValueError("this critic cannot read the future: build it with hindsight=True")
        for_critic = for_critic + jnp.broadcast_to(head.hindsight(hindsight), for_critic.shape)
    value = head.value(jax.nn.gelu(head.critic(jax.nn.gelu(for_critic).mean(axis=-2))).astype(jnp.float32))
    return value[..., 0] if head.quantiles == 1 else value


def portfolio_inputs(observation: Observation) -> jax.Array:
    """What a head reads of each asset of a portfolio, `[..., A, N_PORTFOLIO]`; `observation` has batch `[...]`."""
    account, asset = observation.account, observation.asset
    account = jnp.broadcast_to(account[..., None, :], (*asset.shape[:-1], account.shape[-1]))
    return jnp.concatenate([asset, account], axis=-1)


class Head(nnx.Module):
    """Per-asset action parameters and one value, from (memory, portfolio); permutation-equivariant over assets.

    What depends on the memory alone is computed once per path and bar and shared by the K portfolios. How the
    portfolio enters is `EncoderConfig.portfolio`. Hidden layers, by far the largest arrays of an update, are in the
    compute dtype; what a softmax, a density or a loss reads is float32. With `quantiles` > 1 the value is that many
    quantiles of the return, which may cross.

    Reference: "film": Perez et al. (2018), eq. 2. https://arxiv.org/abs/1709.07871
    """

    def __init__(
        self, config: EncoderConfig, action: ActionConfig, hindsight: bool, rngs: nnx.Rngs, quantiles: int = 1
    ):
        width = config.width
        small = nnx.initializers.zeros if action.at_zero else nnx.initializers.orthogonal(0.01)
        self.action, self.width, self.quantiles = action, width, quantiles
        linear = {"dtype": config.dtype, "rngs": rngs}
        last = {**linear, "kernel_init": small}
        if config.dtype != jnp.float32:
            last["dot_general"] = into_float32
        self.memory = nnx.Linear(width, 2 * width, **linear)
        self.portfolio = nnx.Linear(N_PORTFOLIO, 2 * width, use_bias=False, **linear)
        film, cross = config.portfolio == "film", config.portfolio == "cross_attention"
        self.scale = nnx.Linear(N_PORTFOLIO, 2 * width, use_bias=False, **linear) if film else None
        self.cross = CrossAttention(config, rngs) if cross else None
        self.actor = nnx.Linear(width, action.n_outputs, **last)
        self.critic = nnx.Linear(width, width, **linear)
        self.value = nnx.Linear(width, quantiles, kernel_init=nnx.initializers.orthogonal(1.0), rngs=rngs)
        self.hindsight = nnx.Linear(N_HINDSIGHT, width, use_bias=False, **linear) if hindsight else None
        if action.kind == "hierarchical":
            self.bucket = nnx.Linear(width, action.n_buckets * (1 + action.n_outputs), **last)
        if action.kind == "continuous" and action.distribution != "beta":
            self.log_std = nnx.Param(jnp.full((action.n_components,), math.log(action.std), jnp.float32))

    def prepare(self, memory: jax.Array, listed: jax.Array) -> jax.Array:
        """Projects the memory for the head: the part that all portfolios of a path share.

        Args:
          memory: `[..., A, D]` of the market.
          listed: `[..., A]` bool, the asset has had a bar by then.

        Returns:
          `[..., A, 2 D]` in the compute dtype, or `[..., A, 4 D + 1]` for "cross_attention".
        """
        shared = self.memory(memory)
        if self.cross is None:
            return shared
        return jnp.concatenate([shared, self.cross.prepare(memory, listed)], axis=-1)

    def __call__(
        self, prepared: jax.Array, observation: Observation, hindsight: jax.Array | None = None
    ) -> tuple[Any, jax.Array]:
        """Action distribution and value.

        Args:
          prepared: from `prepare`; broadcasts against the observations.
          observation: of the portfolios, batch `[...]`.
          hindsight: `[..., A, 2]` future of the market, for the value alone; None for nothing ahead.

        Returns:
          Distribution over `[..., A]`, or over `[..., A n_components]` with the components of an asset side by side;
          and value `[...]`, or `[..., N]` of a quantile critic.

        Raises:
          ValueError: `hindsight` for a critic that was built without.
        """
        for_actor, for_critic = jnp.split(self._joined(prepared, observation), 2, axis=-1)
        value = value_of(self, for_critic, hindsight)
        hidden = jax.nn.gelu(for_actor)
        out = self.actor(hidden)
        of_portfolio = self.bucket(hidden.mean(axis=-2)) if self.action.kind == "hierarchical" else None
        log_std = self.log_std[...] if hasattr(self, "log_std") else None
        return distribution_of(self.action, out, observation, log_std, of_portfolio), value

    def _joined(self, prepared: jax.Array, observation: Observation) -> jax.Array:
        """First hidden layer `[..., A, 2 D]`, before the nonlinearity."""
        state = portfolio_inputs(observation)
        shift, memory = self.portfolio(state), prepared[..., : 2 * self.width]
        memory = jnp.broadcast_to(memory, shift.shape)
        if self.scale is not None:
            return (1.0 + self.scale(state)) * memory + shift
        if self.cross is not None:
            shift = shift + self.cross(prepared[..., 2 * self.width :], state)
        return memory + shift
