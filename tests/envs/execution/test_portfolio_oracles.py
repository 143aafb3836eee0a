"""The accounting function against two independent simulators: a float64 cash ledger and vectorbt."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_accounts import as_float64, costs_as_floats, random_bars, random_decisions, run_account
from reference_ledger import run_ledger

from jaxppo.envs.execution.costs import basic_costs
from jaxppo.envs.execution.fill_rule import FillRule
from jaxppo.envs.execution.portfolio import cash

INITIAL_CASH = 1e6
EVERY_COST = {
    "commission_bps": 0.1,
    "commission_per_share": 1e-4,
    "commission_minimum": 0.5,
    "slippage": 0.002,
    "impact": 0.02,
    "participation_limit": 0.05,
    "borrow_rate": 0.02,
    "margin_rate": 0.03,
    "max_leverage": 2.0,
    "maintenance_margin": 0.1,
}


def relative_error(ours, reference) -> float:
    """Largest relative difference of two positive series."""
    return float(np.max(np.abs(np.asarray(ours, np.float64) / reference - 1)))


def run_both(bars, weights, hold, costs, rule):
    """Our portfolios and fills, and the ledger's columns, for the same decisions."""
    portfolios, fills, _ = run_account(bars, weights, hold, costs, INITIAL_CASH, rule)
    ledger = run_ledger(
        bars,
        weights,
        hold,
        costs=costs_as_floats(costs),
        cash=INITIAL_CASH,
        latency_bars=rule.latency_bars,
        carry=rule.unfilled == "carry",
        fill_at_decision_close=rule.fill_price == "decision_close",
    )
    return portfolios, fills, ledger


@pytest.mark.parametrize(
    ("n_bars", "latency_bars", "unfilled"),
    [
        pytest.param(100_000, 1, "carry", marks=pytest.mark.slow),
        pytest.param(100_000, 3, "drop", marks=pytest.mark.slow),
        (20_000, 1, "carry"),
    ],
)
def test_float32_stays_with_the_float64_ledger(n_bars, latency_bars, unfilled):
    """Four assets, shorts, leverage, holds, halts, partial fills, every cost and both kinds of financing."""
    bars = random_bars(0, n_bars, 4, volatility=0.0015)
    weights, hold = random_decisions(0, n_bars, 4, hold=0.93)
    rule = FillRule(latency_bars=latency_bars, unfilled=unfilled)
    portfolios, fills, ledger = run_both(bars, weights, hold, basic_costs(**EVERY_COST), rule)
    error = relative_error(portfolios.equity, ledger["equity"])
    quantity = np.asarray(fills.quantity)
    differing = np.sum((quantity != 0) != (ledger["quantity"] != 0))
    print(f"{n_bars} bars, latency {latency_bars}, {unfilled}: relative equity error {error:.1e}, fills {differing}")
    assert error < 1e-5
    assert differing <= 3e-4 * np.sum(quantity != 0)  # room at the edge of rounding
    assert not np.any(fills.liquidated)
    paid = np.asarray(fills.costs.total(), np.float64).sum()
    assert paid == pytest.approx(ledger["paid"].sum(), rel=1e-4)
    assert np.asarray(fills.financing, np.float64).sum() == pytest.approx(ledger["financing"].sum(), rel=1e-4)
    np.testing.assert_allclose(jax.vmap(cash)(portfolios), ledger["cash"], atol=1e-4 * ledger["equity"].max())
    # The case must be what it says: partial fills, shorts, borrowing, halts, and an account that is still alive.
    assert ledger["equity"].min() > 0.1 * INITIAL_CASH
    assert ledger["cash"].min() < 0 < ledger["shares"].max()
    assert ledger["shares"].min() < 0
    limit = np.float32(0.05) * bars[1:, 2]
    assert np.mean(np.abs(quantity[quantity != 0]) >= 0.999 * limit[quantity != 0]) > 0.1


LIQUIDATING = {**EVERY_COST, "max_leverage": 2.0, "maintenance_margin": 0.46, "participation_limit": 0.5}
DISPLACING = {"transient_impact": 0.02, "transient_half_life": 1.0, "permanent_impact": 0.01}  # 2^-1 is exact


@pytest.mark.parametrize(
    "rule",
    [
        FillRule(),
        FillRule(unfilled="drop"),
        FillRule(latency_bars=3),
        FillRule(latency_bars=2, unfilled="drop"),
        FillRule(fill_price="decision_close"),
        FillRule(displacement=True),
        FillRule(latency_bars=2, displacement=True),
    ],
)
def test_in_float64_every_column_equals_the_ledger_through_liquidations(rule):
    n_bars = 1500
    bars = random_bars(1, n_bars, 3, volatility=0.015)
    weights, hold = random_decisions(1, n_bars, 3)
    with jax.enable_x64(True):
        double = [jnp.asarray(x, jnp.float64) for x in (bars, 2.5 * weights)]
        costs = basic_costs(**LIQUIDATING, **(DISPLACING if rule.displacement else {}))
        portfolios, fills, ledger = run_both(*double, jnp.asarray(hold), costs, rule)
        portfolios, fills = as_float64(portfolios), as_float64(fills)
        assert jax.tree.leaves(portfolios)[0].dtype == np.float64
    assert 2 < np.sum(fills.liquidated) < 100
    np.testing.assert_array_equal(fills.liquidated, ledger["liquidated"])
    scale = np.max(np.abs(ledger["equity"]))
    np.testing.assert_allclose(portfolios.equity, ledger["equity"], rtol=1e-11, atol=1e-12 * scale)
    np.testing.assert_allclose(fills.financing, ledger["financing"], rtol=1e-9, atol=1e-12 * scale)
    np.testing.assert_allclose(fills.quantity, ledger["quantity"], rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(portfolios.shares, ledger["shares"], rtol=1e-9, atol=1e-7)
    paid = fills.costs.commission + fills.costs.spread + fills.costs.slippage + fills.costs.impact
    np.testing.assert_allclose(paid, ledger["paid"], rtol=1e-8, atol=1e-12 * scale)


VECTORBT_COSTS = {
    "commission_bps": 2.0,
    "commission_per_share": 0.004,
    "spread_multiplier": 1.5,
    "slippage": 0.05,
    "impact": 0.7,
    "participation_limit": 0.1,
    "max_leverage": 0.5,  # vectorbt never borrows
    "borrow_rate": 0.0,
    "margin_rate": 0.0,
}


def vectorbt_value(vectorbt, bars, fills, costs):
    """Equity `[T - 1]` and order records of vectorbt for the fills that our run produced."""
    pandas = pytest.importorskip("pandas")
    opened, close, _, half_spread, volatility, volume, _ = np.moveaxis(np.asarray(bars[1:], np.float64), 1, 0)
    quantity = np.asarray(fills.quantity, np.float64)
    impact = costs["impact"] * 2 / 3 * volatility * np.sqrt(np.abs(quantity) / volume)
    adverse = costs["spread_multiplier"] * half_spread + costs["slippage"] * volatility + impact
    result = vectorbt.Portfolio.from_orders(
        pandas.DataFrame(close),
        size=quantity,
        price=opened,
        slippage=adverse,
        fees=costs["commission_rate"] / (1 + np.sign(quantity) * adverse),  # vectorbt's are on the price after slippage
        fixed_fees=costs["commission_per_share"] * np.abs(quantity),
        init_cash=INITIAL_CASH,
        cash_sharing=True,
        group_by=True,
        call_seq="auto",
        freq="1D",
    )
    return result.value().to_numpy(), result.orders.records


@pytest.mark.parametrize(("x64", "tolerance"), [(False, 5e-7), (True, 1e-12)])
def test_fill_by_fill_equal_to_vectorbt(x64, tolerance):
    vectorbt = pytest.importorskip("vectorbt")
    n_bars, n_assets = 400, 4
    bars = random_bars(2, n_bars, n_assets, volatility=0.01, depth=2e5)
    weights, hold = random_decisions(2, n_bars, n_assets, hold=0.5)
    with jax.enable_x64(x64):
        dtype = jnp.float64 if x64 else jnp.float32
        costs = basic_costs(**VECTORBT_COSTS)
        arrays = (jnp.asarray(bars, dtype), jnp.asarray(weights, dtype), jnp.asarray(hold))
        portfolios, fills, _ = run_account(*arrays, costs, INITIAL_CASH, FillRule())
        portfolios, fills = as_float64(portfolios), as_float64(fills)
    value, orders = vectorbt_value(vectorbt, bars, fills, costs_as_floats(costs))
    error = relative_error(portfolios.equity, value)
    print(f"vectorbt, {'float64' if x64 else 'float32'}: relative equity error {error:.1e} over {len(orders)} fills")
    assert error < tolerance
    # Every fill, in vectorbt's order: bar by bar, and its fees and adverse prices.
    filled = fills.quantity != 0
    assert len(orders) == filled.sum() > 500
    np.testing.assert_array_equal(np.sort(orders["idx"] * n_assets + orders["col"]), np.flatnonzero(filled))
    rows, columns = orders["idx"], orders["col"]
    size = np.where(orders["side"] == 0, 1, -1) * orders["size"]
    np.testing.assert_allclose(size, fills.quantity[rows, columns], rtol=1e-12)
    mid = np.asarray(bars[1:, 0], np.float64)[rows, columns]
    paid = size * (orders["price"] - mid) + orders["fees"]
    total = fills.costs.commission + fills.costs.spread + fills.costs.slippage + fills.costs.impact
    np.testing.assert_allclose(total[rows, columns], paid, rtol=1e-9 if x64 else 1e-6)
    assert portfolios.shares.min() < 0 < portfolios.shares.max()
