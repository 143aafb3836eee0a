"""A market that was made in Python is checked as a file is."""

import jax
import numpy as np
import pytest

from jaxppo.envs import simulators
from jaxppo.envs.market.check import check_market
from jaxppo.envs.market.index import market_index
from jaxppo.envs.market.market_data import MarketInfo
from jaxppo.errors import DataError

MARKET = simulators.gbm(jax.random.key(0), 50, 3)
TIMES = np.arange("2021-01-01", "2021-02-20", dtype="datetime64[D]").astype("datetime64[ns]")
NAMED = MARKET.replace(info=MarketInfo(("A", "B", "C"), TIMES))


def with_value(name, value, market=NAMED):
    return market.replace(**{name: getattr(market, name).at[7, 1].set(value)})


@pytest.mark.parametrize(
    ("name", "value"),
    [("close", np.nan), ("open", 0.0), ("low", -1.0), ("high", np.inf), ("volume", -5.0), ("half_spread", np.nan)],
)
def test_a_value_that_cannot_be_right_is_named(name, value):
    with pytest.raises(DataError, match=rf"^the market.s {name} of B at bar 7 \(2021-01-08T00:00\) is {value:g}; "):
        check_market(with_value(name, value))
    with pytest.raises(DataError, match=rf"{name} of asset 1 at bar 7 is "):
        check_market(with_value(name, value, MARKET))


@pytest.mark.parametrize(("name", "factor"), [("high", 0.5), ("low", 2.0)])
def test_a_bar_holds_its_open_and_close(name, factor):
    with pytest.raises(DataError, match=f"the market's {name} of B at bar 7"):
        check_market(with_value(name, factor * NAMED.close[7, 1]))


def test_shapes_and_times():
    with pytest.raises(DataError, match=r"volume has shape \(50,\)"):
        check_market(MARKET.replace(volume=MARKET.volume[:, 0]))
    for times in (TIMES[:-1], TIMES[::-1]):
        with pytest.raises(DataError, match="50 increasing times"):
            check_market(MARKET.replace(info=MarketInfo(("A", "B", "C"), times)))
    assert check_market(NAMED) is NAMED
    assert check_market(MARKET) is MARKET


def test_the_index_of_a_market_with_ends_is_a_market():
    market = simulators.gbm(jax.random.key(0), 50, 2)
    ended = np.arange(50)[:, None] > np.asarray([30, 99])
    check_market(market_index(market.replace(ended=ended, tradable=np.asarray(market.tradable) & ~ended)))
