"""GARCH(1,1) volatility per asset with Student innovations, by maximum likelihood; constant conditional correlation."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize
from scipy.signal import lfilter
from scipy.special import digamma, gammaln

from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.simulators.generators.bar_shapes import (
    Returns,
    bar_shapes,
    bars_around,
    consecutive_rows,
    fitted_returns,
)
from jaxppo.envs.simulators.generators.correlations import correlation_root, pairwise_correlation
from jaxppo.envs.simulators.generators.generator import Generator, checked_source

LARGEST_PERSISTENCE = 0.999
BACKCAST_BARS = 75
"""Squared residuals whose average, with weights falling by 0.94, is the variance before the first bar."""

CALIBRATION_PATHS, CALIBRATION_BARS, CALIBRATION_ROUNDS = 128, 2000, 4

LARGEST_EXCESS = 4.0
"""Largest simulated variance over the largest fitted one."""


@dataclasses.dataclass(frozen=True)
class GarchFit:
    """`r_t = mean + sqrt(v_t) z_t`, `v_t = omega + alpha (r_{t-1} - mean)^2 + beta v_{t-1}`.

    Attributes:
      mean: log return per bar.
      omega: variance per bar, > 0.
      alpha: >= 0.
      beta: >= 0; `alpha + beta < 1`.
      degrees: of freedom of the Student distribution of `z_t`, which has variance 1; in (2, 500].
      variance: `[n]` conditional variance of each return.
      log_likelihood: of all returns.
    """

    mean: float
    omega: float
    alpha: float
    beta: float
    degrees: float
    variance: np.ndarray
    log_likelihood: float


def fit_garch(returns: np.ndarray) -> GarchFit:
    """Fits one series by maximum likelihood with Student innovations; host-side.

    One day of -49 % leaves a Gaussian likelihood without clusters of volatility; to the Student one it is a tail.

    Args:
      returns: `[n]` log returns, n >= 10, not constant.

    References:
      Bollerslev (1986), Generalized autoregressive conditional heteroskedasticity.
      Bollerslev (1987), A conditionally heteroskedastic time series model for speculative prices and rates of return.
    """
    scale = float(np.std(returns))
    x = np.asarray(returns, np.float64) / scale
    centred = np.square(x - x.mean())
    weights = 0.94 ** np.arange(min(BACKCAST_BARS, len(x)))
    backcast = float(weights @ centred[: len(weights)] / weights.sum())

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        return _negative_log_likelihood(theta, x, backcast)

    # The likelihood has several local maxima, so the search starts from the best of a grid.
    shapes = [(a, p, nu) for a in (0.03, 0.08, 0.15) for p in (0.7, 0.9, 0.98) for nu in (4.0, 20.0)]
    candidates = [np.array([np.median(x), 1 - p, a, p - a, nu]) for a, p, nu in shapes]
    start = min(candidates, key=lambda theta: loss(theta)[0])
    with warnings.catch_warnings():
        # SLSQP warns of steps of its line search beyond the bounds, and clips them.
        warnings.simplefilter("ignore", RuntimeWarning)
        found = minimize(
            loss,
            start,
            jac=True,
            method="SLSQP",
            bounds=[(x.min(), x.max()), (1e-8, 10.0), (0.0, 1.0), (0.0, 1.0), (2.05, 500.0)],
            constraints={
                "type": "ineq",
                "fun": lambda theta: LARGEST_PERSISTENCE - theta[2] - theta[3],
                "jac": lambda theta: np.array([0.0, 0.0, -1.0, -1.0, 0.0]),
            },
            options={"maxiter": 500, "ftol": 1e-12},
        )
    theta = found.x if found.fun <= loss(start)[0] else start
    mean, omega, alpha, beta, degrees = map(float, theta)
    variance = _variance(theta, np.square(x - mean), backcast) * scale**2
    likelihood = -(loss(theta)[0] + np.log(scale)) * len(x)
    return GarchFit(mean * scale, omega * scale**2, alpha, beta, degrees, variance, likelihood)


def _variance(theta: np.ndarray, squares: np.ndarray, backcast: float) -> np.ndarray:
    """Conditional variances `[n]` from squared residuals `[n]`; both are `backcast` before the first."""
    _, omega, alpha, beta, _ = theta
    before = np.concatenate([[backcast], squares[:-1]])
    drive = omega + alpha * before
    return lfilter([1.0], [1.0, -beta], drive, zi=[beta * backcast])[0]


def _negative_log_likelihood(theta: np.ndarray, x: np.ndarray, backcast: float) -> tuple[float, np.ndarray]:
    """Mean negative log likelihood over bars, and its gradient by mean, omega, alpha, beta and degrees of freedom.

    `-log f = c(nu) + log(v) / 2 + (nu + 1) / 2 log(1 + q)`, `q = e^2 / ((nu - 2) v)`.
    """
    mean, _, alpha, beta, nu = theta
    residual = x - mean
    squares = np.square(residual)
    variance = np.maximum(_variance(theta, squares, backcast), 1e-12)

    def recursion(drive: np.ndarray) -> np.ndarray:
        return lfilter([1.0], [1.0, -beta], drive)

    moved = np.concatenate([[0.0], -2.0 * alpha * residual[:-1]])
    by = [
        recursion(moved),
        recursion(np.ones_like(x)),
        recursion(np.concatenate([[backcast], squares[:-1]])),
        recursion(np.concatenate([[backcast], variance[:-1]])),
    ]
    q = squares / ((nu - 2) * variance)
    pulled = (nu + 1) * q / (1 + q)
    constant = gammaln(nu / 2) - gammaln((nu + 1) / 2) + 0.5 * np.log(np.pi * (nu - 2))
    loss = constant + np.mean(0.5 * np.log(variance) + 0.5 * (nu + 1) * np.log1p(q))
    slope = 0.5 * (1.0 - pulled) / variance
    gradient = np.array([np.mean(slope * change) for change in by])
    gradient[0] -= np.mean((nu + 1) * residual / ((nu - 2) * variance * (1 + q)))
    by_degrees = 0.5 * (digamma(nu / 2) - digamma((nu + 1) / 2) + 1 / (nu - 2))
    by_degrees += np.mean(0.5 * np.log1p(q) - 0.5 * pulled / (nu - 2))
    return float(loss), np.append(gradient, by_degrees)


def garch(market: MarketData, n_bars: int, *, innovations: Literal["empirical", "normal"] = "empirical") -> Generator:
    """GARCH(1,1) per asset with one correlation matrix of the standardised returns.

    Alpha and beta maximise the likelihood. Omega is calibrated so that 128 simulated paths of 2,000 bars are as
    volatile as the source on average: with persistence near 1 and fat tails neither the likelihood's omega nor that of
    variance targeting achieves this. A path starts at the fitted variance of its first source bar, and its variance is
    never more than 4 times the largest fitted one.

    Args:
      market: `[T, A]` source.
      n_bars: of a path.
      innovations: "empirical" draws the standardised returns of whole bars (filtered historical simulation), which
        keeps their tails and correlations; "normal" draws Gaussian ones with their correlation matrix.

    Raises:
      ValueError: an argument outside its range, or an asset with too few returns.

    References:
      Bollerslev (1990), Modelling the coherence in short-run nominal exchange rates (constant correlation).
      Engle, Mezrich (1996), GARCH for groups (variance targeting, from which the calibration starts).
      Barone-Adesi, Giannopoulos, Vosper (1999), VaR without correlations for portfolios of derivative securities.
    """
    if innovations not in ("empirical", "normal"):
        raise ValueError(f"innovations is {innovations!r}; it must be 'empirical' or 'normal'")
    source = checked_source(market, n_bars)
    returns = fitted_returns(source)
    fits = [fit_garch(returns.values[known, asset]) for asset, known in enumerate(returns.known.T)]
    alpha, beta = (np.array([getattr(fit, name) for fit in fits]) for name in ("alpha", "beta"))
    variance, residual = _standardised(returns, fits)
    count = returns.known.sum(axis=0)
    mean = returns.values.sum(axis=0) / count
    sample = np.where(returns.known, (returns.values - mean) ** 2, 0.0).sum(axis=0) / count
    fields = {
        "mean": mean,
        "omega": sample * (1 - alpha - beta),
        "alpha": alpha,
        "beta": beta,
        "largest": LARGEST_EXCESS * variance.max(axis=0),
    }
    if innovations == "empirical":
        fields["residual"] = _complete(residual, returns.known)
    else:
        fields["root"] = correlation_root(pairwise_correlation(residual, returns.known))
    data: dict[str, Any] = {name: jnp.asarray(values, jnp.float32) for name, values in fields.items()}
    data["shapes"] = bar_shapes(source, returns, np.sqrt(variance))
    data = _calibrated(data, sample, innovations)
    return Generator(f"garch, {innovations} innovations", data, _draw(n_bars, innovations))


def _standardised(returns: Returns, fits: list[GarchFit]) -> tuple[np.ndarray, np.ndarray]:
    """Conditional variances `[T, A]`, the last known one held, and residuals `[T, A]` of mean 0 and mean square 1.

    Residuals are centred anew: the fitted mean is the centre of a Student density, not the mean of skewed returns.
    """
    n_bars = len(returns.values)
    variance, residual = np.empty_like(returns.values), np.zeros_like(returns.values)
    for asset, fit in enumerate(fits):
        rows = np.flatnonzero(returns.known[:, asset])
        latest = np.maximum(np.searchsorted(rows, np.arange(n_bars), side="right") - 1, 0)
        variance[:, asset] = fit.variance[latest]
        z = (returns.values[rows, asset] - fit.mean) / np.sqrt(fit.variance)
        residual[rows, asset] = (z - z.mean()) / z.std()
    return variance, residual


def _complete(residual: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Completes bars of residuals to `[N, A]`: missing ones are predicted from the mean of the other assets.

    `z = slope * common + rest`, the rest drawn from the asset's known ones; bars without any known asset are left out.
    """
    use = known.any(axis=1)
    residual, known = residual[use], known[use]
    common = residual.sum(axis=1) / known.sum(axis=1)
    generator = np.random.default_rng(0)
    result = residual.copy()
    for asset, here in enumerate(known.T):
        x, y = common[here], residual[here, asset]
        slope = float(x @ y / max(x @ x, 1e-12))
        rest = generator.choice(y - slope * x, size=int((~here).sum()))
        result[~here, asset] = slope * common[~here] + rest
    return result


def _shocks(data: dict[str, Any], key: jax.Array, n_bars: int, innovations: str) -> jax.Array:
    """Draws standardised returns `[n_bars, A]`. Consumes `key`."""
    if innovations == "empirical":
        return data["residual"][jax.random.randint(key, (n_bars,), 0, data["residual"].shape[0])]
    normals = jax.random.normal(key, (n_bars, data["root"].shape[0]))
    return jnp.matmul(normals, data["root"].T, precision=jax.lax.Precision.HIGHEST)


def _variances(data: dict[str, Any], first: jax.Array, shocks: jax.Array) -> jax.Array:
    """Conditional variances `[N, A]` from the first one `[A]` on."""

    def step(variance: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        following = data["omega"] + (data["alpha"] * jnp.square(z) + data["beta"]) * variance
        return jnp.minimum(following, data["largest"]), variance

    return jax.lax.scan(step, first, shocks)[1]


@functools.partial(jax.jit, static_argnames="innovations")
def _mean_variance(data: dict[str, Any], key: jax.Array, innovations: str) -> jax.Array:
    """Variance `[A]` of an average simulated bar. Consumes `key`."""
    deviation = data["shapes"].deviation

    def one(key: jax.Array) -> jax.Array:
        row_key, shock_key = jax.random.split(key)
        first = jnp.square(deviation[jax.random.randint(row_key, (), 1, deviation.shape[0])])
        return _variances(data, first, _shocks(data, shock_key, CALIBRATION_BARS, innovations)).mean(axis=0)

    return jax.vmap(one)(jax.random.split(key, CALIBRATION_PATHS)).mean(axis=0)


def _calibrated(data: dict[str, Any], sample: np.ndarray, innovations: str) -> dict[str, Any]:
    """`data` with the omega at which simulated variances average to the sample's `[A]`."""
    for number in range(CALIBRATION_ROUNDS):
        simulated = _mean_variance(data, jax.random.key(number), innovations)
        data = {**data, "omega": data["omega"] * jnp.clip(sample / simulated, 0.25, 4.0)}
    return data


@functools.cache
def _draw(n_bars: int, innovations: str):
    def draw(data: dict[str, Any], key: jax.Array) -> MarketData:
        row_key, shock_key = jax.random.split(key)
        shapes = data["shapes"]
        row = consecutive_rows(row_key, n_bars, shapes.gap.shape[0])
        shocks = _shocks(data, shock_key, n_bars, innovations)
        deviation = jnp.sqrt(_variances(data, jnp.square(shapes.deviation[row[0]]), shocks))
        return bars_around(shapes, row, data["mean"][None] + deviation * shocks, deviation)

    return draw
