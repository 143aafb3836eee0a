"""Log-normal stochastic volatility with jumps, fitted by moments of the log squared returns."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.signal import lfilter

from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.market.windows import linear_recurrence
from jaxppo.envs.simulators.generators.bar_shapes import (
    Returns,
    bar_shapes,
    bars_around,
    consecutive_rows,
    fitted_returns,
)
from jaxppo.envs.simulators.generators.correlations import correlation_root, pairwise_correlation
from jaxppo.envs.simulators.generators.generator import Generator, checked_source

LAGS = 30
"""Autocovariances of the log squared returns that the fit uses."""

DECAY = 0.94
"""Of the exponential average of squares, per bar (RiskMetrics)."""

LARGEST_LEVERAGE = 0.95


class VolatilityFit(NamedTuple):
    """`r_t = mean + exp(h_t / 2) z_t + jump_t`, `h_t = level + phi (h_{t-1} - level) + noise_t`.

    Each is a number, or `[A]` for A assets.

    Attributes:
      mean: log return per bar, jumps apart.
      level: mean of the log variance h.
      phi: autocorrelation of h per bar, in [0, 1).
      deviation: standard deviation of h.
      leverage: correlation of `z_t` and `noise_{t+1}`, in [-0.95, 0.95].
    """

    mean: Any
    level: Any
    phi: Any
    deviation: Any
    leverage: Any


def detect_jumps(returns: np.ndarray, threshold: float) -> np.ndarray:
    """Detects jumps, `[n]` bool: returns beyond `threshold` times the volatility of the ones before.

    The variance is an exponential average (decay 0.94) that starts at the median square over 0.455 (the median of a
    squared standard normal) and in which a jump counts as a return at the threshold.

    Args:
      returns: `[n]` log returns.
      threshold: in volatilities, > 0.

    Reference: Mancini (2009), Non-parametric threshold estimation for models with stochastic diffusion coefficient and
    jumps, with a threshold in units of the local volatility.
    """
    centred = returns - np.median(returns)
    variance = np.median(centred**2) / 0.455
    jumps = np.zeros(len(returns), bool)
    for t, x in enumerate(centred):
        limit = threshold**2 * variance
        jumps[t] = x * x > limit
        variance = DECAY * variance + (1 - DECAY) * min(x * x, limit)
    return jumps


def log_squares(returns: np.ndarray) -> np.ndarray:
    """Log squares, robust to zeros: `log(r^2 + c) - c / (r^2 + c)`, `c = 1e-4 mean(r^2)`.

    Fuller's constant is 0.02 instead of 1e-4, which would lose a tenth of the deviation of h.

    Args:
      returns: `[n]`, of mean 0.

    Reference: Fuller (1996), Introduction to Statistical Time Series, chapter 9.
    """
    squares = np.square(returns)
    small = 1e-4 * squares.mean()
    return np.log(squares + small) - small / (squares + small)


def fit_volatility(returns: np.ndarray, jumps: np.ndarray) -> VolatilityFit:
    """Fits one asset by the method of moments; host-side.

    Log squares are h plus white noise, so their autocovariances are `deviation^2 phi^k` for lags k >= 1: phi and
    deviation are the least squares fit to those of the first 30 lags. `exp(level + deviation^2 / 2)` is the variance
    apart from jumps, and `E[sign(z_t) h_{t+1}] = leverage s sqrt(2 / pi)` with `s` the deviation of the noise.

    Args:
      returns: `[n]` log returns.
      jumps: `[n]` bool, returns that count as missing.

    References:
      Harvey, Ruiz, Shephard (1994), Multivariate stochastic variance models (log squares).
      Harvey, Shephard (1996), Estimation of an asymmetric stochastic volatility model (signs).
    """
    usual = returns[~jumps]
    mean = float(usual.mean())
    variance = float(np.var(usual))
    y = np.zeros_like(returns)
    y[~jumps] = log_squares(usual - mean)
    y[~jumps] -= y[~jumps].mean()
    phi, variance_of_h = _geometric(_autocovariances(y, ~jumps))
    noise = math.sqrt(variance_of_h * (1 - phi**2))
    both = ~jumps[1:] & ~jumps[:-1]
    moved = float(np.mean(np.sign(returns[:-1] - mean)[both] * y[1:][both])) if both.any() else 0.0
    leverage = moved / (noise * math.sqrt(2 / math.pi)) if noise > 1e-3 else 0.0
    leverage = min(max(leverage, -LARGEST_LEVERAGE), LARGEST_LEVERAGE)
    return VolatilityFit(mean, math.log(variance) - variance_of_h / 2, phi, math.sqrt(variance_of_h), leverage)


def _autocovariances(y: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Autocovariances of lags 1 to 30 (or a quarter of the series), over the pairs that are known."""
    lags = range(1, max(min(LAGS, len(y) // 4), 1) + 1)
    pairs = [(y[lag:] * y[:-lag])[known[lag:] & known[:-lag]] for lag in lags]
    return np.array([pair.mean() if len(pair) else 0.0 for pair in pairs])


def _geometric(autocovariances: np.ndarray) -> tuple[float, float]:
    """`(phi, variance)` of the geometric sequence `variance phi^k`, k >= 1, nearest to the autocovariances."""
    lags = np.arange(1, len(autocovariances) + 1)
    best = (math.inf, 0.0, 0.0)
    for phi in np.concatenate([np.linspace(0.0, 0.95, 39), np.linspace(0.955, 0.995, 9)]):
        powers = phi**lags
        variance = max(float(powers @ autocovariances / max(powers @ powers, 1e-12)), 0.0)
        loss = float(np.square(autocovariances - variance * powers).sum())
        best = min(best, (loss, float(phi), variance))
    return best[1], best[2]


def stochastic_volatility_jumps(market: MarketData, n_bars: int, *, jump_threshold: float = 4.0) -> Generator:
    """Log-normal stochastic volatility with leverage, correlated over assets, and jumps of whole bars.

    Leverage is the mean over assets. Correlations of the shocks are those of returns apart from jumps, corrected for
    the unequal volatilities of two assets; the log variances of all pairs of assets have one correlation. In a path
    each bar has the jumps of a bar of the source, drawn uniformly, which keeps their rate, size and coincidence.

    Args:
      market: `[T, A]` source.
      n_bars: of a path.
      jump_threshold: volatilities from which a return counts as a jump, > 0.

    Raises:
      ValueError: an argument outside its range, or an asset with too few returns.

    Reference: Taylor (1986), Modelling Financial Time Series (the log-normal model).
    """
    if not 0 < jump_threshold < math.inf:
        raise ValueError(f"jump_threshold is {jump_threshold}; it must be > 0")
    source = checked_source(market, n_bars)
    returns = fitted_returns(source)
    jumps = np.zeros_like(returns.known)
    fits = []
    for asset, known in enumerate(returns.known.T):
        series = returns.values[known, asset]
        found = detect_jumps(series, jump_threshold)
        jumps[known, asset] = found
        fits.append(fit_volatility(series, found))
    fit = VolatilityFit(*(np.array(values) for values in zip(*fits, strict=True)))
    # Five years of days determine the leverage of one asset to within 0.4 only.
    fit = fit._replace(leverage=np.full_like(fit.leverage, fit.leverage.mean()))
    usual = returns.known & ~jumps
    together = _common_volatility(returns, usual, fit)
    shock_correlation = _shock_correlation(returns, usual, fit, together)
    data = {
        **{name: jnp.asarray(values, jnp.float32) for name, values in fit._asdict().items()},
        "root": jnp.asarray(correlation_root(shock_correlation), jnp.float32),
        "noise_correlation": jnp.asarray(_noise_correlation(shock_correlation, fit, together), jnp.float32),
        "jumps": jnp.asarray(np.where(jumps, returns.values - fit.mean, 0.0)[1:], jnp.float32),
        "shapes": bar_shapes(source, returns, _usual_deviation(returns, usual, fit)),
    }
    return Generator("stochastic_volatility_jumps", data, _draw(n_bars))


def _common_volatility(returns: Returns, usual: np.ndarray, fit: VolatilityFit) -> float:
    """Correlation of the log variances of two assets, in [0, 0.99], one for all pairs: from lag-one covariances."""
    n_assets = usual.shape[1]
    y = np.zeros_like(returns.values)
    for asset, here in enumerate(usual.T):
        squares = log_squares(returns.values[here, asset] - fit.mean[asset])
        y[here, asset] = squares - squares.mean()
    pairs = usual[1:].T.astype(np.float64) @ usual[:-1].astype(np.float64)
    lagged = y[1:].T @ y[:-1] / np.maximum(pairs, 1.0)
    expected = np.sqrt(np.outer(fit.phi, fit.phi)) * np.outer(fit.deviation, fit.deviation)
    apart = ~np.eye(n_assets, dtype=bool)
    total = expected[apart].sum()
    return float(np.clip(lagged[apart].sum() / total, 0.0, 0.99)) if total > 1e-6 else 0.0


def _shock_correlation(returns: Returns, usual: np.ndarray, fit: VolatilityFit, together: float) -> np.ndarray:
    """Correlations `[A, A]` of the shocks: those of returns over `E[s_i s_j] / sqrt(E[s_i^2] E[s_j^2])`."""
    square = fit.deviation**2
    common = together * np.outer(fit.deviation, fit.deviation)
    lost = np.exp(-(square[:, None] + square[None] - 2 * common) / 8)
    correlation = np.clip(pairwise_correlation(returns.values, usual) / lost, -0.99, 0.99)
    np.fill_diagonal(correlation, 1.0)
    return correlation


def _noise_correlation(shocks: np.ndarray, fit: VolatilityFit, together: float) -> float:
    """Correlation of the noises' residuals given the shocks, at which log variances have the correlation `together`."""
    apart = ~np.eye(len(shocks), dtype=bool)
    if not apart.any():
        return 0.0
    explained = np.outer(fit.leverage, fit.leverage) * shocks
    rest = np.sqrt(1 - fit.leverage**2)
    return float(np.clip((together - explained[apart]).mean() / np.outer(rest, rest)[apart].mean(), 0.0, 0.99))


def _usual_deviation(returns: Returns, usual: np.ndarray, fit: VolatilityFit) -> np.ndarray:
    """Volatility `[T, A]` of each source bar: exponential average of squares, jumps apart, both ways in time.

    Scaled to the model's mean variance. It only serves to scale the shape of the bar.
    """
    variance = np.exp(fit.level + fit.deviation**2 / 2)
    squares = np.where(usual, (returns.values - fit.mean) ** 2, variance)

    def average(x: np.ndarray) -> np.ndarray:
        return lfilter([1 - DECAY], [1.0, -DECAY], x, axis=0, zi=DECAY * x[:1])[0]

    both = (average(squares) + average(squares[::-1])[::-1]) / 2
    return np.sqrt(both * variance / both.mean(axis=0))


@functools.cache
def _draw(n_bars: int):
    def draw(data: dict[str, Any], key: jax.Array) -> MarketData:
        row_key, shock_key, start_key, jump_key = jax.random.split(key, 4)
        shapes = data["shapes"]
        n_source, n_assets = shapes.gap.shape
        row = consecutive_rows(row_key, n_bars, n_source)
        for_return, for_asset = jax.random.normal(shock_key, (2, n_bars, n_assets))
        for_common = jax.random.normal(start_key, (n_bars + 1, n_assets + 1))
        shocks = jnp.matmul(for_return, data["root"].T, precision=jax.lax.Precision.HIGHEST)
        shared = data["noise_correlation"]
        rest = jnp.sqrt(shared) * for_common[1:, :1] + jnp.sqrt(1 - shared) * for_asset
        first = jnp.sqrt(shared) * for_common[:1, :1] + jnp.sqrt(1 - shared) * for_common[:1, 1:]
        leverage, phi = data["leverage"][None], data["phi"][None]
        noise = leverage * shocks + jnp.sqrt(1 - leverage**2) * rest
        # The noise of bar t moves the variance of bar t + 1; the first variance is drawn from the stationary law.
        drive = jnp.concatenate([first, jnp.sqrt(1 - phi**2) * noise[:-1]])
        log_variance = data["level"][None] + data["deviation"][None] * linear_recurrence(phi, drive)
        deviation = jnp.exp(0.5 * log_variance)
        drawn = jax.random.randint(jump_key, (n_bars,), 0, data["jumps"].shape[0])
        returns = data["mean"][None] + deviation * shocks + data["jumps"][drawn]
        return bars_around(shapes, row, returns, deviation)

    return draw
