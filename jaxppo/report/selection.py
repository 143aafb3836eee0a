"""Selection-adjusted figures, as a section of the report; see `jaxppo.backtest.selection`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from jaxppo.report import superiority
from jaxppo.report.formatting import escaped, interval_text, number_text, percent
from jaxppo.report.markup import caption, row, table

Figures = Mapping[str, Any]
_ROWS = {
    "trials": "Trials on this market",
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
    """The section of the report as HTML; nothing without figures.

    Args:
      figures: the `selection` entry of a summary; may be empty.
      level: of the tests.
    """
    if not figures:
        return ""
    columns = {name: figures[name] for name in _TITLES if name in figures}
    rows = [
        row((_cell(name, column) for column in columns.values()), escaped(title))
        for name, title in _ROWS.items()
        if any(column.get(name) is not None for column in columns.values())
    ]
    note = (
        "From the register trials.jsonl beside the run folder: every run, seed and checkpoint whose returns were seen. "
        "Those on this market count: of the same prices, or of a symbol among these over some of these dates. Test "
        "figures are deflated by all evaluations on test periods, validation figures by all on validation. Sharpe "
        "ratios are taken as those of independent bars, but for the one that is adjusted. Their intervals are from the "
        "standard error of the ratio; those under Results are from the bootstrap, and differ."
    )
    tests = superiority.section(figures["superiority"], level) if "superiority" in figures else ""
    return table(("", *(_TITLES[name] for name in columns)), rows) + caption(note) + tests


def luck_warnings(figures: Figures, level: float) -> tuple[str, ...]:
    """Warnings that a result may be luck, in plain sentences.

    Args:
      figures: the `selection` entry of a summary.
      level: DSR below which a result counts as luck.
    """
    found, test = [], figures["out_of_sample"]
    if test["trials"] > 1 and test["dsr"] is not None and test["dsr"] < level:
        found.append(
            f"This Sharpe ratio is indistinguishable from the best of {test['trials']} trials without skill: of the "
            f"{test['trials']} evaluations on test periods of this market, luck alone takes the best to "
            f"{test['hurdle']:.2f} a year."
        )
    pbo = figures.get("validation", {}).get("pbo")
    if pbo is not None and pbo > 0.5:
        found.append(
            "Selection does not carry over: what is best on one half of the validation bars is below the median on the "
            f"other half in {percent(pbo)} of the ways to halve them."
        )
    return tuple(found)


def one_line(figures: Figures) -> str:
    """PSR, DSR and the number of trials in a line of text."""
    test = figures["out_of_sample"]
    dsr, psr = ("undefined" if test[name] is None else f"{test[name]:.1%}" for name in ("dsr", "psr"))
    runs = f"{test['trials']} evaluation{'s' if test['trials'] != 1 else ''} on tests of this market"
    if test["trials"] == 1:
        return f"could it be luck: PSR {psr}, DSR {dsr} after {runs}"
    alike = f"as good as {test['effective_trials']:.1f} independent ones"
    hurdle = f"the best of those without skill has a Sharpe ratio of {test['hurdle']:.2f}"
    return f"could it be luck: PSR {psr}, DSR {dsr} after {runs} ({alike}; {hurdle})"


def _cell(name: str, column: Figures) -> str:
    value = column.get(name)
    if name in ("sharpe", "adjusted_sharpe"):
        return f"{number_text(value, 'ratio')} {interval_text(column[f'{name}_ci'], 'ratio')}"
    if value is not None and name in _AS_PERCENT:
        return percent(value)
    if value is not None and name in ("trials", "minimum_track_record"):
        return f"{math.ceil(value):,}"
    return number_text(value, "number")
