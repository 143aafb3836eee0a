"""Half-spreads of bars without quotes: by invariance against real quotes, by symbol, with a tick; and mistakes."""

import numpy as np
import pandas as pd
import pytest
from folders import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st
from price_tables import panel, single

from jaxppo.envs import DataError, load_market
from jaxppo.envs.market.spread import invariant_half_spread

HOURLY, MINUTES = SHARED / "us_equity_1h.parquet", SHARED / "us_equity_1min_bidask.parquet"


def bars(n_bars, per_bar, volatility=0.02, price=40.0, volume=1e6, seed=0):
    """A random walk of `per_bar` steps a bar, from which `volatility` and `volume` are those of a bar."""
    rng = np.random.default_rng(seed)
    steps = volatility / per_bar**0.5 * rng.standard_normal((n_bars, per_bar))
    path = price * np.exp(np.cumsum(steps.ravel())).reshape(n_bars, per_bar)
    path *= price / path.mean()
    return path.max(axis=1), path.min(axis=1), path[:, -1], np.full(n_bars, volume)


def test_the_benchmark_stock_costs_what_it_costs():
    """40 dollars, a million shares and 2 % a day: 8.21 bp."""
    high, low, close, volume = bars(4000, 20)
    half = invariant_half_spread(high, low, np.full(4000, 40.0) * close / close, volume, window=4000)
    assert np.isfinite(half).all()
    found = invariant_half_spread(high, low, close, volume * 40 / close, window=4000)[-1]
    assert found == pytest.approx(8.21e-4, rel=0.03)


def test_it_falls_with_the_cube_root_of_activity_and_grows_with_volatility():
    for factor in (8.0, 1 / 27):
        high, low, close, volume = bars(300, 20)
        ratio = invariant_half_spread(high, low, close, volume * factor, window=63) / invariant_half_spread(
            high, low, close, volume, window=63
        )
        np.testing.assert_allclose(ratio, factor ** (-1 / 3))
    calm, wild = (invariant_half_spread(*bars(3000, 20, size, seed=1), window=3000)[-1] for size in (0.01, 0.02))
    assert wild / calm == pytest.approx(2 ** (2 / 3), rel=0.05)


def test_it_does_not_depend_on_the_length_of_bars():
    """Eight short bars of an eighth of the volume are one long bar."""
    short = bars(8 * 800, 5, 0.02 / 8**0.5, volume=1e6 / 8, seed=2)
    high, low, close, volume = (x.reshape(800, 8) for x in short)
    long = high.max(axis=1), low.min(axis=1), close[:, -1], volume.sum(axis=1)
    found = [invariant_half_spread(*table, window=len(table[0]))[-1] for table in (short, long)]
    assert found[0] == pytest.approx(found[1], rel=0.05)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), t=st.integers(0, 79), window=st.integers(1, 30))
def test_later_bars_change_nothing(seed, t, window):
    table = bars(80, 5, seed=seed)
    later = [np.where(np.arange(80) > t, x * 1.5, x) for x in table]
    one, two = (invariant_half_spread(*x, window=window)[: t + 1] for x in (table, later))
    np.testing.assert_array_equal(one, two)


@pytest.mark.skipif(not (HOURLY.exists() and MINUTES.exists()), reason="the external prices are not there")
@pytest.mark.parametrize("tick", [None, 0.01])
def test_it_is_within_a_factor_of_three_of_real_quotes(tick):
    """Hourly bars of five symbols on the days of the quotes: from SPY at 0.3 bp to BAC, where a tick is 7 bp."""
    minutes = pd.read_parquet(MINUTES)
    quoted = ((minutes.ask - minutes.bid) / (minutes.ask + minutes.bid)).groupby(minutes.symbol, observed=True).median()
    market = load_market(HOURLY, symbols=list(quoted.index), tick=tick)
    assert {counts["spread"] for counts in market.info.report["symbols"].values()} == {"by invariance"}
    same_days = np.isin(pd.DatetimeIndex(market.info.timestamps).date, minutes.timestamp.dt.date.unique())
    found = np.median(np.asarray(market.half_spread)[same_days], axis=0)
    ratio = found / quoted.to_numpy()
    assert ratio.max() < 3
    assert ratio.min() > 1 / 3
    if tick:
        assert ratio.min() > 0.9, "BAC trades at a tick"


def test_half_a_tick_of_the_unadjusted_price_is_the_least():
    table = single(Volume=1e12, **{"Adj Close": single()["Close"] * 0.25})
    market = load_market(table, tick=0.1)
    np.testing.assert_allclose(market.half_spread[:, 0], 0.05 / single()["Close"], rtol=1e-5)
    assert market.info.report["symbols"]["asset"]["floor_share"] == 1.0
    free = load_market(table)
    assert float(free.half_spread.max()) < 1e-4


def test_a_value_per_symbol():
    values = {"AAA": 2e-4, "BBB": 7e-4}
    market = load_market(panel(), spread="fixed", half_spread=values)
    np.testing.assert_allclose(market.half_spread, np.broadcast_to([2e-4, 7e-4], market.half_spread.shape), rtol=1e-6)
    assert {counts["spread"] for counts in market.info.report["symbols"].values()} == {"fixed"}
    np.testing.assert_allclose(load_market(panel(), spread="fixed", half_spread=3e-4).half_spread, 3e-4, rtol=1e-6)


@pytest.mark.parametrize("spread", [None, "invariance", "edge", "fixed", "quoted"])
def test_quotes_win(spread):
    table = single(bid=9.99, ask=10.01)
    market = load_market(table, spread=spread, half_spread=0.01 if spread == "fixed" else None, tick=1.0)
    np.testing.assert_allclose(market.half_spread, 1e-3, rtol=1e-5)
    assert market.info.report["symbols"]["asset"]["spread"] == "quoted"


def test_without_volume_edge_is_capped_unless_it_is_asked_for():
    rng = np.random.default_rng(3)
    close = 100 * np.exp(np.cumsum(0.05 * rng.standard_normal(400)))
    seen = close * (1 + 0.02 * rng.choice([-1, 1], 400))
    frame = pd.DataFrame({"date": pd.bdate_range("2015-01-01", periods=400), "open": seen, "close": close})
    frame = frame.assign(high=frame.max(axis=1, numeric_only=True), low=frame.min(axis=1, numeric_only=True))
    capped, asked = (np.asarray(load_market(frame, spread=kind).half_spread) for kind in (None, "edge"))
    assert asked.max() > 30e-4
    np.testing.assert_allclose(capped, np.minimum(asked, 20e-4), rtol=1e-6)


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (single(), {"spread": "quoted"}, "asset: 6 of 6 bars have no bid and ask"),
        (single(Volume=np.nan), {"spread": "invariance"}, "asset: no usable volume, which spread='invariance' needs"),
        (single(), {"spread": "invariance", "volume": "ticks"}, "no usable volume"),
        (single(), {"spread": "fixed"}, "spread='fixed' and a value of half_spread need each other"),
        (single(), {"half_spread": 1e-4}, "spread='fixed' and a value of half_spread need each other"),
        (panel(), {"spread": "fixed", "half_spread": {"AAA": 1e-4}}, "BBB: half_spread has no value for it"),
        (panel(), {"spread": "fixed", "half_spread": {"AAA": 1e-4, "C": 1e-4}}, "half_spread has a value for C"),
        (panel(), {"tick": {"XYZ": 0.01}}, "tick has a value for XYZ, which is none of AAA, BBB"),
        (panel(), {"spread": "fixed", "half_spread": {"AAA": 0.9}}, "half_spread of AAA=0.9 must be at most 0.5"),
        (single(), {"tick": 0.0}, "tick=0.0 must be at least"),
        (single(), {"tick": "0.01"}, "tick is '0.01'; a number is expected"),
        (single(), {"spread": "mid"}, "spread='mid' is not one of"),
    ],
)
def test_mistakes_are_one_line(table, options, message):
    with pytest.raises(DataError) as caught:
        load_market(table, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
