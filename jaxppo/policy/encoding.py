"""The encoder's pass over market paths: the bars it reads, and what it says of them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.envs.market.rows import newest, rows_from
from jaxppo.envs.trading.types import EnvParams
from jaxppo.policy.networks.actor_critic import ActorCritic, Params
from jaxppo.policy.networks.encoder import Bars
from jaxppo.policy.protocol import Encoding

BLOCK = 256
"""Bars of one encoder pass where one market is encoded."""


def market_bars(params: EnvParams) -> Bars:
    """What an encoder reads of all bars of a market, `[T, ...]`."""
    return Bars(params.features, params.listed, params.market.seconds_since_previous)


def chunk_of(bars: Bars, bar: jax.Array, context: int, length: int) -> Bars:
    """The bars `bar - context + 1 .. bar + length - 1`: what `length` memories depend on.

    Args:
      bars: `[T, ...]` of one market.
      bar: `[]` int32, first bar with a memory.
      context: bars that one memory depends on.
      length: number of memories.
    """
    start, n_bars = bar - context + 1, context - 1 + length
    return rows_from(bars, start, n_bars)


@jax.named_scope("encoder")
def encode_paths(
    network: ActorCritic,
    net: Params,
    params: EnvParams,
    bar: jax.Array,
    length: int,
    micro_batch: int | None,
    masks: jax.Array | None = None,
) -> jax.Array:
    """One encoder pass per path: what the head needs at the bars `bar .. bar + length - 1`.

    Args:
      network: encoder and head.
      net: its parameters.
      params: the market.
      bar: `[P]` int32.
      length: bars per path.
      micro_batch: paths at a time; None takes all at once.
      masks: `[P, ...]` of dropout; None drops nothing.

    Returns:
      `[P, length, A, 2 D]` in the compute dtype.
    """
    bars = market_bars(params)

    def encode(xs: tuple[jax.Array, jax.Array | None]) -> jax.Array:
        first, masks = xs
        return network.encode(net, jax.vmap(lambda b: chunk_of(bars, b, network.context, length))(first), masks)

    if micro_batch is None or micro_batch >= bar.shape[0]:
        return encode((bar, masks))
    pieces = jax.tree.map(lambda x: x.reshape(-1, micro_batch, *x.shape[1:]), (bar, masks))
    prepared = jax.lax.map(encode, pieces)
    return prepared.reshape(-1, *prepared.shape[2:])


def encode_newest(encoding: Encoding, params: Any, inputs: Any, window: int) -> Any:
    """What an encoding says of the newest bar of a stream (`jaxppo.envs.market.streaming`).

    Args:
      encoding: of a policy.
      params: of the policy.
      inputs: what `Encoding.inputs` reads of that bar, `[1, ...]`.
      window: bars that the encoding reads.

    Returns:
      Pytree with a leading axis of length 1.
    """
    whole = jax.tree.map(lambda x: newest(x, window)[None], inputs)
    encoded = encoding.encode(params, whole, jnp.asarray([window - 1], jnp.int32), 1)
    return jax.tree.map(lambda x: x[0], encoded)


def encode_bars(encoding: Encoding, params: Any, inputs: Any, first: jax.Array, n_bars: int) -> Any:
    """What an encoding says of consecutive bars of one market, in blocks, so that its memory is bounded.

    Args:
      encoding: of a policy.
      params: of the policy.
      inputs: what `Encoding.inputs` reads of the market.
      first: `[]` int32, first bar.
      n_bars: number of bars.

    Returns:
      Pytree with leading axis `n_bars`.
    """
    block = min(BLOCK, n_bars)
    n_blocks = -(-n_bars // block)
    starts = np.minimum(np.arange(n_blocks) * block, n_bars - block)
    one_market = jax.tree.map(lambda x: x[None], inputs)

    def one(start: jax.Array) -> Any:
        return jax.tree.map(lambda x: x[0], encoding.encode(params, one_market, (first + start)[None], block))

    def joined(blocks: jax.Array) -> jax.Array:
        whole = blocks[:-1].reshape(-1, *blocks.shape[2:])
        return jnp.concatenate([whole, blocks[-1, n_blocks * block - n_bars :]])  # the last overlaps the one before

    return jax.tree.map(joined, jax.lax.map(one, jnp.asarray(starts, jnp.int32)))
