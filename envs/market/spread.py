"""Causal estimates of the bid-ask spread from bars without quotes: EDGE, from prices alone, and market microstructure
invariance, from volatility and traded value."""

from __future__ import annotations

import numpy as np
import pandas as pd

BENCHMARK_COST = 8.21e-4
"""Half-spread of the benchmark stock of Kyle and Obizhaeva, fraction of the price."""
BENCHMARK_VOLATILITY = 0.02
"""Its volatility a day."""
BENCHMARK_ACTIVITY = BENCHMARK_VOLATILITY * 40.0 * 1e6
"""Its trading activity: volatility x 40 dollars x a million shares a day."""


def _window_sums(values: np.ndarray, window: int) -> np.ndarray:
    """Sums the last entries without the cancellation of differenced cumulative sums.

    The axis is cut into blocks of `window`. Every window is the tail of one block plus the head of the next, so a huge
    value leaves no rounding error behind once it has left the window.

    Args:
      values: `[N]` float64.
      window: number of entries, >= 1.

    Returns:
      `[N]` sums; NaN for the first `window - 1` entries.
    """
    n = len(values)
    blocks = np.zeros((-(-n // window), window))
    blocks.ravel()[:n] = values
    heads = np.cumsum(blocks, axis=1).ravel()[:n]
    tails = np.cumsum(blocks[:, ::-1], axis=1)[:, ::-1].ravel()
    sums = np.full(n, np.nan)
    last = np.arange(window - 1, n)
    first = last - (window - 1)
    whole_block = first % window == 0
    sums[last] = np.where(whole_block, heads[last], tails[first] + heads[last])
    return sums


def rolling_edge(open: np.ndarray, high: np.ndarray, low: np.ndarray, close: np.ndarray, window: int) -> np.ndarray:
    """Estimates the signed spread over each window of bars by EDGE.

    With log prices `o, h, l, c`, `m = (h + l) / 2`, index 1 for the previous bar and
    `r1 = m - o, r2 = o - m1, r3 = m - c1, r4 = c1 - m1, r5 = o - c1`,
    `tau = 1{h != l or l != c1}`, `d_i = r_i - tau mean(r_i) / mean(tau)`:

        x1 = -4/po d1 r2 - 4/pc d3 r4,   x2 = -4/po d1 r5 - 4/pc d5 r4
        S^2 = (v2 e1 + v1 e2) / (v1 + v2),   e = mean(x), v = var(x)

    Every mean over a window is a product of rolling moments, so the cost does not grow with `window`. Bar t uses bars
    `t - window + 1 .. t` only.

    Args:
      open: `[N]` open of one asset's own bars, in order of time, > 0.
      high: `[N]` high.
      low: `[N]` low.
      close: `[N]` close.
      window: bars, >= 3; with 3 both variances can be zero and their weights rounding errors.

    Returns:
      `[N]` float64 spread, fraction of the price, with the sign of `S^2` (a negative value is an estimate of zero); NaN
      where the window is not full or prices do not move enough.

    Raises:
      ValueError: `window` is below 3.

    Reference: Ardia, Guidotti, Kroencke (2024), Efficient estimation of bid-ask spreads from open, high, low, and close
    prices, Journal of Financial Economics 161.
    """
    if window < 3:
        raise ValueError(f"the window of the EDGE estimator must hold at least 3 bars, not {window}")
    result = np.full(len(close), np.nan)
    if len(close) < window:
        return result
    o, h, l, c = (np.log(np.asarray(x, np.float64)) for x in (open, high, low, close))  # noqa: E741
    m = (h + l) / 2
    o_t, h_t, l_t, m_t = o[1:], h[1:], l[1:], m[1:]
    h_1, l_1, c_1, m_1 = h[:-1], l[:-1], c[:-1], m[:-1]
    r1, r2, r3, r4, r5 = m_t - o_t, o_t - m_1, m_t - c_1, c_1 - m_1, o_t - c_1
    tau = ((h_t != l_t) | (l_t != c_1)).astype(np.float64)
    n = window - 1

    def mean(x: np.ndarray) -> np.ndarray:
        return _window_sums(x, n) / n

    with np.errstate(divide="ignore", invalid="ignore"):
        p_tau = mean(tau)
        p_open = mean(tau * (o_t != h_t)) + mean(tau * (o_t != l_t))
        p_close = mean(tau * (c_1 != h_1)) + mean(tau * (c_1 != l_1))
        a1, a3, a5 = mean(r1) / p_tau, mean(r3) / p_tau, mean(r5) / p_tau

        def first_moment(u: np.ndarray, a: np.ndarray, p: np.ndarray) -> np.ndarray:
            return mean(u * p) - a * mean(tau * p)

        def second_moment(u, a, p, v, b, q) -> np.ndarray:
            pq = p * q
            return mean(u * v * pq) - b * mean(tau * u * pq) - a * mean(tau * v * pq) + a * b * mean(tau * pq)

        def mean_and_variance(opening: tuple, closing: tuple) -> tuple[np.ndarray, np.ndarray]:
            f, g = -4 / p_open, -4 / p_close
            e = f * first_moment(*opening) + g * first_moment(*closing)
            square = f**2 * second_moment(*opening, *opening) + g**2 * second_moment(*closing, *closing)
            return e, square + 2 * f * g * second_moment(*opening, *closing) - e**2

        e1, v1 = mean_and_variance((r1, a1, r2), (r3, a3, r4))
        e2, v2 = mean_and_variance((r1, a1, r5), (r5, a5, r4))
        total = v1 + v2
        squared = np.where(total > 0, (v2 * e1 + v1 * e2) / total, (e1 + e2) / 2)
    defined = (p_tau * n > 1.5) & (p_open > 0) & (p_close > 0)
    result[1:] = np.where(defined, np.sign(squared) * np.sqrt(np.abs(squared)), np.nan)
    return result


def estimated_half_spread(
    open: np.ndarray, high: np.ndarray, low: np.ndarray, close: np.ndarray, *, window: int, floor: float
) -> np.ndarray:
    """Estimates the half spread by rolling EDGE, with a floor.

    Args:
      open: `[N]` open of one asset's own bars, in order of time, > 0.
      high: `[N]` high.
      low: `[N]` low.
      close: `[N]` close.
      window: bars per estimate, >= 3.
      floor: fraction of the price, >= 0; the value before the window is full and where the estimate is undefined or
        lower.

    Returns:
      `[N]` float64 fraction of the mid price, known at the close of each bar.
    """
    estimate = rolling_edge(open, high, low, close, window) / 2
    return np.where(estimate > floor, estimate, floor)


def invariant_half_spread(
    high: np.ndarray, low: np.ndarray, close: np.ndarray, volume: np.ndarray, *, window: int
) -> np.ndarray:
    """Estimates the half-spread by invariance: as a fraction of volatility it falls with trading activity.

    `half = 8.21 bp (W / W*)^(-1/3) sigma / 0.02`, `W = sigma close volume`, `W* = 0.02 * 40 * 10^6`, for prices in
    dollars. It does not depend on the length of the bars: over k of them sigma grows with the root of k and volume with
    k, which cancels. The volatility is `sqrt(pi / 2)` times the mean absolute log return, which one jump moves less
    than a square; traded value is the mean. Both are over the last `window` bars, or those there are, t included.

    Args:
      high: `[N]` high of one asset's own bars, in order of time, > 0.
      low: `[N]` low.
      close: `[N]` close.
      volume: `[N]` units of the asset; NaN counts as 0.
      window: bars, >= 1.

    Returns:
      `[N]` float64 fraction of the price, known at the close of each bar; NaN before anything was traded.

    Reference: Kyle, Obizhaeva (2016), Market microstructure invariance: empirical hypotheses, Econometrica 84, for the
    linear cost of the benchmark stock.
    """
    moves, traded = moves_and_value(high, low, close, volume)
    mean = pd.DataFrame({"move": moves, "traded": traded}).rolling(window, min_periods=1).mean()
    return by_invariance(mean["move"].to_numpy(), mean["traded"].to_numpy())


def moves_and_value(
    high: np.ndarray, low: np.ndarray, close: np.ndarray, volume: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Absolute log returns `[N]` and traded value `[N]` of bars, see `invariant_half_spread`.

    Args:
      high: `[N]`.
      low: `[N]`.
      close: `[N]`.
      volume: `[N]`.
    """
    moves = np.abs(np.diff(np.log(close), prepend=np.log(close[0])))
    # The first bar has no return. Of a random walk the mean range is twice the mean absolute return.
    moves[0] = np.log(high[0] / low[0]) / 2
    return moves, close * np.nan_to_num(volume)


def by_invariance(move: np.ndarray, traded: np.ndarray) -> np.ndarray:
    """The half-spread of a mean absolute log return and a mean traded value, see `invariant_half_spread`.

    Args:
      move: any shape, >= 0.
      traded: of the same shape, currency a bar.
    """
    volatility = np.sqrt(np.pi / 2) * move
    activity = np.where(traded > 0, volatility * traded, np.nan) / BENCHMARK_ACTIVITY
    with np.errstate(divide="ignore", invalid="ignore"):
        half = BENCHMARK_COST * activity ** (-1 / 3) * volatility / BENCHMARK_VOLATILITY
    return np.where(volatility > 0, half, np.where(np.isfinite(activity), 0.0, np.nan))
