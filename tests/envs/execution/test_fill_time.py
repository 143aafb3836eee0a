"""Volumes that cannot be units of the asset for an account of some size, and an account that ticks do not hold up."""

import jax
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxppo import rules, simulate
from jaxppo.envs import simulators
from jaxppo.envs.data.load import load_market
from jaxppo.envs.execution.fill_time import bars_to_fill, implausible_volume, volume_sentences

N_BARS = 240
TICKS_AN_HOUR = 3000.0


def currency(symbol="EURUSD", price=1.1, ticks=TICKS_AN_HOUR, freq="h", n=N_BARS):
    """Bars of a currency on weekdays, with about so many ticks in each."""
    rng = np.random.default_rng(0)
    times = pd.date_range("2021-01-04", periods=2 * n, freq=freq)
    times = times[times.day_of_week < 5][:n]
    close = price * np.exp(np.cumsum(rng.normal(0, 1e-3, n)))
    opening = np.append(price, close[:-1])
    frame = pd.DataFrame(
        {"time": times, "open": opening, "close": close, "volume": np.round(ticks * rng.uniform(0.5, 1.5, n))}
    )
    high, low = (pick(opening, close) for pick in (np.maximum, np.minimum))
    return {symbol: frame.assign(high=high * 1.0003, low=low * 0.9997)}


def daily(volume, close=10.0):
    """Daily bars whose prices do not move within a bar."""
    volume = np.atleast_1d(volume)
    bars = {name: np.broadcast_to(close, volume.shape) for name in ("open", "high", "low", "close")}
    return pd.DataFrame({"time": pd.bdate_range("2024-01-02", periods=len(volume)), **bars, "volume": volume})


def test_bars_to_fill_by_hand():
    """Notional 1,000, 4,000 and 9,000: a tenth of the median is 400."""
    market = load_market({"A": daily([100.0, 400.0, 0.0, 900.0])})
    np.testing.assert_allclose(bars_to_fill(market, 5000.0, 0.1), [12.5])
    moving = load_market({"A": daily([100.0, 400.0, 900.0], [10.0, 10.5, 10.2])})
    np.testing.assert_allclose(bars_to_fill(moving, 4200.0, 0.5), [2.0])
    assert bars_to_fill(load_market(daily([np.nan, np.nan])), 5000.0, 0.1).tolist() == [0.0]


@given(seed=st.integers(0, 10**6), position=st.floats(1.0, 1e12), participation=st.floats(1e-4, 1.0))
@settings(max_examples=8, deadline=None)
def test_bars_to_fill_scale_with_the_position_and_the_limit(seed, position, participation):
    rng = np.random.default_rng(seed)
    market = load_market({name: daily(rng.integers(0, 1000, 40) + 0.5 * (name == "A")) for name in "ABC"})
    found = bars_to_fill(market, position, participation)
    volume, close = (np.asarray(x, np.float64) for x in (market.volume, market.close))
    notional = np.nanmedian(np.where(volume > 0, close * volume, np.nan), axis=0)
    np.testing.assert_allclose(found * participation * notional, position, rtol=1e-9)
    named = [line.split(" in ")[1].split(" ")[0] for line in implausible_volume(market, position, participation)]
    slow = [symbol for symbol, bars in zip(market.info.symbols, found, strict=True) if bars > 20]
    assert sorted(named) == slow
    assert named == sorted(named, key=lambda symbol: -found[market.info.symbols.index(symbol)])


@pytest.mark.parametrize(
    ("symbol", "price", "ticks", "freq"),
    [
        ("EURUSD", 1.1, 3000, "h"),
        ("EURUSD", 1.1, 60, "min"),
        ("EURUSD", 1.1, 80_000, "D"),
        ("USDJPY", 110.0, 3000, "h"),
        ("GBP/USD", 1.3, 4000, "h"),
        ("NZDUSD=X", 0.7, 1500, "h"),
        ("XAUUSD", 1800.0, 3000, "h"),
        ("UNNAMED", 1.1, 3000, "h"),
    ],
)
def test_ticks_are_questioned(symbol, price, ticks, freq):
    market = load_market(currency(symbol, price, ticks, freq, n=120))
    (line,) = implausible_volume(market, 1e6, 0.1)
    assert line.startswith(f"a full position of 1,000,000 in {symbol} would take ")
    assert "set data.volume: ticks|notional|none" in line
    assert "\n" not in line


@pytest.mark.parametrize("unit", ["shares", "notional", "ticks", "none"])
def test_a_stated_volume_is_not_questioned(unit):
    assert not implausible_volume(load_market(currency(n=60), volume=unit), 1e6, 0.1)


def test_true_volumes_are_not_questioned():
    stocks = load_market("us5_1d")
    assert not implausible_volume(stocks, 1e6, 0.1)
    assert not implausible_volume(load_market(currency(ticks=3e8, n=60)), 1e6, 0.1), "an hour of spot in units"
    assert not implausible_volume(load_market(currency("BTCUSD", 40_000.0, 60.0, n=60)), 1e6, 0.1), (
        "an hour of one exchange"
    )
    thin_minutes = load_market(currency("ABC", 100.0, 500.0, "min", n=2000))
    assert 20 < bars_to_fill(thin_minutes, 1e6, 0.1)[0] < 1440
    assert not implausible_volume(thin_minutes, 1e6, 0.1), "less than a day of minutes"
    assert not volume_sentences(stocks, 1e6, 0.1)


def test_without_a_limit_the_whole_bar_counts():
    market = load_market(currency())
    (limited,), (free,) = (implausible_volume(market, 1e6, limit) for limit in (0.1, None))
    assert "at 10 % of the volume" in limited
    assert "at 100 % of the volume" in free
    assert implausible_volume(market, 1e6, 1e30) == [free]


def test_markets_that_no_file_gave_are_not_questioned():
    market = simulators.gbm(jax.random.key(0), 50, 2, median_volume=1.0)
    assert not implausible_volume(market, 1e6, 0.1)
    silent = market.replace(volume_known=np.array([True, False]))
    assert volume_sentences(silent, 1e6, 0.1) == (
        "No usable volume of 1 of 2 symbols (asset 1): no participation limit and no market impact applies there.",
    )


def test_the_worst_come_first_and_the_rest_are_counted():
    market = load_market({f"S{i}": daily(np.full(6, 100.0 + i)) for i in range(8)})
    lines = implausible_volume(market, 1e6, 0.1)
    assert [line.split(" in ")[1][:2] for line in lines[:5]] == ["S0", "S1", "S2", "S3", "S4"]
    assert lines[5:] == ["3 more symbols would take as unlikely long to fill: see data.volume"]


def test_buy_and_hold_of_a_currency_fills_at_once_where_ticks_are_known_to_be_ticks(tmp_path):
    counted = currency()
    with pytest.warns(UserWarning, match=r"in EURUSD would take 2,\d{3} bars to fill"):
        slow = simulate(rules.buy_and_hold(), load_market(counted))
    weights = {"shares": slow.positions["EURUSD"].to_numpy()}
    assert weights["shares"][-1] < 0.2, "240 hours of ticks are not enough"
    for unit in ("ticks", "none"):
        result = simulate(rules.buy_and_hold(), load_market(counted, volume=unit))
        weights[unit] = result.positions["EURUSD"].to_numpy()
        assert weights[unit][0] > 0.98
        assert len(result.trades) == 1
        assert float(result.costs["impact"].abs().sum()) == 0.0
        assert float(result.costs[["commission", "spread", "slippage"]].sum().min()) > 0.0
    sentence = "No usable volume of EURUSD: no participation limit and no market impact applies there."
    assert result.warnings == (sentence,)
    assert sentence in result.report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert slow.warnings[0].startswith("A full position of 1,000,000 in EURUSD would take")


def test_a_liquid_market_is_traded_as_before(recwarn):
    hours = currency("ABC", 100.0, 1e6)
    markets = (load_market(hours), load_market(hours, volume="shares"))
    one, two = (simulate(rules.buy_and_hold(), market) for market in markets)
    np.testing.assert_array_equal(one.equity, two.equity)
    assert one.positions["ABC"].iloc[0] > 0.98
    assert float(one.costs["impact"].sum()) > 0.0
    assert one.warnings == ()
    assert not [warning for warning in recwarn if "full position" in str(warning.message)]
