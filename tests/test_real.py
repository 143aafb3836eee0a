"""The benchmark on real prices: its rules look at the past only, its placebos and planted trends are what they say."""

import jax
import numpy as np
import pytest

import jaxppo
from benchmarks import real
from benchmarks.real_figures import difference, drawdown_at, sharpe_of, volatility_at
from benchmarks.real_markets import SETS, planted, shuffled
from benchmarks.real_rules import Trading, policies
from jaxppo.envs import simulators
from jaxppo.envs.market.own_bars import own_bars
from jaxppo.envs.trading.view import MarketView
from tests.causality import assert_causal

pytestmark = pytest.mark.slow

REFITS = (330, 480, 630)


def simulated(n_bars=900, seed=0, n_assets=3, **options):
    return simulators.gbm(jax.random.key(seed), n_bars, n_assets, **options)


def ragged(market, start=100):
    """The market with a last asset that begins later and misses some bars; carry in it."""
    tradable = np.ones(market.close.shape, bool)
    tradable[:start, -1] = False
    tradable[start + 50 :: 37, -1] = False
    close = np.asarray(market.close).copy()
    close[:start, -1] = 1.0
    for bar in np.flatnonzero(~tradable[start:, -1]) + start:
        close[bar, -1] = close[bar - 1, -1]
    carry = np.where(tradable, np.random.default_rng(0).normal(0, 0.05, close.shape), np.nan).astype(np.float32)
    return market.replace(open=close, high=close, low=close, close=close, tradable=tradable, carry=carry)


@pytest.mark.parametrize("name", policies(Trading(0.1, 5.0, REFITS), carry=True))
def test_no_rule_reads_what_comes_after_its_decision(name):
    policy = policies(Trading(0.1, 5.0, REFITS), carry=True)[name]
    if name == "buy and hold":
        return  # it reads where assets can be traded, and nothing else
    market = jax.tree.map(jax.numpy.asarray, ragged(simulated()))
    assert_causal(
        lambda m: policy.table((), MarketView(m, 252.0, 1.0))["weights"], market, REFITS[1], jax.random.key(1)
    )


def test_fitted_rules_hold_nothing_before_their_first_fit_and_change_at_refits():
    market = jax.tree.map(jax.numpy.asarray, ragged(simulated(drift=2e-3)))
    other = market.replace(**{k: getattr(market, k).at[470:].multiply(1.5) for k in ("open", "high", "low", "close")})
    for name in ("ridge", "linear policy"):
        policy = policies(Trading(0.1, 5.0, REFITS), carry=True)[name]
        one, two = (np.asarray(policy.table((), MarketView(m, 252.0, 1.0))["weights"]) for m in (market, other))
        assert not one[: REFITS[0]].any()
        assert one[REFITS[0] :].any()
        np.testing.assert_array_equal(one[:470], two[:470])


def test_a_placebo_keeps_each_assets_bars_and_the_correlation_of_assets():
    market = ragged(simulated(4000, correlation=0.6), start=300)
    copy = shuffled(market, 3)
    own = own_bars(jax.numpy.asarray(market.tradable))

    def returns(m):
        packed = np.asarray(own.pack(jax.numpy.asarray(m.close)), np.float64)
        return [np.diff(np.log(packed[:n, a])) for a, n in enumerate(np.asarray(market.tradable).sum(axis=0))]

    for before, after in zip(returns(market), returns(copy), strict=True):
        np.testing.assert_allclose(np.sort(after), np.sort(before), atol=1e-5)
        assert np.abs(after - before).max() > 1e-3
    np.testing.assert_array_equal(
        np.asarray(copy.close)[~np.asarray(market.tradable) & (np.arange(4000) < 300)[:, None]], 1
    )
    both = [
        np.corrcoef(*(np.log(np.asarray(m.close)[1:, :2] / np.asarray(m.close)[:-1, :2])).T)[0, 1]
        for m in (market, copy)
    ]
    np.testing.assert_allclose(*both, atol=1e-3)


def test_a_placebo_has_lost_every_trend():
    market, _ = planted(simulated(12_000, n_assets=2), 3.0, 0)

    def dependence(m):
        change = np.diff(np.log(np.asarray(m.close, np.float64)), axis=0)
        change -= change.mean(axis=0)
        sums = np.add.reduceat(change, np.arange(0, len(change), 21), axis=0)
        return np.mean(sums[1:] * sums[:-1]) / np.mean(sums**2)

    assert dependence(market) > 0.2
    assert abs(dependence(shuffled(market, 1))) < 0.1


@pytest.mark.parametrize("declared", [pytest.param(0.5, marks=pytest.mark.slow), 1.0])
def test_a_planted_trend_adds_the_sharpe_ratio_that_is_declared(declared):
    """To the rule that follows it, in units of risk, by past closes alone; the standard error of the mean is 0.06."""
    found, base = [], simulated(6000, n_assets=4, correlation=0.5, volatility=0.01)
    for seed in range(12):
        market, signal = planted(base, declared, seed)
        gains = []
        for each in (market, shuffled(base, seed)):
            change = np.diff(np.log(np.asarray(each.close, np.float64)), axis=0)
            past = np.log(np.asarray(each.close, np.float64))
            past = (past[252:] - past[:-252]) / (change.std(axis=0) * 252**0.5)
            held = np.tanh(past[:-2])
            gains.append(sharpe_of(np.sum(held * change[253:] / change.std(axis=0), axis=1), 252.0))
            if each is market:
                np.testing.assert_allclose(signal[254:], held, atol=0.05)
        found.append(gains[0] - gains[1])
    assert abs(np.mean(found) - declared) < 0.2
    assert np.std(found) < 0.4


def test_sharpe_ratios_are_compared_at_equal_volatility():
    random = np.random.default_rng(0)
    rule = random.normal(4e-4, 0.01, 3000)
    better = difference(2.0 * rule + 1e-3, rule, 252.0)
    np.testing.assert_allclose(better["difference"], sharpe_of(rule + 5e-4, 252.0) - sharpe_of(rule, 252.0), rtol=1e-3)
    assert better["p_value"] < 0.01
    assert better["correlation"] == pytest.approx(1.0)
    assert difference(rule, 2.0 * rule + 1e-3, 252.0)["p_value"] > 0.99
    other = difference(random.normal(4e-4, 0.01, 3000), rule, 252.0)
    assert other["detectable"] == pytest.approx(2.49 * (2 * (1 - other["correlation"]) * 252 / 3000) ** 0.5)
    np.testing.assert_allclose(drawdown_at(rule, 252.0, 0.08), drawdown_at(3 * rule, 252.0, 0.08))
    assert drawdown_at(rule, 252.0, volatility_at(rule, 252.0, 0.05)) == pytest.approx(0.05)
    assert volatility_at(np.abs(rule), 252.0, 0.05) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["futures", "stocks"])
def test_agents_and_rules_trade_the_same_years(name, tmp_path):
    market = simulated(900)
    carry = np.zeros(market.close.shape, np.float32)
    market = market.replace(carry=carry) if name == "futures" else market
    keys = ["--training.steps", "64", "--training.evaluate_every", "1", "--walk_forward.seeds", "2"]
    keys += ["--ppo.paths", "2", "--ppo.portfolios", "1", "--ppo.chunk", "16", "--ppo.minibatches", "1"]
    keys += ["--policy.width", "8", "--policy.heads", "2", "--evaluation.bootstrap_resamples", "100"]
    config = jaxppo.load_config(SETS[name].config, keys)
    problem = real.Problem(market, config, first=360)
    found = real.real_test(problem, tmp_path / "run", resume=False)
    assert found["bars"] == [361, 360 + 2 * problem.year]
    gated = {"gated"} if name == "stocks" else set()
    assert ("traded_folds" in found) == ("base" in found["rules"]) == (name == "stocks")
    assert set(found["agents"]) == {"ensemble", "seed 0", "seed 1"} | gated
    assert set(found["agents"]["ensemble"]["against"]) == set(found["rules"])
