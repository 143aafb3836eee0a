"""HTML that the sections of a report share: tables, captions, the head of a page. All arguments are HTML already."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def caption(text: str) -> str:
    """Small print below a table or a figure, or in place of a section that is empty."""
    return f'<p class="caption">{text}</p>'


def folded(summary: str, content: str) -> str:
    """Content that is shown when its summary is clicked.

    Args:
      summary: what is folded, in a line of text.
      content: HTML.
    """
    return f"<details><summary>{summary}</summary>{content}</details>"


def row(cells: Iterable[str], heading: str | None = None, *, text: Iterable[str] = (), style: str = "") -> str:
    """A row of a table.

    Args:
      cells: numbers, aligned to the right.
      heading: of the row; None for a row without one.
      text: more cells, aligned to the left.
      style: class of the row.
    """
    first = "" if heading is None else f'<th scope="row">{heading}</th>'
    numbers = "".join(f"<td>{cell}</td>" for cell in cells)
    words = "".join(f'<td class="text">{cell}</td>' for cell in text)
    opening = f'<tr class="{style}">' if style else "<tr>"
    return f"{opening}{first}{numbers}{words}</tr>"


def table(head: Sequence[str], *groups: Iterable[str], style: str = "compact") -> str:
    """A table in a box that scrolls where the screen is too narrow.

    Args:
      head: heading of each column, also of that with the headings of the rows; empty for a table without.
      groups: rows, see `row`; a line is drawn below each group.
      style: class of the table.
    """
    titles = "".join(f'<th scope="col">{title}</th>' if title else "<th></th>" for title in head)
    top = f"<thead><tr>{titles}</tr></thead>" if head else ""
    body = "".join(f"<tbody>{''.join(rows)}</tbody>" for rows in groups)
    return f'<div class="scroll"><table class="{style}">{top}{body}</table></div>'


def header(title: str, subtitle: str, warnings: Sequence[str], verdict: str, cards: Iterable[tuple[str, str]]) -> str:
    """The head of a page.

    Args:
      title: of the page.
      subtitle: below it.
      warnings: items of a list in red; without any there is no list.
      verdict: from `verdict_box`.
      cards: label and value of each headline number.
    """
    parts = [f'<header>\n<h1>{title}</h1>\n<p class="subtitle">{subtitle}</p>\n</header>']
    if warnings:
        items = "".join(f"<li>{warning}</li>" for warning in warnings)
        parts.append(f'<div class="warnings" role="alert"><strong>Warnings</strong><ul>{items}</ul></div>')
    numbers = "".join(f'<div class="card"><span class="label">{label}</span>{value}</div>' for label, value in cards)
    parts += [verdict, f'<div class="cards">{numbers}</div>' if numbers else ""]
    return "\n".join(parts)


def verdict_box(first: str, rest: str, tone: str) -> str:
    """What the numbers say, in a coloured box.

    Args:
      first: sentence in bold type.
      rest: sentences below it; may be empty.
      tone: "good", "bad" or "open".
    """
    below = f"<br>{rest.replace(' %', '&nbsp;%')}" if rest else ""
    return f'<p class="verdict {tone}"><strong>{first}</strong>{below}</p>'
