"""What a policy looks at: attention by lag, head, level and asset, its rollout, and what its decisions depend on.

All functions are pure and can be compiled; `bars` are `context - 1 + S` consecutive bars of P paths, see `Bars`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct

from envs.types import Observation
from jaxppo.networks.encoder import Bars, Encoder
from jaxppo.networks.policy import Params, Policy

Decide = Callable[[Any], jax.Array]
"""A distribution over actions to one number per path, for example the mean target weight of an asset, `[P]`."""


@struct.dataclass
class Attention:
    """Attention of L blocks at S bars. The window and the levels of a query share one softmax: they sum to 1.

    Attributes:
      window: `[L, P, A, H, S, W]` weight by how many bars ago; 0 is the bar itself.
      levels: of each coarser level, `[L, P, A, H, S, M]` by how many pools ago.
      assets: `[L, P, S, H, A, A]` weight of the asset of the last axis for that of the one before; None without.
      listed: `[P, S, A]` bool; what assets attend to that have never had a bar means nothing.
    """

    window: jax.Array
    levels: tuple[jax.Array, ...]
    assets: jax.Array | None
    listed: jax.Array


def attention(policy: Policy, params: Params, bars: Bars) -> Attention:
    """The weights of every block at the last S bars.

    Raises:
      ValueError: a perceptron does not attend.
    """
    blocks = _encoder(policy, params).weights(bars)
    length = bars.seconds.shape[1] - policy.context + 1
    windows, levels, assets = zip(*blocks, strict=True)
    return Attention(
        window=jnp.stack([x[..., -length:, :] for x in windows]),
        levels=tuple(jnp.stack([x[..., -length:, :] for x in level]) for level in zip(*levels, strict=True)),
        assets=None if assets[0] is None else jnp.stack([x[:, -length:] for x in assets]),
        listed=bars.listed[:, -length:],
    )


def by_lag(weights: Attention, where: jax.Array | None = None) -> jax.Array:
    """Mean weight `[L, H, W]` by lag, of bars `where` `[P, S]` is True (a regime, an hour); NaN if there are none."""
    return _mean(weights.window, weights, where)


def by_level(weights: Attention, where: jax.Array | None = None) -> jax.Array:
    """Mean share `[L, H, 1 + levels]` of the window and of each coarser level, which sum to 1."""
    shares = [_mean(part, weights, where).sum(axis=-1) for part in (weights.window, *weights.levels)]
    return jnp.stack(shares, axis=-1)


def by_asset(weights: Attention, where: jax.Array | None = None) -> jax.Array:
    """Mean weight `[L, H, A, A]` that the asset of the third axis gives to that of the last one.

    Raises:
      ValueError: the policy does not attend across assets.
    """
    if weights.assets is None:
        raise ValueError("this policy does not attend across assets: it has one, or policy.asset_attention is off")
    chosen = _chosen(weights, where)[None, :, :, None, :, None]
    return jnp.sum(jnp.where(chosen, weights.assets, 0.0), axis=(1, 2)) / chosen.sum(axis=(1, 2))


def entropy(weights: Attention) -> jax.Array:
    """Mean entropy `[L, H]` of a query's weights over the window and the levels, in shares of the largest possible."""
    every = _every_key(weights)
    nats = jax.scipy.special.entr(every).sum(axis=-1, keepdims=True)
    return _mean(nats, weights)[..., 0] / np.log(max(every.shape[-1], 2))


def head_redundancy(weights: Attention) -> jax.Array:
    """Mean cosine similarity `[L]` of what two heads of a block attend to at the same bar; 1 if they all do the same.

    A block of one head has 0.
    """
    every = _every_key(weights)
    unit = every / jnp.linalg.norm(every, axis=-1, keepdims=True)
    n_heads = unit.shape[3]
    # Over all pairs and each head with itself, whose similarity is 1.
    pairs = jnp.sum(jnp.square(unit.sum(axis=3, keepdims=True)), axis=-1, keepdims=True) - n_heads
    return _mean(pairs, weights)[:, 0, 0] / max(n_heads * (n_heads - 1), 1)


def rollout(policy: Policy, params: Params, bars: Bars) -> jax.Array:
    """How much of the memory of the last bar comes from which bar and asset, through all blocks.

    Attention of a block, heads averaged, counts half and its residual half, over bars as over assets; a coarser token
    counts as the mean of the bars that it pools.

    Returns:
      `[P, A, N, A]`, N = context: from the last axis' asset n bars ago to the memory of the first one; sums to 1.

    Raises:
      ValueError: a perceptron does not attend.

    Reference: Abnar and Zuidema (2020), eq. 1. https://arxiv.org/abs/2005.00928
    """
    context, n_assets = policy.context, bars.listed.shape[-1]
    encoder = _encoder(policy, params)
    n_paths = bars.listed.shape[0]
    own = jnp.eye(n_assets)[None, :, None, :]
    # Shares of the rows that a block puts out, latest first, and of the bars themselves by way of the coarser levels.
    share = jnp.broadcast_to(own, (n_paths, n_assets, 1, n_assets))
    direct = jnp.zeros((n_paths, n_assets, context, n_assets))
    for window, levels, assets in reversed(encoder.weights(jax.tree.map(lambda x: x[:, -context:], bars))):
        n_rows = share.shape[2]
        if assets is not None:
            over = assets.mean(axis=2)[:, ::-1][:, :n_rows]
            share = 0.5 * share + 0.5 * jnp.einsum("ptsa,psab->ptsb", share, over)
        fine, *coarse = (_latest_first(x)[:, :, :n_rows] for x in (window, *levels))
        before = _spread(share, fine, 1, 1, n_rows + fine.shape[-1] - 1)
        before = before.at[:, :, :n_rows].add(share)
        for level, part in zip(encoder.coarse, coarse, strict=True):
            direct = direct + 0.5 * _spread(share, part, level.pool, level.pool, context)
        share = 0.5 * before
    return direct.at[:, :, : share.shape[2]].add(share)


def group_importance(
    policy: Policy, params: Params, bars: Bars, seen: Observation, groups: dict[str, slice]
) -> dict[str, jax.Array]:
    """How much decisions change when a group of features is unknown: mean KL(full || without) per decision, nats.

    Args:
      policy: the policy.
      params: its parameters.
      bars: the bars.
      seen: what the policy sees of its account at the last S of them, `[P, S, ...]`.
      groups: columns of each group, `envs.features.group_slices`.

    Returns:
      `[]` for each group.
    """
    full = policy.distribution(params, policy.encode(params, bars), seen)

    def without(columns: slice) -> jax.Array:
        blind = bars.replace(features=bars.features.at[..., columns].set(jnp.nan))
        return full.kl(policy.distribution(params, policy.encode(params, blind), seen)).mean()

    return {name: without(columns) for name, columns in groups.items()}


def integrated_gradients(
    policy: Policy, params: Params, bars: Bars, seen: Observation, decide: Decide, *, n_nodes: int = 32
) -> tuple[jax.Array, jax.Array]:
    """Attribution of the decision at the last bar to every value that it depends on.

    The path of integration goes from features of 0, which is average for all that are standardised, to those seen;
    unknown values stay unknown and get 0. Integrated by Gauss-Legendre quadrature.

    Args:
      policy: the policy.
      params: its parameters.
      bars: the bars; the last `context` of them matter.
      seen: what the policy sees of its account at the last one, `[P, ...]`.
      decide: the number to explain.
      n_nodes: gradients to average.

    Returns:
      `[P, context, A, F]` attributions, earliest bar first, and `[P]` the decision less that at the baseline: the sum
      of the attributions but for the error of the quadrature (completeness).

    Reference: Sundararajan et al. (2017), eq. 1. https://arxiv.org/abs/1703.01365
    """
    bars = jax.tree.map(lambda x: x[:, -policy.context :], bars)
    features = bars.features.astype(jnp.float32)

    def decision(features: jax.Array) -> jax.Array:
        prepared = policy.encode(params, bars.replace(features=features))[:, 0]
        return decide(policy.distribution(params, prepared, seen))

    nodes, weights = np.polynomial.legendre.leggauss(n_nodes)
    nodes, weights = jnp.asarray((nodes + 1.0) / 2.0, jnp.float32), jnp.asarray(weights / 2.0, jnp.float32)

    def add(total: jax.Array, xs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        node, weight = xs
        return total + weight * jax.grad(lambda x: decision(x).sum())(node * features), None

    gradient, _ = jax.lax.scan(add, jnp.zeros_like(features), (nodes, weights))
    attribution = jnp.where(jnp.isnan(features), 0.0, gradient * features)
    return attribution, decision(features) - decision(0.0 * features)


def _encoder(policy: Policy, params: Params) -> Encoder:
    return nnx.merge(policy.graph, params).encoder


def _chosen(weights: Attention, where: jax.Array | None) -> jax.Array:
    """`[P, S, A]` bool: what a mean is over."""
    return weights.listed if where is None else weights.listed & where[..., None]


def _mean(values: jax.Array, weights: Attention, where: jax.Array | None = None) -> jax.Array:
    """Mean of `[L, P, A, H, S, ...]` over paths, assets and bars."""
    chosen = _chosen(weights, where).swapaxes(1, 2)[None, :, :, None, :, None]
    return jnp.sum(jnp.where(chosen, values, 0.0), axis=(1, 2, 4)) / chosen.sum()


def _every_key(weights: Attention) -> jax.Array:
    """Weights of the window and of all levels, side by side."""
    return jnp.concatenate([weights.window, *weights.levels], axis=-1)


def _latest_first(weights: jax.Array) -> jax.Array:
    """Weights `[P, A, H, S, W]` of a block, heads averaged, to `[P, A, S, W]`, the latest query first."""
    return weights.mean(axis=2)[:, :, ::-1]


def _spread(share: jax.Array, weights: jax.Array, dilation: int, pool: int, length: int) -> jax.Array:
    """Shares of queries given on to what they attend to.

    Args:
      share: `[P, A, S, A]` of S queries, latest first; those of the last axis' asset.
      weights: `[P, A, S, W]` of the queries; key j is `j dilation` bars before its query.
      dilation: bars between two keys.
      pool: bars that a key is the mean of: its own and those before.
      length: rows of the result.

    Returns:
      `[P, A, length, A]`, latest first.
    """
    n_rows, n_keys = share.shape[2], weights.shape[-1]

    def give(total: jax.Array, xs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        ago, weight = xs
        given = share * weight.swapaxes(1, 2)[:, None] / pool
        there = jax.lax.dynamic_slice_in_dim(total, ago, n_rows, axis=2)
        return jax.lax.dynamic_update_slice_in_dim(total, there + given, ago, axis=2), None

    ago = dilation * np.arange(n_keys)[:, None] + np.arange(pool)[None, :]
    per_bar = jnp.repeat(jnp.moveaxis(weights, -1, 0), pool, axis=0)
    empty = jnp.zeros((*share.shape[:2], length, share.shape[3]))
    return jax.lax.scan(give, empty, (jnp.asarray(ago.ravel()), per_bar))[0]
