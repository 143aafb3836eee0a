"""Results by regime of the market: return, risk and costs of accounts over the bars decided in each regime.

A bar belongs to the regime that was known when it was decided, at the close before it: the split does not look ahead.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxppo.backtest.ledger import Ledger
from jaxppo.envs.market.features import REGIMES
from jaxppo.envs.market.regimes import market_regime, stretches
from jaxppo.run.periods import Period
from jaxppo.run.regimes import regimes_by_rules
from jaxppo.run.setup import Setup
from jaxppo.statistics.conditional import LEAST_BARS, conditional_intervals
from jaxppo.statistics.summary import json_number


@dataclasses.dataclass(frozen=True, eq=False)
class Account:
    """Series of an account by bar, which are split by regime.

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
    """Extracts the series of an account from its ledger."""
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
    """Finds the regime of the market at each mark of a period, as known at that close.

    A run without regimes is evaluated by the rules, with the windows and the scope of its `regimes` section: they need
    no fit, and nothing but the evaluation reads them.

    Args:
      setup: of the run.
      where: bars of its market.

    Returns:
      `[n + 1]` int, see `jaxppo.envs.market.regimes.market_regime`: the first n are those of the decisions.
    """
    found, config = setup.regimes, setup.config.regimes
    if found is None:
        found = _by_rules(config, setup.market)
    return market_regime(np.asarray(found)[where.first : where.last + 1])


_by_rules = jax.jit(regimes_by_rules, static_argnames="config")


def figures_by_regime(
    key: jax.Array,
    accounts: Mapping[str, Account],
    regimes: np.ndarray,
    *,
    periods: float,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Computes figures of accounts over the same bars in each regime that occurred, ready for JSON.

    Args:
      key: consumed.
      accounts: name -> account over n bars.
      regimes: `[n]` int, the regime known at the decision before each bar: position in `REGIMES`; -1 counts in none.
      periods: bars per year.
      n_resamples: of the intervals, see `jaxppo.statistics.conditional_intervals`.
      level: of the intervals.

    Returns:
      account -> regime -> figures: `n_bars`, `share` of all bars, `stretches` (unbroken ones),
      `annual_return` (mean simple return per bar times bars per year), `annual_return_ci`, `sharpe` (annual),
      `sharpe_ci`, `volatility` (annual), `max_drawdown` (see `worst_drawdown`), `costs` and `turnover` (a year in the
      regime, fractions of equity), `gross` and `net` (mean exposures, fractions of equity). None is undefined;
      intervals are `[low, high]`. Where there is none, below `LEAST_BARS` bars or where resamples lack the regime, it
      is absent together with the figure: they are too few to tell.

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
    for number, name in enumerate(REGIMES):
        inside = regimes == number
        if not inside.any():
            continue
        mean = sharpe = None
        if inside.sum() >= LEAST_BARS:
            regime_key = jax.random.fold_in(key, number)
            mean, sharpe = conditional_intervals(regime_key, returns, inside, level=level, n_resamples=n_resamples)
        for column, (who, account) in enumerate(accounts.items()):
            known = _figures(account, inside, periods)
            for figure, ends, scale in (("annual_return", mean, periods), ("sharpe", sharpe, periods**0.5)):
                interval = [json_number(end[column] * scale) for end in ends] if ends else [None, None]
                known[f"{figure}_ci"] = interval
                # An account that did nothing has no Sharpe ratio however many bars there are: that is told.
                if None in interval and (ends is None or known[figure] is not None):
                    del known[figure], known[f"{figure}_ci"]
            found[who][name] = known
    return found


def _figures(account: Account, inside: np.ndarray, periods: float) -> dict[str, Any]:
    """Figures of `figures_by_regime` without intervals, of an account in the bars `[n]` inside."""
    returns = np.asarray(account.returns, np.float64)[inside]
    spread = float(returns.std(ddof=1)) if len(returns) > 1 else math.nan
    return {
        "n_bars": len(returns),
        "share": float(inside.mean()),
        "stretches": int(inside[0]) + int((inside[1:] & ~inside[:-1]).sum()),
        "annual_return": float(returns.mean()) * periods,
        "sharpe": json_number(returns.mean() / spread * periods**0.5) if spread > 0 else None,
        **({"volatility": spread * periods**0.5} if len(returns) > 1 else {}),
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
      inside: `[n]` bool, the bars that count.
    """
    worst = 0.0
    for begin, end in zip(*stretches(inside), strict=True):
        if inside[begin]:
            equity = np.cumprod(np.r_[1.0, 1.0 + np.asarray(returns[begin:end], np.float64)])
            worst = max(worst, float(np.max(1.0 - equity / np.maximum.accumulate(equity))))
    return worst
