"""EDGE: against the authors' package, against a known spread, and without look-ahead."""

import bidask
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxppo.envs.market import spread


def random_bars(seed: int, n: int, tick: float) -> tuple[np.ndarray, ...]:
    """OHLC bars `[n]` on a price grid: with a coarse tick many bars do not move at all."""
    rng = np.random.default_rng(seed)
    trades = 50 * np.exp(np.cumsum(rng.normal(0, 0.003, (n, 5)).ravel())).reshape(n, 5)
    trades = np.maximum(np.round(trades / tick) * tick, tick)
    return trades[:, 0], trades.max(axis=1), trades.min(axis=1), trades[:, -1]


@given(seed=st.integers(0, 10**6), window=st.integers(4, 30), tick=st.sampled_from([0.0001, 0.25, 2.0]))
@settings(max_examples=25, deadline=None)
def test_equals_the_authors_estimator_on_every_window(seed, window, tick):
    """Where theirs is well-conditioned: the spread of prices in another currency must be the same."""
    bars = random_bars(seed, 60, tick)
    ours = spread.rolling_edge(*bars, window)
    assert np.isnan(ours[: window - 1]).all()
    for t in range(window - 1, 60):
        one = [x[t - window + 1 : t + 1] for x in bars]
        expected, rescaled = bidask.edge(*one, sign=True), bidask.edge(*(1.7 * x for x in one), sign=True)
        if np.isclose(expected, rescaled, rtol=1e-6, atol=1e-12, equal_nan=True):
            np.testing.assert_allclose(ours[t], expected, rtol=1e-5, atol=1e-8)


def test_recovers_a_known_spread():
    """Trades at mid +- 0.5 %, 100 a bar, of which one in ten is seen: the spread of 1 % is found within a tenth."""
    rng = np.random.default_rng(1)
    mid = np.exp(np.cumsum(rng.normal(0, 0.02 / 10, 2_000 * 100)))
    trades = (mid * (1 + 0.005 * rng.choice([-1, 1], mid.size))).reshape(2_000, 100)[:, ::10]
    bars = trades[:, 0], trades.max(axis=1), trades.min(axis=1), trades[:, -1]
    assert spread.rolling_edge(*bars, 2_000)[-1] == pytest.approx(0.01, rel=0.1)


@given(seed=st.integers(0, 10**6), t=st.integers(0, 79))
@settings(max_examples=20, deadline=None)
def test_later_bars_change_nothing(seed, t):
    bars = random_bars(seed, 80, 0.01)
    later = [np.where(np.arange(80) > t, x * 1.5, x) for x in bars]
    np.testing.assert_array_equal(spread.rolling_edge(*bars, 9)[: t + 1], spread.rolling_edge(*later, 9)[: t + 1])


def test_a_bad_print_leaves_no_trace_after_its_window():
    bars = random_bars(7, 200, 0.01)
    dirty = [x.copy() for x in bars]
    dirty[2][50] /= 1e6
    clean, hit = spread.rolling_edge(*bars, 20), spread.rolling_edge(*dirty, 20)
    assert abs(hit[55]) > 5 * abs(clean[55])
    np.testing.assert_allclose(hit[70:], clean[70:], rtol=1e-12)


def test_window_sums_by_hand():
    np.testing.assert_array_equal(spread._window_sums(np.array([1.0, 2, 3, 4, 5]), 3), [np.nan, np.nan, 6, 9, 12])


def test_floor_holds_before_the_window_is_full_and_where_prices_stand_still():
    flat = np.full(30, 10.0)
    np.testing.assert_array_equal(spread.estimated_half_spread(flat, flat, flat, flat, window=10, floor=2e-4), 2e-4)
    bars = random_bars(3, 100, 0.0001)
    half = spread.estimated_half_spread(*bars, window=10, floor=5e-4)
    assert (half[:9] == 5e-4).all()
    assert (half >= 5e-4).all()
    full = spread.rolling_edge(*bars, 10)
    above = full > 1e-3
    assert above.any()
    np.testing.assert_allclose(half[above], full[above] / 2)


def test_too_short_a_window_is_refused():
    with pytest.raises(ValueError, match="at least 3 bars, not 2"):
        spread.rolling_edge(*random_bars(0, 10, 0.01), 2)
    assert np.isnan(spread.rolling_edge(*random_bars(0, 4, 0.01), 5)).all()
