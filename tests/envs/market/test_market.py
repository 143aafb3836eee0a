"""Bars per year, from a few sessions to many; a market in one line."""

import jax
import numpy as np
import pandas as pd
import pytest

from jaxppo.envs import simulators
from jaxppo.envs.market.market_data import MarketInfo, slice_bars
from jaxppo.envs.market.periods import periods_per_year


def market_at(times: pd.DatetimeIndex, session: np.ndarray):
    market = simulators.gbm(jax.random.key(0), len(times), 1)
    info = MarketInfo(("AAA",), times.to_numpy().astype("datetime64[ns]"), {})
    return market.replace(session=session.astype(np.int32), info=info)


@pytest.mark.parametrize("n_sessions", [1, 2, 5, 10, 21, 60])
def test_minutes_of_a_few_sessions_count_as_those_of_a_year(n_sessions):
    """390 minutes a day, 252 sessions a year; whatever the number of days, the file has no night after its last bar."""
    days = pd.bdate_range("2020-01-06", periods=n_sessions)
    times = pd.DatetimeIndex(
        np.concatenate([pd.date_range(d + pd.Timedelta("14h30m"), periods=390, freq="min") for d in days])
    )
    market = market_at(times, np.repeat(np.arange(n_sessions), 390))
    assert periods_per_year(market) == pytest.approx(390 * 252, rel=0.01)


def test_hours_around_the_clock():
    times = pd.date_range("2021-01-01", periods=24 * 40, freq="h")
    market = market_at(times, np.arange(len(times)) // 24)
    assert periods_per_year(market) == pytest.approx(24 * 365.25, rel=1e-6)


def test_days_with_holidays():
    times = pd.bdate_range("2000-01-03", "2019-12-31")
    kept = times[np.arange(len(times)) % 29 != 0]
    assert periods_per_year(market_at(kept, np.arange(len(kept)))) == pytest.approx(260.9 * 28 / 29, rel=0.005)


def test_repr_of_a_market_is_one_line_whatever_its_arrays_are():
    days = pd.bdate_range("2020-01-06", periods=30)
    market = market_at(days, np.arange(30))
    assert repr(market) == "MarketData(30 bars x 1 assets, AAA, 2020-01-06 to 2020-02-14, 1 d a bar)"
    hours = pd.date_range("2020-01-06 09:30", periods=30, freq="5min")
    assert repr(market_at(hours, np.zeros(30))).endswith("AAA, 2020-01-06T09:30 to 2020-01-06T11:55, 5 min a bar)")
    many = market.replace(
        info=MarketInfo(tuple(f"S{i}" for i in range(500)), days.to_numpy(), {"symbols": "x" * 10**6})
    )
    assert "S0 S1 S2 S3 S4 S5 and 494 more, 2020-01-06 to" in repr(many)
    assert repr(many.info) == "MarketInfo(S0 S1 S2 S3 S4 S5 and 494 more, 2020-01-06 to 2020-02-14, 1 d a bar)"
    assert repr(market_at(days[:1], np.zeros(1))) == "MarketData(1 bars x 1 assets, AAA, 2020-01-06)"
    assert repr(market.replace(info=MarketInfo())) == "MarketData(30 bars x 1 assets)"


def test_repr_of_a_market_under_transformations():
    shown = []
    batch = jax.vmap(lambda key: simulators.gbm(key, 30, 2))(jax.random.split(jax.random.key(0), 4))
    jax.jit(lambda market: shown.append(repr(market)))(batch)
    jax.vmap(lambda market: shown.append(repr(market)) or 0)(batch)
    assert shown == ["MarketData(batch (4,) of 30 bars x 2 assets)", "MarketData(30 bars x 2 assets)"]
    assert repr(jax.tree.map(lambda _: 0, batch)) == "MarketData(fields of type int)"
    assert repr(jax.eval_shape(lambda: batch)) == shown[0]


def test_sliced_bars_keep_their_times():
    times = pd.bdate_range("2020-01-06", periods=30)
    market = market_at(times, np.arange(30))
    part = slice_bars(market, 5, 9)
    np.testing.assert_array_equal(part.close, market.close[5:9])
    np.testing.assert_array_equal(part.info.timestamps, times[5:9].to_numpy())
    np.testing.assert_array_equal(part.volume_known, market.volume_known)
    assert (part.n_bars, part.info.symbols) == (4, ("AAA",))
