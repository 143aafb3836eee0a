"""Loads price files and data frames into a validated `MarketData`.

Sources: CSV (also .gz, .zip), TSV or Parquet files; a folder, list or pattern of them (`"lake/**/*.parquet"`); the name
of a shipped data set (`"us5_1d"`); a download (`"yfinance:SPY,QQQ"`) or a DuckDB table, see `jaxppo.envs.data.sources`;
a data frame (pandas, Polars, Arrow) in long form, of one symbol, or price x symbol columns; `{symbol: data frame}`. A
file without a column of symbols is one symbol, named like the file.

Adjustment: open, high, low and close are multiplied by adj_close / close (or adj_factor) where given, volume is divided
by it. A later split or dividend rescales the past by a constant, which returns do not see. No other value of a bar
depends on later rows.

Times are stored in UTC, start of the bar. Where all times of the data are midnight, on the clock they are written in or
in the given timezone, bars are daily (or longer) and carry their date at 00:00 UTC.

Conversion: with a column of rates, prices are multiplied by the rate of their own bar. Symbols that name different
quote currencies are refused without one.

Volume: a bar whose volume is 0 (or missing, though other bars of the asset have one) is not tradable. An asset whose
volume is absent, missing or 0 throughout has `volume_known` False, and all its bars are tradable. Counted ticks say
which bars are tradable, but not how much can be traded: `volume_known` is False, and the volume 0.

Closes alone (settlements, fixings): open, high and low are the close, so that an order fills at the next close.

Contracts: prices are multiplied by the multiplier of the symbol, so that a price is the value of one contract, and the
volume counts contracts.

Half-spread: (ask - bid) / (ask + bid) of the closing quote where there is one, else an estimate or a given value.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxppo.arguments import Date, Text
from jaxppo.envs.data import checks, history, own_columns, payments, report
from jaxppo.envs.data.closes import closes_only_line
from jaxppo.envs.data.columns import canonical_rows, unused_line
from jaxppo.envs.data.contracts import contract_report, futures_of, multiply
from jaxppo.envs.data.currencies import check_quote_currencies
from jaxppo.envs.data.options import (
    BadRows,
    CrossedQuotes,
    Days,
    DuplicateRows,
    HalfSpread,
    LoadOptions,
    LogDistance,
    Multiplier,
    OffSessionBars,
    RateColumn,
    SpreadKind,
    SpreadWindow,
    Tick,
    Tolerance,
    VolumeKind,
)
from jaxppo.envs.data.period import keep_between
from jaxppo.envs.data.rates import convert, rate_columns
from jaxppo.envs.data.reading import PriceSource, read_tables
from jaxppo.envs.data.report import format_report, length_text
from jaxppo.envs.data.rows import PRICES, Rows, time_text
from jaxppo.envs.data.sessions import (
    Schedule,
    calendar_fields,
    calendar_periods_per_year,
    check_timezone,
    dates_of,
    load_schedule,
    off_session,
)
from jaxppo.envs.data.spreads import check_symbols, half_spreads
from jaxppo.envs.data.times import is_daily
from jaxppo.envs.data.volume import in_units, is_counted, is_known, volume_warnings
from jaxppo.envs.market.market_data import MarketData, MarketInfo
from jaxppo.envs.market.periods import LEAST_STEPS, SAME_LENGTH, bar_length, length_changes, periods_per_year
from jaxppo.errors import DataError

__all__ = ["DataError", "format_report", "load_market"]

logger = logging.getLogger(__name__)


def load_market(
    path_or_frame: PriceSource,
    *,
    symbols: Sequence[str] | None = None,
    calendar: str | None = None,
    timezone: str | None = None,
    day_first: bool | None = None,
    adjust: bool = True,
    volume: VolumeKind | None = None,
    rate_column: RateColumn | None = None,
    stablecoins_at_par: bool = False,
    on_bad_rows: BadRows = "error",
    on_duplicates: DuplicateRows = "error",
    on_crossed_quotes: CrossedQuotes = "error",
    on_off_session: OffSessionBars = "keep",
    range_tolerance: Tolerance = 1e-4, max_log_jump: LogDistance = 1.25, max_log_range: LogDistance = 3.5,
    max_log_spike: LogDistance = 1.1, split_tolerance: Tolerance = 0.04, max_hole_days: Days = 120.0,
    zero_volume_tradable: bool = False,
    spread: SpreadKind | None = None,
    half_spread: HalfSpread | Mapping[str, HalfSpread] | None = None,
    tick: Tick | Mapping[str, Tick] | None = None,
    min_half_spread: HalfSpread = 1e-4,
    spread_window: SpreadWindow = 63,
    multiplier: Multiplier | Mapping[str, Multiplier] = 1.0,
    futures: bool | Sequence[str] = False,
    columns: Sequence[str] | Mapping[str, str | None] | None = None,
    funding: Text | None = None, dividends: Text | None = None, splits: Text | None = None,
    start: Date | None = None, end: Date | None = None, refresh: bool = False,
) -> MarketData:  # fmt: skip
    """Loads prices, checks them, and aligns them on one time axis.

    Repairs order, exact repeats, empty rows at the ends and rounding errors, and counts that in `market.info.report`.

    Args:
      path_or_frame: file, folder, list of files, shipped data set, or data frames; the module says in which forms.
      symbols: symbols to use, in this order; None uses all, sorted by name.
      calendar: exchange calendar (`XNYS`, `24/5`, ...) for sessions, the exchange's clock and missing sessions.
      timezone: IANA zone of times without an offset, and the exchange's clock if no calendar is named; None is UTC.
      day_first: whether 01/02/2020 is the first of February; None decides from the whole column.
      adjust: whether to adjust prices and volume by the adjustment column, if there is one.
      volume: counts units (`"shares"`), quote currency (`"notional"`), price changes (`"ticks"`), nothing of use
        (`"none"`); None takes units, and a run warns where an account of its size could hardly trade them.
      rate_column: column that prices are multiplied by, account currency per quote currency; or two: at open, at close.
      stablecoins_at_par: whether USDT, USDC and other stable coins count as the currency they are pegged to.
      on_bad_rows: `"error"` refuses rows that cannot be right, `"drop"` drops and counts them.
      on_duplicates: `"error"` refuses differing rows for one time, `"first"` or `"last"` in the file is kept.
      on_crossed_quotes: `"error"` refuses bids above asks, `"estimate"` estimates the spread there.
      on_off_session: `"keep"`, `"drop"` or `"error"` for bars that no session of the calendar touches.
      range_tolerance: relative excess of open or close over [low, high] that widens the bar, >= 0; more is a bad row.
      max_log_jump: largest empty space between the ranges of two bars, log price, > 0.
      max_log_range: largest log(high / low) of a bar, > 0.
      max_log_spike: largest excursion that reverts within three bars, log price, > 0; ten usual moves pass in any case.
      split_tolerance: log distance from a whole ratio or stated split at which a gap counts as one, >= 0; 0 for never.
      max_hole_days: longest time between two bars of an asset, days, > 0.
      zero_volume_tradable: whether bars with zero or missing volume can be traded.
      spread: of bars without quotes: `"invariance"` from volatility and traded value, `"edge"` from prices, `"fixed"`,
        or `"quoted"`, which refuses them; None is invariance where volume can be used, else edge, at most 20 bp.
      half_spread: for `"fixed"`, fraction of the price, of all symbols or a value per symbol.
      tick: smallest step of unadjusted prices, of all symbols or each; half of it is a floor where there are no quotes.
      min_half_spread: floor of the half-spread by edge, fraction of the price.
      spread_window: bars per estimate of the spread, >= 3.
      multiplier: value of a contract over its price, of all symbols or each (others 1); volume then counts contracts.
      futures: whether all, or which symbols, are futures: no cash is paid for them and none is borrowed.
      columns: names of your own to keep; or name -> column of the times of its publication, None for its own bar.
      funding: column of the rate that longs pay to shorts at the open of its bar, fraction of notional; None for none.
      dividends: column of the dividend a share of prices as traded, at the ex-date, paid in cash; None for none.
      splits: column of new shares per old one of prices as traded, at the ex-date; None for none.
      start: first date of the bars that are used, UTC, `YYYY-MM-DD`; None for all. Downloads ask for no earlier ones.
      end: last date, included; None for all, of a download up to the last finished bar.
      refresh: whether to download anew what was downloaded before and kept.

    Returns:
      Market with arrays `[T, A]`; symbols, times and the data report in `.info`.

    Raises:
      DataError: any other fault: one line that names the row and the option that accepts it.
    """
    return _load(path_or_frame, _options(locals()))


def _options(given: dict[str, Any]) -> LoadOptions:
    """The arguments of `load_market` but the prices, with collections of names as tuples."""
    options = {name: value for name, value in given.items() if name != "path_or_frame"}
    for name in ("symbols", "futures", "columns"):
        options[name] = options[name] if isinstance(options[name], Mapping) else _names(options[name])
    return LoadOptions(**options)


def _names(given: Any) -> Any:
    """Symbols as a tuple; one may be given as text. What is no collection of symbols stays as it is."""
    return (given,) if isinstance(given, str) else tuple(given) if isinstance(given, Iterable) else given


def _load(source: PriceSource, options: LoadOptions) -> MarketData:
    """Reads, checks, repairs and aligns; the checks of single rows come first, those of the history need clean rows."""
    check_timezone(options.timezone)
    rows = canonical_rows(read_tables(source, options), options)
    check_quote_currencies(rows, options)
    daily, schedule = _place_in_time(rows, options)
    keep_between(rows, options)
    checks.drop_repeats(rows)
    checks.check_rows(rows, options)
    checks.check_duplicates(rows, options)
    checks.check_quotes(rows, options)
    in_units(rows, options)
    adjusted_by = history.adjust_prices(rows, options)
    payments.prepare(rows, adjusted_by, options)
    convert(rows, options)
    length = _bar_length(rows)
    if schedule is not None:
        _apply_calendar(rows, daily, length, schedule, options)
    _require_every_symbol(rows)
    history.check_history(rows, daily, options)
    multiply(rows, options)
    market = _align(rows, daily, length, schedule, adjusted_by, options)
    logger.info("%s", format_report(market.info.report))
    return market


def _place_in_time(rows: Rows, options: LoadOptions) -> tuple[bool, Schedule | None]:
    """Decides whether bars are daily, stamps those with their date at 00:00 UTC, and loads the calendar."""
    frame = rows.frame
    utc, written = frame["utc"].to_numpy(), frame["written"].to_numpy()
    schedule = None
    if options.calendar is not None:
        schedule = load_schedule(options.calendar, utc.min(), utc.max())
    clock = schedule.timezone if schedule else options.timezone or "UTC"
    local = pd.DatetimeIndex(utc.astype("datetime64[ns]")).tz_localize("UTC").tz_convert(clock).tz_localize(None)
    local = local.as_unit("ns").asi8
    dates = next((clock_time for clock_time in (written, local) if is_daily(clock_time)), None)
    if dates is None and len(utc) > 1 and _shortest_step(frame) >= LEAST_DAY:
        dates = dates_of(local)
    if dates is not None:
        rows.frame = frame.assign(utc=dates, written=dates)
        return True, schedule
    return False, schedule


LEAST_DAY = 20 * 3600 * 10**9
"""Bars at least this far apart, ns, are daily ones, wherever in the day they are stamped."""


def _shortest_step(frame: pd.DataFrame) -> int:
    """Shortest time between two bars of one asset, ns; repeats apart."""
    part = frame[["symbol", "utc"]].drop_duplicates().sort_values(["symbol", "utc"])
    steps = np.diff(part["utc"].to_numpy())[np.diff(part["symbol"].cat.codes.to_numpy()) == 0]
    return int(steps.min()) if len(steps) else 0


def _bar_length(rows: Rows) -> int:
    """Most frequent distance between two bars of an asset, ns; 0 if there are no two. One for all bars of all assets.

    Raises:
      DataError: bars of an asset become longer or shorter, or those of two assets differ.
    """
    frame = rows.frame
    lengths: dict[str, int] = {}
    for symbol, part in frame.groupby("symbol", observed=True, sort=True):
        times = part["utc"].to_numpy()
        changes = length_changes(times)
        if changes is not None:
            at, before, after = changes
            raise DataError(
                f"{rows.tables[0].name}: {symbol} has bars of {length_text(before)} until {time_text(times[at])}, then "
                f"of {length_text(after)}; load them apart"
            )
        if len(times) >= LEAST_STEPS:
            lengths[str(symbol)] = bar_length(times)
    if not lengths:
        return bar_length(np.unique(frame["utc"].to_numpy()))
    shortest, longest = (choose(lengths, key=lengths.__getitem__) for choose in (min, max))
    if _differ(frame, longest, lengths[longest], lengths[shortest]):
        raise DataError(
            f"{rows.tables[0].name}: {longest} has bars of {length_text(lengths[longest])} and {shortest} of "
            f"{length_text(lengths[shortest])}; load them apart"
        )
    steps = np.diff(frame["utc"].to_numpy())[np.diff(frame["symbol"].cat.codes.to_numpy()) == 0]
    values, counts = np.unique(steps, return_counts=True)
    return int(values[counts.argmax()]) if len(values) else 0


def _differ(frame: pd.DataFrame, symbol: str, length: int, shortest: int) -> bool:
    """Whether the bars of a symbol are longer than others, rather than bars of the same length with some missing."""
    steps = np.diff(frame["utc"].to_numpy()[(frame["symbol"] == symbol).to_numpy()])
    return length >= SAME_LENGTH * shortest and not np.any(steps < length / SAME_LENGTH)


def _apply_calendar(rows: Rows, daily: bool, bar_length: int, schedule: Schedule, options: LoadOptions) -> None:
    """Keeps, drops or refuses bars outside sessions."""
    if options.on_off_session == "keep":
        return
    outside = off_session(rows.frame["utc"].to_numpy(), daily, bar_length, schedule)
    if options.on_off_session == "error":
        finding = f"the bar lies outside every session of {schedule.name}"
        rows.raise_at_first(outside, lambda _: (finding, "pass on_off_session='keep' or 'drop'"))
    rows.count("bars outside sessions dropped", outside.sum())
    rows.warnings += payments.dropped_lines(rows.frame[outside], options)
    rows.frame = rows.frame[~outside].reset_index(drop=True)


def _require_every_symbol(rows: Rows) -> None:
    counts = rows.frame["symbol"].value_counts()
    empty = [name for name in rows.frame["symbol"].cat.categories if counts.get(name, 0) == 0]
    if empty:
        raise DataError(f"{rows.tables[0].name}: no usable row is left of {', '.join(empty[:5])}")


def _align(
    rows: Rows, daily: bool, length: int, schedule: Schedule | None, adjusted_by: str | None, options: LoadOptions
) -> MarketData:
    """Places the bars of every asset on the union of all times, and writes the report."""
    frame = rows.frame
    names = tuple(str(name) for name in frame["symbol"].cat.categories)
    times = np.unique(frame["utc"].to_numpy())
    fields = {name: np.ones((len(times), len(names))) for name in PRICES}
    fields |= {name: np.zeros((len(times), len(names))) for name in ("volume", "half_spread")}
    carry = np.full((len(times), len(names)), np.nan)
    tradable, volume_known = np.zeros((len(times), len(names)), bool), np.zeros(len(names), bool)
    check_symbols(names, options)
    reports = {}
    for a, (name, part) in enumerate(frame.groupby("symbol", observed=True, sort=True)):
        spread = half_spreads(str(name), part, options)
        volume = part["volume"].to_numpy()
        volume_known[a] = is_known(volume, options)
        bars = np.searchsorted(times, part["utc"].to_numpy())
        # Between bars all four prices repeat the last close: no range, no return.
        latest = np.searchsorted(bars, np.arange(len(times)), side="right") - 1
        listed = latest >= 0
        for price in PRICES:
            fields[price][listed, a] = part["close"].to_numpy()[latest[listed]]
            fields[price][bars, a] = part[price].to_numpy()
        fields["half_spread"][:, a] = np.where(listed, spread.values[np.maximum(latest, 0)], options.min_half_spread)
        carry[listed, a] = part["carry"].ffill().to_numpy()[latest[listed]]
        fields["volume"][bars, a] = np.nan_to_num(volume) if volume_known[a] else 0.0
        tradable[bars, a] = (volume > 0) | (not is_counted(volume)) | options.zero_volume_tradable
        reports[str(name)] = report.symbol_report(part, spread, times, daily, length, schedule, options)
        reports[str(name)] |= report.span_on_axis(bars)
    clock = schedule.timezone if schedule else options.timezone or "UTC"
    minute, session, weekday = calendar_fields(times, daily, clock, schedule)
    arrays = {name: values.astype(np.float32) for name, values in fields.items()} | {
        "tradable": tradable,
        "volume_known": volume_known,
        "minute_of_day": minute,
        "session": session,
        "day_of_week": weekday,
        "seconds_since_previous": (np.diff(times, prepend=times[0]) / 1e9).astype(np.float32),
        **({"carry": carry.astype(np.float32)} if np.isfinite(carry).any() else {}),
        **({"futures": futures_of(names, options)} if options.futures else {}),
    }
    known = calendar_periods_per_year(times, daily, length, schedule) if schedule and len(times) > 1 else None
    info = MarketInfo(names, times.astype("datetime64[ns]"), periods_per_year=known)
    market = MarketData(**{name: jnp.asarray(values) for name, values in arrays.items()}, info=info)
    own = own_columns.on_axis(frame, times, daily, length, options)
    market = market.replace(ended=_ended(reports, len(times)), columns=jax.tree.map(jnp.asarray, own) or ())
    market, paid = payments.with_payments(market, rows, times, options)
    per_year = periods_per_year(market)
    summary = {
        **report.source_report(rows),
        "rows_read": sum(len(table.rows) for table in rows.tables),
        "rows_kept": len(frame),
        "bars": len(times),
        "assets": len(names),
        "first": time_text(times[0]),
        "last": time_text(times[-1]),
        "daily": daily,
        "bar_seconds": length / 1e9,
        "bars_per_year": per_year,
        "timezone": clock,
        "calendar": options.calendar,
        "adjusted_by": adjusted_by,
        "volume": options.volume,
        **({"converted_by": ", ".join(rate_columns(options).values())} if options.rate_column else {}),
        **contract_report(names, options),
        **payments.payment_report(frame, options),
        "repairs": dict(rows.repairs),
        "symbols": reports,
        "warnings": [
            *volume_warnings(reports, rows, options),
            *filter(None, [closes_only_line(rows.tables)]),
            *rows.warnings,
            *filter(None, [unused_line(rows.tables)]),
            *report.warnings(reports, options.calendar, len(times)),
            *report.span_warnings(times, daily, per_year, known, options.calendar),
        ],
        "fingerprint": report.fingerprint(names, times, arrays | paid | {f"column {x}": own[x] for x in own}),
    }
    return market.replace(info=dataclasses.replace(info, report=summary))


def _ended(reports: dict[str, dict[str, Any]], n_bars: int) -> Any:
    """Whether the last bar of each asset is past, `[T, A]` bool; `()` where none ends."""
    gone = report.ended_assets(reports, n_bars)
    if not gone:
        return ()
    last = np.asarray([counts["last_bar"] if name in gone else n_bars for name, counts in reports.items()])
    return jnp.asarray(np.arange(n_bars)[:, None] > last)
