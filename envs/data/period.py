"""The part of the prices that is used."""

from __future__ import annotations

import pandas as pd

from jaxppo.envs.data.options import LoadOptions
from jaxppo.envs.data.rows import Rows, time_text
from jaxppo.envs.data.times import DAY
from jaxppo.errors import DataError


def keep_between(rows: Rows, options: LoadOptions) -> None:
    """Leaves out the rows before `start` and after `end`, which no later check sees.

    Args:
      rows: placed in time.
      options: `start` and `end` apply.

    Raises:
      DataError: no row is left.
    """
    utc = rows.frame["utc"]
    kept = pd.Series(True, utc.index)
    if options.start is not None:
        kept &= utc >= pd.Timestamp(options.start).value
    if options.end is not None:
        kept &= utc < pd.Timestamp(options.end).value + DAY
    if not kept.any():
        between = f"from {options.start or 'the first'} to {options.end or 'the last'}"
        spans = f"{time_text(utc.min())} to {time_text(utc.max())}"
        raise DataError(f"{rows.tables[0].name}: no bar {between}; the prices are of {spans}")
    rows.frame = rows.frame[kept].reset_index(drop=True)
