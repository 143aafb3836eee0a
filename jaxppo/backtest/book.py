"""Backtests of books of strategies."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.backtest.simulate import Ledger, simulate
from jaxppo.book.allocation import AllocationRule
from jaxppo.book.paper_accounts import AGENT
from jaxppo.book.sizing import BookState, book, strategy_names
from jaxppo.envs.execution.portfolio import Portfolio
from jaxppo.envs.market.market_data import periods_per_year
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.types import EnvParams, Observation
from jaxppo.envs.trading.view import MarketView
from jaxppo.policy.rules import Strategy
from jaxppo.risk.metrics import max_drawdown, sharpe, total_return, volatility


@dataclasses.dataclass(frozen=True)
class BookRun:
    """What a book did over n bars; NumPy arrays.

    Attributes:
      names: of its M strategies.
      ledger: of its account.
      capital: `[n, M]` fraction of the equity at each decision.
      active: `[n, M]` bool, admitted.
      moved: `[n]` bool, capital was allocated anew.
      cuts: `[M]` how often each strategy was cut.
      equity: `[n, M]` currency, of the strategies' own accounts at each decision.
      periods: bars per year.
    """

    names: tuple[str, ...]
    ledger: Ledger
    capital: np.ndarray
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
                "capital": float(self.capital.sum(axis=1).mean()),
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
                "capital": float(self.capital[:, number].mean()),
                "admitted": float(self.active[:, number].mean()),
                "cuts": int(self.cuts[number]),
            }
        return found


def run_book(
    strategies: Sequence[Strategy],
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
      rule: who gets how much capital.
      periods: bars per year; default: counted from the market.
      regimes: `[T, A, 4]`, for strategies that need them.

    Raises:
      ValueError: the strategies do not make a book, or the bars are not in the market.
    """
    if AGENT in strategies:
        raise ValueError("no policy decides here: name the strategies of the book, agents by jaxppo.backtest.trained")
    if not (first >= 0 and n_bars >= 1 and first + n_bars < params.market.n_bars):
        raise ValueError(f"bars {first} to {first + n_bars} must be in the market, which has {params.market.n_bars}")
    periods = periods_per_year(params.market) if periods is None else periods
    sizing = book(
        strategies, rule, costs=params.costs, fill_rule=env.fill_rule, initial_cash=float(params.initial_cash)
    )
    own = copy.copy(env)
    own.sizing = sizing
    rows = sizing.table(MarketView(params.market, periods, env.position_limit, regimes))

    def leave_alone(portfolio: Portfolio, seen: Observation, _: None, __: Any) -> tuple[jax.Array, jax.Array]:
        return jnp.zeros_like(portfolio.shares), jnp.ones(portfolio.shares.shape, bool)

    def watch(state: BookState) -> dict[str, jax.Array]:
        kept = {name: getattr(state.capital, name) for name in ("capital", "active", "moved", "cuts")}
        return {**kept, "equity": state.paper_accounts.portfolio.equity}

    @jax.jit
    def whole(params: EnvParams, first: jax.Array) -> Ledger:
        return simulate(leave_alone, None, own, params, first, n_bars, watch=watch)

    ledger = jax.device_get(whole(params.replace(sizing=rows), jnp.int32(first)))
    seen = ledger.watched
    return BookRun(
        names=strategy_names(strategies),
        ledger=ledger,
        capital=seen["capital"],
        active=seen["active"],
        moved=seen["moved"],
        cuts=seen["cuts"][-1],
        equity=seen["equity"],
        periods=periods,
    )


def _figures(returns: np.ndarray, periods: float) -> dict[str, float | None]:
    """Of simple returns `[n]`; None where undefined."""
    found = {
        "sharpe": sharpe(returns, periods=periods),
        "volatility": volatility(returns, periods=periods),
        "max_drawdown": max_drawdown(returns),
        "total_return": total_return(returns),
    }
    return {name: float(value) if np.isfinite(value) else None for name, value in found.items()}
