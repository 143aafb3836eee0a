"""Files by pattern, partitions by folders, and the period that is used."""

import numpy as np
import pandas as pd
import pytest

from jaxppo.envs import DataError, load_market

DAYS = pd.bdate_range("2020-01-01", periods=120)


def frame(days, level=100.0):
    close = level + np.arange(len(days)) % 7
    return pd.DataFrame(
        {"time": days, "open": close, "high": close + 1, "low": close - 1, "close": close, "volume": 1e6}
    )


def refusal(source, **options):
    with pytest.raises(DataError) as error:
        load_market(source, **options)
    return str(error.value)


@pytest.fixture
def lake(tmp_path):
    for level, symbol in ((100.0, "SPY"), (50.0, "BRK/B")):
        for year, days in (("early", slice(0, 60)), ("late", slice(60, None))):
            folder = tmp_path / "lake" / f"symbol={symbol.replace('/', '%2F')}" / f"part={year}"
            folder.mkdir(parents=True)
            frame(DAYS, level)[days].to_parquet(folder / "0.parquet")
    return tmp_path / "lake"


def test_a_lake_is_the_table_that_was_written_into_it(lake):
    market = load_market(f"{lake}/**/*.parquet")
    whole = pd.concat([frame(DAYS, level).assign(symbol=name) for level, name in ((100.0, "SPY"), (50.0, "BRK/B"))])
    expected = load_market(whole)
    assert market.info.symbols == expected.info.symbols == ("BRK/B", "SPY")
    assert market.info.report["fingerprint"] == expected.info.report["fingerprint"]


def test_files_of_other_symbols_are_not_read(lake):
    for file in lake.glob("symbol=BRK*/*/0.parquet"):
        file.write_bytes(b"junk")
    assert load_market(f"{lake}/**/*.parquet", symbols=["SPY"]).n_bars == 120
    assert "no symbol 'QQQ'; there is BRK/B, SPY" in refusal(f"{lake}/**/*.parquet", symbols=["QQQ"])
    assert "cannot be read" in refusal(f"{lake}/**/*.parquet")


def test_a_column_of_the_file_goes_before_its_folder(lake):
    for file in lake.glob("symbol=SPY/*/0.parquet"):
        pd.read_parquet(file, partitioning=None).assign(Ticker="VOO").to_parquet(file)
    assert load_market(f"{lake}/symbol=SPY/*/*.parquet").info.symbols == ("VOO",)


def test_dates_may_be_folders_too(tmp_path):
    for day in DAYS:
        (tmp_path / f"date={day:%Y-%m-%d}").mkdir()
        frame([day]).drop(columns="time").assign(symbol="A").to_csv(tmp_path / f"date={day:%Y-%m-%d}" / "x.csv")
    market = load_market(f"{tmp_path}/*/x.csv")
    assert (market.n_bars, market.info.report["last"]) == (120, f"{DAYS[-1]:%Y-%m-%d}")


def test_a_pattern_without_files_and_a_folder_of_folders_are_refused(lake):
    assert "no price file (.csv" in refusal(f"{lake}/**/*.csv")
    assert f"those of folders below are {lake}/**/*.parquet" in refusal(lake)


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path):
    frame(DAYS).to_csv(tmp_path / "a[1].csv", index=False)
    assert load_market(tmp_path / "a[1].csv").n_bars == 120


def test_only_bars_between_start_and_end_are_used():
    market = load_market(frame(DAYS), start="2020-02-03", end="2020-03-02")
    expected = load_market(frame(pd.bdate_range("2020-02-03", "2020-03-02")))
    assert market.info.report["first"] == "2020-02-03"
    assert (market.n_bars, market.info.report["last"]) == (expected.n_bars, "2020-03-02")
    hours = pd.date_range("2020-01-01", periods=240, freq="h")
    assert load_market(frame(hours), start="2020-01-02", end="2020-01-02").n_bars == 24


def test_faults_outside_the_period_do_not_matter():
    faulty = frame(DAYS)
    faulty.loc[3, "close"] = -1.0
    assert "-1" in refusal(faulty)
    assert load_market(faulty, start="2020-02-01").n_bars == 97


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start": "2021-01-01"}, "no bar from 2021-01-01 to the last; the prices are of 2020-01-01 to 2020-06-16"),
        ({"end": "2019-12-31"}, "no bar from the first to 2019-12-31"),
        ({"start": "2020-02-30"}, "start='2020-02-30' must be a date such as 2020-01-31"),
        ({"start": "2020"}, "start='2020' must be a date"),
        ({"end": 2020}, "end=2020 must be a date"),
        ({"start": "2020-02-02", "end": "2020-02-01"}, "must not lie before start='2020-02-02'"),
    ],
)
def test_periods_that_cannot_be_are_refused(options, words):
    assert words in refusal(frame(DAYS), **options)
