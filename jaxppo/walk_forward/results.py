"""What a walk-forward found: a row for each agent and test, and what choosing by validation was worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from scipy.stats import t as student

from jaxppo.backtest.simulate import Ledger
from jaxppo.envs.market.market_data import MarketData
from jaxppo.run.periods import time_of
from jaxppo.run.trials import sharpe_of
from jaxppo.statistics import sharpe_error
from jaxppo.walk_forward.plan import Plan
from jaxppo.walk_forward.training import Agent

SELECTED = "selected"
"""The way that takes, in each fold, the agent with the best validation."""


def ways_to_choose(agents: Sequence[Agent], n_folds: int) -> dict[str, list[int]]:
    """For each way to choose an agent in every fold, their numbers: by validation, and each seed throughout.

    With one seed there is one way.
    """
    seeds = list(dict.fromkeys(agent.seed for agent in agents))
    of_fold = [[n for n, agent in enumerate(agents) if agent.fold == fold] for fold in range(n_folds)]
    ways = {SELECTED: [max(own, key=lambda n: agents[n].best_score) for own in of_fold]}
    if len(seeds) > 1:
        ways |= {f"seed {seed}": [own[place] for own in of_fold] for place, seed in enumerate(seeds)}
    return ways


def path_name(way: str, path: int, n_paths: int) -> str:
    """How a path is called: by the way alone where there is one path."""
    return way if n_paths == 1 else f"{way}, path {path}"


def figures_of(ledger: Ledger, start: int, stop: int, periods: float, level: float) -> dict[str, Any]:
    """Figures of a stretch of a ledger, bars `start .. stop - 1` of it.

    Returns:
      `sharpe` (annual) with `sharpe_low` and `sharpe_high` from its standard error under the skewness and kurtosis of
      the returns (None where nothing was traded), `total_return`, `max_drawdown` within the stretch, `turnover` a year
      and `costs` as a fraction of the equity at its start.
    """
    equity = np.asarray(ledger.equity, np.float64)[start : stop + 1]
    returns = ledger.returns[start:stop]
    sharpe, ends = sharpe_of(returns), [None, None]
    if sharpe != 0.0 and len(returns) > 3:
        half = NormalDist().inv_cdf(0.5 + level / 2.0) * float(sharpe_error(returns))
        found = [(sharpe + sign * half) * math.sqrt(periods) for sign in (-1.0, 1.0)]
        ends = found if all(map(math.isfinite, found)) else ends
    peak = np.maximum.accumulate(equity)
    paid = float(ledger.expenses[start:stop].sum())
    return {
        "sharpe": sharpe * math.sqrt(periods),
        "sharpe_low": ends[0],
        "sharpe_high": ends[1],
        "total_return": float(equity[-1] / equity[0] - 1.0) if equity[0] > 0 else 0.0,
        "max_drawdown": float(np.max(1.0 - equity / peak)) if (peak > 0).all() else None,
        "turnover": float(np.mean(np.asarray(ledger.turnover, np.float64)[start:stop])) * periods,
        "costs": paid / float(equity[0]) if equity[0] > 0 else None,
    }


def fold_table(
    plan: Plan,
    agents: Sequence[Agent],
    ways: dict[str, list[int]],
    ledgers: Sequence[Sequence[Ledger]],
    market: MarketData,
    periods: float,
    level: float,
) -> pd.DataFrame:
    """A row for each test of each agent.

    Args:
      plan: folds and paths.
      agents: all of them.
      ways: from `ways_to_choose`.
      ledgers: of each way and path.
      market: what was traded.
      periods: bars per year.
      level: of the intervals.

    Returns:
      Columns `fold`, `path`, `seed`, `selected` (whether validation chose the agent in its fold), `best_iteration`,
      `validation_sharpe` (annual), `first`, `last` (times or numbers of the first decision and last mark), `n_bars`,
      and those of `figures_of` under the account that traded the whole path with the seed (or with the selected agents,
      where there is one seed).
    """
    chosen = set(ways[SELECTED])
    rows, origin = [], plan.test.first
    names = [way for way in ways if way != SELECTED] or [SELECTED]
    for way in names:
        number = list(ways).index(way)
        for path, parts in enumerate(plan.paths):
            for fold, position in parts:
                test, agent = plan.folds[fold].tests[position], ways[way][fold]
                own = agents[agent]
                found = figures_of(ledgers[number][path], test.first - origin, test.last - origin, periods, level)
                rows.append(
                    {
                        "fold": fold,
                        "path": path,
                        "seed": own.seed,
                        "selected": agent in chosen,
                        "best_iteration": own.best_iteration,
                        "validation_sharpe": own.best_score,
                        "first": time_of(market, test.first),
                        "last": time_of(market, test.last),
                        "n_bars": test.n_bars,
                        **found,
                    }
                )
    return pd.DataFrame(rows).sort_values(["fold", "path", "seed"], ignore_index=True)


def adjust_folds_for_selection(folds: pd.DataFrame, *, overlapping: bool = False) -> dict[str, Any]:
    """Whether validation tells the agents of a fold apart. Tests in which an agent stood aside are left out.

    Args:
      folds: from `fold_table`.
      overlapping: whether folds share bars, so that their scatter says nothing of the error.

    Returns:
      `rank_correlation`: Spearman's, of validation and test Sharpe ratios of the seeds of a fold, mean over the tests
      where it exists. `gain`: test Sharpe ratio of the selected agents less that of the average seed, mean over folds,
      and `gain_ci`, its Student's interval at 95 %. None where there is one seed; no interval from one fold or
      overlapping ones.
    """
    active = folds[~idle(folds)]
    none = {"rank_correlation": None, "gain": None, "gain_ci": [None, None]}
    if active.seed.nunique() < 2:
        return none
    correlations, gains = [], {}
    for (fold, _), rows in active.groupby(["fold", "path"]):
        if rows.validation_sharpe.nunique() > 1 and rows.sharpe.nunique() > 1:
            correlations.append(float(spearmanr(rows.validation_sharpe, rows.sharpe).statistic))
        if rows.selected.any():
            gains.setdefault(fold, []).append(rows.sharpe[rows.selected].mean() - rows.sharpe.mean())
    by_fold = np.array([np.mean(each) for each in gains.values()])
    found = none | {"rank_correlation": float(np.mean(correlations)) if correlations else None}
    if len(by_fold):
        found["gain"] = float(by_fold.mean())
    if len(by_fold) > 1 and not overlapping:
        half = float(student.ppf(0.975, len(by_fold) - 1) * by_fold.std(ddof=1) / math.sqrt(len(by_fold)))
        found["gain_ci"] = [found["gain"] - half, found["gain"] + half]
    return found


def idle(folds: pd.DataFrame) -> pd.Series:
    """Tests in which an agent did nothing and earned nothing: it chose to, or its account was stopped or liquidated."""
    return (folds.turnover == 0.0) & (folds.total_return == 0.0)


def tests_won(plan: Plan, selected: Sequence[Ledger]) -> dict[str, int]:
    """Of the tests of the selected agents' accounts, one for each path: `tests`, those `won`, and `idle` ones."""
    found = [
        figures_of(ledger, *(bar - plan.test.first for bar in (test.first, test.last)), 1.0, 0.95)
        for path, ledger in zip(plan.paths, selected, strict=True)
        for test in (plan.folds[fold].tests[position] for fold, position in path)
    ]
    table = pd.DataFrame(found)
    return {
        "tests": len(table),
        "won": int((table.total_return > 0).sum()),
        "idle": int(idle(table).sum()),
    }


def path_figures(
    ways: dict[str, list[int]], ledgers: Sequence[Sequence[Ledger]], n_bars: int, periods: float, level: float
) -> dict[str, dict[str, Any]]:
    """`figures_of` each whole path, by name."""
    return {
        path_name(way, path, len(own)): figures_of(ledger, 0, n_bars, periods, level)
        for way, own in zip(ways, ledgers, strict=True)
        for path, ledger in enumerate(own)
    }


def returns_table(
    ways: dict[str, list[int]], ledgers: Sequence[Sequence[Ledger]], plan: Plan, market: MarketData
) -> pd.DataFrame:
    """Out-of-sample returns: a row for each bar (`bar`, and `time` in a market with times), a column for each path."""
    bars = np.arange(plan.test.first + 1, plan.test.last + 1)
    times = market.info.timestamps
    columns = {"bar": bars} | ({"time": times[bars]} if len(times) else {})
    columns |= {
        path_name(way, path, len(own)): ledger.returns
        for way, own in zip(ways, ledgers, strict=True)
        for path, ledger in enumerate(own)
    }
    return pd.DataFrame(columns)
