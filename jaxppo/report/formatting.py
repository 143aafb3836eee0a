"""Numbers, names and text as a report prints them."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from typing import Any

METRICS: dict[str, tuple[str, str]] = {
    "total_return": ("Total return", "percent"),
    "annual_return": ("Growth a year, compounded (CAGR)", "percent"),
    "volatility": ("Annual volatility", "percent"),
    "sharpe": ("Sharpe ratio, annual", "ratio"),
    "sortino": ("Sortino ratio, annual", "ratio"),
    "calmar": ("Calmar ratio", "ratio"),
    "max_drawdown": ("Maximum drawdown", "percent"),
    "var_95": ("Value at risk 95 %, per bar", "percent"),
    "cvar_95": ("Conditional value at risk 95 %, per bar", "percent"),
    "win_rate": ("Bars won", "percent"),
    "trade_win_rate": ("Round trips won", "percent"),
    "trades": ("Round trips closed", "count"),
    "open_trades": ("Round trips still open", "count"),
    "turnover": ("Turnover, times equity per year", "ratio"),
    "costs": ("Costs, of starting equity", "percent"),
    "n_bars": ("Bars", "count"),
}
"""Label and kind of the metrics of the package; others are shown by their name, as plain numbers."""
NOT_A_SHARPE = ("probabilistic_sharpe", "deflated_sharpe")
"""Probabilities made from a Sharpe ratio, which are statements of confidence themselves."""
MISSING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
LONGEST_LIST = 50


def interval_text(interval: tuple[float | None, float | None], kind: str) -> str:
    """An interval in brackets, as HTML.

    Args:
      interval: its ends; None or NaN where undefined.
      kind: see `number_text`.
    """
    low, high = (number_text(end, kind) for end in interval)
    return f'<span class="interval">[{low}, {high}]</span>'


def number_text(value: float | None, kind: str) -> str:
    """Formats a number.

    Args:
      value: None or NaN where undefined, which is shown as a dash.
      kind: "percent", "ratio", "count", "money" (a currency) or "number".
    """
    amount = number(value)
    if math.isnan(amount):
        return MISSING
    if math.isinf(amount):
        return "∞" if amount > 0 else f"{MINUS}∞"
    if kind == "percent":
        return percent(amount)
    forms = {"ratio": f"{amount:z,.2f}", "count": f"{amount:,.0f}", "number": f"{amount:,.4g}"}
    text = (forms | {"money": f"{amount:z,.2f}" if abs(amount) < 1e4 else f"{amount:,.0f}"})[kind]
    return text.replace("-", MINUS)


def percent(fraction: float) -> str:
    """Formats a fraction in per cent: two decimals, one from 1,000 % on, three digits from 1,000,000 % on.

    NaN and infinity are a dash; there is no negative zero.
    """
    if not math.isfinite(fraction):
        return MISSING
    precision = ".2f" if abs(fraction) < 10 else ",.1f" if abs(fraction) < 1e4 else ".2e"
    return f"{100 * round(fraction, 10) + 0.0:z{precision}} %".replace("-", MINUS)


def flat_rows(report: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flattens nested mappings, also in lists, to dotted names and printed values; long lists are cut, and say so.

    Args:
      report: names to values, mappings and lists among them.
      prefix: of the names.
    """
    rows: list[tuple[str, str]] = []
    for name, value in report.items():
        if isinstance(value, Mapping) and value:
            rows += flat_rows(value, f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)) and value and isinstance(value[0], Mapping):
            numbered = {f"{number}": part for number, part in enumerate(value[:LONGEST_LIST], 1)}
            rows += flat_rows(value[0] if len(value) == 1 else numbered, f"{prefix}{name}.")
            rows += [(f"{prefix}{name}", f"and {len(value) - LONGEST_LIST} more")] * (len(value) > LONGEST_LIST)
        elif isinstance(value, (list, tuple)):
            more = f" … and {len(value) - LONGEST_LIST} more" if len(value) > LONGEST_LIST else ""
            rows.append((f"{prefix}{name}", ", ".join(map(str, value[:LONGEST_LIST])) + more or MISSING))
        else:
            text = f"{value:,}" if type(value) is int else f"{value:,.6g}" if type(value) is float else str(value)
            rows.append((f"{prefix}{name}", text))
    return rows


def is_sharpe(name: str) -> bool:
    """Whether a metric of this name may only be shown with an interval."""
    return "sharpe" in name.lower() and name not in NOT_A_SHARPE


def metric_label(name: str) -> str:
    """Label of a metric, as HTML."""
    return escaped(METRICS.get(name, (name.replace("_", " ").capitalize(), ""))[0])


def number(value: Any) -> float:
    """Converts a number from JSON, where None is undefined, to a float, where NaN is."""
    return math.nan if value is None else float(value)


def escaped(value: Any) -> str:
    """Escapes text, so that a browser shows it as it was written."""
    return html.escape(str(value))
