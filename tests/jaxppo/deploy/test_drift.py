"""Drift on arrays: its figures by hand and against other libraries, false alarms at the stated rate, power."""

import json
import math

import numpy as np
import pytest
import scipy.stats
from drift_worlds import ASSETS, FEATURES, feed, rows, stationary
from hypothesis import given
from hypothesis import strategies as st

from jaxppo.deploy.drift.fills import Fill, add_fills, cost_of
from jaxppo.deploy.drift.reference import History, Reference, make_reference, squared_returns, window_length
from jaxppo.deploy.drift.stability import N_BINS, UNKNOWN, bin_edges, categories, population_stability, window_limits
from jaxppo.deploy.drift.tracker import COST_BARS, Tracker
from jaxppo.errors import DataError

N_TRAIN = 1500


def referenced(history, n_train=N_TRAIN):
    return make_reference(rows(history, 0, n_train), features=FEATURES, symbols=ASSETS)


@pytest.fixture(scope="module")
def world():
    return stationary(0, N_TRAIN + 400)


@pytest.fixture(scope="module")
def reference(world):
    return referenced(world)


def test_stability_by_hand():
    live, expected = [0.2, 0.8], [0.5, 0.5]
    by_hand = -0.3 * math.log(0.4) + 0.3 * math.log(1.6)
    assert population_stability(live, expected, 1e-9) == pytest.approx(by_hand)
    assert population_stability([0.0, 1.0], [0.5, 0.5], 0.01) == pytest.approx(0.49 * math.log(50) + 0.5 * math.log(2))


@given(st.lists(st.integers(1, 100), min_size=11, max_size=11), st.lists(st.integers(1, 100), min_size=11, max_size=11))
def test_stability_is_the_symmetric_divergence_of_scipy(live, expected):
    p, q = np.asarray(live) / sum(live), np.asarray(expected) / sum(expected)
    both = scipy.stats.entropy(p, q) + scipy.stats.entropy(q, p)
    assert population_stability(p, q, 1e-9) == pytest.approx(both, rel=1e-9, abs=1e-12)


def test_bins_hold_a_tenth_each_as_numpy_counts(world, reference):
    values = world.features[:N_TRAIN, :, 5].astype(np.float64).ravel()
    edges = reference.edges[5]
    counted, _ = np.histogram(values, bins=[-np.inf, *edges, np.inf])
    np.testing.assert_array_equal(reference.shares[5], [*(counted / values.size), 0.0])
    np.testing.assert_allclose(counted / values.size, 0.1, atol=1e-3)
    np.testing.assert_allclose(edges, np.quantile(values, np.arange(0.1, 0.95, 0.1)), atol=0.01)


def test_ties_share_a_bin_and_a_constant_is_watched_on_both_sides():
    weekdays = np.repeat([0.0, 0.25, 0.5], [700, 200, 100])
    edges = bin_edges(weekdays)
    np.testing.assert_allclose(edges[:3], [0.125, 0.375, np.inf])
    rounded = weekdays[:, None] + np.random.default_rng(0).normal(0, 1e-6, (1000, 1))
    assert np.bincount(categories(rounded, edges[None])[:, 0]).tolist() == [700, 200, 100]
    constant = bin_edges(np.full(50, 0.3))[None]
    assert categories(np.asarray([[0.2], [0.3], [0.300001], [0.4], [np.nan]]), constant)[:, 0].tolist() == [
        0, 1, 1, 2, UNKNOWN,
    ]  # fmt: skip
    assert np.isinf(bin_edges(np.empty(0))).all()
    assert len(edges) == N_BINS - 1


def test_streamed_figures_are_those_of_the_last_bars(world, reference):
    tracker = Tracker(reference)
    live = rows(world, N_TRAIN, N_TRAIN + 200)
    feed(tracker, live)
    figures, window = tracker.figures(), reference.window
    for number in range(len(FEATURES)):
        values = live.features[-window:, :, number].astype(np.float64).ravel()
        p = np.histogram(values, bins=[-np.inf, *reference.edges[number], np.inf])[0] / values.size
        p, q = (np.maximum(x, 0.5 / values.size) for x in (p, reference.shares[number][:-1]))
        by_hand = sum((a - b) * math.log(a / b) for a, b in zip(p, q, strict=True))
        assert figures.value["stability"][number] == pytest.approx(by_hand, rel=1e-9)
    spread = live.half_spread[-window:].mean(axis=0) / world.half_spread[:N_TRAIN].mean(axis=0)
    np.testing.assert_allclose(figures.value["spread"], spread, rtol=1e-9)
    square = live.squared_return[-window:].mean(axis=0) / world.squared_return[:N_TRAIN].mean(axis=0)
    np.testing.assert_allclose(figures.value["volatility"], np.sqrt(square), rtol=1e-6)


def test_false_alarms_are_as_rare_as_stated():
    """30 markets of 16 features each; the share of bars with any alarm of a kind is to be 1 %."""
    beyond, bars = dict.fromkeys(("stability", "spread", "volatility"), 0), 0
    for seed in range(30):
        history = stationary(seed, N_TRAIN + 400)
        tracker = Tracker(referenced(history))
        feed(tracker, rows(history, N_TRAIN, N_TRAIN + 62))
        for start in range(N_TRAIN + 62, N_TRAIN + 400, 13):
            feed(tracker, rows(history, start, start + 13))
            figures, bars = tracker.figures(), bars + 1
            for kind in beyond:
                beyond[kind] += bool(np.any(figures.value[kind] > figures.limits[kind][2]))
    assert bars == 30 * 26
    # About 180 windows that do not overlap: two standard errors on top of 1 %.
    assert all(count / bars <= 0.01 + 2 * math.sqrt(0.01 * 0.99 / 180) for count in beyond.values()), beyond


def shifted(live):
    features = live.features.copy()
    features[..., FEATURES.index("a_0.5")] += 1.5
    return live._replace(features=features), "stability", "a_0.5"


def unknown(live):
    features = live.features.copy()
    features[..., FEATURES.index("b_0.0")] = np.nan
    return live._replace(features=features), "stability", "b_0.0"


def wider(live):
    return live._replace(half_spread=live.half_spread * 3.0), "spread", None


def wilder(live):
    return live._replace(squared_return=live.squared_return * 4.0), "volatility", None


POWER = {shifted: 0.9, unknown: 1.0, wider: 1.0, wilder: 0.6}
"""Change -> least share of markets in which a window of it is to alarm."""


@pytest.mark.parametrize("change", POWER)
def test_what_changes_alarms_within_a_window(change):
    found = []
    for seed in range(20):
        history = stationary(100 + seed, N_TRAIN + 63)
        tracker = Tracker(referenced(history))
        live, kind, name = change(rows(history, N_TRAIN))
        feed(tracker, live)
        table = tracker.drift().table
        row = table[(table["figure"] == kind) & table["name"].isin([name] if name else ASSETS)]
        np.testing.assert_array_equal(row["alarm"], row["value"] > row["limit"])
        found.append(row["alarm"].any())
    assert np.mean(found) >= POWER[change]


def test_what_begins_is_told_once(world, reference):
    tracker = Tracker(reference)
    feed(tracker, rows(world, N_TRAIN, N_TRAIN + 63))
    assert tracker.begun() == []
    feed(tracker, shifted(wider(rows(world, N_TRAIN + 63, N_TRAIN + 126))[0])[0])
    told, drift = tracker.begun(), tracker.drift()
    assert told == list(drift.alarms)
    assert {"drift of feature a_0.5", "drift of A", "drift of B", "drift of C"} == {x.split(":")[0] for x in told}
    assert tracker.begun() == []
    json.dumps(drift.as_dict(), allow_nan=False)


def test_an_alarm_that_ended_long_ago_is_told_again(world, reference):
    tracker, live = Tracker(reference), rows(world, N_TRAIN, N_TRAIN + 63)
    wide = wider(live)[0]
    said = []
    for part in (live, wide, live, live, wide):
        feed(tracker, part)
        said.append(sum("half-spread" in sentence for sentence in tracker.begun()))
    assert said == [0, 3, 0, 0, 3]


def test_an_asset_that_is_listed_later_is_told_of_and_moves_no_feature(world):
    traded = np.ones((N_TRAIN, 3), bool)
    traded[:500, 1] = traded[:, 2] = False
    train = rows(world, 0, N_TRAIN)
    parts = (train.features, train.half_spread, train.squared_return)
    parts = [np.where(traded[..., None] if x.ndim == 3 else traded, x, np.nan) for x in parts]
    reference = make_reference(History(*parts), features=FEATURES, symbols=ASSETS)
    assert not reference.shares[:, UNKNOWN].any()
    tracker = Tracker(reference)
    feed(tracker, rows(world, N_TRAIN, N_TRAIN + 63))
    assert tracker.drift().alarms == ("drift of C: it is traded, and training has no bar of it",)


def test_memory_does_not_grow_and_a_restart_changes_nothing(world, reference):
    tracker, other = Tracker(reference), Tracker(reference)
    live = rows(world, N_TRAIN)
    feed(tracker, rows(live, 0, 100))
    tracker.count_cost(3e-4, 1e-4)
    sizes = {name: x.nbytes for name, x in tracker.arrays().items()}
    other.restore(tracker.arrays(), json.loads(json.dumps(tracker.state())))
    for one in (tracker, other):
        feed(one, rows(live, 100, 400))
        one.count_cost(2e-4, 1e-4)
    assert {name: x.nbytes for name, x in tracker.arrays().items()} == sizes
    assert other.drift().as_dict() == tracker.drift().as_dict()
    assert other.state() == tracker.state()
    with pytest.raises(ValueError, match="shape"):
        other.restore({**tracker.arrays(), "found": np.zeros((3, 3, 3), np.int8)}, tracker.state())


def test_the_reference_is_the_same_from_json(reference):
    again = Reference.from_dict(json.loads(json.dumps(reference.as_dict(), allow_nan=False)))
    assert again.as_dict() == reference.as_dict()
    np.testing.assert_array_equal(again.edges, reference.edges)
    with pytest.raises(ValueError, match="shape"):
        Reference.from_dict({**reference.as_dict(), "cost": [1.0]})


def test_short_training_and_long_sessions():
    assert window_length(2500) == 63
    assert window_length(300) == 30
    assert window_length(100_000, bars_per_session=390) == 1950
    limits = window_limits(np.ones((5, 2)), 2.0, 1, 0.1)
    assert np.isinf(limits.alarm).all()
    tiny = make_reference(stationary(0, 8), features=FEATURES, symbols=ASSETS)
    tracker = Tracker(tiny)
    feed(tracker, stationary(1, 20))
    assert all(np.isfinite(x).any() for x in tracker.figures().value.values() if len(x) > 1)


def test_limits_are_prediction_limits_of_student():
    """Of windows that do not overlap and are independent, against the formula."""
    logs = np.random.default_rng(0).normal(-1.0, 0.3, (40, 1))
    limits = window_limits(np.exp(logs), 40.0, 1, 0.0)
    r = max(float(np.sum((d := logs - logs.mean())[1:] * d[:-1]) / np.sum(d**2)), 0.0)
    k, freedom = 40.0 * (1 - r) / (1 + r), 40.0 * (1 - r**2) / (1 + r**2) - 1
    scale = logs.std() * math.sqrt(k / (k - 1)) * math.sqrt(1 + 1 / k)
    for limit, level in ((limits.usual, 0.95), (limits.rare, 0.99)):
        assert limit[0] == pytest.approx(math.exp(logs.mean() + scipy.stats.t.ppf(level, freedom) * scale), rel=1e-9)
    assert limits.alarm[0] >= 0.95 * limits.rare[0]


def test_squared_returns_skip_halts():
    close = np.asarray([[10.0], [10.0], [11.0], [11.0], [12.1]])
    tradable = np.asarray([[False], [True], [True], [False], [True]])
    step = math.log(1.1) ** 2
    np.testing.assert_allclose(squared_returns(close, tradable)[:, 0], [np.nan, np.nan, step, np.nan, step])


def test_costs_of_fills_by_hand():
    fills = [Fill("A", 100, 10.02, 1.0), Fill("A", 50, 10.04), Fill("C", -10, 99.0, 0.5)]
    filled = add_fills(fills, ASSETS, (1.0, 1.0, 2.0))
    price, modelled = np.asarray([10.0, 5.0, 200.0]), np.asarray([3.0, 0.0, 10.0])
    realised = (100 * 0.02 + 50 * 0.04 + 1.0) + (10 * 2.0 * (100.0 - 99.0) + 0.5)
    value = 150 * 10.0 + 10 * 200.0
    assert cost_of(filled, modelled, price, np.ones(3, bool)) == pytest.approx((realised / value, 13.0 / value))
    assert cost_of(filled, modelled, price, np.zeros(3, bool)) is None
    assert cost_of(add_fills([], ASSETS, (1.0,) * 3), modelled, price, np.ones(3, bool)) is None


WRONG = {
    "unknown": Fill("Z", 1.0, 1.0),
    "nothing": Fill("A", 0.0, 1.0),
    "no price": Fill("A", 1.0, 0.0),
    "not finite": Fill("A", math.nan, 1.0),
    "a text": Fill("A", 1.0, "5"),
}


@pytest.mark.parametrize("fill", WRONG.values(), ids=WRONG)
def test_fills_that_cannot_be_are_refused(fill):
    with pytest.raises(DataError, match="fills: "):
        add_fills([fill], ASSETS, (1.0,) * 3)


def test_costs_above_the_model_alarm_and_those_of_the_model_rarely(reference):
    draws, beyond = np.random.default_rng(3), [0, 0]
    for _ in range(400):
        for place, excess in enumerate((0.0, 4e-4)):
            tracker = Tracker(reference)
            for noise in draws.normal(0.0, 5e-4, COST_BARS + 10):
                tracker.count_cost(2e-4 + excess + noise, 2e-4)
            figures = tracker.figures()
            beyond[place] += bool(figures.value["cost"][0] > figures.limits["cost"][2][0])
    assert beyond[0] <= 400 * 0.01 + 2 * math.sqrt(400 * 0.01)
    assert beyond[1] >= 398
    known = np.asarray([tracker._cost[:, 0] - tracker._cost[:, 1]]).ravel()
    test = scipy.stats.ttest_1samp(known, 0.0)
    assert figures.value["cost"][0] == pytest.approx(test.statistic, rel=1e-9)


def test_costs_exactly_as_modelled_do_not_alarm(reference):
    tracker = Tracker(reference)
    for _ in range(30):
        tracker.count_cost(2e-4 + 1e-10, 2e-4)
    assert tracker.drift().alarms == ()
