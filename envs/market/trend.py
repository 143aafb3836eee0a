"""Trends in units of risk, and each asset among the others: raw features from which no mean is ever subtracted.

A trend is a mean; a z-score over the horizon at which it is held removes it. Windows and horizons that are longer than
the history of an asset take the bars there are.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.stats import rankdata

from jaxppo.envs.market.indicators import ewma_deviation, log_return
from jaxppo.envs.market.rows import first_row, row_number
from jaxppo.envs.market.safe import ratio
from jaxppo.envs.market.windows import exponential_average, rolling_deviation, rolling_max

VOLATILITY_SPAN = 63
"""Bars of the exponential volatility that is the unit of a trend."""
SQUEEZE = 1.5
"""Units of risk at which a squeezed trend is `tanh(1)`."""
PRICE_WINDOW, LINE_WINDOW, FEWEST = 63, 252, 21
"""Bars of the deviations of price and of difference of averages in `macd_response`, and the fewest of the first."""


def trend(close: jax.Array, horizon: int) -> jax.Array:
    """Return over several bars in units of its volatility: `tanh(log_return / (sigma sqrt(horizon)) / 1.5)`.

    Args:
      close: `[T, A]` close, each row a bar of the asset.
      horizon: bars, >= 1.

    Returns:
      `[T, A]` in (-1, 1); 0 where the price has never moved.

    Reference: Moskowitz, Ooi, Pedersen (2012), Time series momentum, eq. 2, for the unit.
    """
    return _squeezed(log_return(close, horizon), close, horizon)


def distance_from_high(high: jax.Array, close: jax.Array, window: int) -> jax.Array:
    """Log distance of the close below the highest price of a window, in units of volatility and squeezed as `trend`.

    Args:
      high: `[T, A]` high.
      close: `[T, A]` close.
      window: bars, >= 1.

    Returns:
      `[T, A]` in (-1, 0], 0 at the high.

    Reference: George, Hwang (2004), The 52-week high and momentum investing.
    """
    return _squeezed(jnp.log(close / rolling_max(high, window)), close, window)


def _squeezed(change: jax.Array, close: jax.Array, bars: int) -> jax.Array:
    """Squeezes a log return over `bars`, or those there are, in units of its volatility."""
    length = jnp.sqrt(jnp.clip(row_number(close), 1, bars).astype(close.dtype))
    deviation = ewma_deviation(close, VOLATILITY_SPAN) * length
    return jnp.tanh(ratio(change, deviation, 0.0) / SQUEEZE)


def macd_response(close: jax.Array, fast: int, slow: int) -> jax.Array:
    """Response to the difference of two exponential averages of the price, in units of its own deviation.

    `q = (EWMA_fast - EWMA_slow) / std_63(close)`, `z = q / std_252(q)`, `z exp(-z^2 / 4) / 0.89`: largest where z is
    sqrt(2), and back to 0 for extreme trends. EWMA_n weights the newest price by 1 / n.

    Args:
      close: `[T, A]` close.
      fast: time scale of the fast average, bars, >= 1.
      slow: time scale of the slow average, bars, > fast.

    Returns:
      `[T, A]` in (-1, 1); 0 in the first 21 bars.

    Reference: Baz et al. (2015), Dissecting investment strategies in the cross section and time series; Lim, Zohren,
    Roberts (2019), Enhancing time-series momentum strategies using deep neural networks, eq. 5-7.
    """
    everywhere = jnp.ones(close.shape, bool)
    level = close - first_row(close)  # a high price level costs no precision
    line = exponential_average(level, everywhere, 2 * fast - 1) - exponential_average(level, everywhere, 2 * slow - 1)
    formed = everywhere & (row_number(close) >= FEWEST - 1)
    line = jnp.where(formed, ratio(line, rolling_deviation(level, everywhere, PRICE_WINDOW), 0.0), 0.0)
    score = ratio(line, rolling_deviation(line, formed, LINE_WINDOW), 0.0)
    return score * jnp.exp(-jnp.square(score) / 4) / 0.89


def rank_among(x: jax.Array, present: jax.Array) -> jax.Array:
    """Rank of each asset among those that are present: -1 the lowest, 1 the highest, ties in the middle.

    Args:
      x: `[T, A]`; any value where not present.
      present: `[T, A]` bool.

    Returns:
      `[T, A]` in [-1, 1]; 0 of the only asset, and of those that are not present.
    """
    ranks = rankdata(jnp.where(present, x, jnp.inf), axis=-1)
    others = jnp.sum(present, axis=-1, keepdims=True) - 1
    return jnp.where(present & (others > 0), 2 * (ranks - 1) / jnp.maximum(others, 1) - 1, 0.0)


def mean_of_others(x: jax.Array, present: jax.Array) -> jax.Array:
    """Mean of the other assets that are present, `[T, A]`; 0 where there are none.

    Args:
      x: `[T, A]`; any value where not present.
      present: `[T, A]` bool.
    """
    x = jnp.where(present, x, 0.0)
    others = jnp.sum(present, axis=-1, keepdims=True) - present
    return jnp.where(others > 0, (_total(x) - x) / jnp.maximum(others, 1), 0.0)


def _total(x: jax.Array) -> jax.Array:
    """Sum over the last axis, `[T, A]` -> `[T, 1]`, pair by pair: its digits do not depend on the number of rows."""
    while x.shape[-1] > 1:
        if x.shape[-1] % 2:
            x = jnp.concatenate([x, jnp.zeros_like(x[..., :1])], axis=-1)
        x = x[..., ::2] + x[..., 1::2]
    return x
