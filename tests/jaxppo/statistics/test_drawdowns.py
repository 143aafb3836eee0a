"""The drawdown table by hand and against ffn, the one-pass extraction against the table, Kaplan-Meier against scipy."""

import types

import ffn
import jax
import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from jaxppo.backtest import running_statistics
from jaxppo.envs.execution.costs import TradeCosts
from jaxppo.statistics import drawdowns, recovery


def walk(n: int, seed: int, drift: float = 0.0005) -> np.ndarray:
    steps = np.random.default_rng(seed).normal(drift, 0.01, n)
    return 100.0 * np.exp(np.concatenate([[0.0], np.cumsum(steps)]))


HAND = np.array([10.0, 10.0, 9.0, 8.0, 8.0, 10.0, 12.0, 11.0, 12.5, 10.0, 11.0])


def test_table_by_hand() -> None:
    times = pd.bdate_range("2020-01-01", periods=len(HAND)).to_numpy()
    found = drawdowns.table(HAND, times)
    assert list(found["depth"]) == pytest.approx([0.2, 1 / 12, 0.2])
    assert list(found["peak"]) == [times[1], times[6], times[8]]
    assert list(found["trough"]) == [times[3], times[7], times[9]]
    assert list(found["recovery"][:2]) == [times[5], times[8]]
    assert pd.isna(found["recovery"][2])
    assert list(found["bars_to_trough"]) == [2, 1, 1]
    assert list(found["bars_to_recover"][:2]) == [2, 1]
    assert pd.isna(found["bars_to_recover"][2])
    assert list(found["bars"]) == [4, 2, 2]
    assert list(found["recovered"]) == [True, True, False]
    numbered = drawdowns.table(HAND, deepest=2)
    assert list(numbered["peak"]) == [1, 8]
    assert pd.isna(numbered["recovery"][1])
    assert drawdowns.table(np.arange(1.0, 9.0)).empty
    assert drawdowns.table(np.ones(1)).empty


@pytest.mark.parametrize("seed", range(4))
def test_table_equals_ffn(seed: int) -> None:
    prices = pd.Series(walk(600, seed), index=pd.bdate_range("2018-01-01", periods=601))
    theirs = ffn.core.drawdown_details(ffn.core.to_drawdown_series(prices))
    ours = drawdowns.table(prices.to_numpy(), prices.index.to_numpy())
    np.testing.assert_allclose(ours["depth"], -theirs["drawdown"].astype(float), rtol=1e-12)
    # ffn starts at the first bar below the peak, and ends an open drawdown at the last bar.
    np.testing.assert_array_equal(prices.index.get_indexer(ours["peak"]) + 1, prices.index.get_indexer(theirs["Start"]))
    np.testing.assert_array_equal(ours["recovery"].fillna(prices.index[-1]), theirs["End"])


@pytest.fixture(scope="module")
def deepest_three():
    return lambda equity: jax.device_get(drawdowns.deepest(equity, 3))


@settings(max_examples=60, deadline=None)
@given(equity=hypothesis_numpy.arrays(np.float32, 24, elements=st.sampled_from([5.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0])))
def test_one_pass_finds_the_deepest_of_the_table(equity: np.ndarray, deepest_three) -> None:
    expected = drawdowns.table(equity, deepest=3)
    found = deepest_three(equity[None])
    n = len(expected)
    np.testing.assert_allclose(found.depth[0, :n], expected["depth"], rtol=1e-5)
    assert (found.depth[0, n:] == 0).all()
    assert (found.peak[0, n:] == -1).all()
    for row in range(n):
        same_depth = expected[np.isclose(expected["depth"], found.depth[0, row], rtol=1e-5)]
        match = drawdowns.table(equity).set_index("peak").loc[found.peak[0, row]]
        assert same_depth["depth"].size
        assert (match["trough"], match["bars"]) == (found.trough[0, row], (found.recovery - found.peak)[0, row])
        assert match["recovered"] == found.recovered[0, row]


def test_one_pass_over_many_paths_and_the_future_changes_nothing_that_is_over() -> None:
    equity = np.stack([[walk(300, 10 * i + j) for j in range(3)] for i in range(2)]).astype(np.float32)
    found = jax.device_get(drawdowns.deepest(equity, 4))
    assert found.depth.shape == (2, 3, 4)
    for i, j in np.ndindex(2, 3):
        expected = drawdowns.table(equity[i, j], deepest=4)
        n = len(expected)
        np.testing.assert_array_equal(found.peak[i, j, :n], expected["peak"])
        np.testing.assert_array_equal(found.recovered[i, j, :n], expected["recovered"])
        assert (found.peak[i, j, n:] == -1).all()
    later = equity.copy()
    later[..., 250:] *= 2.0
    again = jax.device_get(drawdowns.deepest(later, 300))
    before = jax.device_get(drawdowns.deepest(equity, 300))
    over = before.recovered & (before.recovery < 250)
    assert over.sum() > 20
    assert set(zip(before.peak[over], before.depth[over], strict=True)) <= set(
        zip(again.peak.ravel(), again.depth.ravel(), strict=True)
    )


def test_running_statistics_keep_the_deepest_drawdown_of_every_account() -> None:
    curves = [walk(150, seed, drift) for seed in range(20) for drift in (-0.001, 0.003)]
    rising, sold = np.linspace(100.0, 200.0, 151), np.full(151, 100.0)
    dead = np.concatenate([walk(60, 3), np.zeros(90)])
    equity = np.stack([*curves, rising, sold, dead], axis=1).astype(np.float32)
    none, nothing = np.zeros((equity.shape[1], 1), np.float32), np.zeros(equity.shape[1], np.float32)

    def bar(state, pair):
        """Nothing but the equity changes."""
        before, after = (types.SimpleNamespace(equity=x) for x in pair)
        fills = types.SimpleNamespace(
            quantity=none, liquidation=none, costs=TradeCosts(none, none, none, none), financing=nothing, exited=()
        )
        outcome = types.SimpleNamespace(turnover=nothing, leverage=nothing, net=nothing)
        result = types.SimpleNamespace(before=before, after=after, fills=fills, outcome=outcome)
        step = types.SimpleNamespace(result=result, liquidated=after.equity <= 0)
        return state.update(step), None

    state = running_statistics.start(types.SimpleNamespace(equity=equity[0]))
    figures = jax.jit(lambda state, pairs: jax.lax.scan(bar, state, pairs)[0].figures(252.0, 0.5))(
        state, (equity[:-1], equity[1:])
    )
    kinds = set()
    for account in range(equity.shape[1]):
        deepest = drawdowns.table(equity[:, account], deepest=1)
        found = {name: np.asarray(figures[name])[account] for name in ("deepest_bars", "recovered", "max_drawdown")}
        if deepest.empty:
            assert found == {"deepest_bars": 0, "recovered": True, "max_drawdown": 0.0}
            continue
        assert found["deepest_bars"] == deepest["bars"][0]
        assert found["recovered"] == deepest["recovered"][0]
        np.testing.assert_allclose(found["max_drawdown"], deepest["depth"][0], atol=1e-6)
        kinds.add(bool(found["recovered"]))
    assert kinds == {True, False}
    assert figures["deepest_bars"][-1] == 150 - int(np.argmax(equity[:, -1])), "never recovered, seen to the end"


def test_kaplan_meier_by_hand() -> None:
    curve = recovery.kaplan_meier(np.array([1, 2, 2, 3, 5]), np.array([True, True, False, True, False]))
    np.testing.assert_array_equal(curve.bars, [1, 2, 3, 5])
    np.testing.assert_array_equal(curve.at_risk, [5, 4, 2, 1])
    np.testing.assert_allclose(curve.unrecovered, [0.8, 0.6, 0.3, 0.3])
    assert (curve.n_drawdowns, curve.n_censored, curve.median) == (5, 2, 3.0)
    assert [curve.after(t) for t in (0.5, 1, 2.9, 100)] == pytest.approx([1.0, 0.8, 0.6, 0.3])
    half = 1.959964 * np.sqrt(1 / 20 + 1 / 12) / np.log(0.6)
    assert curve.low[1] == pytest.approx(0.6 ** np.exp(-half), rel=1e-6)
    assert curve.high[1] == pytest.approx(0.6 ** np.exp(half), rel=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_kaplan_meier_equals_scipy(seed: int) -> None:
    draws = np.random.default_rng(seed)
    bars, recovered = draws.integers(1, 40, 120), draws.random(120) < 0.7
    curve = recovery.kaplan_meier(bars, recovered, level=0.9)
    data = scipy.stats.CensoredData(uncensored=bars[recovered], right=bars[~recovered])
    theirs = scipy.stats.ecdf(data).sf
    # scipy lists every length, ours too.
    np.testing.assert_array_equal(curve.bars, theirs.quantiles)
    np.testing.assert_allclose(curve.unrecovered, theirs.probabilities, rtol=1e-12)
    interval = theirs.confidence_interval(0.9, method="log-log")
    inside = (theirs.probabilities > 0) & (theirs.probabilities < 1)
    np.testing.assert_allclose(curve.low[inside], interval.low.probabilities[inside], rtol=1e-10)
    np.testing.assert_allclose(curve.high[inside], interval.high.probabilities[inside], rtol=1e-10)


def test_counting_censored_ones_as_over_would_be_too_fast() -> None:
    """Paths of 250 bars see half of what takes longer; the curve agrees with paths of 4,000 as far as it goes."""
    long = np.stack([walk(4000, seed) for seed in range(60)])
    curves = {}
    for n in (250, 4000):
        found = jax.device_get(drawdowns.deepest(long[:, : n + 1], 300))
        assert (found.depth[:, -1] == 0).all(), "none was left out"
        curves[n] = recovery.time_to_recovery(found)
    assert curves[250].n_censored > 20
    for bars in (5, 20, 60):
        assert curves[250].after(bars) == pytest.approx(curves[4000].after(bars), abs=0.05)


def test_by_regime_and_the_depth_that_counts() -> None:
    paths = np.stack([HAND, HAND]).astype(np.float32)
    found = jax.device_get(drawdowns.deepest(paths, 3))
    regimes = np.where(np.arange(len(HAND)) < 6, 0, 3)
    curves = recovery.time_to_recovery_by_regime(found, regimes)
    assert list(curves) == ["bull", "crisis"]
    assert [curves[name].n_drawdowns for name in curves] == [2, 4]
    assert curves["bull"].median == 4.0
    assert curves["crisis"].n_censored == 2
    at_trough = recovery.time_to_recovery_by_regime(found, np.where(np.arange(len(HAND)) < 3, 0, 1), at="trough")
    assert list(at_trough) == ["bear"]
    assert recovery.time_to_recovery(found, deeper_than=0.1).n_drawdowns == 4
    assert recovery.time_to_recovery(found, since="trough").bars.min() == 1


WRONG = {
    r"equity\[2\] is nan": lambda: drawdowns.table(np.array([1.0, 2.0, np.nan])),
    r"starts at 0": lambda: drawdowns.table(np.zeros(3)),
    r"times has 2": lambda: drawdowns.table(np.ones(3), np.zeros(2, "datetime64[D]")),
    r"deepest is 0": lambda: drawdowns.table(np.ones(3), deepest=0),
    r"no drawdown": lambda: recovery.kaplan_meier(np.zeros(0), np.zeros(0, bool)),
    r"positive": lambda: recovery.kaplan_meier(np.zeros(1), np.zeros(1, bool)),
    r"level is 2": lambda: recovery.kaplan_meier(np.ones(1), np.ones(1, bool), level=2),
    r"at is 'end'": lambda: recovery.time_to_recovery_by_regime(drawdowns.deepest(HAND, 2), np.zeros(11), at="end"),
    r"regimes has 3 points": lambda: recovery.time_to_recovery_by_regime(drawdowns.deepest(HAND, 2), np.zeros(3, int)),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_arguments_are_named(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WRONG[message]()
