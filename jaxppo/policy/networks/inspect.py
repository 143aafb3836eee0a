"""Inspection of a network: attention by lag, head, level and asset, attention rollout, attribution of decisions.

All functions are pure and can be compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct

from jaxppo.envs.trading.types import Observation
from jaxppo.policy.networks.actor_critic import ActorCritic, Params
from jaxppo.policy.networks.encoder import Bars

Decide = Callable[[Any], jax.Array]
"""A distribution over actions to one number per path, for example the mean target weight of an asset, `[P]`."""


class Attention(struct.PyTreeNode):
    """Attention weights of L blocks. The window and the levels of a query share one softmax: they sum to 1.

    Every block has `W - 1` rows more than the next block needs; the last S rows of all are the same bars.

    Attributes:
      window: of each block `[P, A, H, R, W]` by how many bars ago; 0 is the bar itself.
      levels: of each block and coarser level `[P, A, H, R, M]` by how many pools ago.
      assets: of each block `[P, R, H, A, A]` weight that the last axis' asset gets from that of the axis before; None
        without attention over assets.
      listed: `[P, S, A]` bool; the weights of an asset without any bar yet mean nothing.
      pools: bars that each coarser level pools.
    """

    window: tuple[jax.Array, ...]
    levels: tuple[tuple[jax.Array, ...], ...]
    assets: tuple[jax.Array | None, ...]
    listed: jax.Array
    pools: tuple[int, ...] = struct.field(pytree_node=False)


def attention(network: ActorCritic, params: Params, bars: Bars) -> Attention:
    """Computes the weights with which every block attends to the past of the last S bars.

    Args:
      network: the network.
      params: its parameters.
      bars: `context - 1 + S` consecutive bars of P paths.

    Raises:
      ValueError: the network is a perceptron, which does not attend.
    """
    encoder = nnx.merge(network.graph, params).encoder
    windows, levels, assets = zip(*encoder.weights(bars), strict=True)
    length = bars.seconds.shape[1] - network.context + 1
    pools = tuple(level.pool for level in encoder.coarse)
    return Attention(windows, levels, assets, bars.listed[:, -length:], pools)


def by_lag(weights: Attention, where: jax.Array | None = None) -> jax.Array:
    """Mean weight by lag.

    Args:
      weights: of P paths.
      where: `[P, S]` bool, bars that the mean is over, such as a regime or an hour; None for all.

    Returns:
      `[L, H, W]`; NaN without any bar.
    """
    return _mean(_rows(weights, weights.window), weights, where)


def by_level(weights: Attention, where: jax.Array | None = None) -> jax.Array:
    """Mean share of the window and of each coarser level.

    Args:
      weights: of P paths.
      where: `[P, S]` bool, bars that the mean is over; None for all.

    Returns:
      `[L, H, 1 + levels]`; the last axis sums to 1.
    """
    parts = [weights.window, *zip(*weights.levels, strict=True)]
    return jnp.stack([_mean(_rows(weights, part), weights, where).sum(axis=-1) for part in parts], axis=-1)


def by_asset(weights: Attention, where: jax.Array | None = None) -> jax.Array:
    """Mean weight between assets.

    Args:
      weights: of P paths.
      where: `[P, S]` bool, bars that the mean is over; None for all.

    Returns:
      `[L, H, A, A]` weight that the asset of the third axis gives to that of the last.

    Raises:
      ValueError: the network does not attend across assets.
    """
    between = [x for x in weights.assets if x is not None]
    if not between:
        raise ValueError("this policy does not attend across assets: it has one, or policy.asset_attention is off")
    chosen = _chosen(weights, where)[None, :, :, None, :, None]
    last = jnp.stack([x[:, -chosen.shape[2] :] for x in between])
    return jnp.sum(jnp.where(chosen, last, 0.0), axis=(1, 2)) / chosen.sum(axis=(1, 2))


def entropy(weights: Attention) -> jax.Array:
    """Mean entropy `[L, H]` of a query's weights over the window and the levels, as a share of the largest possible."""
    every = _every_key(weights)
    nats = jax.scipy.special.entr(every).sum(axis=-1, keepdims=True)
    return _mean(nats, weights)[..., 0] / np.log(max(every.shape[-1], 2))


def head_redundancy(weights: Attention) -> jax.Array:
    """Mean cosine similarity `[L]` of the weights of two heads of a block at the same bar.

    1 if all heads attend to the same; 0 for a block of one head.
    """
    every = _every_key(weights)
    unit = every / jnp.linalg.norm(every, axis=-1, keepdims=True)
    n_heads = unit.shape[3]
    # Over all pairs and each head with itself, whose similarity is 1.
    pairs = jnp.sum(jnp.square(unit.sum(axis=3, keepdims=True)), axis=-1, keepdims=True) - n_heads
    return _mean(pairs, weights)[:, 0, 0] / max(n_heads * (n_heads - 1), 1)


def rollout(weights: Attention) -> jax.Array:
    """Attention rollout: the share of the last bar's memory that comes from each bar and asset, through all blocks.

    Attention of a block, heads averaged, counts half and its residual half, over bars as over assets; a coarser token
    counts as the mean of the bars that it pools.

    Returns:
      `[P, A, N, A]`, N the bars that a memory depends on: share of the last axis' asset, n bars ago, in the memory of
      the first axis' asset; sums to 1.

    Reference: Abnar and Zuidema (2020), eq. 1. https://arxiv.org/abs/2005.00928
    """
    n_paths, length, n_assets = weights.listed.shape
    farthest = max([weights.window[0].shape[-1] - 1, *(pool * x.shape[-1] - 1 for pool, x in _levels(weights, 0))])
    n_bars = weights.window[0].shape[-2] - length + 1 + farthest
    # Shares of the rows that a block puts out, latest first, and of the bars themselves by way of the coarser levels.
    share = jnp.broadcast_to(jnp.eye(n_assets)[None, :, None, :], (n_paths, n_assets, 1, n_assets))
    direct = jnp.zeros((n_paths, n_assets, n_bars, n_assets))
    for i in reversed(range(len(weights.window))):
        n_rows = share.shape[2]
        between = weights.assets[i]
        if between is not None:
            over = between.mean(axis=2)[:, ::-1][:, :n_rows]
            share = 0.5 * share + 0.5 * jnp.einsum("ptsa,psab->ptsb", share, over)
        fine = _latest_first(weights.window[i], n_rows)
        before = _spread(share, fine, 1, 1, n_rows + fine.shape[-1] - 1)
        for pool, level in _levels(weights, i):
            direct = direct + 0.5 * _spread(share, _latest_first(level, n_rows), pool, pool, n_bars)
        share = 0.5 * before.at[:, :, :n_rows].add(share)
    return direct.at[:, :, : share.shape[2]].add(share)


def group_importance(
    network: ActorCritic,
    params: Params,
    bars: Bars,
    observation: Observation,
    groups: dict[str, slice],
    means: jax.Array,
) -> dict[str, jax.Array]:
    """Change of decisions when a group of features is at its mean: mean KL(full || at the mean) per decision, nats.

    A group that never changes is always at its mean, and has no importance. Unknown values stay unknown.

    Args:
      network: the network.
      params: its parameters.
      bars: `context - 1 + S` consecutive bars of P paths.
      observation: of the accounts at the last S bars, `[P, S, ...]`.
      groups: columns of each group, `jaxppo.envs.market.features.group_slices`.
      means: `[F]` mean of each feature over what is inspected; NaN for one that is never known.

    Returns:
      `[]` for each group.
    """
    average = jnp.where(jnp.isnan(bars.features), bars.features, means.astype(bars.features.dtype))
    blind = np.zeros((1 + len(groups), bars.features.shape[-1]), bool)  # the first sees everything
    for row, columns in zip(blind[1:], groups.values(), strict=True):
        row[columns] = True

    def seeing(blind: jax.Array) -> Any:
        features = jnp.where(blind, average, bars.features)
        return network.distribution(params, network.encode(params, bars.replace(features=features)), observation)

    # One after the other: side by side they would be as many networks to compile.
    full, *others = _rows_of(jax.lax.map(seeing, jnp.asarray(blind)), len(blind))
    return {name: full.kl(other).mean() for name, other in zip(groups, others, strict=True)}


def _rows_of(tree: Any, n: int) -> list[Any]:
    """The `n` rows of a pytree with that leading axis."""
    return [jax.tree.map(lambda x, i=i: x[i], tree) for i in range(n)]


def integrated_gradients(
    network: ActorCritic,
    params: Params,
    bars: Bars,
    observation: Observation,
    decide: Decide,
    means: jax.Array,
    *,
    n_nodes: int = 32,
) -> tuple[jax.Array, jax.Array]:
    """Attribution of the decision at the last bar to every feature that it depends on.

    The path of integration goes from the mean of each feature to the observed ones: a feature that never changes gets
    0. Unknown values stay unknown and get 0 too. Integrated by Gauss-Legendre quadrature.

    Args:
      network: the network.
      params: its parameters.
      bars: consecutive bars of P paths; the last `context` of them matter.
      observation: of the accounts at the last bar, `[P, ...]`.
      decide: the number to explain.
      means: `[F]` mean of each feature over what is inspected, see `group_importance`.
      n_nodes: gradients to average, >= 1.

    Returns:
      `[P, context, A, F]` attributions, earliest bar first, and `[P]` the decision less that at the baseline, which is
      the sum of the attributions up to the error of the quadrature (completeness).

    Reference: Sundararajan et al. (2017), eq. 1. https://arxiv.org/abs/1703.01365
    """
    bars = jax.tree.map(lambda x: x[:, -network.context :], bars)
    features = bars.features.astype(jnp.float32)
    average = jnp.where(jnp.isnan(features), features, means.astype(jnp.float32))
    change = features - average

    def decision(features: jax.Array) -> jax.Array:
        prepared = network.encode(params, bars.replace(features=features))[:, 0]
        return decide(network.distribution(params, prepared, observation))

    # Nodes and weights of the quadrature, from [-1, 1] to [0, 1].
    points, masses = np.polynomial.legendre.leggauss(n_nodes)
    nodes, weights = jnp.asarray((points + 1.0) / 2.0, jnp.float32), jnp.asarray(masses / 2.0, jnp.float32)

    def add(total: jax.Array, xs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        node, weight = xs
        return total + weight * jax.grad(lambda x: decision(x).sum())(average + node * change), None

    gradient, _ = jax.lax.scan(add, jnp.zeros_like(features), (nodes, weights))
    attribution = jnp.where(jnp.isnan(features), 0.0, gradient * change)
    return attribution, decision(features) - decision(average)


def _chosen(weights: Attention, where: jax.Array | None) -> jax.Array:
    """`[P, S, A]` bool: listed assets at the bars that a mean is over."""
    return weights.listed if where is None else weights.listed & where[..., None]


def _mean(values: jax.Array, weights: Attention, where: jax.Array | None = None) -> jax.Array:
    """Mean of `[L, P, A, H, S, ...]` over paths, assets and bars."""
    chosen = _chosen(weights, where).swapaxes(1, 2)[None, :, :, None, :, None]
    return jnp.sum(jnp.where(chosen, values, 0.0), axis=(1, 2, 4)) / chosen.sum()


def _rows(weights: Attention, blocks: tuple[jax.Array, ...]) -> jax.Array:
    """The last S rows `[L, P, A, H, S, ...]` of weights of each block."""
    return jnp.stack([x[..., -weights.listed.shape[1] :, :] for x in blocks])


def _levels(weights: Attention, block: int) -> list[tuple[int, jax.Array]]:
    """Pool and weights of the coarser levels of a block."""
    return list(zip(weights.pools, weights.levels[block], strict=True))


def _every_key(weights: Attention) -> jax.Array:
    """Weights `[L, P, A, H, S, ...]` of the window and of all levels, side by side."""
    parts = [weights.window, *zip(*weights.levels, strict=True)]
    return jnp.concatenate([_rows(weights, part) for part in parts], axis=-1)


def _latest_first(weights: jax.Array, n_rows: int) -> jax.Array:
    """Weights `[P, A, H, R, W]` of a block, heads averaged, to `[P, A, n_rows, W]`, the latest query first."""
    return weights.mean(axis=2)[:, :, ::-1][:, :, :n_rows]


def _spread(share: jax.Array, weights: jax.Array, dilation: int, pool: int, length: int) -> jax.Array:
    """Passes the shares of queries on to the bars that they attend to.

    Args:
      share: `[P, A, S, A]` of S queries of the last axis' asset, latest first.
      weights: `[P, A, S, W]` of the queries; key j is `j dilation` bars before the query.
      dilation: bars between two keys.
      pool: bars that a key is the mean of: the bar it stands at and those before.
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
