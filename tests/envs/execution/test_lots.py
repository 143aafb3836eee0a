"""Whole lots and smallest orders: properties on random accounts, and vectorbt's order granularity as an oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_accounts import random_bars, random_decisions, run_account

from jaxppo import backtest, envs, rules
from jaxppo.envs.execution.costs import basic_costs
from jaxppo.envs.execution.fill_rule import FillRule
from jaxppo.envs.execution.lots import whole_orders
from jaxppo.errors import ConfigError
from jaxppo.policy.arrays import from_array

LOTS = {"AAA": 1.0, "BBB": 100.0, "CCC": 0.25}
SYMBOLS = ("AAA", "BBB", "CCC", "DDD")
shares = st.floats(-1e6, 1e6, width=32)


@given(
    order=shares, held=shares, lot=st.sampled_from([0.001, 0.1, 1.0, 10.0, 100.0]), least=st.floats(0, 1e4, width=32)
)
@settings(deadline=None, max_examples=300)
def test_an_order_is_never_larger_and_is_whole_or_closes(order, held, lot, least):
    costs = basic_costs(lot_size=lot, minimum_notional=max(least, 1e-6))
    one = [jnp.asarray([x], jnp.float32) for x in (order, held, 3.0)]
    cut = float(whole_orders(*one, costs)[0])
    order, held = (float(x[0]) for x in one[:2])
    assert cut == 0.0 or np.sign(cut) == np.sign(order)
    assert abs(cut) <= abs(order) * (1 + 1e-6) + 1.1e-3 * lot
    if cut != 0.0:
        assert abs(cut) * 3.0 >= least * (1 - 1e-4)
        lots = cut / lot
        assert held + order == 0 or abs(lots - round(lots)) <= 1e-6 * max(abs(lots), 1.0)
    elif abs(order) * 3.0 > least * (1 + 1e-4):
        assert abs(order) < lot * (1 + 1e-4)


def test_a_whole_number_of_lots_passes_as_it_is():
    costs = basic_costs(lot_size=0.1)
    orders = jnp.asarray([0.3, 123.4, -7.7, 1e5], jnp.float32)
    np.testing.assert_allclose(whole_orders(orders, jnp.ones(4), jnp.ones(4), costs), orders, rtol=1e-6)


def test_without_steps_nothing_changes():
    orders = jnp.asarray([0.123, -4.5])
    assert whole_orders(orders, orders, orders, basic_costs()) is orders


def test_the_derivative_is_that_of_the_order():
    costs = basic_costs(lot_size=1.0, minimum_notional=100.0)
    gradient = jax.grad(lambda x: jnp.sum(whole_orders(x, jnp.ones(2), jnp.ones(2), costs)))(jnp.asarray([150.4, 3.2]))
    np.testing.assert_array_equal(gradient, 1.0)


def traded(**options):
    """The trades of random target weights on a market of four assets."""
    market = envs.simulators.gbm(jax.random.key(0), 200, 4, volatility=0.02)
    market = market.replace(info=envs.MarketInfo(symbols=SYMBOLS))
    weights = np.random.default_rng(0).uniform(-0.2, 0.2, (200, 4)).astype(np.float32)
    weights[np.random.default_rng(1).random((200, 4)) < 0.1] = 0.0
    costs = envs.make_costs(symbols=SYMBOLS, **options)
    return backtest.simulate(from_array(jnp.asarray(weights)), market, costs=costs, initial_cash=1e5)


def test_fills_are_whole_lots_where_volume_limits_them_too():
    result = traded(lot_size=LOTS, participation_limit=1e-3)
    filled, ordered = (np.asarray(x, np.float64) for x in (result.ledger.quantity, result.ledger.ordered))
    held = np.cumsum(filled, axis=0) - filled
    for place, symbol in enumerate(SYMBOLS[:3]):
        lots = filled[:, place] / LOTS[symbol]
        whole = np.abs(lots - np.round(lots)) <= 1e-3
        closed = np.abs(held[:, place] + filled[:, place]) < 1e-3 * max(LOTS[symbol], 1e-3)
        assert np.all(whole | closed), symbol
        assert (np.abs(lots) > 0.5).sum() > 20
    fractional = filled[:, 3]
    assert np.any(np.abs(fractional - np.round(fractional)) > 0.01)
    assert np.any(ordered != filled)


def test_no_order_is_smaller_than_the_least():
    result = traded(minimum_notional={"AAA": 2000.0, "DDD": 500.0})
    before = np.asarray(result.market.close)[result.first : result.first + len(result.ledger.ordered)]
    value = np.abs(np.asarray(result.ledger.ordered)) * before
    for place, least in ((0, 2000.0), (3, 500.0)):
        sent = value[:, place][value[:, place] > 0]
        assert len(sent) > 20
        assert sent.min() >= least * (1 - 1e-4)
    assert value[:, 1][value[:, 1] > 0].min() < 500.0


@pytest.mark.slow
def test_whole_shares_are_those_of_vectorbt():
    """The same orders in shares, cut by vectorbt instead: equity and fills are equal."""
    vectorbt = pytest.importorskip("vectorbt")
    pandas = pytest.importorskip("pandas")
    bars = random_bars(3, 300, 3, volatility=0.01, depth=1e9)
    weights, hold = random_decisions(3, 300, 3, hold=0.3)
    weights = np.abs(weights) * 0.3
    costs = basic_costs(commission_bps=2.0, max_leverage=0.9, lot_size=1.0)
    portfolios, fills, _ = run_account(bars, weights, hold, costs, 1e5, FillRule())
    free = basic_costs(commission_bps=2.0, max_leverage=0.9)
    quantity = np.asarray(fills.quantity, np.float64)
    assert np.all(np.abs(quantity - np.round(quantity)) < 1e-3 * np.maximum(np.abs(quantity), 1))
    opened, close, half = (np.asarray(bars[1:, i], np.float64) for i in (0, 1, 3))
    found = vectorbt.Portfolio.from_orders(
        pandas.DataFrame(close),
        size=np.round(quantity) + 0.4 * np.sign(quantity),  # a fraction that it has to cut
        size_granularity=1.0,
        price=opened,
        slippage=half,
        fees=float(free.commission_rate) / (1 + np.sign(quantity) * half),
        init_cash=1e5,
        cash_sharing=True,
        group_by=True,
        call_seq="auto",
        freq="1D",
    )
    error = np.max(np.abs(np.asarray(portfolios.equity, np.float64) / found.value().to_numpy() - 1))
    assert error < 1e-5


def test_a_value_for_a_symbol_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="lot_size has a value for ZZZ"):
        envs.make_costs(lot_size={"ZZZ": 1.0}, symbols=SYMBOLS)


def test_a_configuration_names_symbols(tmp_path):
    from tiny_run import tiny_config, write_prices

    from jaxppo.run.environment import costs_of

    market = envs.load_market(write_prices(tmp_path / "prices.csv"))
    costs = costs_of(tiny_config(costs={"lot_size": {"BBB": 5.0}}), market)
    np.testing.assert_array_equal(costs.lot_size, [0.0, 5.0])
    with pytest.raises(ConfigError, match=r"costs.lot_size has a value for ZZZ"):
        costs_of(tiny_config(costs={"lot_size": {"ZZZ": 5.0}}), market)


def test_a_rule_that_trades_whole_shares_holds_whole_shares():
    market = envs.load_market("us5_1d")
    costs = envs.make_costs(lot_size=1.0)
    held = backtest.simulate(rules.inverse_volatility(), market, costs=costs, initial_cash=1e5).ledger.shares
    np.testing.assert_allclose(held, np.round(held), atol=1e-3)
