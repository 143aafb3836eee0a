"""Fills and equity against nautilus_trader, event by event: orders of a run on real prices, and exported paths."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from tiny_run import tiny_config

import jaxppo
from jaxppo.backtest import conditions_of, load_run, plain_conditions, simulate, write_ledger
from jaxppo.envs.execution.bars import Bar
from jaxppo.envs.execution.costs import basic_costs
from jaxppo.envs.execution.fill_rule import FillRule
from jaxppo.envs.execution.portfolio import open_portfolio, step
from jaxppo.envs.market.market_data import slice_bars
from jaxppo.monte_carlo import Stress, run_paths
from jaxppo.policy.rules import trend

COMMISSION_BPS, CASH, LATENCY_BARS, N_BARS = 3.0, 1e6, 2, 120
COSTS = {
    "commission_bps": COMMISSION_BPS,
    "spread_multiplier": 0.0,
    "slippage": 0.0,
    "impact": 0.0,
    "participation_limit": None,
    "borrow_rate": 0.0,
    "margin_rate": 0.0,
    "max_leverage": 2.0,  # never reached: nautilus_trader fills whole orders
}
PRICES = ("open", "high", "low", "close")


@pytest.fixture(scope="module")
def keep_account():
    pytest.importorskip("nautilus_trader")
    import nautilus_account

    return nautilus_account.keep_account


@pytest.fixture(scope="module")
def run(keep_account, tmp_path_factory):
    """A run on stocks that ship with the package, which trade in every bar of its test; it has hardly learned."""
    folder = tmp_path_factory.mktemp("runs") / "stocks"
    data = {"path": "us5_1d", "symbols": ["AAPL", "GOOG", "IBM", "MSFT"], "train": 0.6, "validation": 0.2}
    jaxppo.train(tiny_config(data=data, costs=COSTS, training={"steps": 128}), output=folder)
    return load_run(folder, overrides=["--env.latency_bars", str(LATENCY_BARS)])


def bars_of(market, first, n_bars):
    """Prices `[n_bars + 1, A]` float64 from bar `first` on, by name."""
    return {name: np.asarray(getattr(market, name)[first : first + n_bars + 1], np.float64) for name in PRICES}


def equity_in_float64(bars, orders, latency_bars):
    """`[n]` equity at each close by the accounting function, in float64."""
    with jax.enable_x64(True):
        costs = basic_costs(commission_bps=COMMISSION_BPS, max_leverage=2.0)
        costs = costs.replace(commission_rate=jnp.float64(COMMISSION_BPS * 1e-4))
        opened, close, orders = (jnp.asarray(x, jnp.float64) for x in (bars["open"], bars["close"], orders))
        rule, infinite, nothing = FillRule(latency_bars), jnp.full(orders.shape[1], jnp.inf), jnp.zeros(orders.shape[1])

        @jax.jit
        def run(opened, close, orders):
            def live(account, now):
                at_open, at_close, order = now
                bar = Bar(at_open, at_close, infinite, nothing, nothing, infinite, nothing)
                account, _ = step(account, order, bar, costs, rule)
                return account, account.equity

            return jax.lax.scan(live, open_portfolio(close[0], CASH, rule), (opened[1:], close[1:], orders))[1]

        return np.asarray(run(opened, close, orders))


def bounds(kept, bars):
    """How far equity `[n]` may be off: by the decimals of nautilus_trader with float64, and by float32.

    A price, a number of shares and an amount of money are each off by at most half a unit of the last of 12 decimals:
    a fill of `q` shares at `p` moves equity by at most `|q| + p + 2` such halves, the marks of a position by as many as
    it has shares, and money by another two. Roundings of arithmetic are taken to have a mean of 0, so that k of them
    grow with the root of k (Higham and Mary 2019): in units of the unit roundoff, those of a bar of A assets are of at
    most A + 6 operations on its profit, and those of a position of as many as it has had fills.
    """
    moves = np.abs(np.diff(bars["close"], axis=0)) + 2 * np.abs(bars["open"][1:] - bars["close"][:-1])
    traded, at = (np.zeros_like(moves) for _ in range(2))
    fills = kept.fills
    traded[fills.bar - 1, fills.asset], at[fills.bar - 1, fills.asset] = fills.filled, fills.price
    shares, count = np.abs(np.cumsum(traded, axis=0)), np.cumsum(traded != 0, axis=0)
    largest = np.maximum.accumulate(shares, axis=0)
    reach = np.maximum.accumulate(bars["close"][1:], axis=0) - np.minimum.accumulate(bars["close"][1:], axis=0)
    profit = np.sqrt(np.cumsum((largest * moves).sum(axis=1) ** 2)) * (moves.shape[1] + 6)
    drift = (np.sqrt(count) * largest * (reach + moves)).sum(axis=1)
    decimals = 0.5e-12 * (np.cumsum((np.abs(traded) + at + 2 * (traded != 0)).sum(axis=1)) + 2 * shares.sum(axis=1))
    arithmetic = 4 * (np.abs(kept.equity) + profit + drift)
    return decimals + 2.0**-53 * arithmetic, 2.0**-24 * arithmetic


def check(kept, bars, filled, price, equity, exact):
    """Every fill, of `[n, A]` shares at `[n, A]` prices, and equity `[n]`, that of float32 and that of float64."""
    bar, asset = np.nonzero(filled)
    fills = kept.fills.sort_values(["bar", "asset"], ignore_index=True)
    np.testing.assert_array_equal(fills[["bar", "asset"]], np.stack([bar + 1, asset], axis=1))
    np.testing.assert_array_equal(np.sign(fills.filled), np.sign(filled[bar, asset]))
    np.testing.assert_allclose(fills.filled, filled[bar, asset], rtol=1e-15, atol=1e-12)
    np.testing.assert_allclose(fills.price, price[bar, asset], rtol=1e-15, atol=1e-12)
    in_float64, in_float32 = bounds(kept, bars)
    errors = np.abs(exact - kept.equity), np.abs(equity - kept.equity)
    for name, error, bound in zip(("float64", "float32"), errors, (in_float64, in_float32), strict=True):
        largest = np.max(error / np.abs(kept.equity)), np.max(bound / np.abs(kept.equity))
        print(f"nautilus_trader, {len(fills)} fills: {name} equity error {largest[0]:.1e}, bound {largest[1]:.1e}")
        assert (error <= bound).all()
    assert in_float64.max() < 1e-11 * CASH
    assert in_float32.max() < 1e-5 * CASH


@pytest.mark.parametrize("name", ["agent", "trend"])
def test_orders_on_real_prices(name, run, keep_account):
    """Of the run, and of a rule whose positions change sides."""
    period = run.setup.periods["test"]
    agent, conditions, first, n_bars = run.agent(), conditions_of(run), period.first, period.n_bars
    if name == "trend":
        rule = trend(lookback=20, span=20, volatility=0.3)
        given = {
            "costs": basic_costs(**COSTS),
            "fill_rule": FillRule(LATENCY_BARS),
            "initial_cash": CASH,
        }
        agent, conditions = rule, plain_conditions(run.setup.market.n_assets, periods=252.0, **given)
    market = slice_bars(run.setup.market, 0, period.last + 1)
    ledger = simulate(agent, market, first=first, n_bars=n_bars, conditions=conditions).ledger
    bars, orders = bars_of(market, first, n_bars), np.asarray(ledger.ordered, np.float64)
    kept = keep_account(bars, orders, cash=CASH, commission_rate=COMMISSION_BPS * 1e-4, latency_bars=LATENCY_BARS)
    exact = equity_in_float64(bars, orders, LATENCY_BARS)
    check(kept, bars, np.asarray(ledger.quantity), np.asarray(ledger.price), np.asarray(ledger.equity)[1:], exact)
    paid = kept.fills.groupby("bar").commission.sum().reindex(range(1, n_bars + 1), fill_value=0.0)
    np.testing.assert_allclose(paid, ledger.costs.commission, rtol=1e-6, atol=1e-9)
    assert len(kept.fills) > n_bars / 2
    side = np.sign(ledger.shares)
    assert (side[1:] * side[:-1] < 0).any() == (name == "trend")


@pytest.fixture(scope="module")
def paths(run):
    stress = Stress(latency=(1, LATENCY_BARS))
    return run_paths(run, n_bars=N_BARS, seed=11, stress=stress, devices=jax.devices()[:1])


def test_exported_paths(paths, keep_account, tmp_path):
    """A path of each latency, from the files that it is exported to."""
    found = set()
    for path in range(8):
        replay = paths.replay(path)
        write_ledger(tmp_path / str(path), replay.ledger, replay.market, replay.first)
        rows = pd.read_parquet(tmp_path / str(path) / "ledger.parquet")
        account = pd.read_parquet(tmp_path / str(path) / "account.parquet")
        ordered, filled, price = (
            rows.pivot(index="bar", columns="symbol", values=name)[list(paths.symbols)].to_numpy(np.float64)
            for name in ("ordered", "filled", "price")
        )
        latency = int(np.argmax(filled.any(axis=1)) - np.argmax(ordered.any(axis=1))) + 1
        if latency in found:
            continue
        bars = bars_of(replay.market, replay.first, N_BARS)
        kept = keep_account(bars, ordered, cash=CASH, commission_rate=COMMISSION_BPS * 1e-4, latency_bars=latency)
        check(kept, bars, filled, price, account.equity.to_numpy(np.float64), equity_in_float64(bars, ordered, latency))
        assert len(kept.fills) > N_BARS
        found.add(latency)
    assert found == {1, LATENCY_BARS}
