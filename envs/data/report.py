"""The data report: counts, repairs and warnings of the loader."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxppo.envs.data.options import LoadOptions
from jaxppo.envs.data.payments import payment_lines
from jaxppo.envs.data.rows import Rows, time_text
from jaxppo.envs.data.sessions import Schedule, off_session, session_numbers
from jaxppo.envs.data.spreads import HalfSpreads
from jaxppo.envs.data.times import DAY
from jaxppo.envs.data.volume import is_counted, is_known

WIDE_BAR = 0.7
"""Log range of a bar, and log size of a gap, from which the report warns (a factor of two)."""

FEWEST_BARS_AFTER, MOST_NAMED = 10, 5
"""Bars without an asset at the end of a market from which the report says so, and symbols that it names."""

FEWEST_DAYS, FEWEST_INTRADAY_DAYS = 90, 7
"""Days of daily and of shorter bars from which they say themselves how many there are in a year."""

MOST_OWN = 8
"""Own columns that the report names."""

OFF_SESSION_FRACTION = 0.05
"""Fraction of an asset's bars outside the sessions of the calendar from which the report warns."""


def fingerprint(symbols: tuple[str, ...], times: np.ndarray, arrays: dict[str, np.ndarray]) -> str:
    """Hashes the content of a market (sha256), whatever file and order of rows it came in.

    Args:
      symbols: names in column order.
      times: `[T]` int64 ns UTC.
      arrays: every array of the market by name.
    """
    digest = hashlib.sha256()
    for text in symbols:
        digest.update(text.encode() + b"\0")
    digest.update(np.ascontiguousarray(times, "<i8").tobytes())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.shape} {array.dtype.str}".encode() + array.tobytes())
    return digest.hexdigest()


def symbol_report(
    frame: pd.DataFrame, spread: HalfSpreads, times: np.ndarray, daily: bool, bar_length: int,
    schedule: Schedule | None, options: LoadOptions,
) -> dict[str, Any]:  # fmt: skip
    """Reports on one symbol.

    Args:
      frame: checked and adjusted rows in order of time, with the columns of `Rows.frame`.
      spread: half-spreads of its bars.
      times: `[T]` int64 ns UTC, time axis of the whole market.
      daily: whether bars are stamped with dates.
      bar_length: most frequent distance of bars, ns.
      schedule: sessions of the exchange, if a calendar is named.
      options: `volume` applies.

    Returns:
      JSON-serialisable counts, fractions and extremes.
    """
    utc = frame["utc"].to_numpy()
    volume = frame["volume"].to_numpy()
    high, low, close = (np.log(frame[name].to_numpy()) for name in ("high", "low", "close"))
    steps, moves = np.diff(utc), np.diff(close)
    span = np.searchsorted(times, utc[-1], "right") - np.searchsorted(times, utc[0], "left")
    counted = is_counted(volume)
    quoted, by = spread.quoted, "fixed" if spread.source == "fixed" else f"by {spread.source}"
    report: dict[str, Any] = {
        "bars": len(utc),
        "first": time_text(utc[0]),
        "last": time_text(utc[-1]),
        "missing_bars": int(span - len(utc)),
        "volume_known": is_known(volume, options),
        "zero_volume_bars": int((volume == 0).sum()) if counted else 0,
        "unknown_volume_bars": int(np.isnan(volume).sum()) if counted else len(utc),
        "spread": "quoted" if quoted.all() else by if not quoted.any() else f"quoted, else {by}",
        "quoted_share": float(quoted.mean()),
        "floor_share": float(spread.at_floor.mean()),
        "median_half_spread": float(np.median(spread.values)),
        "longest_hole_days": float(steps.max() / DAY) if len(steps) else 0.0,
        "holes": int((steps > max(6 * DAY, 2.5 * bar_length)).sum()),
        "largest_log_move": _extreme(moves, utc[1:]),
        "largest_log_range": _extreme(high - low, utc),
        "wide_bars": int((high - low > WIDE_BAR).sum()),
    }
    if len(steps):
        report["longest_hole_ends"] = time_text(utc[1:][steps.argmax()])
    if schedule is not None:
        outside = off_session(utc, daily, bar_length, schedule)
        report["off_session_bars"] = int(outside.sum())
        if bar_length <= 1.5 * DAY and not outside.all():
            numbers = np.unique(session_numbers(utc[~outside], daily, schedule))
            report["missing_sessions"] = int(numbers[-1] - numbers[0] + 1 - len(numbers))
    return report


def _extreme(values: np.ndarray, times: np.ndarray) -> dict[str, Any] | None:
    """Value of the largest size, and its time."""
    if not len(values):
        return None
    at = int(np.abs(values).argmax())
    return {"value": float(values[at]), "at": time_text(times[at])}


def length_text(nanoseconds: int) -> str:
    """Length of a bar in its largest whole unit, such as `5 min`."""
    units = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
    seconds = nanoseconds / 1e9
    name, size = next((unit for unit in units if seconds % unit[1] == 0), ("s", 1))
    return f"{seconds / size:g} {name}"


def span_warnings(
    times: np.ndarray, daily: bool, per_year: float, by_calendar: float | None, calendar: str | None
) -> list[str]:
    """Says where the bars per year, which annualise every figure, rest on too short a time.

    Args:
      times: `[T]` int64 ns, increasing.
      daily: whether bars are stamped with dates.
      per_year: bars per year.
      by_calendar: bars per year of the calendar; None without one, or where bars do not follow it.
      calendar: its name, if one is given.
    """
    days = (times[-1] - times[0]) / DAY
    if by_calendar is not None or days >= (FEWEST_DAYS if daily else FEWEST_INTRADAY_DAYS):
        return []
    advice = f"the bars do not follow the calendar {calendar}"
    if calendar is None:
        advice = "name the calendar (XNYS, 24/5, 24/7, ...) to be sure"
    return [f"{per_year:,.0f} bars per year, which annualise all figures, are estimated from {days:.3g} days: {advice}"]


def warnings(symbols: dict[str, dict[str, Any]], calendar: str | None, n_bars: int) -> list[str]:
    """Lists what is accepted but deserves a look, one line each.

    Args:
      symbols: `symbol_report` of every symbol.
      calendar: name of the calendar, if one is given.
      n_bars: of the market.
    """
    lines = _panel_warnings(symbols, calendar) + _ends(symbols, n_bars)
    for name, counts in symbols.items():
        wide, move = counts["largest_log_range"], counts["largest_log_move"]
        if counts["wide_bars"]:
            widest = f"the widest {np.exp(wide['value']):.3g}x at {wide['at']}"
            n = counts["wide_bars"]
            question = "bad prints, or a split inside (see max_log_range)?"
            lines.append(f"{name}: {n} bar(s) with high more than twice low, {widest}: {question}")
        if move and abs(move["value"]) > WIDE_BAR:
            factor = np.exp(move["value"])
            lines.append(
                f"{name}: close moves by a factor of {factor:.3g} at {move['at']}: real, or an unadjusted split?"
            )
        if counts["longest_hole_days"] > 14 and counts["holes"]:
            longest = f"the longest {counts['longest_hole_days']:.0f} days, ends {counts['longest_hole_ends']}"
            lines.append(f"{name}: {counts['holes']} hole(s), {longest}")
        missing = counts.get("missing_sessions", 0)
        if missing:
            lines.append(f"{name}: {missing} session(s) of the calendar without a bar")
        silent = counts["zero_volume_bars"] + counts["unknown_volume_bars"]
        if 0.05 * counts["bars"] < silent < counts["bars"]:
            lines.append(f"{name}: {silent} of {counts['bars']} bars without volume")
    floored = [name for name, counts in symbols.items() if counts["floor_share"] > 0.5]
    if floored:
        shown = ", ".join(floored[:5]) + (", ..." if len(floored) > 5 else "")
        lines.append(f"half-spread at its floor in most bars of {len(floored)} of {len(symbols)} symbols: {shown}")
    return lines


def span_on_axis(bars: np.ndarray) -> dict[str, int]:
    """First and last bar of an asset, and most bars that it misses between two of its own.

    Args:
      bars: positions `[n]` of its bars on the common time axis, increasing.
    """
    longest = int(np.diff(bars).max(initial=1)) - 1
    return {"first_bar": int(bars[0]), "last_bar": int(bars[-1]), "longest_gap_bars": longest}


def ended_assets(symbols: dict[str, dict[str, Any]], n_bars: int) -> list[str]:
    """Those whose last bar lies so far before the others' that they are taken as delisted.

    Args:
      symbols: name -> counts, with `first_bar`, `last_bar` and `longest_gap_bars`, positions on the common time axis.
      n_bars: of that axis.
    """
    after = {name: n_bars - 1 - counts["last_bar"] for name, counts in symbols.items()}
    return [name for name in symbols if after[name] >= max(FEWEST_BARS_AFTER, symbols[name]["longest_gap_bars"] + 1)]


def _ends(symbols: dict[str, dict[str, Any]], n_bars: int) -> list[str]:
    """Warns of assets that end before the others, and of those that only follow one another."""
    after = {name: n_bars - 1 - counts["last_bar"] for name, counts in symbols.items()}
    ended = ended_assets(symbols, n_bars)
    lines = [
        f"{name} ends on {symbols[name]['last']}, {after[name]} bars before the last: a position in it is settled as "
        "env.delisting says"
        for name in ended[:MOST_NAMED]
    ]
    if len(ended) > MOST_NAMED:
        lines.append(f"{len(ended) - MOST_NAMED} more symbols end before the last bar")
    ordered = sorted(symbols, key=lambda name: symbols[name]["first_bar"])
    pairs = list(itertools.pairwise(ordered))
    if pairs and all(symbols[one]["last_bar"] < symbols[other]["first_bar"] for one, other in pairs):
        lines.append(f"{', '.join(ordered[:MOST_NAMED])} only follow one another: one symbol in several files?")
    return lines


def _panel_warnings(symbols: dict[str, dict[str, Any]], calendar: str | None) -> list[str]:
    """Warns of symbols that differ only in case, and of a calendar that does not fit the bars."""
    lines = []
    spelled: dict[str, list[str]] = {}
    for name in symbols:
        spelled.setdefault(name.casefold(), []).append(name)
    for names in spelled.values():
        if len(names) > 1:
            lines.append(f"{' and '.join(names)} differ only in case: one asset in two spellings?")
    fractions = {name: counts.get("off_session_bars", 0) / counts["bars"] for name, counts in symbols.items()}
    outside = [name for name, fraction in fractions.items() if fraction > OFF_SESSION_FRACTION]
    if outside:
        worst = max(outside, key=fractions.__getitem__)
        lines.append(
            f"{100 * fractions[worst]:.0f} % of the bars of {worst} lie outside every session of {calendar}, as more "
            f"than {100 * OFF_SESSION_FRACTION:.0f} % do in {len(outside)} of {len(symbols)} symbol(s): another "
            "calendar, another timezone, or extended hours?"
        )
    return lines


def source_report(rows: Rows) -> dict[str, Any]:
    """Reports on every table: name, rows, the column used for each field, and the own columns; and on downloads."""
    listed = []
    for table in rows.tables:
        used = {*table.columns.values(), *table.own}
        entry = {
            "name": table.name,
            "rows": len(table.rows),
            "columns": dict(table.columns),
            "ignored_columns": [str(column) for column in table.frame.columns if str(column) not in used],
        }
        if table.own:
            entry["own_columns"] = list(table.own)
        if table.price_scale != 1.0:
            entry["price_scale"] = table.price_scale
        listed.append(entry)
    downloads = [table.download for table in rows.tables if table.download]
    return {"sources": listed, **({"downloads": downloads} if downloads else {})}


def _download_line(record: dict[str, Any]) -> str:
    """What was downloaded, when, and where it is kept."""
    span = f"{record['start'] or 'the beginning'} to {record['end'] or 'its last finished bar'}"
    bars = f"bars of {record['timeframe']}, {span}" if record["timeframe"] else "all rows"
    return (
        f"  downloaded {record['time'][:16].replace('T', ' ')} UTC from {record['source']}: {bars}; "
        f"{record['adjusted']}; sha256 {record['sha256'][:16]}, kept in {record['file']}"
    )


def _own_line(sources: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names the own columns that were read, in a line; nothing without any."""
    own = dict.fromkeys(name for source in sources for name in source.get("own_columns", ()))
    shown = ", ".join(list(own)[:MOST_OWN]) + (f" and {len(own) - MOST_OWN} more" if len(own) > MOST_OWN else "")
    return [f"  own columns read: {shown}"] if own else []


def format_report(report: dict[str, Any]) -> str:
    """Formats the report of a market (`market.info.report`) in a few lines."""
    names = [source["name"] for source in report["sources"]]
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    kind = "daily or longer" if report["daily"] else f"{report['bar_seconds']:g} s"
    symbols = report["symbols"]
    spreads: dict[str, int] = {}
    for counts in symbols.values():
        spreads[counts["spread"]] = spreads.get(counts["spread"], 0) + 1
    median = float(np.median([counts["median_half_spread"] for counts in symbols.values()]))
    lines = [
        f"data: {shown}; {report['rows_kept']} of {report['rows_read']} rows used",
        f"  {report['assets']} asset(s) x {report['bars']} bars ({kind}), {report['first']} to {report['last']}, "
        f"clock {report['timezone']}, calendar {report['calendar'] or 'none'}, "
        f"adjusted by {report['adjusted_by'] or 'nothing'}"
        + (f", converted by {report['converted_by']}" if "converted_by" in report else ""),
        *_own_line(report["sources"]),
        *map(_download_line, report.get("downloads", [])),
        *contract_lines(report),
        *payment_lines(report),
        f"  half-spread {', '.join(f'{name} for {n}' for name, n in spreads.items())}; median {1e4 * median:.2g} bp",
    ]
    lines += [f"  repaired: {what}: {n}" for what, n in report["repairs"].items()]
    lines += [f"  look at: {line}" for line in report["warnings"][:10]]
    if len(report["warnings"]) > 10:
        lines.append(f"  look at: {len(report['warnings']) - 10} more in the full report")
    lines.append(f"  fingerprint {report['fingerprint'][:16]}")
    return "\n".join(lines)


def contract_lines(report: dict[str, Any]) -> list[str]:
    """Says what a contract is, where that is not one unit of the asset, and what is a future: a line each, or none.

    Args:
      report: of a market.
    """
    own = [f"{name} x {value:,.10g}" for name, value in report.get("multiplier", {}).items()]
    shown = ", ".join(own[:8]) + (f" and {len(own) - 8} more" if len(own) > 8 else "")
    lines = [f"  contracts: value of one is the price of {shown}"] if own else []
    futures = report.get("futures", [])
    shown = ", ".join(futures[:8]) + (f" and {len(futures) - 8} more" if len(futures) > 8 else "")
    return [*lines, f"  futures: {shown}"] if futures else lines
