"""Options of `load_market`: types, ranges, and their check."""

from __future__ import annotations

import dataclasses
import operator
import re
import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pandas as pd
from annotated_types import Ge, Gt, Le, Lt

from jaxppo.arguments import Text
from jaxppo.envs.data.times import EARLIEST, LATEST
from jaxppo.errors import DataError

BadRows = Literal["error", "drop"]
DuplicateRows = Literal["error", "first", "last"]
CrossedQuotes = Literal["error", "estimate"]
OffSessionBars = Literal["keep", "drop", "error"]
VolumeKind = Literal["shares", "notional", "ticks", "none"]
RateColumn = Text | tuple[Text, Text]
Tolerance = Annotated[float, Ge(0.0), Le(1.0)]
LogDistance = Annotated[float, Ge(1e-3), Le(50.0)]
Days = Annotated[float, Ge(1e-3), Le(1e5)]
HalfSpread = Annotated[float, Ge(0.0), Le(0.5)]
SpreadKind = Literal["quoted", "invariance", "edge", "fixed"]
Tick = Annotated[float, Ge(1e-9), Le(1e6)]
Multiplier = Annotated[float, Ge(1e-9), Le(1e9)]
SpreadWindow = Annotated[int, Ge(3), Le(2**20)]

_BOUNDS = {
    Ge: ("at least", operator.ge),
    Gt: ("above", operator.gt),
    Le: ("at most", operator.le),
    Lt: ("below", operator.lt),
}


@dataclasses.dataclass(frozen=True)
class LoadOptions:
    """Keyword arguments of `load_market`, which documents them.

    Raises:
      DataError: a value outside its type or range; empty or repeated symbols.
    """

    symbols: tuple[str, ...] | None
    calendar: str | None
    timezone: str | None
    day_first: bool | None
    adjust: bool
    volume: VolumeKind | None
    rate_column: RateColumn | None
    stablecoins_at_par: bool
    on_bad_rows: BadRows
    on_duplicates: DuplicateRows
    on_crossed_quotes: CrossedQuotes
    on_off_session: OffSessionBars
    range_tolerance: Tolerance
    max_log_jump: LogDistance
    max_log_range: LogDistance
    max_log_spike: LogDistance
    split_tolerance: Tolerance
    max_hole_days: Days
    zero_volume_tradable: bool
    spread: SpreadKind | None
    half_spread: HalfSpread | Mapping[str, HalfSpread] | None
    tick: Tick | Mapping[str, Tick] | None
    min_half_spread: HalfSpread
    spread_window: SpreadWindow
    multiplier: Multiplier | Mapping[str, Multiplier] = 1.0
    futures: bool | tuple[str, ...] = False
    columns: tuple[str, ...] | Mapping[str, str | None] | None = None
    funding: Text | None = None
    dividends: Text | None = None
    splits: Text | None = None
    start: str | None = None
    end: str | None = None
    refresh: bool = False

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            _check(name, getattr(self, name), hint)
        _check_rate_column(self.rate_column)
        for name, hint in (("half_spread", HalfSpread), ("tick", Tick), ("multiplier", Multiplier)):
            given = getattr(self, name)
            for key, value in given.items() if isinstance(given, Mapping) else ((None, given),):
                if value is not None or key is not None or name == "multiplier":
                    _check_number(name if key is None else f"{name} of {key}", value, hint)
        if (self.half_spread is None) == (self.spread == "fixed"):
            raise DataError("spread='fixed' and a value of half_spread need each other")
        _check_futures(self.futures)
        _check_columns(self.columns)
        for name in ("funding", "dividends", "splits"):
            if not (getattr(self, name) is None or (isinstance(getattr(self, name), str) and getattr(self, name))):
                raise DataError(f"{name}={getattr(self, name)!r} must be the name of a column")
        _check_period(self.start, self.end)
        symbols = self.symbols
        if symbols is None:
            return
        if not symbols:
            raise DataError("symbols is empty: name at least one symbol, or pass None for all of them")
        for symbol in symbols:
            if not isinstance(symbol, str):
                raise DataError(f"symbols must be text such as '{symbol}', not {symbol!r}")
            if symbols.count(symbol) > 1:
                raise DataError(f"symbols names {symbol!r} more than once")


def _check(name: str, value: Any, hint: Any) -> None:
    """Checks a value against the choices or the bounds of its annotation."""
    if get_origin(hint) is types.UnionType or get_origin(hint) is Union:
        hint = next((option for option in get_args(hint) if get_origin(option) is Literal), hint)
        if value is None:
            return
    if get_origin(hint) is Literal and value not in get_args(hint):
        raise DataError(f"{name}={value!r} is not one of {', '.join(map(repr, get_args(hint)))}")
    for bound in getattr(hint, "__metadata__", ()):
        words, holds = _BOUNDS[type(bound)]
        limit = getattr(bound, holds.__name__)
        if not holds(value, limit):
            raise DataError(f"{name}={value!r} must be {words} {limit:g}")


def _check_number(name: str, value: Any, hint: Any) -> None:
    """Checks for a number within the bounds of its annotation."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DataError(f"{name} is {value!r}; a number is expected")
    _check(name, value, hint)


def _check_rate_column(value: Any) -> None:
    """Checks for a name, or the two names of the rates at open and close."""
    names = (value,) if isinstance(value, str) else value
    pair = isinstance(names, tuple | list) and len(names) == (1 if isinstance(value, str) else 2)
    if value is not None and not (pair and all(isinstance(name, str) and name for name in names)):
        raise DataError(f"rate_column={value!r} must be the name of a column, or (column at the open, at the close)")


def _check_columns(value: Any) -> None:
    """Checks for names, or names and those of times of publication."""
    names = () if value is None else tuple(value)
    times = tuple(value.values()) if isinstance(value, Mapping) else ()
    texts = all(isinstance(name, str) and name for name in (*names, *(time for time in times if time is not None)))
    if not texts or len(set(names)) < len(names):
        raise DataError(f"columns={value!r} must be names of columns, each once, or name -> column of its publication")


def _check_futures(value: Any) -> None:
    """Checks for a yes or no, or names."""
    named = isinstance(value, tuple) and value and all(isinstance(name, str) for name in value)
    if not (isinstance(value, bool) or named):
        raise DataError(f"futures={value!r} must be True, False or the symbols of futures")


def _check_period(start: Any, end: Any) -> None:
    """Checks for dates, in order."""
    for name, value in (("start", start), ("end", end)):
        written = isinstance(value, str) and re.fullmatch(r"\d{4}-\d{2}-\d{2}", value)
        try:
            plausible = value is None or (written and EARLIEST <= pd.Timestamp(value).value <= LATEST)
        except ValueError:  # 2020-02-30
            plausible = False
        if not plausible:
            raise DataError(f"{name}={value!r} must be a date such as 2020-01-31, from 1900 on")
    if start is not None and end is not None and end < start:
        raise DataError(f"end={end!r} must not lie before start={start!r}")
