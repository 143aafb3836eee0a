"""Faults that a hasty reader of prices lets through: bad prints, doubtful splits, cells without meaning, units."""

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from price_tables import panel, refusal, same, single

from jaxppo.envs.data.load import load_market

PRICES = ("open", "high", "low", "close")


def daily(seed: int = 3, n: int = 60, symbols=("AAA", "BBB")) -> pd.DataFrame:
    return panel(seed, n=n, symbols=symbols, missing=0, freq="B").assign(
        timestamp=lambda frame: frame["timestamp"].dt.strftime("%Y-%m-%d")
    )


def scaled(frame: pd.DataFrame, rows: list[int], columns: tuple[str, ...], factor: float) -> pd.DataFrame:
    frame = frame.copy()
    frame.loc[rows, list(columns)] *= factor
    return frame


def report_of(source, **options) -> dict:
    return load_market(source, **options).info.report


BAD_PRINTS = {
    "close up": ([80], ("high", "close"), 30.0, "BBB, row 80 (2024-01-30): close"),
    "close down": ([80], ("low", "close"), 1 / 30, "BBB, row 80 (2024-01-30): close"),
    "open up": ([80], ("high", "open"), 10.0, "BBB, row 80 (2024-01-30): open"),
    "high": ([80], ("high",), 10.0, "BBB, row 80 (2024-01-30): high"),
    "low": ([80], ("low",), 0.1, "BBB, row 80 (2024-01-30): low"),
    "two highs": ([80, 81], ("high",), 10.0, "(2 such rows)"),
    "first high": ([60], ("high",), 10.0, "BBB, row 60 (2024-01-02): high"),
    "last low": ([59], ("low",), 0.1, "AAA, row 59 (2024-03-25): low"),
    "whole bars": ([80, 81, 82], PRICES, 3.3, "(3 such rows)"),
}


@pytest.mark.parametrize("case", sorted(BAD_PRINTS))
def test_prints_that_revert_are_refused(case):
    rows, columns, factor, finding = BAD_PRINTS[case]
    frame = scaled(daily(), rows, columns, factor)
    message = refusal(frame, split_tolerance=0)
    assert finding in message
    assert "a bad print" in message
    option = message.rpartition("max_log_spike=")[2].split()[0]
    size = abs(np.log(factor))
    assert abs(float(option) - size) < 0.12
    assert load_market(frame, max_log_spike=float(option), split_tolerance=0).n_bars == 60


@given(seed=st.integers(0, 10**6), at=st.integers(1, 58), factor=st.floats(3.3, 30), below=st.booleans())
@settings(max_examples=25, deadline=None)
def test_a_spike_is_refused_where_it_is_and_a_lasting_move_is_not(seed, at, factor, below):
    frame = daily(seed, symbols=("AAA",))
    factor = 1 / factor if below else factor
    wick = "low" if below else "high"
    spike = scaled(frame, [at], (wick, "close"), factor)
    assert f"AAA, row {at} " in refusal(spike)
    # the same print, if prices stay there: the close of bar `at` crashes or multiplies, and that is the new level
    lasting = scaled(spike, list(range(at + 1, 60)), PRICES, factor)
    assert load_market(lasting).n_bars == 60


def test_a_run_longer_than_three_bars_counts_as_real():
    for n_bars, refused in ((3, True), (4, False)):
        frame = scaled(daily(symbols=("AAA",)), list(range(20, 20 + n_bars)), PRICES, 3.3)
        if refused:
            assert "a bad print" in refusal(frame, split_tolerance=0)
        else:
            assert load_market(frame, split_tolerance=0).n_bars == 60


def test_neighbours_are_bars_of_the_same_asset():
    frame = daily(n=60, symbols=("AAA", "BBB", "CCC"))
    few = frame[(frame["symbol"] != "BBB") | (frame["timestamp"] < "2024-01-04")].reset_index(drop=True)
    assert load_market(scaled(few, [60, 61], PRICES, 5.0)).n_bars == 60


def test_a_wick_that_reaches_back_to_the_level_before_is_real():
    close = np.array([10.0, 10.1, 2.3, 2.35, 2.3, 2.4])
    crash = single(Open=close, Close=close, High=[10.1, 10.2, 10.0, 2.4, 2.4, 2.5], Low=close - 0.1)
    assert load_market(crash).n_bars == 6
    crash.loc[4, "High"] = 10.0
    assert "row 4 (2024-01-08): high 10 is a factor of 4.17 off every open and close around it" in refusal(crash)


def test_the_limit_grows_with_the_moves_that_are_usual_for_an_asset():
    rng = np.random.default_rng(1)
    close = np.exp(np.cumsum(rng.choice([-0.45, 0.45], 80)))
    close[40:] *= 4.0 * close[39] / close[40]
    close[41:] *= close[39] / close[41]
    frame = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=80), "close": close, "open": close})
    frame["open"] = frame["close"].shift(1, fill_value=1.0)
    frame["high"], frame["low"] = frame[["open", "close"]].max(axis=1), frame[["open", "close"]].min(axis=1)
    assert load_market(frame).n_bars == 80
    calm = frame.assign(**{name: np.where(frame[name] == close[40], 4.0, 1.0) for name in PRICES}).assign(low=1.0)
    assert "row 40 (2024-02-10): close 4 is a factor of 4 off" in refusal(calm)


def test_wicks_of_intraday_bars_are_left_to_the_range_and_reported():
    frame = scaled(panel(2, symbols=("AAA",), missing=0), [20], ("low",), 0.1)
    lines = report_of(frame)["warnings"]
    assert any("1 bar(s) with high more than twice low, the widest 10" in line for line in lines)
    assert "pass max_log_range=2.4" in refusal(frame, max_log_range=2.0)
    assert "close" in refusal(scaled(panel(2, symbols=("AAA",), missing=0), [20], ("high", "close"), 10.0))


@pytest.mark.parametrize(("ratio", "text"), [(1.5, "3:2"), (2.5, "5:2")])
def test_doubtful_splits_are_reported(ratio, text):
    frame = daily()
    split = scaled(frame, list(range(90, 120)), PRICES, 1 / ratio)
    line = next(line for line in report_of(split)["warnings"] if "split" in line)
    assert line.startswith("BBB: the open of 2024-02-13 is 0.")
    assert line.endswith(f"it looks like an unadjusted {text} split")
    clean = report_of(frame)["warnings"]
    assert not [line for line in clean if "split" in line]
    assert not [line for line in report_of(split, split_tolerance=0)["warnings"] if f"{text} split" in line]
    risen = scaled(frame, list(range(90, 120)), PRICES, ratio)
    assert not [line for line in report_of(risen)["warnings"] if f"{text} split" in line]


@pytest.mark.parametrize(
    ("columns", "factor", "finding"),
    [
        (PRICES, 1e38, "AAA, row 0 (2024-01-02): open is 5.0"),
        (PRICES, 1e-43, "AAA, row 0 (2024-01-02): open is 5"),
        (("volume",), 1e37, "AAA, row 0 (2024-01-02): volume is"),
    ],
)
def test_numbers_beyond_32_bits_are_refused(columns, factor, finding):
    frame = daily()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        message = refusal(scaled(frame, list(frame.index), columns, factor))
        one_bad = scaled(frame, [70], columns, factor)
        report = report_of(one_bad, on_bad_rows="drop")
        assert "after adjustment by adj_factor, open is " in refusal(frame.assign(adj_factor=1e30))
    assert finding in message
    assert "another unit" in message or "larger unit" in message
    assert report["repairs"] == {"dropped: beyond 32-bit numbers": 1}


def lines_of(frame: pd.DataFrame, separator: str = ",") -> list[str]:
    return frame.to_csv(index=False, sep=separator).splitlines()


def written(folder, lines: list[str]):
    (folder / "x.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "x.csv"


def test_rows_without_symbol_are_refused_or_dropped(tmp_path):
    frame = daily()
    reference = load_market(frame)
    nameless = pd.concat([frame, frame[:5].assign(symbol=None)])
    path = written(tmp_path, lines_of(nameless))
    expected = (
        "x.csv: line 122: the column symbol is empty (the row begins with '2024-01-02') (5 such rows); pass on_bad"
    )
    for source in (path, nameless, frame.assign(symbol=" ")):
        message = refusal(source)
        assert "the column symbol is empty" in message
        assert ": , " not in message
    assert expected in refusal(path)
    market = load_market(path, on_bad_rows="drop")
    assert same(market, reference)
    assert market.info.report["repairs"] == {"dropped: no symbol": 5}
    categories = nameless.assign(symbol=nameless["symbol"].astype("category"))
    assert same(load_market(categories, on_bad_rows="drop"), reference)


@pytest.mark.parametrize("separator", [",", ";"])
def test_headers_and_footers_among_the_rows(tmp_path, separator):
    frame = daily()
    reference, lines = load_market(frame), lines_of(frame, separator)
    repeated = written(tmp_path, [*lines[:50], lines[0], *lines[50:]])
    assert refusal(repeated).startswith("x.csv: line 51: the header line is repeated; pass on_bad_rows='drop'")
    market = load_market(repeated, on_bad_rows="drop", symbols=["AAA", "BBB"])
    assert same(market, reference)
    assert market.info.report["repairs"] == {"dropped: repeated header": 1}
    footer = written(tmp_path, [*lines, separator.join(["Total", "", "", "", "", "", "12345"])])
    assert refusal(footer).startswith("x.csv: line 122: the column symbol is empty (the row begins with 'Total')")
    assert same(load_market(footer, on_bad_rows="drop"), reference)


def test_two_columns_of_one_name(tmp_path):
    frame = single()
    other = frame.assign(**{"close ": frame["Close"] * 2})
    assert "'Close' and 'close ' (columns 5 and 7) have one meaning and different values" in refusal(other)
    twice = frame.set_axis([*frame.columns[:5], "Close"], axis=1)
    assert "'Close' and 'Close' (columns 5 and 6)" in refusal(twice)
    assert "'Close' and 'Close' (columns 5 and 6)" in refusal(written(tmp_path, lines_of(twice)))
    copied = frame.assign(**{"close ": frame["Close"], "Note": 1, "note": 2})
    assert same(load_market(copied), load_market(frame))


def test_one_asset_in_two_spellings_is_reported():
    frame = daily(symbols=("AAA", "aaa", "BBB"))
    lines = [line for line in report_of(frame)["warnings"] if "differ only in case" in line]
    assert lines == ["AAA and aaa differ only in case: one asset in two spellings?"]


def continental(frame: pd.DataFrame, price: str) -> list[str]:
    """Lines with `;` and `dd.mm.yyyy`; prices written by the format, with comma and dot exchanged."""
    text = frame.assign(timestamp=pd.to_datetime(frame["timestamp"]).dt.strftime("%d.%m.%Y"))
    for name in PRICES:
        text[name] = [format(value, price).translate(str.maketrans(",.", ".,")) for value in frame[name]]
    return lines_of(text, ";")


def test_continental_numbers(tmp_path):
    frame = daily()
    thousands = frame.assign(**{name: (frame[name] * 50).round(2) for name in PRICES})
    path = written(tmp_path, continental(thousands, ",.2f"))
    assert ";2.5" in path.read_text().splitlines()[1]
    assert same(load_market(path), load_market(thousands))
    whole = frame.assign(**{name: (frame[name] * 50).round() for name in PRICES})
    message = refusal(written(tmp_path, continental(whole, ",.0f")))
    assert "x.csv: prices such as 2.5" in message
    assert "read as a fraction and as thousands; write them with a decimal comma (2006,0)" in message
    assert same(load_market(written(tmp_path, continental(whole, ".0f"))), load_market(whole))
    assert same(load_market(written(tmp_path, continental(whole, ".1f"))), load_market(whole))
    points = [line.replace(",", ".") for line in continental(thousands, ".2f")]
    assert same(load_market(written(tmp_path, points)), load_market(thousands))


def test_a_calendar_that_does_not_fit_is_reported():
    hours = panel(4, n=7 * 24, symbols=("AAA", "BBB"), missing=0)
    line = report_of(hours, calendar="XNYS")["warnings"][0]
    # from Tuesday, 2 January 2024, 14:00 UTC: five sessions of seven bars that touch 14:30 to 21:00, 35 of 168 bars
    assert line.startswith("79 % of the bars of AAA lie outside every session of XNYS")
    assert "in 2 of 2 symbol(s)" in line
    assert not [line for line in report_of(hours, calendar="24/7")["warnings"] if "session" in line]


def test_no_symbols_is_not_all_symbols():
    assert refusal(daily(), symbols=[]).startswith("symbols is empty: name at least one symbol, or pass None")
    assert refusal(daily(), symbols=np.array([], str)).startswith("symbols is empty")
    assert refusal(daily(), symbols=[5930]) == "symbols must be text such as '5930', not 5930"


def test_the_hour_that_clocks_repeat():
    times = pd.date_range("2023-11-03 14:00", periods=60, freq="h", tz="UTC")
    frame = panel(5, n=60, symbols=("AAA",), missing=0).assign(timestamp=times)
    local = frame.assign(timestamp=times.tz_convert("America/New_York").tz_localize(None))
    message = refusal(local)
    assert "(2023-11-05 01:00)" in message
    assert "as when clocks are set back; pass on_bad_rows='drop' and the zone" in message
    assert "timezone='America/New_York'" in message
    assert load_market(local, timezone="America/New_York", on_bad_rows="drop").n_bars == 58
    stated = local.assign(timestamp=local["timestamp"].dt.strftime("%Y-%m-%dT%H:%MZ"))
    numbers = local.assign(timestamp=local["timestamp"].astype("datetime64[ns]").astype("int64") // 10**9)
    elsewhere = local.assign(timestamp=local["timestamp"] + pd.Timedelta("3h"))
    for source in (stated, numbers, elsewhere):
        assert "set back" not in refusal(source)
