"""Drawdowns of a backtest for summary and report: the deepest ones, and the time to recovery."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from jaxppo.envs.market.features import REGIMES
from jaxppo.report.figures import COLOURS, SHARE, as_html, finish
from jaxppo.report.formatting import MISSING, escaped, percent
from jaxppo.report.markup import caption, row, table
from jaxppo.report.regime_bands import BANDS
from jaxppo.statistics import drawdowns
from jaxppo.statistics.drawdowns import Drawdowns
from jaxppo.statistics.recovery import RecoveryCurve, kaplan_meier, time_to_recovery_by_regime

DEEPEST = 10
"""Rows of the table."""
LEAST_DRAWDOWNS = 10
"""Drawdowns that a curve needs."""
DEEP = 0.01
"""Fraction of the peak from which on a drawdown counts as deep."""


def drawdown_rows(
    equity: np.ndarray, times: np.ndarray, regimes: np.ndarray, *, first: int = 0, deepest: int = DEEPEST
) -> list[dict[str, Any]]:
    """Lists the deepest drawdowns of an account, deepest first, ready for JSON.

    Args:
      equity: `[n + 1]` currency, the start included.
      times: `[n + 1]` datetime64; empty for a market without times.
      regimes: `[n + 1]` int, the regime known at each point: position in `REGIMES`; -1 unknown.
      first: number of the first point in a market without times.
      deepest: how many.

    Returns:
      Rows with `depth` (positive fraction of the peak), `peak`, `trough` and `recovery` (time or number of the bar;
      None if not recovered), `bars_to_trough`, `bars_to_recover` (from the trough; None if not recovered), `bars` (from
      the peak to the recovery, or so far), `recovered`, `regime_at_peak` and `regime_at_trough` (None if unknown).

    Raises:
      ValueError: see `jaxppo.statistics.drawdowns.table`.
    """

    def at(point: int) -> str | int:
        return str(times[point])[:19] if len(times) else first + int(point)

    def regime(point: int) -> str | None:
        return REGIMES[regimes[point]] if regimes[point] >= 0 else None

    return [
        {
            "depth": float(of.depth),
            "peak": at(of.peak),
            "trough": at(of.trough),
            "recovery": at(of.recovery) if of.recovered else None,
            "bars_to_trough": int(of.bars_to_trough),
            "bars_to_recover": int(of.bars_to_recover) if of.recovered else None,
            "bars": int(of.bars),
            "recovered": bool(of.recovered),
            "regime_at_peak": regime(of.peak),
            "regime_at_trough": regime(of.trough),
        }
        for of in drawdowns.table(equity, deepest=deepest).itertuples()
    ]


def recovery_curves(equity: np.ndarray, regimes: np.ndarray, *, level: float = 0.95) -> dict[str, RecoveryCurve]:
    """Estimates Kaplan-Meier curves of the time from peak to recovery: of all drawdowns, deep ones, and by regime.

    Args:
      equity: `[n + 1]` currency, the start included.
      regimes: `[n + 1]` int, see `drawdown_rows`; that at the peak counts.
      level: of the intervals.

    Returns:
      Name -> curve; those of fewer than `LEAST_DRAWDOWNS` drawdowns are left out.
    """
    frame = drawdowns.table(equity)
    if frame.empty:
        return {}
    peak, bars, recovered, depth = (frame[name].to_numpy() for name in ("peak", "bars", "recovered", "depth"))
    found = {"all": kaplan_meier(bars, recovered, level=level)}
    if (depth > DEEP).any():
        found[f"deeper than {100 * DEEP:g} %"] = kaplan_meier(bars[depth > DEEP], recovered[depth > DEEP], level=level)
    peak = peak.astype(np.int64)
    every = Drawdowns(depth, peak, frame["trough"].to_numpy(np.int64), peak + bars, recovered)
    found |= time_to_recovery_by_regime(every, regimes, level=level)
    return {name: curve for name, curve in found.items() if curve.n_drawdowns >= LEAST_DRAWDOWNS}


def recovery_figure(curves: dict[str, RecoveryCurve], level: float) -> tuple[go.Figure, str]:
    """Draws the share of drawdowns that are not recovered after so many bars, with the interval of the first curve.

    Args:
      curves: from `recovery_curves`.
      level: of the interval.

    Returns:
      The figure and its caption.
    """
    figure = go.Figure()
    for rank, (name, curve) in enumerate(curves.items()):
        # The axis is logarithmic; a curve is 1 until a drawdown has recovered, which takes a bar at least.
        bars, share = np.r_[0.8, curve.bars], np.r_[1.0, curve.unrecovered]
        if rank == 0:
            known = np.isfinite(curve.low)
            for end, fill in ((curve.high, None), (curve.low, "tonexty")):
                figure.add_scatter(
                    x=np.r_[0.8, curve.bars[known]], y=np.r_[1.0, end[known]], line={"width": 0, "shape": "hv"},
                    mode="lines", fill=fill, fillcolor="rgba(0,114,178,0.15)", hoverinfo="skip", showlegend=False,
                )  # fmt: skip
        colour = BANDS.get(name, COLOURS[0] if rank == 0 else COLOURS[-1])
        figure.add_scatter(
            x=bars, y=share, name=f"{name} ({curve.n_drawdowns:,})", mode="lines",
            line={"shape": "hv", "color": colour, "width": 2.4 if rank == 0 else 1.5}, hovertemplate="%{y:.1%}",
        )  # fmt: skip
        censored = curve.at_risk - curve.recoveries - np.r_[curve.at_risk[1:], 0] > 0
        figure.add_scatter(
            x=curve.bars[censored], y=curve.unrecovered[censored], mode="markers", showlegend=False, hoverinfo="skip",
            marker={"symbol": "line-ns", "size": 10, "line": {"color": colour, "width": 2}},
        )  # fmt: skip
    longest = max(float(curve.bars[-1]) for curve in curves.values())
    ticks = [step * 10**power for power in range(math.ceil(math.log10(longest)) + 1) for step in (1, 2, 5)]
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{tick:,}" for tick in ticks])
    figure.update_yaxes(title_text="Not recovered", tickformat=SHARE, range=[0, 1.02])
    dashed = finish(figure, np.empty(0), height=360, last_row=1, x_title="Bars since the peak")
    splits = ", by the regime at their peak" if any(name in BANDS for name in curves) else ""
    return figure, (
        f"Share of the drawdowns that last longer than so many bars (Kaplan-Meier){splits}; in brackets, how many "
        f"there are. Shaded: {100 * level:g} % interval of the first line. A tick is a drawdown that was not recovered "
        "when the period ended: it counts for as long as it was seen. Lines of fewer than "
        f"{LEAST_DRAWDOWNS} drawdowns are left out.{dashed}"
    )


def section(equity: np.ndarray, times: np.ndarray, regimes: np.ndarray, level: float) -> str:
    """The section of the report as HTML: a table of the deepest drawdowns and the curves of recovery.

    Nothing where the equity never fell below an earlier close.

    Args:
      equity: `[n + 1]` currency of the agent.
      times: `[n + 1]` datetime64; empty for a market without times.
      regimes: `[n + 1]` int, see `drawdown_rows`.
      level: of the intervals.
    """
    rows = drawdown_rows(equity, times, regimes)
    if not rows:
        return ""
    n = len(drawdowns.table(equity))
    note = (
        f"The deepest {len(rows)} of {n:,} drawdowns, at closes and after costs, from the last close at the peak to "
        "the first one back at it. How long one takes that is not recovered is not known: its bars are those so far."
    )
    curves = recovery_curves(equity, regimes, level=level)
    drawn = as_html("recovery", recovery_figure(curves, level)) if curves else ""
    return _table(rows) + caption(note) + (drawn or caption("They are too few to tell how long recovery takes."))


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """A row for each drawdown; the regimes, where any are known."""
    named = {"regime_at_peak": "Regime at peak", "regime_at_trough": "At trough"}
    regimes = named if any(of[name] for of in rows for name in named) else {}
    head = ["Depth", "Peak", "Trough", "Recovery", "Bars to trough", "Bars to recover", "Bars in all"]
    head += regimes.values()
    lines = []
    for of in rows:
        over = of["recovered"]
        cells = [percent(of["depth"]), _time(of["peak"]), _time(of["trough"])]
        cells += [_time(of["recovery"]) if over else "not recovered", f"{of['bars_to_trough']:,}"]
        cells += [f"{of['bars_to_recover']:,}" if over else MISSING, f"{of['bars']:,}{'' if over else ' so far'}"]
        cells += [of[name] or MISSING for name in regimes]
        lines.append(row(map(escaped, cells)))
    return table(head, lines, style="compact drawdowns")


def _time(at: str | int) -> str:
    """A time to the minute, only the day at midnight; or the number of a bar."""
    return f"{at:,}" if isinstance(at, int) else at.removesuffix("T00:00:00").removesuffix(":00").replace("T", " ")
