"""Periods: in order, apart, and inside the data."""

import dataclasses
import itertools

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import assume, given, settings

from jaxppo.config import validate_config
from jaxppo.envs import MarketInfo, simulators
from jaxppo.errors import ConfigError
from jaxppo.run.periods import Period, split_periods

PLAIN = simulators.gbm(jax.random.key(0), 8, 1)


def market(n_bars, dated=False, step="D"):
    """A market of which only the number and the times of its bars matter."""
    times = np.datetime64("2020-01-01", "ns") + np.arange(n_bars) * np.timedelta64(1, step)
    info = MarketInfo(timestamps=times) if dated else MarketInfo()
    return dataclasses.replace(PLAIN, close=np.ones((n_bars, 1)), info=info)


def config(**data):
    return validate_config({"data": data, "training": {"steps": 1}}).data


def test_shares_by_hand():
    periods = split_periods(market(100), config(train=0.6, validation=0.2, purge_bars=5), 10, 8)
    assert periods == {"train": Period(10, 59), "validation": Period(65, 79), "test": Period(85, 99)}
    assert [period.n_bars for period in periods.values()] == [49, 14, 14]
    with_test = split_periods(market(100), config(train=0.5, validation=0.2, test=0.2, purge_bars=0), 10, 8)
    assert with_test == {"train": Period(10, 49), "validation": Period(50, 69), "test": Period(70, 89)}


def test_dates_by_hand():
    """Both ends belong to a period: 2020-02-10 is bar 40, its last bar 2020-03-10 is bar 69."""
    given_dates = {
        "train": ["2020-01-01", "2020-02-09"],
        "validation": ["2020-02-10", "2020-03-10"],
        "test": ["2020-03-20", "2021-01-01"],
    }
    periods = split_periods(market(100, dated=True), config(**given_dates, purge_bars=3), 10, 8)
    assert periods == {"train": Period(10, 39), "validation": Period(43, 69), "test": Period(79, 99)}
    hours = split_periods(market(24 * 100, dated=True, step="h"), config(**given_dates, purge_bars=0), 10, 8)
    assert hours["validation"] == Period(24 * 40, 24 * 70 - 1), "the last day counts to its last hour"


def test_times_of_day_and_offsets():
    given_times = {
        "train": ["2020-01-01", "2020-01-10T12:00"],
        "validation": ["2020-01-10T08:00-05:00", "2020-01-20"],
        "test": ["2020-01-21", "2020-01-31"],
    }
    periods = split_periods(market(24 * 40, dated=True, step="h"), config(**given_times, purge_bars=0), 10, 8)
    assert periods["train"].last == 24 * 9 + 12
    assert periods["validation"].first == 24 * 9 + 13


@settings(max_examples=200, deadline=None)
@given(
    n_bars=st.integers(30, 3000),
    train=st.floats(0.05, 0.9),
    validation=st.floats(0.01, 0.5),
    test=st.none() | st.floats(0.01, 0.5),
    purge=st.integers(0, 40),
    first=st.integers(0, 60),
)
def test_periods_are_apart_and_inside_the_data(n_bars, train, validation, test, purge, first):
    assume(train + validation + (test or 0.0) < 0.999)
    chosen = config(train=train, validation=validation, test=test, purge_bars=purge)
    try:
        periods = split_periods(market(n_bars), chosen, first, 8)
    except ConfigError:
        return
    assert list(periods) == ["train", "validation", "test"]
    ordered = list(periods.values())
    assert ordered[0].first >= first
    assert ordered[-1].last <= n_bars - 1
    assert ordered[0].n_bars >= 8
    for earlier, later in itertools.pairwise(ordered):
        assert later.first - earlier.last > purge, "the last mark of one and the first decision of the next"


@pytest.mark.parametrize(
    ("data", "dated", "words"),
    [
        ({"train": 0.1}, False, ["data.train is 0.1", "0 usable of the 60 bars", "needs 8", "10 bars of history"]),
        ({"purge_bars": 20}, False, ["data.validation is 0.2", "20 bars of purge"]),
        ({"train": ["2020-01-01", "2020-01-30"]}, False, ["data.train", "no dates"]),
        ({"train": ["2019-01-01", "2019-01-30"]}, True, ["data.train", "no bar", "2020-01-01 .. 2020-02-29"]),
        ({"train": ["2020-01-30", "2020-01-01"]}, True, ["data.train", "before its first"]),
        ({"train": ["2020-01-01", "2020-02-03"]}, True, ["data.validation", "must start after", "data.train"]),
    ],
)
def test_refusals(data, dated, words):
    if isinstance(data.get("train"), list):
        data |= {"validation": ["2020-02-02", "2020-02-10"], "test": ["2020-02-16", "2020-02-28"]}
    with pytest.raises(ConfigError) as refusal:
        split_periods(market(60, dated), config(**data), 10, 8)
    assert all(word in str(refusal.value) for word in words), refusal.value


@pytest.mark.parametrize("end", ["9999-12-31", "2100-01-01", "2262-04-12T10:00"])
def test_a_date_beyond_the_data_means_to_its_end(end):
    dates = {"train": ["2020-01-01", "2020-02-09"], "validation": ["2020-02-10", "2020-03-10"]}
    periods = split_periods(market(100, dated=True), config(**dates, test=["2020-03-20", end]), 10, 8)
    assert periods["test"].last == 99
    with pytest.raises(ConfigError, match="0001-01-01"):
        split_periods(market(100, dated=True), config(**dates, test=["0001-01-01", end]), 10, 8)
