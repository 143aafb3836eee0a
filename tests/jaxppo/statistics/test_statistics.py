"""The bootstrap against its defining recursion, the block length against arch, intervals against their coverage."""

import json
import math

import arch.bootstrap
import empyrical
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from arch.bootstrap._samplers_python import stationary_bootstrap_sample_python
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from jaxppo import statistics
from jaxppo.envs.simulators.bootstrap import stationary_indices
from jaxppo.risk import metrics
from jaxppo.statistics import bootstrap, resampling
from jaxppo.statistics.calibration import _student_quantile


def autoregression(coefficient: float, n: int, seed: int = 0) -> np.ndarray:
    """AR(1) with standard normal shocks, started at its first shock."""
    shocks = np.random.default_rng(seed).standard_normal(n)
    series = np.empty(n)
    series[0] = shocks[0]
    for t in range(1, n):
        series[t] = coefficient * series[t - 1] + shocks[t]
    return series


def mean(returns: jax.Array) -> jax.Array:
    return jnp.mean(returns)


def sharpe_per_bar(returns: jax.Array) -> jax.Array:
    return metrics.sharpe(returns, periods=1.0)


@settings(max_examples=40, deadline=None)
@given(
    start=hypothesis_numpy.arrays(np.int32, 17, elements=st.integers(0, 16)),
    uniform=hypothesis_numpy.arrays(np.float32, 17, elements=st.floats(0, 1, width=32, exclude_max=True)),
    probability=st.sampled_from([0.0625, 0.25, 0.5, 1.0]),
)
def test_indices_follow_the_recursion(start: np.ndarray, uniform: np.ndarray, probability: float) -> None:
    expected = [int(start[0])]
    for fresh, u in zip(start[1:], uniform[1:], strict=True):
        expected.append(int(fresh) if u <= probability else (expected[-1] + 1) % 17)
    indices, _ = stationary_indices(start, uniform, probability, 17)
    np.testing.assert_array_equal(indices, expected)
    # The same from the sampler of arch, which overwrites its argument.
    np.testing.assert_array_equal(indices, stationary_bootstrap_sample_python(start.copy(), uniform, probability))


@pytest.mark.parametrize(
    ("n_resamples", "elements", "together"), [(2000, 648, 1000), (2000, 100, 2000), (7, 2**18, 4), (1, 2**30, 1)]
)
def test_resamples_that_are_computed_together(n_resamples, elements, together):
    """As many as memory allows; a few less where nothing is then left over."""
    assert resampling.batch_size(n_resamples, elements) == together
    assert together == 1 or together * elements <= resampling.BATCH_ELEMENTS


def test_blocks_have_the_mean_length_and_bars_are_equally_likely() -> None:
    n, mean_block, resamples = 50, 5.0, 4000
    keys = jax.random.split(jax.random.key(1), resamples)
    indices = np.asarray(jax.vmap(lambda key: statistics.stationary_bootstrap_indices(key, n, mean_block))(keys))
    assert indices.min() == 0
    assert indices.max() == n - 1
    continues = (indices[:, 1:] == (indices[:, :-1] + 1) % n).mean()
    # A fresh start lands on the next bar by chance once in n.
    assert continues == pytest.approx(1 - (1 / mean_block) * (1 - 1 / n), abs=0.005)
    counts = np.bincount(indices.ravel(), minlength=n) / indices.size
    np.testing.assert_allclose(counts, 1 / n, rtol=0.1)


@pytest.mark.parametrize("coefficient", [-0.5, 0.0, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("n", [250, 2000])
def test_block_length_equals_arch(coefficient: float, n: int) -> None:
    """Not on short series: arch scales autocorrelations by truncated sums, which can move the window by a lag."""
    series = autoregression(coefficient, n)
    stationary, circular = arch.bootstrap.optimal_block_length(series).to_numpy()[0]
    assert statistics.optimal_block_length(series) == pytest.approx(max(1.0, stationary), rel=1e-10)
    assert statistics.optimal_block_length(series, circular=True) == pytest.approx(max(1.0, circular), rel=1e-10)
    assert statistics.optimal_block_length(3.0 - 0.01 * series) == pytest.approx(max(1.0, stationary), rel=1e-8)


def test_block_length_of_a_panel_and_of_next_to_nothing() -> None:
    noise, trend = autoregression(0.0, 2000, seed=3), autoregression(0.9, 2000)
    panel = statistics.optimal_block_length(np.stack([noise, trend], axis=1))
    assert panel == statistics.optimal_block_length(trend) > statistics.optimal_block_length(noise)
    for n in range(30):
        assert 1.0 <= statistics.optimal_block_length(autoregression(0.8, n + 1)) <= max(1, math.ceil((n + 1) / 3))
        assert statistics.optimal_block_length(np.full(n, 0.01)) == 1.0
    with pytest.raises(ValueError, match="not finite"):
        statistics.optimal_block_length(np.array([0.1, np.nan, 0.2]))


def test_interval_covers_the_true_sharpe_at_its_level() -> None:
    """200 samples of iid normal returns: a 90 % interval covers 90 % of them, give or take three standard errors."""
    true = 0.1
    samples = np.random.default_rng(5).normal(true * 0.01, 0.01, (200, 150)).astype(np.float32)
    covered = 0
    for replication, returns in enumerate(samples):
        key = jax.random.fold_in(jax.random.key(2), replication)
        low, high = statistics.bootstrap_interval(
            key, returns, sharpe_per_bar, level=0.90, n_resamples=300, mean_block=1.0
        )
        assert low < float(np.mean(returns) / np.std(returns, ddof=1)) < high
        covered += low <= true <= high
    assert 0.90 - 0.065 <= covered / len(samples) <= 0.90 + 0.065


def test_blocks_widen_the_interval_of_a_trending_series() -> None:
    """The mean of an AR(1) with coefficient 0.8 has three times the standard error of independent draws."""
    series = autoregression(0.8, 1500, seed=2)
    widths = {}
    for block in (1.0, None):
        low, high = statistics.bootstrap_interval(jax.random.key(3), series, mean, n_resamples=1000, mean_block=block)
        widths[block] = high - low
    independent = 2 * 1.96 * series.std() / math.sqrt(len(series))
    assert widths[1.0] == pytest.approx(independent, rel=0.1)
    assert 2.2 < widths[None] / widths[1.0] < 3.5


def test_calibration_widens_by_what_blocks_cut_and_leaves_independent_bars_alone() -> None:
    """Of an AR(1) with coefficient 0.6 the long-run variance is (1 + 0.6) / (1 - 0.6) = 4 times that of a bar."""
    trend, noise = autoregression(0.6, 20_000), autoregression(0.0, 20_000)
    for block in (4.0, 20.0):
        within = statistics.bootstrap_variance(trend[:, None], block)[0]
        expected = math.sqrt(4.0 * trend.var() / within)
        assert statistics.widening(trend, block, 0.95) == pytest.approx(expected, rel=0.05)
    assert statistics.widening(noise, 1.0, 0.95) == pytest.approx(1.0, abs=0.02)
    short = statistics.widening(autoregression(0.0, 60), 1.0, 0.95)
    assert 1.0 < short < 1.3, "Student's t of few independent stretches"
    assert statistics.widening(np.zeros(50), 1.0, 0.95) == statistics.widening(noise[:3], 1.0, 0.95) == 1.0
    assert statistics.widened_level(0.95, 1.0) == pytest.approx(0.95, abs=1e-12)
    assert statistics.widened_level(0.95, 2.0) == pytest.approx(scipy.stats.norm.cdf(3.919928) * 2 - 1, abs=1e-7)
    for degrees in (5.0, 30.0):
        assert _student_quantile(1.959964, degrees) == pytest.approx(scipy.stats.t.ppf(0.975, degrees), rel=0.01)


def test_ends_are_the_order_statistics_rounded_outwards() -> None:
    resampled = np.arange(1, 101, dtype=np.float64)[::-1]
    assert bootstrap.percentile_interval(resampled, 0.90) == (5.0, 96.0)
    few_undefined = np.where(resampled <= 4, np.nan, resampled)
    assert bootstrap.percentile_interval(few_undefined, 0.90) == (9.0, 96.0)
    too_many = np.where(resampled <= 6, np.nan, resampled)
    assert np.isnan(bootstrap.percentile_interval(too_many, 0.90)).all()
    assert bootstrap.percentile_interval(np.full(100, np.inf), 0.90) == (np.inf, np.inf)


def test_one_lucky_trade_is_not_evidence() -> None:
    """Most resamples of a single trade contain it, with a positive Sharpe; those without it must not be forgotten."""
    returns = np.zeros(200, np.float32)
    returns[77] = 0.05
    low, high = statistics.bootstrap_interval(jax.random.key(0), returns, sharpe_per_bar, n_resamples=300)
    assert np.isnan([low, high]).all()


def test_metric_of_any_shape_in_batches_that_bound_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    returns = np.random.default_rng(0).normal(0, 0.01, (60, 3)).astype(np.float32)

    def per_column(panel: jax.Array) -> jax.Array:
        return metrics.volatility(panel, axis=0)

    key = jax.random.key(4)
    low, high = statistics.bootstrap_interval(key, returns, per_column, n_resamples=50)
    assert low.shape == high.shape == (3,)
    assert (low < high).all()
    compiled = bootstrap.resampled_metric._cache_size()
    statistics.bootstrap_interval(jax.random.key(5), 2 * returns, per_column, n_resamples=50, mean_block=2.0)
    assert bootstrap.resampled_metric._cache_size() == compiled, "same shapes, same metric: nothing recompiles"
    monkeypatch.setattr(resampling, "BATCH_ELEMENTS", 7 * returns.size)
    bootstrap.resampled_metric.clear_cache()
    again = statistics.bootstrap_interval(jax.random.key(4), returns, per_column, n_resamples=50)
    np.testing.assert_allclose(again, (low, high), rtol=1e-6)


def test_difference_interval_cancels_what_is_common() -> None:
    rng = np.random.default_rng(8)
    market = rng.normal(0.0, 0.01, 300).astype(np.float32)
    agent = market + rng.normal(0.001, 0.001, 300).astype(np.float32)
    arguments = {"metric": mean, "n_resamples": 400, "mean_block": 1.0}
    low, high = statistics.bootstrap_difference_interval(jax.random.key(6), agent, market, **arguments)
    assert 0 < low < 0.001 < high < 0.002
    alone = statistics.bootstrap_interval(jax.random.key(6), agent, **arguments)
    assert high - low < 0.2 * (alone[1] - alone[0])
    same = statistics.bootstrap_difference_interval(jax.random.key(6), market, market, **arguments)
    np.testing.assert_allclose(same, 0.0, atol=1e-9)


def test_wrong_arguments_are_named() -> None:
    key, returns = jax.random.key(0), np.zeros(5, np.float32)
    wrong = {
        r"level is 95": {"level": 95},
        r"n_resamples is 1": {"n_resamples": 1},
        r"mean_block is 0.5": {"mean_block": 0.5},
    }
    for message, arguments in wrong.items():
        with pytest.raises(ValueError, match=message):
            statistics.bootstrap_interval(key, returns, mean, **arguments)
    with pytest.raises(ValueError, match="empty"):
        statistics.bootstrap_interval(key, returns[:0], mean)
    with pytest.raises(ValueError, match="5 bars"):
        statistics.bootstrap_difference_interval(key, returns, returns[:4], mean)


SUMMARY_KEYS = ["sharpe", "sharpe_ci", "sortino", "calmar", "max_drawdown", "cvar_95", "win_rate", "total_return"]
SUMMARY_KEYS += ["annual_return", "volatility"]


def test_summary_of_ordinary_returns() -> None:
    returns = np.random.default_rng(7).standard_t(5, 300) * 0.008 + 0.0005
    summary = statistics.summarise(returns, periods=252, key=jax.random.key(0), n_resamples=300)
    assert list(summary) == [*SUMMARY_KEYS, "n_bars"]
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    low, high = summary["sharpe_ci"]
    assert low < summary["sharpe"] < high
    # The standard error of an annual Sharpe ratio is about sqrt(periods / n).
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(252 / 300), rel=0.25)
    assert summary["total_return"] == pytest.approx(np.prod(1 + returns) - 1, rel=1e-5)
    assert summary["annual_return"] == pytest.approx(empyrical.cagr(returns, annualization=252), rel=1e-5)
    assert summary["volatility"] == pytest.approx(empyrical.annual_volatility(returns, annualization=252), rel=1e-5)
    assert summary["calmar"] == pytest.approx(summary["annual_return"] / summary["max_drawdown"], rel=1e-5)
    assert 0 < summary["cvar_95"] < 0.1
    assert summary["n_bars"] == 300
    hourly = statistics.summarise(returns, periods=252 * 7, key=jax.random.key(0), n_resamples=300)
    np.testing.assert_allclose(hourly["sharpe_ci"], np.sqrt(7) * np.array([low, high]), rtol=1e-6)


def test_summary_of_degenerate_returns_is_still_json() -> None:
    flat = statistics.summarise(np.zeros(40), periods=252, key=jax.random.key(0), n_resamples=20)
    undefined = {"sharpe": None, "sharpe_ci": [None, None], "sortino": None, "calmar": None, "win_rate": None}
    assert flat == undefined | {"max_drawdown": 0.0, "cvar_95": 0.0, "total_return": 0.0, "n_bars": 40} | dict.fromkeys(
        ("annual_return", "volatility"), 0.0
    )
    one = statistics.summarise(np.array([-0.01]), periods=252, key=jax.random.key(0), n_resamples=20)
    assert one["sharpe_ci"] == [None, None]
    assert one["volatility"] is None
    assert [one["max_drawdown"], one["cvar_95"]] == pytest.approx([0.01, 0.01])
    rising = statistics.summarise(np.full(10, 0.01), periods=252, key=jax.random.key(0), n_resamples=20)
    json.dumps([flat, one, rising], allow_nan=False)
    with pytest.raises(ValueError, match="empty"):
        statistics.summarise(np.zeros(0), periods=252, key=jax.random.key(0))
