"""An exported policy, fed bar by bar and restarted on the way, against the backtest of the same bars; sizes and times.

    python -m benchmarks.live [hourly|hourly_fractions|futures|quickstart ...] --data FOLDER

Masks, sizing and monitored limits are on; the networks are hardly trained, which changes no figure here. `hourly` reads
5,000 bars of five stocks in whole shares, `futures` 2,000 days of 38 settlements, `quickstart` the shipped prices. The
times of a bar are those of one core where the process is bound to one (`taskset -c 0`).
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

import jaxppo
from benchmarks.recording import record
from jaxppo.backtest import conditions_of, load_run, simulate
from jaxppo.backtest.shipping import decided, shipped_of
from jaxppo.envs import datasets

RESTARTS = 5
SAME = 1e-6
"""Fraction of the equity up to which two orders are the same."""
LIMITS: dict[str, Any] = {
    "masks": [
        {"volatility_cap": {"target": 0.3}},
        {"holding_period": {"minimum": 2, "maximum": 200}},
        {"turnover": {"limit": 1.5, "window": 5}},
        {"liquidity": {"spread": 0.05}},
        {"halt": {"move": 0.3, "bars": 3}},
        {"risk_budget": {"gross": 2.0, "volatility": 0.4, "concentration": 1.0}},
    ],
    "sizing": [{"volatility_target": {"target": 0.15}}, {"projection": {"weight": 0.6}}],
    "monitor": [{"drawdown": {"limit": 0.9, "stop": True}}, {"leverage": {"limit": 5.0}}],
}
SMALL = {"kind": "mlp", "width": 32, "layers": 1, "heads": 2, "window": 8}
LEARNING = {"paths": 8, "portfolios": 2, "chunk": 8, "epochs": 1, "minibatches": 2}
TRAINING = {"steps": 256, "evaluate_every": 1, "checkpoint_every": 1, "devices": 1}


def hourly(data: pathlib.Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """Five stocks by the hour, adjusted, and what trades them."""
    bars = pd.read_parquet(data / "us_equity_1h.parquet")
    bars = bars[bars["symbol"] != "VXX"].assign(symbol=lambda x: x["symbol"].astype(str)).sort_values("timestamp")
    prices = ["open", "high", "low", "close"]
    adjusted = bars[prices].mul(bars["adj_factor"].astype(float), axis=0)
    bars = bars.assign(**{name: adjusted[name] for name in prices}, volume=bars["volume"] / bars["adj_factor"])
    hours = {"session": {"calendar": "XNYS", "open_minutes": 30, "close_minutes": 60}}
    limits = {**LIMITS, "masks": [*LIMITS["masks"], hours, {"regime": {"crisis": [0.0, 0.5]}}]}
    config = {
        "data": {"timezone": "America/New_York", "on_bad_rows": "drop", "max_log_spike": 3.0},
        "regimes": {"kind": "rules"},
        "env": {"actions": "continuous", "levels": [-1.0, 1.0]},
        "costs": {"lot_size": 1.0},
        **limits,
    }
    return config, bars[["timestamp", "symbol", *prices, "volume"]]


def hourly_fractions(data: pathlib.Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """The same in fractions of shares, which no rounding turns into another order."""
    config, bars = hourly(data)
    return {name: value for name, value in config.items() if name != "costs"}, bars


def futures(data: pathlib.Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """38 futures by the day: settlements, quotes and carry, and what trades them."""
    bars = pd.read_parquet(data / "futures_1d.parquet").sort_values("timestamp")
    config = {
        "data": {"futures": True},
        "features": {"groups": ["trend", "cross_section", "carry"]},
        "env": {"actions": "continuous", "levels": [-1.0, 1.0], "position_limit": 1.0},
        "costs": {"max_leverage": 10.0, "participation_limit": None, "maintenance_margin": 0.0},
        **LIMITS,
        "policy": {**SMALL, "base": {"inverse_volatility": {}}},
    }
    config["masks"] = [mask for mask in LIMITS["masks"] if "liquidity" not in mask]
    config["sizing"] = [{"drawdown_control": {"limit": 0.3, "move": 0.05, "window": 500}}]
    return config, bars[["timestamp", "symbol", "close", "bid", "ask", "carry"]]


def quickstart(data: pathlib.Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """The shipped prices and the network of the quick start."""
    del data
    bars = pd.read_csv(pathlib.Path(datasets.__file__).parent / datasets.FILES["us5_1d"]).rename(columns=str.lower)
    factor, prices = bars["adj close"] / bars["close"], ["open", "high", "low", "close"]
    adjusted = {name: bars[name] * factor for name in prices}
    bars = bars.assign(**adjusted, volume=bars["volume"] / factor).rename(
        columns={"date": "timestamp", "ticker": "symbol"}
    )
    shipped = jaxppo.load_config(pathlib.Path(__file__).parents[1] / "configs" / "quickstart.yaml")
    tree = shipped.model_dump(mode="json", exclude_unset=True)
    return tree, bars[["timestamp", "symbol", *prices, "volume"]]


MARKETS = {
    "hourly": (hourly, 5000),
    "hourly_fractions": (hourly_fractions, 5000),
    "futures": (futures, 2000),
    "quickstart": (quickstart, 3270),
}
"""What makes the prices and the configuration, and how many bars are fed."""


def records(bars: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The bars of each time as a record of a feed."""
    for stamp, part in bars.groupby("timestamp", sort=True):
        fields = part.drop(columns="timestamp").set_index("symbol").to_dict(orient="index")
        yield {"time": pd.Timestamp(stamp).isoformat(), "bars": fields}


def replay(name: str, data: pathlib.Path, folder: pathlib.Path, n_bars: int | None) -> dict[str, Any]:
    """Exports a policy, feeds it every bar, and compares it with the backtest."""
    market_of, usual = MARKETS[name]
    tree, bars = market_of(data)
    last = sorted(bars["timestamp"].unique())[: n_bars or usual][-1]
    bars = bars[bars["timestamp"] <= last]
    path = folder / f"{name}.csv"
    bars.to_csv(path, index=False)
    tree = {"policy": SMALL, **tree, "ppo": {**tree.get("ppo", {}), **LEARNING}, "training": TRAINING}
    tree["data"] = {**tree.get("data", {}), "path": str(path)}
    config = jaxppo.config.validate_config(tree)
    jaxppo.train(config, output=folder / name)
    began = time.perf_counter()
    manifest = jaxppo.deploy.export_run(folder / name, folder / f"{name}-policy")
    exported = time.perf_counter() - began
    run = decided(load_run(folder / name))
    market, first = run.setup.market, run.setup.env.first_decision
    ledger = simulate(shipped_of(run), market, conditions=conditions_of(run), first=first).ledger
    found = _fed(folder / f"{name}-policy", list(records(bars)), ledger, first, folder / "state")
    return {
        "bars": market.n_bars,
        "assets": market.n_assets,
        "decisions": market.n_bars - 1 - first,
        "export_seconds": exported,
        "bytes": {name: entry["bytes"] for name, entry in manifest["files"].items()},
        **found,
    }


def _fed(
    policy_folder: pathlib.Path, fed: list[dict[str, Any]], ledger: Any, first: int, state: pathlib.Path
) -> dict[str, Any]:
    """What a policy decides on every bar but the last, against a ledger."""
    began = time.perf_counter()
    policy = jaxppo.deploy.load_policy(policy_folder)
    loaded = time.perf_counter() - began
    restarts = {int(bar) for bar in np.linspace(first + 1, len(fed) - 2, RESTARTS)}
    equity, orders, wrong, seconds, traded, bound = [], [], 0, [], 0, 0
    for bar, one in enumerate(fed[:-1]):
        if bar in restarts:
            policy.save(state)
            policy = jaxppo.deploy.load_policy(policy_folder)
            policy.restore(state)
            policy.step(None)  # compiles nothing, and changes nothing
        began = time.perf_counter()
        decision = policy.step(one)
        seconds.append(time.perf_counter() - began)
        if bar < first:
            continue
        ours, theirs = decision.values["ordered"].astype(float), np.asarray(ledger.ordered[bar - first], float)
        apart = float(np.max(np.abs(ours - theirs) * decision.price)) / decision.equity
        orders.append(apart)
        wrong += apart > SAME
        traded += bool(np.any(theirs))
        bound += bool(decision.values["bound"].any())
        equity.append(abs(decision.equity / float(ledger.equity[bar - first]) - 1.0))
    usual = np.sort(seconds)[: -RESTARTS - 1]  # the first bar of each start compiles
    return {
        "load_seconds": loaded,
        "first_bar_seconds": max(seconds),
        "bar_milliseconds": {"median": 1e3 * float(np.median(usual)), "p95": 1e3 * float(np.quantile(usual, 0.95))},
        "restarts": RESTARTS,
        "decisions_with_orders": traded,
        "decisions_bound_by_a_mask": bound,
        "decisions_that_differ": wrong,
        "largest_difference_of_orders": max(orders),
        "largest_difference_of_equity": max(equity),
    }


def main() -> None:
    """Replays the named markets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("markets", nargs="*", default=list(MARKETS), help=", ".join(MARKETS))
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of the price files")
    parser.add_argument("--bars", type=int, help="feed fewer bars, and record nothing")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in given.markets:
            found = replay(name, given.data, pathlib.Path(folder), given.bars)
            print(name, found)
            if given.bars is None:
                record(f"live_{name}", found)


if __name__ == "__main__":
    main()
