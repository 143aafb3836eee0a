"""Files that are not what they seem, and assets that are not what their names say."""

import gzip
import json
import os
import time
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxppo.envs.data import reading
from jaxppo.envs.data.load import load_market
from jaxppo.errors import DataError


def bars(n):
    """Daily bars of one asset."""
    close = 50 * np.exp(np.cumsum(np.random.default_rng(0).normal(0, 0.01, n))).round(3)
    times = pd.bdate_range("2021-01-04", periods=n)
    return pd.DataFrame({"timestamp": times, "open": close, "high": close + 1, "low": close - 1, "close": close})


def test_parts_of_a_history_are_one_asset(tmp_path):
    """Files named alike but for a date, each after the other; those that overlap are assets of their own."""
    whole = bars(400)
    for number, year in enumerate(("2021", "2022-01", "20230101")):
        whole.iloc[100 * number : 100 * number + 100].to_csv(tmp_path / f"SPY_{year}.csv", index=False)
    market = load_market(tmp_path)
    assert (market.info.symbols, market.n_bars) == (("SPY",), 300)
    assert load_market(tmp_path, symbols=["SPY"]).n_bars == 300
    for year in (2030, 2040):
        folder = tmp_path / "funds"
        folder.mkdir(exist_ok=True)
        whole.to_csv(folder / f"TARGET_{year}.csv", index=False)
    assert load_market(tmp_path / "funds").info.symbols == ("TARGET_2030", "TARGET_2040")


def test_assets_that_end_or_only_follow_one_another_are_named(tmp_path):
    whole = bars(400)
    warnings = load_market({"A": whole, "B": whole.iloc[:300]}).info.report["warnings"]
    assert any(line.startswith("B ends on ") and "100 bars before the last" in line for line in warnings)
    warnings = load_market({"A": whole.iloc[:200], "B": whole.iloc[200:]}).info.report["warnings"]
    assert "A, B only follow one another: one symbol in several files?" in warnings


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path):
        with pytest.raises(DataError, match=r"pipe\.csv: is not a regular file"):
            load_market(path)
    with pytest.raises(DataError, match="home directory"):
        load_market("~nosuchuser/x.csv")
    with pytest.raises(DataError, match="the path of the price file is empty"):
        load_market("")


@pytest.mark.parametrize("kind", ["zip", "gz"])
def test_files_that_expand_beyond_memory_are_refused_before_they_are_read(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(reading, "MOST_BYTES", 10_000)
    text = bars(400).to_csv(index=False)
    path = tmp_path / f"prices.csv.{kind}"
    if kind == "gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("prices.csv", text)
    with pytest.raises(DataError, match="expands to "):
        load_market(path)


def test_foreign_metadata_of_a_parquet_file_are_one_line(tmp_path):
    table = pa.Table.from_pandas(bars(60))
    described = {**json.loads(table.schema.metadata[b"pandas"]), "index_columns": ["nope"]}
    pq.write_table(table.replace_schema_metadata({b"pandas": json.dumps(described)}), tmp_path / "p.parquet")
    with pytest.raises(DataError, match=r"p\.parquet: cannot be read: "):
        load_market(tmp_path / "p.parquet")


@pytest.mark.parametrize("text", ["2604-07-23 14:54", "2262-04-12", "9999-12-31", "1500-01-01"])
def test_times_beyond_what_64_bits_hold_are_no_times(text):
    frame = bars(200)
    frame["timestamp"] = frame["timestamp"].astype(str)
    frame.loc[150, "timestamp"] = text
    with pytest.raises(DataError, match=f"row 150.*{text}"):
        load_market(frame)


def test_headers_of_two_levels_in_both_orders(tmp_path):
    one = bars(60).set_index("timestamp")
    both = pd.concat({"AAPL": one, "MSFT": 2 * one}, axis=1, names=["Ticker", "Price"])
    both.to_csv(tmp_path / "by_ticker.csv")
    both.swaplevel(axis=1).to_csv(tmp_path / "by_price.csv")
    markets = [load_market(tmp_path / name) for name in ("by_ticker.csv", "by_price.csv")]
    assert [market.info.symbols for market in markets] == [("AAPL", "MSFT")] * 2
    np.testing.assert_array_equal(*(market.close for market in markets))


@pytest.mark.parametrize("packed", [False, True])
def test_notes_beside_price_files_are_left_out_with_a_warning(tmp_path, packed):
    source = tmp_path / "prices"
    source.mkdir()
    bars(60).to_csv(source / "SPY.csv", index=False)
    for name in ("notes.txt", "readme.md"):
        (source / name).write_text("what these prices are")
    if packed:
        with zipfile.ZipFile(tmp_path / "prices.zip", "w") as archive:
            for path in source.iterdir():
                archive.write(path, path.name)
        source = tmp_path / "prices.zip"
    market = load_market(source)
    assert market.n_bars == 60
    left_out = f"{source.name}: left out what is no price file: notes.txt, readme.md"
    assert left_out in market.info.report["warnings"]


def test_price_files_that_cannot_be_read_are_not_notes(tmp_path):
    (tmp_path / "notes.txt").write_text("what these prices are")
    with pytest.raises(DataError, match=r"notes\.txt: no header line"):
        load_market(tmp_path)
    bars(60).to_csv(tmp_path / "SPY.csv", index=False)
    (tmp_path / "QQQ.csv").write_text("broken")
    with pytest.raises(DataError, match=r"QQQ\.csv: no header line"):
        load_market(tmp_path)


def test_frames_that_are_no_tables_are_one_line():
    listed = bars(60).assign(symbol=[["AAA"]] * 60)
    with pytest.raises(DataError, match=r"the column symbol holds \['AAA'\]; a symbol is text"):
        load_market(listed)
    one = bars(60).set_index("timestamp")
    with pytest.raises(DataError, match="columns have 3 levels"):
        load_market(pd.concat({"A": pd.concat({"B": one}, axis=1)}, axis=1))
    endless = []
    endless.append(endless)
    with pytest.raises(DataError, match="a list of price files holds a list"):
        load_market(endless)


@pytest.mark.parametrize("character", ["\0", "\n", "\x1b", "\u202e", "\u200b", "\u2028"])
def test_symbols_can_be_printed(character):
    with pytest.raises(DataError, match=rf"the symbol .* holds the character U\+{ord(character):04X}"):
        load_market({f"A{character}B": bars(60)})
    assert load_market({"BRK B/ü-漢": bars(60)}).n_assets == 1


def test_labels_of_many_columns_are_numbered_in_linear_time():
    labels = [f"x{number}" for number in range(100_000)] + ["x5", "x5"]
    began = time.process_time()
    assert reading._unique(labels)[-3:] == ["x99999", "x5.100000", "x5.100001"]
    assert time.process_time() - began < 5.0
