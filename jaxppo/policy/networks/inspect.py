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

from jaxppo.envs.trading.types import Observation
from jaxppo.policy.networks.actor_critic import Params, Policy
from jaxppo.policy.networks.encoder import Bars

Decide = Callable[[Any], jax.Array]
"""A distribution over actions to one number per path, for example the mean target weight of an asset, `[P]`."""


@struct.dataclass
class Attention:
    """Attention weights of L blocks. The window and the levels of a query share one softmax: they sum to 1.

    Every block looks at `W - 1` rows more than the next one needs of it; the last S rows of all are the same bars.

    Attributes:
      window: of each block `[P, A, H, R, W]` by how many bars ago; 0 is the bar itself.
      levels: of each block and coarser level `[P, A, H, R, M]` by how many pools ago.
      assets: of each block `[P, R, H, A, A]` what the last axis' asset gets of the one before it, or None.
      listed: `[P, S, A]` bool; what assets attend to that have never had a bar means nothing.
      pools: bars that each coarser level pools.
    """

    window: tuple[jax.Array, ...]
    levels: tuple[tuple[jax.Array, ...], ...]
    assets: tuple[jax.Array | None, ...]
    listed: jax.Array
    pools: tuple[int, ...] = struct.field(pytree_node=False)


def attention(policy: Policy, params: Params, bars: Bars) -> Attention:
    """The weights with which every block reads the past of the last S bars.

    Raises:
      ValueError: a perceptron does not attend.
    """
    encoder = nnx.merge(policy.graph, params).encoder
    windows, levels, assets = zip(*encoder.weights(bars), strict=True)
    length = bars.seconds.shape[1] - policy.context + 1
    pools = tuple(level.pool for level in encoder.coarse)
    return Attention(windows, levels, assets, bars.listed[:, -length:], pools)


def by_lag(weights: Attention, where: jax.Array | None = None) -> jax.Array:
    """Mean weight `[L, H, W]` by lag, of bars `where` `[P, S]` is True (a regime, an hour); NaN if there are none."""
    return _mean(_rows(weights, weights.window), weights, where)


def by_level(weights: Attention, where: jax.Array | None = None) -> jax.Array:
    """Mean share `[L, H, 1 + levels]` of the window and of each coarser level, which sum to 1."""
    parts = [weights.window, *zip(*weights.levels, strict=True)]
    return jnp.stack([_mean(_rows(weights, part), weights, where).sum(axis=-1) for part in parts], axis=-1)


def by_asset(weights: Attention, where: jax.Array | None = None) -> jax.Array:
    """Mean weight `[L, H, A, A]` that the asset of the third axis gives to that of the last one.

    Raises:
      ValueError: the policy does not attend across assets.
    """
    if weights.assets[0] is None:
        raise ValueError("this policy does not attend across assets: it has one, or policy.asset_attention is off")
    chosen = _chosen(weights, where)[None, :, :, None, :, None]
    every = jnp.stack([x[:, -chosen.shape[2] :] for x in weights.assets])
    return jnp.sum(jnp.where(chosen, every, 0.0), axis=(1, 2)) / chosen.sum(axis=(1, 2))


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


def rollout(weights: Attention) -> jax.Array:
    """How much of the memory of the last bar comes from which bar and asset, through all blocks.

    Attention of a block, heads averaged, counts half and its residual half, over bars as over assets; a coarser token
    counts as the mean of the bars that it pools.

    Returns:
      `[P, A, N, A]`, N the bars that a memory depends on: from the last axis' asset n bars ago to the memory of the
      first one; sums to 1.

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
        if weights.assets[i] is not None:
            over = weights.assets[i].mean(axis=2)[:, ::-1][:, :n_rows]
            share = 0.5 * share + 0.5 * jnp.einsum("ptsa,psab->ptsb", share, over)
        fine = _latest_first(weights.window[i], n_rows)
        before = _spread(share, fine, 1, 1, n_rows + fine.shape[-1] - 1)
        for pool, level in _levels(weights, i):
            direct = direct + 0.5 * _spread(share, _latest_first(level, n_rows), pool, pool, n_bars)
        share = 0.5 * before.at[:, :, :n_rows].add(share)
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
      groups: columns of each group, `jaxppo.envs.market.features.group_slices`.

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


def _chosen(weights: Attention, where: jax.Array | None) -> jax.Array:
    """`[P, S, A]` bool: what a mean is over."""
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
