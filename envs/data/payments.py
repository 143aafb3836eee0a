"""Payments on positions: columns of funding rates, dividends and splits, by the names that the options give.

A rate of funding stands in the bar at whose open it is paid, a dividend and a split in the bar of the ex-date, empty
cells for none. They are never carried forward: each is paid once.

Splits: prices are multiplied, and volume is divided, by all ratios so far. A position is then a number of the shares of
the first bar, and no price depends on a later split. Dividends stay in the prices, which fall by them; see
`jaxppo.envs.market.dividends` for what looks at returns.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxppo.envs.data.checks import beyond_float32, describe_size
from jaxppo.envs.data.numbers import has_decimal_comma, is_number_column, parse_numbers
from jaxppo.envs.data.options import LoadOptions
from jaxppo.envs.data.rows import PRICES, Rows, Table, column_key
from jaxppo.envs.market.dividends import with_dividends
from jaxppo.envs.market.market_data import MarketData
from jaxppo.errors import DataError

KINDS = ("funding", "dividends", "splits")
"""Options of `load_market` that name such a column, and, after `PAID`, the columns of the rows that hold it."""
PAID = "paid "
NONE = {"funding": 0.0, "dividends": 0.0, "splits": 1.0}
LARGEST_FUNDING = 0.2
"""Size of the largest rate; the caps of exchanges are a few per cent for 8 hours, and a bar may sum up three."""
MOST_FUNDING_A_YEAR = 3.0
"""Size of the rates of a year in sum beyond which the report asks whether they are per cent, or carried forward."""
LARGEST_SPLIT = 1000.0
LEAST_STATED = 0.3
"""Log of a ratio from which the gap between two bars tells whether prices are adjusted for it already."""


def named(options: LoadOptions) -> dict[str, str]:
    """Kind of payment -> name of its column, of those that are given."""
    return {kind: name for kind in KINDS if (name := getattr(options, kind)) is not None}


def read_payments(raw: pd.DataFrame, part: pd.DataFrame, table: Table, options: LoadOptions) -> dict[str, np.ndarray]:
    """Payments of the rows of a table, as columns of these; what stands for none where a cell is empty.

    Args:
      raw: cells of the rows that are used.
      part: symbol and row of these.
      table: they come from.
      options: `funding`, `dividends` and `splits` apply. Bad cells are refused whatever `on_bad_rows` says.

    Raises:
      DataError: a column that is not there, or a cell that is no number in its range.
    """
    found = {}
    for kind, name in named(options).items():
        exact = [label for label in raw.columns if str(label) == name]
        alike = exact or [label for label in raw.columns if column_key(label) == column_key(name)]
        if not alike:
            listed = ", ".join(map(str, raw.columns[:12]))
            raise DataError(f"{table.name}: {kind}={name!r} is no column of it; found {listed}")
        column = raw[alike[0]]
        comma = table.separator == ";" and not is_number_column(column) and has_decimal_comma([column])
        values = parse_numbers(column, decimal_comma=comma)
        given = column.notna().to_numpy() & (column.astype("string").str.strip().fillna("").to_numpy() != "")
        if kind == "funding":
            usable = np.abs(values) <= LARGEST_FUNDING
            allowed = f"a fraction of up to {LARGEST_FUNDING:g} (0.0001: 1 bp)"
        elif kind == "dividends":
            usable, allowed = (values >= 0) & np.isfinite(values), "an amount per share of at least 0"
        else:
            usable = (values >= 1 / LARGEST_SPLIT) & (values <= LARGEST_SPLIT) | (values == 0)
            allowed = f"new shares per old one, 0.001 to {LARGEST_SPLIT:g}; 1, 0 or empty is none"
        bad = np.flatnonzero(given & ~usable)
        if len(bad):
            at = bad[0]
            finding = f"{kind}={name!r} is {str(column.iloc[at])[:40]!r}; it must be {allowed}"
            raise table.error(part["symbol"].iloc[at], part["row"].iloc[at], finding, "correct the cell", len(bad))
        none = NONE[kind]
        values = np.where(given, values, none)
        found[PAID + kind] = np.where(values == 0, none, values)
    return found


def prepare(rows: Rows, adjusted_by: str | None, options: LoadOptions) -> None:
    """Adjusts prices and volume for splits, forward, and turns dividends into fractions of the open of their bar.

    `price_t *= S_t`, `volume_t /= S_t` with `S_t`, the product of the ratios so far. A dividend is one per share after
    a split of its bar. As a fraction it follows whatever prices are converted or multiplied by.

    Args:
      rows: checked rows in order of symbol and time; changed.
      adjusted_by: columns by which prices were adjusted, if they were.
      options: `dividends` and `splits` apply.

    Raises:
      DataError: prices that are adjusted already, a dividend that is not below the price before, or prices that leave
        their range.
    """
    given = named(options)
    asked = [kind for kind in ("splits", "dividends") if kind in given]
    if not asked:
        return
    if adjusted_by:
        raise DataError(
            f"{rows.tables[0].name}: {asked[0]}={given[asked[0]]!r} needs prices as traded, and they are adjusted by "
            f"{adjusted_by}; pass adjust=False to use them as they are"
        )
    frame = rows.frame
    symbols = frame["symbol"].cat.codes.to_numpy()
    follows = np.append(False, np.diff(symbols) == 0)
    split = np.where(follows, frame[PAID + "splits"].to_numpy() if "splits" in given else 1.0, 1.0)
    before = np.append(np.nan, frame["close"].to_numpy()[:-1]) / split
    opened = frame["open"].to_numpy()
    gap = np.log(opened / np.where(follows, before * split, opened))
    rows.raise_at_first(
        (np.abs(np.log(split)) > LEAST_STATED) & (np.abs(gap) < np.abs(gap + np.log(split))),
        lambda i: (
            f"splits={given['splits']!r} is {split[i]:g}, and the open {opened[i]:g} is {np.exp(gap[i]):.3g} times the "
            "close before: prices are adjusted for it already",
            "leave splits out",
        ),
    )
    changed: dict[str, Any] = {}
    if "dividends" in given:
        # Nobody can have held an asset before its first bar.
        amount = np.where(follows, frame[PAID + "dividends"].to_numpy(), 0.0)
        rows.raise_at_first(
            follows & (amount > 0) & ~(amount < before),
            lambda i: (
                f"dividends={given['dividends']!r} is {amount[i]:g}, and the close before {before[i]:g}; it must be "
                "less",
                "write it in the currency of the prices, per share",
            ),
        )
        changed[PAID + "dividends"] = amount / opened
    if "splits" in given:
        # Sums of logarithms would round: a product by asset.
        product = pd.Series(split).groupby(symbols).cumprod().to_numpy()
        changed |= {name: frame[name] * product for name in (*PRICES, "bid", "ask")}
        changed |= {"volume": frame["volume"] / product, PAID + "splits": split}
    rows.frame = frame.assign(**changed)
    rows.raise_at_first(
        beyond_float32(rows.frame),
        lambda i: (f"adjusted for splits, {describe_size(rows.frame.iloc[i])}", "check splits"),
    )


def with_payments(
    market: MarketData, rows: Rows, times: np.ndarray, options: LoadOptions
) -> tuple[MarketData, dict[str, np.ndarray]]:
    """The market with its funding and its dividends, and these by name, `[T, A]` float64, for its fingerprint.

    Args:
      market: with prices that fall by the dividends.
      rows: of all assets; gets warnings on rates that are not plausible.
      times: `[T]` ns, start of every bar.
      options: of the load.
    """
    frame, paid = rows.frame, dict[str, np.ndarray]()
    bars, assets = np.searchsorted(times, frame["utc"].to_numpy()), frame["symbol"].cat.codes.to_numpy()
    for kind in ("funding", "dividends"):
        if kind in named(options):
            values = frame[PAID + kind].to_numpy()
            paid[PAID + kind] = np.zeros(market.close.shape)
            paid[PAID + kind][bars, assets] = values if kind == "funding" else values * frame["open"].to_numpy()
    if options.funding is not None:
        market = market.replace(funding=jnp.asarray(paid[PAID + "funding"], jnp.float32))
        rows.warnings += _implausible_rates(frame, options)
    if options.dividends is not None:
        market = with_dividends(market, paid[PAID + "dividends"])
    return market, paid


def dropped_lines(dropped: pd.DataFrame, options: LoadOptions) -> list[str]:
    """Says that bars with payments are left out, in a line; none where there are none.

    Args:
      dropped: rows.
      options: of the load.
    """
    lost = {kind: int((dropped[PAID + kind] != NONE[kind]).sum()) for kind in named(options)}
    counts = [f"{n} of {kind}" for kind, n in lost.items() if n]
    return [f"payments in bars that are dropped, which nobody is paid: {', '.join(counts)}"] if counts else []


def payment_report(frame: pd.DataFrame, options: LoadOptions) -> dict[str, dict[str, dict[str, Any]]]:
    """What the data report says of `payments`: kind -> symbol -> `bars` with one, and what they are; or nothing.

    Funding has `empty` bars, which pay nothing, and `per_year`, the sum of the rates over the years of the asset;
    dividends have `per_year`, in sum over the open of their bars; splits their `product`.

    Args:
      frame: rows of all assets, in order of symbol and time.
      options: of the load.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for kind in named(options):
        for name, part in frame.groupby("symbol", observed=True, sort=True):
            values = part[PAID + kind].to_numpy()
            bars = int((values != NONE[kind]).sum())
            years = (part["utc"].iloc[-1] - part["utc"].iloc[0]) / (365.25 * 86_400e9)
            of: dict[str, float] = {"bars": bars}
            if kind == "funding":
                of["empty"] = len(values) - bars
            if kind == "splits":
                of["product"] = float(values.prod())
            else:
                of["per_year"] = float(values.sum() / years) if years > 0 else 0.0
            found.setdefault(kind, {})[str(name)] = of
    return {"payments": found} if found else {}


def _implausible_rates(frame: pd.DataFrame, options: LoadOptions) -> list[str]:
    """Asks about rates of funding that are not plausible; a line each."""
    found = payment_report(frame, options)["payments"]["funding"]
    return [
        f"{name}: {options.funding} sums up to {100 * of['per_year']:,.0f} % a year: per cent instead of fractions, or "
        "a rate that is repeated in bars in which it is not paid?"
        for name, of in found.items()
        if abs(of["per_year"]) > MOST_FUNDING_A_YEAR
    ]


def payment_lines(report: dict[str, Any]) -> list[str]:
    """Lines of the formatted data report; none without payments.

    Args:
      report: of a market.
    """
    lines = []
    for kind, symbols in report.get("payments", {}).items():
        shown = ", ".join(
            f"{name} {of['bars']}" + ("" if kind == "splits" else f" ({100 * of['per_year']:.3g} % a year)")
            for name, of in list(symbols.items())[:5]
        )
        more = f" and {len(symbols) - 5} more symbols" if len(symbols) > 5 else ""
        lines.append(f"  {kind} paid, bars: {shown}{more}; empty cells pay nothing")
    return lines
