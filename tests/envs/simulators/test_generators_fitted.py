"""Fitted simulators: fits against arch and known parameters, moments of paths and source, valid bars."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from folders import SHARED
from moments import assert_mean

from jaxppo.envs import simulators
from jaxppo.envs.data.load import load_market
from jaxppo.envs.market.features import ewma_volatility
from jaxppo.envs.market.index import market_index
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.simulators.generators import GENERATORS
from jaxppo.envs.simulators.generators.correlations import correlation_root, pairwise_correlation
from jaxppo.envs.simulators.generators.garch import fit_garch
from jaxppo.envs.simulators.generators.stochastic_volatility import detect_jumps, fit_volatility

REAL = SHARED / "us88_1d.parquet"
N_BARS, N_ASSETS, N_PATHS = 1500, 3, 48
STOCKS = ("AAPL", "ABBV", "AGFS", "BABA", "BAC", "CVX", "GE", "JNJ", "KO", "PCLN", "WMT", "XOM")
FITTED = ("regime_switching", "stochastic_volatility_jumps", "garch")


def garch_series(seed: int, n: int, alpha: float, beta: float, tails: float = 8.0) -> np.ndarray:
    """Log returns of GARCH(1,1) with Student innovations, 1 % a bar."""
    generator = np.random.default_rng(seed)
    z = generator.standard_t(tails, n + 500) * np.sqrt((tails - 2) / tails)
    variance, result = 1.0, np.empty(n + 500)
    for t in range(n + 500):
        result[t] = np.sqrt(variance) * z[t]
        variance = (1 - alpha - beta) + alpha * result[t] ** 2 + beta * variance
    return 0.01 * result[500:] + 3e-4


def volatility_series(seed: int, n: int, phi: float, spread: float, leverage: float) -> np.ndarray:
    """Log returns of log-normal stochastic volatility, 1 % a bar."""
    generator = np.random.default_rng(seed)
    z, rest = generator.standard_normal((2, n))
    noise = spread * np.sqrt(1 - phi**2) * (leverage * z + np.sqrt(1 - leverage**2) * rest)
    h = np.empty(n)
    h[0] = spread * generator.standard_normal()
    for t in range(1, n):
        h[t] = phi * h[t - 1] + noise[t - 1]
    return 0.01 * np.exp(h / 2 - spread**2 / 4) * z


def market_of(log_returns: np.ndarray, seed: int) -> MarketData:
    """A market with these close-to-close returns `[T, A]`, otherwise as `simulators.gbm` makes one."""
    market = simulators.gbm(jax.random.key(seed), *log_returns.shape, gap_share=0.3)
    own = np.diff(np.log(np.asarray(market.close, np.float64)), axis=0, prepend=np.log(100.0))
    factor = jnp.asarray(np.exp(np.cumsum(log_returns - own, axis=0)), jnp.float32)
    prices = {name: getattr(market, name) * factor for name in ("open", "high", "low", "close")}
    shifted = jnp.concatenate([factor[:1], factor[:-1]])
    prices["open"] = market.open * shifted
    prices["high"] = jnp.maximum(prices["high"], prices["open"])
    prices["low"] = jnp.minimum(prices["low"], prices["open"])
    return market.replace(**prices)


def correlated(series: list[np.ndarray], weight: float) -> np.ndarray:
    """`[T, A]`: the first series mixed into the others."""
    common = series[0]
    mixed = [weight * common + np.sqrt(1 - weight**2) * own for own in series[1:]]
    return np.stack([common, *mixed], axis=1)


def moments(market: MarketData) -> dict[str, np.ndarray]:
    """Statistics of markets `[..., T, A]`, means over assets, `[...]` each."""
    log_close = np.log(np.asarray(market.close, np.float64))
    tradable = np.asarray(market.tradable)
    known = tradable[..., 1:, :] & tradable[..., :-1, :]
    returns = np.where(known, np.diff(log_close, axis=-2), np.nan)
    gaps = np.where(known, np.log(np.asarray(market.open, np.float64))[..., 1:, :] - log_close[..., :-1, :], np.nan)
    ranges = np.where(tradable, np.log(np.asarray(market.high, np.float64) / np.asarray(market.low)), np.nan)
    deviation = np.nanstd(returns, axis=-2, keepdims=True)
    z = (returns - np.nanmean(returns, axis=-2, keepdims=True)) / deviation
    size = np.abs(z) - np.nanmean(np.abs(z), axis=-2, keepdims=True)
    memory = [np.nanmean(size[..., lag:, :] * size[..., :-lag, :], axis=-2) for lag in range(1, 11)]
    squares = z**2 - 1
    echo = [np.nanmean(squares[..., lag:, :] * squares[..., :-lag, :], axis=-2) for lag in range(1, 11)]
    filled, present = np.nan_to_num(z), np.isfinite(z).astype(float)
    products = np.swapaxes(filled, -1, -2) @ filled / np.maximum(np.swapaxes(present, -1, -2) @ present, 1.0)
    apart = ~np.eye(z.shape[-1], dtype=bool)
    return {
        "volatility": deviation[..., 0, :].mean(axis=-1),
        "log kurtosis": np.log(np.nanmean(z**4, axis=-2)).mean(axis=-1),
        "autocorrelation of sizes": (np.mean(memory, axis=0) / np.nanvar(size, axis=-2)).mean(axis=-1),
        "autocorrelation of squares": (np.mean(echo, axis=0) / np.nanvar(squares, axis=-2)).mean(axis=-1),
        "correlation": products[..., apart].mean(axis=-1),
        "range": np.nanmean(ranges, axis=(-1, -2)),
        "gap": np.nanstd(gaps, axis=-2).mean(axis=-1),
        "volume": np.nanmean(np.where(tradable, np.log1p(np.asarray(market.volume, np.float64)), np.nan), (-1, -2)),
        "half_spread": np.nanmean(np.where(tradable, np.asarray(market.half_spread, np.float64), np.nan), (-1, -2)),
    }


def drawn_paths(name: str, source: MarketData, n_paths: int, **options) -> MarketData:
    """`n_paths` paths as long as the source."""
    _, data, draw = GENERATORS[name](source, source.n_bars, **options)
    return jax.jit(jax.vmap(draw, (None, 0)))(data, jax.random.split(jax.random.key(7), n_paths))


def assert_drift_is_that_of_the_source(source: MarketData, paths: MarketData):
    """Mean log return per bar, over assets, within the error of the mean over paths."""
    own, drawn = (np.log(np.asarray(market.close, np.float64)) for market in (source, paths))
    slopes = (drawn[:, -1] - drawn[:, 0]).mean(axis=-1) / (paths.n_bars - 1)
    assert_mean(slopes, (own[-1] - own[0]).mean() / (source.n_bars - 1))


def assert_source_is_a_likely_path(source: MarketData, paths: MarketData, but: tuple[str, ...] = ()):
    """Every moment of the source lies within 4 standard deviations (over paths) of the mean path, and those are small.

    The source is one draw of the market; a path is another one of the same length.
    """
    theirs, ours = moments(source), moments(paths)
    for name in [name for name in theirs if name not in but]:
        mean, error = ours[name].mean(), ours[name].std() + 0.01 * abs(ours[name].mean())
        score = (theirs[name] - mean) / error
        print(f"{name}: source {theirs[name]:.4g}, paths {mean:.4g} +- {error:.2g}")
        assert abs(score) < 4, f"{name} of the source, {theirs[name]:.4g}, is {score:.1f} errors from {mean:.4g}"
        assert error < max(0.35 * abs(mean), 0.05), f"{name} varies by {error:.2g} over paths"


@pytest.mark.parametrize(("alpha", "beta", "degrees"), [(0.05, 0.93, 5.0), (0.15, 0.7, 8.0), (0.3, 0.3, 30.0)])
def test_garch_fit_equals_archs(alpha, beta, degrees):
    arch = pytest.importorskip("arch")
    returns = garch_series(int(1000 * alpha), 2000, alpha, beta, degrees)
    ours = fit_garch(returns)
    model = arch.arch_model(100 * returns, mean="Constant", vol="GARCH", p=1, q=1, dist="t", rescale=False)
    theirs = model.fit(disp="off", options={"ftol": 1e-12})
    likelihood = theirs.loglikelihood + len(returns) * np.log(100)
    assert ours.log_likelihood > likelihood - 0.01
    found = [100 * ours.mean, 1e4 * ours.omega, ours.alpha, ours.beta, ours.degrees]
    np.testing.assert_allclose(found, theirs.params.to_numpy(), rtol=0.02, atol=2e-3)
    np.testing.assert_allclose(np.sqrt(ours.variance), theirs.conditional_volatility / 100, rtol=0.01)


def test_one_huge_day_leaves_the_clusters_of_volatility():
    """The Gaussian likelihood has alpha 0.0002 here."""
    returns = garch_series(3, 1500, 0.06, 0.9)
    usual = fit_garch(returns)
    returns[700] = -0.6
    crashed = fit_garch(returns)
    assert 0.5 * usual.alpha < crashed.alpha < 3 * usual.alpha
    assert crashed.degrees < usual.degrees


def test_stochastic_volatility_fit_recovers_its_parameters():
    """Means over eight series of 20,000 bars; the tolerances are about three errors of such a mean."""
    phi, spread, leverage = 0.96, 0.8, -0.5
    series = [volatility_series(seed, 20_000, phi, spread, leverage) for seed in range(8)]
    fits = [fit_volatility(returns, np.zeros(20_000, bool)) for returns in series]
    assert np.mean([fit.phi for fit in fits]) == pytest.approx(phi, abs=0.01)
    assert np.mean([fit.deviation for fit in fits]) == pytest.approx(spread, rel=0.05)
    assert np.mean([fit.leverage for fit in fits]) == pytest.approx(leverage, abs=0.12)
    deviations = [np.exp(fit.level / 2 + fit.deviation**2 / 4) for fit in fits]
    assert np.mean(deviations) == pytest.approx(0.01, rel=0.05)


def test_planted_jumps_are_found_and_few_others():
    returns = 0.01 * np.random.default_rng(4).standard_normal(5000)
    planted = np.zeros(5000, bool)
    planted[100::250] = True
    returns[planted] = 0.08 * np.where(np.arange(planted.sum()) % 2, 1, -1)
    found = detect_jumps(returns, 4.0)
    assert found[planted].all()
    assert found[~planted].mean() < 2e-3


def test_correlations_of_ragged_series():
    generator = np.random.default_rng(5)
    values = generator.standard_normal((400, 3)) @ np.array([[1, 0.5, 0], [0, 1, 0.5], [0, 0, 1]])
    known = np.ones((400, 3), bool)
    np.testing.assert_allclose(pairwise_correlation(values, known), np.corrcoef(values.T), atol=1e-12)
    known[:250, 1] = False
    ours = pairwise_correlation(np.where(known, values, np.nan), known)
    assert ours[0, 1] == pytest.approx(np.corrcoef(values[250:, :2].T)[0, 1], abs=0.03)
    known[5:, 2] = False
    assert pairwise_correlation(values, known, 0.25)[0, 2] == 0.25
    impossible = np.array([[1, 0.9, -0.9], [0.9, 1, 0.9], [-0.9, 0.9, 1]])
    root = correlation_root(impossible)
    np.testing.assert_allclose(np.diag(root @ root.T), 1.0)
    np.testing.assert_allclose(correlation_root(ours) @ correlation_root(ours).T, ours, atol=1e-9)


def switching_market() -> tuple[MarketData, dict]:
    """A market of two regimes, and their labels."""
    generator = np.random.default_rng(6)
    labels = (np.cumsum(generator.random(N_BARS) < 0.03) % 2).astype(int)
    normals = generator.standard_normal((N_BARS, N_ASSETS))
    mixed = np.where(labels[:, None] == 1, normals + 1.2 * normals[:, :1], normals + 0.3 * normals[:, :1])
    returns = np.where(labels[:, None] == 1, 0.02, 0.006) * mixed
    return market_of(returns, 8), {"labels": labels}


def clustered_market() -> tuple[MarketData, dict]:
    """With crashes, so that the mean is not where most returns are."""
    series = [garch_series(seed, N_BARS, 0.1, 0.85) for seed in range(20, 20 + N_ASSETS)]
    returns = correlated(series, 0.5)
    returns[150::100] -= 0.05
    return market_of(returns, 9), {}


def volatile_market() -> tuple[MarketData, dict]:
    series = [volatility_series(seed, N_BARS, 0.95, 0.7, -0.4) for seed in range(30, 30 + N_ASSETS)]
    returns = correlated(series, 0.5)
    returns[200::300] += -0.08
    return market_of(returns, 10), {}


@pytest.mark.parametrize(
    ("name", "make", "options"),
    [
        ("regime_switching", switching_market, {}),
        ("garch", clustered_market, {}),
        ("garch", clustered_market, {"innovations": "normal"}),
        ("stochastic_volatility_jumps", volatile_market, {}),
    ],
)
def test_moments_of_paths_are_those_of_the_source(name, make, options):
    source, own = make()
    paths = drawn_paths(name, source, N_PATHS, **own, **options)
    assert_source_is_a_likely_path(source, paths, ("log kurtosis",) if options else ())
    assert_drift_is_that_of_the_source(source, paths)


@pytest.fixture(scope="module")
def real_market() -> tuple[MarketData, np.ndarray]:
    """Twelve stocks over five years, three of them listed late, and three regimes of the volatility of their index."""
    if not REAL.exists():
        pytest.skip(f"{REAL} is not here")
    market = load_market(
        REAL, symbols=STOCKS, on_bad_rows="drop", on_duplicates="first", max_log_jump=3.0, max_log_spike=3.0
    )
    index = market_index(market)
    volatility = np.asarray(ewma_volatility(index.replace(tradable=jnp.ones_like(index.tradable)), 21))[:, 0]
    return market, np.digitize(volatility, np.quantile(volatility, [0.5, 0.85]))


# Gaussian regimes have thinner tails than stocks, and their volatility moves with the index alone; a half-spread by
# invariance moves with that of the asset. Blocks are cut where regimes change, and what remembers longer than a block
# is lost.
CLUSTERS = ("autocorrelation of sizes", "autocorrelation of squares")


@pytest.mark.parametrize(
    ("name", "options", "but"),
    [
        ("stationary_bootstrap", {"mean_block": 20.0}, ()),
        ("circular_bootstrap", {"block": 20}, ()),
        ("regime_bootstrap", {"mean_block": 20.0, "labels": True}, CLUSTERS),
        ("regime_switching", {"labels": True}, ("log kurtosis", "half_spread", *CLUSTERS)),
        ("stochastic_volatility_jumps", {}, ()),
        ("garch", {}, ()),
    ],
)
def test_moments_on_stocks(name, options, but, real_market):
    source, labels = real_market
    options = {**options, "labels": labels} if "labels" in options else options
    paths = drawn_paths(name, source, 32, **options)
    assert_source_is_a_likely_path(source, paths, but)


def intraday_market() -> MarketData:
    """Six bars a session of which the first is three times as volatile, halts, one asset that is listed late."""
    n_bars, bar = 720, np.arange(720)
    generator = np.random.default_rng(11)
    season = np.where(bar % 6 == 0, 3.0, 1.0)[:, None]
    market = market_of(0.004 * season * generator.standard_normal((n_bars, N_ASSETS)), 12)
    tradable = np.stack([np.ones(n_bars, bool), bar >= 200, generator.random(n_bars) > 0.1], axis=1)
    latest = np.maximum.accumulate(np.where(tradable, bar[:, None], -1), axis=0)
    held = np.take_along_axis(np.asarray(market.close), np.maximum(latest, 0), axis=0)
    stale = np.where(latest < 0, 1.0, held)
    prices = {
        name: jnp.asarray(np.where(tradable, getattr(market, name), stale)) for name in ("open", "high", "low", "close")
    }
    return market.replace(
        **prices,
        tradable=jnp.asarray(tradable),
        volume=jnp.where(tradable, market.volume, 0.0),
        minute_of_day=jnp.asarray(570 + 60 * (bar % 6), jnp.int32),
        session=jnp.asarray(bar // 6, jnp.int32),
        seconds_since_previous=jnp.asarray(np.where(bar % 6 == 0, 66_600.0, 3600.0) * (bar > 0), jnp.float32),
    )


@pytest.mark.parametrize("name", FITTED)
def test_bars_are_valid_and_keep_the_clock_of_the_source(name):
    source = intraday_market()
    options = {"labels": np.arange(720) // 60 % 2} if name == "regime_switching" else {}
    _, data, draw = GENERATORS[name](source, 500, **options)
    traced = []

    def counted(data, key):
        traced.append(1)
        return draw(data, key)

    compiled = jax.jit(jax.vmap(counted, (None, 0)))
    paths = compiled(data, jax.random.split(jax.random.key(13), 40))
    alone = jax.jit(draw)(data, jax.random.split(jax.random.key(13), 40)[7])
    jax.tree.map(lambda one, all: np.testing.assert_allclose(one, all[7], rtol=1e-5), alone, paths)
    other = GENERATORS[name](source.replace(close=source.close * 1.0), 500, **options)
    compiled(other.data, jax.random.split(jax.random.key(14), 40))
    assert other.draw is draw
    assert len(traced) == 1, "other data of the same shape do not recompile"
    open_, high, low, close = (np.asarray(getattr(paths, x)) for x in ("open", "high", "low", "close"))
    on = np.asarray(paths.tradable)
    assert paths.close.shape == (40, 500, N_ASSETS)
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(paths))
    assert (low > 0).all()
    assert (low <= np.minimum(open_, close)).all()
    assert (high >= np.maximum(open_, close)).all()
    halted = ~on[:, 1:] & (np.cumsum(on, axis=1)[:, :-1] > 0)
    np.testing.assert_array_equal(close[:, 1:][halted], close[:, :-1][halted])
    assert (np.asarray(paths.volume)[~on] == 0).all()
    assert 0.02 < (~on[..., 2]).mean() < 0.2
    assert on[..., 1].all()  # the late asset has no halts of its own
    minute, session = np.asarray(paths.minute_of_day), np.asarray(paths.session)
    step = np.diff(minute, axis=1)
    wrapped = np.diff(np.asarray(paths.day_of_week), axis=1) != 0
    assert set(np.unique(step)) <= {60, -300, -240}  # bar 0 is left out where the source starts again
    np.testing.assert_array_equal(np.diff(session, axis=1) > 0, step < 0)
    assert wrapped.any()
    returns = np.where(on[:, 1:] & on[:, :-1], np.diff(np.log(close.astype(np.float64)), axis=1), np.nan)
    first = minute[:, 1:] == 570
    ratio = np.nanstd(returns[first], axis=0) / np.nanstd(returns[~first], axis=0)
    np.testing.assert_allclose(ratio, 3.0, rtol=0.2)


def test_mistakes_are_named():
    source, _ = clustered_market()
    with pytest.raises(ValueError, match="innovations is 'student'"):
        GENERATORS["garch"](source, 10, innovations="student")
    with pytest.raises(ValueError, match="jump_threshold is 0"):
        GENERATORS["stochastic_volatility_jumps"](source, 10, jump_threshold=0.0)
    still = source.replace(close=jnp.ones_like(source.close))
    with pytest.raises(ValueError, match="asset 0 has a price that never moves"):
        GENERATORS["garch"](still, 10)
    with pytest.raises(ValueError, match="asset 0 has 0 returns"):
        GENERATORS["garch"](source.replace(tradable=jnp.zeros_like(source.tradable)), 10)
