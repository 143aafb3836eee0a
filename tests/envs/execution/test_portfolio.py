"""The accounting function by hand: every rule on numbers small enough to check on paper."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxppo.envs.execution.bars import Bar
from jaxppo.envs.execution.costs import basic_costs
from jaxppo.envs.execution.fill_rule import FillRule
from jaxppo.envs.execution.portfolio import (
    Portfolio,
    cash,
    drawdown,
    open_portfolio,
    orders_to_target,
    outstanding,
    step,
    weights_of,
)

FREE = {"max_leverage": 2.0}
NEXT_OPEN = FillRule()


def bar(open_, close, *, volume=math.inf, half_spread=0.0, years=0.0) -> Bar:
    """A bar of as many assets as `close` has; conditions are the same for all but volume."""
    close = jnp.atleast_1d(jnp.asarray(close, jnp.float32))
    return Bar(
        open=jnp.broadcast_to(jnp.asarray(open_, jnp.float32), close.shape),
        close=close,
        available_volume=jnp.broadcast_to(jnp.asarray(volume, jnp.float32), close.shape),
        half_spread=jnp.full_like(close, half_spread),
        volatility=jnp.full_like(close, 0.02),
        average_volume=jnp.full_like(close, 1e6),
        year_fraction=jnp.full_like(close, years),
    )


def account(shares, price, equity: float, rule: FillRule = NEXT_OPEN) -> Portfolio:
    """A portfolio that holds `shares` `[A]` at marks `price` `[A]`, without orders on the way."""
    flat = open_portfolio(jnp.asarray(price, jnp.float32), equity, rule)
    return flat.replace(shares=jnp.asarray(shares, jnp.float32))


take = jax.jit(step, static_argnames="rule")
decide = jax.jit(orders_to_target)


def fill(portfolio, order, at, rule=NEXT_OPEN, **parameters):
    """One `step` with costs given as plain numbers."""
    order = jnp.atleast_1d(jnp.asarray(order, jnp.float32))
    return take(portfolio, order, at, basic_costs(**{**FREE, **parameters}), rule)


approx = functools.partial(pytest.approx, rel=1e-6, abs=1e-6)


def test_a_fill_at_the_next_open_earns_from_there():
    after, fills = fill(account([0], [50], 10_000), 100, bar(51, 53), commission_bps=10.0)
    assert (float(fills.quantity[0]), float(fills.price[0])) == (100, 51)
    assert float(after.equity) == approx(10_000 + 100 * 2 - 5.1)
    assert float(cash(after)) == approx(10_000 - 5_100 - 5.1)
    assert float(weights_of(after)[0]) == approx(5_300 / 10_194.9)


def test_a_held_position_earns_the_gap_too_and_a_reversal_each_side_its_own():
    after, _ = fill(account([100], [50], 10_000), -250, bar(52, 49))
    assert float(after.shares[0]) == -150
    assert float(after.equity) == approx(10_000 + 100 * 2 - 150 * -3)


def test_spread_slippage_and_impact_are_charged_on_both_sides():
    for side in (1.0, -1.0):
        trade = functools.partial(fill, account([0], [100], 1e7), side * 1e4, bar(100, 100, half_spread=1e-4))
        after, fills = trade(spread_multiplier=2.0, slippage=0.1, impact=0.6, commission_minimum=7.0)
        assert float(fills.costs.total()[0]) == approx(1e6 * 2e-4 + 1e6 * 0.002 + 800 + 7)
        assert float(after.equity) == approx(1e7 - 3007)


def test_decision_close_fills_at_the_price_already_seen():
    rule = FillRule(fill_price="decision_close")
    after, fills = fill(account([0], [50], 10_000, rule), 100, bar(51, 53), rule)
    assert float(fills.price[0]) == 50
    assert float(after.equity) == approx(10_300)


@pytest.mark.parametrize(("unfilled", "expected"), [("carry", [50, 50, 20, 0]), ("drop", [50, 0, 0, 0])])
def test_the_part_that_volume_does_not_allow_is_carried_or_dropped(unfilled, expected):
    rule = FillRule(unfilled=unfilled)
    portfolio, done, waiting = account([0], [10], 10_000, rule), [], []
    for order in (120, 0, 0, 0):
        portfolio, fills = fill(portfolio, order, bar(10, 10, volume=500), rule, participation_limit=0.1)
        done.append(float(fills.quantity[0]))
        waiting.append(float(outstanding(portfolio)[0]))
    assert done == expected
    assert waiting == ([70, 20, 0, 0] if unfilled == "carry" else [0, 0, 0, 0])


def test_each_part_of_a_carried_order_pays_the_minimum():
    portfolio, paid = account([0], [10], 10_000), 0.0
    for order in (120, 0, 0, 0):
        limits = {"participation_limit": 0.1, "commission_minimum": 3.0}
        portfolio, fills = fill(portfolio, order, bar(10, 10, volume=500), **limits)
        paid += float(fills.costs.total()[0])
    assert paid == 9
    assert float(portfolio.equity) == 9_991


def test_a_new_decision_replaces_what_is_still_being_worked():
    portfolio, _ = fill(account([0], [10], 10_000), 120, bar(10, 10, volume=500), participation_limit=0.1)
    order = decide(portfolio, jnp.zeros(1), jnp.array([False]), basic_costs(**FREE))
    assert float(order[0]) == -120
    after, fills = fill(portfolio, order, bar(10, 10, volume=500), participation_limit=0.1)
    assert (float(fills.quantity[0]), float(after.shares[0]), float(outstanding(after)[0])) == (-50, 0, 0)


def test_hold_leaves_the_working_order_alone():
    portfolio, _ = fill(account([0], [10], 10_000), 120, bar(10, 10, volume=500), participation_limit=0.1)
    order = decide(portfolio, jnp.ones(1), jnp.array([True]), basic_costs(**FREE))
    after, fills = fill(portfolio, order, bar(10, 10, volume=500), participation_limit=0.1)
    assert (float(order[0]), float(fills.quantity[0]), float(after.unfilled[0])) == (0, 50, 20)


def test_a_halt_fills_nothing_and_the_order_waits():
    halted, fills = fill(account([10], [50], 10_000), 100, bar(50, 50, volume=0))
    assert (float(fills.quantity[0]), float(fills.costs.total()[0]), float(halted.shares[0])) == (0, 0, 10)
    after, fills = fill(halted, 0, bar(60, 61))
    assert (float(fills.quantity[0]), float(after.shares[0])) == (100, 110)
    assert float(after.equity) == approx(10_000 + 10 * 10 + 110)


def test_latency_fills_at_the_open_of_the_third_bar():
    rule = FillRule(latency_bars=3)
    portfolio, done = account([0], [10], 10_000, rule), []
    for order, price in ((100, 11), (0, 12), (-30, 13), (0, 14), (0, 15)):
        portfolio, fills = fill(portfolio, order, bar(price, price), rule)
        done.append((float(fills.quantity[0]), float(fills.price[0])))
    assert done == [(0, 11), (0, 12), (100, 13), (0, 14), (-30, 15)]
    assert float(portfolio.equity) == approx(10_000 + 100 * 2)


def test_orders_on_the_way_are_not_sent_twice():
    rule, costs = FillRule(latency_bars=3), basic_costs(**FREE)
    portfolio, orders = account([0], [10], 10_000, rule), []
    for _ in range(5):
        order = decide(portfolio, jnp.array([0.5]), jnp.array([False]), costs)
        portfolio, _ = fill(portfolio, order, bar(10, 10), rule)
        orders.append(float(order[0]))
    assert orders == [500, 0, 0, 0, 0]
    assert float(portfolio.shares[0]) == 500


def test_borrow_fee_is_on_shorts_held_since_the_previous_bar():
    opened, fills = fill(account([0], [50], 10_000), -100, bar(50, 50, years=0.1), borrow_rate=0.1)
    assert float(fills.financing) == 0
    after, fills = fill(opened, 0, bar(60, 60, years=0.1), borrow_rate=0.1, margin_rate=0.5)
    assert float(fills.financing) == approx(5_000 * 0.1 * 0.1)
    assert float(after.equity) == approx(10_000 - 1_000 - 50)


def test_margin_interest_is_on_negative_cash():
    after, fills = fill(account([300], [50], 10_000), 0, bar(50, 50, years=0.5), margin_rate=0.05, borrow_rate=0.9)
    assert float(fills.financing) == approx(5_000 * 0.05 * 0.5)
    assert float(after.equity) == approx(9_875)


def test_short_proceeds_finance_a_long_position():
    after, fills = fill(account([300, -150], [50, 50], 10_000), [0, 0], bar(50, [50, 50], years=1.0), margin_rate=0.05)
    assert float(fills.financing) == 0
    assert float(after.equity) == 10_000


@pytest.mark.parametrize(
    ("shares", "weights", "hold", "leverage", "orders"),
    [
        ([0, 0], [1.0, -1.0], [0, 0], 2.0, [100, -100]),  # fits
        ([0, 0], [1.0, -1.0], [0, 0], 1.0, [50, -50]),  # both halved
        ([60, 0], [0.0, 0.8], [1, 0], 1.0, [0, 40]),  # 60 % is held, 40 % is left
        ([-60, 0], [0.0, 0.8], [1, 0], 1.0, [0, 40]),  # a held short uses leverage too
        ([120, 30], [0.0, 0.3], [1, 0], 1.0, [0, -30]),  # more than everything is held: the rest is closed
        ([120, 0], [0.2, 0.3], [0, 0], 1.0, [-100, 30]),  # a position that is not held does not count
    ],
)
def test_leverage_scales_what_is_not_held(shares, weights, hold, leverage, orders):
    portfolio = account(shares, [100, 100], 10_000)
    costs = basic_costs(max_leverage=leverage)
    order = decide(portfolio, jnp.array(weights), jnp.array(hold, bool), costs)
    np.testing.assert_allclose(order, orders, rtol=1e-6)


def test_what_is_on_its_way_for_a_held_asset_counts_as_held():
    portfolio = account([0, 0], [100, 100], 10_000).replace(unfilled=jnp.array([60.0, 0.0]))
    order = decide(portfolio, jnp.array([0.0, 0.8]), jnp.array([True, False]), basic_costs())
    np.testing.assert_allclose(order, [0, 40], rtol=1e-6)


def leveraged() -> Portfolio:
    """16 shares at 100 on an equity of 1000: cash -600, the maintenance margin of 25 % is reached at exactly 50."""
    return account([16], [100], 1000).replace(peak_equity=jnp.asarray(1200.0))


def test_equity_at_the_maintenance_margin_is_left_alone():
    after, fills = fill(leveraged(), 0, bar(80, 50))
    assert not fills.liquidated
    assert (float(after.equity), float(after.shares[0]), float(fills.liquidation[0])) == (200, 16, 0)
    assert float(drawdown(after)) == approx(1 - 200 / 1200)


def test_equity_below_the_maintenance_margin_is_liquidated_at_the_close():
    after, fills = fill(leveraged(), 5, bar(80, 49.9375, half_spread=1e-3), commission_bps=10.0, max_leverage=3.0)
    paid_at_open = 5 * 80 * 2e-3
    equity = 1000 + 16 * -20 + 21 * (49.9375 - 80) - paid_at_open
    paid_at_close = 21 * 49.9375 * 2e-3
    assert fills.liquidated
    assert (float(fills.quantity[0]), float(fills.liquidation[0]), float(after.shares[0])) == (5, -21, 0)
    assert float(fills.costs.total()[0]) == approx(paid_at_open + paid_at_close)
    assert float(after.equity) == approx(equity - paid_at_close)
    assert float(cash(after)) == approx(equity - paid_at_close)


def test_liquidation_cancels_every_order():
    rule = FillRule(latency_bars=3)
    portfolio = account([16], [100], 1000, rule).replace(unfilled=jnp.array([4.0]))
    portfolio, _ = fill(portfolio, 3, bar(100, 100, volume=0), rule)
    assert float(outstanding(portfolio)[0]) == 7
    after, fills = fill(portfolio, 2, bar(40, 40, volume=0), rule)
    assert fills.liquidated
    assert float(outstanding(after)[0]) == 0


def test_a_short_that_runs_away_is_liquidated():
    after, fills = fill(account([-10], [100], 1000), 0, bar(160, 160.5))
    assert fills.liquidated
    assert float(after.equity) == approx(1000 - 605)


def test_a_gap_through_zero_leaves_a_debt_that_is_kept_and_bears_interest():
    after, fills = fill(leveraged(), 0, bar(35, 30))
    assert fills.liquidated
    assert float(after.equity) == approx(-120)
    assert float(weights_of(after)[0]) == 0
    order = decide(after, jnp.ones(1), jnp.array([False]), basic_costs(**FREE))
    assert float(order[0]) == 0
    later, fills = fill(after, order, bar(30, 30, years=1.0), margin_rate=0.1)
    assert float(later.equity) == approx(-132)


def test_closing_in_parts_ends_flat_and_pays_no_commission_on_dust():
    """Amounts that float32 cannot add exactly: what rounding leaves is not held, not traded and not charged."""
    portfolio = account([1000.1], [33.3], 100_000)
    flat, costs = (
        jnp.zeros(1),
        basic_costs(participation_limit=0.1, commission_minimum=1.0, **FREE),
    )
    fills_made = 0
    for index in range(30):
        hold = jnp.array([index % 3 == 2])
        order = decide(portfolio, flat, hold, costs)
        portfolio, fills = take(portfolio, order, bar(33.3, 33.3, volume=771.3), costs, NEXT_OPEN)
        fills_made += int(fills.quantity[0] != 0)
    assert fills_made == 13  # 1000.1 / 77.13 = 12.97
    assert float(portfolio.shares[0]) == 0
    assert float(outstanding(portfolio)[0]) == 0
    assert float(portfolio.equity) == approx(100_000 - 13)


def test_a_cancelled_order_leaves_nothing_to_trade():
    portfolio = account([1000.1], [33.3], 100_000).replace(unfilled=jnp.array([333.33]))
    after, fills = fill(portfolio, -333.33, bar(33.3, 33.3), commission_minimum=1.0)
    assert (float(fills.quantity[0]), float(after.equity)) == (0, 100_000)
    assert float(after.shares[0]) == float(portfolio.shares[0])


def test_peak_equity_is_the_running_maximum():
    portfolio, seen = account([10], [100], 1000), []
    for price in (110, 90, 120, 100):
        portfolio, _ = fill(portfolio, 0, bar(price, price))
        seen.append((float(portfolio.peak_equity), float(drawdown(portfolio))))
    assert seen == [(1100, 0), (1100, approx(200 / 1100)), (1200, 0), (1200, approx(200 / 1200))]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latency_bars": 0}, "latency_bars is 0"),
        ({"unfilled": "keep"}, "unfilled is 'keep'"),
        ({"fill_price": "close"}, "fill_price is 'close'"),
        ({"fill_price": "decision_close", "latency_bars": 2}, "needs latency_bars 1"),
    ],
)
def test_bad_fill_rules_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        FillRule(**arguments)


def test_what_a_thin_market_did_not_sell_is_not_spent_again():
    """All of 1000 in A, rotate into B: A can sell 1 of 10 shares, so B gets 100 and not 1000."""
    portfolio, costs = account([10, 0], [100, 100], 1000), {"max_leverage": 1.0, "participation_limit": 0.1}
    order = decide(portfolio, jnp.array([0.0, 1.0]), jnp.zeros(2, bool), basic_costs())
    np.testing.assert_allclose(order, [-10, 10])
    after, fills = fill(portfolio, order, bar(100, [100, 100], volume=[10.0, 1e9]), **costs)
    np.testing.assert_allclose(fills.quantity, [-1, 1], rtol=1e-6)
    np.testing.assert_allclose(after.unfilled, [-9, 9], rtol=1e-6)
    assert float(jnp.sum(jnp.abs(weights_of(after)))) == approx(1.0)
    _, fills = fill(portfolio, order, bar(100, [100, 100]), **costs)
    np.testing.assert_allclose(fills.quantity, [-10, 10])


@pytest.mark.parametrize("shares", [10.0, -10.0])
def test_a_reduction_fills_whatever_the_leverage(shares):
    _, fills = fill(account([shares], [100], 100), -shares / 2, bar(100, 100), max_leverage=1.0, maintenance_margin=0.0)
    assert float(fills.quantity[0]) == -shares / 2
