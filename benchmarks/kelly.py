"""Kelly sizing: growth with known parameters against the optimum, and out of sample with estimated ones.

    python -m benchmarks.kelly [--paths 10000] [--batch 500]

Accounts trade without costs through the accounting of `TradingEnv`; orders fill at the next open. With known
parameters three assets follow geometric Brownian motions; the growth per bar is measured with the return of the optimal
weights less its mean as a control variate, whose expectation is 0, and compared with `c (2 - c) theta^2 / 2`. With
estimated ones, each path draws the means of five assets (a Sharpe ratio of 1 a year in a random direction) and trades
for a year on estimates from the last two years, renewed every 21 bars; all estimators meet the same paths.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.drawdown_control import spread_out
from benchmarks.recording import record
from jaxppo.envs import simulators
from jaxppo.envs.execution.bars import pack_bars
from jaxppo.envs.execution.costs import basic_costs
from jaxppo.envs.execution.portfolio import open_portfolio
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.trading.account import Account, BarRow
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.view import MarketView
from jaxppo.risk import sizing

LEVELS = (-1.0, -0.5, 0.0, 0.5, 1.0)

PERIODS, LARGEST = 252, 200.0
VOLATILITY = {3: (0.01, 0.015, 0.02), 5: (0.008, 0.01, 0.012, 0.015, 0.02)}
CORRELATION, DRIFT = 0.4, (4e-4, 6e-4, 2e-4)
WINDOW, TRADED, EVERY, SHARPE = 504, 252, 21, 1.0
PLAIN = {"shrink": "none", "scale": "none"}
ESTIMATORS: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    "plain, half": {**PLAIN, "fraction": 0.5},
    "covariance shrunk": {**PLAIN, "shrink": "covariance"},
    "mean shrunk": {**PLAIN, "shrink": "mean"},
    "scaled, covariance unknown": {**PLAIN, "scale": "unknown"},
    "scaled, covariance known": {**PLAIN, "scale": "known"},
    "mean and covariance shrunk": {**PLAIN, "shrink": "both"},
    "all": {"scale": "known"},
    "all, half": {"scale": "known", "fraction": 0.5},
}


def moments(n_assets: int) -> np.ndarray:
    """Covariance `[A, A]` of log returns per bar."""
    deviation = np.asarray(VOLATILITY[n_assets])
    correlation = np.full((n_assets, n_assets), CORRELATION) + (1 - CORRELATION) * np.eye(n_assets)
    return correlation * np.outer(deviation, deviation)


def growth(market: MarketData, transform: sizing.SizingTransform) -> jax.Array:
    """Log growth `[T - 1]` per bar of an account that always wants the whole of the Kelly position."""
    n_assets = market.n_assets
    whole = sizing.chain(transform)
    env = TradingEnv(
        start="flat",
        levels=LEVELS,
        n_assets=n_assets,
        actions="continuous",
        position_limit=1.0,
        observation="index",
        sizing=whole,
    )
    costs = basic_costs(spread_multiplier=0.0, max_leverage=LARGEST, maintenance_margin=0.0)
    rows = whole.table(MarketView(market, PERIODS, env.position_limit))
    table = pack_bars(market)
    targets, nothing = jnp.ones(n_assets), jnp.zeros(n_assets, bool)
    start = env.open_account(open_portfolio(market.close[0], 1e6, env.fill_rule)).replace(
        liquidated=jnp.zeros((), bool)
    )

    def one_bar(account: Account, row: BarRow) -> tuple[Account, jax.Array]:
        after, result, _ = env.step_bar(lambda *_: (targets, nothing, None), account, row, costs)
        return after, jnp.where(account.liquidated, 0.0, result.outcome.log_growth)

    bars = jnp.arange(market.n_bars - 1)
    everywhere = jnp.ones((market.n_bars - 1, n_assets), bool)
    return jax.lax.scan(one_bar, start, BarRow(bars, table[1:], everywhere, (), jax.tree.map(lambda x: x[:-1], rows)))[
        1
    ]


def known(paths: int, at_once: int) -> dict[str, Any]:
    """fraction -> growth per year, its standard error, and the optimum."""
    covariance, drift = moments(3), np.asarray(DRIFT)
    mean = np.expm1(drift)
    # Of simple returns, which is what positions earn.
    simple = np.outer(1 + mean, 1 + mean) * np.expm1(covariance)
    optimal = np.linalg.solve(covariance, drift)
    best = 0.5 * drift @ optimal
    deviation = jnp.asarray(VOLATILITY[3])

    @jax.jit
    def some(keys: jax.Array) -> dict[str, jax.Array]:
        def one(key: jax.Array) -> dict[str, jax.Array]:
            market = simulators.gbm(
                key, 501, 3, drift=jnp.asarray(DRIFT), volatility=deviation, correlation=CORRELATION
            )
            change = market.close[1:] / market.close[:-1] - 1.0 - jnp.asarray(mean)[None]
            luck = change @ jnp.asarray(optimal)
            found = {}
            for fraction in (1.0, 0.5, 0.25):
                transform = sizing.kelly(fraction, moments=(mean, simple), max_leverage=LARGEST, tolerance=0.0)
                found[f"{fraction:g}"] = jnp.mean((growth(market, transform) - fraction * luck)[1:])
            return found

        return jax.vmap(one)(keys)

    rows = _batched(some, paths, at_once, seed=1)
    found = {}
    for name, values in rows.items():
        c = float(name)
        theory = c * (2 - c) * best
        found[name] = {
            "growth_per_year": float(values.mean() * PERIODS),
            "standard_error": float(values.std() / len(values) ** 0.5 * PERIODS),
            "optimal_growth_of_fraction": float(theory * PERIODS),
            "ratio": float(values.mean() / theory),
        }
    return {"sharpe_per_year": float((2 * best * PERIODS) ** 0.5), "leverage": float(optimal.sum()), "fractions": found}


def estimated(paths: int, at_once: int) -> dict[str, Any]:
    """estimator -> growth per year out of sample and the paired difference to plain Kelly."""
    covariance = moments(5)
    factor = jnp.asarray(np.linalg.cholesky(covariance))
    deviation = jnp.asarray(VOLATILITY[5])

    @jax.jit
    def some(keys: jax.Array) -> dict[str, jax.Array]:
        def one(key: jax.Array) -> dict[str, jax.Array]:
            key_mean, key_market = jax.random.split(key)
            direction = jax.random.normal(key_mean, (5,))
            drift = factor @ (direction / jnp.linalg.norm(direction)) * SHARPE / PERIODS**0.5
            n_bars = WINDOW + TRADED + 2
            market = simulators.gbm(key_market, n_bars, 5, drift=drift, volatility=deviation, correlation=CORRELATION)
            found = {}
            for name, options in ESTIMATORS.items():
                options = {"fraction": 1.0, "window": WINDOW, "every": EVERY, "max_leverage": LARGEST, **options}
                found[name] = jnp.sum(growth(market, sizing.kelly(tolerance=0.0, **options))[WINDOW:])
            return found

        return jax.vmap(one)(keys)

    rows = _batched(some, paths, at_once, seed=2)
    scale = PERIODS / (TRADED + 1)
    plain = rows["plain"]
    return {
        name: {
            "growth_per_year": float(values.mean() * scale),
            "median": float(np.median(values) * scale),
            "lowest_percent": float(np.quantile(values, 0.01) * scale),
            "more_than_plain": float((values - plain).mean() * scale),
            "standard_error": float((values - plain).std() / len(values) ** 0.5 * scale),
            "share_of_paths_above_plain": float((values > plain).mean()),
        }
        for name, values in rows.items()
    }


def _batched(some: Any, paths: int, at_once: int, seed: int) -> dict[str, np.ndarray]:
    """`some` of all keys, in batches; float64 `[paths]` each."""
    parts = []
    for number in range(-(-paths // at_once)):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), number), at_once)
        parts.append(jax.device_get(some(spread_out(keys))))
    return jax.tree.map(lambda *xs: np.concatenate(xs)[:paths].astype(np.float64), *parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paths", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=500)
    chosen = parser.parse_args()
    started = time.perf_counter()
    results = {"known": known(chosen.paths, chosen.batch)}
    print(results["known"], round(time.perf_counter() - started), "s")
    results["estimated"] = estimated(chosen.paths, chosen.batch)
    for name, row in results["estimated"].items():
        print(name, row)
    print(record("kelly", {"paths": chosen.paths, "seconds": time.perf_counter() - started, **results}))


if __name__ == "__main__":
    main()
