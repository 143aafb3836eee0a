"""Counts live bars against training in constant memory, and says what has drifted."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from jaxppo.deploy.drift.reference import TINY, Reference
from jaxppo.deploy.drift.stability import (
    N_CATEGORIES,
    NOT_COMPARED,
    RARE,
    UNKNOWN,
    USUAL,
    categories,
    population_stability,
)

COST_BARS = 63
"""Bars with fills whose costs are compared with the model: the last ones."""
LEAST_COST_BARS = 10
SMALLEST_ERROR = 1e-6
"""Bars with fills before a cost can alarm, and the least deviation of costs from the model, fraction of their value."""
STABILITY, SPREAD, VOLATILITY, COST = "stability", "spread", "volatility", "cost"
COLUMNS = ("figure", "name", "live", "training", "value", "usual", "rare", "limit", "alarm")


@dataclasses.dataclass(frozen=True, eq=False)
class Drift:
    """Live bars against training.

    Attributes:
      table: a row for each figure and name:
        `stability` of a feature: `live` and `training` are the shares that are unknown, `value` is the population
        stability; `spread` of an asset: mean half-spreads, fractions of the price, and their ratio; `volatility` of an
        asset: root mean squares of log returns per bar, and their ratio; `cost` of all fills: realised and modelled,
        fractions of their value, and the t-statistic of the difference. `usual` and `rare` are exceeded in 5 % and 1 %
        of windows of an unchanged market by this figure alone, `limit` in 1 % by any figure of its kind.
      alarms: what is beyond its limit now, a sentence each.
      bars: that have been counted, at most `window`; until there are so many, features, spreads and volatility are NaN.
      window: bars that are compared with training.
      fills: bars with fills that have been counted.
    """

    table: pd.DataFrame
    alarms: tuple[str, ...]
    bars: int
    window: int
    fills: int

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and text: what one line of JSON holds."""
        rows = [{name: _plain(x) for name, x in row.items()} for row in self.table.to_dict(orient="records")]
        counted = {"bars": self.bars, "window": self.window, "fills": self.fills}
        return {**counted, "alarms": list(self.alarms), "figures": rows}


class Figures(NamedTuple):
    """What is compared; NaN where it is not known yet.

    Attributes:
      live: kind -> `[M]` as lived.
      training: kind -> `[M]` in training, or by the model.
      value: kind -> `[M]`.
      limits: kind -> usual, rare and limit, `[M]` each.
    """

    live: dict[str, np.ndarray]
    training: dict[str, np.ndarray]
    value: dict[str, np.ndarray]
    limits: dict[str, tuple[np.ndarray, ...]]


class Tracker:
    """Holds the last bars of a market against a reference.

    Args:
      reference: of training.
    """

    def __init__(self, reference: Reference):
        self.reference = reference
        window, n_features, n_assets = reference.window, len(reference.features), len(reference.symbols)
        self.seen = self.filled = 0
        self.last_alarm: dict[str, int] = {}
        self._found = np.full((window, n_assets, n_features), NOT_COMPARED, np.int8)
        self._spread = np.full((window, n_assets), np.nan)
        self._square = np.full((window, n_assets), np.nan)
        self._close = np.full(n_assets, np.nan)
        self._cost = np.full((COST_BARS, 2), np.nan)
        self._compared = reference.compared.T > 0
        self._counts = np.zeros((n_features, N_CATEGORIES), np.int64)

    def watch(self, fields: Mapping[str, np.ndarray]) -> None:
        """Notes the closes of a bar that is not compared: before the first decision.

        Args:
          fields: of the bar, as in `jaxppo.deploy.live_step.LiveBar`.
        """
        self._squares(fields)

    def count(self, features: np.ndarray, fields: Mapping[str, np.ndarray]) -> None:
        """Counts a bar; the oldest of a full window leaves it.

        Args:
          features: `[A, F]` at its close; NaN where unknown.
          fields: of the bar, as in `jaxppo.deploy.live_step.LiveBar`.
        """
        place = self.seen % self.reference.window
        if self.seen >= self.reference.window:
            self._counts -= _counted(self._found[place])
        self._square[place] = self._squares(fields)
        found = categories(np.asarray(features, np.float32), self.reference.edges)
        self._found[place] = np.where(self._compared, found, NOT_COMPARED)
        self._counts += _counted(self._found[place])
        self._spread[place] = np.where(fields["tradable"], fields["half_spread"], np.nan)
        self.seen += 1

    def count_cost(self, realised: float, modelled: float) -> None:
        """Counts the costs of the fills of a bar.

        Args:
          realised: fraction of their value.
          modelled: likewise.
        """
        self._cost[self.filled % COST_BARS] = realised, modelled
        self.filled += 1

    def _squares(self, fields: Mapping[str, np.ndarray]) -> np.ndarray:
        """Squared log return `[A]` of each asset since its bar before; NaN where there is none."""
        close, tradable = np.asarray(fields["close"], np.float64), np.asarray(fields["tradable"])
        found = np.where(tradable, np.square(np.log(close / self._close)), np.nan)
        self._close = np.where(tradable, close, self._close)
        return found

    def figures(self) -> Figures:
        """What has been counted against what was expected."""
        reference = self.reference
        full = self.seen >= reference.window
        shares = self._counts / np.maximum(self._counts.sum(axis=1, keepdims=True), 1)
        stability = population_stability(shares, reference.shares, reference.floor)
        spread, volatility = _mean(self._spread), np.sqrt(_mean(self._square))
        live = {STABILITY: shares[:, UNKNOWN], SPREAD: spread, VOLATILITY: volatility}
        training = {
            STABILITY: reference.shares[:, UNKNOWN], SPREAD: reference.half_spread, VOLATILITY: reference.volatility
        }  # fmt: skip
        value = {STABILITY: stability}
        value |= {kind: live[kind] / np.maximum(training[kind], TINY) for kind in (SPREAD, VOLATILITY)}
        value[SPREAD] = np.where(np.isnan(reference.half_spread) & np.isfinite(spread), np.inf, value[SPREAD])
        if not full:
            value = {kind: np.full_like(x, np.nan) for kind, x in value.items()}
        known = self._cost[: min(self.filled, COST_BARS)]
        live[COST], training[COST] = (np.asarray([x.mean() if len(x) else math.nan]) for x in known.T)
        value[COST], of_costs = _excess(known)
        limits = {
            STABILITY: reference.stability,
            SPREAD: reference.half_spread_limits,
            VOLATILITY: reference.volatility_limits,
            COST: of_costs,
        }
        return Figures(live, training, value, limits)

    def begun(self) -> list[str]:
        """Says, in a sentence each, what has gone beyond its limit, if it was not within the last window."""
        figures, said = self.figures(), []
        for kind, number in _beyond(figures):
            key = f"{kind} {self._name(kind, number)}"
            now, last = self._clock(kind), self.last_alarm.get(key)
            if last is None or now - last > (COST_BARS if kind == COST else self.reference.window):
                said.append(self._sentence(figures, kind, number))
            self.last_alarm[key] = now
        return said

    def drift(self) -> Drift:
        """All figures, as a table and in words."""
        figures, rows = self.figures(), []
        alarms = _beyond(figures)
        for kind, value in figures.value.items():
            for number in range(len(value)):
                numbers = (figures.live[kind], figures.training[kind], value, *figures.limits[kind])
                row = (kind, self._name(kind, number), *(float(x[number]) for x in numbers), (kind, number) in alarms)
                rows.append(dict(zip(COLUMNS, row, strict=True)))
        return Drift(
            table=pd.DataFrame(rows, columns=list(COLUMNS)),
            alarms=tuple(self._sentence(figures, kind, number) for kind, number in alarms),
            bars=min(self.seen, self.reference.window),
            window=self.reference.window,
            fills=min(self.filled, COST_BARS),
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """What is remembered, but for what `state` says."""
        return {name: getattr(self, f"_{name}") for name in ("found", "spread", "square", "close", "cost")}

    def state(self) -> dict[str, Any]:
        """Plain numbers of what is remembered."""
        return {"seen": self.seen, "filled": self.filled, "last_alarm": self.last_alarm}

    def restore(self, arrays: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> None:
        """Remembers what `arrays` and `state` have said.

        Args:
          arrays: from `arrays`.
          state: from `state`.

        Raises:
          ValueError: they are of another reference.
        """
        for name, like in self.arrays().items():
            if arrays[name].shape != like.shape:
                raise ValueError(f"{name} has the shape {arrays[name].shape}, {like.shape} is expected")
            setattr(self, f"_{name}", np.array(arrays[name], like.dtype))
        self.seen, self.filled = int(state["seen"]), int(state["filled"])
        self.last_alarm = {str(key): int(bar) for key, bar in state["last_alarm"].items()}
        rows = self._found[: min(self.seen, self.reference.window)]
        self._counts = np.sum([_counted(row) for row in rows], axis=0, initial=0) + np.zeros_like(self._counts)

    def _clock(self, kind: str) -> int:
        return self.filled if kind == COST else self.seen

    def _name(self, kind: str, number: int) -> str:
        if kind == COST:
            return "fills"
        return (self.reference.features if kind == STABILITY else self.reference.symbols)[number]

    def _sentence(self, figures: Figures, kind: str, number: int) -> str:
        """An alarm in words."""
        live, training = figures.live[kind][number], figures.training[kind][number]
        value, limit = figures.value[kind][number], figures.limits[kind][2][number]
        name, bars = self._name(kind, number), f"the last {self.reference.window} bars"
        if kind == STABILITY:
            return f"drift of feature {name}: population stability {value:.2f} over {bars}, above {limit:.2f}"
        if kind == SPREAD and math.isnan(training):
            return f"drift of {name}: it is traded, and training has no bar of it"
        if kind == SPREAD:
            return (
                f"drift of {name}: mean half-spread {live * 1e4:.2f} bp over {bars}, {value:.2f} times that of "
                f"training, above {limit:.2f}"
            )
        if kind == VOLATILITY:
            return (
                f"drift of {name}: volatility {live:.2%} a bar over {bars}, {value:.2f} times that of training, above "
                f"{limit:.2f}"
            )
        return (
            f"drift of costs: fills cost {live * 1e4:.2f} bp where the model has {training * 1e4:.2f} bp, over "
            f"{min(self.filled, COST_BARS)} bars with fills; t-statistic {value:.2f}, above {limit:.2f}"
        )


def _beyond(figures: Figures) -> list[tuple[str, int]]:
    """Kind and number of every figure beyond its limit."""
    return [
        (kind, int(number))
        for kind, value in figures.value.items()
        for number in np.flatnonzero((value > figures.limits[kind][2]) | np.isposinf(value))
    ]


def _counted(found: np.ndarray) -> np.ndarray:
    """How often each category `[F, B]` is in a row `[A, F]`."""
    return np.sum(found[:, :, None] == np.arange(N_CATEGORIES), axis=0)


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean `[A]` of what is known of `[N, A]`; NaN where nothing is."""
    known = np.isfinite(values)
    count = known.sum(axis=0)
    return np.where(count > 0, np.sum(np.where(known, values, 0.0), axis=0) / np.maximum(count, 1), np.nan)


def _excess(costs: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """t-statistic `[1]` of what costs `[n, 2]` exceed the model by, and its one-sided limits."""
    n = len(costs)
    if n < LEAST_COST_BARS:
        never = np.full(1, np.nan)
        return never, (never, never, never)
    excess = costs[:, 0] - costs[:, 1]
    error = max(float(np.std(excess, ddof=1)), SMALLEST_ERROR) / math.sqrt(n)
    usual, rare = (np.full(1, stdtrit(n - 1.0, level)) for level in (USUAL, RARE))
    return np.full(1, excess.mean() / error), (usual, rare, rare)


def _plain(value: Any) -> Any:
    """A value as JSON has it; numbers that are not finite are null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
