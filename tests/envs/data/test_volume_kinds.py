"""What volumes count: units, currency, price changes or nothing; and that each is read from its own bar alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from price_tables import panel, refusal, same, single

from jaxppo.envs.data.load import format_report, load_market

CLOSE = single()["Close"].to_numpy()
TICKS = np.array([900.0, 0.0, 1200.0, 800.0, 0.0, 1000.0])
UNKNOWN = "no usable volume of asset: no participation limit and no market impact applies there"


def test_volumes_are_units_unless_somebody_says_otherwise():
    default, stated = load_market(panel()), load_market(panel(), volume="shares")
    assert same(default, stated)
    assert default.info.report["volume"] is None
    assert stated.info.report["volume"] == "shares"


def test_notional_volume_by_hand():
    market = load_market(single(Volume=[200.0, 21.0, 0.0, 104.0, 206.0, 53.0]), volume="notional")
    np.testing.assert_allclose(market.volume[:, 0], [20.0, 2.0, 0.0, 10.0, 20.0, 5.0], rtol=1e-6)
    assert np.asarray(market.tradable)[:, 0].tolist() == [True, True, False, True, True, True]
    assert bool(market.volume_known[0])


@given(seed=st.integers(0, 10**6), adjusted=st.booleans())
@settings(max_examples=8, deadline=None)
def test_close_times_volume_is_the_notional_of_the_file(seed, adjusted):
    """Also after an adjustment, which divides units by what it multiplies prices by."""
    rng = np.random.default_rng(seed)
    long = panel(seed, symbols=("AAA",), missing=0.0)
    long["volume"] = rng.uniform(1e3, 1e9, len(long))
    if adjusted:
        long["adj_factor"] = np.where(np.arange(len(long)) < rng.integers(1, len(long)), 0.97, 1.0)
    market = load_market(long, volume="notional")
    notional = np.asarray(market.close, np.float64) * np.asarray(market.volume, np.float64)
    np.testing.assert_allclose(notional[:, 0], long["volume"], rtol=1e-5)
    if not adjusted:
        np.testing.assert_allclose(market.volume[:, 0], long["volume"] / long["close"], rtol=1e-6)


@given(seed=st.integers(0, 10**6), t=st.integers(2, 36))
@settings(max_examples=8, deadline=None)
def test_notional_volume_does_not_look_ahead(seed, t):
    rng = np.random.default_rng(seed)
    long = panel(seed, symbols=("AAA",), missing=0.0)
    later = np.arange(len(long)) > t
    factor = np.where(later, rng.uniform(0.9, 1.1, len(long)), 1.0)
    prices = {name: long[name] * factor for name in ("open", "high", "low", "close")}
    other = long.assign(**prices, volume=np.where(later, rng.integers(1, 500, len(long)), long["volume"]))
    one, two = (np.asarray(load_market(frame, volume="notional").volume) for frame in (long, other))
    np.testing.assert_array_equal(one[: t + 1], two[: t + 1])
    assert (one[t + 1 :] != two[t + 1 :]).any()


def test_ticks_say_whether_but_not_how_much_can_be_traded():
    market = load_market(single(Volume=TICKS), volume="ticks")
    assert not bool(market.volume_known[0])
    np.testing.assert_array_equal(market.volume, 0.0)
    assert np.asarray(market.tradable)[:, 0].tolist() == (TICKS > 0).tolist()
    counts = market.info.report["symbols"]["asset"]
    assert (counts["volume_known"], counts["zero_volume_bars"]) == (False, 2)
    assert UNKNOWN in market.info.report["warnings"]
    assert "asset: 2 of 6 bars without volume" in market.info.report["warnings"]


def test_a_column_of_no_use_is_not_read_at_all():
    for values in (TICKS, -TICKS, "?"):
        market = load_market(single(Volume=values), volume="none")
        assert bool(market.tradable.all())
        assert not bool(market.volume_known[0])
        np.testing.assert_array_equal(market.volume, 0.0)
        assert market.info.report["sources"][0]["ignored_columns"] == ["Volume"]
    assert same(market, load_market(single().drop(columns="Volume")))


@pytest.mark.parametrize("unit", [None, "shares", "notional", "ticks", "none"])
def test_the_report_says_where_no_volume_can_be_used(unit):
    report = load_market(single().drop(columns="Volume"), volume=unit).info.report
    assert report["warnings"][0] == UNKNOWN
    assert f"look at: {UNKNOWN}" in format_report(report)
    with_volume = load_market(single(), volume=unit).info.report["warnings"]
    assert (UNKNOWN in with_volume) == (unit in ("ticks", "none"))


def test_the_report_names_the_symbols_without_volume():
    long = panel(symbols=("A", "B", "C"))
    long.loc[long["symbol"] != "B", "volume"] = np.nan
    lines = load_market(long).info.report["warnings"]
    assert (
        lines[0]
        == "no usable volume of 2 of 3 symbols (A, C): no participation limit and no market impact applies there"
    )
    many = {f"S{i}": single().drop(columns="Volume") for i in range(8)}
    assert "8 of 8 symbols (S0, S1, S2, S3, S4, ...)" in load_market(many).info.report["warnings"][0]


def test_the_column_that_is_named_as_what_is_asked_for():
    units, currency = np.arange(1.0, 7.0), np.arange(1.0, 7.0) * CLOSE
    dumped = {"BTCUSD": single().drop(columns="Volume").assign(**{"Volume BTC": units, "Volume USD": currency})}
    for unit in (None, "notional"):
        np.testing.assert_allclose(load_market(dumped, volume=unit).volume[:, 0], units, rtol=1e-6)
    klines = single(Volume=units, quote_asset_volume=currency)
    for unit in (None, "notional"):
        np.testing.assert_allclose(load_market(klines, volume=unit).volume[:, 0], units, rtol=1e-6)
    terminal = single(Volume=0.0, tick_volume=TICKS)
    assert not bool(load_market(terminal, volume="ticks").tradable.all())
    assert bool(load_market(terminal).tradable.all())


def test_a_column_named_ticks_raises_a_question_until_it_is_answered():
    frame = single(tick_volume=TICKS + 1).drop(columns="Volume")

    def lines(**options):
        return [line for line in load_market(frame, **options).info.report["warnings"] if "tick_volume" in line]

    assert len(lines()) == 1
    assert "data.volume (volume= in Python) to ticks, or to shares" in lines()[0]
    for unit in ("shares", "ticks", "none", "notional"):
        assert not lines(volume=unit)
    np.testing.assert_array_equal(load_market(frame).volume[:, 0], TICKS + 1)


def test_other_kinds_of_volume_are_refused():
    assert "volume='lots' is not one of 'shares', 'notional', 'ticks', 'none'" in refusal(single(), volume="lots")
    tiny = single(Open=1e-18, High=1e-18, Low=1e-18, Close=1e-18, Volume=1e10)
    assert "volume is 1e+28, above 1e+18" in refusal(tiny, volume="notional")
