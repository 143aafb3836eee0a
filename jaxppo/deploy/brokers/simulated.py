"""The simulated broker: the account is that of the accounting function, so that paper trading is the backtest."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from jaxppo.deploy.brokers.base import Order, Status
from jaxppo.deploy.log import Log
from jaxppo.deploy.positions import Positions

DONE, LONGEST = 1e-6, 20
"""Fraction of an order that may be missing of a full fill, since the accounting function rounds, and bars that an order
is worked: what is left then has been dropped."""


class SimulatedBroker:
    """Keeps orders and their fills in a file; what fills is what the accounting function says.

    Args:
      path: of the file; one that is there is gone on with.

    Raises:
      ConfigError: the file is damaged.
    """

    keeps_account = True

    def __init__(self, path: str | pathlib.Path):
        self.name = "paper"
        self._orders: dict[str, Order] = {}
        self._filled: dict[str, float] = {}
        self._total: dict[str, float] = {}
        self._working: dict[str, list[Order]] = {}
        self._age: dict[str, int] = {}
        self._last: dict[str, Any] = {}
        self._log = Log(path)
        for entry in self._log.entries:
            self._apply(entry)

    def positions(self) -> Positions:
        """The account at the last close; empty before the first bar."""
        return Positions(dict(self._last.get("shares", {})), float(self._last.get("cash", 0.0)))

    def submit(self, order: Order) -> Status:
        """Takes an order, once.

        Args:
          order: to be filled.
        """
        if order.client_id not in self._orders:
            self._apply(self._log.append("order", client_id=order.client_id, symbol=order.symbol,
                                         quantity=order.quantity, price=order.price, time=order.time))  # fmt: skip
        return self._status(order.client_id)

    def orders(self, orders: Sequence[Order]) -> dict[str, Status]:
        """Client id -> what became of the order.

        Args:
          orders: that may have been sent.
        """
        return {order.client_id: self._status(order.client_id) for order in orders}

    def cancel(self, order: Order) -> None:
        """Does nothing: the accounting function works what is left by its own rule.

        Args:
          order: that was sent.
        """

    def settle(self, time: str, fills: Mapping[str, float], account: Mapping[str, Any]) -> None:
        """Records what the accounting function filled in a bar, once.

        Args:
          time: of the bar.
          fills: symbol -> shares, signed.
          account: `shares` (symbol -> shares), `cash` and `paid`, currency, at its close.
        """
        if time > self._last.get("time", ""):
            self._apply(self._log.append("bar", time=time, fills=dict(fills), **account))

    @property
    def fills(self) -> dict[str, float]:
        """Symbol -> shares that were filled so far, signed."""
        return dict(self._total)

    def close(self) -> None:
        """Gives the file up."""
        self._log.close()

    def _apply(self, entry: Mapping[str, Any]) -> None:
        """Takes over a line of the file."""
        if entry["kind"] == "order":
            named = (entry[name] for name in ("client_id", "symbol", "quantity", "price", "time"))
            order = Order(*named)
            self._orders[order.client_id], self._filled[order.client_id] = order, 0.0
            self._working.setdefault(order.symbol, []).append(order)
        else:
            self._last = dict(entry)
            for symbol, quantity in entry["fills"].items():
                self._total[symbol] = self._total.get(symbol, 0.0) + quantity
                self._fill(symbol, quantity)
            for working in self._working.values():
                for order in working:
                    self._age[order.client_id] = self._age.get(order.client_id, 0) + 1
                working[:] = [order for order in working if self._age[order.client_id] < LONGEST]

    def _fill(self, symbol: str, quantity: float) -> None:
        """Shares out a fill among the orders of an asset that are not done, the oldest first."""
        working = self._working.get(symbol, [])
        for order in list(working):
            missing = order.quantity - self._filled[order.client_id]
            if missing * quantity <= 0:
                continue
            part = quantity if abs(quantity) < abs(missing) else missing
            self._filled[order.client_id] += part
            quantity -= part
            if abs(missing - part) <= DONE * abs(order.quantity):
                working.remove(order)

    def _status(self, client_id: str) -> Status:
        """What became of an order."""
        if client_id not in self._orders:
            return Status("unknown")
        wanted, filled = self._orders[client_id].quantity, self._filled[client_id]
        if abs(wanted - filled) <= DONE * abs(wanted):
            return Status("filled", filled)
        if self._age.get(client_id, 0) >= LONGEST:
            return Status("cancelled", filled)
        return Status("partly" if filled else "open", filled)
