"""Coarser bars against pandas' resampling, and that nothing of a bar is seen before it is over."""

import jax
import numpy as np
import pandas as pd
import pytest
from causality import assert_causal
from slowly import slow_after

from jaxppo.envs import load_market
from jaxppo.envs.market import features
from jaxppo.envs.market.timeframes import bars_per_timeframe, begins, coarse_bars

EASTERN = "America/New_York"
GROUPS = ("price", "trend", "volume", "technical", "volatility", "cross_section")
WINDOW = 12
FEW = ("price", "volume")
FIELDS = ["open", "high", "low", "close", "volume", "half_spread"]


def frame_of(times, seed=0, symbols=("A", "B", "C")):
    """Random bars in long form: B misses a third of its own, C is listed late and halted for days."""
    rng = np.random.default_rng(seed)
    frames = []
    for n, symbol in enumerate(symbols):
        close = 100 * np.exp(np.cumsum(0.004 * rng.standard_normal(len(times))))
        open_ = close * np.exp(0.002 * rng.standard_normal(len(times)))
        spread = 1 + 0.003 * rng.random((2, len(times)))
        frame = pd.DataFrame({
            "time": times, "symbol": symbol, "open": open_, "high": np.maximum(open_, close) * spread[0],
            "low": np.minimum(open_, close) / spread[1], "close": close, "volume": rng.integers(1, 10_000, len(times)),
        })  # fmt: skip
        there = np.ones(len(times), bool)
        if n == 1:
            there = rng.random(len(times)) < 0.66
        if n == 2:
            there[:40] = there[100:140] = False
        frames.append(frame[there])
    return pd.concat(frames)


def hours_of_stocks(first, last):
    """Hourly bars from half past nine to four in New York; each Wednesday closes at one."""
    days = pd.bdate_range(first, last)
    starts = [pd.Timedelta(hours=9.5 + n) for n in range(7)]
    local = [day + start for day in days for start in starts[: 4 if day.weekday() == 2 else 7]]
    return pd.DatetimeIndex(local).tz_localize(EASTERN).tz_convert("UTC")


def all_hours(first, last):
    return pd.date_range(first, last, freq="h", tz="UTC")


MARKETS = {
    "stocks over a change of clocks": (hours_of_stocks("2021-02-15", "2021-04-30"), EASTERN),
    "day and night over a change of clocks": (all_hours("2021-10-25", "2021-11-20"), EASTERN),
    "days": (pd.bdate_range("2020-01-01", periods=300).tz_localize("UTC"), "UTC"),
}


def market_of(name, seed=0):
    times, zone = MARKETS[name]
    return load_market(frame_of(times, seed), timezone=zone, max_log_jump=5.0)


def resampled(market, zone, name, asset):
    """Coarse bars of an asset by pandas, indexed by the time at which the next one of the market begins."""
    own = np.asarray(market.tradable[:, asset])
    utc = pd.DatetimeIndex(market.info.timestamps).tz_localize("UTC")
    columns = {field: np.asarray(getattr(market, field)[:, asset], np.float64) for field in FIELDS}
    local = utc.tz_convert(zone)
    rule = {"1d": "1D", "1w": "W-SUN"}.get(name)
    if rule is None:  # by the clock of each day, which pandas' fixed steps leave when clocks change
        label = local.tz_localize(None).floor(name)
    else:
        label = local.tz_localize(None).to_period(rule.removeprefix("1")).start_time
    frame = pd.DataFrame(columns, index=label)[own]
    how = dict(zip(FIELDS, ["first", "max", "min", "last", "sum", "last"], strict=True))
    coarse = frame.groupby(level=0).agg(how)
    if rule is not None:
        same = frame.resample(rule, label="left" if rule == "1D" else None).agg(how).dropna(subset="open")
        np.testing.assert_allclose(coarse.to_numpy(), same.to_numpy())
    following = pd.Series(utc, index=label).groupby(level=0).first()  # when each coarse bar of the market begins
    next_begins = following.shift(-1).reindex(coarse.index)
    coarse.index = pd.DatetimeIndex(next_begins)
    return coarse[coarse.index.notna()]


def as_of(table, market):
    """Rows `[T, n]` of what was over when each bar began: the last coarse bar by the time at which it is seen."""
    utc = pd.DatetimeIndex(market.info.timestamps).tz_localize("UTC")
    return table.reindex(utc, method="ffill")


CASES = [
    ("stocks over a change of clocks", "2h"),
    ("stocks over a change of clocks", "1d"),
    ("stocks over a change of clocks", "1w"),
    ("day and night over a change of clocks", "4h"),
    ("day and night over a change of clocks", "1d"),
    ("days", "1w"),
]


@pytest.mark.parametrize(("name", "timeframe"), CASES)
def test_coarse_bars_are_those_of_pandas(name, timeframe):
    market, zone = market_of(name), MARKETS[name][1]
    coarse = coarse_bars(market, timeframe)
    for asset in range(market.n_assets):
        expected = as_of(resampled(market, zone, timeframe, asset), market)
        seen = np.asarray(coarse.bars.listed[:, asset])
        np.testing.assert_array_equal(seen, expected["close"].notna())
        for field in FIELDS:
            held = coarse.bars.spread(coarse.bars.pack(getattr(coarse.market, field)))[:, asset]
            np.testing.assert_allclose(held[seen], expected[field][seen], rtol=1e-5, err_msg=f"{field} of {asset}")


@pytest.mark.slow
def test_an_accelerator_makes_the_same_bars(monkeypatch):
    market = market_of("stocks over a change of clocks")
    expected = coarse_bars(market, "1d")
    monkeypatch.setattr("jaxppo.envs.market.timeframes.platform", lambda: "gpu")
    found = coarse_bars(market, "1d")
    np.testing.assert_array_equal(found.market.tradable, expected.market.tradable)
    for field in FIELDS:
        ours, theirs = (getattr(x.market, field)[x.market.tradable] for x in (found, expected))
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, err_msg=field)


@pytest.mark.parametrize(("name", "timeframe", "groups"), slow_after(1, [(*CASES[3], FEW), (*CASES[1], GROUPS)]))
def test_their_features_are_those_of_a_market_of_coarse_bars(name, timeframe, groups):
    """The features of a market that pandas resampled, each row as of the time from which it is seen."""
    market, zone = market_of(name), MARKETS[name][1]
    table = features.compute_features(
        market, groups=groups, normalisation_window=WINDOW, timeframes=(timeframe,), unknown=np.nan
    )
    names = features.feature_names(groups, (), (timeframe,))
    parts = [resampled(market, zone, timeframe, asset) for asset in range(market.n_assets)]
    axis = pd.DatetimeIndex(np.unique(np.concatenate([part.index.tz_localize(None) for part in parts])), tz="UTC")
    columns = {field: np.stack([p[field].reindex(axis).to_numpy() for p in parts], axis=-1) for field in FIELDS}
    there = np.isfinite(columns["close"])
    held = pd.DataFrame(columns["close"]).ffill().fillna(1.0).to_numpy()
    arrays = {f: np.where(there, columns[f], 0.0 if f == "volume" else held).astype(np.float32) for f in FIELDS}
    n = len(axis)
    whole = market.replace(
        **{f: jax.numpy.asarray(x) for f, x in arrays.items()},
        tradable=jax.numpy.asarray(there),
        **{f: getattr(market, f)[:n] for f in ("minute_of_day", "session", "day_of_week", "seconds_since_previous")},
    )
    expected = features.compute_features(whole, groups=groups, normalisation_window=WINDOW, unknown=np.nan)
    rows = np.searchsorted(axis, pd.DatetimeIndex(market.info.timestamps).tz_localize("UTC"), side="right") - 1
    for place, feature in enumerate(features.feature_names(groups)):
        found = np.asarray(table[..., names.index(f"{feature}@{timeframe}")])
        wanted = np.where(rows[:, None] >= 0, np.asarray(expected[..., place])[rows], np.nan)
        if feature == "staleness":  # counts coarse bars of the market, of which some have no bar of any asset
            wanted, found = wanted[:, 0], found[:, 0]
        np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-3, err_msg=feature)
    assert np.isfinite(np.asarray(table[-1])).mean() > 0.5


def table_of(market):
    return features.compute_features(
        market, groups=FEW, normalisation_window=WINDOW, timeframes=("2h", "1d", "1w"), unknown=np.nan
    )


@pytest.mark.parametrize("t", [3, 100, 187, 188])
def test_nothing_after_a_bar_changes_its_features(t):
    assert_causal(table_of, market_of("stocks over a change of clocks"), t, jax.random.key(t))


def test_nothing_of_the_running_bar_is_seen():
    """Prices within a session leave the features of daily bars alone until the next session begins."""
    market = market_of("stocks over a change of clocks")
    sessions = np.asarray(market.session)
    day = sessions == 30
    first, after = int(np.flatnonzero(day)[0]), int(np.flatnonzero(sessions == 31)[0])
    other = market.replace(
        close=market.close.at[first:after].multiply(1.01), high=market.high.at[first:after].multiply(1.02)
    )
    names = features.feature_names(FEW, (), ("2h", "1d", "1w"))
    daily = [n for n, name in enumerate(names) if name.endswith("@1d")]
    ours, theirs = (np.asarray(table_of(m))[..., daily] for m in (market, other))
    np.testing.assert_array_equal(ours[:after], theirs[:after])
    assert np.nanmax(np.abs(ours[after] - theirs[after])) > 0.01, "seen from the first bar after it on"


def test_the_warm_up_is_as_long_as_it_takes():
    times = hours_of_stocks("2021-01-04", "2021-05-28")
    frame = frame_of(times, symbols=("A",)).assign(symbol="A")
    market = load_market(pd.concat([frame, frame.assign(symbol="B")]), timezone=EASTERN)
    lengths = bars_per_timeframe(market, ("2h", "1d"))
    assert lengths == {"2h": 2, "1d": 7}
    warmup = features.warmup(("price", "volume"), WINDOW, timeframes={"1d": 7})
    table = features.compute_features(
        market, groups=("price", "volume"), normalisation_window=WINDOW, timeframes=("1d",), unknown=np.nan
    )
    known = np.isfinite(np.asarray(table)).all(axis=(1, 2))
    assert known[warmup:].all()
    earliest = int(known.argmax())
    assert warmup - 7 * 20 < earliest <= warmup, "short Wednesdays make it earlier"
    full = [day for day in np.unique(market.session) if (np.asarray(market.session) == day).sum() == 7]
    assert warmup == (63 + 2 + 1) * 7
    assert len(full) > 60


def test_names_and_places():
    names = features.feature_names(("price", "calendar"), (), ("1d", "1w"))
    slices = features.group_slices(("price", "calendar"), (), ("1d", "1w"))
    assert list(slices) == ["price", "calendar", "price@1d", "price@1w"]
    assert names[slices["price@1w"]][0] == "return_1@1w"
    assert len(names) == slices["price@1w"].stop


def test_a_week_begins_on_a_monday_whatever_is_missing():
    days = pd.DatetimeIndex(["2021-01-04", "2021-01-08", "2021-01-12", "2021-01-19", "2021-01-27", "2021-02-03"])
    frame = pd.DataFrame({"time": days, "symbol": "A", **dict.fromkeys(["open", "high", "low", "close"], 10.0)})
    market = load_market(frame.assign(volume=1.0))
    np.testing.assert_array_equal(begins(market, "1w"), [True, False, True, True, True, True])


def test_bars_that_cannot_be_made_are_refused():
    daily, hourly = market_of("days"), market_of("day and night over a change of clocks")
    with pytest.raises(ValueError, match="1d is not longer than a bar of these prices, which has 1440 minutes"):
        bars_per_timeframe(daily, ("1w", "1d"))
    with pytest.raises(ValueError, match="30m is not longer than a bar"):
        bars_per_timeframe(hourly, ("30m",))
    odd = hourly.replace(seconds_since_previous=hourly.seconds_since_previous * 0.75, minute_of_day=np.arange(
        hourly.n_bars) * 45 % 1440)  # fmt: skip
    with pytest.raises(ValueError, match="1h is no multiple of a bar of these prices, which has 45 minutes"):
        bars_per_timeframe(odd, ("1h",))
    with pytest.raises(ValueError, match="coarser bars have the feature groups price, volume"):
        features.compute_features(hourly, groups=("calendar",), timeframes=("1d",))
    with pytest.raises(ValueError, match="timeframes"):
        features.compute_features(hourly, timeframes=("7m",))
