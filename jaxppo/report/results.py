"""Results that a report shows, as plain arrays and numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from jaxppo.report.formatting import is_sharpe

Interval = tuple[float | None, float | None]


class Selected(NamedTuple):
    """What selected the checkpoint.

    Attributes:
      metric: its name in the rows of `metrics.jsonl`.
      iteration: of the checkpoint; None where there were several, one for each agent.
    """

    metric: str = "validation_sharpe"
    iteration: int | None = None


def selected_of(validation: Mapping[str, Any]) -> Selected:
    """What selected the checkpoint of a run.

    Args:
      validation: that entry of its summary: `best_iteration`, and the best figure as `best_NAME`.
    """
    best = [name.removeprefix("best_") for name in validation if name.startswith("best_") and name != "best_iteration"]
    return Selected(f"validation_{best[0]}", validation["best_iteration"]) if best else Selected()


@dataclasses.dataclass(frozen=True)
class MaskEffect:
    """Effect of one mask, against the same policy with all masks but this one.

    What two masks forbid alike counts for neither of them.

    Attributes:
      bound: share of the decisions about an asset with a bar that it changed, along the path with all masks.
      exposure_removed: mean gross exposure at the close of an account without it, less that of the account with it;
        fraction of equity. Each account trades through the whole period.
      costs_saved: costs of trading and financing of the account without it, less those of the account with it; per
        year, fraction of equity. Negative where it made trading dearer.
      by_regime: the same of the decisions, positions and costs of assets in each regime that occurred: `bound` is a
        share of the decisions in it; exposure and costs are contributions, which add up to the whole.
    """

    bound: float
    exposure_removed: float
    costs_saved: float
    by_regime: dict[str, dict[str, float]]


@dataclasses.dataclass(frozen=True, eq=False)
class Performance:
    """When and with what a strategy earned what it earned, over n bars.

    Attributes:
      monthly: "2020-01" -> return of the month, fraction; empty for a market without times.
      window: bars of the moving Sharpe ratio; 0 where the period is too short for one.
      ends: `[m]` int, points of the equity at which it is known.
      rolling: `[m]` annual Sharpe ratio of the window that ends there; NaN where it is undefined.
      rolling_ci: `[2, m]` ends of its interval.
      contribution: a row for each asset: `profit`, net of its costs, and `costs`, both currency.
      financing: borrow fees, margin interest and funding less interest on cash, currency.
      other: profit that neither fills nor financing explain, currency: rounding, or a position that was opened and
        liquidated within a bar.
      trips: a row for each round trip, in order: `symbol`, `side` (long or short), `opened` and `closed` (points of the
        equity; -1 for one that is still open), `bars` and `profit` (currency, after costs; so far).
      funding: part of the financing that is funding of perpetuals, currency.
      dividends: received less paid, currency; part of the profits of `contribution`, not of those of `trips`.
    """

    monthly: Mapping[str, float]
    window: int
    ends: np.ndarray
    rolling: np.ndarray
    rolling_ci: np.ndarray
    contribution: pd.DataFrame
    financing: float
    other: float
    trips: pd.DataFrame
    funding: float = 0.0
    dividends: float = 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class Inspection:
    """Attention and attributions of a policy: means over decisions of an account without positions.

    L blocks, H heads, W lags, A assets, N bars, G groups. None is what the policy does not have: a perceptron attends
    to nothing, and there may be no coarser levels and no attention across assets.

    Attributes:
      bars: `[n]` decision bars.
      lag: `[L, H, W]` attention by how many bars ago.
      levels: `[L, H, 1 + levels]` shares of the window and of each coarser level.
      pools: bars that each coarser level pools.
      assets: `[A, A]` attention that an asset (first axis) gives to each, mean of blocks and heads.
      regimes: name -> `[L, H, W]` attention by lag when the volatility is in the lowest, middle and highest third.
      hours: hour of the day, exchange time -> `[L, H, W]`; empty for bars of a day.
      rollout: `[2, N]` share of the memory by bars ago, of the asset itself and of all others.
      entropy: `[L, H]` of the attention, in shares of the largest possible.
      redundancy: `[L]` similarity of the heads of a block.
      importance: group -> KL of decisions with all features against those with the group at its mean, nats.
      gradients: `[G, N]` mean absolute integrated gradient of the sum of target weights, by bars ago, against the
        mean of each feature.
      features: name -> mean absolute integrated gradient, summed over bars.
      gates: group -> learned weight of its embedding; 1 at the start.
    """

    bars: np.ndarray
    lag: np.ndarray | None
    levels: np.ndarray | None
    pools: tuple[int, ...]
    assets: np.ndarray | None
    regimes: dict[str, np.ndarray]
    hours: dict[int, np.ndarray]
    rollout: np.ndarray | None
    entropy: np.ndarray | None
    redundancy: np.ndarray | None
    importance: dict[str, float]
    gradients: np.ndarray
    features: dict[str, float]
    gates: dict[str, float]


@dataclasses.dataclass(frozen=True, eq=False)
class ReportData:
    """What the report of a run shows: n bars, A assets.

    Attributes:
      title: of the run.
      timestamps: `[n + 1]` datetime64, the start of the first bar traded included; empty for a market without times.
      equity: strategy -> `[n + 1]` currency, the starting equity included; the first strategy is the agent, the others
        are its baselines under the same costs.
      weights: `[n, A]` weights of the agent at the close of each bar, fraction of equity, negative when short.
      symbols: A names.
      costs: kind -> `[n]` costs of the agent per bar, currency.
      training: rows of `metrics.jsonl`; may be empty.
      metrics: strategy -> metric -> value; None or NaN where it is undefined.
      intervals: strategy -> metric -> (low, high); every Sharpe ratio in `metrics` needs one (NaN ends if undefined).
      data_report: what the loader counted and repaired.
      config_yaml: the resolved configuration.
      warnings: what the reader must know before believing the rest; shown in red.
      told: sentences that end the verdict.
      sharpe_differences: baseline -> (low, high) of the agent's Sharpe ratio less that of the baseline, from paired
        resampling; may be empty.
      detectable: baseline -> smallest difference of Sharpe ratios that the period can show; None where it has none.
      level: coverage of all the intervals, in (0, 1).
      performance: when and with what the agent earned; None leaves it out.
      inspection: attention and attributions of the policy; None leaves them out.
      masks: mask -> its effect; empty without masks, None where it is not known.
      monitored: strategy -> monitored limit -> its figures, see `jaxppo.report.monitor`; empty without limits.
      stopped: the breach that stopped the agent; None without one.
      constraints: constraint -> limit, measured, multiplier, held and infeasible, as in summary.json; may be empty.
      selection: period -> selection-adjusted figures, as in summary.json; may be empty.
      sections: more sections, title -> HTML.
      capacity: results at other costs and capital, see `jaxppo.backtest.capacity.costs_and_capital`; None leaves them
        out.
      by_regime: strategy -> regime -> figures, see `jaxppo.report.by_regime`; may be empty.
      regimes: `[n + 1]` int, the regime known at each point of the equity, position in
        `jaxppo.envs.market.features.REGIMES`; -1 where none is. None: it is not known anywhere.
      selected: what selected the checkpoint, which is drawn first of the training curves.
      unlearned: whether the agent trades as it did before any training.

    Raises:
      ValueError: if lengths do not fit together, or a Sharpe ratio comes without its interval.
    """

    title: str
    timestamps: np.ndarray
    equity: Mapping[str, np.ndarray]
    weights: np.ndarray
    symbols: tuple[str, ...]
    costs: Mapping[str, np.ndarray]
    training: Sequence[Mapping[str, Any]]
    metrics: Mapping[str, Mapping[str, float | None]]
    intervals: Mapping[str, Mapping[str, Interval]]
    data_report: Mapping[str, Any]
    config_yaml: str
    warnings: tuple[str, ...] = ()
    told: tuple[str, ...] = ()
    sharpe_differences: Mapping[str, Interval] = dataclasses.field(default_factory=dict)
    detectable: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    level: float = 0.95
    performance: Performance | None = None
    inspection: Inspection | None = None
    masks: Mapping[str, MaskEffect] | None = dataclasses.field(default_factory=dict)
    monitored: Mapping[str, Mapping[str, Mapping[str, Any]]] = dataclasses.field(default_factory=dict)
    stopped: Mapping[str, Any] | None = None
    constraints: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    selection: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    sections: Mapping[str, str] = dataclasses.field(default_factory=dict)
    capacity: Mapping[str, Any] | None = None
    by_regime: Mapping[str, Mapping[str, Mapping[str, Any]]] = dataclasses.field(default_factory=dict)
    regimes: np.ndarray | None = None
    selected: Selected = dataclasses.field(default_factory=Selected)
    unlearned: bool = False

    def __post_init__(self) -> None:
        n, n_assets = np.shape(self.weights)
        if not self.equity or n < 1:
            raise ValueError("a report needs the equity of at least one strategy over at least one bar")
        points = {f"equity[{name!r}]": len(values) for name, values in self.equity.items()}
        if self.regimes is not None:
            points["regimes"] = len(self.regimes)
        if len(self.timestamps):
            points["timestamps"] = len(self.timestamps)
        wrong = [f"{name} has {length} points, not {n + 1}" for name, length in points.items() if length != n + 1]
        wrong += [
            f"costs[{kind!r}] has {len(paid)} bars, not {n}" for kind, paid in self.costs.items() if len(paid) != n
        ]
        if wrong:
            raise ValueError(f"the weights have {n} bars, but {'; '.join(wrong)}")
        if len(self.symbols) != n_assets:
            raise ValueError(f"weights have {n_assets} assets but there are {len(self.symbols)} symbols")
        for strategy, values in self.metrics.items():
            bare = [name for name in values if is_sharpe(name) and name not in self.intervals.get(strategy, {})]
            if bare:
                raise ValueError(f"{bare[0]} of {strategy!r} has no interval; no Sharpe ratio is shown without one")

    @property
    def agent(self) -> str:
        """Name of the strategy under test."""
        return next(iter(self.equity))

    @property
    def points(self) -> np.ndarray:
        """`[n + 1]` time axis of the equity: timestamps, or bar numbers from 0."""
        return self.timestamps if len(self.timestamps) else np.arange(len(self.weights) + 1)

    @property
    def starting_equity(self) -> float:
        """Of the agent, currency."""
        return float(self.equity[self.agent][0])

    @property
    def total_costs(self) -> dict[str, float]:
        """Kind -> costs of the agent over the whole period, currency."""
        return {kind: float(np.sum(paid, dtype=np.float64)) for kind, paid in self.costs.items()}
