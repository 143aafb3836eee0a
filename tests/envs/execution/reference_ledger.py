"""The accounting written the plain way: a float64 cash ledger, `cash -= fill * price + fees`, one asset after another.

It is the oracle of `jaxppo.envs.execution`, and shares no code and no formula with it: money is kept as cash, equity is
derived from it, and the costs that move the price (spread, slippage, impact) are paid through it.
Python floats, which are float64 and, for a handful of assets, faster than NumPy arrays.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

ROUNDING = 1e-8  # shares; far above what float64 leaves of cancelled orders, far below what anybody trades


def _difference(a: float, b: float) -> float:
    """`a - b`, exactly zero where they are the same number of shares up to rounding."""
    return 0.0 if abs(a - b) < ROUNDING else a - b


@dataclasses.dataclass
class Ledger:
    """One account, changed in place; lists have one entry per asset.

    Attributes:
      costs: cost parameters by the names of `Costs` and `Impact`.
      cash: currency, negative when borrowed.
      shares: signed positions.
      close: last closes.
      working: shares of due orders that are still to be filled.
      queue: orders not yet due, oldest first, each a list over assets.
      carry: work the unfilled part of an order in the following bars.
      fill_at_decision_close: fill at the last close, not at the next open.
      moved: per kind of lasting impact and asset, how far own trades have moved the price, currency per share, and the
        depth of the market, currency per share and share, when that was.
      delisting: return after the last close at which positions in assets that have ended are paid out; None for never.
      futures: whether each asset is a future: nothing is paid for it, and its profit is settled in cash every bar.
    """

    costs: dict[str, Any]
    cash: float
    shares: list[float]
    close: list[float]
    working: list[float]
    queue: list[list[float]]
    carry: bool
    fill_at_decision_close: bool
    moved: dict[str, list[tuple[float, float]]] = dataclasses.field(default_factory=dict)
    delisting: float | None = None
    futures: list[bool] = dataclasses.field(default_factory=list)

    def is_future(self, i: int) -> bool:
        """Whether asset i is a future."""
        return bool(self.futures) and self.futures[i]

    def equity(self) -> float:
        """Cash plus the market value of the positions that were paid for."""
        held = enumerate(zip(self.shares, self.close, strict=True))
        return self.cash + sum(n * price for i, (n, price) in held if not self.is_future(i))

    def margin(self, i: int, volatility: float) -> float:
        """Equity that a position of one currency in asset i needs."""
        if self.own("initial_margins", i):
            return self.own("initial_margins", i)
        if self.is_future(i) and "margin_volatility" in self.costs:
            return self.costs["margin_volatility"] * volatility
        return 1 / self.costs["max_leverage"]

    def own(self, kind: str, i: int) -> float:
        """Margin that was agreed for asset i alone; 0 for none."""
        return self.costs[kind][i] if kind in self.costs else 0.0

    def decide(self, weights: list[float], hold: list[bool], volatility: list[float]) -> None:
        """Sends the orders that lead to the target weights once everything on its way has filled.

        `volatility` is the forecast at the decision, which margins of futures rest on.
        """
        equity = max(self.equity(), 0.0)
        assets = range(len(weights))
        expected = [self.shares[i] + self.working[i] + sum(order[i] for order in self.queue) for i in assets]
        held = sum(abs(expected[i]) * self.close[i] * self.margin(i, volatility[i]) for i in assets if hold[i])
        free = max(equity - held, 0.0)
        gross = sum(abs(weights[i]) * equity * self.margin(i, volatility[i]) for i in assets if not hold[i])
        shrink = free / gross if gross > free else 1.0
        targets = [weights[i] * shrink * equity / self.close[i] for i in assets]
        self.queue.append([0.0 if hold[i] else _difference(targets[i], expected[i]) for i in assets])

    def live(self, bar: list[list[float]]) -> dict[str, object]:
        """Goes from one close to the next through `bar` (fields of `costs.Bar`, in their order)."""
        opened, close, volume, half_spread, volatility, normal_volume, years, *more = bar
        assets = range(len(close))
        equity_at_marks = self.equity()
        financing = -min(self.cash, 0.0) * self.costs["margin_rate"] * years[0]
        for i in assets:
            if self.is_future(i):
                continue
            financing += max(-self.shares[i], 0.0) * self.close[i] * self.costs["borrow_rate"] * years[i]
        financing -= max(self.cash, 0.0) * self.costs.get("cash_rate", 0.0) * years[0]
        for i in assets:  # from a holder's own bank statement: funding goes out, dividends come in
            if len(more) > 5:
                owed = self.shares[i] * self.close[i] * more[5][i]
                financing += owed
                self.cash += self.shares[i] * more[6][i] if len(more) > 6 else 0.0
        self.cash -= financing
        held_futures = [self.shares[i] if self.is_future(i) else 0.0 for i in assets]
        if "transient" in self.moved:
            half_life = self.costs["half_life"]
            kept = 0.5 ** (1 / half_life) if half_life > 0 else 0.0
            self.moved["transient"] = [(shift * kept, depth) for shift, depth in self.moved["transient"]]

        due, fills, paid, possible = self.queue.pop(0), [], [], []
        for i in assets:
            most = volume[i] * self.costs["participation_limit"] if volume[i] > 0 else 0.0
            ordered = _difference(due[i], -self.working[i])
            possible.append(math.copysign(min(abs(ordered), most), ordered))
        limit = free = max(equity_at_marks, 0.0)
        extra = 0.0
        for i in assets:  # the part of each fill that takes the position further from zero must fit under the limit
            after = self.shares[i] + possible[i]
            same_side = after * self.shares[i] > 0
            kept = min(abs(after), abs(self.shares[i])) if same_side or after == 0 else 0.0
            needed = self.close[i] * self.margin(i, volatility[i])
            free -= kept * needed
            extra += (abs(after) - kept) * needed
        free = free if free > 1e-5 * limit else 0.0
        cut = free / extra if extra > free * (1 + 1e-5) else 1.0
        for i in assets:
            wanted = _difference(due[i], -self.working[i])
            after = self.shares[i] + possible[i]
            same_side = after * self.shares[i] > 0
            kept = min(abs(after), abs(self.shares[i])) if same_side or after == 0 else 0.0
            fill = _difference(possible[i], math.copysign((abs(after) - kept) * (1 - cut), after))
            mid = self.close[i] if self.fill_at_decision_close else opened[i]
            paid.append(self._trade(i, fill, mid, half_spread[i], volatility[i], normal_volume[i]))
            self.working[i] = _difference(wanted, fill) if self.carry else 0.0
            fills.append(fill)
        for i in assets:
            if self.delisting is not None and more[1][i]:
                fills[i] = -self.shares[i]
                self.cash += self.shares[i] * self.close[i] * (1 + self.delisting)
                self.shares[i] = self.working[i] = 0.0
                for order in self.queue:
                    order[i] = 0.0
        for i in assets:
            if self.is_future(i):  # settled in cash: to the fill what was held, from there what is
                mid = self.close[i] if self.fill_at_decision_close else opened[i]
                self.cash += held_futures[i] * (mid - self.close[i]) + self.shares[i] * (close[i] - mid)
        self.close = close

        needed = [self.margin(i, volatility[i]) if self.is_future(i) else 1.0 for i in assets]
        if "margin_volatility" not in self.costs:
            needed = [1.0 for _ in assets]
        rates = [self.own("maintenance_margins", i) or self.costs["maintenance_margin"] * needed[i] for i in assets]
        liquidated = self.equity() < sum(abs(self.shares[i]) * close[i] * rates[i] for i in assets)
        if liquidated:
            for i in assets:
                rest = -self.shares[i]
                paid[i] += self._trade(i, rest, close[i], half_spread[i], volatility[i], normal_volume[i])
            self.working = [0.0 for _ in assets]
            self.queue = [[0.0 for _ in assets] for _ in self.queue]
        return {
            "equity": self.equity(),
            "cash": self.cash,
            "shares": list(self.shares),
            "quantity": fills,
            "paid": paid,
            "financing": financing,
            "liquidated": liquidated,
        }

    def _trade(self, i: int, fill: float, mid: float, half_spread: float, volatility: float, volume: float) -> float:
        """Buys or sells asset i at an adverse price plus commission; returns what that cost against the mid price."""
        if fill == 0:
            return 0.0
        costs, size = self.costs, abs(fill)
        peak = costs["impact"] * volatility * math.sqrt(size / volume)
        against = costs["spread_multiplier"] * half_spread + costs["slippage"] * volatility + peak * 2 / 3
        price = mid * (1 + against) if fill > 0 else mid * (1 - against)
        commission = size * mid * costs["commission_rate"] + size * costs["commission_per_share"]
        commission = max(commission, costs["commission_minimum"])
        price += sum(self._move(kind, i, fill, volatility * mid / volume) for kind in self.moved)
        self.cash -= fill * (price - mid if self.is_future(i) else price) + commission
        self.shares[i] = _difference(self.shares[i], -fill)
        return fill * (price - mid) + commission

    def _move(self, kind: str, i: int, fill: float, unit: float) -> float:
        """Moves the price by own trades of one kind; returns the mean of how far it was moved before and after."""
        shift, depth = self.moved[kind][i]
        now = self.costs[kind] * unit
        before = shift * math.sqrt(now / depth) if depth > 0 else 0.0  # the same energy, shift^2 / (2 depth)
        after = before + now * fill
        self.moved[kind][i] = (after, now)
        return (before + after) / 2


def run_ledger(
    bars: np.ndarray,
    weights: np.ndarray,
    hold: np.ndarray,
    *,
    costs: dict[str, Any],
    cash: float,
    latency_bars: int = 1,
    carry: bool = True,
    fill_at_decision_close: bool = False,
    delisting: float | None = None,
) -> dict[str, np.ndarray]:
    """Runs a flat account through `bars`: decide at the close of bar t, then live through bar t + 1.

    Args:
      bars: `[T, 7, 9, 10, 13 or 14, A]`, rows of `jaxppo.envs.execution.bars.pack_bars`.
      weights: `[T - 1, A]` target weights decided at the close of bars 0 to T - 2.
      hold: `[T - 1, A]` bool, leave the asset alone.
      costs: by the names of `jaxppo.envs.execution.costs.Costs`.
      cash: at the start.
      latency_bars: bars from decision to fill.
      carry: work the unfilled part of an order in the following bars.
      fill_at_decision_close: fill at the last close, not at the next open.
      delisting: return at which ended assets are paid out; None for never.

    Returns:
      Columns of what `Ledger.live` reports, `[T - 1, ...]` float64, for bars 1 to T - 1.
    """
    bars = np.asarray(bars, np.float64)
    n_assets = bars.shape[-1]
    ledger = Ledger(
        costs=dict(costs),
        cash=float(cash),
        shares=[0.0] * n_assets,
        close=bars[0, 1].tolist(),
        working=[0.0] * n_assets,
        queue=[[0.0] * n_assets for _ in range(latency_bars - 1)],
        carry=carry,
        fill_at_decision_close=fill_at_decision_close,
        moved={kind: [(0.0, 0.0)] * n_assets for kind in ("transient", "permanent") if kind in costs},
        delisting=delisting,
        futures=(bars[0, 9] > 0).tolist() if bars.shape[1] > 9 else [],
    )
    rows = []
    decisions = (np.asarray(weights, np.float64).tolist(), np.asarray(hold).tolist())
    for bar, target, held in zip(bars[1:].tolist(), *decisions, strict=True):
        ledger.decide(target, held, bar[4])
        rows.append(ledger.live(bar))
    return {name: np.asarray([row[name] for row in rows]) for name in rows[0]}
