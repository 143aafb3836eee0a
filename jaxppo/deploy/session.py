"""Rows of the mask `session`, bar by bar: what needs the calendar of an exchange is made on the host."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxppo.deploy.feed import DAY, SECOND, FeedRules
from jaxppo.masks.hours import hours_of
from jaxppo.masks.market import session_limits


def session_rows(keys: Mapping[str, Any], feed: FeedRules, time: int) -> dict[str, np.ndarray]:
    """The row of the mask at the close of a bar: name of the array -> `[A]`.

    Args:
      keys: of the mask: calendar, open_minutes, close_minutes, flat_minutes.
      feed: with the usual length of a bar.
      time: start of the bar, ns since 1970.
    """
    schedule = _schedule(keys["calendar"], time // (90 * DAY))
    minutes = np.asarray([feed.bar_seconds / 60])
    since_open, to_close = hours_of(np.asarray([time]), minutes, schedule)
    rows = session_limits(since_open, to_close, keys["open_minutes"], keys["close_minutes"], keys["flat_minutes"])
    return {f"host_masks.session.{name}": x[0] for name, x in rows.items()}


@functools.lru_cache(maxsize=2)
def _schedule(calendar: str, quarter: int) -> Any:
    """Sessions around a stretch of 90 days."""
    from jaxppo.envs.data.sessions import load_schedule

    return load_schedule(calendar, quarter * 90 * DAY - 30 * DAY, (quarter + 1) * 90 * DAY + SECOND)
