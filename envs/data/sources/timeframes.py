"""Lengths of bars as vendors write them: `1h`, `15Min`, `1Day`, `1wk`, `1M`."""

from __future__ import annotations

import re
from typing import NamedTuple

import pandas as pd

_UNITS = {
    "min": "min", "minute": "min", "h": "h", "hour": "h", "d": "d", "day": "d", "w": "w", "wk": "w", "week": "w",
    "mo": "mo", "month": "mo",
}  # fmt: skip
SPELLING = re.compile(r"(\d{1,4})(m|M|[A-Za-z]{1,6})")


class Timeframe(NamedTuple):
    """The length of a bar.

    Attributes:
      n: of units, >= 1.
      unit: `min`, `h`, `d`, `w` or `mo`.
    """

    n: int
    unit: str

    @property
    def daily(self) -> bool:
        """Whether its bars carry dates rather than times: a day or longer."""
        return self.unit in ("d", "w", "mo")

    @property
    def seconds(self) -> int:
        """Length of a bar; of a month, that of thirty days."""
        return self.n * {"min": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400, "mo": 30 * 86_400}[self.unit]

    def ends(self, starts: pd.Series) -> pd.Series:
        """When bars end.

        Args:
          starts: `[N]` times.
        """
        if self.unit == "mo":
            return starts + pd.DateOffset(months=self.n)
        return starts + pd.Timedelta(self.seconds, "s")

    def __str__(self) -> str:
        return f"{self.n}{self.unit}"


def timeframe_of(text: str) -> Timeframe | None:
    """Reads a length, such as `1h` or `1Day`; None where it is none. `1m` is a minute and `1M` a month.

    Args:
      text: as vendors write it.
    """
    found = SPELLING.fullmatch(text)
    if found is None or int(found[1]) < 1:
        return None
    unit = {"m": "min", "M": "mo"}.get(found[2]) or _UNITS.get(found[2].lower().removesuffix("s") or found[2])
    return None if unit is None else Timeframe(int(found[1]), unit)
