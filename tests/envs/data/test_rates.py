"""Prices converted by a column of rates: at their own bar, never at a later one, and with volume in units."""

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st
from price_tables import panel, refusal, single

from jaxppo.envs.data.load import format_report, load_market

PRICES = ("open", "high", "low", "close")
RATE = np.array([1.1, 1.2, 1.15, 1.25, 1.3, 1.2])


def arrays(market, names=(*PRICES, "volume", "half_spread", "tradable")):
    return {name: np.asarray(getattr(market, name), np.float64) for name in names}


def test_one_rate_for_the_whole_bar_by_hand():
    plain = arrays(load_market(single()))
    market = load_market(single(fx=RATE), rate_column="fx")
    found = arrays(market)
    for name in PRICES:
        np.testing.assert_allclose(found[name][:, 0], plain[name][:, 0] * RATE, rtol=1e-6)
    np.testing.assert_array_equal(found["volume"], plain["volume"])
    np.testing.assert_array_equal(found["tradable"], plain["tradable"])
    assert market.info.report["converted_by"] == "fx"
    assert "adjusted by nothing, converted by fx" in format_report(market.info.report)
    assert "converted" not in format_report(load_market(single(fx=RATE)).info.report)


def test_two_rates_convert_open_and_close_and_the_range_holds_both():
    close, opening = RATE, np.roll(RATE, 1) * 1.05
    plain = arrays(load_market(single()))
    found = arrays(load_market(single(fx_open=opening, fx=close), rate_column=["fx_open", "fx"]))
    np.testing.assert_allclose(found["open"][:, 0], plain["open"][:, 0] * opening, rtol=1e-6)
    np.testing.assert_allclose(found["close"][:, 0], plain["close"][:, 0] * close, rtol=1e-6)
    assert (found["high"] >= np.maximum(found["open"], found["close"])).all()
    assert (found["low"] <= np.minimum(found["open"], found["close"])).all()
    wide = plain["open"][:, 0] * opening > plain["high"][:, 0] * close
    assert wide.any()
    np.testing.assert_allclose(found["high"][~wide, 0], plain["high"][~wide, 0] * close[~wide], rtol=1e-6)
    np.testing.assert_allclose(found["high"][wide, 0], found["open"][wide, 0], rtol=1e-6)


@given(seed=st.integers(0, 10**6), quoted=st.booleans())
@settings(max_examples=8, deadline=None)
def test_conversion_scales_each_bar_and_nothing_else(seed, quoted):
    """Two currencies in one market: what is given in the account's has the rate 1 and stays as it is."""
    rng = np.random.default_rng(seed)
    long = panel(seed, symbols=("BTCEUR", "BTCUSDT"))
    rate = np.where(long["symbol"] == "BTCEUR", np.exp(rng.normal(0.1, 0.01, len(long))), 1.0)
    if quoted:
        long = long.assign(bid=long["close"] * 0.999, ask=long["close"] * 1.001)
    market = load_market(long.assign(rate=rate), rate_column="rate")
    found = arrays(market)
    for asset, symbol in enumerate(market.info.symbols):
        part = long[long["symbol"] == symbol].sort_values("timestamp")
        own = rate[(long["symbol"] == symbol).to_numpy()]
        bars = np.searchsorted(market.info.timestamps, part["timestamp"].dt.tz_localize(None).to_numpy())
        for name in PRICES:
            np.testing.assert_allclose(found[name][bars, asset], part[name] * own, rtol=1e-6)
        np.testing.assert_allclose(found["volume"][bars, asset], part["volume"], rtol=1e-6)
        if quoted:
            np.testing.assert_allclose(found["half_spread"][bars, asset], 1e-3, rtol=1e-4)


@given(seed=st.integers(0, 10**6), t=st.integers(2, 36), pair=st.booleans())
@settings(max_examples=8, deadline=None)
def test_conversion_does_not_look_ahead(seed, t, pair):
    rng = np.random.default_rng(seed)
    long = panel(seed, symbols=("AAA", "BBB"), missing=0.0)
    long = long.assign(fx_open=np.exp(rng.normal(0, 0.02, len(long))), fx=np.exp(rng.normal(0, 0.02, len(long))))
    later = (long["timestamp"] > np.sort(long["timestamp"].unique())[t]).to_numpy()
    changed = {
        name: np.where(later, long[name] * rng.uniform(0.9, 1.1, len(long)), long[name]) for name in ("fx_open", "fx")
    }
    column = ("fx_open", "fx") if pair else "fx"
    options = {"rate_column": column, "volume": "notional", "spread_window": 7}
    one, two = (arrays(load_market(frame, **options)) for frame in (long, long.assign(**changed)))
    for name in one:
        np.testing.assert_array_equal(one[name][: t + 1], two[name][: t + 1], err_msg=name)
    assert (one["close"][t + 1 :] != two["close"][t + 1 :]).all()


def test_notional_volume_is_divided_by_the_price_it_was_paid_in():
    frame = single(fx=RATE, Volume=single()["Close"].to_numpy() * 7.0)
    np.testing.assert_allclose(load_market(frame, volume="notional", rate_column="fx").volume, 7.0, rtol=1e-6)


def test_adjusted_prices_are_converted():
    factor = np.array([0.98, 0.98, 0.98, 1.0, 1.0, 1.0])
    market = load_market(single(fx=RATE, adj_factor=factor), rate_column="fx")
    np.testing.assert_allclose(market.close[:, 0], single()["Close"] * factor * RATE, rtol=1e-6)


def test_a_rate_that_is_none_is_refused_or_dropped():
    for bad, shown in ((np.nan, "nan"), (0.0, "0"), (-1.1, "-1.1"), (np.inf, "inf")):
        frame = single(fx=np.where(np.arange(6) == 2, bad, RATE))
        message = refusal(frame, rate_column="fx")
        assert f"asset, row 2 (2024-01-04): the rate fx is {shown}, it must be above 0 (1 where" in message
        market = load_market(frame, rate_column="fx", on_bad_rows="drop")
        assert market.n_bars == 5
        assert market.info.report["repairs"] == {"dropped: no rate": 1}
    assert "rate 'x' is not a number" in refusal(single(fx=["1.1", "x", *["1.1"] * 4]), rate_column="fx")
    assert "after conversion, open is" in refusal(single(fx=1e25), rate_column="fx")


def test_a_column_that_is_not_there_or_something_else_is_refused():
    assert "rate_column='eur' is no column of it; found Date, Open" in refusal(single(fx=RATE), rate_column="eur")
    assert "rate_column='close' is its column of close" in refusal(single(), rate_column="close")
    several = {"A": single(fx=RATE), "B": single()}
    assert "B: rate_column='fx' is no column of it" in refusal(several, rate_column="fx")
    for wrong in ("", (), ("a",), ("a", "b", "c"), ("a", ""), 3):
        assert "must be the name of a column, or (column at the open, at the close)" in refusal(
            single(), rate_column=wrong
        )
    assert load_market(single(**{"FX Rate": RATE}), rate_column="fx_rate").n_bars == 6


def test_pairs_of_several_currencies_load_with_a_rate():
    frames = {"BTCUSDT": single(fx=1.0), "BTCEUR": single(fx=RATE)}
    market = load_market(frames, rate_column="fx")
    np.testing.assert_allclose(market.close[:, 0] / market.close[:, 1], RATE, rtol=1e-6)
    yen = pd.concat([single(fx=1.0, symbol="EURUSD"), single(fx=0.01, symbol="USDJPY")])
    assert load_market(yen, rate_column="fx").n_assets == 2
