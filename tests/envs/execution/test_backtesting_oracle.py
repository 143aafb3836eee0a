"""The accounting function against backtesting.py: one asset, whole shares, orders that fill at the next open."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from jaxppo.envs.execution.bars import Bar
from jaxppo.envs.execution.costs import basic_costs
from jaxppo.envs.execution.fill_rule import FillRule
from jaxppo.envs.execution.portfolio import open_portfolio, step

N_BARS, CASH = 400, 1e6
COSTS = {"commission_bps": 3.0, "commission_per_share": 0.01}


def random_prices(seed: int) -> pd.DataFrame:
    """Open, high, low and close of a walk with gaps."""
    generator = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(0.012 * generator.standard_normal(N_BARS)))
    opened = np.concatenate([close[:1], close[:-1]]) * np.exp(0.005 * generator.standard_normal(N_BARS))
    high, low = np.maximum(opened, close) * 1.001, np.minimum(opened, close) / 1.001
    columns = {"Open": opened, "High": high, "Low": low, "Close": close}
    return pd.DataFrame(columns, index=pd.bdate_range("2020-01-01", periods=N_BARS))


def random_orders(seed: int) -> np.ndarray:
    """`[N_BARS - 1]` whole shares decided at each close, of positions within 3,000 shares either way; many are 0."""
    generator = np.random.default_rng((seed, 1))
    targets = generator.integers(-3000, 3001, N_BARS - 1)
    changed = generator.random(N_BARS - 1) < 0.4
    changed[0] = False  # backtesting.py decides from the second close on
    latest = np.maximum.accumulate(np.where(changed, np.arange(N_BARS - 1), -1))
    position = np.where(latest < 0, 0, targets[np.maximum(latest, 0)])
    return np.diff(position, prepend=0).astype(np.float64)


def their_equity(backtesting, prices: pd.DataFrame, orders: np.ndarray) -> np.ndarray:
    """Equity at each close, `[N_BARS]`; the orders are whole shares, positive to buy."""

    class Orders(backtesting.Strategy):
        def init(self):
            pass

        def next(self):
            t = len(self.data) - 1
            size = orders[t] if t < len(orders) else 0
            if size > 0:
                self.buy(size=size)
            elif size < 0:
                self.sell(size=-size)

    def commission(size: float, price: float) -> float:
        return abs(size) * (price * COSTS["commission_bps"] * 1e-4 + COSTS["commission_per_share"])

    run = backtesting.Backtest(prices, Orders, cash=CASH, commission=commission)
    return run.run()["_equity_curve"]["Equity"].to_numpy()


def our_equity(prices: pd.DataFrame, orders: np.ndarray, dtype: jnp.dtype) -> np.ndarray:
    """Likewise, through `jaxppo.envs.execution.portfolio.step`."""
    opened, close = (jnp.asarray(prices[name].to_numpy(), dtype)[:, None] for name in ("Open", "Close"))
    costs = basic_costs(**COSTS, max_leverage=2.0)
    costs = costs.replace(commission_rate=jnp.asarray(3e-4, dtype), commission_per_share=jnp.asarray(0.01, dtype))

    @jax.jit
    def run(opened, close, orders):
        infinite, nothing = jnp.full(1, jnp.inf, dtype), jnp.zeros(1, dtype)

        def live(account, now):
            at_open, at_close, order = now
            bar = Bar(at_open, at_close, infinite, nothing, nothing, infinite, nothing)
            account, _ = step(account, order, bar, costs, FillRule())
            return account, account.equity

        start = open_portfolio(close[0], CASH, FillRule())
        return jax.lax.scan(live, start, (opened[1:], close[1:], orders))[1]

    return np.asarray(run(opened, close, jnp.asarray(orders, dtype)[:, None]), np.float64)


@functools.cache
def both(seed: int, x64: bool) -> tuple[np.ndarray, np.ndarray]:
    backtesting = pytest.importorskip("backtesting")
    prices, orders = random_prices(seed), random_orders(seed)
    with jax.enable_x64(x64):
        ours = our_equity(prices, orders, jnp.float64 if x64 else jnp.float32)
    return ours, their_equity(backtesting, prices, orders)[1:]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("x64", "tolerance"), [(True, 1e-13), (False, 1e-6)])
@pytest.mark.parametrize("seed", [0, 1])
def test_equity_equals_that_of_backtesting(seed, x64, tolerance):
    """In float64 to rounding, in float32 to a millionth."""
    ours, theirs = both(seed, x64)
    error = np.max(np.abs(ours / theirs - 1))
    print(f"backtesting.py, {'float64' if x64 else 'float32'}: relative equity error {error:.1e}")
    assert np.ptp(theirs) > 0.02 * CASH
    assert error < tolerance
