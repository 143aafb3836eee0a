"""Bars per year: within 1 % of the calendar's, wherever a file begins and ends."""

import functools

import exchange_calendars
import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings

from jaxppo.envs import load_market, periods_per_year, slice_bars
from jaxppo.envs.market.periods import bars_per_year

MINUTES_PER_YEAR = 365.25 * 1440
LENGTHS = {"1min": 1, "5min": 5, "30min": 30, "1h": 60}
starts = st.integers(0, 7 * 1440 - 1)


@functools.cache
def sessions(name="XNYS"):
    return exchange_calendars.get_calendar(name, start="2015-01-01", end="2024-12-31")


def opened(name, first, n_days, freq):
    """Bars of `n_days` sessions on the clock of the exchange."""
    calendar = sessions(name)
    days = calendar.sessions[first : first + n_days]
    parts = [
        pd.date_range(calendar.session_open(d), calendar.session_close(d), freq=freq, inclusive="left") for d in days
    ]
    return parts[0].append(parts[1:]).tz_convert(calendar.tz).tz_localize(None)


def trades_currencies(times):
    closed = (times.day_of_week == 5) | ((times.day_of_week == 4) & (times.hour >= 22))
    return ~(closed | ((times.day_of_week == 6) & (times.hour < 22)))


def figure(times):
    return bars_per_year(times.as_unit("ns").asi8)


@settings(max_examples=80, deadline=None)
@given(start=starts, freq=st.sampled_from(list(LENGTHS)), days=st.floats(1.1, 400.0))
def test_around_the_clock(start, freq, days):
    length = LENGTHS[freq]
    n = min(int(days * 1440 / length), 30_000)
    times = pd.date_range("2023-01-02", periods=1, freq=freq)[0] + pd.Timedelta(minutes=start)
    assert figure(pd.date_range(times, periods=n, freq=freq)) == pytest.approx(MINUTES_PER_YEAR / length, rel=0.01)


@settings(max_examples=80, deadline=None)
@given(start=starts, freq=st.sampled_from(list(LENGTHS)), days=st.floats(7.1, 400.0))
def test_currencies_without_a_weekend(start, freq, days):
    length = LENGTHS[freq]
    n = min(int(days * 1440 / length), 30_000)
    assume(n * length > 7.1 * 1440)
    times = pd.date_range(pd.Timestamp("2023-01-02") + pd.Timedelta(minutes=start), periods=n, freq=freq)
    expected = MINUTES_PER_YEAR * 5 / 7 / length
    assert figure(times[trades_currencies(times)]) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("freq", ["5min", "30min"])
@settings(max_examples=30, deadline=None)
@given(first=st.integers(0, 2000), n_days=st.integers(1, 500), cut=st.integers(0, 40))
def test_sessions_of_an_exchange(freq, first, n_days, cut):
    times = opened("XNYS", first, n_days, freq)
    times = times[min(cut, len(times) // 3) :] if n_days > 2 else times
    per_session = 390 / LENGTHS[freq]
    half_day_alone = n_days < 3 and len(times) < 0.9 * n_days * per_session
    assume(not half_day_alone)
    assert figure(times) == pytest.approx(251.7 * per_session, rel=0.025)


@settings(max_examples=60, deadline=None)
@given(first=st.integers(0, 1200), n_days=st.integers(2, 1200))
def test_days_of_an_exchange(first, n_days):
    assert figure(sessions().sessions[first : first + n_days].tz_localize(None)) == pytest.approx(251.7, rel=0.015)


@pytest.mark.parametrize(("freq", "expected"), [("D", 365.25), ("W", 52.18), ("MS", 12.0)])
def test_longer_bars(freq, expected):
    assert figure(pd.date_range("2010-01-01", periods=130, freq=freq)) == pytest.approx(expected, rel=0.01)


def prices(times):
    close = 100 + np.arange(len(times)) % 7
    return pd.DataFrame({"date": times, "open": close, "high": close + 1, "low": close - 1, "close": close})


@pytest.mark.parametrize(("first", "n_days"), [(0, 3), (227, 3), (500, 20), (700, 300)])
@pytest.mark.parametrize("freq", ["1min", "1h"])
def test_a_calendar_decides(first, n_days, freq):
    """From three sessions around a half day to more than a year, one number."""
    calendar = sessions()
    yearly = (calendar.closes - calendar.opens).dt.total_seconds().sum() / 60 / (len(calendar.sessions) / 251.6)
    times = opened("XNYS", first, n_days, freq).tz_localize("America/New_York")
    market = load_market(prices(times), calendar="XNYS")
    hours = yearly if freq == "1min" else 7 * 251.6
    assert periods_per_year(market) == pytest.approx(hours, rel=0.01)
    assert periods_per_year(slice_bars(market, 0, market.n_bars // 2)) == periods_per_year(market)
    assert not [line for line in market.info.report["warnings"] if "bars per year" in line]


def test_too_short_a_time_is_named():
    times = pd.date_range("2024-03-05 09:30", periods=300, freq="min")
    warnings = load_market(prices(times)).info.report["warnings"]
    assert any("bars per year, which annualise all figures, are estimated from 0.208 days" in line for line in warnings)


@pytest.mark.parametrize("weeks", [1, 12, 60])
@pytest.mark.parametrize("calendar", [None, "24/5"])
def test_currencies_trade_outside_the_sessions_of_their_calendar(weeks, calendar):
    """Sunday evenings belong to no session of 24/5, and count all the same."""
    times = pd.date_range("2023-01-08 22:00", periods=weeks * 7 * 24 - 48, freq="h")
    market = load_market(prices(times[trades_currencies(times)]), calendar=calendar)
    assert periods_per_year(market) == pytest.approx(24 * 365.25 * 5 / 7, rel=0.01)
    named = [line for line in market.info.report["warnings"] if "bars per year" in line]
    assert len(named) == (weeks == 1)
    assert all(line.endswith("do not follow the calendar 24/5") == (calendar is not None) for line in named)
