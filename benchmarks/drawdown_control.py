"""Drawdown control on 100,000 simulated and 100,000 resampled paths: what ends up below the floor, and why.

    python -m benchmarks.drawdown_control PRICES [--calendar XNYS] [--paths 100000] [--bars 250] [--batch 2000]

Agents trade through the accounting of `TradingEnv` with costs, at up to twice the equity: one at random (holding half
of the time), one that is always long with everything, and one that sees the next bar and bets against it; each with and
without control. Paths are a diffusion with stochastic volatility and jumps (four assets, daily), and the bars of PRICES
in blocks of 20 on average.

What a gap is, and what it may cost, is reckoned from the paths and the positions by code that shares nothing with the
control: for each bar of an asset, the position at its fill times what the prices moved against it beyond `m` until the
asset's next open, by the three moves that the control's docstring names. `excess` is how far the equity ever came below
the floor, as a fraction of the peak; `excess_over_gaps` its ratio to the sum of those gap losses, and of costs beyond
the reserve: of trading an asset, with the financing of that bar per exposure. A path has missed fills if an order to
reduce was not filled in full though the asset had a bar; what they lead to is counted apart. Paths are shared by all
devices: XLA_FLAGS=--xla_force_host_platform_device_count=2 makes two of two cores.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.recording import record
from jaxppo import envs
from jaxppo.envs import simulators
from jaxppo.envs.execution.bars import pack_bars
from jaxppo.envs.execution.costs import Costs, make_costs
from jaxppo.envs.execution.portfolio import open_portfolio
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.simulators.bootstrap import block_bootstrap
from jaxppo.envs.trading.account import Account, BarRow
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.view import MarketView
from jaxppo.risk import sizing

LIMIT, MOVE, LEVERAGE, CASH = 0.08, 0.05, 2.0, 1e6
RESERVES = {"stochastic volatility and jumps": 0.002, "blocks of real bars": 0.012}
"""Reserve for the costs of trading. Half-spreads that are estimated from real bars reach 0.9 %."""
BREACH = 1e-5
"""Fraction of the peak below the floor that counts as a breach: more than float32 rounds."""
QUANTILES = (0.5, 0.9, 0.99, 0.999, 1.0)


def trading_costs() -> Costs:
    """The defaults of a run, at twice the leverage and with margin for it."""
    return make_costs(
        commission_bps=1.0,
        slippage=0.02,
        impact=0.6,
        participation_limit=0.1,
        borrow_rate=0.01,
        margin_rate=0.05,
        max_leverage=LEVERAGE,
        maintenance_margin=0.1,
    )


def environment(n_assets: int, control: sizing.SizingTransform | None) -> TradingEnv:
    """Weights from -L to L in all assets together, with or without control."""
    return TradingEnv(
        start="flat",
        n_assets=n_assets,
        actions="continuous",
        levels=(-1.0, 1.0),
        position_limit=LEVERAGE / n_assets,
        observation="index",
        sizing=None if control is None else sizing.chain(control),
    )


def random_agent(key: jax.Array, market: MarketData, limit: float) -> tuple[jax.Array, jax.Array]:
    """Uniform targets, half of them held. Consumes `key`."""
    key_target, key_hold = jax.random.split(key)
    shape = market.close.shape
    return jax.random.uniform(key_target, shape, minval=-limit, maxval=limit), jax.random.bernoulli(
        key_hold, 0.5, shape
    )


def long_agent(key: jax.Array, market: MarketData, limit: float) -> tuple[jax.Array, jax.Array]:
    """The largest long position, always."""
    del key
    return jnp.full(market.close.shape, limit), jnp.zeros(market.close.shape, bool)


def wrong_agent(key: jax.Array, market: MarketData, limit: float) -> tuple[jax.Array, jax.Array]:
    """The largest position against what the price will do between the two fills to come, which it sees."""
    del key
    ahead = jnp.concatenate([market.open[2:] / market.open[1:-1], jnp.ones((2, market.n_assets))])
    return jnp.where(ahead > 1.0, -limit, limit), jnp.zeros(market.close.shape, bool)


AGENTS = {"random": random_agent, "always long": long_agent, "always wrong": wrong_agent}


def follow(
    env: TradingEnv, market: MarketData, targets: jax.Array, hold: jax.Array, costs: Costs, reserve: float
) -> dict[str, jax.Array]:
    """One account through all bars: what it was at each close, `[T - 1]`, and each fill, `[T - 1, A]`.

    Args:
      env: the environment.
      market: `[T, A]` bars.
      targets: `[T, A]` weights decided at each close.
      hold: `[T, A]` assets left alone.
      costs: cost parameters.
      reserve: for costs, fraction of what is traded.
    """
    table = pack_bars(market)
    rows = () if env.sizing is None else env.sizing.table(MarketView(market, 252.0, env.position_limit))
    start = env.open_account(open_portfolio(market.close[0], CASH, env.fill_rule))

    def one_bar(account: Account, row: BarRow) -> tuple[Account, dict[str, jax.Array]]:
        account, result, _ = env.step_bar(lambda account, view, row: (*row.policy, None), account, row, costs)
        portfolio, after, fills = result.before, result.after, result.fills
        traded = jnp.abs(fills.quantity) * fills.price
        financed = fills.financing / jnp.maximum(jnp.sum(jnp.abs(portfolio.shares) * portfolio.price), 1.0)
        held = portfolio.shares + fills.quantity
        goal = held + after.unfilled
        line = {
            "equity": after.equity,
            "peak": after.peak_equity,
            "shares": held,
            "short_of": (jnp.abs(held) > jnp.abs(goal) * (1.0 + 1e-5)) & ~fills.liquidated,
            "overpaid": jnp.sum(jnp.maximum(fills.costs.total() - (reserve - financed) * traded, 0.0)),
            "liquidated": fills.liquidated,
        }
        return account, line

    tradable, rows, decided = jax.tree.map(lambda x: x[:-1], (market.tradable, rows, (targets, hold)))
    bars = BarRow(jnp.arange(market.n_bars - 1), table[1:], tradable, (), rows, decided)
    return jax.lax.scan(one_bar, start, bars)[1]


def gaps(market: MarketData, survived: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Beyond what is survived, per unit of a long and of a short position since the fill at each bar, `[T - 1, A]`.

    Args:
      market: `[T, A]`.
      survived: `[T, A]` moves, known at each close.
    """
    n_bars = market.n_bars
    rows = jnp.where(market.tradable, jnp.arange(n_bars)[:, None], n_bars)
    following = jax.lax.cummin(rows[1:], reverse=True)
    following = jnp.concatenate([following, jnp.full((1, market.n_assets), n_bars)])[1:]
    known = following < n_bars
    later = jnp.take_along_axis(market.open, jnp.minimum(following, n_bars - 1), axis=0)
    opened, closed, m = market.open[1:], market.close[1:], survived[:-1]
    later = jnp.where(known, later, closed)
    found = []
    for side in (1.0, -1.0):
        to_close = -side * (closed / opened - 1.0) - m
        to_open = -side * (later / opened - 1.0) - m
        from_close = (-side * (later / closed - 1.0) - m) * closed / opened
        worst = jnp.maximum(jnp.maximum(to_close, to_open), from_close)
        found.append(jnp.where(market.tradable[1:], jnp.maximum(worst, 0.0), 0.0))
    return found[0], found[1]


def audit(run: dict[str, jax.Array], market: MarketData, survived: jax.Array) -> dict[str, jax.Array]:
    """What became of one account, `[]` each; losses are fractions of the peak then."""
    long_gap, short_gap = gaps(market, survived)
    exposure = jnp.abs(run["shares"]) * market.open[1:]
    peak = run["peak"]
    gap_loss = jnp.sum(exposure * jnp.where(run["shares"] > 0, long_gap, short_gap), axis=-1) / peak
    drawdown = 1.0 - run["equity"] / peak
    return {
        "max_drawdown": jnp.max(drawdown),
        "excess": jnp.maximum(jnp.max(drawdown) - LIMIT, 0.0),
        "gap_loss": jnp.sum(gap_loss),
        "largest_gap_loss": jnp.max(gap_loss),
        "overpaid": jnp.sum(run["overpaid"] / peak),
        "missed": jnp.any(run["short_of"] & market.tradable[1:]),
        "liquidated": jnp.any(run["liquidated"]),
        "exposure": jnp.mean(jnp.sum(exposure, axis=-1) / jnp.maximum(run["equity"], 1.0)),
        "growth": jnp.log(jnp.maximum(run["equity"][-1], 1.0) / CASH),
    }


def batch(
    make: Callable[[jax.Array, Any], MarketData], control: bool, n_assets: int, reserve: float
) -> Callable[[jax.Array, Any], dict[str, dict[str, jax.Array]]]:
    """Compiled: keys `[n]` and what `make` draws from -> agent -> `audit` of each path. Consumes the keys."""
    limited = sizing.drawdown_control(LIMIT, move=MOVE, cost=reserve)
    env, costs = environment(n_assets, limited if control else None), trading_costs()

    def one(key: jax.Array, source: Any) -> dict[str, dict[str, jax.Array]]:
        key_market, key_agent = jax.random.split(key)
        market = make(key_market, source)
        survived = jnp.full(market.close.shape, MOVE)
        found = {}
        for name, agent in AGENTS.items():
            targets, hold = agent(key_agent, market, env.position_limit)
            found[name] = audit(follow(env, market, targets, hold, costs, reserve), market, survived)
        return found

    return jax.jit(jax.vmap(one, in_axes=(0, None)))


def summary(rows: dict[str, np.ndarray]) -> dict[str, Any]:
    """Counts and distributions over paths."""
    breach = rows["excess"] > BREACH
    gap, overpaid = rows["gap_loss"] > 0, rows["overpaid"] > 0
    missed = rows["missed"]
    innocent = ~gap & ~overpaid & ~missed
    others = breach & ~missed
    ratio = rows["excess"][others] / np.maximum(rows["gap_loss"] + rows["overpaid"], 1e-12)[others]
    return {
        "paths": len(breach),
        "without_gap": int(innocent.sum()),
        "breaches_without_gap": int((breach & innocent).sum()),
        "largest_drawdown_without_gap": float(rows["max_drawdown"][innocent].max()) if innocent.any() else None,
        "with_gap": int(gap.sum()),
        "breaches": int(breach.sum()),
        "with_costs_beyond_reserve": int(overpaid.sum()),
        "with_missed_fills": int(missed.sum()),
        "breaches_with_missed_fills": int((breach & missed).sum()),
        "largest_excess_over_gaps": float(ratio.max()) if len(ratio) else None,
        "excess_quantiles_of_breaches": _quantiles(rows["excess"][breach]),
        "max_drawdown_quantiles": _quantiles(rows["max_drawdown"]),
        "liquidated": int(rows["liquidated"].sum()),
        "mean_exposure": float(rows["exposure"].mean()),
        "mean_log_growth": float(rows["growth"].mean()),
    }


def spread_out(keys: jax.Array) -> jax.Array:
    """The same keys, shared by all devices."""
    return jax.device_put(keys, NamedSharding(Mesh(np.asarray(jax.devices()), ("paths",)), PartitionSpec("paths")))


def _quantiles(values: np.ndarray) -> dict[str, float]:
    return {f"{q:g}": float(np.quantile(values, q)) for q in QUANTILES} if len(values) else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prices")
    parser.add_argument("--calendar")
    parser.add_argument("--paths", type=int, default=100_000)
    parser.add_argument("--bars", type=int, default=250)
    parser.add_argument("--batch", type=int, default=2000)
    chosen = parser.parse_args()
    off_session = "keep" if chosen.calendar is None else "drop"
    source = envs.load_market(chosen.prices, calendar=chosen.calendar, on_off_session=off_session)
    makers = {
        "stochastic volatility and jumps": (
            lambda key, _: simulators.stochastic_volatility_jumps(key, chosen.bars, 4),
            4,
        ),
        "blocks of real bars": (lambda key, drawn: block_bootstrap(key, drawn, chosen.bars, 20.0), source.n_assets),
    }
    results: dict[str, Any] = {}
    started = time.perf_counter()
    for name, (make, n_assets) in makers.items():
        for control in (True, False):
            run = batch(make, control, n_assets, RESERVES[name])
            parts = []
            for number in range(-(-chosen.paths // chosen.batch)):
                keys = jax.random.split(jax.random.fold_in(jax.random.key(0), number), chosen.batch)
                parts.append(jax.device_get(run(spread_out(keys), source)))
            rows = jax.tree.map(lambda *xs: np.concatenate(xs)[: chosen.paths], *parts)
            label = f"{name}, {'control' if control else 'no control'}"
            results[label] = {agent: summary(found) for agent, found in rows.items()}
            print(label, round(time.perf_counter() - started), "s")
            for agent, figures in results[label].items():
                print("  ", agent, figures)
    settings = {"limit": LIMIT, "move": MOVE, "reserves": RESERVES, "leverage": LEVERAGE, "bars": chosen.bars}
    print(record("drawdown_control", {"settings": settings, "seconds": time.perf_counter() - started, **results}))


if __name__ == "__main__":
    main()
