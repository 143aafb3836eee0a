"""Data frames of other libraries are read as those of pandas are: what speaks Arrow, such as Polars and PyArrow."""

import numpy as np
import pandas as pd
import pyarrow
import pytest

from jaxppo.envs import DataError, load_market

DAYS = pd.bdate_range("2020-01-01", periods=300)


def prices(zone=None) -> pd.DataFrame:
    close = np.exp(np.cumsum(0.01 * np.random.default_rng(0).standard_normal((2, len(DAYS))), axis=1))
    days = DAYS if zone is None else DAYS.tz_localize(zone) + pd.Timedelta("16h")
    frames = [
        pd.DataFrame({"time": days, "symbol": name, "close": line, "volume": np.arange(1, 301)})
        for name, line in zip("AB", close, strict=True)
    ]
    return pd.concat(frames, ignore_index=True)


def polars_frame(frame):
    polars = pytest.importorskip("polars", reason="polars is not installed")
    return polars.from_pandas(frame)


MAKERS = {"polars": polars_frame, "pyarrow": pyarrow.Table.from_pandas}


@pytest.mark.parametrize("zone", [None, "America/New_York"])
@pytest.mark.parametrize("maker", MAKERS)
def test_the_market_is_that_of_pandas(maker, zone):
    frame = prices(zone)
    theirs, ours = load_market(MAKERS[maker](frame)), load_market(frame)
    assert theirs.info.symbols == ours.info.symbols == ("A", "B")
    np.testing.assert_array_equal(theirs.info.timestamps, ours.info.timestamps)
    for name in ("open", "close", "volume", "half_spread"):
        np.testing.assert_array_equal(getattr(theirs, name), getattr(ours, name))


def test_dates_and_categories_are_read():
    frame = prices().astype({"symbol": "category"})
    frame["time"] = frame["time"].dt.date
    table = pyarrow.Table.from_pandas(frame)
    assert pyarrow.types.is_date(table.schema.field("time").type)
    np.testing.assert_array_equal(load_market(table).info.timestamps, load_market(prices()).info.timestamps)


def test_a_frame_of_each_symbol_is_read():
    frames = {name: pyarrow.Table.from_pandas(one.drop(columns="symbol")) for name, one in prices().groupby("symbol")}
    np.testing.assert_array_equal(load_market(frames).close, load_market(prices()).close)


@pytest.mark.parametrize("maker", MAKERS)
def test_a_column_is_refused_in_one_line(maker):
    column = {"polars": lambda table: table["close"], "pyarrow": lambda table: table.column("close")}[maker]
    with pytest.raises(DataError, match=r"expected a data frame \(pandas, Polars, Arrow\), not (Series|ChunkedArray)"):
        load_market(column(MAKERS[maker](prices())))
