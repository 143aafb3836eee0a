"""Tests of the agent against the baselines, as a part of the report; see `jaxppo.statistics.superiority`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxppo.report.formatting import MISSING, escaped
from jaxppo.report.markup import caption, row, table
from jaxppo.statistics.superiority import MARKET

Figures = Mapping[str, Any]


def section(figures: Figures, level: float) -> str:
    """The part of the report as HTML.

    Args:
      figures: from `superiority_figures`.
      level: 1 less the p-value below which something is taken to be better.
    """
    hypotheses = {f"The agent earns no more than {escaped(name)}": p for name, p in figures["no_better_than"].items()}
    if figures.get("trials", 0) > 1:
        all_of = f"None of {figures['trials']:,} trials on these bars earns more than {MARKET}"
        hypotheses |= {f"{all_of} (Hansen, SPA)": figures["spa"], f"{all_of} (White)": figures["reality_check"]}
    rows = [row([MISSING if p is None else f"{p:.3f}"], title) for title, p in hypotheses.items()]
    note = (
        "Mean returns, whatever their risk, of bars resampled in blocks. A p-value is how often luck alone would bring "
        f"an advantage as large; below {1 - level:.2g} it is taken to be real. {escaped(verdict(figures, level))}"
    )
    return table(("Could this be so?", "p-value"), rows) + caption(note)


def verdict(figures: Figures, level: float) -> str:
    """The outcome of the tests, in a plain sentence or two.

    Args:
      figures: from `superiority_figures`.
      level: 1 less the p-value below which something is taken to be better.
    """
    known = {name: p for name, p in figures["no_better_than"].items() if p is not None}
    better = [name for name, p in known.items() if p < 1 - level]
    open_ = [name for name in known if name not in better]
    sentences = []
    if better:
        sentences.append(f"The agent earns more than {' and '.join(better)} by more than luck explains.")
    if open_:
        sentences.append(f"That it earns more than {' or '.join(open_)} is not shown.")
    if figures.get("trials", 0) > 1 and figures["spa"] is not None:
        beats = f"earns more than {MARKET} by more than the luck of having tried so many"
        found = f"the best {beats}" if figures["spa"] < 1 - level else f"none is shown to earn more than {MARKET}"
        sentences.append(f"Of the {figures['trials']:,} trials on these bars, {found}.")
    return " ".join(sentences)
