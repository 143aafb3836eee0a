"""Training, validation and test periods of a market, as bar numbers."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pandas as pd

from jaxppo.config import PERIODS, DataConfig
from jaxppo.envs.data.digits import FIRST_YEAR, LAST_YEAR
from jaxppo.envs.market.market_data import MarketData
from jaxppo.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Period:
    """Bars of a period: decisions at the closes of `first .. last - 1`, the last mark at `last`.

    Attributes:
      first: bar of the first decision.
      last: bar of the last mark.
    """

    first: int
    last: int

    @property
    def n_bars(self) -> int:
        """Number of decisions."""
        return self.last - self.first


def time_of(market: MarketData, bar: int) -> str | int:
    """Time of a bar to the second, or its number in a market without times.

    Args:
      market: the market.
      bar: its number.
    """
    times = market.info.timestamps
    return str(times[bar])[:19] if len(times) else bar


def split_periods(market: MarketData, config: DataConfig, first_decision: int, min_train: int) -> dict[str, Period]:
    """Splits a market into `train`, `validation` and `test`, in time order, at least `purge_bars` apart.

    Features of an early decision of a period may read bars of the period before it; no label reaches back.

    Args:
      market: the market.
      config: fractions of the bars, or dates.
      first_decision: earliest bar with complete features and a full window before it.
      min_train: bars that one training chunk needs.

    Raises:
      ConfigError: a period is empty, too short, overlapping, or needs dates the market does not have.
    """
    bounds = _by_dates(market, config) if isinstance(config.train, tuple) else _by_fractions(market, config)
    periods, earliest = {}, first_decision
    for name, (start, stop) in bounds.items():
        first = max(start, earliest)
        needed = min_train if name == "train" else 2
        usable = max(stop - 1 - first, 0)
        if usable < needed:
            raise ConfigError(
                f"data.{name} is {_shown(config, name)}, which leaves {usable} usable of the {market.n_bars} bars; it "
                f"needs {needed} after {first_decision} bars of history for features and window and "
                f"{config.purge_bars} bars of purge between periods"
            )
        periods[name] = Period(first, stop - 1)
        earliest = stop + config.purge_bars
    return periods


def _by_fractions(market: MarketData, config: DataConfig) -> dict[str, tuple[int, int]]:
    """Bar ranges by fractions of the whole market; the test period takes the rest unless it has a fraction."""
    n, given = market.n_bars, [getattr(config, name) for name in PERIODS]
    train = round(n * given[0])
    validation = min(n, train + round(n * given[1]))
    test = n if given[2] is None else min(n, validation + round(n * given[2]))
    return {"train": (0, train), "validation": (train, validation), "test": (validation, test)}


def _by_dates(market: MarketData, config: DataConfig) -> dict[str, tuple[int, int]]:
    """Bar ranges of [first, last] dates, both included."""
    times = market.info.timestamps
    if not len(times):
        raise ConfigError(
            f"data.train is {_shown(config, 'train')}, but this market has no dates; give shares of the bars"
        )
    ranges, before = {}, None
    for name in PERIODS:
        first, last = (_edge(name, text) for text in getattr(config, name))
        if len(getattr(config, name)[1]) <= len("2010-12-31"):
            last = last + pd.Timedelta(days=1) - pd.Timedelta(1, "ns")
        if last < first:
            raise ConfigError(f"data.{name} is {_shown(config, name)}; its last date must not lie before its first")
        if before and first <= before[1]:
            raise ConfigError(
                f"data.{name} is {_shown(config, name)}; it must start after the end of data.{before[0]} "
                f"{_shown(config, before[0])}"
            )
        start = int(np.searchsorted(times, first.to_datetime64(), side="left"))
        stop = int(np.searchsorted(times, last.to_datetime64(), side="right"))
        if stop <= start:
            span = f"{str(times[0])[:10]} .. {str(times[-1])[:10]}"
            raise ConfigError(f"data.{name} is {_shown(config, name)}, which holds no bar; the data spans {span}")
        ranges[name], before = (start, stop), (name, last)
    return ranges


def _edge(name: str, text: str) -> pd.Timestamp:
    """A date or time as UTC without an offset, as bars are stamped."""
    if re.match(r"\d{4}-\d{2}-\d{2}", text) and int(text[:4]) > LAST_YEAR:
        text = f"{LAST_YEAR}-12-31"  # 9999-12-31 means to the end, and is beyond what 64 bits of nanoseconds hold
    try:
        edge = pd.Timestamp(text)
    except ValueError:
        raise ConfigError(f"data.{name} has {text!r}, which is not a date such as 2010-12-31") from None
    if edge.year < FIRST_YEAR:
        raise ConfigError(f"data.{name} has {text!r}; dates lie from {FIRST_YEAR} on")
    return edge.tz_convert("UTC").tz_localize(None) if edge.tzinfo else edge


def _shown(config: DataConfig, name: str) -> str:
    """A period of the configuration, for messages."""
    period = getattr(config, name)
    if isinstance(period, tuple):
        return f"[{period[0]}, {period[1]}]"
    return "the rest" if period is None else f"{period:g}"
