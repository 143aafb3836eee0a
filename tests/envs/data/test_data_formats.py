"""Loading prices: containers, notations of times, spellings of columns."""

import pathlib
import zipfile

import numpy as np
import pandas as pd
import pytest
from price_tables import panel, same, single

from jaxppo.envs.data.load import load_market


def test_one_symbol_per_file_and_every_container(tmp_path):
    long = panel(1)
    reference = load_market(long)
    files = {symbol: group.drop(columns="symbol") for symbol, group in long.groupby("symbol")}
    folder = tmp_path / "folder"
    folder.mkdir()
    files["AAA"].to_csv(folder / "AAA.csv.gz", index=False)
    files["BBB"].to_parquet(folder / "BBB.parquet")
    (folder / "notes.md").write_text("not prices")
    assert same(load_market(folder), reference)
    assert same(load_market([folder / "BBB.parquet", str(folder / "AAA.csv.gz")]), reference)
    assert same(load_market(files), reference)
    with zipfile.ZipFile(tmp_path / "both.zip", "w") as archive:
        for symbol, frame in files.items():
            archive.writestr(f"deep/{symbol}.csv", frame.to_csv(index=False))
    assert same(load_market(tmp_path / "both.zip"), reference)
    wide = long.pivot(index="timestamp", columns="symbol", values=["open", "high", "low", "close", "volume"])
    assert same(load_market(wide), reference)
    assert same(load_market(wide.swaplevel(axis=1)), reference)
    wide.columns.names, wide.index.name = ["Price", "Ticker"], "Datetime"
    wide.to_csv(tmp_path / "yfinance.csv")
    assert same(load_market(tmp_path / "yfinance.csv"), reference)
    assert same(load_market(long.set_index(["timestamp", "symbol"])), reference)
    assert same(load_market(long.set_index("timestamp")), reference)


def written(times: pd.Series, notation: str) -> list:
    nanoseconds = times.astype("datetime64[ns, UTC]").astype("int64")
    units = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
    if notation in units:
        return (nanoseconds // units[notation]).tolist()
    if notation == "new york":
        return [t.isoformat() for t in times.dt.tz_convert("America/New_York")]
    return times.dt.strftime(notation).tolist()


NOTATIONS = [
    "s",
    "ms",
    "us",
    "ns",
    "new york",
    "%Y-%m-%dT%H:%M:%SZ",
    "%Y-%m-%d %H:%M:%S+00:00",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%d %I-%p",
    "%m/%d/%Y %H:%M",
    "%d.%m.%Y %H:%M:%S",
    "%m/%d/%y %I:%M %p",
    "%Y%m%d %H:%M",
    "%Y%m%d %H%M%S",
    "%Y.%m.%d %H:%M",
    "%d %b %Y %H:%M",
    "%b %d, %Y %H:%M",
    "%Y/%m/%d %H:%M:%S.%f",
    "%Y%m%dT%H%M%SZ",
    "%d-%b-%Y %H:%M",
]


@pytest.mark.parametrize("notation", NOTATIONS)
def test_times_are_read_in_every_notation(tmp_path, notation):
    long = panel(2, n=500, symbols=("AAA",))
    reference = load_market(long)
    spelled = long.assign(timestamp=written(long["timestamp"], notation))
    assert same(load_market(spelled), reference)
    spelled.to_csv(tmp_path / "prices.csv", index=False)
    assert same(load_market(tmp_path / "prices.csv"), reference)


def test_naive_times_of_an_exchange():
    long = panel(3, n=200, symbols=("AAA",), missing=0)
    local = long["timestamp"].dt.tz_convert("America/New_York")
    market = load_market(long.assign(timestamp=local.dt.tz_localize(None)), timezone="America/New_York")
    assert same(market, load_market(long, timezone="America/New_York"))
    np.testing.assert_array_equal(market.minute_of_day, (local.dt.hour * 60).to_numpy())
    np.testing.assert_array_equal(market.day_of_week, local.dt.day_of_week.to_numpy())
    np.testing.assert_array_equal(np.diff(market.session), np.diff(local.dt.date.to_numpy()) > pd.Timedelta(0))
    np.testing.assert_array_equal(market.info.timestamps, long["timestamp"].dt.tz_localize(None).to_numpy())


@pytest.mark.parametrize("zone", ["Europe/London", "America/New_York", "Asia/Tokyo"])
def test_daily_dates_do_not_depend_on_the_zone(zone):
    frame = panel(4, n=250, symbols=("AAA",), freq="B")
    reference = load_market(frame)
    dates = frame["timestamp"].dt.tz_localize(None)
    assert same(load_market(frame.assign(timestamp=dates.dt.strftime("%Y-%m-%d"))), reference)
    local = dates.dt.tz_localize(zone)
    assert same(load_market(frame.assign(timestamp=local)), reference)
    assert same(load_market(frame.assign(timestamp=[str(t) for t in local])), reference)
    assert same(load_market(frame.assign(timestamp=local.dt.tz_convert("UTC")), timezone=zone), reference)
    assert same(load_market(frame.assign(timestamp=dates.dt.strftime("%Y%m%d").astype(int)), timezone=zone), reference)


SPELLED = {
    "plain.csv": "Date,Open,High,Low,Close,Volume\n",
    "shout.csv": "\ufeffTIMESTAMP, OPEN, HIGH, LOW, CLOSE, VOL\n",
    "metatrader.csv": "<DATE>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\n",
    "alpha.csv": "timestamp,1. open,2. high,3. low,4. close,5. volume\n",
    "preamble.csv": "from a vendor\n\ntime,o,h,l,c,v\n",
    "none.csv": "",
    "semicolon.csv": "Date;Open;High;Low;Close;Volume\n",
    "trailing.csv": "Date,Open,High,Low,Close,Volume\n",
    "indexed.csv": ",Open,High,Low,Close,Volume\n",
}


@pytest.mark.parametrize("name", sorted(SPELLED))
def test_columns_in_every_spelling(tmp_path, name):
    header = SPELLED[name]
    separator = ";" if ";" in header else "\t" if "\t" in header else ","
    body = single().to_csv(index=False, header=False, sep=separator, decimal="," if separator == ";" else ".")
    if name == "trailing.csv":
        body = body.replace("\n", ",\n")
    (tmp_path / name).write_text(header + body, encoding="utf-8")
    market, reference = load_market(tmp_path / name, symbols=[pathlib.Path(name).stem]), load_market(single())
    for field in ("open", "high", "low", "close", "volume", "tradable", "day_of_week"):
        np.testing.assert_array_equal(getattr(market, field), getattr(reference, field))


def test_numbers_as_people_write_them(tmp_path):
    rows = [
        "Date,Price,Open,High,Low,Vol.,Change %",
        '01/23/2024,"1,010.5",$999,"1,011.25",990,1.2M,1%',
        "01/22/2024,999,990,999,990,850K,",
    ]
    (tmp_path / "x.csv").write_text("\n".join(rows))
    market = load_market(tmp_path / "x.csv")
    np.testing.assert_array_equal(market.close[:, 0], [999, 1010.5])
    np.testing.assert_array_equal(market.high[:, 0], [999, 1011.25])
    np.testing.assert_array_equal(market.volume[:, 0], np.float32([850e3, 1.2e6]))


def test_a_ticker_called_na_is_a_ticker(tmp_path):
    panel(5, symbols=("000001", "NA", "TRUE")).to_csv(tmp_path / "x.csv", index=False)
    assert load_market(tmp_path / "x.csv").info.symbols == ("000001", "NA", "TRUE")
