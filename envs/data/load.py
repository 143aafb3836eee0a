"""Price files and data frames -> a validated `MarketData`."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxppo.envs.data import checks as data_checks
from jaxppo.envs.data import history as data_history
from jaxppo.envs.data import report as data_report
from jaxppo.envs.data.columns import canonical_rows, is_daily
from jaxppo.envs.data.reading import read_tables
from jaxppo.envs.data.report import format_report
from jaxppo.envs.data.rows import PRICES, DataError, LoadOptions, Rows, time_text
from jaxppo.envs.data.sessions import Schedule, calendar_fields, check_timezone, load_schedule, off_session
from jaxppo.envs.data.times import DAY
from jaxppo.envs.market.market_data import MarketData, MarketInfo
from jaxppo.envs.market.spread import estimated_half_spread

__all__ = ["DataError", "format_report", "load_market"]

logger = logging.getLogger(__name__)


def load_market(
    path_or_frame: str | os.PathLike | pd.DataFrame | Sequence[str | os.PathLike] | Mapping[str, pd.DataFrame],
    *,
    symbols: Sequence[str] | None = None,
    calendar: str | None = None,
    timezone: str | None = None,
    day_first: bool | None = None,
    adjust: bool = True,
    on_bad_rows: str = "error",
    on_duplicates: str = "error",
    on_crossed_quotes: str = "error",
    on_off_session: str = "keep",
    range_tolerance: float = 1e-4,
    max_log_jump: float = 1.25,
    max_log_range: float = 3.5,
    max_log_spike: float = 1.1,
    split_tolerance: float = 0.04,
    max_hole_days: float = 120.0,
    zero_volume_tradable: bool = False,
    min_half_spread: float = 1e-4,
    spread_window: int = 63,
) -> MarketData:
    """Reads prices, checks them, and lines them up on one time axis.

    Sorting, rows repeated exactly, empty rows at the ends of a history and rounding errors of open and close are
    repaired and counted in `market.info.report`. Everything else that is wrong is refused in one line that names the
    row and, where there is one, the option below that would accept it.

    Prices: open, high, low, close are multiplied by adj_close / close (or adj_factor) where given, volume is divided
    by it. Back-adjustment rescales the past by a constant at every later split or dividend; returns do not see it. No
    other value of a bar depends on later rows.

    Times: stored in UTC, start of the bar. Where all times of the data are midnight, on the clock they are written in
    or in `timezone`, the bars are daily (or longer) and carry their date at 00:00 UTC.

    Where an asset has no bar, its prices repeat its last close (1.0 before its first bar), its volume is 0 and
    `tradable` is False; its half spread repeats too. A bar whose volume is known to be 0 (or is missing, though other
    bars of the asset have one) keeps its prices but is not tradable: nobody traded. An asset whose volume is absent,
    missing or 0 throughout has `volume_known` False, and all its bars are tradable.

    Half spread: (ask - bid) / (ask + bid) of the closing quote where there is one, else the EDGE estimate over the
    asset's last `spread_window` bars.

    Args:
      path_or_frame: CSV (also .gz, .zip), TSV or Parquet file; folder or list of files; name of a data set that ships
        with the package (`"us5_1d"`); data frame in long form, of one symbol, or with price x symbol columns; or
        `{symbol: data frame}`. A file without a symbol column is one symbol, named like the file.
      symbols: assets to keep, in this order; None keeps all, sorted by name.
      calendar: exchange_calendars name (`XNYS`, `CMES`, `24/5`, ...): sessions, the exchange's clock, and counts of
        missing sessions and of bars outside sessions.
      timezone: IANA zone of times without an offset, and the exchange's clock if no calendar is named; None is UTC.
      day_first: whether 01/02/2020 is the first of February; None decides from the whole column.
      adjust: False leaves prices and volume as they are.
      on_bad_rows: `"error"` or `"drop"` rows with unreadable times, without symbol, with missing, non-positive or
        inconsistent prices, negative volume, prices outside [1e-20, 1e20] or volume above 1e18, and repeated headers.
      on_duplicates: `"error"`, or keep the `"first"` or the `"last"` (in file order) of differing rows for one time.
      on_crossed_quotes: `"error"`, or `"estimate"` the spread where bid is above ask.
      on_off_session: `"keep"`, `"drop"`, or `"error"` for bars that no session of the calendar touches.
      range_tolerance: relative excess of open or close over [low, high] that widens the bar instead of refusing it, >=
        0.
      max_log_jump: largest accepted empty space between the ranges of two bars, log price, > 0.
      max_log_range: largest accepted log(high / low) of a bar, > 0.
      max_log_spike: how far open and close may leave the level of the asset and be back within three bars, log price,
        > 0: beyond, and beyond ten usual moves, it is a bad print. In daily bars also how far high and low may lie
        beyond every open and close of the bar and its neighbours.
      split_tolerance: how near, in log price, a gap into a quiet bar must be to 2:1, 3:1, ... or to a split that the
        data states to count as an unadjusted split; at 3:2 and 5:2 the report warns; 0 turns the search off.
      max_hole_days: longest accepted time between two bars of an asset, days, > 0.
      zero_volume_tradable: True makes bars with zero or missing volume tradable too.
      min_half_spread: floor of the estimated half spread, fraction of the price, in [0, 1); quotes are taken as they
        are.
      spread_window: bars per estimate, >= 3; the floor holds before that many.

    Returns:
      The market, arrays `[T, A]`; names, times and the data report in `.info`.

    Raises:
      DataError: one line on what is wrong and where.
    """
    options = LoadOptions(
        (symbols,) if isinstance(symbols, str) else None if symbols is None else tuple(symbols),
        calendar, timezone, day_first, adjust, on_bad_rows, on_duplicates, on_crossed_quotes, on_off_session,
        range_tolerance, max_log_jump, max_log_range, max_log_spike, split_tolerance, max_hole_days,
        zero_volume_tradable, min_half_spread, spread_window,
    )  # fmt: skip
    check_timezone(timezone)
    rows = canonical_rows(read_tables(path_or_frame), options)
    n_read = sum(len(table.rows) for table in rows.tables)
    daily, schedule = _place_in_time(rows, options)
    data_checks.drop_repeats(rows)
    data_checks.check_rows(rows, options)
    data_checks.check_duplicates(rows, options)
    data_checks.check_quotes(rows, options)
    adjusted_by = data_history.adjust_prices(rows, options)
    bar_length = _bar_length(rows.frame)
    if schedule is not None:
        _apply_calendar(rows, daily, bar_length, schedule, options)
    _require_every_symbol(rows)
    data_history.check_history(rows, daily, options)
    market = _panel(rows, n_read, daily, bar_length, schedule, adjusted_by, options)
    logger.info("%s", format_report(market.info.report))
    return market


def _place_in_time(rows: Rows, options: LoadOptions) -> tuple[bool, Schedule | None]:
    """Decides whether bars are daily, gives daily bars their date at 00:00 UTC, and loads the calendar."""
    frame = rows.frame
    utc, written = frame["utc"].to_numpy(), frame["written"].to_numpy()
    schedule = None
    if options.calendar is not None:
        schedule = load_schedule(options.calendar, utc.min(), utc.max())
    clock = schedule.timezone if schedule else options.timezone or "UTC"
    local = pd.DatetimeIndex(utc.astype("datetime64[ns]")).tz_localize("UTC").tz_convert(clock).tz_localize(None)
    local = local.as_unit("ns").asi8
    dates = next((clock_time for clock_time in (written, local) if is_daily(clock_time)), None)
    if dates is not None:
        rows.frame = frame.assign(utc=dates, written=dates)
        return True, schedule
    for at, symbol in enumerate(frame["symbol"].cat.categories):
        own = written[frame["symbol"].cat.codes.to_numpy() == at]
        if len(own) > 2 and is_daily(own) and np.median(np.diff(np.sort(own))) >= DAY:
            raise DataError(
                f"{rows.tables[0].name}: {symbol} has daily bars and others have shorter ones; load them apart"
            )
    return False, schedule


def _bar_length(frame: pd.DataFrame) -> int:
    """The most frequent distance between two bars of an asset, ns; 0 if there are no two."""
    steps = np.diff(frame["utc"].to_numpy())[np.diff(frame["symbol"].cat.codes.to_numpy()) == 0]
    values, counts = np.unique(steps, return_counts=True)
    return int(values[counts.argmax()]) if len(values) else 0


def _apply_calendar(rows: Rows, daily: bool, bar_length: int, schedule: Schedule, options: LoadOptions) -> None:
    outside = off_session(rows.frame["utc"].to_numpy(), daily, bar_length, schedule)
    if not outside.any() or options.on_off_session == "keep":
        return
    if options.on_off_session == "error":
        at = int(np.flatnonzero(outside)[0])
        way_out = "pass on_off_session='keep' or 'drop'"
        raise rows.refuse(at, f"the bar lies outside every session of {schedule.name}", way_out, int(outside.sum()))
    rows.count("bars outside sessions dropped", outside.sum())
    rows.frame = rows.frame[~outside].reset_index(drop=True)


def _require_every_symbol(rows: Rows) -> None:
    counts = rows.frame["symbol"].value_counts()
    empty = [name for name in rows.frame["symbol"].cat.categories if counts.get(name, 0) == 0]
    if empty:
        raise DataError(f"{rows.tables[0].name}: no usable row is left of {', '.join(empty[:5])}")


def _panel(rows, n_read, daily, bar_length, schedule, adjusted_by, options) -> MarketData:
    """Arrays on the union of all times, and the report."""
    frame = rows.frame
    names = tuple(str(name) for name in frame["symbol"].cat.categories)
    times = np.unique(frame["utc"].to_numpy())
    fields = {name: np.ones((len(times), len(names))) for name in PRICES}
    fields |= {name: np.zeros((len(times), len(names))) for name in ("volume", "half_spread")}
    tradable = np.zeros((len(times), len(names)), bool)
    volume_known = np.zeros(len(names), bool)
    reports = {}
    for a, (name, own) in enumerate(frame.groupby("symbol", observed=True, sort=True)):
        half_spread, quoted = _half_spread(own, options)
        volume = own["volume"].to_numpy()
        volume_known[a] = np.nansum(volume) > 0
        bars = np.searchsorted(times, own["utc"].to_numpy())
        latest = np.searchsorted(bars, np.arange(len(times)), side="right") - 1
        listed = latest >= 0
        for price in PRICES:
            fields[price][listed, a] = own["close"].to_numpy()[latest[listed]]
            fields[price][bars, a] = own[price].to_numpy()
        fields["half_spread"][:, a] = np.where(listed, half_spread[np.maximum(latest, 0)], options.min_half_spread)
        fields["volume"][bars, a] = np.nan_to_num(volume) if volume_known[a] else 0.0
        tradable[bars, a] = (volume > 0) | (not volume_known[a]) | options.zero_volume_tradable
        reports[str(name)] = data_report.symbol_report(
            own, half_spread, quoted, times, daily, bar_length, schedule, options
        )
    clock = schedule.timezone if schedule else options.timezone or "UTC"
    minute, session, weekday = calendar_fields(times, daily, clock, schedule)
    arrays = {name: values.astype(np.float32) for name, values in fields.items()} | {
        "tradable": tradable,
        "volume_known": volume_known,
        "minute_of_day": minute,
        "session": session,
        "day_of_week": weekday,
        "seconds_since_previous": (np.diff(times, prepend=times[0]) / 1e9).astype(np.float32),
    }
    report = {
        "sources": data_report.source_report(rows),
        "rows_read": n_read,
        "rows_kept": len(frame),
        "bars": len(times),
        "assets": len(names),
        "first": time_text(times[0]),
        "last": time_text(times[-1]),
        "daily": daily,
        "bar_seconds": bar_length / 1e9,
        "timezone": clock,
        "calendar": options.calendar,
        "adjusted_by": adjusted_by,
        "repairs": dict(rows.repairs),
        "symbols": reports,
        "warnings": [*rows.suspicions, *data_report.warnings(reports, options.calendar)],
        "fingerprint": data_report.fingerprint(names, times, arrays),
    }
    info = MarketInfo(names, times.astype("datetime64[ns]"), report)
    return MarketData(**{name: jnp.asarray(values) for name, values in arrays.items()}, info=info)


def _half_spread(own: pd.DataFrame, options: LoadOptions) -> tuple[np.ndarray, np.ndarray]:
    """Half spread of one asset's bars and where it is quoted."""
    prices = [own[name].to_numpy() for name in PRICES]
    estimate = estimated_half_spread(*prices, window=options.spread_window, floor=options.min_half_spread)
    bid, ask = own["bid"].to_numpy(), own["ask"].to_numpy()
    quoted = np.isfinite(bid) & np.isfinite(ask)
    with np.errstate(invalid="ignore"):
        return np.where(quoted, (ask - bid) / (ask + bid), estimate), quoted
