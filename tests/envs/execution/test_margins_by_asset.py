"""Margins of single assets: what a position may be, and when it is liquidated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_accounts import as_float64, costs_as_floats, random_bars, random_decisions, run_account
from reference_ledger import run_ledger

from jaxppo.envs.execution.bars import unpack_bar
from jaxppo.envs.execution.costs import basic_costs, make_costs
from jaxppo.envs.execution.fill_rule import FillRule
from jaxppo.envs.execution.margin import leverage_use_at
from jaxppo.envs.execution.portfolio import open_portfolio, orders_to_target, step

CASH, RULE, SYMBOLS = 1e6, FillRule(), ("BTC", "SPY", "ES")


def test_in_float64_the_account_is_that_of_the_ledger():
    """One asset at ten times, one at twice the equity, one by the default, through liquidations."""
    bars, (weights, hold) = random_bars(5, 1500, 3, volatility=0.02), random_decisions(5, 1500, 3)
    initial, maintenance = {"BTC": 0.1, "ES": 0.5}, {"BTC": 0.08, "ES": 0.4}
    costs = basic_costs(
        commission_bps=0.5, impact=0.02, participation_limit=0.3, borrow_rate=0.05, margin_rate=0.06,
        initial_margins=initial, maintenance_margins=maintenance, symbols=SYMBOLS,
    )  # fmt: skip
    with jax.enable_x64(True):
        double = [jnp.asarray(x, jnp.float64) for x in (bars, 8.0 * weights)]
        portfolios, fills, _ = map(as_float64, run_account(*double, jnp.asarray(hold), costs, jnp.float64(CASH), RULE))
    named = {"initial_margins": costs.initial_margins, "maintenance_margins": costs.maintenance_margins}
    given = costs_as_floats(costs) | {name: np.asarray(x, np.float64).tolist() for name, x in named.items()}
    ledger = run_ledger(bars, 8.0 * weights, hold, costs=given, cash=CASH)
    assert 0 < np.sum(fills.liquidated) < 300
    np.testing.assert_array_equal(fills.liquidated, ledger["liquidated"])
    scale = np.max(np.abs(ledger["equity"]))
    np.testing.assert_allclose(portfolios.equity, ledger["equity"], rtol=1e-10, atol=1e-11 * scale)
    np.testing.assert_allclose(portfolios.shares, ledger["shares"], rtol=1e-8, atol=1e-6)
    value = np.abs(portfolios.shares) * bars[1:, 1]
    assert np.max(value[:, 0] / portfolios.equity) > 2.0, "the first asset uses its leverage"


def row(close=(100.0, 100.0, 100.0)):
    """A bar of three assets, in which everything fills at 100."""
    columns = [(100.0,) * 3, close, (np.inf,) * 3, (0,) * 3, (0.01,) * 3, (np.inf,) * 3, (0,) * 3]
    return jnp.asarray(columns, jnp.float32)


@pytest.mark.parametrize(
    ("weights", "hold", "expected"),
    [
        ((10.0, 0.0, 0.0), (0, 0, 0), (10.0, 0.0, 0.0)),  # all the equity as margin
        ((15.0, 0.5, 0.0), (0, 0, 0), (7.5, 0.25, 0.0)),  # 200 %: a half of each
        ((-5.0, 0.5, 0.0), (0, 0, 0), (-5.0, 0.5, 0.0)),
        ((0.0, 0.0, 3.0), (0, 0, 0), (0.0, 0.0, 1.0)),  # no margin of its own: max_leverage
        ((5.0, 0.0, 2.0), (1, 0, 0), (5.0, 0.0, 0.5)),  # what is held keeps its margin
    ],
)
def test_positions_are_as_large_as_their_margins_allow(weights, hold, expected):
    costs = basic_costs(
        spread_multiplier=0.0, initial_margins={"BTC": 0.1, "SPY": 1.0}, maintenance_margins={"BTC": 0.05},
        symbols=SYMBOLS,
    )  # fmt: skip
    kept = jnp.asarray(hold, bool)
    held = jnp.where(kept, jnp.asarray(weights), 0.0) * CASH / 100.0
    portfolio = open_portfolio(jnp.full(3, 100.0), CASH, RULE).replace(shares=held)
    for next_bar in ((), row()):
        order = orders_to_target(portfolio, jnp.asarray(weights), kept, costs, leverage_use_at(next_bar, costs))
        after, fills = step(portfolio, order, unpack_bar(row()), costs, RULE)
        np.testing.assert_allclose(after.shares * 100.0 / CASH, expected, rtol=1e-5, atol=1e-6)
        assert not fills.liquidated


@pytest.mark.parametrize(("loss", "liquidated"), [(0.052, False), (0.0535, True)])
def test_the_maintenance_margin_of_an_asset_liquidates(loss, liquidated):
    """Ten times the equity: `1 - 10 x < 0.05 * 10 (1 - x)` beyond `x = 0.5 / 9.5`."""
    costs = basic_costs(
        spread_multiplier=0.0, initial_margins={"BTC": 0.1}, maintenance_margins={"BTC": 0.05}, symbols=SYMBOLS
    )
    portfolio = open_portfolio(jnp.full(3, 100.0), CASH, RULE).replace(shares=jnp.asarray([1e5, 0.0, 0.0]))
    bar = unpack_bar(row(close=(100 * (1 - loss), 100.0, 100.0)))
    assert bool(step(portfolio, jnp.zeros(3), bar, costs, RULE)[1].liquidated) == liquidated


def test_a_number_is_that_of_all_assets():
    costs = basic_costs(initial_margins=0.1, maintenance_margins=0.05)
    assert float(leverage_use_at((), costs)) == pytest.approx(0.1)
    assert leverage_use_at((), basic_costs()) == 1.0


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"initial_margins": {"BTC": 0.1}}, "maintenance_margins of BTC is 0.25 and initial_margins of BTC 0.1"),
        ({"initial_margins": 0.2}, "maintenance_margins is 0.25 and initial_margins 0.2"),
        ({"maintenance_margins": {"ES": 1.0}}, "maintenance_margins of ES is 1 and initial_margins of ES 1"),
        ({"initial_margins": {"DOGE": 0.5}}, "initial_margins has a value for DOGE; the market has BTC, SPY, ES"),
        ({"initial_margins": {"BTC": 0.0}}, "initial_margins"),
        ({"maintenance_margins": "low"}, "maintenance_margins"),
    ],
)
def test_margins_that_cannot_be_are_refused(given, line):
    with pytest.raises(ValueError, match=line):
        make_costs(**given, symbols=SYMBOLS)
