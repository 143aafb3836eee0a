"""What cash earns: compound interest, the right sign, and nothing where nothing is asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_accounts import as_float64, costs_as_floats, random_bars, random_decisions, run_account
from reference_ledger import run_ledger

from jaxppo.envs.execution.costs import basic_costs, make_costs
from jaxppo.envs.execution.fill_rule import FillRule

CASH = 1e6
RULE = FillRule()


def still(n_bars, years):
    """Bars `[T, 7, 2]` of two prices that never move, `years` apart."""
    bars = random_bars(0, n_bars, 2)
    bars[:, :2], bars[:, 2], bars[:, 6] = 50.0, 1e9, years
    return bars


def run(bars, weights, costs, hold=None):
    hold = np.zeros(weights.shape, bool) if hold is None else hold
    with jax.enable_x64(True):
        double = [jnp.asarray(x, jnp.float64) for x in (bars, weights)]
        portfolios, fills, _ = run_account(*double, jnp.asarray(hold), costs, jnp.asarray(CASH, jnp.float64), RULE)
        return as_float64(portfolios), as_float64(fills)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_cash_earns_compound_interest(share):
    """At prices that stand still, cash that is not tied up in a long position grows by `1 + r dt` a bar."""
    years = np.float32(1 / 252)
    weights = np.tile([share, 0.0], (252, 1))
    hold = np.ones((252, 2), bool)
    hold[0] = False
    costs = basic_costs(spread_multiplier=0.0, cash_rate=0.05)
    portfolios, fills = run(still(253, years), weights, costs, hold)
    rate = float(np.float32(0.05)) * float(years)
    # The first bar of the account is all cash: its order fills after the interest.
    held = share * CASH
    cash = [CASH]
    for bar in range(252):
        cash.append(cash[-1] * (1 + rate) - (held if bar == 0 else 0.0))
    np.testing.assert_allclose(portfolios.equity, np.asarray(cash[1:]) + held, rtol=1e-12)
    if share == 0:
        assert portfolios.equity[-1] == pytest.approx(CASH * np.exp(0.05), rel=1e-5)
    np.testing.assert_allclose(fills.financing, -np.asarray(cash[:-1]) * rate, rtol=1e-9, atol=1e-9)


def test_it_is_paid_for_the_time_between_bars():
    years = np.where(np.arange(8) % 5 == 4, 3 / 365.25, 1 / 365.25)[:, None]
    _, fills = run(still(8, years), np.zeros((7, 2)), basic_costs(cash_rate=0.03))
    income = -fills.financing
    assert income[3] / income[2] == pytest.approx(3.0, rel=1e-3), "a weekend"


def test_borrowed_money_earns_nothing_and_short_proceeds_earn_the_rate_less_the_fee():
    costs = basic_costs(spread_multiplier=0.0, cash_rate=0.04, margin_rate=0.07, borrow_rate=0.01, max_leverage=2.0)
    years = np.float32(0.001)
    for weights, expected in (([1.5, 0.0], 0.5 * 0.07), ([-0.5, 0.0], 0.5 * 0.01 - 1.5 * 0.04)):
        _, fills = run(still(3, years), np.asarray([weights, weights]), costs, np.asarray([[0, 0], [1, 1]], bool))
        equity = CASH * (1 + 0.04 * 0.001)
        value = abs(weights[0]) * CASH
        cash = equity - np.sign(weights[0]) * value
        paid = value * 0.01 * (weights[0] < 0) + max(-cash, 0) * 0.07 - max(cash, 0) * 0.04
        assert fills.financing[1] == pytest.approx(paid * 0.001, rel=1e-5)
        assert fills.financing[1] / CASH == pytest.approx(expected * 0.001, rel=1e-2)


@pytest.mark.parametrize("seed", range(3))
def test_the_account_is_that_of_a_cash_ledger(seed):
    bars, (weights, hold) = random_bars(seed, 800, 3), random_decisions(seed, 800, 3)
    charged = {"commission_bps": 0.5, "impact": 0.02, "borrow_rate": 0.03, "margin_rate": 0.06, "cash_rate": 0.045}
    costs = basic_costs(participation_limit=0.05, max_leverage=2.0, **charged)
    portfolios, fills = run(bars, weights, costs, hold)
    ledger = run_ledger(bars, weights, hold, costs=costs_as_floats(costs), cash=CASH)
    np.testing.assert_allclose(portfolios.equity, ledger["equity"], rtol=1e-11)
    np.testing.assert_allclose(fills.financing, ledger["financing"], rtol=1e-9, atol=1e-6)
    assert ledger["financing"].min() < 0 < ledger["financing"].max()


def test_without_a_rate_the_program_is_the_one_before():
    """Whoever asks for no interest gets the same numbers to the last bit: nothing is computed."""
    assert make_costs().cash_rate == ()
    assert jax.tree.structure(make_costs(cash_rate=0.0)) == jax.tree.structure(make_costs())
    bars, (weights, hold) = random_bars(4, 30, 2), random_decisions(4, 30, 2)
    program = jax.jit(run_account.__wrapped__, static_argnames="rule")
    texts = [
        program.lower(bars, weights, hold, make_costs(cash_rate=rate), jnp.asarray(CASH), RULE).as_text()
        for rate in (0.0, 0.02)
    ]
    assert len(texts[1]) > len(texts[0])


def test_a_rate_outside_its_range_is_named():
    with pytest.raises(ValueError, match=r"cash_rate is -0.01; allowed: number in \[0"):
        make_costs(cash_rate=-0.01)
