"""Stop-losses, take-profits and trailing stops: against a loop in plain Python, and against backtesting.py."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxppo.envs.execution.bars import Bar
from jaxppo.envs.execution.costs import basic_costs
from jaxppo.envs.execution.exits import make_exits
from jaxppo.envs.execution.fill_rule import FillRule
from jaxppo.envs.execution.portfolio import open_portfolio, step

CASH, N_BARS, HALF_SPREAD = 1e6, 300, 1e-4
DISTANCES = ("stop_loss", "take_profit", "trailing_stop")
RULE = FillRule(exits=True)


def random_prices(seed: int, gaps: float = 0.012) -> pd.DataFrame:
    """Open, high, low and close of a walk with gaps and wide bars."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(0.012 * rng.standard_normal(N_BARS)))
    opened = np.concatenate([close[:1], close[:-1]]) * np.exp(gaps * rng.standard_normal(N_BARS))
    high = np.maximum(opened, close) * np.exp(0.006 * rng.random(N_BARS))
    low = np.minimum(opened, close) * np.exp(-0.006 * rng.random(N_BARS))
    columns = {"Open": opened, "High": high, "Low": low, "Close": close}
    return pd.DataFrame(columns, index=pd.bdate_range("2020-01-01", periods=N_BARS))


class Oracle:
    """One asset in plain Python: cash, shares, and what an exit needs."""

    def __init__(self, stop: float | None, goal: float | None, trail: float | None, wait: int):
        self.cash, self.shares, self.entry, self.best = CASH, 0.0, math.nan, math.nan
        self.stop, self.goal, self.trail, self.wait = stop, goal, trail, wait
        self.refused, self.closing, self.exits = 0, False, []

    def trade(self, shares: float, price: float) -> None:
        self.cash -= shares * price + abs(shares) * price * HALF_SPREAD
        self.shares += shares

    def exit_price(self, opened: float, high: float, low: float) -> float | None:
        """Where a position is closed in a bar; None where it is not."""
        long = self.shares > 0
        side = 1.0 if long else -1.0
        stops = [] if self.stop is None else [self.entry * (1 - side * self.stop)]
        stops += [] if self.trail is None else [self.best * (1 - side * self.trail)]
        stop = (max(stops) if long else min(stops)) if stops else None
        goal = None if self.goal is None else self.entry * (1 + side * self.goal)
        if stop is not None and (opened <= stop if long else opened >= stop):
            return opened
        if goal is not None and (opened >= goal if long else opened <= goal):
            return opened
        if stop is not None and (low <= stop if long else high >= stop):
            return stop
        if goal is not None and (high >= goal if long else low <= goal):
            return goal
        return None

    def live(self, order: float, opened: float, high: float, low: float, close: float, volume: float) -> float:
        """Goes through a bar, with `volume` shares that it takes at most; returns the equity."""
        left = volume
        if self.closing and self.shares:
            order = -self.shares
        elif self.refused > 0:
            order = 0.0
        fill = math.copysign(min(abs(order), left), order)
        before = self.shares
        if fill:
            self.trade(fill, opened)
            left -= abs(fill)
            if before * self.shares <= 0:
                self.entry = self.best = opened
            elif abs(self.shares) > abs(before):
                self.entry = (abs(before) * self.entry + abs(fill) * opened) / abs(self.shares)
        self.refused = max(self.refused - 1, 0)
        was_closing, self.closing = self.closing, False
        at = self.exit_price(opened, high, low) if self.shares else None
        if at is not None:
            closed = -math.copysign(min(abs(self.shares), max(left, 0.0)), self.shares)
            self.trade(closed, at)
            self.exits += [at] if closed else []
        if at is not None or was_closing:
            self.closing = self.shares != 0
            self.refused = 1 if self.closing else self.wait
        if self.shares:
            self.best = max(self.best, close) if self.shares > 0 else min(self.best, close)
        return self.cash + self.shares * close


@jax.jit
def account_of(costs, columns, orders, volume, half_spread):
    """Equity, positions and exits of `[T - 1, 1]` orders through the accounting function."""
    dtype = orders.dtype
    nothing, spread, infinite = (jnp.full(1, x, dtype) for x in (0.0, half_spread, jnp.inf))

    def live(account, now):
        (opened, high, low, close), order = now
        order = jnp.where(account.guard.blocked > 0, 0.0, order)  # as an account of the environment does
        bar = Bar(opened, close, jnp.full(1, volume, dtype), spread, nothing, infinite, nothing)
        account, fills = step(account, order, bar.replace(high=high, low=low), costs, RULE)
        return account, (account.equity, account.shares[0], fills.exited.quantity[0], fills.exited.price[0])

    start = open_portfolio(columns[0][0], CASH, RULE)
    return jax.lax.scan(live, start, (columns, orders))[1]


def ours(prices: pd.DataFrame, orders: np.ndarray, volume: float, half_spread: float, **exits) -> dict[str, np.ndarray]:
    """In float64: `account_of`, by name."""
    with jax.enable_x64(True):
        costs = basic_costs(max_leverage=50.0, maintenance_margin=0.0, participation_limit=1.0)
        costs = costs.replace(exits=make_exits(**exits))
        costs = jax.tree.map(lambda x: x.astype(jnp.float64), costs)
        exact = {name: jnp.asarray(exits[name], jnp.float64) for name in DISTANCES if exits.get(name) is not None}
        costs = costs.replace(exits=costs.exits.replace(**exact))
        columns = [jnp.asarray(prices[name].to_numpy())[1:, None] for name in ("Open", "High", "Low", "Close")]
        found = account_of(costs, columns, jnp.asarray(orders, jnp.float64)[:, None], volume, half_spread)
        return dict(zip(("equity", "shares", "exited", "at"), map(np.asarray, found), strict=True))


@given(
    seed=st.integers(0, 2**20),
    stop=st.none() | st.floats(0.005, 0.1),
    goal=st.none() | st.floats(0.005, 0.1),
    trail=st.none() | st.floats(0.005, 0.1),
    wait=st.integers(0, 4),
    volume=st.sampled_from([math.inf, 700.0]),
)
@settings(max_examples=40, deadline=None)
def test_equals_a_loop_in_plain_python(seed, stop, goal, trail, wait, volume):
    """Random orders with gaps, additions, flips, partial fills and waits."""
    stop = 0.02 if stop is None and goal is None and trail is None else stop
    prices, rng = random_prices(seed), np.random.default_rng(seed)
    orders = np.where(rng.random(N_BARS - 1) < 0.3, rng.integers(-1500, 1501, N_BARS - 1), 0).clip(-volume, volume)
    oracle, equity, shares = Oracle(stop, goal, trail, wait), [], []
    bars = prices[["Open", "High", "Low", "Close"]].to_numpy()[1:]
    for order, bar in zip(orders, bars, strict=True):
        equity.append(oracle.live(float(order), *bar, volume))
        shares.append(oracle.shares)
    distances = dict(zip(DISTANCES, (stop, goal, trail), strict=True))
    found = ours(prices, orders, volume, HALF_SPREAD, **distances, wait=wait)
    np.testing.assert_allclose(found["shares"], shares, atol=1e-6)
    np.testing.assert_allclose(found["equity"], equity, rtol=1e-10)
    np.testing.assert_allclose(found["at"][found["exited"] != 0], oracle.exits, rtol=1e-12)


def theirs(prices: pd.DataFrame, seed: int, stop: float, goal: float | None, trailing: bool):
    """Equity at each close and the orders `[T - 1]` of a strategy of backtesting.py that enters when it is flat.

    It is told the price of its entry, from which its exits are counted.
    """
    backtesting = pytest.importorskip("backtesting")
    rng, opens = np.random.default_rng((seed, 3)), prices["Open"].to_numpy()
    orders = np.zeros(N_BARS - 1)

    class Entries(backtesting.Strategy):
        def init(self):
            pass

        def next(self):
            t = len(self.data) - 1
            if t >= N_BARS - 1:
                return
            if not self.position and rng.random() < 0.5:
                side, size, entry = rng.choice([-1, 1]), int(rng.integers(1, 2000)), opens[t + 1]
                exits = {"sl": entry * (1 - side * stop)} | ({} if goal is None else {"tp": entry * (1 + side * goal)})
                (self.buy if side > 0 else self.sell)(size=size, **exits)
                orders[t] = side * size
            elif self.position and rng.random() < 0.05:
                orders[t] = -self.position.size
                self.position.close()
            elif trailing:
                for trade in self.trades:
                    level = self.data.Close[-1] * (1 - np.sign(trade.size) * stop)
                    trade.sl = max(trade.sl, level) if trade.is_long else min(trade.sl, level)

    run = backtesting.Backtest(prices, Entries, cash=CASH, spread=0.0).run()
    return run["_equity_curve"]["Equity"].to_numpy(), orders, run["_trades"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", [0, 1, 5])
@pytest.mark.parametrize(("goal", "trailing"), [(None, False), (0.04, False), (None, True), (0.05, True)])
def test_equals_backtesting(seed, goal, trailing):
    """Entries, stops, targets and trailing stops at random, to rounding.

    A bar that opens beyond the target and falls to the stop closes at the stop there, at its open here: none has both.
    """
    prices, stop = random_prices(seed, gaps=0.004), 0.03
    equity, orders, trades = theirs(prices, seed, stop, goal, trailing)
    name = "trailing_stop" if trailing else "stop_loss"
    found = ours(prices, orders, np.inf, 0.0, **{name: stop}, **({} if goal is None else {"take_profit": goal}))
    assert np.sum(found["exited"] != 0) >= 5
    assert len(trades) > 20
    np.testing.assert_allclose(found["equity"], equity[1:], rtol=1e-12)


def test_no_dust_is_left_for_an_exit_once_the_volume_is_used():
    """In float32, whatever the volume: a bar whose limit the fill at the open has used up takes nothing more."""
    n = 500
    volume = jnp.asarray(np.random.default_rng(0).uniform(1e3, 1e7, n), jnp.float32)
    costs = basic_costs(participation_limit=0.1, commission_minimum=1.0, max_leverage=1e3, maintenance_margin=0.0)
    costs = costs.replace(exits=make_exits(stop_loss=0.02))
    price, nothing = jnp.full(n, 100.0), jnp.zeros(n)
    bar = Bar(price, price * 0.9, volume, nothing, nothing, jnp.full(n, jnp.inf), nothing)
    start = open_portfolio(price, 1e12, RULE)
    after, fills = step(start, volume, bar.replace(high=price, low=price * 0.9), costs, RULE)
    assert (np.asarray(fills.quantity) > 0).all()
    np.testing.assert_array_equal(fills.exited.quantity, 0.0)
    np.testing.assert_array_equal(after.guard.blocked, 1.0)
