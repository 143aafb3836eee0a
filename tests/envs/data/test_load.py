"""Loading prices: ragged panels, adjustment, refusals, repairs, sessions, and what must not matter."""

import gzip
import json
import re
import typing
import zipfile

import numpy as np
import pandas as pd
import pytest
from annotated_types import Ge, Gt, Le, Lt
from folders import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from price_tables import panel, refusal, same, single

from jaxppo.envs import datasets
from jaxppo.envs.data.columns import SPELLINGS
from jaxppo.envs.data.load import format_report, load_market
from jaxppo.envs.data.rows import column_key

FIELDS = (
    "open",
    "high",
    "low",
    "close",
    "volume",
    "half_spread",
    "tradable",
    "minute_of_day",
    "session",
    "day_of_week",
    "seconds_since_previous",
)


def test_ragged_panel_by_hand():
    rows = [
        ("2024-01-02", "A", 10.0, 12.0, 9.0, 11.0, 5.0),
        ("2024-01-04", "A", 11.0, 13.0, 10.0, 12.0, 6.0),
        ("2024-01-03", "B", 20.0, 21.0, 19.0, 20.5, 0.0),
        ("2024-01-04", "B", 20.0, 22.0, 20.0, 21.0, 7.0),
        ("2024-01-05", "B", 21.0, 21.0, 21.0, 21.0, 8.0),
    ]
    market = load_market(pd.DataFrame(rows, columns=["date", "symbol", *"ohlcv"]))
    assert market.info.symbols == ("A", "B")
    np.testing.assert_array_equal(market.open, [[10, 1], [11, 20], [11, 20], [12, 21]])
    np.testing.assert_array_equal(market.high, [[12, 1], [11, 21], [13, 22], [12, 21]])
    np.testing.assert_array_equal(market.low, [[9, 1], [11, 19], [10, 20], [12, 21]])
    np.testing.assert_array_equal(market.close, [[11, 1], [11, 20.5], [12, 21], [12, 21]])
    np.testing.assert_array_equal(market.volume, [[5, 0], [0, 0], [6, 7], [0, 8]])
    np.testing.assert_array_equal(market.tradable, [[True, False], [False, False], [True, True], [False, True]])
    np.testing.assert_array_equal(market.volume_known, [True, True])
    traded, moves = np.array([55.0, 63.5]), np.array([np.log(12 / 9) / 2, np.log(12 / 11)])
    volatility = np.sqrt(np.pi / 2) * moves.cumsum() / [1, 2]
    activity = volatility * traded / 800_000
    expected = 8.21e-4 * activity ** (-1 / 3) * volatility / 0.02
    np.testing.assert_allclose(market.half_spread[:, 0], expected[[0, 0, 1, 1]].clip(max=0.5), rtol=1e-5)
    np.testing.assert_array_equal(market.day_of_week, [1, 2, 3, 4])
    np.testing.assert_array_equal(market.session, [0, 1, 2, 3])
    np.testing.assert_array_equal(market.minute_of_day, 0)
    np.testing.assert_array_equal(market.seconds_since_previous, [0, 86400, 86400, 86400])
    report = market.info.report
    assert report["symbols"]["A"]["missing_bars"] == 1
    assert report["symbols"]["B"]["zero_volume_bars"] == 1
    assert bool(
        load_market(pd.DataFrame(rows, columns=["date", "symbol", *"ohlcv"]), zero_volume_tradable=True).tradable[1, 1]
    )


def test_adjustment_preserves_dollar_volume_and_moves_quotes():
    close = single()["Close"].to_numpy()
    factor = np.array([0.25, 0.25, 0.25, 0.5, 0.5, 1.0])
    frame = single(bid=close - 0.01, ask=close + 0.01, **{"Adj Close": close * factor}, Volume=[1.0, 2, 3, 4, 5, 6])
    adjusted, raw = load_market(frame, split_tolerance=0), load_market(frame, adjust=False)
    np.testing.assert_allclose(adjusted.open[:, 0], raw.open[:, 0] * factor, rtol=1e-6)
    np.testing.assert_allclose(adjusted.low[:, 0], raw.low[:, 0] * factor, rtol=1e-6)
    np.testing.assert_allclose(adjusted.close * adjusted.volume, raw.close * raw.volume, rtol=1e-6)
    np.testing.assert_allclose(adjusted.half_spread[:, 0], 0.01 / close, rtol=1e-5)
    by_factor = load_market(
        single(bid=close - 0.01, ask=close + 0.01, adj_factor=factor, Volume=[1.0, 2, 3, 4, 5, 6]), split_tolerance=0
    )
    np.testing.assert_allclose(by_factor.close, adjusted.close, rtol=1e-6)
    assert adjusted.info.report["adjusted_by"] == "adj_close"


def test_volume_that_nobody_reports():
    for frame in (single(Volume=np.nan), single().drop(columns="Volume"), single(Volume=0)):
        market = load_market(frame)
        assert not bool(market.volume_known[0])
        assert bool(market.tradable.all())
        np.testing.assert_array_equal(market.volume, 0)


def test_shipped_data_set():
    market = load_market("us5_1d", calendar="XNYS")
    assert market.info.symbols == ("AAPL", "FB", "GOOG", "IBM", "MSFT")
    assert market.close.shape == (3270, 5)
    assert {name: counts["bars"] for name, counts in market.info.report["symbols"].items()} == {
        "AAPL": 3270, "FB": 196, "GOOG": 2148, "IBM": 3270, "MSFT": 3270,
    }  # fmt: skip
    assert float(market.close[-1, 4]) == pytest.approx(24.684342419163)
    assert market.info.report["symbols"]["AAPL"]["largest_log_move"]["at"] == "2000-09-29"
    assert market.info.report["symbols"]["AAPL"]["missing_sessions"] == 0
    assert same(market, load_market(datasets.path("us5_1d"), calendar="XNYS"))
    assert "AAPL, line 80 (2000-06-21): the open is 0.499 times the previous close" in refusal("us5_1d", adjust=False)
    assert "2:1 split (3 such rows)" in refusal("us5_1d", adjust=False)
    with pytest.raises(KeyError, match="did you mean 'us5_1d'"):
        datasets.path("us5_1h")


def test_report_is_json_and_reads_well():
    report = load_market(panel()).info.report
    assert json.loads(json.dumps(report)) == report
    text = format_report(report)
    assert "data: data frame" in text
    assert "2 asset(s) x" in text
    assert len(text.splitlines()) < 15


@given(seed=st.integers(0, 10**6), shuffle=st.randoms(use_true_random=False))
@settings(max_examples=15, deadline=None)
def test_order_of_rows_repeated_rows_and_format_do_not_matter(tmp_path_factory, seed, shuffle):
    long = panel(seed, symbols=("AAA", "BBB", "CCC"))
    reference = load_market(long)
    order = list(range(len(long)))
    shuffle.shuffle(order)
    mixed = pd.concat([long.iloc[order], long.iloc[order[:3]]])
    market = load_market(mixed)
    assert same(market, reference)
    assert market.info.report["repairs"]["exact duplicate rows dropped"] == 3
    folder = tmp_path_factory.mktemp("formats")
    mixed.to_csv(folder / "x.csv", index=False)
    mixed.to_parquet(folder / "x.parquet")
    (folder / "x.csv.gz").write_bytes(gzip.compress((folder / "x.csv").read_bytes()))
    for name in ("x.csv", "x.parquet", "x.csv.gz"):
        assert same(load_market(folder / name), reference)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_symbols_select_and_order_columns(seed):
    long = panel(seed, symbols=("AAA", "BBB", "CCC"), missing=0)
    whole, part = load_market(long), load_market(long, symbols=["CCC", "AAA"])
    assert part.info.symbols == ("CCC", "AAA")
    for field in ("open", "close", "volume", "half_spread", "tradable"):
        np.testing.assert_array_equal(getattr(part, field), np.asarray(getattr(whole, field))[:, [2, 0]])


@given(seed=st.integers(0, 10**6), t=st.integers(5, 70), quoted=st.booleans())
@settings(max_examples=25, deadline=None)
def test_rows_after_t_change_nothing_up_to_t(seed, t, quoted):
    long = panel(seed, n=80)
    rng = np.random.default_rng(seed + 1)
    if quoted:
        half = np.where(rng.random(len(long)) < 0.5, rng.random(len(long)) * 0.01, np.nan)
        long = long.assign(bid=long["close"] - half, ask=long["close"] + half)
    times = np.sort(long["timestamp"].unique())
    t = min(t, len(times) - 2)
    later = (long["timestamp"] > times[t]).to_numpy()
    factor = np.where(later, rng.uniform(0.8, 1.25, len(long)), 1.0)
    prices = {name: long[name] * factor for name in ("open", "high", "low", "close", "bid", "ask") if name in long}
    other = long.assign(**prices, volume=np.where(later, rng.integers(0, 500, len(long)), long["volume"]))
    other = other[~later | (rng.random(len(long)) < 0.8)]
    one, two = load_market(long, spread_window=7), load_market(other, spread_window=7)
    for field in FIELDS:
        np.testing.assert_array_equal(
            np.asarray(getattr(one, field))[: t + 1], np.asarray(getattr(two, field))[: t + 1], err_msg=field
        )


def test_a_later_split_rescales_the_past_by_a_constant():
    close = np.array([10.0, 10.5, 10.2, 10.4, 5.15, 5.3])
    bars = {"Open": close, "High": close, "Low": close, "Close": close}
    factor = np.array([0.5, 0.5, 0.5, 0.5, 1.0, 1.0])
    split = load_market(single(**bars, **{"Adj Close": close * factor}))
    before = load_market(single(**bars).iloc[:4])
    np.testing.assert_allclose(split.close[:4], before.close * 0.5, rtol=1e-6)


REFUSALS = {
    "missing price": (single(Close=[10.0, 10.5, np.nan, 10.4, 10.3, 10.6]), {}, "row 2 (2024-01-04): close is missing"),
    "negative": (
        single(Low=[9.7, -1, 9.9, 10.1, 10, 10.3]),
        {},
        "row 1 (2024-01-03): low is -1, prices must be above 0",
    ),
    "high < low": (single(High=[10.2, 10.7, 9.0, 10.6, 10.5, 10.8]), {}, "row 2 (2024-01-04): high 9 is below low 9.9"),
    "open outside": (
        single(Open=[9.9, 11.4, 10.1, 10.3, 10.2, 10.5]),
        {},
        "open 11.4 lies 6.5 % outside [low 10.2, high 10.7]",
    ),
    "close text": (single(Close=["10", "10.5", "x", "10.4", "10.3", "10.6"]), {}, "row 2: close 'x' is not a number"),
    "volume": (single(Volume=[1, 2, 3, -4, 5, 6]), {}, "row 3 (2024-01-05): volume is -4"),
    "crossed": (single(bid=10.1, ask=10.0), {}, "bid 10.1 is above ask 10 (6 such rows); pass on_crossed_quotes="),
    "time": (single(Date=["2024-01-02", "soon", *"3456"]), {}, "'soon' is not a time"),
    "no times": (single().drop(columns="Date"), {}, "no column of times"),
    "no close": (single().drop(columns="Close"), {}, "no column for close; found Date, Open"),
    "a close by another name": (
        single().rename(columns={"Close": "PX_LAST"}),
        {},
        "no column for close; found Date, Open, High, Low, PX_LAST, Volume; rename PX_LAST to close if it is that",
    ),
    "no low": (single().drop(columns="Low"), {}, "names of low: low, lowprice, pricelow, 3low, l, min"),
    "times by another name": (single().rename(columns={"Date": "AsOfDate"}), {}, "rename AsOfDate to time if it is"),
    "ticks": (
        pd.DataFrame({"Date": pd.to_datetime(np.cumsum([0, 1, 90, 2, 700, 1, 1, 60]), unit="s"), "Price": 10.0}),
        {},
        "these look like single trades",
    ),
    "symbol": (panel(), {"symbols": ["aaa"]}, "no symbol 'aaa'; there is AAA, BBB"),
    "empty symbol": (
        panel().assign(symbol=[None] + ["A"] * (len(panel()) - 1)),
        {},
        "row 0: the column symbol is empty",
    ),
    "infinite factor": (single(adj_close=-np.inf), {}, "adj_close is -inf: prices cannot be adjusted (6 such rows)"),
    "zero factor": (single(adj_factor=0.0), {}, "adj_factor is 0: prices cannot be adjusted"),
    "100x": (
        single(**{c: [10, 10.1, 1010, 10.2, 10.3, 10.4] for c in ("Open", "High", "Low", "Close")}),
        {},
        "(log +4.61)",
    ),
    "100x inside": (single(High=[10.2, 10.7, 1040.0, 10.6, 10.5, 10.8]), {}, "high is 105 times low within one bar"),
    "hole": (
        single(Date=["2020-01-02", "2020-01-03", "2023-01-04", "2023-01-05", "2023-01-06", "2023-01-07"]),
        {},
        "1097 days",
    ),
    "ambiguous": (single(Date=[f"0{d}/02/2024" for d in range(1, 7)]), {}, "pass day_first=True or day_first=False"),
    "calendar": (
        single(),
        {"calendar": "XNYX"},
        "is no exchange_calendars name such as 'XNYS' or '24/5'; did you mean 'XNYS'",
    ),
    "timezone": (single(), {"timezone": "America/NewYork"}, "did you mean 'America/New_York'"),
    "off session": (
        single(Date=[f"2024-01-0{d}" for d in range(4, 10)]),
        {"calendar": "XNYS", "on_off_session": "error"},
        "row 2 (2024-01-06): the bar lies outside every session of XNYS (2 such rows)",
    ),
    "option": (single(), {"on_bad_rows": "ignore"}, "on_bad_rows='ignore' is not one of 'error', 'drop'"),
    "range": (single(), {"spread_window": 2}, "spread_window=2 must be at least 3"),
    "symbol twice": (panel(), {"symbols": ["AAA", "AAA"]}, "symbols names 'AAA' more than once"),
    "floor": (single(), {"min_half_spread": 1.0}, "min_half_spread=1.0 must be at most 0.5"),
    "no rows": (single().iloc[:0], {}, "data frame: the table has no rows"),
    "type": (42, {}, "prices must be a path, a list of paths or a data frame, not int"),
    "no files": ([], {}, "an empty list of price files"),
    "clock change": (
        single(Date=[f"2024-03-10 0{h}:30" for h in range(6)]),
        {"timezone": "America/New_York"},
        "falls in the hour that America/New_York skips or repeats",
    ),
}


def test_every_option_is_checked_against_its_annotation():
    outside = {Ge: lambda b: b.ge - 1, Gt: lambda b: b.gt, Le: lambda b: b.le * 2, Lt: lambda b: b.lt}
    hints = typing.get_type_hints(load_market, include_extras=True)
    bounded = {name: hint.__metadata__ for name, hint in hints.items() if hasattr(hint, "__metadata__")}
    assert len(bounded) == 8
    for name, bounds in bounded.items():
        for bound in bounds:
            assert f"{name}=" in refusal(single(), **{name: outside[type(bound)](bound)})
        assert f"{name}=nan" in refusal(single(), **{name: np.nan})
    choices = [name for name, hint in hints.items() if typing.get_origin(hint) is typing.Literal]
    assert choices == ["on_bad_rows", "on_duplicates", "on_crossed_quotes", "on_off_session"]
    for name in choices:
        assert f"{name}='?' is not one of" in refusal(single(), **{name: "?"})
    assert load_market(single(), range_tolerance=0.0, split_tolerance=0.0, min_half_spread=0.0, spread_window=3).n_bars


@pytest.mark.parametrize("case", sorted(REFUSALS))
def test_refused(case):
    source, options, finding = REFUSALS[case]
    assert finding in refusal(source, **options)


def test_duplicates_are_refused_or_chosen():
    frame = pd.concat([single(), single(Volume=7.0).iloc[[2]]], ignore_index=True)
    message = refusal(frame)
    assert "asset, row 6 (2024-01-04): the time is already at row 2 with other values" in message
    assert "on_duplicates='first' or on_duplicates='last'" in message
    assert float(load_market(frame, on_duplicates="first").volume[2, 0]) == 100
    market = load_market(frame, on_duplicates="last")
    assert float(market.volume[2, 0]) == 7
    assert market.info.report["repairs"] == {
        "rows out of order sorted": 1, "conflicting duplicate rows dropped": 1,
    }  # fmt: skip
    assert any("1 of 7 rows were dropped" in line for line in market.info.report["warnings"])


def test_rows_of_several_assets_are_not_thrown_away():
    """Where a column that nothing reads tells rows of one time apart, no option keeps one of them."""
    frame = panel(n=30, symbols=("AAA", "BBB", "CCC"), freq="B").rename(columns={"symbol": "Company"})
    for options in ({}, {"on_duplicates": "first"}, {"on_duplicates": "last"}):
        for prices in (frame, frame.drop(columns=["open", "high", "low"]), pd.concat([frame, frame])):
            message = refusal(prices, **options)
            assert "no symbol column was found; 'Company' tells these rows apart; rename it to symbol" in message
    by_number = frame.assign(Company=frame["Company"].map({"AAA": 10107, "BBB": 14593, "CCC": 90319}))
    assert "'Company' tells these rows apart" in refusal(by_number)
    assert "'Company' tells these rows apart, not 'code'" in refusal(frame.assign(code="US"))
    hours = frame.iloc[:20].assign(timestamp=["2024-01-02", "2024-01-03"] * 10)
    hours["Company"] = [f"{9 + i // 2:02}:30" for i in range(20)]
    assert "rename it to time if it is the time of day" in refusal(hours)
    message = refusal(frame.drop(columns="Company"))
    assert "if these rows are of several assets, add a column symbol" in message
    market = load_market(frame.drop(columns="Company"), on_duplicates="first")
    assert any(f"of {len(frame)} rows were dropped" in line for line in market.info.report["warnings"])


def test_a_volume_by_another_name_is_pointed_at():
    market = load_market(single().rename(columns={"Volume": "Volume (shares)"}))
    line = "data frame: the column Volume (shares) is not read; rename it to volume if it is that"
    assert line in market.info.report["warnings"]
    assert not any("is not read" in line for line in load_market(single(Vol_20d=1.0)).info.report["warnings"])


def test_the_page_lists_all_names_of_columns():
    page = (ROOT / "docs" / "how-to" / "own-prices.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", page, re.M))
    for name, spellings in SPELLINGS.items():
        assert {column_key(found) for found in re.findall("`(.*?)`", rows[name])} == set(spellings), name


def test_dropped_rows_are_counted():
    frame = single(Date=["2024-01-02", "soon", "2024-01-04", "2024-01-05", "2024-01-08", "2024-01-09"])
    frame = frame.assign(Low=[9.7, 10.2, 9.9, -1, 10, 10.3], Close=[10, 10.5, 10.2, 10.4, np.nan, 10.6])
    market = load_market(frame, on_bad_rows="drop")
    assert market.n_bars == 3
    assert market.info.report["repairs"] == {
        "dropped: unreadable time": 1, "dropped: missing price": 1, "dropped: price not above 0": 1,
    }  # fmt: skip
    assert market.info.report["rows_read"] == 6


def test_small_excess_widens_the_bar_and_empty_ends_are_dropped():
    frame = single(Close=[10, 10.5, 10.2, 10.4, 10.3, 10.6], High=[10.2, 10.49999, 10.4, 10.6, 10.5, 10.8])
    frame.loc[5, ["Open", "High", "Low", "Close"]] = np.nan
    market = load_market(frame)
    assert market.n_bars == 5
    assert float(market.high[1, 0]) == 10.5
    assert market.info.report["repairs"] == {
        "empty rows at the ends dropped": 1, "bars widened to hold open and close": 1,
    }  # fmt: skip


def test_sessions_of_a_calendar():
    """Christmas 2023 on the NYSE, hourly in UTC: the 22nd whole, the 26th whole, the holiday between them."""
    times = pd.date_range("2023-12-22 12:00", "2023-12-26 22:00", freq="h", tz="UTC")
    trades = dict.fromkeys(("open", "high", "low", "close"), 10.0)
    frame = pd.DataFrame({"timestamp": times}).assign(**trades)
    market = load_market(frame, calendar="XNYS", on_off_session="drop")
    # 14:00 (overlaps the open at 14:30) to 20:00, on both days
    assert market.n_bars == 14
    np.testing.assert_array_equal(market.session, [0] * 7 + [1] * 7)
    np.testing.assert_array_equal(market.minute_of_day[:7], np.arange(9, 16) * 60)
    kept = load_market(frame, calendar="XNYS")
    assert kept.info.report["symbols"]["asset"]["off_session_bars"] == len(times) - 14
    assert kept.info.report["symbols"]["asset"]["missing_sessions"] == 0
    assert set(np.asarray(kept.session).tolist()) == {0, 1}
    one_missing = load_market(single().drop(index=3), calendar="XNYS")
    assert one_missing.info.report["symbols"]["asset"]["missing_sessions"] == 1
    assert any("1 session(s) of the calendar without a bar" in line for line in one_missing.info.report["warnings"])


def test_daily_and_intraday_do_not_mix():
    both = pd.concat([panel(symbols=("A",)), panel(symbols=("B",), freq="B")])
    assert "B has bars of 1 d and A of 1 h; load them apart" in refusal(both)


def test_files_that_cannot_be_read(tmp_path):
    contents = {
        "empty.csv": b"", "header.csv": b"Date,Open,High,Low,Close\n", "prose.csv": b"Dear reader,\nno prices here\n",
        "broken.parquet": b"PAR1 and nothing", "broken.zip": b"PK no", "broken.csv.gz": b"\x1f\x8b\x08",
        "binary.csv": b"\x00\x01\x02" * 50, "prices.xlsx": b"PK",
        "wide.csv": b"Date,Open,High,Low,Close\n1,2,3,4,5,6,7\n1,2,3\n",
    }  # fmt: skip
    expected = {
        "empty.csv": "the file is empty", "header.csv": "the file has a header but no rows",
        "prose.csv": "no header line with open, high, low, close", "broken.parquet": "cannot be read",
        "broken.zip": "cannot be read", "broken.csv.gz": "cannot be read", "binary.csv": "is it really a CSV file",
        "prices.xlsx": "cannot read this kind of file, only .csv", "wide.csv": "rows have more cells than the header",
    }  # fmt: skip
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        message = refusal(tmp_path / name)
        assert message.startswith(name)
        assert expected[name] in message
    (tmp_path / "void").mkdir()
    assert "the folder holds no price files" in refusal(tmp_path / "void")
    assert "nowhere.csv: no such file or folder (shipped data sets: us5_1d; sources: yfinance:," in refusal(
        "nowhere.csv"
    )
    with zipfile.ZipFile(tmp_path / "void.zip", "w") as archive:
        archive.writestr("readme.md", "nothing")
    assert "the archive holds no .csv file" in refusal(tmp_path / "void.zip")


@pytest.mark.parametrize(("ratio", "text"), [(0.5, "2:1"), (1 / 3, "3:1"), (2.0, "1:2")])
def test_unadjusted_splits_are_found_and_crashes_are_not(ratio, text):
    long = panel(9, n=60, symbols=("AAA",), missing=0)
    after = np.arange(len(long)) >= 30
    prices = ["open", "high", "low", "close"]
    halved = long.assign(**{name: np.where(after, long[name] * ratio, long[name]) for name in prices})
    message = refusal(halved)
    assert f"looks like an unadjusted {text} split" in message
    assert "AAA, row 30" in message
    assert load_market(halved, split_tolerance=0).n_bars == 60
    crash = halved.copy()
    crash.loc[30, ["high" if ratio < 1 else "low"]] *= 1.6 if ratio < 1 else 0.6
    assert load_market(crash).n_bars == 60
