"""Technical indicators and volatility estimators, one function each.

All are causal (row t uses rows <= t) and take each row as a bar: `features` first packs every asset's own bars. Prices
are `[T, A]` or `[T]`, positive, in currency per share; windows count bars and are >= 1 where nothing else is said.
Defaults, seeds and recursions are TA-Lib's: values agree from the first bar that TA-Lib reports. The bars before it
(the look-back in each docstring) hold finite values of an incomplete window.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxppo.envs.market.rows import row_number
from jaxppo.envs.market.safe import ratio
from jaxppo.envs.market.windows import (
    exponential_average,
    rolling_max,
    rolling_mean,
    rolling_min,
    rolling_moments,
    rolling_sum,
    seeded_average,
    shift,
)


def log_return(close: jax.Array, horizon: int) -> jax.Array:
    """Log return over several bars, `log(close_t / close_{t-horizon})`. Look-back: `horizon`.

    Args:
      close: `[T, A]` close.
      horizon: bars, >= 0.
    """
    return jnp.log(close / shift(close, horizon))


def gap(open_: jax.Array, close: jax.Array) -> jax.Array:
    """Overnight log return, `log(open_t / close_{t-1})`. Look-back: 1.

    Args:
      open_: `[T, A]` open.
      close: `[T, A]` close.
    """
    return jnp.log(open_ / shift(close, 1))


def close_location(high: jax.Array, low: jax.Array, close: jax.Array) -> jax.Array:
    """Position of the close in the range of the bar: -1 at the low, 1 at the high, 0 without range. Look-back: 0.

    Args:
      high: `[T, A]` high.
      low: `[T, A]` low.
      close: `[T, A]` close.
    """
    return ratio((close - low) - (high - close), high - low, 0.0)


def rsi(close: jax.Array, window: int = 14) -> jax.Array:
    """Relative strength index in [0, 100]; 50 where the price did not move at all. Look-back: `window`.

    `100 * gain / (gain + loss)` with Wilder's averages of the upward and the downward price changes.

    Args:
      close: `[T, A]` close.
      window: bars of Wilder's averages.

    Reference: Wilder (1978), New Concepts in Technical Trading Systems; `talib.RSI`, which is 0 where nothing moved.
    """
    change = close - shift(close, 1)
    gain = seeded_average(jnp.maximum(change, 0), 1 / window, window, window)
    loss = seeded_average(jnp.maximum(-change, 0), 1 / window, window, window)
    return 100 * ratio(gain, gain + loss, 0.5)


def true_range(high: jax.Array, low: jax.Array, close: jax.Array) -> jax.Array:
    """True range in price, `max(high_t, close_{t-1}) - min(low_t, close_{t-1})`. Look-back: 1.

    Args:
      high: `[T, A]` high.
      low: `[T, A]` low.
      close: `[T, A]` close.
    """
    previous = shift(close, 1)
    return jnp.maximum(high, previous) - jnp.minimum(low, previous)


def atr(high: jax.Array, low: jax.Array, close: jax.Array, window: int = 14) -> jax.Array:
    """Average true range in price: Wilder's average of `true_range`. Look-back: `window`.

    Args:
      high: `[T, A]` high.
      low: `[T, A]` low.
      close: `[T, A]` close.
      window: bars of Wilder's average.

    Reference: `talib.ATR`.
    """
    return seeded_average(true_range(high, low, close), 1 / window, window, window)


def ema(x: jax.Array, window: int) -> jax.Array:
    """Exponential moving average with weight `2 / (window + 1)`, seeded by a plain mean. Look-back: `window - 1`.

    Args:
      x: `[T, A]`.
      window: bars.

    Reference: `talib.EMA`.
    """
    return seeded_average(x, 2 / (window + 1), window, window - 1)


def macd(close: jax.Array, fast: int = 12, slow: int = 26, signal: int = 9) -> tuple[jax.Array, jax.Array]:
    """Moving-average convergence/divergence, in price: the difference of two EMAs, and the EMA of the difference.

    Look-back: `slow - 1` for the line, `slow + signal - 2` for the signal.

    Args:
      close: `[T, A]` close.
      fast: bars of the fast EMA.
      slow: bars of the slow EMA, > fast.
      signal: bars of the EMA of the line.

    Returns:
      `(line, signal)`; the histogram is `line - signal`.

    Reference: `talib.MACD`.
    """
    # As in TA-Lib, the fast average starts at the bar at which the slow one does.
    start = slow - 1
    line = seeded_average(close, 2 / (fast + 1), fast, start) - seeded_average(close, 2 / (slow + 1), slow, start)
    return line, seeded_average(line, 2 / (signal + 1), signal, start + signal - 1)


def bollinger_position(close: jax.Array, window: int = 20, width: float = 2.0) -> jax.Array:
    """Position of the close in its Bollinger bands: -1 lower band, 1 upper, 0 if flat. Look-back: `window - 1`.

    `(close - mean) / (width * deviation)`, population standard deviation, |value| <= sqrt(window - 1) / width.

    Args:
      close: `[T, A]` close.
      window: bars of mean and deviation.
      width: half-width of the bands in standard deviations, > 0.

    Reference: `talib.BBANDS`.
    """
    mean, squares = rolling_moments(close, window)
    return ratio(close - mean, width * jnp.sqrt(squares / window), 0.0)


def average_distance(close: jax.Array, window: int) -> jax.Array:
    """Distance from the moving average, `close / mean(close) - 1`, fraction. Look-back: `window - 1`.

    Args:
      close: `[T, A]` close.
      window: bars of the mean.

    Reference: `talib.SMA`.
    """
    return close / rolling_mean(close, window) - 1


def channel_position(high: jax.Array, low: jax.Array, close: jax.Array, window: int) -> jax.Array:
    """Position of the close in its Donchian channel: -1 bottom, 1 top, 0 without width. Look-back: `window - 1`.

    Args:
      high: `[T, A]` high.
      low: `[T, A]` low.
      close: `[T, A]` close.
      window: bars of the channel.

    Reference: `talib.MAX` of the highs and `talib.MIN` of the lows.
    """
    return close_location(rolling_max(high, window), rolling_min(low, window), close)


def amihud(close: jax.Array, volume: jax.Array, window: int = 21) -> jax.Array:
    """Amihud illiquidity, mean of `|log return| / dollar volume`, return per currency unit. Look-back: `window`.

    Args:
      close: `[T, A]` close.
      volume: `[T, A]` shares; bars without volume are left out of the mean, which is 0 if there are no others.
      window: bars.

    Reference: Amihud (2002), Illiquidity and stock returns.
    """
    dollars = close * volume
    impact = ratio(jnp.abs(log_return(close, 1)), dollars, 0.0)
    return ratio(rolling_sum(impact, window), rolling_sum((dollars > 0).astype(close.dtype), window), 0.0)


def ewma_deviation(close: jax.Array, span: float) -> jax.Array:
    """Exponentially weighted volatility per bar, bias-corrected; 0 before the first return.

    Args:
      close: `[T, A]` close.
      span: bars, >= 1, as in pandas' `ewm`.

    Reference: RiskMetrics technical document (1996), with `lambda = 1 - 2 / (span + 1)` and the newest return included.
    """
    returns = log_return(close, 1)
    valid = jnp.broadcast_to(row_number(close) > 0, close.shape)
    return jnp.sqrt(exponential_average(jnp.square(returns), valid, span))


def parkinson(high: jax.Array, low: jax.Array, window: int) -> jax.Array:
    """Parkinson volatility per bar, `sqrt(mean(log(high/low)^2) / (4 ln 2))`. Look-back: `window - 1`.

    Args:
      high: `[T, A]` high.
      low: `[T, A]` low.
      window: bars.

    Reference: Parkinson (1980), The extreme value method for estimating the variance of the rate of return.
    """
    return jnp.sqrt(rolling_mean(jnp.square(jnp.log(high / low)), window) / (4 * math.log(2)))


def garman_klass(open_: jax.Array, high: jax.Array, low: jax.Array, close: jax.Array, window: int) -> jax.Array:
    """Garman-Klass volatility per bar, `sqrt(mean(0.5 log(h/l)^2 - (2 ln 2 - 1) log(c/o)^2))`. Look-back: `window - 1`.

    Args:
      open_: `[T, A]` open.
      high: `[T, A]` high.
      low: `[T, A]` low.
      close: `[T, A]` close.
      window: bars.

    Reference: Garman, Klass (1980), On the estimation of security price volatilities, eq. 20.
    """
    terms = 0.5 * jnp.square(jnp.log(high / low)) - (2 * math.log(2) - 1) * jnp.square(jnp.log(close / open_))
    # A bar whose open and close lie outside its range by rounding would count as negative variance.
    return jnp.sqrt(rolling_mean(jnp.maximum(terms, 0), window))


def yang_zhang(open_: jax.Array, high: jax.Array, low: jax.Array, close: jax.Array, window: int) -> jax.Array:
    """Yang-Zhang volatility per bar, overnight gaps included. Look-back: `window`.

    `sqrt(var(gap) + k var(log(c/o)) + (1 - k) RS)`, sample variances, `k = 0.34 / (1.34 + (n + 1) / (n - 1))` and the
    Rogers-Satchell mean `RS = mean(log(h/c) log(h/o) + log(l/c) log(l/o))`.

    Args:
      open_: `[T, A]` open.
      high: `[T, A]` high.
      low: `[T, A]` low.
      close: `[T, A]` close.
      window: bars n, >= 2.

    Raises:
      ValueError: `window` is below 2.

    Reference: Yang, Zhang (2000), Drift-independent volatility estimation, eq. 7-8 and 10.
    """
    if window < 2:
        raise ValueError(f"the Yang-Zhang estimator needs a window of at least 2 bars, got {window}")
    weight = 0.34 / (1.34 + (window + 1) / (window - 1))
    _, gap_squares = rolling_moments(gap(open_, close), window)
    _, body_squares = rolling_moments(jnp.log(close / open_), window)
    rogers_satchell = rolling_mean(
        jnp.log(high / close) * jnp.log(high / open_) + jnp.log(low / close) * jnp.log(low / open_), window
    )
    variance = (gap_squares + weight * body_squares) / (window - 1) + (1 - weight) * rogers_satchell
    return jnp.sqrt(jnp.maximum(variance, 0))
