"""Limit orders: against backtesting.py, against a walk through every bar in plain Python, and by hand."""

import copy
import math

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_accounts import random_bars, random_decisions, run_account

from jaxppo.envs.execution.bars import Bar
from jaxppo.envs.execution.costs import basic_costs
from jaxppo.envs.execution.exits import make_exits
from jaxppo.envs.execution.fill_rule import FillRule
from jaxppo.envs.execution.limit_orders import make_limit_orders
from jaxppo.envs.execution.portfolio import open_portfolio, outstanding, step

CASH, N_BARS, HALF_SPREAD = 1e6, 240, 2e-3


def random_prices(seed: int, gaps: float = 0.004) -> pd.DataFrame:
    """Open, high, low and close of a walk with gaps and wide bars."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(0.012 * rng.standard_normal(N_BARS)))
    opened = np.concatenate([close[:1], close[:-1]]) * np.exp(gaps * rng.standard_normal(N_BARS))
    high = np.maximum(opened, close) * np.exp(0.01 * rng.random(N_BARS))
    low = np.minimum(opened, close) * np.exp(-0.01 * rng.random(N_BARS))
    columns = {"Open": opened, "High": high, "Low": low, "Close": close}
    return pd.DataFrame(columns, index=pd.bdate_range("2020-01-01", periods=N_BARS))


def random_targets(seed: int, turns: bool = True) -> np.ndarray:
    """`[N_BARS - 1]` positions that are wanted from a close on, NaN where nothing is decided.

    Each differs from the one before; without turns all are long, or all are short.
    """
    rng = np.random.default_rng((seed, 1))
    targets, last = np.full(N_BARS - 1, np.nan), 0.0
    for t in range(1, N_BARS - 1):  # backtesting.py decides from the second close on
        if rng.random() < 0.5:
            target = float(rng.integers(1, 3000) * rng.choice([-1, 1])) if rng.random() < 0.7 else 0.0
            if not turns:
                target = abs(target) if seed % 2 else -abs(target)
            if target != last:
                targets[t] = last = target
    return targets


def live(account, target, bar, costs, rule):
    """Steps an account whose orders lead to a position; NaN leaves what is on order."""
    order = jnp.where(jnp.isnan(target), 0.0, target - account.shares - outstanding(account))
    if rule.exits:  # as an account of the environment does
        order = jnp.where(account.guard.blocked > 0, 0.0, order)
    return step(account, order, bar, costs, rule)


def ours(prices, targets, half_spread=0.0, volume=math.inf, exits=None, rule=None, **limits):
    """Equity, positions, fills and their prices `[T - 1]` through the accounting function, in float64."""
    rule = rule or FillRule(limit_orders=True, exits=exits is not None)
    with jax.enable_x64(True):
        costs = basic_costs(max_leverage=50.0, maintenance_margin=0.0, participation_limit=1.0)
        costs = costs.replace(limit_orders=make_limit_orders(**limits))
        if exits is not None:
            costs = costs.replace(exits=make_exits(**dict.fromkeys(exits, 0.1)))
        costs = jax.tree.map(lambda x: x.astype(jnp.float64), costs)
        offset = jnp.asarray(limits["offset"], jnp.float64)
        costs = costs.replace(limit_orders=costs.limit_orders.replace(offset=offset))
        if exits is not None:
            exact = {name: jnp.asarray(value or 0.0, jnp.float64) for name, value in exits.items()}
            costs = costs.replace(exits=costs.exits.replace(**exact))
        columns = [jnp.asarray(prices[name].to_numpy())[1:, None] for name in ("Open", "High", "Low", "Close")]
        found = account_of(costs, columns, jnp.asarray(targets), volume, half_spread, rule)
        return dict(zip(("equity", "shares", "filled", "at"), map(np.asarray, found), strict=True))


@jax.jit(static_argnames="rule")
def account_of(costs, columns, targets, volume, half_spread, rule):
    nothing, spread, infinite = (jnp.full(1, x, jnp.float64) for x in (0.0, half_spread, jnp.inf))

    def one(account, now):
        (opened, high, low, close), target = now
        bar = Bar(opened, close, jnp.full(1, volume, jnp.float64), spread, nothing, infinite, nothing)
        account, fills = live(account, target, bar.replace(high=high, low=low), costs, rule)
        return account, (account.equity, account.shares[0], fills.quantity[0], fills.price[0])

    start = open_portfolio(columns[0][0], CASH, rule)
    return jax.lax.scan(one, start, (columns, targets))[1]


def theirs(prices: pd.DataFrame, targets: np.ndarray, offset: float, carry: bool) -> np.ndarray:
    """Equity at each close of a strategy of backtesting.py with limit orders."""
    backtesting = pytest.importorskip("backtesting")

    class Limits(backtesting.Strategy):
        def init(self):
            pass

        def next(self):
            t = len(self.data) - 1
            target = targets[t] if t < len(targets) else np.nan
            if not carry or not np.isnan(target):
                for order in self.orders:
                    order.cancel()
            size, close = target - self.position.size, self.data.Close[-1]
            if size > 0:
                self.buy(size=size, limit=close * (1 - offset))
            elif size < 0:
                self.sell(size=-size, limit=close * (1 + offset))

    run = backtesting.Backtest(prices, Limits, cash=CASH, spread=0.0, margin=0.02).run()
    assert len(run["_trades"]) > 30
    return run["_equity_curve"]["Equity"].to_numpy()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("carry", [True, False])
@pytest.mark.parametrize("offset", [0.004, 0.0, -0.004])
def test_equals_backtesting(offset, carry):
    """Random positions worked by limit orders, to rounding; a price that touches the limit fills, as it does there."""
    rule = FillRule(limit_orders=True, unfilled="carry" if carry else "drop")
    for seed in range(4):
        prices, targets = random_prices(seed), random_targets(seed)
        found = ours(prices, targets, rule=rule, offset=offset, touch=True)
        reached = np.sum(found["filled"] != 0)
        assert 30 < reached < N_BARS
        np.testing.assert_allclose(found["equity"], theirs(prices, targets, offset, carry)[1:], rtol=1e-12)


class Walker:
    """One asset in plain Python, event by event along a path of prices through each bar."""

    def __init__(self, offset: float, stop: float | None, goal: float | None, trail: float | None):
        self.cash, self.shares, self.entry, self.best = CASH, 0.0, math.nan, math.nan
        self.offset, self.stop, self.goal, self.trail = offset, stop, goal, trail
        self.order, self.limit, self.close, self.paid = 0.0, math.nan, math.nan, 0.0

    def decide(self, target: float) -> None:
        """Replaces what rests."""
        if not math.isnan(target) and target - self.shares != self.order:
            self.order = target - self.shares
            self.limit = self.close * (1 - math.copysign(self.offset, self.order))
            if self.offset < 0:
                self.limit = self.close * (1 + math.copysign(-self.offset, self.order))

    def trade(self, shares: float, price: float, spread: float) -> None:
        self.cash -= shares * price + abs(shares) * spread
        self.paid += abs(shares) * spread
        before, self.shares = self.shares, self.shares + shares
        if before * self.shares <= 0:
            self.entry = self.best = price
        elif abs(self.shares) > abs(before):
            self.entry = (abs(before) * self.entry + abs(shares) * price) / abs(self.shares)

    def fill(self, price: float) -> None:
        self.trade(self.order, price, min(price * HALF_SPREAD, abs(self.limit - price)))
        self.order = 0.0

    def leave(self, price: float) -> None:
        self.trade(-self.shares, price, price * HALF_SPREAD)
        self.order = 0.0

    def levels(self) -> list[tuple[float, str]]:
        """Prices at which something happens, with the direction from which they are met."""
        found = [(self.limit, "down" if self.order > 0 else "up")] if self.order else []
        if self.shares:
            side, (worse, better) = math.copysign(1, self.shares), ("down", "up")
            worse, better = (worse, better) if side > 0 else (better, worse)
            found += [(self.entry * (1 - side * self.stop), worse)] if self.stop else []
            found += [(self.best * (1 - side * self.trail), worse)] if self.trail else []
            found += [(self.entry * (1 + side * self.goal), better)] if self.goal else []
        return found

    def met(self, price: float) -> bool:
        """Fills or leaves at a price, the order first; whether something happened."""
        if self.order and (price < self.limit if self.order > 0 else price > self.limit):
            self.fill(price)
            return True
        for level, way in self.levels()[bool(self.order) :]:
            if price <= level if way == "down" else price >= level:
                self.leave(price)
                return True
        return False

    def walk(self, path: list[float]) -> "Walker":
        """A copy that has gone from the open along a path to the close."""
        there = copy.copy(self)
        there.paid = 0.0
        while there.met(path[0]):
            pass
        now = path[0]
        for end in path[1:]:
            while True:
                way = "down" if end < now else "up"
                ahead = [level for level, of in there.levels() if of == way and min(now, end) <= level <= max(now, end)]
                if not ahead:
                    break
                now = max(ahead) if way == "down" else min(ahead)
                if there.order and [level for level, _ in there.levels() if level == now] == [there.limit]:
                    there.fill(now)
                else:
                    there.leave(now)
            now = end
        there.close = path[-1]
        if there.shares:
            there.best = max(there.best, now) if there.shares > 0 else min(there.best, now)
        return there

    @property
    def equity(self) -> float:
        return self.cash + self.shares * self.close


@given(
    seed=st.integers(0, 2**20),
    offset=st.floats(-0.01, 0.01),
    stop=st.none() | st.floats(0.003, 0.03),
    goal=st.none() | st.floats(0.003, 0.03),
    trail=st.none() | st.floats(0.003, 0.03),
)
@settings(max_examples=30, deadline=None)
def test_is_the_worse_of_both_walks_through_every_bar(seed, offset, stop, goal, trail):
    """To the low first and to the high first: with exits a bar takes the walk that leaves less before costs.

    Random orders that open, add to, reduce and close positions, but never turn one.
    """
    prices, targets = random_prices(seed), random_targets(seed, turns=False)
    stop = 0.02 if stop is None and goal is None and trail is None else stop
    exits = {"stop_loss": stop, "take_profit": goal, "trailing_stop": trail}
    walker, equity, shares = Walker(offset, stop, goal, trail), [], []
    walker.close = prices["Close"].iloc[0]
    bars = prices[["Open", "High", "Low", "Close"]].to_numpy()[1:]
    for target, (opened, high, low, close) in zip(targets, bars, strict=True):
        walker.decide(target)
        both = [walker.walk(path) for path in ([opened, low, high, close], [opened, high, low, close])]
        walker = min(both, key=lambda one: one.equity + one.paid)
        equity.append(walker.equity)
        shares.append(walker.shares)
    found = ours(prices, targets, half_spread=HALF_SPREAD, exits=exits, offset=offset)
    np.testing.assert_allclose(found["shares"], shares, atol=1e-6)
    np.testing.assert_allclose(found["equity"], equity, rtol=1e-10)


def bar_of(opened, high, low, close, **others):
    """A bar of one asset, of unlimited volume, with a half-spread of `HALF_SPREAD`."""
    values = {"open": opened, "high": high, "low": low, "close": close}
    nothing, infinite = jnp.zeros(1), jnp.full(1, jnp.inf)
    given = {name: jnp.full(1, value) for name, value in (values | others).items()}
    rest = {"available_volume": infinite, "half_spread": jnp.full(1, HALF_SPREAD), "volatility": nothing}
    return Bar(**rest | {"average_volume": infinite, "year_fraction": nothing} | given)


def costs_of(exits=None, **limits):
    made = basic_costs(max_leverage=50.0, maintenance_margin=0.0, commission_bps=1.0)
    return made.replace(limit_orders=make_limit_orders(**limits), exits=make_exits(**(exits or {})))


def at_100(rule, cash=CASH):
    return open_portfolio(jnp.full(1, 100.0), cash, rule)


RULE = FillRule(limit_orders=True)
stepped = jax.jit(step, static_argnames="rule")


@pytest.mark.parametrize(
    ("side", "bar", "touch", "price", "spread"),
    [
        (1, (100.0, 101.0, 98.9, 100.0), False, 99.0, 0.0),  # through the limit: the commission alone
        (1, (100.0, 101.0, 99.0, 100.0), False, None, 0.0),  # touched
        (1, (100.0, 101.0, 99.0, 100.0), True, 99.0, 0.0),
        (1, (98.0, 101.0, 97.0, 100.0), False, 98.0, 98.0 * HALF_SPREAD),  # a gap pays what a fill at the open pays
        (1, (98.9, 101.0, 97.0, 100.0), False, 98.9, 0.1),  # but never beyond the limit
        (-1, (100.0, 101.1, 99.0, 100.0), False, 101.0, 0.0),
        (-1, (100.0, 101.0, 99.0, 100.0), False, None, 0.0),
        (-1, (102.0, 103.0, 99.0, 100.0), False, 102.0, 102.0 * HALF_SPREAD),
    ],
)
def test_one_bar_by_hand(side, bar, touch, price, spread):
    after, fills = stepped(
        at_100(RULE), jnp.full(1, 10.0 * side), bar_of(*bar), costs_of(offset=0.01, touch=touch), RULE
    )
    if price is None:
        assert float(fills.quantity[0]) == 0
        assert float(after.unfilled[0]) == 10.0 * side
        assert float(after.equity) == CASH
        return
    assert float(fills.quantity[0]) == 10.0 * side
    assert float(fills.price[0]) == pytest.approx(price, rel=1e-6)
    assert float(fills.costs.spread[0]) == pytest.approx(10 * spread, rel=1e-4, abs=1e-9)
    assert float(fills.costs.commission[0]) == pytest.approx(10 * price * 1e-4, rel=1e-5)


def test_what_rests_keeps_its_limit_until_a_decision_replaces_it():
    costs, quiet = costs_of(offset=0.01), (110.0, 111.0, 109.0, 110.0)
    account, _ = stepped(at_100(RULE), jnp.full(1, 10.0), bar_of(*quiet), costs, RULE)
    held, fills = stepped(account, jnp.zeros(1), bar_of(109.5, 110.0, 98.0, 100.0), costs, RULE)
    assert float(fills.price[0]) == pytest.approx(99.0)
    assert float(held.shares[0]) == 10
    again, fills = stepped(account, jnp.full(1, 2.0), bar_of(109.5, 110.0, 98.0, 100.0), costs, RULE)
    assert float(fills.price[0]) == pytest.approx(110 * 0.99)
    assert float(again.shares[0]) == 12
    dropping = FillRule(limit_orders=True, unfilled="drop")
    account, _ = stepped(at_100(dropping), jnp.full(1, 10.0), bar_of(*quiet), costs, dropping)
    _, fills = stepped(account, jnp.zeros(1), bar_of(109.5, 110.0, 98.0, 100.0), costs, dropping)
    assert float(fills.quantity[0]) == 0


@pytest.mark.parametrize(
    ("late", "drawn"), [(2, None), (2, (False, True)), (2, (True, False)), (3, (False, True, False))]
)
def test_the_limit_is_that_of_the_decision_however_late_it_is_due(late, drawn):
    """With latencies that Monte Carlo draws as well."""
    rule = FillRule(latency_bars=late, limit_orders=True)
    costs = costs_of(offset=0.01).replace(latency=() if drawn is None else jnp.asarray(drawn))
    due = late if drawn is None else 1 + drawn.index(True)
    account, order = at_100(rule), jnp.full(1, 10.0)
    for bar in range(1, late + 1):
        account, fills = stepped(account, order, bar_of(99.5, 99.6, 98.0, 99.2), costs, rule)
        order = jnp.zeros(1)
        assert float(fills.quantity[0]) == (10.0 if bar == due else 0.0)
        if bar == due:
            assert float(fills.price[0]) == pytest.approx(99.0)


def test_an_urgent_order_and_one_of_an_asset_without_limits_fill_at_the_open():
    account = at_100(RULE)
    account = account.replace(resting=account.resting.replace(urgent=jnp.ones(1, bool)))
    quiet, costs = bar_of(105.0, 106.0, 104.0, 105.0), costs_of(offset=0.01)
    after, fills = stepped(account, jnp.full(1, 10.0), quiet, costs, RULE)
    assert float(fills.price[0]) == 105
    assert float(fills.costs.spread[0]) == pytest.approx(10 * 105 * HALF_SPREAD, rel=1e-5)
    assert not after.resting.urgent.any()
    named = costs.replace(limit_orders=make_limit_orders(offset={"B": 0.0}, symbols=("A", "B")))
    two = open_portfolio(jnp.full(2, 100.0), CASH, RULE)
    bar = jax.tree.map(lambda x: jnp.concatenate([x, x]), quiet)
    _, fills = stepped(two, jnp.full(2, 10.0), bar, named, RULE)
    np.testing.assert_array_equal(fills.quantity, [10.0, 0.0])


def test_what_an_urgent_order_finds_resting_goes_at_the_market_with_it():
    """A position whose sale rests is sold at the open once it has to go, though nothing more is ordered."""
    costs, quiet = costs_of(offset=0.01), bar_of(100.0, 100.5, 99.5, 100.0)
    account = at_100(RULE).replace(shares=jnp.full(1, 10.0))
    account, _ = stepped(account, jnp.full(1, -10.0), quiet, costs, RULE)
    assert float(account.shares[0]) == 10
    account = account.replace(resting=account.resting.replace(urgent=jnp.ones(1, bool)))
    account, fills = stepped(account, jnp.zeros(1), quiet, costs, RULE)
    assert float(fills.quantity[0]) == -10
    assert float(fills.price[0]) == 100


@pytest.mark.parametrize(("drawn", "urgent_at"), [((True, False), 1), ((False, True), 2)])
def test_an_urgent_order_is_as_late_as_others_and_is_one_order_alone(drawn, urgent_at):
    """What is ordered after it has a limit again."""
    rule, quiet = FillRule(latency_bars=2, limit_orders=True), bar_of(100.0, 100.5, 99.5, 100.0)
    costs, account = costs_of(offset=0.01).replace(latency=jnp.asarray(drawn)), at_100(rule)
    account = account.replace(resting=account.resting.replace(urgent=jnp.ones(1, bool)))
    for bar, order in enumerate((10.0, 5.0, 0.0, 0.0), start=1):
        account, fills = stepped(account, jnp.full(1, order), quiet, costs, rule)
        assert float(fills.quantity[0]) == (10.0 if bar == urgent_at else 0.0)
    assert float(account.unfilled[0]) == 5


def test_what_an_exit_has_left_is_closed_at_the_open_whatever_the_limit():
    rule, costs = FillRule(limit_orders=True, exits=True), costs_of({"stop_loss": 0.05}, offset=0.01)
    account = at_100(rule).replace(shares=jnp.full(1, 10.0))
    thin = bar_of(96.0, 97.0, 94.0, 96.0, available_volume=4.0)
    account, fills = stepped(account, jnp.zeros(1), thin, costs.replace(participation_limit=jnp.asarray(1.0)), rule)
    assert float(fills.exited.quantity[0]) == -4
    account, fills = stepped(account, jnp.zeros(1), bar_of(90.0, 90.1, 89.9, 90.0), costs, rule)
    assert float(fills.quantity[0]) == -6
    assert float(fills.price[0]) == 90


def test_a_position_takes_no_profit_in_the_bar_of_its_fill_unless_the_close_proves_it():
    rule, costs = (
        FillRule(limit_orders=True, exits=True),
        costs_of({"stop_loss": 0.02, "take_profit": 0.02}, offset=0.01),
    )
    for close, profit in ((100.0, False), (102.0, True)):
        _, fills = stepped(at_100(rule), jnp.full(1, 10.0), bar_of(100.0, 103.0, 98.5, close), costs, rule)
        assert (float(fills.exited.quantity[0]) == -10) is profit
        if profit:
            assert float(fills.exited.price[0]) == pytest.approx(99 * 1.02)
    stopped, fills = stepped(at_100(rule), jnp.full(1, 10.0), bar_of(100.0, 103.0, 97.0, 102.0), costs, rule)
    assert float(fills.exited.price[0]) == pytest.approx(99 * 0.98)
    assert float(stopped.shares[0]) == 0


def test_a_sale_inside_the_bar_pays_for_no_purchase_in_it():
    """One at the open does: what is sold later may be sold last."""
    costs = basic_costs(max_leverage=1.0).replace(limit_orders=make_limit_orders(offset=0.0))
    account = open_portfolio(jnp.full(2, 100.0), 1000.0, RULE).replace(shares=jnp.asarray([10.0, 0.0]))
    orders, column = jnp.asarray([-10.0, 10.0]), lambda *x: jnp.asarray(x, jnp.float32)
    nothing, infinite = jnp.zeros(2), jnp.full(2, jnp.inf)
    flat = (infinite, nothing, nothing, infinite, nothing)
    inside = Bar(column(99.0, 101.0), column(100.0, 100.0), *flat, high=column(102.0, 102.0), low=column(98.0, 98.0))
    at_open = inside.replace(open=column(101.0, 101.0))
    after, fills = stepped(account, orders, inside, costs, RULE)
    np.testing.assert_array_equal(fills.quantity, [-10.0, 0.0])
    np.testing.assert_array_equal(after.unfilled, [0.0, 10.0])
    _, fills = stepped(account, orders, at_open, costs, RULE)
    np.testing.assert_allclose(fills.quantity, [-10.0, 10.0], rtol=1e-6)


@pytest.mark.parametrize("unfilled", ["carry", "drop"])
@pytest.mark.parametrize("touch", [True, False])
def test_money_adds_up_and_no_fill_is_beyond_its_limit(unfilled, touch):
    """Four assets with every cost: a cash ledger in float64, limits, volumes and the leverage on the way."""
    n_bars, n_assets, offset, limit = 1500, 4, 0.004, 0.9
    with jax.enable_x64(True):
        bars = np.asarray(random_bars(3, n_bars, n_assets, volatility=0.01, depth=2e5), np.float64)
        rng = np.random.default_rng(5)
        reach = np.exp(0.006 * rng.random((2, n_bars, n_assets)))
        high, low = np.maximum(bars[:, 0], bars[:, 1]) * reach[0], np.minimum(bars[:, 0], bars[:, 1]) / reach[1]
        halted = bars[:, 2] == 0
        high, low = np.where(halted, bars[:, 1], high), np.where(halted, bars[:, 1], low)
        one, none = np.ones_like(high), np.zeros_like(high)
        table = np.concatenate([bars, np.stack([one, none, none, high, low], axis=1)], axis=1)
        weights, hold = random_decisions(3, n_bars, n_assets, hold=0.5)
        weights = np.abs(weights)  # never a turn: whatever comes first inside a bar, |position| is between the two
        made = basic_costs(
            commission_bps=2.0, commission_per_share=0.001, slippage=0.02, impact=0.3, participation_limit=0.1,
            max_leverage=limit, borrow_rate=0.0, margin_rate=0.0,
        )  # fmt: skip
        costs = made.replace(limit_orders=make_limit_orders(offset=offset, touch=touch))
        rule = FillRule(limit_orders=True, unfilled=unfilled)
        given = (jnp.asarray(table), jnp.asarray(weights, jnp.float64), jnp.asarray(hold))
        after, fills, ordered = jax.tree.map(np.asarray, run_account(*given, costs, CASH, rule))
    quantity, price, paid = fills.quantity, fills.price, fills.costs
    adverse = paid.spread + paid.slippage + paid.impact
    filled = quantity != 0
    assert filled.sum() > 500
    inside = filled & (price != table[1:, 0])
    assert 0.2 < inside.sum() / filled.sum() < 0.97
    # The cash that fills leave, and what positions are worth.
    cash = CASH - np.cumsum((quantity * price + adverse + paid.commission).sum(axis=1))
    np.testing.assert_allclose(np.cumsum(quantity, axis=0), after.shares, atol=1e-6)
    np.testing.assert_allclose(cash + (after.shares * table[1:, 1]).sum(axis=1), after.equity, rtol=1e-10)
    # Limits: those of the last decision that ordered something.
    close, side = bars[:-1, 1], np.sign(quantity)
    last = np.maximum.accumulate(np.where(ordered != 0, np.arange(n_bars - 1)[:, None], -1), axis=0)
    level = np.take_along_axis(close, np.maximum(last, 0), axis=0) * (1 - side * np.float64(np.float32(offset)))
    beyond = side * (price + side * adverse / np.where(filled, np.abs(quantity), 1) - level)
    assert beyond[filled].max() < 1e-9
    assert (np.abs(price[inside] / level[inside] - 1) < 1e-12).all()
    np.testing.assert_allclose(adverse[inside], 0.0, atol=1e-9)
    assert (paid.commission[filled] > 0).all()
    reached = np.where(side > 0, level - low[1:], high[1:] - level)
    assert (reached[filled] >= 0 if touch else reached[filled] > 0).all()
    assert (np.abs(quantity) <= 0.1 * table[1:, 2] * (1 + 1e-6)).all()
    # Before all sales inside the bar, with all purchases, the account is within its limit.
    before = np.vstack([np.zeros((1, n_assets)), after.shares[:-1]])
    worst = np.where(inside, np.maximum(before, after.shares), after.shares) * close
    equity = np.r_[CASH, after.equity[:-1]]
    adds = (quantity > 0).any(axis=1) & filled.any(axis=1)
    fits = before * close
    assert (worst.sum(axis=1)[adds] <= np.maximum(limit * equity * (1 + 1e-4), fits.sum(axis=1))[adds]).all()


def test_mistakes_are_named():
    for wrong, message in (
        ({"touch": True}, "touch is True, but there is no offset"),
        ({"offset": 0.7}, r"offset is 0\.7"),
        ({"offset": {"X": 0.01}, "symbols": ("A",)}, "offset has a value for X; the market has A"),
    ):
        with pytest.raises(ValueError, match=message):
            make_limit_orders(**wrong)
    for wrong, message in (
        ({"fill_price": "decision_close"}, "'decision_close' allows no limit orders"),
        ({"displacement": True}, "transient and permanent impact allow no limit orders"),
        ({"latency_bars": 2, "unfilled": "drop"}, "'drop' with latency_bars 2 allows no limit orders"),
    ):
        with pytest.raises(ValueError, match=message):
            FillRule(limit_orders=True, **wrong)
    with pytest.raises(ValueError, match=r"limit orders need FillRule\(limit_orders=True\)"):
        step(at_100(FillRule()), jnp.ones(1), bar_of(1.0, 1.0, 1.0, 1.0), costs_of(offset=0.0), FillRule())
