"""The model card of an exported policy: what it is, what it has shown, and what it is not for."""

from __future__ import annotations

import json
from typing import Any

from jaxppo.run import folder as run_folder
from jaxppo.run.periods import time_of
from jaxppo.run.saved import SavedRun

FIGURES = ("sharpe", "total_return", "volatility", "max_drawdown", "turnover", "costs")


def model_card(run: SavedRun, identity: str) -> str:
    """Writes the card, in Markdown.

    Args:
      run: that is exported.
      identity: digest of what decides.
    """
    setup, config = run.setup, run.setup.config
    report = run_folder.data_report(setup.market)
    found = _summary(run)
    out = found.get("out_of_sample") or {}
    parts = [
        f"# {run.folder.resolve().name}",
        "",
        "A trading policy, exported by jaxppo. It decides on target weights at the close of a bar.",
        "",
        "## Data",
        "",
        f"- Assets: {', '.join(setup.market.info.symbols) or setup.env.n_assets}",
        f"- Fingerprint: {report['fingerprint']}",
        *(
            f"- {name}: {time_of(setup.market, period.first)} to {time_of(setup.market, period.last)}"
            for name, period in setup.periods.items()
        ),
        "",
        "## What decides",
        "",
        f"- Policy: {config.policy.kind}, actions {config.env.actions}, identity {identity[:16]}",
        f"- Features: {', '.join(config.features.groups)}"
        + (f"; of bars of {', '.join(config.features.timeframes)} too" if config.features.timeframes else ""),
        f"- Masks: {', '.join(item.label for item in config.masks) or 'none'}",
        f"- Sizing: {', '.join(item.label for item in config.sizing) or 'none'}",
        f"- Monitored limits: {', '.join(item.kind for item in config.monitor) or 'none'}",
        f"- Costs: {_costs(run)}",
        "",
        "## Out of sample",
        "",
        *_table(out),
        *(f"- {note}" for note in out.get("notes", ())),
        *_selection(found.get("selection") or {}),
        "",
        "## Limits",
        "",
        "- The figures are those of one period of one market, at the costs above, and of an account of "
        f"{config.env.initial_cash:,.0f}. They promise nothing.",
        "- Orders fill at the next open; what moves the market more than the cost model says is not in them.",
        "- It knows the assets above. Splits and dividends need adjusted prices from the start.",
        "",
        "## Intended use",
        "",
        "Research and trading of one's own account by someone who has read the report of the run. Every decision "
        "should be checked against limits outside of this software. It is no advice.",
        "",
    ]
    return "\n".join(parts)


def _summary(run: SavedRun) -> dict[str, Any]:
    """The summary of the run; nothing where there is none."""
    try:
        return json.loads((run.folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _costs(run: SavedRun) -> str:
    costs = run.setup.config.costs
    own = "" if costs.function is None else f", and {costs.function}"
    return (
        f"commission {costs.commission_bps:g} bp, {costs.spread_multiplier:g} half-spreads, slippage "
        f"{costs.slippage:g} and impact {costs.impact:g} times volatility{own}"
    )


def _table(out: dict[str, Any]) -> list[str]:
    """Figures of the agent, the base and other baselines."""
    if not out:
        return ["The run has no evaluation yet."]
    beside = out.get("baseline") or {}
    rows = {"this policy": out, **beside}
    lines = [f"| | {' | '.join(FIGURES)} |", f"|---{'|---' * len(FIGURES)}|"]
    for name, row in rows.items():
        lines.append(f"| {name} | {' | '.join(_shown(row.get(figure)) for figure in FIGURES)} |")
    interval = out.get("sharpe_ci")
    if interval:
        lines += ["", f"Interval of its Sharpe ratio: {_shown(interval[0])} to {_shown(interval[1])}."]
    return [*lines, ""]


def _selection(selection: dict[str, Any]) -> list[str]:
    """How many trials stand behind the figures, and what is left of them."""
    plain = {name: value for name, value in selection.items() if isinstance(value, int | float | str)}
    if not plain:
        return []
    return ["", "After selection: " + ", ".join(f"{name} {_shown(value)}" for name, value in plain.items()) + "."]


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)
