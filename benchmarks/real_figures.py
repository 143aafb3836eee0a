"""Figures of `benchmarks.real`: Sharpe ratios with intervals, differences between paired accounts, and plain tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from jaxppo.backtest.ledger import Ledger
from jaxppo.statistics import bootstrap_interval, paired_test, sharpe_per_bar
from jaxppo.statistics.evidence import mean_t_statistic

COMMON_VOLATILITY = 0.08
"""Volatility a year at which drawdowns are compared."""
COMMON_DRAWDOWN = 0.08
"""Largest drawdown at which volatilities are compared."""
DETECTABLE = 2.49
"""Standard errors that a difference needs at 5 %, one-sided, to be found with a power of 80 %: 1.645 + 0.842."""
SPLIT = np.datetime64("2010-01-01")
"""Start of the span of the published figures."""
SEED = 0


def sharpe_of(returns: np.ndarray, periods: float) -> float:
    """Sharpe ratio a year; 0 of a constant series.

    Args:
      returns: `[n]` return per bar.
      periods: bars per year.
    """
    deviation = returns.std(ddof=1) if len(returns) > 1 else 0.0
    return float(returns.mean() / deviation * math.sqrt(periods)) if deviation > 0 else 0.0


def figures(returns: np.ndarray, times: np.ndarray, periods: float) -> dict[str, Any]:
    """Figures of an account that need its returns alone.

    Args:
      returns: `[n]` return per bar, net of costs.
      times: `[n]` of the bars; empty for none.
      periods: bars per year.

    Returns:
      `sharpe` a year with `sharpe_ci` (95 %, stationary bootstrap), that before and since 2010 where there is a year of
      both, `volatility` a year, `annual_return` (mean, not compounded), `drawdown_at_8`, the largest drawdown were the
      whole account scaled to a volatility of 8 %, and `volatility_at_drawdown_8`, the one at which that is 8 %.
    """
    low, high = bootstrap_interval(jax.random.key(SEED), np.asarray(returns, np.float32), sharpe_per_bar)
    root = math.sqrt(periods)
    row = {
        "sharpe": sharpe_of(returns, periods),
        "sharpe_ci": [float(low) * root, float(high) * root],
        "volatility": float(returns.std(ddof=1)) * root,
        "annual_return": float(returns.mean()) * periods,
        "drawdown_at_8": drawdown_at(returns, periods, COMMON_VOLATILITY),
        "volatility_at_drawdown_8": volatility_at(returns, periods, COMMON_DRAWDOWN),
    }
    late = times >= SPLIT if len(times) else np.zeros(0, bool)
    if min(late.sum(), (~late).sum()) >= periods:
        row |= {"before_2010": sharpe_of(returns[~late], periods), "since_2010": sharpe_of(returns[late], periods)}
    return row


def account_figures(ledger: Ledger, times: np.ndarray, periods: float) -> dict[str, Any]:
    """Figures of a rule's account: those of its returns, `turnover` and `costs` a year as fractions of the equity, and
    the mean `gross` exposure.

    Args:
      ledger: NumPy arrays, n bars.
      times: `[n]` of the bars.
      periods: bars per year.
    """
    before = np.maximum(np.asarray(ledger.equity, np.float64)[:-1], 1e-9)
    return figures(ledger.returns, times, periods) | {
        "turnover": float(np.mean(ledger.turnover, dtype=np.float64)) * periods,
        "costs": float(np.mean(ledger.expenses / before)) * periods,
        "gross": float(np.abs(np.asarray(ledger.weights, np.float64)).sum(axis=1).mean()),
    }


def drawdown_at(returns: np.ndarray, periods: float, volatility: float) -> float:
    """Largest drawdown of an account, were its returns scaled to a volatility; fraction.

    Args:
      returns: `[n]` return per bar.
      periods: bars per year.
      volatility: a year.
    """
    deviation = returns.std(ddof=1) * math.sqrt(periods)
    if not deviation > 0:
        return 0.0
    equity = np.concatenate([[1.0], np.cumprod(1.0 + returns * (volatility / deviation))])
    return float(np.max(1.0 - equity / np.maximum.accumulate(equity)))


def volatility_at(returns: np.ndarray, periods: float, drawdown: float) -> float:
    """Volatility a year of an account, were its returns scaled so that its largest drawdown is this; 0 without any.

    Args:
      returns: `[n]` return per bar.
      periods: bars per year.
      drawdown: fraction.
    """
    if not drawdown_at(returns, periods, 1.0) > drawdown:
        return 0.0
    return float(brentq(lambda volatility: drawdown_at(returns, periods, volatility) - drawdown, 1e-6, 1.0))


def difference(returns: np.ndarray, rule: np.ndarray, periods: float) -> dict[str, float]:
    """How much better an account is than a rule in the same bars, at equal volatility.

    Args:
      returns: `[n]` return per bar of the account.
      rule: `[n]` of the rule.
      periods: bars per year.

    Returns:
      `difference` of the Sharpe ratios a year with `difference_ci` (95 %, stationary bootstrap of both at the same
      bars), `p_value` (one-sided, of being no better), `correlation`, and `detectable`, the smallest difference that
      this span finds with a power of 80 %: `2.49 sqrt(2 (1 - correlation) / years)`.
    """
    if np.ptp(returns) == 0 or np.ptp(rule) == 0:
        return {}
    pair = (np.asarray(x, np.float32) for x in (returns, rule))
    found, root = paired_test(jax.random.key(SEED), *pair, sharpe_per_bar), math.sqrt(periods)
    correlation = float(np.corrcoef(returns, rule)[0, 1])
    half = found.p_value / 2.0
    return {
        "difference": found.difference * root,
        "difference_ci": [float(found.low) * root, float(found.high) * root],
        "p_value": half if found.difference > 0 else 1.0 - half,
        "correlation": correlation,
        "detectable": DETECTABLE * math.sqrt(max(2.0 * (1.0 - correlation), 0.0) * periods / len(returns)),
    }


def active(returns: np.ndarray, base: np.ndarray, periods: float) -> dict[str, float]:
    """What an account adds to the base that it tilts around, at their own volatilities.

    Args:
      returns: `[n]` return per bar of the account.
      base: `[n]` of the base.
      periods: bars per year.

    Returns:
      `information_ratio` a year of the difference, and `active_p_value` of its mean (one-sided, Newey and West).
    """
    apart = np.asarray(returns, np.float64) - base
    p_value = float(norm.sf(mean_t_statistic(apart)))
    return {"information_ratio": sharpe_of(apart, periods), "active_p_value": p_value}


def over_copies(rows: Sequence[Mapping[str, Any]], key: str) -> dict[str, float]:
    """Mean, standard deviation and standard error of a figure over copies of a market.

    Args:
      rows: of the copies.
      key: of the figure.
    """
    values = np.array([row[key] for row in rows if key in row], float)
    if not len(values):
        return {}
    deviation = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    return {"mean": float(values.mean()), "deviation": deviation, "standard_error": deviation / math.sqrt(len(values))}


def plain_table(rows: Mapping[str, Mapping[str, Any]], columns: Sequence[str]) -> str:
    """A table of text, one row for each name.

    Args:
      rows: name -> figure -> number, or `[low, high]`.
      columns: figures to show.
    """
    head = ["", *columns]
    body = [[name, *(_shown(row.get(column)) for column in columns)] for name, row in rows.items()]
    widths = [max(len(line[place]) for line in (head, *body)) for place in range(len(head))]
    lines = (
        "  ".join(word.ljust(width) if place == 0 else word.rjust(width) for place, (word, width) in enumerate(pairs))
        for pairs in (list(zip(line, widths, strict=True)) for line in (head, *body))
    )
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list | tuple):
        return " to ".join(f"{end:.2f}" for end in value)
    return f"{value:.3f}" if abs(value) < 0.1 else f"{value:.2f}"
