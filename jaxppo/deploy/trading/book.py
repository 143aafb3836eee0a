"""The books of a trader: what was decided and ordered, as its log has it."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections import deque
from typing import Any

from jaxppo.deploy.brokers.base import WORKING, Order, Status
from jaxppo.deploy.drift.fills import Fill
from jaxppo.deploy.log import Log
from jaxppo.errors import ConfigError

LOG = "orders.jsonl"
RECENT = 20
"""Decisions, orders and refused records that are shown."""
LONGEST_CURVE = 2000
"""Points of the equity curve; of a longer one every second point is dropped."""
PENDING, DRY, EXPIRED = "pending", "dry", "expired"
"""States of orders that no broker has: decided and not acknowledged, not to be sent, and too old to be sent."""
ORDER_FIELDS = ("state", "filled", "reason", "price", "fee")
"""What a line of the log says of an order beside its client id."""


@dataclasses.dataclass
class Written:
    """An order in the books.

    Attributes:
      order: what was decided.
      state: of the broker, or one of `PENDING`, `DRY`, `EXPIRED`.
      filled: shares so far, signed.
      reason: of a rejection.
      price: average of what has filled so far, currency; 0 where it is not known.
      fee: charged for it so far, currency.
      before: what had filled at the last decision: shares, their value and their fees.
    """

    order: Order
    state: str = PENDING
    filled: float = 0.0
    reason: str = ""
    price: float = 0.0
    fee: float = 0.0
    before: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def so_far(self) -> tuple[float, float, float]:
        """What has filled: shares, signed, their value and their fees, currency."""
        return self.filled, self.filled * self.price, self.fee

    @property
    def fill(self) -> Fill | None:
        """What has filled since the last decision; None where nothing has, or its price is not known."""
        quantity, value, fee = (now - then for now, then in zip(self.so_far, self.before, strict=True))
        price = value / quantity if quantity else 0.0
        return Fill(self.order.symbol, quantity, price, fee) if price > 0 else None


class Books:
    """Decisions and orders of one policy in one account.

    Args:
      folder: of the trader; made where it is missing.
      identity: of the policy.
      account: name of broker and account.

    Attributes:
      last: the last decision, as the log has it; empty before the first.
      orders: those of the last decision, and earlier ones that are not done; by client id.
      curve: time and equity at closes so far.
      recent: last decisions.
      closed: last orders that are done.
      events: last things that were out of order: time and what.

    Raises:
      ConfigError: another process trades in the folder, its log is damaged, or of another policy or account.
    """

    def __init__(self, folder: pathlib.Path, identity: str, account: str):
        folder.mkdir(parents=True, exist_ok=True)
        self.last: dict[str, Any] = {}
        self.orders: dict[str, Written] = {}
        self.curve: list[tuple[str, float]] = []
        self.recent: deque[dict[str, Any]] = deque(maxlen=RECENT)
        self.closed: deque[Written] = deque(maxlen=RECENT)
        self.events: deque[tuple[str, str]] = deque(maxlen=RECENT)
        self.log = Log(folder / LOG)
        try:
            self._replay(identity, account)
        except BaseException:
            self.log.close()
            raise

    def decided(self, **content: Any) -> None:
        """Writes a decision with its orders: from here on they are to be sent, once.

        Args:
          content: see `Trader`.
        """
        self._apply(self.log.append("bar", **content))

    def became(self, client_id: str, state: str, reason: str = "") -> None:
        """Writes that an order never was a broker's.

        Args:
          client_id: of the order.
          state: see `Written`.
          reason: why.
        """
        self._became(client_id, state=state, filled=0.0, reason=reason, price=0.0, fee=0.0)

    def answered(self, client_id: str, status: Status) -> None:
        """Writes what a broker says of an order.

        Args:
          client_id: of the order.
          status: from the broker; a price or a fee that is no finite number is not known.
        """
        content = dataclasses.asdict(status)
        content |= {name: 0.0 for name in ("price", "fee") if not math.isfinite(content[name])}
        self._became(client_id, **content)

    def noted(self, what: str, **content: Any) -> None:
        """Writes what was out of order.

        Args:
          what: in one line.
          content: beside it.
        """
        self._apply(self.log.append("note", what=what[:300], time=self.last.get("time", ""), **content))

    @property
    def fills(self) -> list[Fill]:
        """What has filled since the last decision, as far as brokers say at which price."""
        return [fill for written in self.orders.values() if (fill := written.fill) is not None]

    @property
    def pending(self) -> list[Order]:
        """Orders that are to be sent, or of which it is not known whether they were."""
        return [written.order for written in self.orders.values() if written.state == PENDING]

    @property
    def working(self) -> list[Order]:
        """Orders of which more may fill."""
        return [written.order for written in self.orders.values() if written.state in WORKING]

    @property
    def on_order(self) -> dict[str, float]:
        """Symbol -> shares that may still fill, signed."""
        found: dict[str, float] = {}
        for written in self.orders.values():
            if written.state in WORKING:
                missing = written.order.quantity - written.filled
                found[written.order.symbol] = found.get(written.order.symbol, 0.0) + missing
        return found

    @property
    def expected(self) -> dict[str, float]:
        """Symbol -> shares that the account should have: those at the last decision, and what has filled since."""
        held = dict(self.last.get("shares", {}))
        for written in self.orders.values():
            if written.order.time == self.last.get("time"):
                held[written.order.symbol] = held.get(written.order.symbol, 0.0) + written.filled
        return held

    def _replay(self, identity: str, account: str) -> None:
        """Takes over what the log has."""
        if not self.log.entries:
            self.log.append("opened", identity=identity, account=account)
        for number, entry in enumerate(self.log.entries):
            if number > 0:
                self._apply(entry)
            elif entry.get("identity") != identity:
                raise ConfigError(f"{self.log.path}: of another policy; give another folder, or the policy of this one")
            elif entry.get("account") != account:
                raise ConfigError(f"{self.log.path}: of the account {entry.get('account')}, not {account}")
        self.log.entries.clear()

    def _became(self, client_id: str, **content: Any) -> None:
        """Writes what became of an order, where that is new."""
        written, content["reason"] = self.orders[client_id], content["reason"][:200]
        if any(getattr(written, name) != content[name] for name in ORDER_FIELDS if name != "reason"):
            self._apply(self.log.append("order", client_id=client_id, **content))

    def _apply(self, entry: dict[str, Any]) -> None:
        """Takes over a line."""
        if entry["kind"] == "bar":
            self._next_bar(entry)
        elif entry["kind"] == "order":
            written = self.orders[entry["client_id"]]
            for name in ORDER_FIELDS:
                setattr(written, name, entry.get(name, getattr(written, name)))
        elif entry["kind"] == "note":
            self.events.append((entry["time"], entry["what"]))

    def _next_bar(self, entry: dict[str, Any]) -> None:
        """Takes over a decision; orders that are done leave."""
        for name, written in list(self.orders.items()):
            if written.state not in (PENDING, *WORKING):
                self.closed.append(self.orders.pop(name))
            written.before = written.so_far
        self.last = entry
        for plain in entry["orders"]:
            order = Order(**plain, time=entry["time"])
            self.orders[order.client_id] = Written(order)
        self.recent.append(entry)
        if entry["equity"] is not None:
            self.curve.append((entry["time"], entry["equity"]))
        if len(self.curve) > LONGEST_CURVE:
            self.curve = [*self.curve[:-1:2], self.curve[-1]]
