"""What limits did, as a section of the report: masks on the test period, constraints of training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from jaxppo.backtest.mask_attribution import MaskEffect
from jaxppo.envs.market.features import REGIMES
from jaxppo.report.formatting import MISSING, escaped, number_text, percent

_FIGURES = {"bound": "Decisions changed", "exposure_removed": "Exposure removed", "costs_saved": "Costs saved"}


def section(masks: Mapping[str, MaskEffect] | None, constraints: Mapping[str, Mapping[str, Any]]) -> str:
    """The section of the report as HTML.

    Args:
      masks: mask -> what it did; None where that is not known.
      constraints: constraint -> limit, measured, multiplier, held and infeasible.
    """
    return _masks(masks) + _constraints(constraints)


def _masks(masks: Mapping[str, MaskEffect] | None) -> str:
    """What each mask did, a row each, a table for each figure; by regime where there are regimes."""
    if masks is None:
        return '<p class="caption">What masks did was not measured: several agents traded.</p>'
    if not masks:
        return '<p class="caption">The agent traded without masks.</p>'
    regimes = [name for name in REGIMES if any(name in effect.by_regime for effect in masks.values())]
    parts = []
    for figure, title in _FIGURES.items():
        head = "".join(f'<th scope="col">{name}</th>' for name in ("All", *regimes))
        rows = []
        for name, effect in masks.items():
            of_regimes = (effect.by_regime.get(regime, {}).get(figure, math.nan) for regime in regimes)
            values = (getattr(effect, figure), *of_regimes)
            cells = "".join(f"<td>{percent(value) if math.isfinite(value) else MISSING}</td>" for value in values)
            rows.append(f'<tr><th scope="row">{escaped(name)}</th>{cells}</tr>')
        top = f"<thead><tr><th>{title}</th>{head}</tr></thead>"
        parts.append(f'<div class="scroll"><table class="compact">{top}<tbody>{"".join(rows)}</tbody></table></div>')
    note = (
        "Each mask against the same policy with all masks but this one: what two forbid alike counts for neither. "
        "Decisions changed: share of the decisions about an asset, along the path with all masks. Exposure removed and "
        "costs saved: mean gross exposure, and costs and financing a year, of an account that trades through the whole "
        "period without the mask, less those of the agent; of equity. Regimes add up to them."
    )
    return "".join(parts) + f'<p class="caption">{note}</p>'


def _constraints(constraints: Mapping[str, Mapping[str, Any]]) -> str:
    """What became of each constraint of training, a row each."""
    if not constraints:
        return ""
    rows = []
    for name, row in constraints.items():
        verdict = "infeasible" if row["infeasible"] else "held" if row["held"] else "not held"
        numbers = "".join(f"<td>{number_text(row[key], 'number')}</td>" for key in ("limit", "measured", "multiplier"))
        rows.append(f'<tr><th scope="row">{escaped(name)}</th>{numbers}<td class="text">{verdict}</td></tr>')
    head = "".join(f'<th scope="col">{title}</th>' for title in ("Limit", "Measured", "Multiplier", ""))
    top = f"<thead><tr><th>Constraint</th>{head}</tr></thead>"
    note = (
        "Constraints of training: means over the last quarter of its iterations, of the policy with its randomness, on "
        "the training period. Infeasible: not held with the multiplier at its maximum."
    )
    table = f'<table class="compact">{top}<tbody>{"".join(rows)}</tbody></table>'
    return f'<div class="scroll">{table}</div><p class="caption">{note}</p>'
