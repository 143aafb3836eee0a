"""What a model has to show before it is promoted: more than selection, its gate and the model in use explain."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxppo.deploy.models.comparison import paired, paired_models
from jaxppo.deploy.models.returns import Evaluated
from jaxppo.errors import ConfigError
from jaxppo.run import trials

SIGNIFICANCE = 0.05
"""Largest p-value of the paired test, exclusive."""


class Demand(NamedTuple):
    """One thing that a promotion demands.

    Attributes:
      name: what is demanded.
      measured: figure; None where it cannot be computed, which counts as not shown.
      demanded: in words.
      shown: whether the figure is as demanded.
      about: what the figure comes from, or why there is none.
    """

    name: str
    measured: float | None
    demanded: str
    shown: bool
    about: str

    def __str__(self) -> str:
        """The figure beside what is demanded."""
        measured = "unknown" if self.measured is None else f"{self.measured:.3g}"
        return f"{self.name} {measured}, demanded {self.demanded} ({self.about})"


def check_level(level: float) -> float:
    """Refuses what is no probability.

    Args:
      level: deflated Sharpe ratio that is demanded, in (0, 1).

    Raises:
      ConfigError: it is not in (0, 1).
    """
    if not 0.0 < level < 1.0:
        raise ConfigError(f"--level is {level:g}; a number in (0, 1) is expected")
    return level


def demands(candidate: Evaluated, in_use: Evaluated | ConfigError | None, level: float) -> list[Demand]:
    """Measures what a promotion demands.

    Args:
      candidate: the version.
      in_use: the version in production; why it cannot be read; or None where there is none.
      level: deflated Sharpe ratio that is demanded.
    """
    return [_selection(candidate, level), *_gate(candidate), _better(candidate, in_use)]


def refusal(title: str, to: str, found: Sequence[Demand]) -> str:
    """Says in one line what a version has not shown.

    Args:
      title: name and version.
      to: stage that it was to come to.
      found: all demands.
    """
    lacking = "; ".join(str(demand) for demand in found if not demand.shown)
    return f"{title} is not promoted to {to}: {lacking}; --force --reason TEXT overrides that and is recorded"


def _selection(candidate: Evaluated, level: float) -> Demand:
    """The deflated Sharpe ratio, among the trials that are known now."""
    found, about = _deflated(candidate.about)
    shown = found is not None and math.isfinite(found) and found > level
    return Demand("deflated Sharpe ratio", found, f"> {level:g}", shown, about)


def _deflated(about: Mapping[str, Any]) -> tuple[float | None, str]:
    """The deflated Sharpe ratio and its trials: of the adding, or of now where more trials have made it smaller."""
    then = about["selection"]
    rows = [row for row in (then, _selection_now(about)) if row is not None and row.get("dsr") is not None]
    if not rows:
        return None, "the model did nothing, or too few bars"
    row = min(rows, key=lambda row: row["dsr"])
    return row["dsr"], f"of {row['trials']} trial{'' if row['trials'] == 1 else 's'}"


def _selection_now(about: Mapping[str, Any]) -> dict[str, Any] | None:
    """Figures of the run's evaluation among the trials that are in the register by now; None where it has gone."""
    register = pathlib.Path(about["run"]).parent / trials.REGISTER
    try:
        same = [trial for trial in trials.read(register) if trial.key == about["trial"]]
        if not same:
            return None
        from jaxppo.backtest.selection import selection_figures  # needs what a live policy does not load

        return selection_figures(register, same[0])["out_of_sample"]
    except (OSError, ValueError):
        return None


def _gate(candidate: Evaluated) -> list[Demand]:
    """The gate of the run, if it has one."""
    gate = candidate.about["gate"]
    if gate is None:
        return []
    share, about = float(gate["share"]), f"t {gate['t']:.2f}; the {gate['traded']} trades"
    return [Demand("share that its gate lets trade", share, "> 0", share > 0.0, about)]


def _better(candidate: Evaluated, in_use: Evaluated | ConfigError | None) -> Demand:
    """The paired test against the model in use, or what the run is measured against."""
    reference = candidate.about["reference"] if in_use is None else "the model in use"
    try:
        if isinstance(in_use, ConfigError):
            raise in_use
        if in_use is None:
            returns = candidate.returns
            found = paired(returns.model, returns.reference, candidate.about["periods"])
        else:
            reference = in_use.title
            found = paired_models(candidate, in_use)
    except ValueError as error:
        return Demand(f"p-value against {reference}", None, f"< {SIGNIFICANCE:g}", False, str(error))
    about = f"Sharpe ratio {found.sharpe:+.2f} on {found.n_bars} common bars"
    known = math.isfinite(found.p_value)
    measured, shown = (found.p_value, found.p_value < SIGNIFICANCE) if known else (None, False)
    return Demand(f"p-value against {reference}", measured, f"< {SIGNIFICANCE:g}", shown, about)
