"""Generative markets: valid bars, known moments within their error, martingales."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from moments import ERRORS, assert_mean
from scipy import stats

from jaxppo.envs import simulators
from jaxppo.envs.market.market_data import MarketData, MarketInfo
from jaxppo.envs.simulators.bars import bridge_extremes, business_days
from jaxppo.envs.simulators.markov import markov_path, stationary_law

GENERATORS = {
    "gbm": simulators.gbm,
    "ornstein_uhlenbeck": simulators.ornstein_uhlenbeck,
    "regime_switching": simulators.regime_switching,
    "stochastic_volatility_jumps": simulators.stochastic_volatility_jumps,
    "predictable_factor": simulators.predictable_factor,
}
BARS, ASSETS = 2000, 50
"""One shape for most tests, so that every generator is compiled once; 100,000 returns."""


CHAIN = {"transition": ((0.0, 1.0), (1.0, 0.0)), "correlation": 0.0}
SMOOTH = {
    "volatility": 0.01,
    "volatility_of_variance": 0.0015,
    "leverage": -0.8,
    "jump_rate": 0.0,
    "jump_mean": -0.05,
    "jump_deviation": 0.01,
    "correlation": 0.0,
}
"""Tests pass the same arguments in full, because a jitted simulator compiles again for another set of them."""


def bootstrapped(key: jax.Array, n_bars: int, n_assets: int, half_spread: jax.Array) -> MarketData:
    source = simulators.gbm(jax.random.key(100), 40, n_assets, half_spread=half_spread)
    return simulators.block_bootstrap(key, source, n_bars, 10.0)


def log_returns(market: MarketData) -> np.ndarray:
    """Close-to-close log returns in float64, `[T - 1, A]`."""
    return np.diff(np.log(np.asarray(market.close, np.float64)), axis=0)


def body_and_gap(market: MarketData) -> tuple[np.ndarray, np.ndarray]:
    """Log returns open to close and previous close to open, rows 1 to T - 1."""
    open_, close = (np.log(np.asarray(x, np.float64)) for x in (market.open, market.close))
    return (close - open_)[1:], open_[1:] - close[:-1]


@pytest.mark.parametrize("name", [*GENERATORS, "block_bootstrap"])
def test_every_market_is_valid_maps_over_keys_and_compiles_once(name):
    generate = GENERATORS.get(name, bootstrapped)
    calls = []

    @jax.jit
    def counted(keys, half_spread):
        calls.append(1)
        return jax.vmap(lambda key: generate(key, 64, 3, half_spread=half_spread))(keys)

    def drawn(half_spread):
        return jax.tree.map(np.asarray, counted(jax.random.split(jax.random.key(3), 2), half_spread))

    wider, markets = drawn(5e-4), drawn(1e-4)
    assert len(calls) == 1
    np.testing.assert_array_equal(wider.close, markets.close)
    np.testing.assert_array_equal(wider.half_spread, np.float32(5e-4))
    assert markets.close.shape == (2, 64, 3)
    first = jax.tree.map(lambda x: x[0], markets)
    assert not np.allclose(first.close, markets.close[1])
    assert first.n_bars == 64
    assert first.info == MarketInfo()
    for field in ("open", "high", "low", "close", "volume", "half_spread", "seconds_since_previous"):
        values = np.asarray(getattr(first, field))
        assert values.dtype == np.float32
        assert np.isfinite(values).all()
        assert (values >= 0).all()
    assert (first.low > 0).all()
    assert (first.high >= np.maximum(first.open, first.close)).all()
    assert (first.low <= np.minimum(first.open, first.close)).all()
    assert first.tradable.all()
    assert first.volume_known.all()
    assert (np.diff(first.session) >= 0).all()
    np.testing.assert_array_equal(first.minute_of_day, 0)
    assert first.seconds_since_previous[0] == 0
    assert set(np.asarray(first.seconds_since_previous[1:])) == {86400.0, 3 * 86400.0}
    assert set(np.asarray(first.day_of_week)) == {0, 1, 2, 3, 4}


def test_business_days():
    calendar = business_days(12)
    np.testing.assert_array_equal(calendar["day_of_week"][:7], [0, 1, 2, 3, 4, 0, 1])
    np.testing.assert_array_equal(calendar["seconds_since_previous"][:7] / 86400, [0, 1, 1, 1, 1, 3, 1])
    np.testing.assert_array_equal(calendar["session"], np.arange(12))


def test_gbm_moments():
    share, volatility, drift = 0.3, 0.02, -0.001
    market = simulators.gbm(
        jax.random.key(5), BARS, ASSETS, drift=drift, volatility=volatility, gap_share=share, start_price=1e6
    )
    returns, (body, gap) = log_returns(market), body_and_gap(market)
    variance = volatility**2
    assert_mean(returns, drift - variance / 2)
    assert_mean((returns - returns.mean()) ** 2, variance)
    assert_mean((gap - gap.mean()) ** 2, share * variance)
    assert_mean((body - body.mean()) ** 2, (1 - share) * variance)
    assert_mean(body * gap, body.mean() * gap.mean())
    volume = np.log(np.asarray(market.volume, np.float64))
    assert_mean(volume, math.log(1e6))
    assert_mean((volume - math.log(1e6)) ** 2, 0.25)


def test_assets_have_their_own_parameters_and_the_given_correlations():
    matrix = np.array([[1.0, 0.8, -0.3], [0.8, 1.0, 0.0], [-0.3, 0.0, 1.0]])
    volatility, start = np.array([0.01, 0.02, 0.03]), np.array([1.0, 10.0, 100.0])
    market = simulators.gbm(jax.random.key(6), 40_000, 3, volatility=volatility, start_price=start, correlation=matrix)
    returns = log_returns(market)
    np.testing.assert_allclose(np.corrcoef(returns.T), matrix, atol=0.02)
    np.testing.assert_allclose(returns.std(axis=0), volatility, rtol=0.02)
    np.testing.assert_allclose(market.open[0], start, rtol=0.1)


@pytest.mark.parametrize(
    ("name", "parameters", "expected"),
    [
        ("gbm", {"drift": 0.0, "volatility": 0.1}, 1.0),
        ("gbm", {"drift": 0.01, "volatility": 0.1}, math.exp(0.01)),
        ("regime_switching", {**CHAIN, "drifts": (0.0, 0.0), "volatilities": (0.05, 0.12)}, 1.0),
        ("stochastic_volatility_jumps", {**SMOOTH, "volatility": 0.05, "jump_rate": 0.1, "jump_mean": -0.1}, 1.0),
        ("predictable_factor", {"volatility": 0.1, "strength": 0.0}, 1.0),
    ],
)
def test_simple_returns_are_a_martingale(name, parameters, expected):
    """Not the log returns: at 10 % a bar these differ by 0.5 % a bar, fifteen standard errors."""
    market = GENERATORS[name](jax.random.key(7), BARS, ASSETS, gap_share=0.3, start_price=1e6, **parameters)
    close, open_ = np.asarray(market.close, np.float64), np.asarray(market.open, np.float64)
    alive = close[:-1] > 1e-20
    assert alive.mean() > 0.9
    assert_mean((close[1:] / np.where(alive, close[:-1], 1))[alive], expected)
    if name == "gbm":
        assert_mean((close / np.where(open_ > 0, open_, 1))[open_ > 1e-20], expected**0.7)


def test_bridge_extremes_follow_the_reflection_principle():
    """`P(max > m | end = x) = exp(-2 m (m - x) / variance)`, so that probability is uniform at the drawn maximum."""
    body_key, extremes_key = jax.random.split(jax.random.key(8))
    body = 0.02 * jax.random.normal(body_key, (20_000, 1))
    maximum, minimum = bridge_extremes(extremes_key, body, jnp.full_like(body, 0.02))
    x, high, low = (np.asarray(v, np.float64).ravel() for v in (body, maximum, minimum))
    for extreme in (high, low):
        probability = np.exp(-2 * extreme * (extreme - x) / 0.02**2)
        assert stats.kstest(probability, "uniform").pvalue > 1e-3
    # Drawn independently of each other, the range is a little wide: 1.3 % in Parkinson's volatility.
    assert 1.0 < math.sqrt(np.mean((high - low) ** 2) / (4 * math.log(2))) / 0.02 < 1.03


def test_ornstein_uhlenbeck_is_stationary_with_the_right_decay():
    """Rows 40 bars apart are independent (correlation exp(-8)): variance, decay over 5 bars, mean of the price."""
    reversion, volatility, lag = 0.2, 0.02, 5
    market = simulators.ornstein_uhlenbeck(
        jax.random.key(9), BARS, ASSETS, reversion=reversion, volatility=volatility, start_price=20.0
    )
    level = np.log(np.asarray(market.close, np.float64) / 20.0)
    variance = volatility**2 / (2 * reversion)
    assert_mean(level[::40], 0.0)
    assert_mean(level[::40] ** 2, variance)
    assert_mean(level[0] ** 2, variance)
    assert_mean(level[:-lag:40] * level[lag::40], variance * math.exp(-reversion * lag))
    assert_mean(np.asarray(market.open, np.float64)[::40] / 20.0, math.exp(variance / 2))


def test_regimes_follow_the_chain():
    transition = jnp.array([[0.9, 0.08, 0.02], [0.2, 0.7, 0.1], [0.0, 0.5, 0.5]])
    path = np.asarray(markov_path(jax.random.key(10), 60_000, stationary_law(transition), transition))
    counts = np.zeros((3, 3))
    np.add.at(counts, (path[:-1], path[1:]), 1)
    visits = counts.sum(axis=1, keepdims=True)
    error = np.sqrt(np.asarray(transition * (1 - transition)) / visits)
    assert (np.abs(counts / visits - np.asarray(transition)) <= ERRORS * error).all()
    balance = np.linalg.matrix_power(np.asarray(transition, np.float64), 200)[0]
    keys = jax.random.split(jax.random.key(11), 20_000)
    first = jax.vmap(lambda key: markov_path(key, 2, stationary_law(transition), transition))(keys)
    for row in (0, 1):
        for state in range(3):
            assert_mean(np.asarray(first)[:, row] == state, balance[state])


def test_regimes_set_drift_and_volatility():
    """Two regimes that alternate strictly: even and odd bars show each one's own moments, all assets in step."""
    market = simulators.regime_switching(
        jax.random.key(12),
        BARS,
        ASSETS,
        drifts=(0.001, -0.002),
        volatilities=(0.005, 0.02),
        **CHAIN,
        start_price=1e6,
        gap_share=0.3,
    )
    returns = log_returns(market)
    calm, wild = sorted((returns[::2], returns[1::2]), key=np.std)
    for sample, drift, volatility in ((calm, 0.001, 0.005), (wild, -0.002, 0.02)):
        assert_mean(sample, drift - volatility**2 / 2)
        assert_mean((sample - sample.mean()) ** 2, volatility**2)


def test_stochastic_volatility_clusters_leans_and_jumps():
    market = simulators.stochastic_volatility_jumps(
        jax.random.key(13), BARS, ASSETS, gap_share=0.3, start_price=1e6, **SMOOTH
    )
    late = log_returns(market)[500:]
    squares = late**2 - 1e-4
    assert_mean(squares.mean(axis=0), 0.0)
    assert stats.kurtosis(late.ravel()) > 0.5
    assert np.corrcoef(squares[:-1].ravel(), squares[1:].ravel())[0, 1] > 0.05
    leaning = np.mean(late[:-1] * squares[1:], axis=0)
    assert leaning.mean() / (leaning.std() / math.sqrt(ASSETS)) < -5


def test_jumps_have_their_rate_and_size_and_fall_in_the_gap():
    """Without diffusion to speak of, every gap beyond 0.3 % is a jump."""
    parameters = SMOOTH | {"volatility": 1e-4, "volatility_of_variance": 0.0, "jump_rate": 0.05}
    market = simulators.stochastic_volatility_jumps(
        jax.random.key(14), BARS, ASSETS, gap_share=0.3, start_price=1e6, **parameters
    )
    body, gap = body_and_gap(market)
    jumps = np.abs(gap) > 0.01
    assert_mean(jumps, 0.05)
    compensation = math.log(1 + 0.05 * math.expm1(-0.05 + 0.01**2 / 2))
    assert_mean(gap[jumps], -0.05 - compensation)
    assert_mean((gap[jumps] + 0.05 + compensation) ** 2, 0.01**2)
    assert np.abs(body).max() < 0.001
