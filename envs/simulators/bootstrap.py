"""Block bootstrap of a market: its bars in another order, all assets and columns together."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxppo.envs.market.kernels import in_one
from jaxppo.envs.market.market_data import MarketData, MarketInfo
from jaxppo.envs.market.own_bars import carried_forward, own_bars
from jaxppo.envs.market.windows import linear_recurrence, shift


def stationary_indices(
    starts: jax.Array, draws: jax.Array, restart_probability: jax.Array | float, n_source: int
) -> tuple[jax.Array, jax.Array]:
    """Source bar of each bar of a stationary bootstrap: the bar after the previous one, or a fresh start.

    `index_t = starts_t` where `draws_t <= restart_probability` (and at t = 0), else `(index_{t-1} + 1) mod n_source`.

    Args:
      starts: `[N]` int32, uniform over `[0, n_source)`.
      draws: `[N]` uniform over [0, 1).
      restart_probability: one over the mean block length, in (0, 1].
      n_source: bars to choose from; the last is followed by the first.

    Returns:
      `(index, fresh)`: `[N]` int32 and `[N]` bool, True where a block begins.

    Reference: Politis, Romano (1994), The stationary bootstrap.
    """
    fresh = (jnp.asarray(draws) <= restart_probability).at[0].set(True)

    def step(index: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        start, fresh = now
        index = jnp.where(fresh, start, jnp.where(index + 1 == n_source, 0, index + 1))
        return index, index

    return in_one(lambda *bars: jax.lax.scan(step, jnp.int32(0), bars)[1], starts, fresh), fresh


def circular_indices(starts: jax.Array, block: jax.Array, n_bars: int, n_source: int) -> tuple[jax.Array, jax.Array]:
    """Source bar of each bar of a circular bootstrap: blocks of one length, side by side, the last one cut.

    `index_t = (starts_{t // block} + t mod block) mod n_source`.

    Args:
      starts: `[ceil(n_bars / block)]` or more, int32, uniform over `[0, n_source)`.
      block: `[]` int32 length, >= 1.
      n_bars: N, static.
      n_source: bars to choose from; the last is followed by the first.

    Returns:
      `(index, fresh)`: `[N]` int32 and `[N]` bool, True where a block begins.

    Reference: Politis, Romano (1992), A circular block-resampling procedure for stationary data.
    """
    bar = jnp.arange(n_bars, dtype=jnp.int32)
    offset = bar % block
    return (starts[bar // block] + offset) % n_source, offset == 0


@functools.partial(jax.jit, static_argnames="n_bars")
def block_bootstrap(key: jax.Array, market: MarketData, n_bars: int, mean_block: jax.Array | float) -> MarketData:
    """Stationary bootstrap of a market: blocks of geometric length, jointly over assets and columns.

    Args:
      key: consumed.
      market: `[T, A]` bars, T >= 2.
      n_bars: bars of the result, static.
      mean_block: mean block length in bars, >= 1.

    Raises:
      ValueError: fewer than 2 bars to draw from.

    Reference: Politis, Romano (1994), The stationary bootstrap.
    """
    if market.n_bars < 2:
        raise ValueError(f"a bootstrap needs at least 2 bars to draw from, got {market.n_bars}")
    starts_key, draws_key = jax.random.split(key)
    starts = (jax.random.bits(starts_key, (n_bars,)) % (market.n_bars - 1)).astype(jnp.int32)
    draws = jax.random.uniform(draws_key, (n_bars,))
    index, fresh = stationary_indices(starts, draws, 1 / mean_block, market.n_bars - 1)
    return resample(market, index + 1, fresh)


def resample(market: MarketData, row: jax.Array, fresh: jax.Array) -> MarketData:
    """Builds a market from the given bars of another one, in their order, with prices compounded anew.

    A bar keeps its open, high, low and close relative to the asset's previous close, its volume, half-spread, carry,
    funding, `tradable` and calendar fields. Prices start from each asset's first close and compound the drawn bars.
    Those of a market with dividends are prices of total returns: the result contains them, and pays none. Bar 0 of the
    source has no previous close and must not be drawn; an asset's first bar has no known gap and is taken to open at
    the previous close. `session` is renumbered: it counts up where the drawn bars change session or block.

    Args:
      market: `[T, A]` bars.
      row: `[N]` int32 bars to take, in [1, T).
      fresh: `[N]` bool, True where the bar does not continue the one before it.

    Returns:
      `[N, A]` market without names and times. Where an asset was not tradable it is not tradable here, with the
      placeholders that `MarketData` prescribes.
    """
    source = own_bars(market.tradable)
    newly_listed = market.tradable & (source.latest == 0)
    reference = jnp.where(newly_listed, market.open, shift(market.close, 1))
    start = source.pack(market.close)[0]
    tradable = market.tradable[row]
    compounded = jnp.exp(jnp.log(start)[None] + linear_recurrence(1.0, jnp.log(market.close / reference)[row]))
    close, listed = carried_forward(compounded, tradable, start)
    previous = jnp.concatenate([start[None], close[:-1]])

    def rebuilt(price: jax.Array) -> jax.Array:
        return jnp.where(tradable, previous * (price / reference)[row], close)

    def placed(price: jax.Array) -> jax.Array:
        return jnp.where(listed, price, 1.0)

    open_ = rebuilt(market.open)
    high = jnp.maximum(rebuilt(market.high), jnp.maximum(open_, close))
    low = jnp.minimum(rebuilt(market.low), jnp.minimum(open_, close))
    new_session = fresh | (market.session[row] != market.session[row - 1])
    return MarketData(
        open=placed(open_),
        high=placed(high),
        low=placed(low),
        close=placed(close),
        volume=market.volume[row],
        half_spread=market.half_spread[row],
        tradable=tradable,
        volume_known=market.volume_known,
        minute_of_day=market.minute_of_day[row],
        session=linear_recurrence(1, new_session.astype(jnp.int32)) - 1,
        day_of_week=market.day_of_week[row],
        seconds_since_previous=market.seconds_since_previous[row].at[0].set(0.0),
        info=MarketInfo(),
        carry=() if isinstance(market.carry, tuple) else market.carry[row],
        columns=jax.tree.map(lambda x: x[row], market.columns),
        futures=market.futures,
        funding=() if isinstance(market.funding, tuple) else market.funding[row],
    )
