"""What a run that pays funding, dividends or splits cannot do is said in one line."""

import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import tiny_config

from jaxppo.deploy.next_orders import next_orders
from jaxppo.deploy.streams import check_streams
from jaxppo.envs import simulators, with_dividends
from jaxppo.errors import ConfigError
from jaxppo.monte_carlo.sources import draws_of
from jaxppo.run.data import full_position


def run_of(market=None, **sections):
    market = simulators.gbm(jax.random.key(0), 60, 2) if market is None else market
    return types.SimpleNamespace(setup=types.SimpleNamespace(config=tiny_config(**sections), market=market))


def test_generators_that_draw_no_funding_are_refused():
    market = simulators.gbm(jax.random.key(0), 60, 2)
    run = run_of(market.replace(funding=jnp.full((60, 2), 1e-4)))
    with pytest.raises(ConfigError, match="--generator is 'garch', which draws no funding"):
        draws_of(run, "garch", 10)


def test_dividends_and_splits_are_not_exported():
    market = simulators.gbm(jax.random.key(0), 60, 2)
    with pytest.raises(ConfigError, match=r"data\.dividends are paid, and a live policy knows no ex-dates"):
        check_streams(run_of(with_dividends(market, np.zeros((60, 2)))).setup)
    with pytest.raises(ConfigError, match=r"data\.splits are paid"):
        check_streams(run_of(data={"splits": "ratio"}).setup)


def test_orders_of_today_need_shares_of_today(monkeypatch):
    opened = run_of(data={"splits": "ratio"})
    monkeypatch.setattr(sys.modules[next_orders.__module__], "load_run_for_next_bar", lambda *_, **__: opened)
    with pytest.raises(ConfigError, match="orders would count the shares of the first bar"):
        next_orders("run")


def test_margins_of_assets_leave_positions_to_their_limit():
    """The data report asks how long a full position takes to fill: margins may allow more than `max_leverage`."""
    keys = {"env": {"position_limit": 3.0}}
    margins = {"initial_margins": 0.2, "maintenance_margins": 0.1}
    cash = tiny_config().env.initial_cash
    assert full_position(tiny_config(**keys, costs={"max_leverage": 1.0}), 2) == cash
    assert full_position(tiny_config(**keys, costs={"max_leverage": 1.0, **margins}), 2) == 3.0 * cash
