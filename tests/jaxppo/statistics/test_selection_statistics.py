"""PSR, DSR, PBO, SPA and the adjusted Sharpe ratio against their owners, hand-computed numbers and simulation."""

import itertools
import math

import ffn
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import quantstats
import scipy.stats
from arch.bootstrap import SPA
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxppo import statistics
from jaxppo.risk import metrics
from jaxppo.statistics import comparison
from jaxppo.statistics.resampling import resampled_means


def panel(n_bars: int, n_strategies: int, seed: int = 0) -> np.ndarray:
    """Fat-tailed returns with a common factor."""
    draws = np.random.default_rng(seed)
    common = draws.standard_t(5, (n_bars, 1))
    return 0.0003 + 0.008 * (draws.standard_t(5, (n_bars, n_strategies)) + 0.5 * common)


def dated(values: np.ndarray) -> pd.Series:
    return pd.Series(values, index=pd.bdate_range("2020-01-01", periods=len(values)))


@pytest.mark.parametrize("seed", range(3))
def test_psr_equals_quantstats_and_ffn(seed: int) -> None:
    returns = panel(300, 1, seed)[:, 0]
    with jax.enable_x64(True):
        ours = float(statistics.probabilistic_sharpe(returns, bias=False))
    assert ours == pytest.approx(quantstats.stats.probabilistic_sharpe_ratio(dated(returns)), rel=1e-12)
    assert float(statistics.probabilistic_sharpe(returns, bias=False)) == pytest.approx(ours, rel=1e-4)
    biased = float(statistics.probabilistic_sharpe(returns))
    assert 0 < abs(biased - ours) < 5e-3


def test_the_example_of_the_paper() -> None:
    """Annual ratio 2.5 over five years of 250 bars, 100 trials with annual variance 0.5, skewness -3, kurtosis 10."""
    with jax.enable_x64(True):
        spread = math.sqrt(0.5 / 250)
        hurdle = statistics.expected_maximum_sharpe(100, spread)
        assert float(hurdle) == pytest.approx(0.11317200186513214, rel=1e-12)
        sharpe = 2.5 / math.sqrt(250)
        assert float(statistics.probabilistic_sharpe_of(sharpe, 1250, -3.0, 10.0, hurdle)) == pytest.approx(
            0.90039683, abs=1e-8
        )
        fewer = statistics.expected_maximum_sharpe(46, spread)
        assert float(statistics.probabilistic_sharpe_of(sharpe, 1250, -3.0, 10.0, fewer)) == pytest.approx(
            0.95050171, abs=1e-8
        )


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 10**6), spread=st.floats(1e-4, 10))
def test_expected_maximum_equals_ffn(n: int, spread: float) -> None:
    expected = ffn.core.calc_expected_max_sharpe(n, spread)
    assert float(statistics.expected_maximum_sharpe(n, spread)) == pytest.approx(expected, rel=2e-5)


def test_dsr_equals_ffn() -> None:
    returns = panel(400, 30, 4)
    sharpes = returns.mean(0) / returns.std(0, ddof=1)
    best = returns[:, sharpes.argmax()]
    expected = ffn.core.calc_deflated_sharpe_ratio(dated(best), sharpes, nperiods=252, annualized_trials=False)
    with jax.enable_x64(True):
        assert float(statistics.deflated_sharpe(best, sharpes, bias=False)) == pytest.approx(expected, rel=1e-12)
        one = statistics.deflated_sharpe(best, sharpes[:1], bias=False)
        assert float(one) == float(statistics.probabilistic_sharpe(best, bias=False))
    severe, mild = (float(statistics.deflated_sharpe(best, sharpes, n_trials=n)) for n in (1000, 2.5))
    assert severe < expected < mild


def test_minimum_track_record_is_where_the_psr_reaches_the_level() -> None:
    with jax.enable_x64(True):
        returns = panel(500, 1, 8)[:, 0] + 0.002
        bars = statistics.minimum_track_record(returns, 0.05, level=0.95)
        sharpe = metrics.sharpe(returns, periods=1.0)
        shape = metrics.skewness(returns), metrics.kurtosis(returns, excess=False)
        assert float(statistics.probabilistic_sharpe_of(sharpe, bars, *shape, 0.05)) == pytest.approx(0.95, abs=1e-12)
        assert float(statistics.minimum_track_record(-returns)) == math.inf


def test_standard_error_of_normal_and_of_simulated_skewed_returns() -> None:
    draws = np.random.default_rng(0).exponential(1.0, (4000, 250)).astype(np.float32) - 0.9
    errors = np.asarray(statistics.sharpe_error(draws))
    spread = np.std(draws.mean(1) / draws.std(1, ddof=1))
    assert np.median(errors) == pytest.approx(spread, rel=0.06)


CORRELATIONS = {
    "independent": lambda n: np.eye(n),
    "clusters": lambda n: np.kron(np.eye(5), np.full((n // 5, n // 5), 0.98)) + 0.02 * np.eye(n),
    "one factor": lambda n: np.full((n, n), 0.5) + 0.5 * np.eye(n),
    "factor and clusters": lambda n: np.kron(np.eye(10), np.full((n // 10, n // 10), 0.5)) + 0.3 + 0.2 * np.eye(n),
}


@pytest.mark.parametrize("kind", CORRELATIONS)
def test_effective_trials_give_the_expected_maximum_of_correlated_ones(kind: str) -> None:
    """The hurdle from N effective trials and their spread is the mean maximum of correlated normals."""
    n = 100
    root = np.linalg.cholesky(CORRELATIONS[kind](n) + 1e-9 * np.eye(n))
    draws = np.random.default_rng(1).standard_normal((4000, n)) @ root.T
    truth = (draws.max(1) - draws.mean(1)).mean()
    effective = float(statistics.effective_trials(draws))
    hurdle = float(statistics.expected_maximum_sharpe(effective, draws.std(1, ddof=1).mean()))
    with_all = float(statistics.expected_maximum_sharpe(n, draws.std(1, ddof=1).mean()))
    assert hurdle == pytest.approx(truth, rel=0.3 if kind == "clusters" else 0.12)
    if kind == "clusters":
        assert abs(hurdle - truth) < abs(with_all - truth)


def test_effective_trials_of_copies_and_of_none() -> None:
    base = np.random.default_rng(2).standard_normal((600, 4))
    copies = np.repeat(base, 10, axis=1)
    assert float(statistics.effective_trials(copies)) == pytest.approx(4, rel=0.02)
    assert float(statistics.effective_trials(np.repeat(base[:, :1], 7, axis=1))) == pytest.approx(1, abs=0.05)
    assert float(statistics.effective_trials(base[:, :1])) == 1.0


def lo_by_hand(returns: np.ndarray, q: int, lags: int) -> tuple[float, float]:
    n, mean, variance = len(returns), returns.mean(), returns.var(ddof=1)
    centred = returns - mean
    rho = [np.sum(centred[k:] * centred[:-k]) / np.sum(centred**2) for k in range(1, min(lags, q - 1) + 1)]
    eta = q / math.sqrt(q + 2 * sum((q - k) * r for k, r in enumerate(rho, 1)))
    u = np.stack([centred, centred**2 - variance], axis=1)
    covariance = sum(
        (1 - abs(k) / (lags + 1)) * sum(np.outer(u[t], u[t - k]) for t in range(max(k, 0), min(n, n + k))) / n
        for k in range(-lags, lags + 1)
    )
    gradient = np.array([1 / math.sqrt(variance), -mean / (2 * variance**1.5)])
    return eta * mean / math.sqrt(variance), eta * math.sqrt(gradient @ covariance @ gradient / n)


def test_adjusted_sharpe_by_hand_and_for_independent_bars() -> None:
    draws = np.random.default_rng(3).standard_normal(600)
    smooth = 0.05 + draws[1:] + 0.6 * draws[:-1]
    with jax.enable_x64(True):
        for q, lags in ((12, 5), (4, 6), (252, 0)):
            ours = statistics.autocorrelation_adjusted_sharpe(smooth, periods=q, lags=lags)
            np.testing.assert_allclose(ours, lo_by_hand(smooth, q, lags), rtol=1e-10)
        # A moving average with rho_1 = 0.6 / 1.36: eta = q / sqrt(q + 2 (q - 1) rho_1) < sqrt(q).
        adjusted = statistics.autocorrelation_adjusted_sharpe(smooth, periods=252, lags=1).sharpe
    naive = smooth.mean() / smooth.std(ddof=1) * math.sqrt(252)
    assert float(adjusted) / naive == pytest.approx(1 / math.sqrt(1 + 2 * 251 / 252 * 0.6 / 1.36), rel=0.03)
    error = statistics.autocorrelation_adjusted_sharpe(draws, periods=252).standard_error
    assert float(error) == pytest.approx(math.sqrt(252 / 600), rel=0.12)


@pytest.mark.parametrize(("n_blocks", "n_bars", "n_strategies"), [(2, 50, 3), (6, 200, 7), (8, 333, 20)])
def test_pbo_equals_ffn(n_blocks: int, n_bars: int, n_strategies: int) -> None:
    returns = panel(n_bars, n_strategies, n_blocks)
    expected = ffn.core.calc_prob_backtest_overfitting(pd.DataFrame(returns), n_blocks, full_output=True)
    with jax.enable_x64(True):
        ours = statistics.probability_of_backtest_overfitting(returns, n_blocks)
    assert float(ours.probability) == expected["pbo"]
    np.testing.assert_allclose(ours.logits, expected["logits"], rtol=1e-12)
    single = statistics.probability_of_backtest_overfitting(returns.astype(np.float32), n_blocks)
    assert float(single.probability) == pytest.approx(expected["pbo"], abs=0.02)


def test_slope_and_loss_of_the_selected() -> None:
    returns, n_blocks = panel(160, 5, 9), 4
    with jax.enable_x64(True):
        ours = statistics.probability_of_backtest_overfitting(returns, n_blocks)
    blocks = returns.reshape(n_blocks, -1, 5)
    inside, outside = [], []
    for chosen in itertools.combinations(range(n_blocks), 2):
        other = [block for block in range(n_blocks) if block not in chosen]
        sharpes = [
            b.mean(0) / b.std(0, ddof=1) for b in (blocks[list(chosen)].reshape(-1, 5), blocks[other].reshape(-1, 5))
        ]
        inside.append(sharpes[0].max())
        outside.append(sharpes[1][sharpes[0].argmax()])
    np.testing.assert_allclose(ours.in_sample, inside, rtol=1e-10)
    np.testing.assert_allclose(ours.out_of_sample, outside, rtol=1e-10)
    assert float(ours.slope) == pytest.approx(scipy.stats.linregress(inside, outside).slope, rel=1e-9)
    assert float(ours.loss_probability) == np.mean(np.array(outside) < 0)


def test_a_real_edge_is_not_overfitting_and_idle_halves_count_as_zero() -> None:
    returns = panel(400, 10, 2)
    returns[:, 3] += 0.02
    returns[:200, 7] = 0.0
    found = statistics.probability_of_backtest_overfitting(returns, 8)
    assert float(found.probability) == 0.0
    assert float(found.loss_probability) == 0.0
    assert np.isfinite(found.logits).all()


@pytest.mark.parametrize("seed", range(3))
def test_spa_equals_arch_on_its_resamples(seed: int) -> None:
    """arch does not studentise its statistic; its own resampled means go into our p-values."""
    returns, block = panel(250, 8, seed), 5
    returns[:, 2:5] -= 0.004
    theirs = SPA(np.zeros(250), -returns, block_size=block, reps=300, seed=seed)
    theirs.compute()
    error = np.sqrt(statistics.bootstrap_variance(returns, float(block)))
    np.testing.assert_allclose(error**2, theirs._loss_diff_var, rtol=1e-10)
    resampled = theirs._simulated_vals[:, :, 2].T
    ours = comparison._ability(resampled, returns.mean(0), error, 250, studentised=False)
    np.testing.assert_array_equal(ours, theirs.pvalues.to_numpy())
    free = statistics.superior_predictive_ability(
        jax.random.key(seed), returns, n_resamples=2000, mean_block=block, studentised=False
    )
    np.testing.assert_allclose(free, ours, atol=0.09)
    assert free.lower <= free.consistent <= free.upper
    arguments = {"n_resamples": 2000, "mean_block": block}
    assert statistics.reality_check(jax.random.key(seed), returns, **arguments) == free.upper


def test_spa_finds_an_edge_among_wild_losers() -> None:
    """Studentised: the losers' variance does not hide the winner; against itself as the benchmark nothing is found."""
    returns = panel(300, 12, 1)
    returns[:, 1:] = 5 * returns[:, 1:] - 0.02
    returns[:, 0] += 0.002
    found = statistics.superior_predictive_ability(jax.random.key(0), returns, n_resamples=500)
    assert found.consistent < 0.02
    assert statistics.reality_check(jax.random.key(0), returns, n_resamples=500) > found.consistent
    losers = statistics.superior_predictive_ability(jax.random.key(0), returns[:, 1:], returns[:, 0], n_resamples=100)
    assert losers == (1.0, 1.0, 1.0)


def test_means_of_resamples_are_those_of_the_bars_drawn() -> None:
    series = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    means = np.asarray(resampled_means(jax.random.key(3), series, 4.0, 6))
    for one, row in zip(jax.random.split(jax.random.key(3), 6), means, strict=True):
        bars = np.asarray(statistics.stationary_bootstrap_indices(one, 40, 4.0))
        np.testing.assert_allclose(series[bars].mean(axis=0), row, rtol=1e-5, atol=1e-6)


def mean(returns: jax.Array) -> jax.Array:
    return jnp.mean(returns)


def test_paired_test_sees_what_two_intervals_do_not() -> None:
    draws = np.random.default_rng(8)
    market = draws.normal(0.0, 0.01, 300).astype(np.float32)
    agent = market + draws.normal(0.0004, 0.002, 300).astype(np.float32)
    found = statistics.paired_test(jax.random.key(0), agent, market, mean, n_resamples=999, mean_block=1.0)
    assert found.difference == pytest.approx(float(agent.mean() - market.mean()), rel=1e-3)
    t_test = scipy.stats.ttest_rel(agent, market)
    assert found.p_value == pytest.approx(t_test.pvalue, abs=0.02)
    assert (found.p_value < 0.05) == (found.low > 0)
    same = statistics.paired_test(jax.random.key(0), market, market, mean, n_resamples=99)
    assert same.p_value == 1.0


def test_all_are_jittable_where_they_are_functions_of_arrays() -> None:
    returns = panel(120, 6, 3).astype(np.float32)
    best = returns[:, 0]
    sharpes = returns.mean(0) / returns.std(0, ddof=1)
    jitted = jax.jit(
        lambda x, s, p: (
            statistics.probabilistic_sharpe(x),
            statistics.minimum_track_record(x),
            statistics.deflated_sharpe(x, s, n_trials=statistics.effective_trials(p)),
            statistics.autocorrelation_adjusted_sharpe(x),
            statistics.probability_of_backtest_overfitting(p, 4),
        )
    )(best, sharpes, returns)
    np.testing.assert_allclose(jitted[0], statistics.probabilistic_sharpe(best), rtol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jitted[2:]))


GOOD = panel(64, 3, 0)
BAD = GOOD.copy()
BAD[5, 1] = np.nan
WRONG = {
    r"returns has 2 bars; at least 3": lambda: statistics.probabilistic_sharpe(GOOD[:2, 0]),
    r"returns\[5\] is nan": lambda: statistics.probabilistic_sharpe(BAD[:, 1]),
    r"constant": lambda: statistics.probabilistic_sharpe(np.full(10, 0.01)),
    r"level is 0.5": lambda: statistics.minimum_track_record(GOOD[:, 0], level=0.5),
    r"n_trials is 0": lambda: statistics.expected_maximum_sharpe(0, 0.1),
    r"spread is -1": lambda: statistics.expected_maximum_sharpe(3, -1.0),
    r"trial_sharpes has a value": lambda: statistics.deflated_sharpe(GOOD[:, 0], np.array([0.1, np.nan])),
    r"trial_sharpes has shape": lambda: statistics.deflated_sharpe(GOOD[:, 0], np.zeros(0)),
    r"lags is 64": lambda: statistics.autocorrelation_adjusted_sharpe(GOOD[:, 0], lags=64),
    r"periods is 0": lambda: statistics.autocorrelation_adjusted_sharpe(GOOD[:, 0], periods=0),
    r"n_blocks is 5": lambda: statistics.probability_of_backtest_overfitting(GOOD, 5),
    r"returns has 64 bars; at least 80": lambda: statistics.probability_of_backtest_overfitting(GOOD, 40),
    r"holds 1 strategies; at least 2": lambda: statistics.probability_of_backtest_overfitting(GOOD[:, :1], 4),
    r"returns\[5, 1\] is nan": lambda: statistics.probability_of_backtest_overfitting(BAD, 4),
    r"benchmark has shape": lambda: statistics.reality_check(jax.random.key(0), GOOD, np.zeros(5)),
    r"less benchmark are constant": lambda: statistics.reality_check(jax.random.key(0), GOOD, GOOD[:, 0]),
    r"mean_block is 0.5": lambda: statistics.reality_check(jax.random.key(0), GOOD, mean_block=0.5),
    r"n_resamples is 1": lambda: statistics.paired_test(jax.random.key(0), GOOD[:, 0], GOOD[:, 1], mean, n_resamples=1),
    r"second \(63,\)": lambda: statistics.paired_test(jax.random.key(0), GOOD[:, 0], GOOD[:63, 1], mean),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_arguments_are_named(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WRONG[message]()
