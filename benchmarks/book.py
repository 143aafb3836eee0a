"""Books of rules on real prices: each rule alone, equal capital, and capital with each of its parts on and off.

    python -m benchmarks.book PRICES [--first 0.2]

Everything trades from the same bar to the end of the file, at the same costs (1 basis point of commission, the
estimated half-spread, slippage of 5 % of a bar's volatility, square-root impact). The rules have their default
parameters, scaled to bars: nothing was chosen on these prices. Turnover is per year; CVaR is the mean of the worst 5 %
of the bars. `ci` is the 95 % interval of the Sharpe ratio, `difference_ci` that of its difference to equal capital, by
the stationary block bootstrap.
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

import jax
import numpy as np

from benchmarks.recording import record
from jaxppo import envs
from jaxppo.backtest.book import BookRun, run_book
from jaxppo.book import AllocationRule
from jaxppo.envs.market.periods import periods_per_year
from jaxppo.policy.protocol import Policy
from jaxppo.policy.rules import buy_and_hold, inverse_volatility, mean_reversion, trend
from jaxppo.risk import metrics
from jaxppo.statistics import bootstrap_difference_interval, bootstrap_interval, sharpe_per_bar

LEVELS = (-1.0, -0.5, 0.0, 0.5, 1.0)

COSTS = {"commission_bps": 1.0, "slippage": 0.05, "impact": 0.7, "borrow_rate": 0.005}
ALONE = {"parts": (), "cut": 1.0, "readmit": 0.0, "cooldown": None}
NO_CUT = {"cut": 1.0, "readmit": 0.0, "cooldown": None}
BOOKS: dict[str, dict[str, Any]] = {
    "equal capital": ALONE,
    "cut alone": {"parts": ()},
    "inverse risk": {"parts": ("inverse_risk",), **NO_CUT},
    "inverse risk, cut": {"parts": ("inverse_risk",)},
    "drawdown, cut": {"parts": ("drawdown",)},
    "Kelly, cut": {"parts": ("kelly",)},
    "inverse risk, drawdown, cut": {"parts": ("inverse_risk", "drawdown")},
    "inverse risk, Kelly, cut": {"parts": ("inverse_risk", "kelly")},
    "drawdown, Kelly, cut": {"parts": ("drawdown", "kelly")},
    "all": {},
}


def rules() -> tuple[Policy, ...]:
    """Four rules; the first is long only by nature, the others too where they can be."""
    return buy_and_hold(), trend(), mean_reversion(), inverse_volatility()


def figures(run: BookRun, reference: BookRun | None) -> dict[str, Any]:
    """Of a book's account."""
    returns, year = run.ledger.returns, run.periods
    own = run.summary()
    book = own["book"]

    def interval(key: jax.Array) -> list[float]:
        ends = bootstrap_interval(key, returns, sharpe_per_bar, level=0.95, n_resamples=2000)
        return [round(float(end) * year**0.5, 3) for end in ends]

    found = {
        "sharpe": book["sharpe"],
        "ci": interval(jax.random.key(0)),
        "annual_return": float(metrics.annual_return(returns, periods=year)),
        "volatility": book["volatility"],
        "max_drawdown": book["max_drawdown"],
        "cvar_95": float(metrics.conditional_value_at_risk(returns, level=0.95)),
        "turnover": book["turnover"],
        "allocation": book["allocation"],
        "allocations": book["allocations"],
        "cuts": book["cuts"],
        "mean_allocation": {name: own[name]["allocation"] for name in run.names},
    }
    if reference is not None:
        ends = bootstrap_difference_interval(
            jax.random.key(1), returns, reference.ledger.returns, sharpe_per_bar, level=0.95, n_resamples=2000
        )
        found["difference_ci"] = [round(float(end) * year**0.5, 3) for end in ends]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prices")
    parser.add_argument("--first", type=float, default=0.2, help="share of the bars before the first decision")
    chosen = parser.parse_args()
    market = envs.load_market(chosen.prices, on_bad_rows="drop")
    env = envs.TradingEnv(
        start="flat",
        levels=LEVELS,
        n_assets=market.n_assets,
        observation="index",
        groups=("price",),
        normalisation_window=63,
    )
    params = env.make_params(market, envs.basic_costs(**COSTS))
    first = int(chosen.first * market.n_bars)
    n_bars = market.n_bars - 1 - first

    def whole(strategies: tuple[Policy, ...], **keys: Any) -> BookRun:
        return run_book(strategies, env, params, first, n_bars, AllocationRule(**keys))

    alone = {strategy.name: figures(whole((strategy,), **ALONE), None) for strategy in rules()}
    reference = whole(rules(), **ALONE)
    books = {name: figures(whole(rules(), **keys), reference) for name, keys in BOOKS.items()}
    correlation = np.corrcoef(np.diff(np.log(reference.equity), axis=0).T).round(2).tolist()
    for name, row in {**alone, **books}.items():
        print(f"{name:28s}", {key: round(value, 3) for key, value in row.items() if isinstance(value, float | int)})
    content = {
        "bars": n_bars,
        "assets": market.n_assets,
        "bars_per_year": periods_per_year(market),
        "rules": alone,
        "correlation": {"names": [strategy.name for strategy in rules()], "of_log_returns": correlation},
        "books": books,
    }
    print(record(f"book_{pathlib.Path(chosen.prices).stem}", content))


if __name__ == "__main__":
    main()
