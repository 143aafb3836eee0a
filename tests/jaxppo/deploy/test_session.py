"""Rows of masks of trading hours, bar by bar, are those of the mask's own table; half days included."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from jaxppo import envs, masks
from jaxppo.deploy.feed import RefusedError
from jaxppo.deploy.session import session_rows

KEYS = {"open_minutes": 30.0, "close_minutes": 60.0, "flat_minutes": 120.0}


def hourly():
    """Bars of two assets around Thanksgiving of 2021, some of them outside of trading hours."""
    times = pd.date_range("2021-11-22 13:30", "2021-12-03 22:30", freq="h")
    times = times[(times.hour >= 13) & (times.hour <= 21) & (times.dayofweek < 5)]
    market = envs.simulators.gbm(jax.random.key(0), len(times), 2)
    seconds = np.diff(times.to_numpy(), prepend=times.to_numpy()[:1]) / np.timedelta64(1, "s")
    info = envs.MarketInfo(("AAA", "BBB"), times.to_numpy().astype("datetime64[ns]"))
    return market.replace(seconds_since_previous=jnp.asarray(seconds, jnp.float32), info=info)


def test_rows_are_those_of_the_table():
    market, feed = hourly(), types.SimpleNamespace(bar_seconds=3600.0)
    views = masks.MarketView(market, 252.0 * 7, 1.0)
    sessions = {"0": {"calendar": "XNYS", **KEYS}, "3": {"calendar": "XLON", **KEYS, "flat_minutes": None}}
    tables = {
        place: masks.session(keys["calendar"], **{name: keys[name] for name in KEYS}).table(views)
        for place, keys in sessions.items()
    }
    for bar, time in enumerate(market.info.timestamps.astype(np.int64)):
        rows = session_rows(sessions, feed, int(time))
        assert set(rows) == {"host_masks.0.most", "host_masks.0.forced", "host_masks.3.most"}
        for name, value in rows.items():
            _, place, field = name.split(".")
            np.testing.assert_array_equal(np.broadcast_to(value, 2), tables[place][field][bar], err_msg=f"{name} {bar}")
    shut = np.asarray(tables["0"]["most"])[:, 0] == 0
    assert 0.2 < shut.mean() < 0.9


def test_a_time_that_no_calendar_covers_is_refused():
    late = int(np.datetime64("2199-01-05", "ns").astype(np.int64))
    with pytest.raises(RefusedError, match="XSHG"):
        session_rows({"0": {"calendar": "XSHG", **KEYS}}, types.SimpleNamespace(bar_seconds=3600.0), late)
