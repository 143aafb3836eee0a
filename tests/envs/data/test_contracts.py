"""Contracts: a multiplier makes prices the value of one, whatever the options; and which assets are futures."""

import jax.numpy as jnp
import numpy as np
import pytest
from price_tables import panel, refusal, same, single

from jaxppo.envs import load_market
from jaxppo.envs.data.load import format_report
from jaxppo.envs.execution.bars import pack_bars, unpack_bar
from jaxppo.envs.execution.costs import make_costs, trade_costs
from jaxppo.envs.execution.fill_time import bars_to_fill

PRICES = ("open", "high", "low", "close")
FIELDS = (*PRICES, "volume", "half_spread", "tradable")


def multiplied(table, factor, **columns):
    """The table with prices and quotes that are the value of a contract."""
    names = [name for name in table if str(name).lower() in (*PRICES, "bid", "ask", "adj close")]
    return table.assign(**{name: table[name] * factor for name in names}, **columns)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"spread": "invariance"},
        {"spread": "edge"},
        {"spread": "fixed", "half_spread": 1e-4},
        {"volume": "ticks"},
        {"volume": "notional"},
        {"tick": 0.1},
    ],
)
def test_a_multiplier_is_the_prices_of_whole_contracts(options):
    table = panel(missing=0.1)
    given = load_market(table, multiplier=50.0, **options)
    other = {**options, "tick": 0.1 * 50} if "tick" in options else options
    worth = load_market(multiplied(table, 50.0), **other)
    for name in FIELDS:
        np.testing.assert_allclose(getattr(given, name), getattr(worth, name), rtol=1e-6, err_msg=name)


def test_it_comes_after_adjustment_quotes_and_rates():
    table = single(bid=9.9, ask=10.1, fx=1.25, **{"Adj Close": single()["Close"] * 0.5})
    plain, given = (load_market(table, rate_column="fx", tick=0.1, multiplier=m) for m in (1.0, 1000.0))
    for name in PRICES:
        np.testing.assert_allclose(getattr(given, name), 1000 * np.asarray(getattr(plain, name)), rtol=1e-6)
    for name in ("volume", "half_spread"):
        np.testing.assert_array_equal(getattr(given, name), getattr(plain, name))


def test_a_multiplier_per_symbol_and_none_elsewhere():
    plain, given = load_market(panel()), load_market(panel(), multiplier={"BBB": 20})
    np.testing.assert_array_equal(given.close[:, 0], plain.close[:, 0])
    listed = np.asarray(plain.close)[:, 1] != 1.0
    np.testing.assert_allclose(given.close[listed, 1], 20 * np.asarray(plain.close)[listed, 1], rtol=1e-6)
    np.testing.assert_array_equal(given.volume, plain.volume)
    assert given.info.report["multiplier"] == {"BBB": 20.0}
    assert "contracts: value of one is the price of BBB x 20" in format_report(given.info.report)
    assert "contracts" not in format_report(plain.info.report)


def test_a_multiplier_of_one_changes_nothing():
    plain = load_market(panel())
    for one in (1, 1.0, {"AAA": 1.0}, {}):
        assert same(load_market(panel(), multiplier=one), plain)


def test_fills_commissions_and_times_to_fill_count_contracts():
    """A contract of ES at 5000 is 250,000 dollars; its commission is by contract."""
    close = np.array([5000.0, 5010.0, 4990.0, 5005.0, 5000.0, 5000.0])
    table = single(Open=close, High=close + 5, Low=close - 5, Close=close, Volume=1000.0)
    market = load_market(table, multiplier=50, spread="fixed", half_spread=1e-4)
    costs = make_costs(commission_bps=0.0, commission_per_share=2.0, slippage=0.0, impact=0.0)
    paid = trade_costs(jnp.asarray([-3.0]), market.close[4], unpack_bar(pack_bars(market)[5]), costs)
    assert float(paid.commission[0]) == pytest.approx(6.0)
    assert float(paid.spread[0]) == pytest.approx(3 * 250_000 * 1e-4, rel=1e-5)
    position = 0.1 * 1000 * 250_000
    assert bars_to_fill(market, position, 0.1)[0] == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize(
    ("table", "given", "message"),
    [
        (panel(), {"XYZ": 50.0}, "multiplier has a value for XYZ, which is none of AAA, BBB"),
        (panel(), {"AAA": -1.0}, "multiplier of AAA=-1.0 must be at least 1e-09"),
        (panel(), {"AAA": None}, "multiplier of AAA is None; a number is expected"),
        (single(), 0.0, "multiplier=0.0 must be at least 1e-09"),
        (single(), "50", "multiplier is '50'; a number is expected"),
        (single(), float("nan"), "multiplier=nan must be at least 1e-09"),
        (single(), None, "multiplier is None; a number is expected"),
        (single(Open=1e14, High=1e14, Low=1e14, Close=1e14), 1e9, "times the multiplier, open is 1e+23, outside"),
    ],
)
def test_mistakes_are_one_line(table, given, message):
    assert message in refusal(table, multiplier=given)


@pytest.mark.parametrize(
    ("given", "expected"), [(True, [True, True]), (["BBB"], [False, True]), (("AAA", "BBB"), [True, True])]
)
def test_some_or_all_assets_are_futures(given, expected):
    plain, market = load_market(panel()), load_market(panel(), futures=given)
    np.testing.assert_array_equal(market.futures, expected)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(market, name), getattr(plain, name))
    named = [name for name, is_future in zip(("AAA", "BBB"), expected, strict=True) if is_future]
    assert market.info.report["futures"] == named
    assert f"futures: {', '.join(named)}" in format_report(market.info.report)
    assert not same(market, plain)
    np.testing.assert_array_equal(load_market(panel(), symbols=["BBB", "AAA"], futures="AAA").futures, [False, True])


def test_without_futures_nothing_is_there():
    market = load_market(panel(), futures=False)
    assert market.futures == ()
    assert same(market, load_market(panel()))
    assert "futures" not in market.info.report


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["AAA", "XYZ"], "futures names XYZ, which is none of AAA, BBB"),
        ("XYZ", "futures names XYZ, which is none of AAA, BBB"),
        ([], "futures=() must be True, False or the symbols of futures"),
        (None, "futures=None must be True, False or the symbols of futures"),
        (1.5, "futures=1.5 must be True, False or the symbols of futures"),
        ([3], "futures=(3,) must be True, False or the symbols of futures"),
    ],
)
def test_futures_that_cannot_be_are_one_line(given, message):
    assert message in refusal(panel(), futures=given)
