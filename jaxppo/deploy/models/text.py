"""Models, comparisons and promotions as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxppo.deploy.models.comparison import FIGURES, Comparison
from jaxppo.deploy.models.entry import Model
from jaxppo.deploy.models.history import ADD, PROMOTE
from jaxppo.deploy.models.promotion import Demand

COLUMNS = ("model", "version", "stage", "parent", "sharpe", "interval", "dsr", "trials", "added", "by", "notes")


def describe_models(models: Sequence[Model]) -> str:
    """A table of versions, a row each.

    Args:
      models: of a registry.
    """
    rows = [COLUMNS]
    for model in models:
        entry, metrics, selection = model.entry, model.entry["metrics"], model.entry["selection"]
        rows.append(
            (
                model.name, model.version, model.stage, entry["parent"] or "-", _shown(metrics.get("sharpe")),
                _interval(metrics.get("sharpe_ci")), _shown(selection.get("dsr")), str(selection.get("trials", "-")),
                entry["when"][:10], entry["by"], "; ".join(_overrides(model)),
            )
        )  # fmt: skip
    return _table(rows) if models else "no models"


def describe_model(model: Model) -> str:
    """All that is known of a version.

    Args:
      model: the version.
    """
    entry = model.entry
    metrics, selection, gate = entry["metrics"], entry["selection"], entry["gate"]
    rows = [
        ("stage", model.stage),
        ("parent", entry["parent"] or "none"),
        ("added", f"{entry['when']} by {entry['by']}"),
        ("run", entry["run"] if entry.get("finished", True) else f"{entry['run']} (was not finished)"),
        ("commit", entry["commit"] or "unknown"),
        ("prices", f"{', '.join(entry['symbols']) or 'without names'}; fingerprint {entry['data_fingerprint']}"),
        ("out of sample", f"{entry['first_bar']} to {entry['last_bar']}"),
        *((name, _shown(metrics.get(name))) for name in FIGURES),
        ("sharpe interval", _interval(metrics.get("sharpe_ci"))),
        ("trials", f"{selection.get('trials')}, effective {_shown(selection.get('effective_trials'))}"),
        ("deflated sharpe", _shown(selection.get("dsr"))),
        ("measured against", entry["reference"]),
        ("gate", "none" if gate is None else f"t {gate['t']:.2f}: the {gate['traded']} trades"),
        ("policy", str(model.folder / "policy")),
    ]
    return "\n".join([model.title, _table(rows), "history", *(f"  {describe_line(line)}" for line in model.history)])


def describe_line(line: Mapping[str, Any]) -> str:
    """A line of the history, with what was demanded where something was.

    Args:
      line: of the history.
    """
    what = f"{line['when']} {line['by']}: "
    if line["action"] == ADD:
        return f"{what}{line['version']} added"
    if line["action"] == PROMOTE:
        former = f", {line['former']} archived" if line["former"] else ""
        forced = f", forced: {line['reason']}" if line["forced"] else f", {line['reason']}" if line["reason"] else ""
        found = "; ".join(str(Demand(**demand)) for demand in line["demands"])
        return f"{what}{line['version']} promoted to {line['to']}{former}{forced}; {found}"
    reason = f", {line['reason']}" if line["reason"] else ""
    return f"{what}rolled back from {line['former']} to {line['version']}{reason}"


def describe_comparison(comparison: Comparison) -> str:
    """Two versions side by side, with the paired test.

    Args:
      comparison: of them.
    """
    found = comparison.paired
    rows = [("", comparison.first, comparison.second)]
    rows += [(name, _shown(ours), _shown(theirs)) for name, (ours, theirs) in comparison.figures.items()]
    prices = "" if comparison.same_prices else " (of different tables of prices)"
    return "\n".join(
        [
            _table(rows),
            f"{found.n_bars} common out-of-sample bars{prices}; {comparison.first} less {comparison.second}:",
            f"  Sharpe ratio {found.sharpe:+.2f} ({found.sharpe_low:+.2f} to {found.sharpe_high:+.2f}), "
            f"p {found.p_value:.3g} of not higher",
            f"  mean return {found.mean:+.2%} a year, p {found.mean_p_value:.3g} of not higher",
        ]
    )


def _overrides(model: Model) -> list[str]:
    """The promotions of a version that were forced."""
    return [
        f"forced to {line['to']}: {line['reason']}"
        for line in model.history
        if line["action"] == PROMOTE and line["version"] == model.version and line["forced"]
    ]


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def _interval(ends: Sequence[float | None] | None) -> str:
    return "-" if not ends or None in ends else f"{ends[0]:.2f} to {ends[1]:.2f}"


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)
