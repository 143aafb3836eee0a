"""Bars per year, from a few sessions to many."""

import jax
import numpy as np
import pandas as pd
import pytest

from jaxppo.envs import simulators
from jaxppo.envs.market.market_data import MarketInfo, periods_per_year


def market_at(times: pd.DatetimeIndex, session: np.ndarray):
    market = simulators.gbm(jax.random.key(0), len(times), 1)
    info = MarketInfo(("AAA",), times.to_numpy().astype("datetime64[ns]"), {})
    return market.replace(session=session.astype(np.int32), info=info)


@pytest.mark.parametrize("n_sessions", [1, 2, 5, 10, 21, 60])
def test_minutes_of_a_few_sessions_count_as_those_of_a_year(n_sessions):
    """390 minutes a day, 261 weekdays a year; whatever the number of days, the file has no night after its last bar."""
    days = pd.bdate_range("2020-01-06", periods=n_sessions)
    times = pd.DatetimeIndex(
        np.concatenate([pd.date_range(d + pd.Timedelta("14h30m"), periods=390, freq="min") for d in days])
    )
    market = market_at(times, np.repeat(np.arange(n_sessions), 390))
    assert periods_per_year(market) == pytest.approx(390 * 365.25 * 5 / 7, rel=1e-6)


def test_hours_around_the_clock():
    times = pd.date_range("2021-01-01", periods=24 * 40, freq="h")
    market = market_at(times, np.arange(len(times)) // 24)
    assert periods_per_year(market) == pytest.approx(24 * 365.25, rel=1e-6)


def test_days_with_holidays():
    times = pd.bdate_range("2000-01-03", "2019-12-31")
    kept = times[np.arange(len(times)) % 29 != 0]
    assert periods_per_year(market_at(kept, np.arange(len(kept)))) == pytest.approx(260.9 * 28 / 29, rel=0.005)
