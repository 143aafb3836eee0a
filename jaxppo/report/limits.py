"""Effects of limits, as a section of the report: masks on the test period, constraints of training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from jaxppo.envs.market.features import REGIMES
from jaxppo.report.formatting import MISSING, escaped, number_text, percent
from jaxppo.report.markup import caption, row, table
from jaxppo.report.results import MaskEffect

_FIGURES = {"bound": "Decisions changed", "exposure_removed": "Exposure removed", "costs_saved": "Costs saved"}


def section(masks: Mapping[str, MaskEffect] | None, constraints: Mapping[str, Mapping[str, Any]]) -> str:
    """The section of the report as HTML; nothing where no mask was measured and training had no constraints.

    Args:
      masks: mask -> its effect; None where that is not known.
      constraints: constraint -> limit, measured, multiplier, held and infeasible.
    """
    return _masks(masks) + _constraints(constraints)


def _masks(masks: Mapping[str, MaskEffect] | None) -> str:
    """A table for each figure of the masks, a row each; by regime where there are regimes."""
    if not masks:
        return ""
    regimes = [name for name in REGIMES if any(name in effect.by_regime for effect in masks.values())]
    parts = []
    for figure, title in _FIGURES.items():
        rows = []
        for name, effect in masks.items():
            of_regimes = (effect.by_regime.get(regime, {}).get(figure, math.nan) for regime in regimes)
            values = (getattr(effect, figure), *of_regimes)
            cells = (percent(value) if math.isfinite(value) else MISSING for value in values)
            rows.append(row(cells, escaped(name)))
        parts.append(table((title, "All", *regimes), rows))
    note = (
        "Each mask against the same policy with all masks but this one: what two forbid alike counts for neither. "
        "Decisions changed: share of the decisions about an asset, along the path with all masks. Exposure removed and "
        "costs saved: mean gross exposure, and costs and financing a year, of an account that trades through the whole "
        "period without the mask, less those of the agent; of equity. Regimes add up to them."
    )
    return "".join(parts) + caption(note)


def _constraints(constraints: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of the constraints of training, a row each."""
    if not constraints:
        return ""
    rows = []
    for name, of in constraints.items():
        verdict = "infeasible" if of["infeasible"] else "held" if of["held"] else "not held"
        numbers = (number_text(of[key], "number") for key in ("limit", "measured", "multiplier"))
        rows.append(row(numbers, escaped(name), text=[verdict]))
    note = (
        "Constraints of training: means over the last quarter of its iterations, of the policy with its randomness, on "
        "the training period. Infeasible: not held with the multiplier at its maximum."
    )
    return table(("Constraint", "Limit", "Measured", "Multiplier", ""), rows) + caption(note)
