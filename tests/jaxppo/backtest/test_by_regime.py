"""By regime: what pandas says of each, resamples that carry their regimes along, coverage, no look ahead."""

import functools
import types

import arch.bootstrap
import empyrical
import jax
import numpy as np
import pandas as pd
import pytest
import scipy.stats
from causality import assert_causal
from report_pages import Page

from jaxppo.backtest import by_regime
from jaxppo.backtest.by_regime import Account, figures_by_regime
from jaxppo.config import RegimesConfig
from jaxppo.envs import simulators
from jaxppo.envs.market.features import REGIMES
from jaxppo.envs.market.regimes import market_regime, stretches
from jaxppo.report.by_regime import section as by_regime_section
from jaxppo.run.periods import Period
from jaxppo.statistics import conditional_intervals, stationary_bootstrap_indices, widened_level, widening
from jaxppo.statistics.block_length import flat_top

PERIODS = 252.0


def switching(rng: np.random.Generator, shape: tuple[int, int], stay: float, memory: float, mean, spread):
    """Returns `[n, S]` that remember, and regimes `[n]` of a Markov chain in which they have that mean and spread."""
    moves, noise = rng.random(shape[0]) >= stay, rng.standard_normal(shape)
    regimes = np.cumsum(np.where(moves, rng.integers(1, len(mean), shape[0]), 0)) % len(mean)
    for t in range(1, shape[0]):
        noise[t] = memory * noise[t - 1] + np.sqrt(1.0 - memory**2) * noise[t]
    return mean[regimes, None] + spread[regimes, None] * noise, regimes


def random_account(rng: np.random.Generator, n: int) -> Account:
    gross = rng.random(n)
    returns, costs, turnover = rng.normal(0.001, 0.02, n), 1e-4 * rng.random(n), rng.random(n)
    return Account(returns=returns, costs=costs, turnover=turnover, gross=gross, net=gross * rng.choice([-1, 1], n))


@pytest.fixture(scope="module")
def example() -> tuple[dict[str, Account], np.ndarray, dict]:
    """Two accounts over 400 bars; a crisis of 12 bars, and 20 bars of which nothing is known."""
    rng = np.random.default_rng(0)
    regimes = np.repeat(rng.integers(0, 3, 80), 5)
    regimes[100:112], regimes[300:320] = 3, -1
    accounts = {"agent": random_account(rng, 400), "<b>hold": random_account(rng, 400)}
    found = figures_by_regime(jax.random.key(0), accounts, regimes, periods=PERIODS, n_resamples=200)
    return accounts, regimes, found


def test_figures_are_those_of_a_pandas_groupby(example) -> None:
    accounts, regimes, found = example
    for who, account in accounts.items():
        frame = pd.DataFrame(vars(account) | {"regime": regimes})
        groups = frame[frame["regime"] >= 0].groupby("regime")
        mean, spread = groups.mean(), groups["returns"].std()
        names = [REGIMES[number] for number in mean.index]
        assert list(found[who]) == names == list(REGIMES)

        def column(name: str, of: dict = found[who]) -> list:
            return [figures[name] for figures in of.values()]

        told = {name: figures for name, figures in found[who].items() if name != "crisis"}
        yearly = mean["returns"][[REGIMES.index(name) for name in told]] * PERIODS
        np.testing.assert_allclose(column("annual_return", told), yearly, rtol=1e-12)
        np.testing.assert_allclose(column("volatility"), spread * PERIODS**0.5, rtol=1e-12)
        ratio = (yearly / spread / PERIODS**0.5).dropna()
        np.testing.assert_allclose(column("sharpe", told), ratio, rtol=1e-12)
        for name in ("costs", "turnover"):
            np.testing.assert_allclose(column(name), mean[name] * PERIODS, rtol=1e-12)
        for name in ("gross", "net"):
            np.testing.assert_allclose(column(name), mean[name], rtol=1e-12)
        assert column("n_bars") == list(groups.size())
        np.testing.assert_allclose(column("share"), groups.size() / 400)
        assert sum(column("n_bars")) == 380, "unknown bars are in no regime"


def test_drawdowns_within_a_stretch_are_empyricals(example) -> None:
    accounts, regimes, found = example
    numbers = np.cumsum(np.r_[True, np.diff(regimes) != 0])
    for who, account in accounts.items():
        frame = pd.DataFrame({"returns": account.returns, "regime": regimes, "stretch": numbers})
        each = frame.groupby(["regime", "stretch"])["returns"].apply(empyrical.max_drawdown)
        worst, count = -each.groupby("regime").min(), each.groupby("regime").size()
        for number, name in enumerate(REGIMES):
            assert found[who][name]["max_drawdown"] == pytest.approx(worst[number], rel=1e-9)
            assert found[who][name]["stretches"] == count[number]
    assert by_regime.worst_drawdown(np.array([0.1, 0.1]), np.array([True, True])) == 0.0
    assert by_regime.worst_drawdown(np.array([-0.1, -0.5, -0.2]), np.array([True, False, True])) == pytest.approx(0.2)


def test_intervals_are_those_of_resamples_that_pandas_groups() -> None:
    """The same bars drawn, grouped by regime in each resample; blocks as arch chooses them for the influence."""
    rng, mean, spread = np.random.default_rng(3), np.array([1e-3, -2e-3]), np.array([0.01, 0.02])
    returns, regimes = switching(rng, (200, 1), 0.9, 0.5, mean, spread)
    n_resamples, inside = 150, regimes == 1
    found = conditional_intervals(jax.random.key(5), returns, inside, level=0.9, n_resamples=n_resamples)
    returns = returns[:, 0]
    influence = np.where(inside, returns - returns[inside].mean(), 0.0)
    block = float(arch.bootstrap.optimal_block_length(influence)["stationary"].iloc[0])
    assert block > 1.5
    drawn = jax.jit(jax.vmap(functools.partial(stationary_bootstrap_indices, n=200, mean_block=block)))
    means, sharpes = [], []
    for bars in np.asarray(drawn(jax.random.split(jax.random.key(5), n_resamples))):
        own = pd.Series(returns[bars]).groupby(regimes[bars])
        means.append(own.mean()[1])
        sharpes.append(means[-1] / own.std()[1])
    tail = (1.0 - widened_level(0.9, widening(influence, block, 0.9, bars=int(inside.sum())))) / 2.0
    for ours, theirs in ((found.mean, means), (found.sharpe, sharpes)):
        low, high = np.quantile(theirs, tail, method="lower"), np.quantile(theirs, 1.0 - tail, method="higher")
        np.testing.assert_allclose(np.ravel(ours), [low, high], rtol=2e-4)


def test_intervals_cover_the_mean_and_the_sharpe_ratio_of_each_regime() -> None:
    """200 series that remember, ten on each path of the regimes; bars that are taken to be independent would not."""
    mean, spread, rng = np.array([1e-3, -1e-3, -2e-3]), np.array([0.005, 0.01, 0.03]), np.random.default_rng(0)
    covered, naive = [], []
    for path in range(20):
        returns, regimes = switching(rng, (400, 10), 0.96, 0.35, mean, spread)
        for regime in range(3):
            inside = regimes == regime
            key = jax.random.key(3 * path + regime)
            found = conditional_intervals(key, returns, inside, n_resamples=200)
            for (low, high), true in zip(found, (mean[regime], mean[regime] / spread[regime]), strict=True):
                covered += [np.where(np.isnan(low), np.nan, (low <= true) & (true <= high))]
            own = returns[inside]
            naive += list(abs(own.mean(axis=0) - mean[regime]) <= 1.96 * own.std(axis=0, ddof=1) / len(own) ** 0.5)
    covered = np.reshape(covered, (60, 2, 10))
    assert np.isfinite(covered).mean() > 0.9
    np.testing.assert_allclose(np.nanmean(covered, axis=(0, 2)), 0.95, atol=0.025)
    assert np.mean(naive) < 0.9


def test_one_stretch_alone_tells_nothing_and_copies_count_alike(example) -> None:
    _, _, found = example
    crisis = found["agent"]["crisis"]
    assert crisis["n_bars"] == 12 < by_regime.LEAST_BARS
    assert not {"sharpe", "sharpe_ci", "annual_return", "annual_return_ci"} & set(crisis), "too few to tell"
    assert crisis["volatility"] > 0
    bull = found["agent"]["bull"]
    assert bull["annual_return_ci"][0] < bull["annual_return"] < bull["annual_return_ci"][1]
    assert bull["sharpe_ci"][0] < bull["sharpe"] < bull["sharpe_ci"][1]
    nothing = Account(*(np.zeros(400) for _ in range(5)))
    regimes = np.repeat([0, 1], 200)
    flat = figures_by_regime(jax.random.key(0), {"flat": nothing}, regimes, periods=PERIODS, n_resamples=200)["flat"]
    assert list(flat) == ["bull", "bear"], "regimes that did not occur are left out"
    assert flat["bull"]["sharpe"] is None
    assert flat["bull"]["annual_return_ci"] == [0.0, 0.0]
    with pytest.raises(ValueError, match=r"returns of 'flat' has shape \(400,\)"):
        figures_by_regime(jax.random.key(0), {"flat": nothing}, regimes[:-1], periods=PERIODS)


def test_few_bars_have_no_interval_however_they_lie(example) -> None:
    accounts, _, _ = example
    for n_bars in (by_regime.LEAST_BARS - 1, by_regime.LEAST_BARS):
        regimes = np.zeros(400, int)
        regimes[13 * np.arange(n_bars)] = 3
        found = figures_by_regime(jax.random.key(0), accounts, regimes, periods=PERIODS, n_resamples=200)
        assert ("sharpe" in found["agent"]["crisis"]) == (n_bars >= by_regime.LEAST_BARS)


def test_students_t_counts_the_bars_inside() -> None:
    influence = np.where(np.arange(600) % 4 == 0, np.random.default_rng(1).normal(0.0, 0.01, 600), 0.0)
    window = flat_top(influence).window
    inside, whole = (scipy.stats.t.ppf(0.975, bars / window) for bars in (150, 600))
    assert inside > 1.003 * whole
    assert widening(influence, 1.0, 0.95, bars=150) == pytest.approx(
        inside / whole * widening(influence, 1.0, 0.95), 1e-4
    )


def test_a_table_shows_no_sharpe_ratio_without_its_interval(example) -> None:
    _, _, found = example
    page = Page(by_regime_section(found, 0.95))
    assert page.open == []
    assert "<b>hold" in page.cells, "names are shown, not run"
    bull = found["agent"]["bull"]
    begin = next(i for i, cell in enumerate(page.cells) if cell.startswith("crisis12 bars in 1 stretch,3.00 %"))
    assert page.cells[begin + 1 : begin + 4] == ["agent", "too few bars to tell", "too few bars to tell"]
    assert f"{bull['sharpe']:.2f} [{bull['sharpe_ci'][0]:.2f}, {bull['sharpe_ci'][1]:.2f}]" in page.cells
    assert by_regime_section({"agent": {}}, 0.95) == ""


def test_regimes_of_a_run_without_any_are_by_rules_and_look_at_nothing_later() -> None:
    market = simulators.gbm(jax.random.key(2), 300, 2, volatility=0.3)
    setup = types.SimpleNamespace(
        config=types.SimpleNamespace(regimes=RegimesConfig(trend_window=20, volatility_window=60, drawdown_window=40)),
        periods={"test": Period(0, 299)},
        regimes=None,
    )

    def found(market) -> np.ndarray:
        setup.market = market
        return by_regime.regimes_over(setup, setup.periods["test"])

    whole = found(market)
    assert len(set(whole)) > 1
    assert_causal(found, market, 200, jax.random.key(3))
    setup.periods = {"test": Period(100, 250)}
    np.testing.assert_array_equal(found(market), whole[100:251])
    setup.regimes = np.full((300, 2, 4), 0.25) + np.arange(4) * (np.arange(300) > 120)[:, None, None]
    np.testing.assert_array_equal(found(market), np.where(np.arange(100, 251) > 120, 3, 0), "the run's own come first")


def test_one_regime_for_a_market() -> None:
    probability = np.array([[[0.6, 0.4, 0, 0], [0.1, 0.9, 0, 0]], [[np.nan] * 4, [0, 0, 0, 1]], [[np.nan] * 4] * 2])
    assert list(market_regime(probability)) == [1, 3, -1]
    begins, ends = stretches(np.array([2, 2, 0, 0, 0, -1]))
    assert (list(begins), list(ends)) == ([0, 2, 5], [2, 5, 6])
    assert [len(edges) for edges in stretches(np.zeros(0, int))] == [0, 0]


WRONG = {
    r"inside \(3,\)": lambda: conditional_intervals(jax.random.key(0), np.ones((4, 1)), np.ones(3, bool)),
    r"level is 2": lambda: conditional_intervals(jax.random.key(0), np.ones((4, 1)), np.ones(4, bool), level=2),
    r"n_resamples is 1": lambda: conditional_intervals(
        jax.random.key(0), np.ones((4, 1)), np.ones(4, bool), n_resamples=1
    ),
    r"not finite": lambda: conditional_intervals(jax.random.key(0), np.full((4, 1), np.nan), np.ones(4, bool)),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_arguments_are_named(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WRONG[message]()
