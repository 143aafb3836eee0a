"""Tables of closes alone: settlements, fixings, indices; their carry; and single trades, which look like them."""

import numpy as np
import pandas as pd
import pytest
from folders import SHARED
from jax import random

from jaxppo import envs, rules
from jaxppo.backtest import simulate
from jaxppo.envs import DataError, load_market, simulators
from jaxppo.envs.market import features


def settlements(n_bars=300, n_assets=2, seed=0, **columns):
    rng = np.random.default_rng(seed)
    days = pd.bdate_range("2020-01-01", periods=n_bars)
    parts = [
        {"date": days, "symbol": f"F{i}", "close": 100 * np.exp(np.cumsum(0.01 * rng.standard_normal(n_bars)))}
        for i in range(n_assets)
    ]
    return pd.concat([pd.DataFrame({**part, **columns}) for part in parts], ignore_index=True)


def test_every_price_of_a_bar_is_its_close():
    market = load_market(settlements())
    for name in ("open", "high", "low"):
        np.testing.assert_array_equal(getattr(market, name), market.close)
    assert market.tradable.all()
    assert any("fills at the next close" in line for line in market.info.report["warnings"])
    assert market.info.report["bar_seconds"] == 86400


def test_an_order_fills_at_the_next_close():
    """Decided at the close of t, filled at that of t + 1: the account earns from there on, as a shift by two does."""
    table = settlements(n_assets=1)
    table["bid"], table["ask"] = table.close * 0.9998, table.close * 1.0002
    market = load_market(table)
    result = simulate(rules.buy_and_hold(), market, costs=envs.basic_costs())
    first = result.first
    equity = result.equity["equity"].to_numpy()
    close = table.close.to_numpy()
    assert equity[1] / equity[0] == pytest.approx(1 - 2e-4, abs=1e-6), (
        "the bar of the fill earns nothing but the spread"
    )
    growth = equity[2:] / equity[1:-1]
    np.testing.assert_allclose(growth, close[first + 2 :] / close[first + 1 : -1], rtol=1e-4)


@pytest.mark.parametrize("kind", ["random", "bursts", "same"])
def test_single_trades_are_no_closes(kind):
    rng = np.random.default_rng(1)
    seconds = {
        "random": np.cumsum(rng.exponential(3, 500)),
        "bursts": np.cumsum(rng.choice([0.001, 30], 500)),
        "same": np.repeat(np.arange(100), 5),
    }[kind]
    times = pd.Timestamp("2024-03-04 09:30") + pd.to_timedelta(seconds, "s").round("ms")
    frame = pd.DataFrame({"time": times, "price": 100 + rng.normal(0, 0.1, 500).cumsum(), "symbol": "ES"})
    with pytest.raises(DataError, match="single trades"):
        load_market(frame)


@pytest.mark.parametrize("freq", ["B", "W", "ME", "h", "min", "5s"])
def test_closes_at_any_usual_distance(freq):
    n_bars = 120
    times = pd.date_range("2015-01-01", periods=n_bars, freq=freq)
    close = 100 + np.random.default_rng(2).normal(0, 0.2, n_bars).cumsum()
    market = load_market(pd.DataFrame({"time": times, "close": close}))
    assert market.n_bars == n_bars


def test_some_prices_missing_is_still_a_mistake():
    table = settlements().assign(open=lambda frame: frame.close)
    with pytest.raises(DataError, match="no column for high, low"):
        load_market(table)


def test_carry_is_read_and_held_and_nothing_later_changes_it():
    table = settlements()
    carry = np.where(np.arange(len(table)) % 300 < 10, np.nan, np.linspace(-0.2, 0.3, len(table)))
    carry[40] = np.nan  # held
    market = load_market(table.assign(carry=carry))
    stored = np.asarray(market.carry)
    assert np.isnan(stored[:10]).all()
    expected = table.assign(carry=carry).pivot(index="date", columns="symbol", values="carry").ffill()
    np.testing.assert_allclose(stored, expected, rtol=1e-5)
    dates = sorted(table.date.unique())
    early = load_market(table.assign(carry=carry)[table.date <= dates[150]])
    np.testing.assert_array_equal(early.carry, market.carry[:151])
    one, two = (features.compute_features(each, groups=("carry",)) for each in (early, market))
    np.testing.assert_allclose(one, two[:151], atol=1e-6)
    other = load_market(table)
    assert other.carry == ()
    assert other.info.report["fingerprint"] != market.info.report["fingerprint"]
    assert envs.slice_bars(market, 20, 50).carry.shape == (30, 2)


def test_the_features_of_carry_are_those_of_pandas():
    table = settlements(n_assets=3)
    carry = np.random.default_rng(3).normal(0, 0.1, len(table))
    carry[np.random.default_rng(4).uniform(size=len(table)) < 0.1] = np.nan
    market = load_market(table.assign(carry=carry))
    wide = table.assign(carry=carry).pivot(index="date", columns="symbol", values=["carry", "close"]).astype(float)
    log = np.log(wide["close"])
    volatility = np.sqrt((log.diff() ** 2).ewm(span=63).mean())
    days = pd.Series(wide.index, wide.index).diff().dt.days.rolling(252, min_periods=1).mean()
    mean = wide["carry"].ffill().mul(days / 365.25, axis=0).rolling(21, min_periods=5).mean()
    expected = np.tanh(mean * 252**0.5 / volatility / 1.5)
    found = np.asarray(features.compute_features(market, groups=("carry",), unknown=np.nan))
    np.testing.assert_allclose(found[25:, :, 0], expected[25:], atol=1e-4)
    np.testing.assert_allclose(found[25:, :, 1], expected.rank(axis=1)[25:] - 2, atol=1e-6)


def test_carry_goes_with_its_bar_into_resampled_markets():
    table = settlements()
    market = load_market(table.assign(carry=np.arange(len(table)) % 300 / 1e3))
    drawn = simulators.block_bootstrap(random.key(0), market, 100, 5.0)
    assert np.isin(np.asarray(drawn.carry), np.asarray(market.carry)).all()
    features.compute_features(drawn, groups=("carry",))


def test_without_carry_its_group_is_refused():
    with pytest.raises(ValueError, match="column carry"):
        features.compute_features(load_market(settlements()), groups=("price", "carry"))


FUTURES = SHARED / "futures_1d.parquet"


@pytest.mark.skipif(not FUTURES.exists(), reason="the external prices of futures are not there")
def test_futures_load():
    market = load_market(FUTURES)
    assert market.n_assets == 38
    assert np.isfinite(np.asarray(market.carry)).mean() > 0.5
    warnings = " ".join(market.info.report["warnings"])
    assert "fills at the next close" in warnings
