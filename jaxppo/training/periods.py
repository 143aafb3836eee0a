"""Train, validation and test periods of a market, as bar indices."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from envs.market import MarketData
from jaxppo.config import ConfigError, DataConfig


@dataclasses.dataclass(frozen=True)
class Period:
    """Decisions are taken at the closes of bars `first .. last - 1`; the last mark is at `last`."""

    first: int
    last: int

    @property
    def n_bars(self) -> int:
        """Number of decisions."""
        return self.last - self.first


def split_periods(market: MarketData, config: DataConfig, first_decision: int, min_train: int) -> dict[str, Period]:
    """`train`, `validation`, `test`, in time order, `purge_bars` apart.

    Features of an early decision of a period may read bars of the period before it; no label reaches back.

    Args:
      market: the market.
      config: shares of the bars, or dates.
      first_decision: earliest bar with formed features and a full window behind it.
      min_train: bars that one training chunk needs.

    Raises:
      ConfigError: a period is empty, too short, overlapping, or needs dates the market does not have.
    """
    bounds = _by_dates(market, config) if isinstance(config.train, tuple) else _by_shares(market, config)
    periods, earliest = {}, first_decision
    for name, (start, stop) in bounds.items():
        if periods and start < earliest - config.purge_bars:
            raise ConfigError(f"data.{name} starts at bar {start}, before the period in front of it ends")
        first = max(start, earliest)
        needed = min_train if name == "train" else 2
        if stop - 1 - first < needed:
            raise ConfigError(
                f"data.{name} has {max(stop - 1 - first, 0)} usable bars of {market.n_bars}; it needs {needed} after "
                f"{first_decision} bars of history for features and window and a purge of {config.purge_bars}"
            )
        periods[name] = Period(first, stop - 1)
        earliest = stop + config.purge_bars
    return periods


def _by_shares(market: MarketData, config: DataConfig) -> dict[str, tuple[int, int]]:
    """Bar ranges of shares of the whole market; the test period takes the rest unless it has a share."""
    n = market.n_bars
    train = round(n * config.train)
    validation = train + round(n * config.validation)
    test = n if config.test is None else min(n, validation + round(n * config.test))
    return {"train": (0, train), "validation": (train, validation), "test": (validation, test)}


def _by_dates(market: MarketData, config: DataConfig) -> dict[str, tuple[int, int]]:
    """Bar ranges of [first, last] dates, both included."""
    times = market.info.timestamps
    if not len(times):
        raise ConfigError("data.train: this market has no dates; give shares of the bars instead")
    ranges = {}
    for name in ("train", "validation", "test"):
        edges = []
        for text in getattr(config, name):
            try:
                edges.append(pd.Timestamp(text))
            except ValueError:
                raise ConfigError(f"data.{name}: {text!r} is not a date such as 2010-12-31") from None
        first, last = (edge.tz_localize(None) if edge.tzinfo else edge for edge in edges)
        if last == last.normalize():
            last = last + pd.Timedelta(days=1) - pd.Timedelta(1, "ns")
        start = int(np.searchsorted(times, first.to_datetime64(), side="left"))
        stop = int(np.searchsorted(times, last.to_datetime64(), side="right"))
        if stop <= start:
            span = f"{str(times[0])[:10]} .. {str(times[-1])[:10]}"
            raise ConfigError(f"data.{name} {list(getattr(config, name))} holds no bar; the data spans {span}")
        ranges[name] = (start, stop)
    return ranges
