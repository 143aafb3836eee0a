"""What a result is worth after all that was looked at: PSR, DSR and PBO from the register of trials.

Two questions, two sets of trials. Looks at *validation* select the checkpoint: its validation score is the best of many
and is deflated by all of them. Looks at the *test* period do not select within a run, so its figures are deflated by
the looks of all runs beside it: once somebody compares runs by their tests, the best test is the best of many, too.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import jax
import numpy as np

from jaxppo.report import superiority
from jaxppo.report.formatting import escaped, interval_text, number_text, percent
from jaxppo.run import trials
from jaxppo.run.trials import Trial
from jaxppo.statistics import (
    autocorrelation_adjusted_sharpe,
    deflated_sharpe,
    effective_trials,
    expected_maximum_sharpe,
    minimum_track_record,
    probabilistic_sharpe,
    probability_of_backtest_overfitting,
    sharpe_error,
)

Figures = Mapping[str, Any]
BARS_PER_BLOCK = 10


def selection_figures(
    register: pathlib.Path, test: Trial, selected: Trial | None = None, level: float = 0.95
) -> dict[str, Any]:
    """The `selection` entry of a summary.

    Args:
      register: with both trials in it.
      test: the evaluation.
      selected: the look at validation that selected its checkpoint; None leaves validation out.
      level: of the interval and of the minimum track record.

    Returns:
      `out_of_sample` and perhaps `validation`: `trials` of that kind in the register, what they amount to as
      `effective_trials`, `sharpe` (annual) and `sharpe_ci` from its standard error, `psr` against 0, `hurdle` (annual
      Sharpe ratio that the best of them reaches by luck), `dsr`, `minimum_track_record` (bars to exceed it; None if no
      length would do), `adjusted_sharpe` (annual, Lo's for autocorrelated bars) and `adjusted_sharpe_ci`, and for
      validation `pbo`, `degradation` (slope) and `probability_of_loss` of choosing among the looks at the same bars.

    Raises:
      ValueError: the register is damaged, or returns are missing.
    """
    known = trials.read(register)
    figures = {"out_of_sample": _luck(register, known, test, level)}
    if selected is not None:
        figures["validation"] = _luck(register, known, selected, level) | _overfitting(register, known, selected)
    return figures


def figures_alone(test: Trial, returns: np.ndarray, level: float = 0.95) -> dict[str, Any]:
    """`selection_figures` of an evaluation as if it were the only look, from its `[n]` returns."""
    alone = {"trials": 1, "effective_trials": 1.0, "sharpe": test.sharpe * math.sqrt(test.periods), "hurdle": 0.0}
    chances = _chances(test, np.asarray(returns, np.float32), np.array([test.sharpe]), 0.0, 1.0, level)
    return {"out_of_sample": alone | chances}


def _luck(register: pathlib.Path, known: Sequence[Trial], of: Trial, level: float) -> dict[str, Any]:
    """PSR, DSR and what they come from, among all trials of that kind of period."""
    among = [trial for trial in known if trial.period == of.period]
    annual = math.sqrt(of.periods)
    sharpes = np.array([trial.sharpe * math.sqrt(trial.periods) for trial in among]) / annual
    groups: dict[tuple[Any, ...], list[Trial]] = {}
    for trial in among:
        groups.setdefault(trial.bars, []).append(trial)
    n = sum(_effective(register, group) for group in groups.values())
    spread = float(sharpes.std(ddof=1)) if len(sharpes) > 1 else 0.0
    hurdle = float(expected_maximum_sharpe(max(n, 1.0), spread))
    figures = {"trials": len(among), "effective_trials": n, "sharpe": of.sharpe * annual, "hurdle": hurdle * annual}
    returns = trials.load_returns(register, [of])[:, 0] if of in among else None
    return figures | _chances(of, returns, sharpes, hurdle, max(n, 1.0), level)


def _chances(
    of: Trial, returns: np.ndarray | None, sharpes: np.ndarray, hurdle: float, n: float, level: float
) -> dict[str, Any]:
    """What the returns of a trial say against 0 and against the best of `n` by luck; None where they are too few."""
    psr = dsr = bars = low = high = None
    adjusted = adjusted_low = adjusted_high = None
    if returns is not None and of.sharpe != 0.0 and of.n_bars >= 3:
        psr = _finite(probabilistic_sharpe(returns))
        dsr = _finite(deflated_sharpe(returns, sharpes, n_trials=n))
        bars = _finite(minimum_track_record(returns, hurdle, level=level))
        z, annual = NormalDist().inv_cdf(0.5 + level / 2.0), math.sqrt(of.periods)
        half = z * float(sharpe_error(returns))
        low, high = (_finite((of.sharpe + sign * half) * annual) for sign in (-1.0, 1.0))
        if of.n_bars >= 4:
            lo = _adjusted(returns, periods=max(1, round(of.periods)))
            adjusted = _finite(lo.sharpe)
            adjusted_low, adjusted_high = (_finite(lo.sharpe + sign * z * lo.standard_error) for sign in (-1.0, 1.0))
    return {
        "sharpe_ci": [low, high],
        "adjusted_sharpe": adjusted,
        "adjusted_sharpe_ci": [adjusted_low, adjusted_high],
        "psr": psr,
        "dsr": dsr,
        "minimum_track_record": bars,
    }


_adjusted = jax.jit(autocorrelation_adjusted_sharpe, static_argnames=("periods", "lags"))


def _effective(register: pathlib.Path, group: Sequence[Trial]) -> float:
    """Effective number of the trials over the same bars; those that did nothing count as one."""
    idle = any(trial.sharpe == 0.0 for trial in group)
    active = [trial for trial in group if trial.sharpe != 0.0]
    if len(active) < 2 or group[0].n_bars < 3:
        return float(len(active) + idle)
    return float(effective_trials(trials.load_returns(register, active))) + idle


def _overfitting(register: pathlib.Path, known: Sequence[Trial], of: Trial) -> dict[str, Any]:
    """PBO of choosing among the trials over the same bars; None with too few of them or too few bars."""
    among = [t for t in known if t.period == of.period and t.bars == of.bars and t.sharpe != 0.0]
    n_blocks = min(16, of.n_bars // BARS_PER_BLOCK // 2 * 2)
    if len(among) < 2 or n_blocks < 2:
        return {"pbo": None, "degradation": None, "probability_of_loss": None}
    found = probability_of_backtest_overfitting(trials.load_returns(register, among), n_blocks)
    names = {"pbo": found.probability, "degradation": found.slope, "probability_of_loss": found.loss_probability}
    return {name: _finite(value) for name, value in names.items()}


def luck_warnings(figures: Figures, level: float) -> tuple[str, ...]:
    """What a reader must know, in plain sentences."""
    found, test = [], figures["out_of_sample"]
    if test["trials"] > 1 and test["dsr"] is not None and test["dsr"] < level:
        found.append(
            f"This Sharpe ratio is indistinguishable from the best of {test['trials']} trials without skill: of the "
            f"{test['trials']} that were looked at on test periods in this folder, luck alone takes the best to "
            f"{test['hurdle']:.2f} a year."
        )
    pbo = figures.get("validation", {}).get("pbo")
    if pbo is not None and pbo > 0.5:
        found.append(
            "Selection does not carry over: what is best on one half of the validation bars is below the median on the "
            f"other half in {percent(pbo)} of the ways to halve them."
        )
    return tuple(found)


_ROWS = {
    "trials": "Trials looked at",
    "effective_trials": "Independent trials they amount to",
    "sharpe": "Annual Sharpe ratio",
    "adjusted_sharpe": "The same, adjusted for autocorrelation (Lo)",
    "hurdle": "Reached by the best of them without skill",
    "psr": "Probability that the true ratio exceeds 0 (PSR)",
    "dsr": "Probability that it exceeds that of luck (DSR)",
    "minimum_track_record": "Bars needed to exceed luck",
    "pbo": "Probability of backtest overfitting (PBO)",
    "degradation": "Slope of performance from one half to the other",
    "probability_of_loss": "Probability of a loss in the other half",
}
_AS_PERCENT = ("psr", "dsr", "pbo", "probability_of_loss")
_TITLES = {"out_of_sample": "Test period", "validation": "Validation, which selected the checkpoint"}


def section(figures: Figures, level: float) -> str:
    """The section of the report as HTML; `level` is that of the tests."""
    if not figures:
        return '<p class="caption">No register of trials was kept.</p>'
    columns = {name: figures[name] for name in _TITLES if name in figures}
    head = "".join(f'<th scope="col">{_TITLES[name]}</th>' for name in columns)
    rows = []
    for name, title in _ROWS.items():
        if any(name in column for column in columns.values()):
            cells = "".join(f"<td>{_cell(name, column)}</td>" for column in columns.values())
            rows.append(f'<tr><th scope="row">{escaped(title)}</th>{cells}</tr>')
    note = (
        "From the register trials.jsonl beside the run folder: every run, seed and checkpoint whose returns were seen. "
        "Test figures are deflated by all looks at test periods, validation figures by all looks at "
        "validation. Sharpe ratios are taken as those of independent bars, but for the one that is adjusted."
    )
    table = f'<table class="compact"><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    tests = superiority.section(figures["superiority"], level) if "superiority" in figures else ""
    return f'<div class="scroll">{table}</div><p class="caption">{note}</p>{tests}'


def one_line(figures: Figures) -> str:
    """PSR, DSR and the number of trials as text."""
    test = figures["out_of_sample"]
    dsr, psr = ("undefined" if test[name] is None else f"{test[name]:.1%}" for name in ("dsr", "psr"))
    runs = f"{test['trials']} look{'s' if test['trials'] != 1 else ''} at test periods"
    return f"could it be luck: PSR {psr}, DSR {dsr} after {runs} (best of them by luck: Sharpe {test['hurdle']:.2f})"


def _cell(name: str, column: Figures) -> str:
    value = column.get(name)
    if name in ("sharpe", "adjusted_sharpe"):
        return f"{number_text(value, 'ratio')} {interval_text(column[f'{name}_ci'], 'ratio')}"
    if value is not None and name in _AS_PERCENT:
        return percent(value)
    if value is not None and name in ("trials", "minimum_track_record"):
        return f"{math.ceil(value):,}"
    return number_text(value, "number")


def _finite(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
