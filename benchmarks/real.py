"""Agents and rules out of sample on real prices: one frozen configuration for each set, tested year by year.

    python -m benchmarks.real futures|stocks|hourly|us88 [--data FOLDER] [--rules-only] [--seeds N] [--KEY VALUE ...]
    python -m benchmarks.real futures --label base --policy.base inverse_volatility --rewards '[active_utility]' ...
    python -m benchmarks.real futures --placebo 20 [--power 0.5] [--rules-only]

`futures` trades `futures_1d.parquet`, `stocks` the 20 stocks of skfolio, `hourly` the days of `us_equity_1h.parquet`,
`us88` `us88_1d.parquet`. Rules (`benchmarks.real_rules`) and agents trade through the same accounting at the same
fills, at the costs of the configuration and at three times the spread. Each look at an agent's test counts, so first
come placebos, which leave the real tests alone: `--placebo N` trades N copies of the market with shuffled bars, and
with `--power S` also a planted trend of Sharpe ratio S. Options are keys of the configuration.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import pathlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)

import jaxppo
from benchmarks import real_figures
from benchmarks.real_markets import SETS, first_bar_of, planted, shuffled
from benchmarks.real_rules import Trading, policies
from benchmarks.recording import record
from jaxppo import backtest
from jaxppo.config import Config
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.market.periods import periods_per_year
from jaxppo.run.build import configured_base, environment_of
from jaxppo.run.devices import encoder_config, select_devices
from jaxppo.run.environment import costs_of

SPREADS = {"own costs": 1.0, "three spreads": 3.0}
"""Level of costs -> share of the half-spread that a fill pays."""
PUBLISHED = [
    {
        "name": "DeePM",
        "source": "arXiv:2601.05975",
        "sharpe": 0.93,
        "span": "2010-2025",
        "of": "a like universe of futures, net of costs",
    }
]
RULE_COLUMNS = (
    *("sharpe", "sharpe_ci", "before_2010", "since_2010", "volatility", "drawdown_at_8", "volatility_at_drawdown_8"),
    *("turnover", "costs"),
)
PAIR_COLUMNS = ("difference", "difference_ci", "p_value", "correlation", "detectable")
BASE = "base"
"""What the policy of the configuration tilts around, by itself."""
REFERENCE = "linear policy"
"""The rule that the others are compared with where no agent trades."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """A market and how it is traded.

    Attributes:
      market: the prices.
      config: the configuration, at one level of costs.
      first: bar of the first decision.
      budget: volatility per year that the rules aim at, fraction of equity.
    """

    market: MarketData
    config: Config
    first: int
    budget: float = 0.1

    @property
    def periods(self) -> float:
        """Bars per year."""
        return periods_per_year(self.market)

    @property
    def year(self) -> int:
        """Bars of a test."""
        return round(self.periods)

    @property
    def times(self) -> np.ndarray:
        """Of the bars that decisions earn in; empty in a market without times."""
        return self.market.info.timestamps[self.first + 1 :]


def at_spread(config: Config, share: float) -> Config:
    """The configuration with fills that pay another share of the half-spread.

    Args:
      config: the configuration.
      share: multiple of what it says.
    """
    multiplier = config.costs.spread_multiplier * share
    return config.model_copy(update={"costs": config.costs.model_copy(update={"spread_multiplier": multiplier})})


def trade_rules(problem: Problem) -> dict[str, backtest.Ledger]:
    """Trades every rule, and what the policy of the configuration tilts around, from the first decision on.

    Args:
      problem: market, costs and first decision.
    """
    config, market = problem.config, problem.market
    trading = Trading(
        target=problem.budget,
        gross=config.costs.max_leverage,
        refits=tuple(range(problem.first, market.n_bars - 1, problem.year)),
        spread=config.costs.spread_multiplier,
        commission=config.costs.commission_bps * 1e-4,
    )
    costs = costs_of(config, market)
    cash = config.env.initial_cash
    conditions = backtest.plain_conditions(market.n_assets, periods=problem.periods, costs=costs, initial_cash=cash)
    rules, base = policies(trading, not isinstance(market.carry, tuple)), configured_base(config, market)
    if base is not None:
        rules |= {BASE: base}
    return {
        name: backtest.simulate(policy, market, conditions=conditions, first=problem.first).ledger
        for name, policy in rules.items()
    }


def yearly(problem: Problem) -> Config:
    """The configuration with an expanding walk-forward whose tests begin at the first decision, a year each.

    Args:
      problem: market, configuration and first decision.
    """
    config, market = problem.config, problem.market
    context = encoder_config(config, select_devices(config)[0]).context
    history = environment_of(config, market, context).first_decision
    train = problem.first - history - config.data.purge_bars
    keys = {"kind": "expanding", "train_bars": train, "test_bars": problem.year}
    return config.model_copy(update={"walk_forward": config.walk_forward.model_copy(update=keys)})


def train_agents(problem: Problem, folder: pathlib.Path, resume: bool) -> tuple[np.ndarray, dict[str, Any], Any]:
    """Trains and tests agents: the bars, the returns of each account in them, and the summary.

    Args:
      problem: market, configuration and first decision.
      folder: of the walk-forward.
      resume: go on with the one in the folder.
    """
    begun = resume and folder.exists()
    result = backtest.walk_forward(yearly(problem), market=problem.market, output=folder, resume=begun)
    if result.summary is None:
        raise SystemExit("stopped early; continue with --resume and the same --runs")
    accounts = {name: result.returns[name].to_numpy() for name in result.returns if name not in ("bar", "time")}
    return result.returns["bar"].to_numpy(), accounts, result.summary


def agent_rows(problem: Problem, rules: dict[str, Any], folder: pathlib.Path, resume: bool) -> dict[str, Any]:
    """Figures of agents, and of each account against each rule in the same bars.

    Args:
      problem: market, configuration and first decision.
      rules: ledgers by name, from the same first decision.
      folder: of the walk-forward.
      resume: go on with the one in the folder.
    """
    bars, accounts, summary = train_agents(problem, folder, resume)
    places, paths = bars - problem.first - 1, summary["walk_forward"]["paths"]
    times, found = problem.times[places] if len(problem.times) else problem.times, {}
    for name, returns in accounts.items():
        traded = paths[name]
        found[name] = {
            **real_figures.figures(returns, times, problem.periods),
            "turnover": traded["turnover"],
            "costs_of_starting_equity": traded["costs"],
            "against": {
                rule: real_figures.difference(returns, ledger.returns[places], problem.periods)
                for rule, ledger in rules.items()
            },
        }
        if BASE in rules:
            found[name]["active"] = real_figures.active(returns, rules[BASE].returns[places], problem.periods)
    ship, first = summary["walk_forward"].get("ship"), summary["out_of_sample"]["baseline"]["untrained"]
    gate = {} if ship is None else {"traded_folds": ship["traded"], "folds": len(ship["folds"])}
    untrained = {"untrained": {name: first[name] for name in ("sharpe", "volatility")}}
    return {"agents": found, "train": summary["train"], "bars": [int(bars[0]), int(bars[-1])], **gate, **untrained}


def real_test(problem: Problem, folder: pathlib.Path | None, resume: bool) -> dict[str, Any]:
    """Rules, and agents unless there is no folder for them, on one market at one level of costs; prints the tables.

    Args:
      problem: market, configuration and first decision.
      folder: of the walk-forward; None for rules alone.
      resume: go on with the one in the folder.
    """
    ledgers = trade_rules(problem)
    rules = {name: real_figures.account_figures(one, problem.times, problem.periods) for name, one in ledgers.items()}
    print(real_figures.plain_table(rules, RULE_COLUMNS))
    if folder is None:
        reference = ledgers[REFERENCE].returns
        pairs = {
            name: real_figures.difference(reference, one.returns, problem.periods)
            for name, one in ledgers.items()
            if name != REFERENCE
        }
        print(f"\n{REFERENCE} less\n{real_figures.plain_table(pairs, PAIR_COLUMNS)}\n")
        return {"rules": rules, "linear_policy_against": pairs}
    found = agent_rows(problem, ledgers, folder, resume)
    print(f"\n{real_figures.plain_table(found['agents'], RULE_COLUMNS)}")
    for name, row in found["agents"].items():
        print(f"\n{name} less\n{real_figures.plain_table(row['against'], PAIR_COLUMNS)}")
        if "active" in row:
            print(f"beyond its base: {row['active']}")
    return {"rules": rules, **found}


def copies(
    problem: Problem, n: int, power: float | None, folder: pathlib.Path | None, resume: bool
) -> Iterator[dict[str, Any]]:
    """Rules, and agents unless there is no folder for them, on copies of a market; after each, the means over those.

    Args:
      problem: market, configuration and first decision.
      n: number of copies.
      power: Sharpe ratio of the planted trend; None for nothing planted.
      folder: of the walk-forwards; None for rules alone.
      resume: go on with those in the folder.
    """
    rows: list[dict[str, Any]] = []
    gates: list[dict[str, int]] = []
    for seed in range(n):
        market = shuffled(problem.market, seed) if power is None else planted(problem.market, power, seed)[0]
        copy = dataclasses.replace(problem, market=market)
        ledgers = trade_rules(copy)
        row = {name: {"sharpe": real_figures.sharpe_of(one.returns, copy.periods)} for name, one in ledgers.items()}
        if folder is not None:
            found = agent_rows(copy, ledgers, folder / f"copy-{seed}", resume)
            row |= {"untrained": found["untrained"], **found["agents"]}
            gates += [{name: found[name] for name in ("traded_folds", "folds")}] if "folds" in found else []
        rows.append(row)
        print(f"copy {seed}: " + ", ".join(f"{name} {one['sharpe']:.2f}" for name, one in row.items()), flush=True)
        jax.clear_caches()  # programs of twenty walk-forwards are more than a process may map
        yield over(rows, gates, power)


def over(rows: list[dict[str, Any]], gates: list[dict[str, int]], power: float | None) -> dict[str, Any]:
    """Means over copies of a market; prints them.

    Args:
      rows: of each copy, figures of rules and agents.
      gates: of each copy, how many folds its agent traded.
      power: Sharpe ratio of the planted trend; None for nothing planted.
    """
    summary: dict[str, Any] = {}
    for name in rows[0]:
        of_name = [row[name] for row in rows]
        summary[name] = {"sharpe": real_figures.over_copies(of_name, "sharpe")}
        for rule in of_name[0].get("against", {}):
            pairs = [one["against"][rule] for one in of_name]
            found = [pair["p_value"] < 0.05 for pair in pairs if pair]
            better = {"share_found_better": float(np.mean(found)) if found else None}
            summary[name].setdefault("against", {})[rule] = real_figures.over_copies(pairs, "difference") | better
    print(real_figures.plain_table({name: row["sharpe"] for name, row in summary.items()}, ("mean", "standard_error")))
    share = {}
    if gates:
        traded, of = (sum(gate[name] for gate in gates) for name in ("traded_folds", "folds"))
        share = {"share_of_folds_traded": traded / of}
        print(f"the agent traded {traded} of {of} folds")
    return {"copies": len(rows), "planted_sharpe": power, **share, "mean": summary, "each": rows}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--data", default=".", help="folder with the price files (default: the present one)")
    parser.add_argument("--seeds", type=int, default=None, help="agents of each test (default: of the configuration)")
    parser.add_argument("--placebo", type=int, default=0, help="trade so many shuffled copies, not the real market")
    parser.add_argument(
        "--power", type=float, default=None, help="Sharpe ratio of a trend that copies are planted with"
    )
    parser.add_argument("--label", default=None, help="last word of the name of the result file, for other options")
    parser.add_argument("--own-costs-only", action="store_true", help="leave out the higher level of costs")
    parser.add_argument("--rules-only", action="store_true", help="train no agents")
    parser.add_argument("--runs", default=None, help="folder for the walk-forwards (default: a temporary one)")
    parser.add_argument("--resume", action="store_true", help="go on with those in --runs")
    known, overrides = parser.parse_known_args(arguments)
    if known.power is not None and not known.placebo:
        parser.error("--power plants a trend in shuffled copies: say how many with --placebo")
    prices = SETS[known.set]
    seeds = [] if known.seeds is None else ["--walk_forward.seeds", str(known.seeds)]
    overrides = [*seeds, *overrides]
    config = jaxppo.load_config(prices.config, overrides)
    market = prices.load(pathlib.Path(known.data))
    problem = Problem(market, config, first_bar_of(market, prices.first_year), prices.budget)
    runs = pathlib.Path(tempfile.mkdtemp() if known.runs is None else known.runs)
    started, content = time.perf_counter(), description(known.set, problem, overrides)
    words = [f"real_{known.set}"] + ["rules"] * known.rules_only
    if known.placebo:
        kind = "placebo" if known.power is None else f"power_{known.power:g}"
        folder = None if known.rules_only else runs / f"{known.set}-{kind}"
        words += [kind, *([] if known.label is None else [known.label])]
        for found in copies(problem, known.placebo, known.power, folder, known.resume):
            content |= {kind.partition("_")[0]: found, "seconds": time.perf_counter() - started}
            print(record("_".join(words), content))
        return
    else:
        content["costs"] = {}
        for level, share in list(SPREADS.items())[: 1 if known.own_costs_only else None]:
            print(f"{known.set}, {level}")
            at_level = dataclasses.replace(problem, config=at_spread(config, share))
            folder = None if known.rules_only else runs / f"{known.set}-{level.replace(' ', '-')}"
            content["costs"][level] = real_test(at_level, folder, known.resume)
    words += [] if known.label is None else [known.label]
    print(record("_".join(words), {**content, "seconds": time.perf_counter() - started}))


def description(name: str, problem: Problem, overrides: Sequence[str]) -> dict[str, Any]:
    """What was traded, under which configuration, and what has been published for the like.

    Args:
      name: of the set.
      problem: market, configuration and first decision.
      overrides: of the configuration, as on the command line.
    """
    path, market = pathlib.Path(SETS[name].config), problem.market
    times = market.info.timestamps[[problem.first, -1]].astype("datetime64[D]").astype(str)
    return {
        "set": name,
        "config": str(path),
        "config_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "options": list(overrides),
        "fingerprint": market.info.report.get("fingerprint"),
        "assets": market.n_assets,
        "span": [str(times[0]), str(times[1])],
        "bars": market.n_bars - 1 - problem.first,
        "bars_per_year": problem.periods,
        "half_spread_bp": float(np.median(np.asarray(market.half_spread)[np.asarray(market.tradable)])) * 1e4,
        "published": PUBLISHED if name == "futures" else [],
    }


if __name__ == "__main__":
    main()
