"""Results by regime: what accounts earned, risked and paid in the bars that were decided in each regime of the market.

A bar belongs to the regime that was known when it was decided, at the close before it: the split does not look ahead.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxppo.backtest.simulate import Ledger
from jaxppo.config import RegimesConfig
from jaxppo.envs.market.features import REGIMES
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.market.regimes import market_regime, stretches
from jaxppo.report.formatting import escaped, interval_text, number_text, percent
from jaxppo.run.periods import Period
from jaxppo.run.regimes import find_regimes
from jaxppo.run.setup import Setup
from jaxppo.statistics import conditional_intervals

Figures = Mapping[str, Mapping[str, Any]]
LEAST_BARS = 30
"""Bars in a regime below which no interval is given: it would not cover at its level."""


@dataclasses.dataclass(frozen=True, eq=False)
class Account:
    """What an account did, bar by bar.

    Attributes:
      returns: `[n]` finite simple return per bar, net of costs.
      costs: `[n]` costs of trading and financing, fraction of the equity before the bar.
      turnover: `[n]` traded notional, fraction of the equity before the bar.
      gross: `[n]` gross exposure at the close, fraction of equity.
      net: `[n]` net exposure at the close, fraction of equity.
    """

    returns: np.ndarray
    costs: np.ndarray
    turnover: np.ndarray
    gross: np.ndarray
    net: np.ndarray


def account_of(ledger: Ledger) -> Account:
    """The account of a ledger."""
    before = np.asarray(ledger.equity, np.float64)[:-1]
    weights = np.asarray(ledger.weights, np.float64)
    return Account(
        returns=ledger.returns,
        costs=np.where(before > 0, ledger.expenses / np.where(before > 0, before, 1.0), 0.0),
        turnover=np.asarray(ledger.turnover, np.float64),
        gross=np.abs(weights).sum(axis=-1),
        net=weights.sum(axis=-1),
    )


def regimes_over(setup: Setup, where: Period) -> np.ndarray:
    """The regime of the market at each mark of a period, known at that close.

    Those of the run (`regimes`). A run without regimes is judged by the rules all the same, with the windows and the
    scope of its `regimes` section: they need no fit, and nothing but the evaluation reads them.

    Args:
      setup: of the run.
      where: bars of its market.

    Returns:
      `[n + 1]` int, see `jaxppo.envs.market.regimes.market_regime`: the first n are those of the decisions.
    """
    found, config = setup.regimes, setup.config.regimes
    if found is None:
        found = _by_rules(setup.market, config.model_copy(update={"kind": "rules"}))
    return market_regime(np.asarray(found)[where.first : where.last + 1])


@functools.partial(jax.jit, static_argnames="config")
def _by_rules(market: MarketData, config: RegimesConfig) -> jax.Array:
    return find_regimes(config, market, 0, 0)[0]


def figures_by_regime(
    key: jax.Array,
    accounts: Mapping[str, Account],
    regimes: np.ndarray,
    *,
    periods: float,
    names: Sequence[str] = REGIMES,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Figures of accounts over the same bars, in each regime that occurred, ready for JSON.

    Args:
      key: consumed.
      accounts: name -> account over n bars.
      regimes: `[n]` int, the regime known at the decision before each bar: position in `names`; -1 counts in none.
      periods: bars per year.
      names: of the regimes.
      n_resamples: of the intervals, see `jaxppo.statistics.conditional_intervals`.
      level: of the intervals.

    Returns:
      account -> regime -> figures: `n_bars`, `share` of all bars, `stretches` (unbroken ones),
      `annual_return` (mean simple return per bar times bars per year), `annual_return_ci`, `sharpe` (annual),
      `sharpe_ci`, `volatility` (annual), `max_drawdown` (see `worst_drawdown`), `costs` and `turnover` (a year in the
      regime, fractions of equity), `gross` and `net` (mean exposures, fractions of equity). None is undefined;
      intervals are `[low, high]`, or `[None, None]` below `LEAST_BARS` bars or where resamples lack the regime.

    Raises:
      ValueError: series of different lengths; see `conditional_intervals`.
    """
    regimes = np.asarray(regimes)
    series = {(who, field): np.asarray(x) for who, of in accounts.items() for field, x in vars(of).items()}
    wrong = [
        f"{field} of {who!r} has shape {x.shape}" for (who, field), x in series.items() if x.shape != regimes.shape
    ]
    if wrong or regimes.ndim != 1:
        raise ValueError(f"regimes has shape {regimes.shape} but {', '.join(wrong) or 'one series [n] is expected'}")
    returns = np.stack([np.asarray(of.returns, np.float64) for of in accounts.values()], axis=1)
    found: dict[str, dict[str, dict[str, Any]]] = {who: {} for who in accounts}
    for number, name in enumerate(names):
        inside = regimes == number
        if not inside.any():
            continue
        mean = sharpe = np.full((2, len(accounts)), np.nan)
        if inside.sum() >= LEAST_BARS:
            own = jax.random.fold_in(key, number)
            mean, sharpe = conditional_intervals(own, returns, inside, level=level, n_resamples=n_resamples)
        for column, (who, account) in enumerate(accounts.items()):
            found[who][name] = {
                **_figures(account, inside, periods),
                "annual_return_ci": [_json(end[column] * periods) for end in mean],
                "sharpe_ci": [_json(end[column] * periods**0.5) for end in sharpe],
            }
    return found


def _figures(account: Account, inside: np.ndarray, periods: float) -> dict[str, Any]:
    """The figures of `figures_by_regime` without intervals, of an account in the bars `[n]` inside."""
    returns = np.asarray(account.returns, np.float64)[inside]
    spread = float(returns.std(ddof=1)) if len(returns) > 1 else math.nan
    return {
        "n_bars": len(returns),
        "share": float(inside.mean()),
        "stretches": int(inside[0]) + int((inside[1:] & ~inside[:-1]).sum()),
        "annual_return": float(returns.mean()) * periods,
        "sharpe": _json(returns.mean() / spread * periods**0.5) if spread > 0 else None,
        "volatility": _json(spread * periods**0.5),
        "max_drawdown": worst_drawdown(account.returns, inside),
        "costs": float(np.mean(account.costs[inside])) * periods,
        "turnover": float(np.mean(account.turnover[inside])) * periods,
        "gross": float(np.mean(account.gross[inside])),
        "net": float(np.mean(account.net[inside])),
    }


def worst_drawdown(returns: np.ndarray, inside: np.ndarray) -> float:
    """Largest loss from a peak to a later trough within one unbroken stretch of bars inside, fraction >= 0 of the peak.

    The equity before the first bar of a stretch counts as a peak; what was lost before it, or between two stretches,
    belongs to other bars.

    Args:
      returns: `[n]` simple return per bar.
      inside: `[n]` bool.
    """
    worst = 0.0
    for begin, end in zip(*stretches(inside), strict=True):
        if inside[begin]:
            equity = np.cumprod(np.r_[1.0, 1.0 + np.asarray(returns[begin:end], np.float64)])
            worst = max(worst, float(np.max(1.0 - equity / np.maximum.accumulate(equity))))
    return worst


_COLUMNS = {
    "annual_return": ("Return a year", "percent"),
    "sharpe": ("Sharpe ratio", "ratio"),
    "volatility": ("Volatility", "percent"),
    "max_drawdown": ("Worst drawdown", "percent"),
    "costs": ("Costs a year", "percent"),
    "turnover": ("Turnover a year", "ratio"),
    "gross": ("Gross", "percent"),
    "net": ("Net", "percent"),
}


def section(of: Mapping[str, Figures], level: float) -> str:
    """The section of the report as HTML: a row for each strategy in each regime, baselines that hold nothing left out.

    Args:
      of: strategy -> regime -> figures, see `figures_by_regime`; the agent first.
      level: of the intervals.
    """
    if not any(of.values()):
        return '<p class="caption">No regimes are known of this period.</p>'
    agent = next(iter(of))
    of = {who: rows for who, rows in of.items() if who == agent or any(row["gross"] for row in rows.values())}
    groups = []
    for regime in of[agent]:
        rows = []
        for position, (who, figures) in enumerate(of.items()):
            row = figures[regime]
            bars = f"{row['n_bars']:,} bar{'s' * (row['n_bars'] > 1)} in {row['stretches']:,}"
            about = f"{bars} stretch{'es' * (row['stretches'] > 1)},<br>{percent(row['share'])} of the time"
            first = f'<th scope="rowgroup" rowspan="{len(of)}">{escaped(regime)}<br><small>{about}</small></th>'
            cells = "".join(_cell(name, row) for name in _COLUMNS)
            rows.append(f'<tr>{first * (position == 0)}<th scope="row">{escaped(who)}</th>{cells}</tr>')
        groups.append(f"<tbody>{''.join(rows)}</tbody>")
    head = "".join(f'<th scope="col">{title}</th>' for title, _ in _COLUMNS.values())
    table = f'<thead><tr><th class="text">Regime</th><th></th>{head}</tr></thead>{"".join(groups)}'
    note = (
        "A bar counts in the regime that was known when it was decided, at the close before it. Regimes are those of "
        "the run, or, where it has none, by rules: bull and bear by the trend, crisis by volatility and fall. In "
        f"brackets, {100 * level:g} % intervals from resampling the whole period in blocks, bars together with their "
        f"regimes; fewer than {LEAST_BARS} bars, or too few stretches, are too little to tell. Mean returns, Sharpe "
        "ratio, volatility, costs and turnover are those of a year that is all of the regime; drawdowns, those within "
        "one stretch of it; gross and net, mean exposures at the closes."
    )
    return f'<div class="scroll"><table class="regimes">{table}</table></div><p class="caption">{note}</p>'


def _cell(name: str, row: Mapping[str, Any]) -> str:
    """A number, with its interval if it has one; one that lacks the interval it should have is not shown."""
    kind, interval = _COLUMNS[name][1], row.get(f"{name}_ci")
    text = number_text(row[name], kind)
    if interval is not None and row[name] is not None:
        text = "too few bars to tell" if None in interval else f"{text} {interval_text(interval, kind)}"
    return f"<td>{text}</td>"


def _json(value: float) -> float | None:
    """A Python float, or None where JSON has no such number."""
    return float(value) if math.isfinite(value) else None
