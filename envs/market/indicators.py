"""Raw technical indicators and volatility estimators, one function each, over `[T, A]` arrays (or `[T]`).

Every function is causal (row t uses rows <= t) and assumes that each row is a bar: `features` first takes each asset to
its own bars. Defaults, seeds and recursions are TA-Lib's, so the values agree with it from the first bar that TA-Lib
reports; the bars before that (the look-back stated in each docstring) hold finite, unformed numbers.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

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


def _ratio(numerator: jax.Array, denominator: jax.Array, otherwise: float) -> jax.Array:
    """`numerator / denominator`, and `otherwise` where the denominator is not positive."""
    positive = denominator > 0
    return jnp.where(positive, numerator / jnp.where(positive, denominator, 1), otherwise)


def log_return(close: jax.Array, horizon: int) -> jax.Array:
    """`log(close_t / close_{t-horizon})`, log return over `horizon` bars. Look-back: `horizon`."""
    return jnp.log(close / shift(close, horizon))


def gap(open_: jax.Array, close: jax.Array) -> jax.Array:
    """`log(open_t / close_{t-1})`, the log return while the market was closed. Look-back: 1."""
    return jnp.log(open_ / shift(close, 1))


def close_location(high: jax.Array, low: jax.Array, close: jax.Array) -> jax.Array:
    """Where in its range the bar closed: -1 at the low, 1 at the high, 0 for a bar without range. Look-back: 0."""
    return _ratio((close - low) - (high - close), high - low, 0.0)


def rsi(close: jax.Array, window: int = 14) -> jax.Array:
    """Relative strength index in [0, 100]; 50 where the price did not move at all. Look-back: `window`.

    `100 * gain / (gain + loss)` with Wilder's averages of the upward and the downward price changes.

    Reference: Wilder (1978), New Concepts in Technical Trading Systems; `talib.RSI` (which says 0 where nothing moved).
    """
    change = close - shift(close, 1)
    gain = seeded_average(jnp.maximum(change, 0), 1 / window, window, window)
    loss = seeded_average(jnp.maximum(-change, 0), 1 / window, window, window)
    return 100 * _ratio(gain, gain + loss, 0.5)


def true_range(high: jax.Array, low: jax.Array, close: jax.Array) -> jax.Array:
    """`max(high, close_{t-1}) - min(low, close_{t-1})`, in price. Look-back: 1."""
    previous = shift(close, 1)
    return jnp.maximum(high, previous) - jnp.minimum(low, previous)


def atr(high: jax.Array, low: jax.Array, close: jax.Array, window: int = 14) -> jax.Array:
    """Average true range, Wilder's average of `true_range`, in price. Look-back: `window`. Reference: `talib.ATR`."""
    return seeded_average(true_range(high, low, close), 1 / window, window, window)


def ema(x: jax.Array, window: int) -> jax.Array:
    """Exponential average with weight `2 / (window + 1)`, seeded by a plain mean. Look-back: `window - 1`.

    Reference: `talib.EMA`.
    """
    return seeded_average(x, 2 / (window + 1), window, window - 1)


def macd(close: jax.Array, fast: int = 12, slow: int = 26, signal: int = 9) -> tuple[jax.Array, jax.Array]:
    """Moving-average convergence/divergence: `(line, signal)`, in price; the histogram is `line - signal`.

    Look-back: `slow - 1` for the line, `slow + signal - 2` for the signal. The fast average starts at the same bar as
    the slow one. Reference: `talib.MACD`.
    """
    start = slow - 1
    line = seeded_average(close, 2 / (fast + 1), fast, start) - seeded_average(close, 2 / (slow + 1), slow, start)
    return line, seeded_average(line, 2 / (signal + 1), signal, start + signal - 1)


def bollinger_position(close: jax.Array, window: int = 20, width: float = 2.0) -> jax.Array:
    """Distance from the moving average in units of the band: -1 at the lower band, 1 at the upper; 0 if flat.

    `(close - mean) / (width * deviation)`, population standard deviation, |value| <= sqrt(window - 1) / width.
    Look-back: `window - 1`. Reference: `talib.BBANDS`.
    """
    mean, squares = rolling_moments(close, window)
    return _ratio(close - mean, width * jnp.sqrt(squares / window), 0.0)


def average_distance(close: jax.Array, window: int) -> jax.Array:
    """`close / mean(close over window) - 1`, fraction. Look-back: `window - 1`. Reference: `talib.SMA`."""
    return close / rolling_mean(close, window) - 1


def channel_position(high: jax.Array, low: jax.Array, close: jax.Array, window: int) -> jax.Array:
    """Place of the close in the Donchian channel of the last `window` bars: -1 bottom, 1 top, 0 without width.

    Look-back: `window - 1`. Reference: `talib.MAX` of the highs and `talib.MIN` of the lows.
    """
    return close_location(rolling_max(high, window), rolling_min(low, window), close)


def amihud(close: jax.Array, volume: jax.Array, window: int = 21) -> jax.Array:
    """Mean of `|log return| / dollar volume` over the bars of the window that traded; 0 if none did.

    Unit: return per currency unit traded. Look-back: `window`. Reference: Amihud (2002), Illiquidity and stock returns.
    """
    dollars = close * volume
    impact = _ratio(jnp.abs(log_return(close, 1)), dollars, 0.0)
    return _ratio(rolling_sum(impact, window), rolling_sum((dollars > 0).astype(close.dtype), window), 0.0)


def ewma_deviation(close: jax.Array, span: float) -> jax.Array:
    """Square root of the bias-corrected exponential average of squared log returns, per bar; 0 before the first return.

    Reference: RiskMetrics technical document (1996), with `lambda = 1 - 2 / (span + 1)` and the newest return included.
    """
    returns = log_return(close, 1)
    formed = jnp.arange(close.shape[0]) > 0
    formed = jnp.broadcast_to(formed.reshape((-1,) + (1,) * (close.ndim - 1)), close.shape)
    return jnp.sqrt(exponential_average(jnp.square(returns), formed, span))


def parkinson(high: jax.Array, low: jax.Array, window: int) -> jax.Array:
    """Parkinson volatility per bar, `sqrt(mean(log(high/low)^2) / (4 ln 2))`. Look-back: `window - 1`.

    Reference: Parkinson (1980), The extreme value method for estimating the variance of the rate of return.
    """
    return jnp.sqrt(rolling_mean(jnp.square(jnp.log(high / low)), window) / (4 * math.log(2)))


def garman_klass(open_: jax.Array, high: jax.Array, low: jax.Array, close: jax.Array, window: int) -> jax.Array:
    """Garman-Klass volatility per bar, `sqrt(mean(0.5 log(h/l)^2 - (2 ln 2 - 1) log(c/o)^2))`. Look-back: `window - 1`.

    Reference: Garman, Klass (1980), On the estimation of security price volatilities, eq. 20.
    """
    terms = 0.5 * jnp.square(jnp.log(high / low)) - (2 * math.log(2) - 1) * jnp.square(jnp.log(close / open_))
    return jnp.sqrt(rolling_mean(jnp.maximum(terms, 0), window))


def yang_zhang(open_: jax.Array, high: jax.Array, low: jax.Array, close: jax.Array, window: int) -> jax.Array:
    """Yang-Zhang volatility per bar, overnight gaps included. Look-back: `window`.

    `sqrt(var(gap) + k var(log(c/o)) + (1 - k) RS)`, sample variances, `k = 0.34 / (1.34 + (n + 1) / (n - 1))` and the
    Rogers-Satchell mean `RS = mean(log(h/c) log(h/o) + log(l/c) log(l/o))`.

    Args:
      open_: `[T, A]` price; likewise `high`, `low`, `close`.
      window: bars n, >= 2.

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
