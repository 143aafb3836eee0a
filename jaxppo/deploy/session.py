"""Rows of the mask `session`, bar by bar: what needs the calendar of an exchange is made on the host."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxppo.deploy.feed import DAY, SECOND, FeedRules, RefusedError
from jaxppo.errors import DataError
from jaxppo.masks.hours import hours_of
from jaxppo.masks.market import session_limits


def session_rows(sessions: Mapping[str, Mapping[str, Any]], feed: FeedRules, time: int) -> dict[str, np.ndarray]:
    """The rows of the masks at the close of a bar: name of the array -> `[]`, the same for all assets.

    Args:
      sessions: place of a mask in the chain -> its keys: calendar, open_minutes, close_minutes, flat_minutes.
      feed: with the usual length of a bar.
      time: start of the bar, ns since 1970.

    Raises:
      RefusedError: a calendar does not cover the time.
    """
    found: dict[str, np.ndarray] = {}
    minutes = np.asarray([feed.bar_seconds / 60])
    for place, keys in sessions.items():
        try:
            schedule = schedule_around(keys["calendar"], time // (90 * DAY))
        except DataError as error:
            raise RefusedError(str(error)) from None
        hours = hours_of(np.asarray([time]), minutes, schedule)
        rows = session_limits(*hours, keys["open_minutes"], keys["close_minutes"], keys["flat_minutes"])
        found |= {f"host_masks.{place}.{name}": x[0] for name, x in rows.items()}
    return found


@functools.lru_cache(maxsize=2)
def schedule_around(calendar: str, quarter: int) -> Any:
    """Sessions around a stretch of 90 days.

    Args:
      calendar: of exchange_calendars.
      quarter: number of the stretch since 1970.

    Raises:
      DataError: there is no such calendar, or it does not cover the stretch.
    """
    from jaxppo.envs.data.sessions import load_schedule

    return load_schedule(calendar, quarter * 90 * DAY - 30 * DAY, (quarter + 1) * 90 * DAY + SECOND)
