"""Generative markets: valid bars, known moments within their error, martingales, the known factor's Sharpe ratio."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal, stats

from envs import features, simulators
from envs.bootstrap import stationary_indices
from envs.factor_market import _with_factor, filter_variance
from envs.market import MarketData, MarketInfo, slice_bars
from envs.simulated_bars import bridge_extremes, business_days

GENERATORS = {
    "gbm": simulators.gbm,
    "ornstein_uhlenbeck": simulators.ornstein_uhlenbeck,
    "regime_switching": simulators.regime_switching,
    "stochastic_volatility_jumps": simulators.stochastic_volatility_jumps,
    "predictable_factor": simulators.predictable_factor,
}
BARS, ASSETS = 2000, 50
"""One shape for most tests, so that every generator is compiled once; 100,000 returns."""

FACTOR_BARS = 200_000
ERRORS = 4.5
"""Standard errors that a moment may be off; the keys are fixed, so a pass stays a pass."""


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


def source_market(seed: int) -> MarketData:
    """400 bars of 2 correlated assets to draw from."""
    return simulators.gbm(jax.random.key(seed), 400, 2, correlation=0.5)


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


def assert_mean(sample: np.ndarray, expected: float):
    """The mean of independent draws lies within `ERRORS` standard errors of the expected one."""
    sample = np.asarray(sample, np.float64).ravel()
    score = (sample.mean() - expected) / (sample.std(ddof=1) / math.sqrt(sample.size))
    assert abs(score) < ERRORS, f"mean {sample.mean():.6g} is {score:.1f} standard errors from {expected:.6g}"


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
    path = np.asarray(simulators._regime_path(jax.random.key(10), 60_000, transition))
    counts = np.zeros((3, 3))
    np.add.at(counts, (path[:-1], path[1:]), 1)
    visits = counts.sum(axis=1, keepdims=True)
    error = np.sqrt(np.asarray(transition * (1 - transition)) / visits)
    assert (np.abs(counts / visits - np.asarray(transition)) <= ERRORS * error).all()
    balance = np.linalg.matrix_power(np.asarray(transition, np.float64), 200)[0]
    keys = jax.random.split(jax.random.key(11), 20_000)
    first = jax.vmap(lambda key: simulators._regime_path(key, 2, transition))(keys)
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


def factor_market(**parameters: float) -> tuple[MarketData, np.ndarray]:
    """One asset of `predictable_factor` with the factor that it hides."""
    defaults = {
        "strength": 0.2,
        "persistence": 0.9,
        "signal_noise": 0.0,
        "volatility": 0.01,
        "gap_share": 0.2,
        "half_spread": 0.0,
        "start_price": 100.0,
        "median_volume": 1e6,
        "volume_scale": 0.5,
    }
    market, factor = _with_factor(jax.random.key(15), FACTOR_BARS, 1, **(defaults | parameters))
    return market, np.asarray(factor, np.float64)[:, 0]


def test_the_factor_predicts_the_body_and_only_the_body():
    market, factor = factor_market()
    open_, close = (np.asarray(x, np.float64)[:, 0] for x in (market.open, market.close))
    body, gap = close[1:] / open_[1:] - 1, open_[1:] / close[:-1] - 1
    f = factor[:-1]
    assert_mean(f * (body - 0.2 * 0.01 * f), 0.0)
    assert_mean(f * body, 0.2 * 0.01 * np.mean(f**2))
    assert_mean(f * gap, 0.0)
    assert_mean((open_[2:] / open_[1:-1] - 1 - 0.002 * f[:-1]) ** 2, 0.01**2)
    innovations = factor[1:] - 0.9 * factor[:-1]
    assert_mean(innovations**2, 1 - 0.81)
    np.testing.assert_allclose(np.log(np.asarray(market.volume)[:, 0] / 1e6), 0.5 * factor, atol=1e-4)
    public = simulators.predictable_factor(jax.random.key(15), FACTOR_BARS, strength=0.2)
    np.testing.assert_array_equal(public.close, market.close)


@pytest.mark.parametrize("noise", [0.0, 0.7])
def test_sharpe_formula_against_simulation(noise):
    """Decide at the close on the filtered volume, hold from the next open to the one after."""
    strength, persistence, n_bars = 0.3, 0.9, FACTOR_BARS
    market, _ = factor_market(strength=strength, signal_noise=noise, volatility=0.02)
    open_ = np.asarray(market.open, np.float64)[:, 0]
    earned = open_[2:] / open_[1:-1] - 1
    observed = np.log(np.asarray(market.volume, np.float64)[:, 0] / 1e6) / 0.5
    unknown = 1.0
    for _ in range(500):
        predicted = persistence**2 * unknown + 1 - persistence**2
        gain = predicted / (predicted + noise**2)
        unknown = (1 - gain) * predicted
    assert filter_variance(persistence, noise) == pytest.approx(unknown, abs=1e-12)
    filtered = signal.lfilter([gain], [1, -(1 - gain) * persistence], observed)[:-2]
    second_moment = math.expm1(0.02**2) + (strength * 0.02) ** 2 * (filtered**2 + unknown)
    positions = {"linear": filtered, "sign": np.sign(filtered), "optimal": filtered / second_moment}
    ratios = {}
    for policy, position in positions.items():
        profit = position * earned
        ratios[policy] = simulators.predictable_factor_sharpe(
            strength, persistence, noise, volatility=0.02, policy=policy
        )
        assert profit.mean() / profit.std() == pytest.approx(ratios[policy], abs=ERRORS / math.sqrt(n_bars))
    assert ratios["optimal"] > ratios["linear"] > ratios["sign"] > 0.15


def test_sharpe_formula_limits():
    """Small strength: s without noise, s sqrt(2 / pi) for the sign; a memoryless factor: s / sqrt(1 + noise^2)."""
    sharpe = simulators.predictable_factor_sharpe
    assert sharpe(0.01, volatility=1e-3) == pytest.approx(0.01, rel=2e-4)
    assert sharpe(0.01, volatility=1e-3, policy="sign") == pytest.approx(0.01 * math.sqrt(2 / math.pi), rel=2e-4)
    assert sharpe(0.01, 0.0, 1.5, volatility=1e-3) == pytest.approx(0.01 / math.sqrt(1 + 1.5**2), rel=2e-4)
    assert sharpe(0.3, volatility=1e-4) == pytest.approx(0.3 / math.sqrt(1 + 2 * 0.3**2), rel=1e-5)
    assert sharpe(0.1, n_assets=4) == pytest.approx(2 * sharpe(0.1))
    assert sharpe(-0.1, policy="optimal") == pytest.approx(-sharpe(0.1, policy="optimal"), rel=2e-3)
    assert filter_variance(0.9, 0.0) == 0
    with pytest.raises(ValueError, match="best"):
        sharpe(0.1, policy="best")
    with pytest.raises(ValueError, match="persistence"):
        sharpe(0.1, persistence=1.0)


def test_the_features_reveal_the_factor():
    """Persistence 0.9, window 252: the normalised volume keeps a correlation of about 0.956 with the factor."""
    market, factor = factor_market()
    market, factor = slice_bars(market, 0, 20_000), factor[:20_000]
    table = features.compute_features(market, groups=("volume",), normalisation_window=252)
    column = features.feature_names(("volume",)).index("relative_volume")
    formed = slice(features.warmup(("volume",), 252) + 252, None)
    assert np.corrcoef(np.asarray(table)[formed, 0, column], factor[formed])[0, 1] > 0.95


def test_stationary_indices_by_hand_and_against_arch():
    starts = jnp.array([3, 0, 1, 4, 2, 0], jnp.int32)
    draws = jnp.array([0.9, 0.5, 0.1, 0.8, 0.9, 0.2])
    index, fresh = stationary_indices(starts, draws, 0.2, 5)
    np.testing.assert_array_equal(index, [3, 4, 1, 2, 3, 0])
    np.testing.assert_array_equal(fresh, [True, False, True, False, False, True])
    samplers = pytest.importorskip("arch.bootstrap._samplers_python")
    rng = np.random.default_rng(0)
    starts, draws = rng.integers(0, 50, 50), rng.uniform(size=50)
    ours, _ = stationary_indices(jnp.asarray(starts, jnp.int32), jnp.asarray(draws), 0.1, 50)
    expected = samplers.stationary_bootstrap_sample_python(starts.copy(), draws, 0.1)
    np.testing.assert_array_equal(ours, expected)


def test_bootstrap_keeps_bars_whole_and_blocks_in_order():
    """The spread column numbers the source bars, so every drawn bar can be traced back and compared in full."""
    n_source, n_bars, block = 400, 3000, 15.0
    source = source_market(16)
    numbers = jnp.arange(n_source, dtype=jnp.float32)[:, None]
    source = source.replace(half_spread=jnp.broadcast_to(numbers, (n_source, 2)))
    drawn = simulators.block_bootstrap(jax.random.key(17), source, n_bars, block)
    row = np.asarray(drawn.half_spread).astype(int)
    np.testing.assert_array_equal(row[:, 0], row[:, 1])
    row = row[:, 0]
    assert row.min() >= 1
    for name in ("volume", "tradable"):
        np.testing.assert_array_equal(getattr(drawn, name), np.asarray(getattr(source, name))[row])
    np.testing.assert_array_equal(drawn.day_of_week, np.asarray(source.day_of_week)[row])
    for name in ("open", "high", "low", "close"):
        ours = np.asarray(getattr(drawn, name), np.float64)[1:] / np.asarray(drawn.close, np.float64)[:-1]
        close = np.asarray(source.close, np.float64)
        theirs = np.asarray(getattr(source, name), np.float64)[row[1:]] / close[row[1:] - 1]
        np.testing.assert_allclose(ours, theirs, rtol=5e-6)
    follows = row[1:] == np.where(row[:-1] == n_source - 1, 1, row[:-1] + 1)
    assert_mean(~follows, (1 - 1 / (n_source - 1)) / block)


def test_bootstrap_of_a_ragged_market_keeps_the_contract():
    """Late listing and missing bars: stale prices where not tradable, 1.0 before the first bar, no jump from 1.0."""
    source = source_market(18)
    bar = np.arange(400)
    tradable = np.stack([bar >= 240, bar % 4 != 1], axis=1)
    latest = np.maximum.accumulate(np.where(tradable, bar[:, None], -1), axis=0)
    close = np.take_along_axis(np.asarray(source.close), np.maximum(latest, 0), axis=0)
    stale = np.where(latest < 0, 1.0, close)
    prices = {
        name: jnp.asarray(np.where(tradable, getattr(source, name), stale)) for name in ("open", "high", "low", "close")
    }
    source = source.replace(**prices, tradable=jnp.asarray(tradable), volume=source.volume * tradable)
    drawn = simulators.block_bootstrap(jax.random.key(19), source, 3000, 8.0)
    on, listed = np.asarray(drawn.tradable), np.cumsum(np.asarray(drawn.tradable), axis=0) > 0
    assert 0.2 < on[:, 0].mean() < 0.6
    for name in ("open", "high", "low", "close"):
        values = np.asarray(getattr(drawn, name))
        np.testing.assert_array_equal(values[~listed], 1.0)
        halted = ~on[1:] & listed[:-1]
        np.testing.assert_array_equal(values[1:][halted], np.asarray(drawn.close)[:-1][halted])
    assert (np.asarray(drawn.volume)[~on] == 0).all()
    moves = np.abs(np.diff(np.log(np.asarray(drawn.close)), axis=0))[listed[:-1]]
    assert moves.max() < 0.1
    with pytest.raises(ValueError, match="at least 2 bars"):
        simulators.block_bootstrap(jax.random.key(20), slice_bars(source, 0, 1), 10, 5.0)
