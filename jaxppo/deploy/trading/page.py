"""The page of a trader: one file that opens without a network and loads itself again."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from jaxppo.deploy.trading.book import Books, Written
from jaxppo.report import markup
from jaxppo.report.formatting import escaped, number_text, percent

PAGE = "page.html"
REFRESH = 5
"""Seconds after which a browser loads the page again."""
WIDTH, HEIGHT, EDGE = 1100, 220, 6
"""Of the equity curve, pixels."""
_STYLE = pathlib.Path(__file__).parents[2] / "report" / "report.css"


@dataclasses.dataclass(frozen=True)
class Shown:
    """What a page is made of.

    Attributes:
      name: of the policy.
      account: of broker and account.
      sends: whether orders are sent.
      killed: whether everything is closed.
      refused: number of records that were not used.
      books: of the trader.
    """

    name: str
    account: str
    sends: bool
    killed: bool
    refused: int
    books: Books


def render(shown: Shown) -> str:
    """HTML of the page; text of others is escaped.

    Args:
      shown: what it shows.
    """
    books, last = shown.books, shown.books.last
    sections = (
        ("Equity", _curve(books.curve)),
        ("Positions", _positions(last)),
        ("Limits", _limits(last, shown.killed)),
        ("Orders", _orders([*books.closed, *books.orders.values()])),
        ("Last decisions", _decisions(books.recent)),
        ("Out of order", _events(books.events)),
    )
    body = "\n".join(f"<section><h2>{name}</h2>\n{content}\n</section>" for name, content in sections)
    title = f"{shown.name}: {shown.account}"
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="refresh" content="{REFRESH}">\n<link rel="icon" href="data:,">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escaped(title)}</title>\n'
        f"<style>\n{_STYLE.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n<main>\n"
        f"{_header(shown, title)}\n{body}\n</main>\n</body>\n</html>\n"
    )


def _header(shown: Shown, title: str) -> str:
    """Title, state and headline numbers."""
    last, curve = shown.books.last, shown.books.curve
    warnings = ["The kill switch is set: everything is closed."] if shown.killed else []
    warnings += ["A monitored limit has closed the account."] if last.get("stopped") else []
    warnings += ["The account was liquidated."] if last.get("liquidated") else []
    sends = "Orders are sent." if shown.sends else "Dry run: orders are written down, none is sent."
    cards = []
    if curve:
        change = curve[-1][1] / curve[0][1] - 1 if curve[0][1] > 0 else 0.0
        cards = [("Equity", _value(number_text(curve[-1][1], "money"))), ("Since the start", _value(percent(change)))]
    cards.append(("Records refused", _value(number_text(float(shown.refused), "count"))))
    subtitle = f"last bar {escaped(last['time'])}, {escaped(last['status'])}" if last else "no bar yet"
    box = markup.verdict_box(sends, "", "good" if shown.sends else "open")
    return markup.header(escaped(title), subtitle, warnings, box, cards)


def _curve(curve: Sequence[tuple[str, float]]) -> str:
    """The equity curve as an image."""
    if len(curve) < 2:
        return markup.caption("Drawn from the second bar on.")
    values = [equity for _, equity in curve]
    low, high = min(values), max(values)
    span, across = (high - low) or 1.0, (WIDTH - 2 * EDGE) / (len(values) - 1)
    points = " ".join(
        f"{EDGE + across * i:.1f},{HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * (value - low) / span:.1f}"
        for i, value in enumerate(values)
    )
    ends = f"{escaped(curve[0][0])} to {escaped(curve[-1][0])}"
    between = f"{number_text(low, 'money')} to {number_text(high, 'money')}"
    return (
        f'<svg class="equity" viewBox="0 0 {WIDTH} {HEIGHT}" style="width:100%;height:auto;display:block" role="img" '
        f'aria-label="equity from {ends}"><polyline points="{points}" fill="none" stroke="#0b5f96" '
        f'stroke-width="2" stroke-linejoin="round"/></svg>{markup.caption(f"{ends}; {between}")}'
    )


def _positions(last: Mapping[str, Any]) -> str:
    """A row for each asset: shares, price, weight and target."""
    if not last:
        return markup.caption("None yet.")
    equity, rows = last["equity"], []
    for symbol, price in last["price"].items():
        shares, target = last["shares"].get(symbol, 0.0), last["targets"].get(symbol)
        weight = shares * price / equity if price is not None and equity else None
        cells = (number_text(shares, "number"), number_text(price, "number"), number_text(weight, "percent"),
                 number_text(target, "percent"))  # fmt: skip
        rows.append(markup.row(cells, escaped(symbol)))
    return markup.table(("Asset", "Shares", "Price", "Weight", "Target"), rows)


def _limits(last: Mapping[str, Any], killed: bool) -> str:
    """Levels of monitored limits, and what has closed the account."""
    rows = [
        markup.row([number_text(level, "number")], escaped(name)) for name, level in last.get("monitored", {}).items()
    ]
    flags = {"kill switch": killed, "stopped": last.get("stopped"), "liquidated": last.get("liquidated")}
    rows += [markup.row(["yes" if flag else "no"], name) for name, flag in flags.items()]
    return markup.table(("Limit", "Level"), rows)


def _orders(orders: Sequence[Written]) -> str:
    """The last orders, the newest first."""
    if not orders:
        return markup.caption("None yet.")
    rows = [
        markup.row(
            (number_text(one.order.quantity, "number"), number_text(one.filled, "number")),
            escaped(one.order.time),
            text=(escaped(one.order.symbol), escaped(one.state), escaped(one.reason), escaped(one.order.client_id)),
        )
        for one in reversed(orders)
    ]
    return markup.table(("Bar", "Quantity", "Filled", "Asset", "State", "Reason", "Client id"), rows)


def _decisions(recent: Sequence[Mapping[str, Any]]) -> str:
    """The last decisions, the newest first."""
    if not recent:
        return markup.caption("None yet.")
    rows = [
        markup.row(
            (number_text(bar["equity"], "money"), number_text(float(len(bar["orders"])), "count")),
            escaped(bar["time"]),
            text=(escaped(bar["status"]), escaped("; ".join(bar["notes"]))),
        )
        for bar in reversed(recent)
    ]
    return markup.table(("Bar", "Equity", "Orders", "Status", "Notes"), rows)


def _events(events: Sequence[tuple[str, str]]) -> str:
    """What was refused or did not fit, the newest first."""
    if not events:
        return markup.caption("Nothing.")
    rows = [markup.row((), escaped(time or "before the first bar"), text=[escaped(what)])
            for time, what in reversed(events)]  # fmt: skip
    return markup.table(("After bar", "What"), rows)


def _value(text: str) -> str:
    """A headline number."""
    return f'<span class="value">{text}</span>'
