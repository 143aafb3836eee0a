"""Stop-losses, take-profits and trailing stops from the configuration to the tables of a backtest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import prices, tiny_config

import jaxppo
from jaxppo import envs
from jaxppo.backtest import plain_conditions
from jaxppo.backtest.agent_account import rules_of
from jaxppo.backtest.baselines import configured_baselines
from jaxppo.backtest.frames import ledger_frame
from jaxppo.backtest.performance import contributions, trip_table
from jaxppo.backtest.simulate import simulate_account
from jaxppo.envs import simulators
from jaxppo.errors import ConfigError
from jaxppo.policy.arrays import from_array
from jaxppo.run.build import build

N_BARS, N_ASSETS = 250, 2
RULE = envs.FillRule(exits=True)


def costs(**exits):
    return envs.basic_costs(commission_bps=1.0, max_leverage=1.0).replace(exits=envs.make_exits(**exits))


@pytest.fixture(scope="module")
def market():
    return simulators.gbm(jax.random.key(3), N_BARS, N_ASSETS, volatility=0.4)


def traded(market, targets, **exits):
    return jaxppo.simulate(targets, market, costs=costs(**exits), fill_rule=RULE, initial_cash=1e6)


@pytest.fixture(scope="module")
def result(market):
    return traded(market, jnp.full((N_BARS, N_ASSETS), 0.5), trailing_stop=0.03, take_profit=0.06, wait=4)


def test_an_account_stays_out_as_long_as_it_was_told(result):
    ledger = result.ledger
    exited = np.asarray(ledger.exited.quantity) != 0
    assert exited.sum() > 20
    for asset in range(N_ASSETS):
        for bar in np.flatnonzero(exited[:, asset]):
            after = np.asarray(ledger.ordered)[bar + 1 : bar + 7, asset]
            assert (after[:4] == 0).all()
            assert (np.asarray(ledger.shares)[bar : bar + 5, asset] == 0).all()
            assert len(after) < 5 or after[4] > 0


def test_fills_add_up_to_positions_and_profits_to_the_equity(result):
    ledger = result.ledger
    held = np.cumsum(np.asarray(ledger.quantity, np.float64), axis=0)
    np.testing.assert_allclose(held, ledger.shares, atol=1e-2)
    table, _, other = contributions(ledger, ("A", "B"))
    assert abs(other) < 1e-5 * 1e6
    trips = trip_table(ledger, ("A", "B"))
    n_exits = int((np.asarray(ledger.exited.quantity) != 0).sum())
    assert len(trips[trips["closed"] > 0]) == n_exits  # nothing else closes one
    profit = float(table["profit"].sum())
    assert float(trips["profit"].sum()) == pytest.approx(profit, abs=1e-5 * 1e6)
    rows = ledger_frame(ledger, result.market, result.first)
    assert (rows["exited"] != 0).sum() == n_exits
    assert result.summary()["trades"] == n_exits


def test_a_position_that_is_stopped_in_the_bar_of_its_entry_is_a_trip(market):
    targets = np.full((N_BARS, N_ASSETS), np.nan)
    targets[::3], targets[1::3] = 0.9 / N_ASSETS, 0.0
    ledger = traded(market, jnp.asarray(targets), stop_loss=0.002).ledger
    opened = np.asarray(ledger.ordered) > 0
    inside = opened & (np.asarray(ledger.shares) == 0)
    assert inside.sum() > 20
    trips = trip_table(ledger, ("A", "B"))
    assert (trips["closed"] == trips["opened"]).sum() >= inside.sum()
    _, _, other = contributions(ledger, ("A", "B"))
    assert abs(other) < 1e-5 * 1e6


def test_later_prices_change_nothing_before(market):
    """All fields of later bars are drawn anew."""
    targets, cut = jnp.full((N_BARS, N_ASSETS), 0.5), 120
    other = simulators.gbm(jax.random.key(9), N_BARS, N_ASSETS, volatility=0.4)
    mixed = {
        name: jnp.concatenate([getattr(market, name)[:cut], getattr(other, name)[cut:]])
        for name in ("open", "high", "low", "close", "volume", "half_spread")
    }
    exits = {"stop_loss": 0.02, "take_profit": 0.03, "trailing_stop": 0.05}
    one, two = (traded(m, targets, **exits).ledger for m in (market, market.replace(**mixed)))
    for name in ("shares", "ordered", "equity"):
        np.testing.assert_array_equal(getattr(one, name)[: cut - 1], getattr(two, name)[: cut - 1])
    assert not np.array_equal(one.equity, two.equity)


def test_the_gradient_through_exits_is_finite(market):
    conditions = plain_conditions(
        N_ASSETS, periods=252.0, costs=costs(stop_loss=0.02, take_profit=0.05), fill_rule=RULE, initial_cash=1e6
    )
    params = conditions.prepare(conditions.costs, market)

    def final(weight: jax.Array) -> jax.Array:
        policy = from_array(jnp.broadcast_to(weight, (N_BARS, N_ASSETS)))
        return simulate_account(policy, conditions.rules, params, jnp.int32(0), N_BARS - 1).equity[-1] / 1e6

    found = jax.grad(final)(jnp.asarray([0.4, 0.0]))
    assert np.isfinite(found).all()
    assert np.abs(found).sum() > 0


def test_what_is_held_as_a_baseline_is_not_closed_by_a_stop():
    market = envs.load_market(prices())
    plain, stopped = (build(tiny_config(exits=exits), market) for exits in ({}, {"stop_loss": 0.01}))
    where = plain.periods["test"]
    found = [configured_baselines(setup, rules_of(setup), where) for setup in (plain, stopped)]
    np.testing.assert_array_equal(found[0]["buy_and_hold"].equity, found[1]["buy_and_hold"].equity)


def test_keys_reach_the_account_and_mistakes_are_named():
    market = envs.load_market(prices())
    symbol = market.info.symbols[0]
    setup = build(tiny_config(exits={"stop_loss": {symbol: 0.05}, "wait": 2}), market)
    assert setup.env.fill_rule.exits
    np.testing.assert_allclose(setup.params.costs.exits.stop_loss, [0.05, 0.0])
    with pytest.raises(ConfigError, match=r"exits\.stop_loss has a value for NONE; the market has"):
        build(tiny_config(exits={"stop_loss": {"NONE": 0.05}}), market)
    with pytest.raises(ConfigError, match=r"exits\.wait is 3, but there is no stop_loss"):
        build(tiny_config(exits={"wait": 3}), market)
    with pytest.raises(ConfigError, match=r"exits\.stop_loss"):
        tiny_config(exits={"stop_loss": 1.5})
    at_close = {"exits": {"stop_loss": 0.05}, "env": {"fill_price": "decision_close"}}
    with pytest.raises(ConfigError, match="fill_price 'decision_close' allows no stop_loss"):
        build(tiny_config(**at_close), market)
    with pytest.raises(ValueError, match=r"need FillRule\(exits=True\)"):
        jaxppo.simulate(jaxppo.rules.buy_and_hold(), market, costs=costs(stop_loss=0.1))
