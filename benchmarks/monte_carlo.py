"""Throughput of Monte Carlo backtests on a CPU: bars x paths per second, against vectorbt on the same orders.

    python -m benchmarks.monte_carlo [--quick]

Every timing stands behind an equality gate: the two sides first have to agree on the final equity of every path. All
jobs of a comparison read the same prices `[bars, paths]` of one asset from memory; ours are float32 and keep no orders,
vectorbt's are float64 and keep order records: say so wherever a ratio is quoted.

- `full`: the accounting function with every cost on (commission, half-spread, slippage, square-root impact,
  participation limit, borrow fee, margin), and all figures of `jaxppo.backtest.running_statistics.FIGURES`.
- `full, proportional`: the same function with no cost but a commission; what is zero is left out of the program.
- `bare`: equity, drawdown and Sharpe moments in a scan of a dozen operations, commission only, which is not what the
  library runs: what the hardware allows for the job that vectorbt does.
- vectorbt: `from_orders(size_type="targetpercent")`, and `from_signals` where the targets are all in or all out; the
  fill simulation alone, without any figure.

`in the loop`: an agent on drawn markets, its encoder read once per block of bars as the library does it, against the
same agent that encodes its window anew at every bar; both have to trade the same.

Then whole jobs with markets drawn and traded inside (`end to end`), their peak memory at several numbers of paths, and
what 100,000 paths x 2,500 bars of a rule and 10,000 x 2,500 of the quick-start agent take, extrapolated from a share of
the paths that the result names: time is linear in paths, which the several numbers of paths show. Memory of a process
holds what JAX and its compiler take; what jobs need shows in how it grows with the paths.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax

if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from benchmarks.recording import record
from jaxppo import envs
from jaxppo.backtest import conditions_of, plain_conditions
from jaxppo.backtest.account import AccountState
from jaxppo.envs import simulators
from jaxppo.envs.execution.bars import BAR_FIELDS
from jaxppo.envs.execution.costs import zero_prices
from jaxppo.envs.execution.fill_rule import FillRule
from jaxppo.envs.execution.portfolio import open_portfolio
from jaxppo.envs.market.kernels import in_one
from jaxppo.envs.simulators.generators import stationary_bootstrap
from jaxppo.envs.trading.account import Account, BarRow
from jaxppo.monte_carlo import Paths, draws_of, monte_carlo, run_paths
from jaxppo.monte_carlo.engine import CPU_OPTIONS
from jaxppo.monte_carlo.trade import PreparedMarket, RowLayout, trade
from jaxppo.policy import from_array
from jaxppo.policy.rules import buy_and_hold, equal_weight, trend, volatility_target
from jaxppo.run.saved import load_run

N_BARS = 2500
COMMISSION = 1e-3
FULL = {"slippage": 0.05, "impact": 0.7, "participation_limit": 0.2, "borrow_rate": 0.005, "margin_rate": 0.03}
RULES = {"buy_and_hold": buy_and_hold, "equal_weight": equal_weight, "volatility_target": volatility_target}
RULES |= {"trend": trend}
LANES, BARE_LANES = 256, 1024
"""Paths side by side."""
AGREEMENT = 1e-4
"""Largest relative difference of final equities, ours in float32, that counts as equal."""


def prices(n_bars: int, n_paths: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Closes `[n_bars + 1, n_paths]`, and targets `[n_bars, n_paths]` in {0, 0.9} that change about every 20 bars."""
    draws = np.random.default_rng(seed)
    close = 100.0 * np.exp(np.cumsum(0.01 * draws.standard_normal((n_bars + 1, n_paths)), axis=0))
    flips = np.cumsum(draws.random((n_bars, n_paths)) < 0.05, axis=0) % 2
    return close.astype(np.float32), np.where(flips, 0.9, 0.0).astype(np.float32)


def best(call: Callable[[], Any], repeats: int) -> float:
    """Shortest of several times, seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def ours(close: np.ndarray, targets: np.ndarray, costs: dict[str, float], batch_size: int) -> Callable[[], np.ndarray]:
    """Final equities of our accounting function on given prices, as a function without arguments.

    An order is sized and filled at the close at which it is decided, as vectorbt's is, and held targets are traded at
    changes alone.
    """
    n_bars = len(targets)
    made = envs.basic_costs(commission_bps=1e4 * COMMISSION, **costs)
    rule = FillRule(fill_price="decision_close")
    conditions = plain_conditions(1, periods=252.0, costs=made, fill_rule=rule)
    policy, free = from_array(np.zeros((n_bars, 1)))._replace(params=None), zero_prices(made)

    def read(given: tuple[jax.Array, jax.Array], i: jax.Array | int) -> Any:
        closes, goals = given
        return tuple(
            jax.lax.dynamic_index_in_dim(x, j, keepdims=False) for x, j in ((closes, i), (closes, i + 1), (goals, i))
        )

    def unpack(given: tuple[jax.Array, jax.Array, jax.Array]) -> BarRow:
        before, after, goal = (x[:, None] for x in given)
        others = {"available_volume": 1e7, "average_volume": 1e7, "half_spread": 1e-4, "volatility": 0.01}
        others |= {"year_fraction": 1.0 / 252.0}
        fields = {name: jnp.full_like(before, value) for name, value in others.items()}
        fields |= {"open": before, "close": after}
        packed = jnp.stack([fields[name] for name in BAR_FIELDS])
        return BarRow(jnp.zeros(len(goal), jnp.int32), packed, jnp.ones(goal.shape, bool), (), (), goal)

    def unit(closes: jax.Array, goals: jax.Array) -> jax.Array:
        n_paths = closes.shape[1]
        portfolio = jax.vmap(lambda price: open_portfolio(price, 1e6, rule))(closes[0][:, None])
        no = jnp.zeros(n_paths, bool)
        state = AccountState(Account(portfolio, liquidated=no, stopped=no), (), ())
        shared = jax.tree.map(lambda x: jnp.broadcast_to(x, (n_paths,)), made)
        paths = PreparedMarket((closes, goals), state, shared, (), jnp.zeros(n_paths, jnp.int32))
        traded = trade(policy, conditions, paths, n_bars, jnp.int32(0), free=free, layout=RowLayout(read, unpack))
        return traded.figures.figures(252.0, 0.5)

    return _sharded(unit, close, at_changes(targets), batch_size, "total_return")


def bare(close: np.ndarray, targets: np.ndarray, batch_size: int) -> Callable[[], np.ndarray]:
    """The same from a minimal scan with a commission alone, see the module."""

    def unit(closes: jax.Array, goals: jax.Array) -> dict[str, jax.Array]:
        n_bars, lane = goals.shape

        def step(i: jax.Array, carry: Any) -> Any:
            equity, shares, peak, depth, total, squares, price, after, goal = carry
            wanted = jnp.where(jnp.isnan(goal), shares, goal * equity / price)
            cost = COMMISSION * jnp.abs(wanted - shares) * price
            new = equity + wanted * (after - price) - cost
            change = new / equity - 1.0
            peak = jnp.maximum(peak, new)
            following = jax.lax.dynamic_index_in_dim(closes, jnp.minimum(i + 2, n_bars), keepdims=False)
            goal = jax.lax.dynamic_index_in_dim(goals, jnp.minimum(i + 1, n_bars - 1), keepdims=False)
            depth = jnp.maximum(depth, 1.0 - new / peak)
            return new, wanted, peak, depth, total + change, squares + change * change, after, following, goal

        one, zero = jnp.ones(lane), jnp.zeros(lane)
        carry = (one, zero, one, zero, zero, zero, closes[0], closes[1], goals[0])
        ended = in_one(lambda carry: jax.lax.fori_loop(0, n_bars, step, carry), carry)
        equity, _, _, depth, total, squares, *_ = ended
        mean = total / n_bars
        sharpe = mean / jnp.sqrt(squares / n_bars - mean * mean) * 252.0**0.5
        return {"total_return": equity - 1.0, "max_drawdown": depth, "sharpe": sharpe}

    return _sharded(unit, close, at_changes(targets), batch_size, "total_return")


def at_changes(targets: np.ndarray) -> np.ndarray:
    """Targets where they change, NaN (hold) elsewhere."""
    before = np.concatenate([np.zeros_like(targets[:1]), targets[:-1]])
    return np.where(targets != before, targets, np.nan).astype(np.float32)


def _sharded(unit: Callable[..., Any], close: np.ndarray, goals: np.ndarray, batch_size: int, name: str) -> Any:
    """Runs `unit` on groups of `batch_size` paths, a group on each device at a time."""
    mesh = Mesh(np.asarray(jax.devices()), ("paths",))
    columns = P(None, "paths")
    program = jax.jit(
        jax.shard_map(unit, mesh=mesh, in_specs=(columns, columns), out_specs=P("paths"), check_vma=False),
        compiler_options=CPU_OPTIONS,
    )
    width = batch_size * mesh.size
    sharding = jax.sharding.NamedSharding(mesh, columns)
    groups = [
        tuple(jax.device_put(x[:, start : start + width], sharding) for x in (close, goals))
        for start in range(0, close.shape[1], width)
    ]
    return lambda: np.concatenate([np.asarray(out) for out in [program(*group)[name] for group in groups]])


def vectorbt_jobs(close: np.ndarray, targets: np.ndarray) -> dict[str, Callable[[], Any]]:
    """Name -> a portfolio of vectorbt at the same prices and targets; its engines that are installed."""
    import vectorbt

    n_bars = len(targets)
    goals = at_changes(targets).astype(np.float64)
    price = close[:n_bars].astype(np.float64)
    entries, exits = goals > 0, goals == 0
    common = {"fees": COMMISSION, "init_cash": 1e6, "freq": "1D"}
    orders = functools.partial(vectorbt.Portfolio.from_orders, price, size=goals, size_type="targetpercent", **common)
    # A percentage of vectorbt's includes the fee, ours does not.
    size = 0.9 * (1.0 + COMMISSION)
    signals = functools.partial(
        vectorbt.Portfolio.from_signals, price, entries, exits, size=size, size_type="percent", **common
    )
    jobs = {"from_orders": orders, "from_signals": signals}
    try:
        vectorbt.Portfolio.from_signals(price[:5, :1], entries[:5, :1], exits[:5, :1], engine="rust", **common)
    except ImportError:  # its Rust engine is a package of its own
        return jobs
    return jobs | {"from_signals, rust": functools.partial(signals, engine="rust")}


def compare_with_vectorbt(n_bars: int, n_paths: int, repeats: int) -> dict[str, Any]:
    """Rates in millions of bars x paths per second, each behind its gate."""
    close, targets = prices(n_bars, n_paths)
    rates, size = {}, n_bars * n_paths / 1e6
    proportional = ours(close, targets, {"spread_multiplier": 0.0}, LANES)
    reference = 1.0 + proportional()
    gate: dict[str, float] = {}
    for name, job in vectorbt_jobs(close, targets).items():
        portfolio = job()
        # Its last bar is our last but one: its positions are carried to the next close.
        value, shares = (np.asarray(x)[-1] for x in (portfolio.value(), portfolio.assets()))
        last = (value + shares * (close[-1] - close[-2])) / 1e6
        gate[name] = float(np.max(np.abs(last / reference - 1.0)))
        if not gate[name] < AGREEMENT:
            raise SystemExit(f"{name} and ours differ by {gate[name]:.1e}, more than {AGREEMENT:.0e}")
        rates[f"vectorbt {name}"] = size / best(job, repeats)
    minimal = bare(close, targets, BARE_LANES)
    gate["bare"] = float(np.max(np.abs((1.0 + minimal()) / reference - 1.0)))
    if not gate["bare"] < AGREEMENT:
        raise SystemExit(f"bare and ours differ by {gate['bare']:.1e}")
    rates["full, proportional"] = size / best(proportional, repeats)
    rates["bare"] = size / best(minimal, repeats)
    everything = ours(close, targets, FULL, LANES)
    if not (everything() < reference - 1.0).all():
        raise SystemExit("more costs do not cost more")
    rates["full"] = size / best(everything, repeats)
    fastest = max(rate for name, rate in rates.items() if name.startswith("vectorbt"))
    ratios = {name: rates[name] / fastest for name in ("full", "full, proportional", "bare")}
    return {"bars": n_bars, "paths": n_paths, "M_per_second": rates, "over_fastest_vectorbt": ratios, "gate": gate}


def job(kind: str, n_paths: int, run: str | None) -> dict[str, Any]:
    """One whole job in this process: markets drawn, traded, summarised, written. Seconds without compilation."""
    if kind == "agent":
        paths = run_paths(load_run(run), n_bars=N_BARS, seed=0)
    else:
        n_assets = 5 if kind.endswith("5") else 1
        market = simulators.gbm(jax.random.key(0), 2500, n_assets, volatility=0.01)
        strategy = RULES[kind.rstrip("5")]()
        costs = envs.basic_costs(commission_bps=1.0, **FULL)
        conditions, strategy = plain_conditions(n_assets, periods=252.0, costs=costs), strategy._replace(warmup=63)
        paths = Paths(strategy, conditions, stationary_bootstrap(market, 63 + N_BARS + 1, mean_block=20.0), N_BARS)
    at_once = paths.batch_size * len(paths.devices)
    batches = list(range(len(paths.devices)))
    paths.fetch(paths.compute(batches), batches)
    # Whole rounds of all devices, so that rates of few and of many paths compare.
    n_paths = max(n_paths // at_once, 1) * at_once
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        monte_carlo(paths, n_paths, output=pathlib.Path(folder) / "job", progress=False)
        seconds = time.perf_counter() - start
    return {"paths": n_paths, "seconds": seconds, "peak_MB": peak_memory(), "batch_size": paths.batch_size}


def peak_memory() -> float | None:
    """Largest resident memory of this process, MB; None where the system does not say.

    What `getrusage` reports on Linux includes that of the process that started this one.
    """
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(x for x in status.read_text(encoding="utf-8").splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1e3


def in_process(kind: str, n_paths: int, run: str | None = None) -> dict[str, Any]:
    """`job` in a process of its own, so that its peak memory is its own."""
    command = [sys.executable, "-m", "benchmarks.monte_carlo", "--job", kind, "--paths", str(n_paths)]
    command += [] if run is None else ["--run", run]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"job {kind} with {n_paths} paths failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def quick_start(folder: str) -> str:
    """A quick-start agent after two iterations: how well it trades does not change how long it takes."""
    run = str(pathlib.Path(folder) / "agent")
    command = [sys.executable, "scripts/train.py", "--config", "configs/quickstart.yaml", "--steps", "32768"]
    subprocess.run([*command, "--output", run], check=True, capture_output=True)
    return run


def in_the_loop(folder: str, n_bars: int, repeats: int) -> dict[str, Any]:
    """Bars x paths a second of an agent that encodes a block of bars at once, and one that encodes windows."""
    run = load_run(folder)
    agent, conditions = run.agent(), conditions_of(run)
    draws = draws_of(run, "stationary_bootstrap", conditions.history + n_bars + 1)
    found: dict[str, Any] = {"bars": n_bars, "context": run.network.context}
    returns = {}
    window = agent._replace(encoding=agent.encoding._replace(block=1))
    for name, policy in {"once per block": agent, "at every bar": window}.items():
        paths = Paths(policy, conditions, draws, n_bars, devices=jax.devices()[:1])
        _, figures, _ = paths.fetch(paths.compute([0]), [0])
        returns[name] = figures["total_return"]
        seconds = best(functools.partial(lambda paths: paths.fetch(paths.compute([0]), [0]), paths), repeats)
        found |= {"paths": paths.batch_size, name: paths.batch_size * n_bars / seconds}
    found["gate"] = float(np.max(np.abs(returns["once per block"] - returns["at every bar"])))
    if not found["gate"] < AGREEMENT:
        raise SystemExit(f"encoded once and at every bar, the agent earns differently by {found['gate']:.1e}")
    return found | {"ratio": found["once per block"] / found["at every bar"]}


def whole_jobs(quick: bool) -> dict[str, Any]:
    """Whole jobs: time linear in paths, memory flat in them, and the targets."""
    counts = (1000, 3000) if quick else (1000, 10_000, 100_000)
    found: dict[str, Any] = {}
    for kind in ("equal_weight",) if quick else ("equal_weight", "trend", "equal_weight5"):
        found[kind] = [in_process(kind, count) for count in (counts if kind == "equal_weight" else counts[:2])]
    with tempfile.TemporaryDirectory() as folder:
        run = quick_start(folder)
        found["agent"] = [in_process("agent", count, run) for count in ((64,) if quick else (256, 1024))]
        loop = in_the_loop(run, 50 if quick else 250, 2)
    for rows in found.values():
        for row in rows:
            row["M_per_second"] = row["paths"] * N_BARS / row["seconds"] / 1e6
    wanted = {kind: 10_000 if kind == "agent" else 100_000 for kind in found}
    targets = {
        kind: {
            "paths": wanted[kind],
            "minutes": rows[-1]["seconds"] / rows[-1]["paths"] * wanted[kind] / 60.0,
            "measured_paths": rows[-1]["paths"],
        }
        for kind, rows in found.items()
    }
    return {"bars": N_BARS, "jobs": found, "targets": targets, "in_the_loop": loop}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few seconds of everything, recorded nowhere")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--paths", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.job:
        print(json.dumps(job(chosen.job, chosen.paths, chosen.run)))
        return
    n_paths, repeats = (2048, 2) if chosen.quick else (8192, 5)
    content = {"against_vectorbt": compare_with_vectorbt(N_BARS // (5 if chosen.quick else 1), n_paths, repeats)}
    print(json.dumps(content, indent=2), flush=True)
    content["end_to_end"] = whole_jobs(chosen.quick)
    print(json.dumps(content["end_to_end"], indent=2))
    if not chosen.quick:
        print(record("monte_carlo", content))


if __name__ == "__main__":
    main()
