"""A feed makes of each record what the loader makes of the whole file, bar by bar."""

import dataclasses
import types

import numpy as np
import pandas as pd
import pytest
from cheap_policy import RULES as CHEAP
from tiny_run import prices, tiny_config

from jaxppo.deploy import feed
from jaxppo.deploy.feed import Feed, RefusedError, parse_time
from jaxppo.deploy.spec import feed_rules
from jaxppo.envs.data import payments
from jaxppo.run.data import load_data

NAMES = ["open", "high", "low", "close", "volume"]


def ragged(daily, seed=0):
    """Prices of three assets with gaps, bars in which nobody traded, and a late listing."""
    draws = np.random.default_rng(seed)
    frame = prices(160, ("AAA", "BBB", "CCC"), seed)
    if not daily:
        hours = pd.date_range("2021-03-01 14:30", periods=900, freq="h", tz="UTC")
        hours = hours[(hours.hour >= 14) & (hours.hour <= 20) & (hours.dayofweek < 5)][:160]
        assert len(hours) > 100
        frame = frame.groupby("symbol").head(len(hours))
        frame["date"] = np.tile(hours.strftime("%Y-%m-%dT%H:%M:%S+00:00"), 3)
    frame.loc[draws.random(len(frame)) < 0.05, "volume"] = 0
    kept = (draws.random(len(frame)) > 0.05) & ~((frame["symbol"] == "CCC") & (np.arange(len(frame)) % len(frame) < 20))
    frame = frame[kept].reset_index(drop=True)
    half = frame["close"] * draws.uniform(1e-4, 1e-3, len(frame))
    quoted = draws.random(len(frame)) > 0.3
    frame["bid"] = np.where(quoted, frame["close"] - half, np.nan)
    frame["ask"] = np.where(quoted, frame["close"] + half, np.nan)
    frame["carry"] = np.where(draws.random(len(frame)) > 0.5, draws.normal(0, 0.05, len(frame)), np.nan)
    frame["rate"] = np.where(draws.random(len(frame)) > 0.5, draws.normal(0, 1e-3, len(frame)), np.nan)
    return frame


MARKETS = {
    "daily": ({}, True),
    "edge, ticks, contracts": ({"spread": "edge", "tick": 0.01, "multiplier": {"BBB": 50.0}}, True),
    "fixed, by symbol": ({"spread": "fixed", "half_spread": {"AAA": 1e-4, "BBB": 2e-4, "CCC": 3e-4}}, True),
    "hourly in New York": ({"timezone": "America/New_York"}, False),
    "hourly by a calendar": ({"calendar": "XNYS"}, False),
    "volume in dollars": ({"volume": "notional"}, True),
    "volume of no use": ({"volume": "none"}, True),
    "counted ticks": ({"volume": "ticks"}, True),
    "zero volume can be traded": ({"zero_volume_tradable": True}, True),
    "funding": ({"funding": "rate"}, True),
}


@pytest.mark.parametrize(("keys", "daily"), MARKETS.values(), ids=MARKETS)
def test_fields_are_those_of_the_loader(keys, daily, tmp_path):
    frame = ragged(daily)
    frame.to_csv(tmp_path / "prices.csv", index=False)
    config = tiny_config(data={"path": str(tmp_path / "prices.csv"), **keys})
    market = load_data(config)
    feed = Feed(feed_rules(types.SimpleNamespace(config=config, market=market)))
    expected = {
        name: np.asarray(x, np.float32) for name, x in vars(market).items() if name not in ("info", "futures", "ended")
    }
    for bar, (stamp, part) in enumerate(frame.groupby("date", sort=True)):
        if bar == 70:  # as after a restart
            state, feed = feed.state(), Feed(feed.rules)
            feed.restore(state)
        bars = part.set_index("symbol")[[*NAMES, "bid", "ask", "carry", "rate"]].to_dict(orient="index")
        reading = feed.read({"time": str(stamp), "bars": bars})
        assert not reading.refused
        assert reading.time == market.info.timestamps[bar].astype("datetime64[ns]").astype(np.int64)
        for name, value in reading.fields.items():
            np.testing.assert_allclose(
                np.asarray(value, np.float32),
                expected[name][bar],
                rtol=1e-6,
                atol=1e-9,
                err_msg=f"{name} of bar {bar}",
            )


def test_times_in_all_notations_are_one():
    import datetime
    import zoneinfo

    new_york = zoneinfo.ZoneInfo("America/New_York")
    expected = 1_614_609_000 * 10**9
    for value in (
        "2021-03-01T14:30:00Z",
        "2021-03-01 09:30",
        "2021-03-01T15:30:00+01:00",
        1_614_609_000,
        1_614_609_000_000,
    ):
        assert parse_time(value, new_york) == expected
    assert parse_time(expected, datetime.UTC) == expected
    with pytest.raises(RefusedError):
        parse_time(True, new_york)


def test_own_columns_stand_until_the_next_value_and_absurd_ones_are_refused():
    feed = Feed(dataclasses.replace(CHEAP, columns=("Mood",)))

    def read(minute, **more):
        bar = {"open": 10.0, "high": 10.1, "low": 9.9, "close": 10.0, "volume": 1e3, **more}
        return feed.read({"time": f"2024-01-02T10:{minute:02d}:00", "bars": {CHEAP.symbols[0]: bar}})

    assert np.isnan(read(0).fields["columns.Mood"]).all()
    assert read(1, mood="0.5").fields["columns.Mood"][0] == 0.5  # a CSV file has its names in small letters
    assert read(2).fields["columns.Mood"][0] == 0.5
    for minute, absurd in enumerate((1e31, "inf", "good", True), start=3):
        reading = read(minute, Mood=absurd)
        assert CHEAP.symbols[0] in reading.refused
        assert reading.fields["columns.Mood"][0] == 0.5


def test_rates_of_funding_are_as_large_as_in_tables():
    """The feed of an exported policy reads no tables, and so has a bound of its own."""
    assert feed.LARGEST_FUNDING == payments.LARGEST_FUNDING
