"""Columns of a user's own from price files: which value is known at which close, and what is refused."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxppo.envs import DataError, format_report, load_market


def prices(n=40, symbols=("AA", "BB"), freq="B", seed=0, **columns):
    """Bars in long form; columns are functions of `(times, generator)`."""
    rng, parts = np.random.default_rng(seed), []
    times = pd.date_range("2021-01-04 10:00" if freq == "h" else "2021-01-04", periods=n, freq=freq)
    for symbol in symbols:
        close = 50 * np.exp(np.cumsum(rng.normal(0, 0.01, n)))
        frame = {"time": times, "symbol": symbol, "open": close, "high": 1.01 * close, "low": 0.99 * close}
        frame |= {"close": close, "volume": 1e6}
        parts.append(pd.DataFrame(frame | {name: make(times, rng) for name, make in columns.items()}))
    return pd.concat(parts, ignore_index=True)


def sparse(times, rng):
    return np.where(rng.random(len(times)) < 0.4, rng.normal(size=len(times)), np.nan)


def test_a_value_is_known_at_the_close_of_its_bar_and_stands_until_the_next():
    frame = prices(mood=sparse)
    market = load_market(frame, columns=["mood"])
    expected = frame.pivot(index="time", columns="symbol", values="mood").ffill()
    np.testing.assert_allclose(market.columns["mood"], expected, rtol=1e-6)
    assert isinstance(load_market(frame).columns, tuple)


def test_unused_columns_are_named_in_the_report():
    frame = prices(mood=sparse, note=lambda times, rng: ["x"] * len(times))
    line = "columns that nothing reads: mood, note; name those that features should read in features.columns"
    assert line in load_market(frame).info.report["warnings"]
    assert "look at: columns that nothing reads: note;" in format_report(
        load_market(frame, columns=["mood"]).info.report
    )
    assert not any("nothing reads" in line for line in load_market(prices()).info.report["warnings"])


def test_what_is_read_is_no_ignored_column_whatever_its_case():
    frame = prices(Mood=sparse, note=lambda times, rng: ["x"] * len(times), seen=lambda times, rng: times)
    report = load_market(frame, columns={"mood": "seen"}).info.report
    source = report["sources"][0]
    assert (source["own_columns"], source["ignored_columns"]) == (["Mood", "seen"], ["note"])
    assert "own columns read: Mood, seen\n" in format_report(report)
    assert any("nothing reads: note;" in line for line in report["warnings"])
    assert "own columns" not in format_report(load_market(frame).info.report)


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["h", "B"]))
def test_a_value_is_known_at_the_first_close_after_its_publication(seed, freq):
    """By a loop over bars: the value with the latest publication that is not after the close, nor on a daily date."""

    def published(times, rng):
        return times + pd.to_timedelta(rng.integers(-3 * 1440, 10 * 1440, len(times)), unit="min")

    frame = prices(freq=freq, seed=seed, mood=sparse, released=published)
    market = load_market(frame, columns={"mood": "released"})
    for number, (_, part) in enumerate(frame.groupby("symbol")):
        known = part[part["mood"].notna()].sort_values("released", kind="stable")
        for bar, start in enumerate(part["time"]):
            if freq == "h":
                there = known[known["released"] <= start + pd.Timedelta("1h")]
            else:
                there = known[known["released"].dt.normalize() < start]
            expected = there["mood"].iloc[-1] if len(there) else np.nan
            np.testing.assert_allclose(market.columns["mood"][bar, number], expected, rtol=1e-6)


def test_later_rows_change_no_earlier_value():
    frame = prices(mood=sparse, released=lambda times, rng: times + pd.Timedelta("36h"))
    whole = np.asarray(load_market(frame, columns={"mood": "released"}).columns["mood"])
    cut = frame[frame["time"] < frame["time"].unique()[25]]
    np.testing.assert_array_equal(load_market(cut, columns={"mood": "released"}).columns["mood"], whole[:25])


def test_values_are_part_of_the_fingerprint():
    frame = prices(mood=sparse)
    other = frame.assign(mood=frame["mood"] + 1.0)
    found = {load_market(f, columns=["mood"]).info.report["fingerprint"] for f in (frame, other)}
    assert len(found) == 2
    without = frame.drop(columns="mood")
    assert load_market(frame).info.report["fingerprint"] == load_market(without).info.report["fingerprint"]


def test_columns_are_found_whatever_their_case(tmp_path):
    path = tmp_path / "prices.csv"
    prices(mood=sparse).rename(columns={"mood": "News Mood"}).to_csv(path, index=False)
    assert np.isfinite(load_market(path, columns=["news_mood"]).columns["news_mood"]).any()


def bad(column, value, at=5):
    frame = prices(mood=lambda times, rng: np.ones(len(times)), released=lambda times, rng: times.astype(str))
    frame[column] = frame[column].astype(object)
    frame.loc[at, column] = value
    return frame


@pytest.mark.parametrize(
    ("frame", "columns", "message"),
    [
        (prices(mood=sparse), ["news"], "no column 'news', which columns names; found time, symbol"),
        (bad("mood", "good"), ["mood"], "AA, row 5: mood 'good' is not a number"),
        (bad("mood", np.inf), ["mood"], "AA, row 5: mood 'inf' is not a number up to 1e"),
        (bad("mood", 1e300), ["mood"], r"AA, row 5: mood '1e\+300' is not a number up to 1e"),
        (bad("released", "soon"), {"mood": "released"}, "AA, row 5: released 'soon' is no time, and mood has a value"),
        (bad("released", None), {"mood": "released"}, "is no time, and mood has a value"),
        (prices(mood=sparse), ["mood", "mood"], "columns=.* must be names of columns, each once"),
        (prices(mood=sparse), {"mood": 3}, "columns=.* must be names of columns"),
    ],
)
def test_mistakes_are_named(frame, columns, message):
    with pytest.raises(DataError, match=message):
        load_market(frame, columns=columns)


def test_a_bad_value_is_unknown_where_bad_rows_are_dropped():
    market = load_market(bad("mood", "good"), columns=["mood"], on_bad_rows="drop")
    assert market.n_bars == 40
    np.testing.assert_array_equal(market.columns["mood"], np.ones((40, 2)))  # the value before stands
