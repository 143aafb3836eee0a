"""Backtests of books of strategies."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.backtest.account import AccountRules, AccountState
from jaxppo.backtest.ledger import Ledger
from jaxppo.backtest.simulate import simulate_account
from jaxppo.book.allocation import AllocationRule
from jaxppo.book.paper_accounts import AGENT
from jaxppo.book.sizing import book, strategy_names
from jaxppo.envs.market.periods import periods_per_year
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.types import EnvParams
from jaxppo.envs.trading.view import MarketView
from jaxppo.policy.protocol import Policy
from jaxppo.policy.rules import flat
from jaxppo.risk.metrics import max_drawdown, sharpe, total_return, volatility


@dataclasses.dataclass(frozen=True)
class BookRun:
    """What a book did over n bars; NumPy arrays.

    Attributes:
      names: of its M strategies.
      ledger: of its account.
      allocation: `[n, M]` fraction of the equity at each decision.
      active: `[n, M]` bool, admitted.
      moved: `[n]` bool, the strategies were allocated anew.
      cuts: `[M]` how often each strategy was cut.
      equity: `[n, M]` currency, of the strategies' own accounts at each decision.
      periods: bars per year.
    """

    names: tuple[str, ...]
    ledger: Ledger
    allocation: np.ndarray
    active: np.ndarray
    moved: np.ndarray
    cuts: np.ndarray
    equity: np.ndarray
    periods: float

    def summary(self) -> dict[str, dict[str, Any]]:
        """Figures by strategy, of its own account and of its place in the book; all of the book's own under `book`.

        Per year where that applies; the strategies' own accounts end with the last decision, a bar before the book's.
        """
        found = {
            "book": {
                **_figures(self.ledger.returns, self.periods),
                "turnover": float(np.mean(self.ledger.turnover, dtype=np.float64)) * self.periods,
                "allocation": float(self.allocation.sum(axis=1).mean()),
                "allocations": int(self.moved.sum()),
                "cuts": int(self.cuts.sum()),
                "liquidated": bool(self.ledger.liquidated),
            }
        }
        before, after = self.equity[:-1], self.equity[1:]
        returns = np.where(before > 0, after / np.where(before > 0, before, 1.0) - 1.0, 0.0)
        for number, name in enumerate(self.names):
            found[name] = {
                **_figures(returns[:, number], self.periods),
                "allocation": float(self.allocation[:, number].mean()),
                "admitted": float(self.active[:, number].mean()),
                "cuts": int(self.cuts[number]),
            }
        return found


def run_book(
    strategies: Sequence[Policy],
    env: TradingEnv,
    params: EnvParams,
    first: int,
    n_bars: int,
    rule: AllocationRule,
    *,
    periods: float | None = None,
    regimes: jax.Array | None = None,
) -> BookRun:
    """A book from a flat start: decisions at the closes of bars `first .. first + n_bars - 1`, within the env's masks.

    Args:
      strategies: rules and trained agents.
      env: fill rule and masks; its own sizing is left out.
      params: the market and its costs, which the strategies' own accounts pay as well.
      first: first decision bar.
      n_bars: number of decisions; `first + n_bars` must be a bar of the market.
      rule: how much each strategy is allocated.
      periods: bars per year; default: counted from the market.
      regimes: `[T, A, 4]`, for strategies that need them.

    Raises:
      ValueError: the strategies do not make a book, or the bars are not in the market.
    """
    if AGENT in strategies:
        raise ValueError("no policy decides here: name the strategies of the book, agents by `SavedRun.strategy`")
    if not (first >= 0 and n_bars >= 1 and first + n_bars < params.market.n_bars):
        raise ValueError(f"bars {first} to {first + n_bars} must be in the market, which has {params.market.n_bars}")
    periods = periods_per_year(params.market) if periods is None else periods
    sizing = book(strategies, rule, env=env, costs=params.costs, initial_cash=float(params.initial_cash))
    with_book = copy.copy(env)
    with_book.sizing = sizing
    rows = sizing.table(MarketView(params.market, periods, env.position_limit, regimes))

    def record(state: AccountState) -> dict[str, jax.Array]:
        held = state.account.sizing
        kept = {name: getattr(held.allocation, name) for name in ("allocation", "active", "moved", "cuts")}
        return {**kept, "equity": held.paper_accounts.portfolio.equity}

    rules, params = AccountRules(with_book, periods), params.replace(sizing=rows)
    ledger = jax.device_get(simulate_account(flat(), rules, params, jnp.int32(first), n_bars, record))
    seen = ledger.recorded
    return BookRun(
        names=strategy_names(strategies),
        ledger=ledger,
        allocation=seen["allocation"],
        active=seen["active"],
        moved=seen["moved"],
        cuts=seen["cuts"][-1],
        equity=seen["equity"],
        periods=periods,
    )


def _figures(returns: np.ndarray, periods: float) -> dict[str, float | None]:
    """Of simple returns `[n]`; None where undefined."""
    series = jnp.asarray(returns)
    found = {
        "sharpe": sharpe(series, periods=periods),
        "volatility": volatility(series, periods=periods),
        "max_drawdown": max_drawdown(series),
        "total_return": total_return(series),
    }
    return {name: float(value) if np.isfinite(value) else None for name, value in found.items()}
