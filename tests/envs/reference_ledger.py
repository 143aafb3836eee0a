"""The accounting written the plain way: a float64 cash ledger, `cash -= fill * price + fees`, one bar after another.

It is the oracle of `envs.portfolio` and `envs.execution`, and shares no code and no formula with them: money is kept as
cash, equity is derived from it, and the costs that move the price (spread, slippage, impact) are paid through it.
"""

from __future__ import annotations

import dataclasses

import numpy as np

ROUNDING = 1e-8  # shares; far above what float64 leaves of cancelled orders, far below what anybody trades


def _difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`a - b`, exactly zero where they are the same number up to rounding."""
    return np.where(np.abs(a - b) < ROUNDING, 0.0, a - b)


@dataclasses.dataclass
class Ledger:
    """One account, changed in place.

    Attributes:
      costs: cost parameters by the names of `envs.execution.Costs`, floats.
      cash: currency, negative when borrowed.
      shares: `[A]` signed positions.
      close: `[A]` last closes.
      working: `[A]` shares of due orders that are still to be filled.
      queue: orders `[A]` not yet due, oldest first.
      latency_bars: bars from decision to fill.
      carry: work the unfilled part of an order in the following bars.
      fill_at_decision_close: fill at the last close, not at the next open.
    """

    costs: dict[str, float]
    cash: float
    shares: np.ndarray
    close: np.ndarray
    working: np.ndarray
    queue: list[np.ndarray]
    latency_bars: int
    carry: bool
    fill_at_decision_close: bool

    @property
    def equity(self) -> float:
        """Cash plus the market value of the positions."""
        return self.cash + float(self.shares @ self.close)

    def decide(self, weights: np.ndarray, hold: np.ndarray) -> None:
        """Sends the orders that lead to the target weights once everything on its way has filled."""
        equity = max(self.equity, 0.0)
        expected = self.shares + self.working + sum(self.queue)
        free = self.costs["max_leverage"] * equity - np.abs(expected * self.close)[hold].sum()
        gross = np.abs(weights * equity)[~hold].sum()
        shrink = max(free, 0.0) / gross if gross > max(free, 0.0) else 1.0
        order = _difference(weights * shrink * equity / self.close, expected)
        self.queue.append(np.where(hold, 0.0, order))

    def live(self, bar: np.ndarray) -> dict[str, object]:
        """Goes from one close to the next through `bar` `[7, A]` (fields of `envs.execution.Bar`, in their order)."""
        opened, close, volume, half_spread, volatility, normal_volume, years = bar
        borrowed = np.minimum(self.shares * self.close, 0.0) @ years
        debt = min(self.cash, 0.0) * years[0]
        financing = -borrowed * self.costs["borrow_rate"] - debt * self.costs["margin_rate"]
        self.cash -= financing

        mid = self.close if self.fill_at_decision_close else opened
        wanted = _difference(self.queue.pop(0), -self.working)
        most = np.where(volume > 0, volume * self.costs["participation_limit"], 0.0)
        fill = np.sign(wanted) * np.minimum(np.abs(wanted), most)
        conditions = (half_spread, volatility, normal_volume)
        paid = self._trade(fill, mid, *conditions)
        self.working = _difference(wanted, fill) if self.carry else np.zeros_like(fill)
        self.close = close

        gross = np.abs(self.shares * close).sum()
        liquidated = self.equity < self.costs["maintenance_margin"] * gross
        closed = -self.shares if liquidated else np.zeros_like(fill)
        paid += self._trade(closed, close, *conditions)
        if liquidated:
            self.working = np.zeros_like(fill)
            self.queue = [np.zeros_like(fill) for _ in self.queue]
        return {
            "equity": self.equity,
            "cash": self.cash,
            "shares": self.shares.copy(),
            "quantity": fill,
            "paid": paid,
            "financing": financing,
            "liquidated": liquidated,
        }

    def _trade(self, fill, mid, half_spread, volatility, normal_volume) -> np.ndarray:
        """Buys or sells at an adverse price plus commission; returns `[A]` what that cost against the mid price."""
        costs = self.costs
        impact = 2 / 3 * costs["impact"] * volatility * np.sqrt(np.abs(fill) / normal_volume)
        against = costs["spread_multiplier"] * half_spread + costs["slippage"] * volatility + impact
        price = mid * (1.0 + np.sign(fill) * against)
        proportional = costs["commission_rate"] * np.abs(fill * mid) + costs["commission_per_share"] * np.abs(fill)
        commission = np.where(fill != 0, np.maximum(proportional, costs["commission_minimum"]), 0.0)
        self.cash -= float(fill @ price) + commission.sum()
        self.shares = _difference(self.shares, -fill)
        return fill * (price - mid) + commission


def run_ledger(
    bars: np.ndarray,
    weights: np.ndarray,
    hold: np.ndarray,
    *,
    costs: dict[str, float],
    cash: float,
    latency_bars: int = 1,
    carry: bool = True,
    fill_at_decision_close: bool = False,
) -> dict[str, np.ndarray]:
    """Runs a flat account through `bars`: decide at the close of bar t, then live through bar t + 1.

    Args:
      bars: `[T, 7, A]`, rows of `envs.execution.pack_bars`.
      weights: `[T - 1, A]` target weights decided at the close of bars 0 to T - 2.
      hold: `[T - 1, A]` bool, leave the asset alone.
      costs: by the names of `envs.execution.Costs`.
      cash: at the start.
      latency_bars: bars from decision to fill.
      carry: work the unfilled part of an order in the following bars.
      fill_at_decision_close: fill at the last close, not at the next open.

    Returns:
      Columns of what `Ledger.live` reports, `[T - 1, ...]`, for bars 1 to T - 1.
    """
    bars = np.asarray(bars, np.float64)
    zeros = np.zeros(bars.shape[-1])
    queue = [zeros.copy() for _ in range(latency_bars - 1)]
    modes = (latency_bars, carry, fill_at_decision_close)
    ledger = Ledger(dict(costs), float(cash), zeros.copy(), bars[0, 1], zeros.copy(), queue, *modes)
    rows = []
    for bar, target, held in zip(bars[1:], np.asarray(weights, np.float64), np.asarray(hold), strict=True):
        ledger.decide(target, held)
        rows.append(ledger.live(bar))
    return {name: np.asarray([row[name] for row in rows]) for name in rows[0]}
