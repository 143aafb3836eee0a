"""The target scenario: `configs/target.yaml` on its simulated market, beside the computed optimum, and on real prices.

    python -m benchmarks.target simulated|real [--seeds 5] [--path FILE] [--runs FOLDER] [--without KEYS] [--KEY VALUE]

Every seed is one `jaxppo.train` of the YAML; on the simulated market it is also another market. `simulated` plays the
policy of the dynamic programme on the same test periods, at the agent's volatility. The same agent is then evaluated
without the risk layer, which is what `--without` names (default: `sizing`, if the YAML has it): differences are those
of the same parameters on the same bars. `real` takes `--path`. Further options are keys of the configuration.
"""

from __future__ import annotations

import argparse
import functools
import math
import pathlib
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

import jaxppo
from benchmarks.recording import record
from jaxppo import backtest
from jaxppo.backtest.account import AccountRules
from jaxppo.backtest.ledger import Ledger
from jaxppo.backtest.simulate import simulate_account
from jaxppo.envs import simulators
from jaxppo.envs.execution.portfolio import weights_of
from jaxppo.envs.simulators.costly_factor import CostlyFactor
from jaxppo.policy.protocol import Observed, Policy, Targets
from jaxppo.risk import metrics
from jaxppo.run.saved import SavedRun
from jaxppo.run.setup import Setup
from jaxppo.run.simulation import factor_strength
from jaxppo.statistics import bootstrap_difference_interval

CONFIG = "configs/target.yaml"
FIGURES = ("sharpe", "max_drawdown", "trade_win_rate", "calmar", "cvar_95", "total_return", "trades", "turnover")
TARGETS = {"sharpe": ">= 3.0", "max_drawdown": "< 0.08", "trade_win_rate": ">= 0.65"}
UNIT = 0.05
"""Weight of a factor of 1 in the first play of the optimum; the second one has the agent's volatility."""


@functools.cache
def metric(name: str, periods: float) -> Any:
    """A figure of returns `[n]`; the same function for the same arguments, so that its bootstrap compiles once."""
    return {
        "sharpe": lambda returns: metrics.sharpe(returns, periods=periods),
        "calmar": lambda returns: metrics.calmar(returns, periods=periods),
        "cvar_95": lambda returns: metrics.conditional_value_at_risk(returns, level=0.95),
        "max_drawdown": metrics.max_drawdown,
    }[name]


PAIRED = ("sharpe", "calmar", "cvar_95", "max_drawdown")


def over_seeds(values: list[float | None], level: float = 0.95) -> dict[str, Any]:
    """Mean and t-interval of one number per seed; None where a seed has none."""
    known = np.asarray([value for value in values if value is not None], np.float64)
    if len(known) == 0:
        return {"mean": None, "interval": None, "values": values}
    half = stats.t.ppf((1 + level) / 2, len(known) - 1) * stats.sem(known) if len(known) > 1 else math.nan
    interval = [known.mean() - half, known.mean() + half] if math.isfinite(half) else None
    return {"mean": float(known.mean()), "interval": interval and [float(end) for end in interval], "values": values}


def agent_ledger(saved: SavedRun) -> Ledger:
    """What the run's agent does over its test period."""
    setup, where = saved.setup, saved.setup.periods["test"]
    rules = AccountRules(setup.env, setup.periods_per_year)
    return jax.device_get(simulate_account(saved.agent(), rules, setup.params, jnp.int32(where.first), where.n_bars))


def figures_of(ledger: Ledger, periods: float) -> dict[str, float | None]:
    """`FIGURES` of a ledger."""
    returns = jnp.asarray(ledger.returns)
    trips = metrics.round_trips(*ledger.legs)
    found = {name: float(metric(name, periods)(returns)) for name in PAIRED}
    found |= {"trade_win_rate": float(trips.win_rate()), "trades": int(trips.closed.sum())}
    found["total_return"] = float(ledger.equity[-1] / ledger.equity[0] - 1)
    found["turnover"] = float(np.mean(ledger.turnover, dtype=np.float64)) * periods
    return {name: found[name] if math.isfinite(found[name]) else None for name in FIGURES}


def best_policy(setup: Setup) -> CostlyFactor:
    """The optimum of the configured market."""
    chosen = setup.config.simulation
    return simulators.solve_costly_factor(
        factor_strength(chosen),
        persistence=chosen.persistence,
        volatility=chosen.volatility,
        cost=chosen.half_spread + 1e-4 * chosen.commission_bps,
    )


def best_ledger(setup: Setup, best: CostlyFactor, unit: float) -> Ledger:
    """The optimum over the test period, without a limit of leverage; `unit` is its weight for a factor of 1."""
    where = setup.periods["test"]

    def decide(params: Any, state: Any, observed: Observed) -> tuple[Targets, Any]:
        held = weights_of(observed.portfolio)
        low, high = best.edges(observed.row, held / unit)
        target = jnp.clip(held, unit * low, unit * high)
        return Targets(target, target == held), state

    free = {"max_leverage": 1e3, "margin_rate": 0.0, "maintenance_margin": 0.0}
    costs = setup.params.costs.replace(**{name: jnp.float32(value) for name, value in free.items()})
    params = setup.params.replace(costs=costs)
    first = jnp.int32(where.first)
    optimum = Policy("optimum", decide, table=lambda params, view: simulators.revealed_factor(view.market))
    rules = AccountRules(setup.env, setup.periods_per_year, limited=False)
    return jax.device_get(simulate_account(optimum, rules, params, first, where.n_bars))


def one_seed(config: jaxppo.Config, folder: pathlib.Path, without: list[str]) -> dict[str, Any]:
    """Trains (or takes up a finished run) and evaluates with the risk layer, without it, and the optimum."""
    if not (folder / "summary.json").exists():
        jaxppo.train(config, output=folder, progress=False)
    saved = backtest.load_run(folder)
    setup, periods = saved.setup, saved.setup.periods_per_year
    ledger = agent_ledger(saved)
    row = {"seed": config.seed, "agent": figures_of(ledger, periods), "baselines": {}}
    reported = backtest.run(folder)
    row["sharpe_bootstrap_interval"] = reported["sharpe_ci"]
    row["span"] = [reported["first_bar"], reported["last_bar"], reported["n_bars"]]
    for name, baseline in reported["baseline"].items():
        row["baselines"][name] = {figure: baseline[figure] for figure in FIGURES}
        row["baselines"][name]["sharpe_difference_interval"] = baseline["sharpe_difference_ci"]
    if without:
        overrides = [word for key in without for word in (f"--{key}", "[]")]
        plain = agent_ledger(backtest.load_run(folder, overrides=overrides))
        row["without"] = figures_of(plain, periods)
        row["gain_interval"] = paired(ledger.returns, plain.returns, periods, config.seed)
    if config.data.path == "simulated":
        best = best_policy(setup)
        ratio = np.std(ledger.returns) / np.std(best_ledger(setup, best, UNIT).returns)
        row["optimum"] = figures_of(best_ledger(setup, best, UNIT * float(ratio)), periods)
    return row


def paired(ours: np.ndarray, theirs: np.ndarray, periods: float, seed: int) -> dict[str, list[float]]:
    """Block-bootstrap intervals of the differences of `PAIRED` figures on the same bars, 95 %."""
    keys = jax.random.split(jax.random.key(seed), len(PAIRED))
    pairs = zip(keys, PAIRED, strict=True)
    return {
        name: [float(end) for end in bootstrap_difference_interval(key, ours, theirs, metric(name, periods))]
        for key, name in pairs
    }


def less(ours: float | None, theirs: float | None) -> float | None:
    """The difference; None if there is none, as for the Sharpe ratio of an agent that never trades."""
    return None if ours is None or theirs is None else ours - theirs


def summary_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and t-intervals over seeds of everything in `rows`."""
    groups = {name: [row[name] for row in rows] for name in ("agent", "without", "optimum") if name in rows[0]}
    groups |= {name: [row["baselines"][name] for row in rows] for name in rows[0]["baselines"]}
    found = {
        group: {name: over_seeds([figures[name] for figures in seeds]) for name in FIGURES}
        for group, seeds in groups.items()
    }
    if "without" in rows[0]:
        gains = {name: [less(row["agent"][name], row["without"][name]) for row in rows] for name in PAIRED}
        found["agent less without"] = {name: over_seeds(values) for name, values in gains.items()}
    if "optimum" in rows[0]:
        shares = [100 * row["agent"]["sharpe"] / row["optimum"]["sharpe"] for row in rows]
        found["percent of the optimum's Sharpe on the same bars"] = over_seeds(shares)
    return found


def computed(config: jaxppo.Config) -> dict[str, float]:
    """What the dynamic programme says of the market, a year, on all assets."""
    chosen = config.simulation
    cost = chosen.half_spread + 1e-4 * chosen.commission_bps
    market = {"persistence": chosen.persistence, "volatility": chosen.volatility}
    strength = factor_strength(chosen)
    best = simulators.solve_costly_factor(strength, cost=cost, **market)
    scale = best.sharpe(chosen.n_assets) / best.sharpe_per_bar
    free = simulators.predictable_factor_sharpe(strength, policy="optimal", **market)
    return {
        "strength": strength,
        "cost": cost,
        "best_sharpe": best.sharpe(chosen.n_assets),
        "best_sharpe_without_costs": free * scale,
        "proportional_to_the_signal": best.sharpe_of(lambda factor, _: factor) * scale,
        "sign_of_the_signal": best.sharpe_of(lambda factor, _: np.sign(factor)) * scale,
    }


def show(summary: dict[str, Any]) -> None:
    """Prints the means and intervals."""
    for group, figures in summary.items():
        for name, value in figures.items() if "mean" not in figures else [("", figures)]:
            if value["mean"] is not None:
                ends = value["interval"]
                shown = "" if ends is None else f" [{ends[0]:.4g}, {ends[1]:.4g}]"
                print(f"{group:22}{name:16}{value['mean']:.4g}{shown}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prices", choices=("simulated", "real"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--path", help="price file of `real`")
    parser.add_argument("--runs", type=pathlib.Path, help="folder for the runs; finished ones are not repeated")
    parser.add_argument("--without", nargs="*", help="lists of the configuration that make up the risk layer")
    chosen, overrides = parser.parse_known_args()
    if (chosen.prices == "real") != (chosen.path is not None):
        parser.error("real needs --path, simulated takes none")
    overrides += ["--data.path", chosen.path] if chosen.path else []
    first = jaxppo.load_config(CONFIG, overrides)
    given = first.model_dump()
    without = [key for key in ("sizing",) if given.get(key)] if chosen.without is None else chosen.without
    with tempfile.TemporaryDirectory() as temporary:
        runs = chosen.runs or pathlib.Path(temporary)
        rows = []
        for seed in range(chosen.seeds):
            config = first.model_copy(update={"seed": seed})
            rows.append(one_seed(config, runs / f"{chosen.prices}-{seed}", without))
            print(f"seed {seed}: {rows[-1]['agent']}", flush=True)
    summary = summary_of(rows)
    show(summary)
    content = {"config": first.model_dump(mode="json"), "targets": TARGETS, "without": without, "summary": summary}
    content |= {"computed": computed(first)} if chosen.prices == "simulated" else {}
    print(f"wrote {record(f'target_{chosen.prices}', {**content, 'seeds': rows})}")


if __name__ == "__main__":
    main()
