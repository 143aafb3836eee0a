"""Assets that end: what a position in one is settled for, and that nothing before depends on it."""

import jax
import numpy as np
import pytest
from random_accounts import costs_as_floats, random_bars, random_decisions, run_account
from reference_ledger import run_ledger

from jaxppo.envs import simulators
from jaxppo.envs.execution.bars import BAR_FIELDS, pack_bars, unpack_bar
from jaxppo.envs.execution.costs import basic_costs
from jaxppo.envs.execution.fill_rule import FillRule
from jaxppo.envs.market.check import check_market
from jaxppo.errors import DataError

CASH, N_BARS, LAST = 1e6, 600, 400
CHARGED = {"commission_bps": 0.5, "commission_minimum": 1.0, "impact": 0.02, "borrow_rate": 0.03, "margin_rate": 0.02}
COSTS = basic_costs(participation_limit=0.05, **CHARGED)


def ending(seed, n_bars=N_BARS, last=LAST):
    """Bars `[T, 9, 3]` whose first asset has its last bar at `last`, and decisions; positions of both signs."""
    bars = random_bars(seed, n_bars, 3)
    ended = np.zeros((n_bars, 3), bool)
    ended[last + 1 :, 0] = True
    bars[:, :2] = np.where(ended[:, None], bars[last, 1], bars[:, :2])
    bars[:, 2] = np.where(ended, 0.0, bars[:, 2])
    weights, hold = random_decisions(seed, n_bars, 3, hold=0.6, flat=0.1)
    weights[last - 10 : last, 0], hold[last - 10 : last, 0] = 0.5 * (-1) ** seed, False
    return np.concatenate([bars, np.ones((n_bars, 1, 3)), ended[:, None]], axis=1).astype(np.float32), (
        weights,
        hold | ended[:-1],
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("delisting", "latency_bars"), [("last_close", 1), (-0.3, 3), (-1.0, 1), ("freeze", 3)])
def test_settlement_is_that_of_a_cash_ledger(seed, delisting, latency_bars):
    bars, decisions = ending(seed, last=LAST + seed)
    rule = FillRule(latency_bars=latency_bars, delisting=delisting)
    portfolios, fills, _ = run_account(bars, *decisions, COSTS, CASH, rule)
    paid_out = {"last_close": 0.0, "freeze": None}.get(delisting, delisting)
    ledger = run_ledger(
        bars, *decisions, costs=costs_as_floats(COSTS), cash=CASH, latency_bars=latency_bars, delisting=paid_out
    )
    assert not ledger["liquidated"].any()
    np.testing.assert_allclose(portfolios.equity, ledger["equity"], rtol=2e-6)
    np.testing.assert_allclose(portfolios.shares, ledger["shares"], atol=0.05)
    np.testing.assert_allclose(fills.costs.total(), ledger["paid"], rtol=1e-3, atol=0.05)
    held = np.asarray(portfolios.shares)[LAST + seed - 1, 0]
    assert held != 0, "a position to be settled"
    after = np.asarray(portfolios.shares)[LAST + seed :, 0]
    assert (after == held).all() if delisting == "freeze" else (after == 0).all()


def test_a_settlement_is_a_fill_without_costs():
    bars, decisions = ending(0)
    portfolios, fills, _ = run_account(bars, *decisions, COSTS, CASH, FillRule(delisting=-0.3))
    held = np.asarray(portfolios.shares)[LAST - 1, 0]
    assert fills.quantity[LAST, 0] == -held
    np.testing.assert_allclose(fills.price[LAST, 0], 0.7 * bars[LAST, 1, 0], rtol=1e-6)
    assert fills.costs.total()[LAST, 0] == 0
    np.testing.assert_array_equal(fills.quantity[LAST + 1 :, 0], 0)


def test_nothing_before_the_end_depends_on_it():
    bars, decisions = ending(1)
    never = bars.copy()
    never[:, BAR_FIELDS.index("year_fraction") + 2] = 0.0
    one, other = (run_account(x, *decisions, COSTS, CASH, FillRule(delisting=-0.5)) for x in (bars, never))
    for here, there in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(here[:LAST], there[:LAST])
    assert one[0].equity[-1] != other[0].equity[-1]
    frozen = run_account(bars, *decisions, COSTS, CASH, FillRule(delisting="freeze"))
    np.testing.assert_array_equal(frozen[0].equity, other[0].equity)


def test_the_table_tells_of_ends_only_where_there_are_some():
    market = simulators.gbm(jax.random.key(0), 50, 2)
    assert pack_bars(market).shape[1] == len(BAR_FIELDS)
    ended = np.arange(50)[:, None] > np.asarray([30, 99])
    ends = market.replace(ended=ended, tradable=~ended)
    table = pack_bars(ends)
    np.testing.assert_array_equal(jax.vmap(unpack_bar)(table).ended, ended)
    np.testing.assert_array_equal(table[:, : len(BAR_FIELDS)], pack_bars(ends.replace(ended=())))
    assert check_market(ends) is ends


@pytest.mark.parametrize(
    ("ended", "named"),
    [
        (np.zeros(50, bool), "shape|bool"),
        (np.zeros((50, 2)), "float64"),
        (np.arange(50)[:, None] > np.asarray([30, 99]), "ended of asset 0 at bar 31 is 1"),
        (np.arange(50)[:, None] == np.asarray([30, 99]), "True from its end on"),
    ],
)
def test_ends_that_cannot_be_are_named(ended, named):
    market = simulators.gbm(jax.random.key(0), 50, 2)
    with pytest.raises(DataError, match=named):
        check_market(market.replace(ended=ended))
