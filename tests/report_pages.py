"""What the tests of reports share: made-up results, and a parser that reads a page back."""

from __future__ import annotations

import html.parser
import math

import numpy as np
import pandas as pd

from jaxppo.report import page as report
from jaxppo.report.results import Performance

VOID = {"meta", "br", "img", "link", "input", "hr"}
"""Elements that have no closing tag."""
HOSTILE = '</script><script>alert("x")</script>&amp;'


def example(n: int = 60, n_assets: int = 3, **changes: object) -> report.ReportData:
    """An agent and two baselines over `n` daily bars."""
    rng = np.random.default_rng(0)
    asset_returns = rng.normal(0.0005, 0.01, (n, n_assets))
    weights = rng.uniform(-0.3, 0.5, (n, n_assets))
    returns = {"agent": (weights * asset_returns).sum(1), "buy_and_hold": asset_returns.mean(1), "flat": np.zeros(n)}
    defined = {"sharpe": 1.234, "sortino": 1.5, "total_return": 0.1234, "max_drawdown": 0.05, "n_bars": float(n)}
    undefined = {"sharpe": None, "sortino": math.nan, "total_return": 0.0, "max_drawdown": 0.0, "n_bars": float(n)}
    values: dict = {
        "title": "quickstart",
        "timestamps": np.datetime64("2020-01-01", "ns") + np.arange(n + 1) * np.timedelta64(1, "D"),
        "equity": {name: 1e5 * np.cumprod(np.r_[1.0, 1.0 + series]) for name, series in returns.items()},
        "weights": weights,
        "symbols": tuple(f"SYM{i}" for i in range(n_assets)),
        "costs": {"commission": np.full(n, 2.0), "spread": np.full(n, 3.0)},
        "training": [{"iteration": i, "env_steps": 100 * i, "reward": 0.1 * i, "date": "2020"} for i in range(5)],
        "metrics": {"agent": defined, "buy_and_hold": defined, "flat": undefined},
        "intervals": {
            "agent": {"sharpe": (-0.5, 2.968), "total_return": (-0.1, 0.3)},
            "buy_and_hold": {"sharpe": (0.25, 2.25)},
            "flat": {"sharpe": (None, math.nan)},
        },
        "data_report": {"rows": 12345, "repaired": {"sorted": True}, "dropped": list(range(70)), "none": []},
        "config_yaml": "seed: 0\n",
        "warnings": (),
    }
    return report.ReportData(**(values | changes))


def earned(n: int = 60, symbols: tuple[str, ...] = ("SYM0", "SYM1")) -> Performance:
    """Months, moving Sharpe ratio, assets and round trips that were made up."""
    rng, ends = np.random.default_rng(1), np.arange(n // 3, n + 1)
    ratio = np.where(ends == ends[3], np.nan, rng.normal(0.5, 1.0, len(ends)))
    trips = pd.DataFrame(
        {
            "symbol": [symbols[0]] * 30,
            "side": ["long", "short"] * 15,
            "opened": np.arange(1, 31),
            "closed": [*range(2, 31), -1],
            "bars": 1,
            "profit": np.linspace(2000.0, -900.0, 30),
        }
    )
    profit = np.linspace(900.0, -300.0, len(symbols))
    return Performance(
        monthly={"2019-12": 0.02, "2020-01": -0.01, "2020-03": 0.05},
        window=n // 3,
        ends=ends,
        rolling=ratio,
        rolling_ci=np.stack([ratio - 1.0, ratio + 1.0]),
        contribution=pd.DataFrame({"profit": profit, "costs": 10.0}, index=list(symbols)),
        financing=25.0,
        other=0.0,
        trips=trips,
    )


def plain(text: str) -> str:
    """`text` with hyphens for minus signs and dashes."""
    return text.replace("\N{MINUS SIGN}", "-").replace("\N{EN DASH}", "-")


class Page(html.parser.HTMLParser):
    """What the tests ask of a page: its text and table cells (dashes made plain), its scripts, what it links to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []
        self.headings: list[str] = []
        self.scripts: list[str] = []
        self.classes: list[str] = []
        self.identifiers: list[str] = []
        self.addresses: list[str] = []
        self.visible = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        given = dict(attrs)
        self.classes += (given.get("class") or "").split()
        self.identifiers += [given["id"]] if "id" in given else []
        self.addresses += [value for name, value in attrs if name in ("src", "href", "action", "srcset")]
        if tag in ("td", "th"):
            self.cells.append("")
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, "tags nest"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif "style" not in self.open:
            self.visible += plain(data)
            if "h2" in self.open:
                self.headings.append(data)
            if "td" in self.open or "th" in self.open:
                self.cells[-1] += plain(data)


def page_of(data: report.ReportData) -> Page:
    """The report of these data, read back."""
    page = Page(report.render(data))
    assert page.open == [], "every tag is closed"
    return page


def row(page: Page, label: str, n_columns: int = 3) -> list[str]:
    """Cells of the table row with this heading."""
    begin = page.cells.index(label) + 1
    return page.cells[begin : begin + n_columns]


def at_setting(**changes: object) -> dict:
    """Figures at one level of costs or capital."""
    sharpe = changes.get("sharpe", 1.5)
    ends = (None, None) if sharpe is None else (sharpe - 1.25, sharpe + 1.0)
    row = {"sharpe": sharpe, "sharpe_low": ends[0], "sharpe_high": ends[1], "total_return": 0.2, "max_drawdown": 0.1}
    return row | {"costs": 0.01, "turnover": 12.0, "unfilled": 0.5, "liquidated": False} | changes


CAPACITY = {
    "levels": [
        at_setting(level=level, total_return=0.3 - 0.1 * level, sharpe=2.0 - level)
        for level in (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
    ],
    "capitals": [
        at_setting(capital=capital, gain=0.2 * capital if capital < 1e7 else -5.0) for capital in (1e4, 1e5, 1e6, 1e7)
    ],
    "break_even": 3.0,
    "most": 64.0,
    "capital": 1e5,
    "level": 0.9,
}
