"""Stationary block bootstrap of a market: the same bars in another order, all assets and columns together."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from envs.market import MarketData, MarketInfo
from envs.own_bars import own_bars
from envs.windows import shift


def stationary_indices(
    starts: jax.Array, draws: jax.Array, restart_probability: jax.Array | float, n_source: int
) -> tuple[jax.Array, jax.Array]:
    """Source bar of each resampled bar: the bar after the previous one, or a fresh start.

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
    bar = jnp.arange(starts.shape[0], dtype=jnp.int32)
    fresh = (draws <= restart_probability) | (bar == 0)
    begun = jax.lax.cummax(jnp.where(fresh, bar, 0))
    return (starts[begun] + bar - begun) % n_source, fresh


@functools.partial(jax.jit, static_argnames="n_bars")
def block_bootstrap(key: jax.Array, market: MarketData, n_bars: int, mean_block: jax.Array | float) -> MarketData:
    """A resampled market: blocks of geometric length, jointly over assets and columns, prices rebuilt.

    A bar is kept whole: its open, high, low and close relative to the asset's previous close, its volume, half-spread,
    `tradable` and calendar fields. Prices start from each asset's first close and compound the drawn bars. The first
    bar of the source is never drawn (it has no previous close); an asset's first own bar has no known gap and is taken
    to open at the previous close. `session` is renumbered: it counts up where the drawn bars change session or block.

    Args:
      key: consumed.
      market: `[T, A]` bars, T >= 2.
      n_bars: bars of the result, static.
      mean_block: mean block length in bars, >= 1.

    Returns:
      `[n_bars, A]` market without names and times. Where an asset was not tradable it is not tradable here, with the
      placeholders that `MarketData` prescribes.

    Raises:
      ValueError: fewer than 2 bars to draw from.

    Reference: Politis, Romano (1994), The stationary bootstrap.
    """
    if market.n_bars < 2:
        raise ValueError(f"a bootstrap needs at least 2 bars to draw from, got {market.n_bars}")
    starts_key, draws_key = jax.random.split(key)
    starts = jax.random.randint(starts_key, (n_bars,), 0, market.n_bars - 1)
    draws = jax.random.uniform(draws_key, (n_bars,))
    index, fresh = stationary_indices(starts, draws, 1 / mean_block, market.n_bars - 1)
    row = index + 1

    source = own_bars(market.tradable)
    newly_listed = market.tradable & (source.latest == 0)
    reference = jnp.where(newly_listed, market.open, shift(market.close, 1))
    log_start = jnp.log(source.pack(market.close)[0])
    tradable = market.tradable[row]
    drawn = own_bars(tradable)
    compounded = jnp.exp(log_start[None] + jnp.cumsum(jnp.log(market.close / reference)[row], axis=0))
    close = drawn.spread(drawn.pack(compounded))
    previous = jnp.concatenate([jnp.exp(log_start)[None], close[:-1]])

    def rebuilt(price: jax.Array) -> jax.Array:
        return jnp.where(tradable, previous * (price / reference)[row], close)

    def placed(price: jax.Array) -> jax.Array:
        return jnp.where(drawn.listed, price, 1.0)

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
        session=jnp.cumsum(new_session, dtype=jnp.int32) - 1,
        day_of_week=market.day_of_week[row],
        seconds_since_previous=market.seconds_since_previous[row].at[0].set(0.0),
        info=MarketInfo(),
    )
