"""What the loader read, as a section of the report: a row for each symbol, folded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxppo.report.formatting import MINUS, MISSING, escaped, flat_rows
from jaxppo.report.markup import caption, folded, row, table

SYMBOLS, WARNINGS = "symbols", "warnings"
"""Entries of a data report that are shown in a way of their own."""


def section(report: Mapping[str, Any]) -> str:
    """The section of the report as HTML; nothing where no loader reported anything.

    Args:
      report: of the loader: counts and settings by name, `symbols` with those of each, `warnings`.
    """
    if not report:
        return ""
    symbols = report.get(SYMBOLS)
    symbols = symbols if isinstance(symbols, Mapping) else {}
    facts = {name: value for name, value in report.items() if name not in (SYMBOLS, WARNINGS)}
    named = "".join(f"<span>{escaped(name)} <b>{escaped(value)}</b></span> " for name, value in flat_rows(facts))
    warnings = "".join(f"<li>{escaped(line)}</li>" for line in report.get(WARNINGS) or ())
    content = f"<ul>{warnings}</ul>" if warnings else ""
    content += f'<p class="caption facts">{named}</p>' if named else ""
    return folded(_summary(report, len(symbols)), content + _table(symbols))


def _summary(report: Mapping[str, Any], n_symbols: int) -> str:
    """What is folded, in a line."""
    parts = [f"{report[name]:,} {words}" for name, words in (("bars", "bars"), ("rows_read", "rows")) if name in report]
    parts += [f"{n_symbols:,} symbol{'s' * (n_symbols > 1)}"] if n_symbols else []
    parts += [f"{report['first']} to {report['last']}"] if {"first", "last"} <= report.keys() else []
    return f"Show what was read: {', '.join(parts)}" if parts else "Show what was read"


def _table(symbols: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each symbol, a column for each of its figures."""
    columns = dict.fromkeys(name for figures in symbols.values() for name in figures)
    if not columns:
        return ""
    rows = [row((_cell(figures.get(name)) for name in columns), escaped(symbol)) for symbol, figures in symbols.items()]
    head = ("Symbol", *(escaped(name.replace("_", " ").capitalize()) for name in columns))
    return table(head, rows) + caption("Moves and ranges are logarithms of a ratio of prices; shares are of the bars.")


def _cell(value: Any) -> str:
    """A figure of a symbol as HTML; an extreme with its time in brackets."""
    if value is None:
        return MISSING
    if isinstance(value, Mapping):
        first, *others = map(_cell, value.values())
        return f"{first} ({', '.join(others)})" if others else first
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)
    return escaped(text.replace("-", MINUS) if isinstance(value, (int, float)) else text)
