"""Results of a walk-forward: a row for each agent and test, and what selecting by validation gained."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from scipy.stats import t as student

from jaxppo.backtest.ledger import Ledger
from jaxppo.backtest.shipping import Ship
from jaxppo.envs.market.market_data import MarketData
from jaxppo.run.periods import time_of
from jaxppo.run.trials import sharpe_of
from jaxppo.statistics import sharpe_error
from jaxppo.walk_forward.concatenated import Lineup
from jaxppo.walk_forward.job import Agent
from jaxppo.walk_forward.plan import Plan

SELECTED = "selected"
"""The line-up that takes, in each fold, the agent with the best validation."""
ENSEMBLE = "ensemble"
"""The line-up that trades the mean of the targets of all seeds."""
GATED = "gated"
"""The line-up in which the base trades the folds whose agents had not shown more."""


class Account(NamedTuple):
    """One account through all tests of a path.

    Attributes:
      name: that of the line-up, and of the path where there are several.
      lineup: name of the agents that trade.
      path: number of the path.
      ledger: over the whole test.
    """

    name: str
    lineup: str
    path: int
    ledger: Ledger


@dataclasses.dataclass(frozen=True)
class OutOfSample:
    """What the agents of a walk-forward did in their tests.

    Attributes:
      plan: folds and paths.
      agents: all of them, fold by fold.
      lineups: from `make_lineups`.
      ledgers: for each line-up and each path, the ledger of its account over `plan.test`.
      market: that was traded.
      periods: bars per year.
      level: of the intervals, in (0, 1).
      ships: for each fold, what the evidence before its test said; None without a gate.
    """

    plan: Plan
    agents: Sequence[Agent]
    lineups: Mapping[str, Lineup]
    ledgers: Sequence[Sequence[Ledger]]
    market: MarketData
    periods: float
    level: float
    ships: Sequence[Ship] | None = None

    @property
    def accounts(self) -> list[Account]:
        """One account for each line-up and path."""
        return [
            Account(name if len(ledgers) == 1 else f"{name}, path {path}", name, path, ledger)
            for name, ledgers in zip(self.lineups, self.ledgers, strict=True)
            for path, ledger in enumerate(ledgers)
        ]

    @property
    def of_agents(self) -> list[Account]:
        """Accounts in which every agent trades once: those of the seeds, where there are several."""
        single = [name for name, lineup in self.lineups.items() if lineup.shares is None and name != ENSEMBLE]
        named = [name for name in single if name != SELECTED] or single
        return [account for account in self.accounts if account.lineup in named]

    def figures(self, ledger: Ledger, first: int, last: int) -> dict[str, Any]:
        """Computes the figures of a stretch of an account.

        Args:
          ledger: of the account.
          first: bar of the market at which the stretch begins.
          last: bar at which it ends.

        Returns:
          `sharpe` (annual) with `sharpe_low` and `sharpe_high` from its standard error under the skewness and kurtosis
          of the returns (None where nothing was traded), `total_return`, `max_drawdown` within the stretch, `turnover`
          a year and `costs` as a fraction of the equity at its start.
        """
        start, stop = first - self.plan.test.first, last - self.plan.test.first
        equity = np.asarray(ledger.equity, np.float64)[start : stop + 1]
        returns = ledger.returns[start:stop]
        sharpe, root, low, high = sharpe_of(returns), math.sqrt(self.periods), math.nan, math.nan
        if sharpe != 0.0 and len(returns) > 3:
            half = NormalDist().inv_cdf(0.5 + self.level / 2.0) * float(sharpe_error(returns))
            low, high = (sharpe - half) * root, (sharpe + half) * root
        known = math.isfinite(low) and math.isfinite(high)
        peak = np.maximum.accumulate(equity)
        paid = float(ledger.expenses[start:stop].sum())
        return {
            "sharpe": sharpe * root,
            "sharpe_low": low if known else None,
            "sharpe_high": high if known else None,
            "total_return": float(equity[-1] / equity[0] - 1.0) if equity[0] > 0 else 0.0,
            "max_drawdown": float(np.max(1.0 - equity / peak)) if (peak > 0).all() else None,
            "turnover": float(np.mean(np.asarray(ledger.turnover, np.float64)[start:stop])) * self.periods,
            "costs": paid / float(equity[0]) if equity[0] > 0 else None,
        }


def make_lineups(agents: Sequence[Agent], n_folds: int, combine: str = "best") -> dict[str, Lineup]:
    """Makes the line-ups by name; the first is what is reported.

    Of one seed its agents. Of several seeds the ensemble of all (`combine` "mean"), or those that were best on
    validation ("best"); and each seed by itself.

    Args:
      agents: all of them, fold by fold.
      n_folds: number of folds.
      combine: "mean" or "best".
    """
    seeds = list(dict.fromkeys(agent.seed for agent in agents))
    of_fold = [[n for n, agent in enumerate(agents) if agent.fold == fold] for fold in range(n_folds)]
    if len(seeds) > 1 and combine == "mean":
        lineups = {ENSEMBLE: Lineup(of_fold)}
    else:
        lineups = {SELECTED: Lineup([[n] for n in best_of_folds(agents, n_folds)])}
    for place, seed in enumerate(seeds if len(seeds) > 1 else ()):
        lineups[f"seed {seed}"] = Lineup([[numbers[place]] for numbers in of_fold])
    return lineups


def best_of_folds(agents: Sequence[Agent], n_folds: int) -> list[int]:
    """Number of the agent of each fold that was best on validation.

    Args:
      agents: all of them, fold by fold.
      n_folds: number of folds.
    """
    of_fold = [[n for n, agent in enumerate(agents) if agent.fold == fold] for fold in range(n_folds)]
    return [max(numbers, key=lambda n: agents[n].score) for numbers in of_fold]


def fold_table(found: OutOfSample) -> pd.DataFrame:
    """Tabulates each test of each agent.

    Returns:
      Columns `fold`, `path`, `seed`, `selected` (whether the agent was the best of its fold on validation),
      `best_iteration`, `validation_sharpe` (annual), `first`, `last` (times or numbers of the first decision and last
      mark), `n_bars`, and those of `OutOfSample.figures` under the account that traded the whole path with the seed
      (or with the selected agents, where there is one seed).
    """
    selected, rows = set(best_of_folds(found.agents, len(found.plan.folds))), []
    for account in found.of_agents:
        for fold, position in found.plan.paths[account.path]:
            number, test = found.lineups[account.lineup].members[fold][0], found.plan.folds[fold].tests[position]
            agent = found.agents[number]
            rows.append(
                {
                    "fold": fold,
                    "path": account.path,
                    "seed": agent.seed,
                    "selected": number in selected,
                    "best_iteration": agent.best_iteration,
                    "validation_sharpe": agent.score,
                    "first": time_of(found.market, test.first),
                    "last": time_of(found.market, test.last),
                    "n_bars": test.n_bars,
                    **found.figures(account.ledger, test.first, test.last),
                }
            )
    return pd.DataFrame(rows).sort_values(["fold", "path", "seed"], ignore_index=True)


def adjust_folds_for_selection(folds: pd.DataFrame, *, overlapping: bool = False) -> dict[str, Any]:
    """Measures whether validation tells the agents of a fold apart. Tests in which an agent stood aside are left out.

    Args:
      folds: from `fold_table`.
      overlapping: whether folds share bars, so that their scatter says nothing of the error.

    Returns:
      `rank_correlation`: Spearman's, of validation and test Sharpe ratios of the seeds of a fold, mean over the tests
      where it exists. `gain`: test Sharpe ratio of the selected agents less that of the average seed, mean over folds,
      and `gain_ci`, its Student's interval at 95 %. None where there is one seed; no interval from one fold or
      overlapping ones.
    """
    active = folds[~_idle(folds)]
    result: dict[str, Any] = {"rank_correlation": None, "gain": None, "gain_ci": [None, None]}
    if active.seed.nunique() < 2:
        return result
    correlations: list[float] = []
    gains: dict[int, list[float]] = {}
    for (fold, _), rows in active.groupby(["fold", "path"]):
        if rows.validation_sharpe.nunique() > 1 and rows.sharpe.nunique() > 1:
            correlations.append(float(spearmanr(rows.validation_sharpe, rows.sharpe).statistic))
        if rows.selected.any():
            gains.setdefault(fold, []).append(rows.sharpe[rows.selected].mean() - rows.sharpe.mean())
    by_fold = np.array([np.mean(each) for each in gains.values()])
    if correlations:
        result["rank_correlation"] = float(np.mean(correlations))
    if len(by_fold):
        result["gain"] = float(by_fold.mean())
    if len(by_fold) > 1 and not overlapping:
        half = float(student.ppf(0.975, len(by_fold) - 1) * by_fold.std(ddof=1) / math.sqrt(len(by_fold)))
        result["gain_ci"] = [result["gain"] - half, result["gain"] + half]
    return result


def _idle(folds: pd.DataFrame) -> pd.Series:
    """Tests in which an agent did nothing and earned nothing: it chose to, or its account was stopped or liquidated."""
    return (folds.turnover == 0.0) & (folds.total_return == 0.0)


def tests_won(found: OutOfSample) -> dict[str, int]:
    """Counts the tests of the first line-up's accounts, one for each path: `tests`, those `won`, and `idle` ones."""
    rows = [
        found.figures(ledger, test.first, test.last)
        for path, ledger in zip(found.plan.paths, found.ledgers[0], strict=True)
        for test in (found.plan.folds[fold].tests[position] for fold, position in path)
    ]
    table = pd.DataFrame(rows)
    return {
        "tests": len(table),
        "won": int((table.total_return > 0).sum()),
        "idle": int(_idle(table).sum()),
    }


def account_figures(found: OutOfSample) -> dict[str, dict[str, Any]]:
    """`OutOfSample.figures` of each account over all its tests, by name."""
    test = found.plan.test
    return {account.name: found.figures(account.ledger, test.first, test.last) for account in found.accounts}


def returns_table(found: OutOfSample) -> pd.DataFrame:
    """Tabulates out-of-sample returns: a row a bar (`bar`, and `time` in a market with times), a column an account."""
    bars = np.arange(found.plan.test.first + 1, found.plan.test.last + 1)
    times = found.market.info.timestamps
    columns = {"bar": bars} | ({"time": times[bars]} if len(times) else {})
    return pd.DataFrame(columns | {account.name: account.ledger.returns for account in found.accounts})
