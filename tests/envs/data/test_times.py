"""Times as files write them: what is read is what was meant, and what cannot be meant is refused."""

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings

from jaxppo.envs.data.digits import clock_times
from jaxppo.envs.data.load import load_market
from jaxppo.envs.data.times import parse_times
from jaxppo.errors import DataError

FORMATS = {"%Y%m%d": "D", "%Y%m%d%H": "h", "%Y%m%d%H%M": "m", "%Y%m%d%H%M%S": "s"}
CLOCKS = {"%H%M": "min", "%H%M%S": "s", "%H:%M": "min", "%H:%M:%S": "s", "%I:%M %p": "min"}
instants = st.datetimes(pd.Timestamp("1950-01-01"), pd.Timestamp("2026-01-01"))


def prices(times, n=None, **columns):
    n = len(times) if n is None else n
    close = 100 + np.arange(n) % 7
    return pd.DataFrame({"date": times, **columns, "open": close, "high": close + 1, "low": close - 1, "close": close})


def read(values, **options):
    utc, _ = parse_times(pd.Series(values), **options)
    return utc.astype("datetime64[ns]")


@pytest.mark.parametrize(("form", "unit"), FORMATS.items())
@pytest.mark.parametrize("as_text", [True, False])
@settings(max_examples=30, deadline=None)
@given(moments=st.lists(instants, min_size=1, max_size=8))
def test_digits_of_a_calendar_and_clock_are_that(form, unit, as_text, moments):
    written = [moment.strftime(form) for moment in moments]
    found = read(written if as_text else np.array(written, np.int64))
    np.testing.assert_array_equal(found, np.array(moments, "datetime64[ns]").astype(f"datetime64[{unit}]"))


def test_digits_to_the_millisecond():
    assert read([20210104093000123])[0] == np.datetime64("2021-01-04T09:30:00.123")


@pytest.mark.parametrize("code", ["s", "ms", "us", "ns"])
@settings(max_examples=20, deadline=None)
@given(moments=st.lists(instants.filter(lambda moment: moment.year >= 1975), min_size=1, max_size=8))
def test_epochs_are_still_epochs(code, moments):
    exact = np.array(moments, "datetime64[us]").astype(f"datetime64[{code}]")
    np.testing.assert_array_equal(read(exact.astype(np.int64)), exact.astype("datetime64[ns]"))
    np.testing.assert_array_equal(read(exact.astype(np.int64).astype(str)), exact.astype("datetime64[ns]"))


@pytest.mark.parametrize(("form", "unit"), CLOCKS.items())
@pytest.mark.parametrize("stored", ["text", "number"])
@pytest.mark.parametrize("date", ["%Y%m%d", "%Y-%m-%d", "%d.%m.%Y"])
@settings(max_examples=15, deadline=None)
@given(first=st.integers(0, 1439), n=st.sampled_from((25, 70, 120)))
def test_a_date_and_a_clock_column_read_back(form, unit, stored, date, first, n):
    """Also where a reader has made numbers of the clock times, so that leading zeros are lost."""
    if stored == "number" and ":" in form:
        return
    times = pd.date_range("2021-01-13", periods=n, freq="7min") + pd.Timedelta(minutes=first)
    clock = times.strftime(form)
    frame = prices(times.strftime(date), time=clock if stored == "text" else clock.astype(int))
    market = load_market(frame)
    np.testing.assert_array_equal(market.info.timestamps, times.to_numpy().astype("datetime64[ns]"))


@pytest.mark.parametrize(
    ("clock", "hours"),
    [([930, 1600], [9.5, 16]), ([0, 0], [0, 0]), ([2400], [24]), ([9, 16], [9, 16]), ([0, 10000, 93000], [0, 1, 9.5])],
)
def test_clocks_that_lost_their_zeros(clock, hours):
    np.testing.assert_array_equal(clock_times(pd.Series(clock)) / 3.6e12, hours)


def test_midnight_written_as_zero_is_a_daily_bar_and_as_2400_the_end_of_the_day():
    days = pd.bdate_range("2021-01-04", periods=60)
    daily = load_market(prices(days.strftime("%Y%m%d"), time=np.zeros(60, int)))
    np.testing.assert_array_equal(daily.info.timestamps, days.to_numpy().astype("datetime64[ns]"))
    hours = pd.date_range("2021-01-04 01:00", periods=96, freq="h")
    ends = hours.hour == 0
    clock = np.where(ends, 2400, hours.hour * 100)
    market = load_market(prices((hours - pd.to_timedelta(ends.astype(int), unit="D")).strftime("%Y%m%d"), time=clock))
    np.testing.assert_array_equal(market.info.timestamps, hours.to_numpy().astype("datetime64[ns]"))


def test_a_clock_column_that_has_the_date_as_well():
    times = pd.date_range("2021-01-04 09:30", periods=60, freq="5min")
    market = load_market(prices(times.strftime("%Y-%m-%d"), time=times.strftime("%Y%m%d%H%M%S000")))
    np.testing.assert_array_equal(market.info.timestamps, times.to_numpy().astype("datetime64[ns]"))


@pytest.mark.parametrize(
    "times",
    [
        pd.date_range("2031-01-01", periods=60),
        pd.Series(np.arange(60) * 86400 + 4102444800),  # epochs from 2100 on
        pd.Series(np.arange(60) + 99999999999900),
        pd.date_range("1850-01-01", periods=60),
        pd.Series(["garbage"] * 60),
        pd.Series(["2021-01-04"] * 30 + ["04.2021"] * 30),
    ],
    ids=["future", "epochs", "digits", "past", "text", "half"],
)
@pytest.mark.parametrize("on_bad_rows", ["error", "drop"])
def test_a_column_that_is_misread_is_refused_without_a_way_out(times, on_bad_rows):
    with pytest.raises(DataError, match=r"write times as 2021-01-04 09:30$") as error:
        load_market(prices(times), on_bad_rows=on_bad_rows)
    assert "drop" not in str(error.value)


def test_single_bad_times_can_be_dropped():
    times = list(pd.bdate_range("2021-01-04", periods=200).strftime("%Y-%m-%d"))
    times[17], times[90] = "?", "2921-05-05"
    with pytest.raises(DataError, match=r"'\?' is not a time \(2 such rows\); pass on_bad_rows='drop'"):
        load_market(prices(times))
    assert load_market(prices(times), on_bad_rows="drop").n_bars == 198


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo", "Europe/London", "UTC"])
@pytest.mark.parametrize("hour", [0, 16])
def test_daily_bars_keep_their_dates_wherever_in_the_day_they_are_stamped(zone, hour):
    """Local midnights and closes, stored in UTC without a zone."""
    days = pd.bdate_range("2021-01-04", periods=300)
    stamps = (days + pd.Timedelta(hours=hour)).tz_localize(zone).tz_convert("UTC").tz_localize(None)
    with_zone = load_market(prices(stamps), timezone=zone)
    np.testing.assert_array_equal(with_zone.info.timestamps, days.to_numpy().astype("datetime64[ns]"))
    np.testing.assert_array_equal(load_market(prices(stamps)).info.timestamps, with_zone.info.timestamps)


def test_daily_bars_at_the_close_of_a_calendar_are_daily_bars():
    days = pd.bdate_range("2021-01-04", periods=300)
    stamps = (days + pd.Timedelta(hours=16)).tz_localize("America/New_York").tz_convert("UTC")
    market = load_market(prices(stamps), calendar="XNYS")
    assert market.info.report["daily"]
    np.testing.assert_array_equal(market.info.timestamps, days.to_numpy().astype("datetime64[ns]"))


@pytest.mark.parametrize(("first", "then"), [("D", "h"), ("h", "D"), ("5min", "min"), ("min", "15min")])
def test_bars_that_change_their_length_are_refused(first, then):
    early = pd.date_range("2021-01-04", periods=100, freq=first)
    late = pd.date_range(early[-1] + pd.Timedelta("1D"), periods=300, freq=then)
    with pytest.raises(DataError, match="load them apart"):
        load_market(prices(early.append(late)), max_log_jump=9.0)
    thin = np.random.default_rng(0).random(300) < 0.4
    assert load_market(prices(late[thin])).n_bars == thin.sum()


def test_assets_of_two_bar_lengths_are_refused():
    days, hours = pd.date_range("2021-01-04", periods=60), pd.date_range("2021-01-04", periods=600, freq="h")
    with pytest.raises(DataError, match="SLOW has bars of 1 d and FAST of 1 h; load them apart"):
        load_market({"SLOW": prices(days + pd.Timedelta("9h")), "FAST": prices(hours)})
