"""How slippage depends on the state of the market: session, volatility, volume, spread and regime."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.envs.market import streaming
from jaxppo.envs.market.features import MINIMUM_VOLUME, average_volume, ewma_volatility
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.market.own_bars import own_bars
from jaxppo.envs.market.raw_features import session_starts
from jaxppo.envs.market.rows import running_count
from jaxppo.envs.market.windows import exponential_average, linear_recurrence, shift

USUAL_SPAN = 252
"""Span in bars of what counts as usual."""

LARGEST_SCALE = 10.0
"""Slippage is scaled by at most this, and at least one over this."""


class SlippageConditions(struct.PyTreeNode):
    """What multiplies slippage; traceable numbers.

    Attributes:
      open: `[]` factor in the first bar of a session of several bars.
      close: `[]` factor in its last bar.
      volatility: `[]` power of the volatility forecast relative to its usual value, beside that slippage is counted in
        volatilities.
      volume: `[]` power of the usual volume relative to the forecast: slippage rises where volume dries up.
      spread: `[]` power of the half-spread relative to its usual value.
      regimes: `[4]` factors in `jaxppo.envs.market.features.REGIMES`, averaged by their probabilities; `()` for none.
    """

    open: jax.Array
    close: jax.Array
    volatility: jax.Array
    volume: jax.Array
    spread: jax.Array
    regimes: Any = ()


def slippage_scale(
    market: MarketData,
    conditions: SlippageConditions,
    regimes: jax.Array | None,
    volatility: jax.Array,
    volume: jax.Array,
    *,
    ahead: bool = False,
) -> jax.Array:
    """Factor of the slippage of fills in each bar, `[T, A]` in [0.1, 10], from what is known at the previous close.

    Which bar is the last of a session is taken as known from the exchange's timetable; the last bar of the market
    counts as one within a session, or as a whole one if the session before it was a single bar. In a stream, where the
    bar after is not there yet, a session is taken to be as long as the one before.

    Args:
      market: `[T, A]` bars.
      conditions: parameters.
      regimes: `[T, A, 4]` probabilities at each close, NaN where unknown, which counts as a factor of 1.
      volatility: `[T, A]` forecast at each close.
      volume: `[T, A]` forecast at each close, shares.
      ahead: of the bar after each instead; whether that is the last of its session is not known, and counts as not.

    Raises:
      ValueError: factors of regimes without regimes.
    """
    bars = own_bars(market.tradable)
    average = bars.computed(lambda x: exponential_average(x, jnp.ones(x.shape, bool), USUAL_SPAN), market.half_spread)
    usual_spread = jnp.where(bars.listed, average, market.half_spread)
    usual_volume = average_volume(market, USUAL_SPAN)
    spread_ratio = jnp.where(usual_spread > 0, market.half_spread / jnp.where(usual_spread > 0, usual_spread, 1.0), 1.0)
    relative = [
        (volatility / ewma_volatility(market, USUAL_SPAN), conditions.volatility),
        (jnp.maximum(usual_volume, MINIMUM_VOLUME) / jnp.maximum(volume, MINIMUM_VOLUME), conditions.volume),
        (spread_ratio, conditions.spread),
    ]
    scale = jnp.ones_like(market.close)
    for ratio, power in relative:
        scale = scale * jnp.clip(ratio, 1 / LARGEST_SCALE, LARGEST_SCALE) ** power
    if not isinstance(conditions.regimes, tuple):
        if regimes is None:
            raise ValueError("slippage_regimes needs the probabilities of the regimes")
        factor = jnp.matmul(regimes, conditions.regimes, precision=jax.lax.Precision.HIGHEST)
        scale = scale * jnp.where(jnp.isnan(factor), 1.0, factor)
    first, last = _ends_of_sessions(market)
    if ahead:
        factor = jnp.where(last & ~first, conditions.open, 1.0)
    else:
        inner = jnp.where(first, conditions.open, jnp.where(last, conditions.close, 1.0))
        scale, factor = shift(scale, 1), jnp.where(first & last, 1.0, inner)
    scale = scale * factor[:, None]
    return jnp.clip(scale, 1 / LARGEST_SCALE, LARGEST_SCALE)


def _ends_of_sessions(market: MarketData) -> tuple[jax.Array, jax.Array]:
    """Whether each bar is the first of its session, and the last, `[T]` bool; both of a session of one bar."""
    first = session_starts(market)
    if streaming.current() is not None:
        number = linear_recurrence(~first, jnp.ones(market.session.shape))
        length = linear_recurrence(~first, jnp.where(first, shift(number, 1), 0.0))
        return first, (number >= length) & (running_count(first) > 1)
    last = jnp.concatenate([first[1:], jnp.zeros(1, bool)])
    # Whether more bars follow the last one is not known.
    return first, last.at[-1].set(first[-1] & (first[-2:-1] & last[-2:-1]).any())
