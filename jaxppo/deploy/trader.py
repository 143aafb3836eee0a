"""A trader: reads a feed, lets a policy decide at every bar, and sends what it orders to a broker, once.

What is on the disk leads. At a bar the state of the policy is saved first; then one line of the log commits the
decision, its orders and the name of that state; then the orders are sent. A kill before the line leaves the bar
undecided. A kill after it leaves orders that the next start finds in the log: it asks the broker for them, and sends
those that never arrived.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import time as clock
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from jaxppo.deploy.brokers import Broker, BrokerError, Order, SimulatedBroker, Status
from jaxppo.deploy.brokers.base import client_id
from jaxppo.deploy.decision import Decision
from jaxppo.deploy.feed import SECOND, RefusedError
from jaxppo.deploy.live_account import MAX_AHEAD, LivePolicy
from jaxppo.deploy.log import sync_folder, write_file
from jaxppo.deploy.positions import Positions
from jaxppo.deploy.trading.book import DRY, EXPIRED, Books
from jaxppo.deploy.trading.feeds import BadRecord, Fed
from jaxppo.deploy.trading.page import PAGE, Shown, render

KILL = "KILL"
"""A file of this name in the folder closes everything at the next bar."""
TRIES, PAUSE, AGAIN = 3, 1.0, 30.0
"""How often a broker is asked that cannot be reached, seconds between, and seconds until it is asked once more."""
SAME = 1e-5
"""Fraction by which positions may differ from what orders explain."""
OFTEN = 1.0
"""Seconds after which what was not traded on is saved too."""
STATES = ("state-0.safetensors", "state-1.safetensors")


class Trader:
    """One policy in one account, with its books in a folder; see the module.

    Args:
      policy: from `live_policy` or `load_policy`; what it knows is replaced by what the folder has.
      folder: of the log, the state and the page; a folder that is there is gone on with.
      broker: None for the account of the accounting function, whose orders are written down alone.
      send: whether orders are sent; otherwise they are written down alone.
      now: seconds since 1970, by which bars are too old; None takes every bar as it comes.
      pause: seconds before a broker is asked again.

    Raises:
      ConfigError: the folder is of another policy or account, in use, or damaged.
      BrokerError: the broker cannot be reached.
    """

    def __init__(
        self,
        policy: LivePolicy,
        folder: str | pathlib.Path,
        broker: Broker | None = None,
        *,
        send: bool = False,
        now: Callable[[], float] | None = None,
        pause: float = PAUSE,
    ):
        self.policy, self.folder, self.broker = policy, pathlib.Path(folder), broker
        self.send, self._now, self._pause = send and broker is not None, now, pause
        self.account = f"{'none' if broker is None else broker.name}{'' if self.send else ', dry'}"
        self.books = Books(self.folder, policy.rules.identity, self.account)
        self.refused = 0
        self.decision: Decision | None = None
        self._committed, self._asked_at = 0.0, 0.0
        self._catching_up = bool(self.books.last)
        self._positions: Positions | None = None
        try:
            if self.books.last:
                policy.restore(self.folder / self.books.last["state"])
            self._told_paper()
            self._send(again=True)
        except BaseException:
            self.close()
            raise

    def take(self, record: Fed) -> Decision | None:
        """Takes the account through a record.

        Args:
          record: from a feed.

        Returns:
          The decision; None where there was nothing to decide on.

        Raises:
          DataError: positions in what the market has not, or nothing left of the account.
          BrokerError: the broker cannot be reached.
          OSError: the folder cannot be written.
        """
        if record is None:
            if self.books.pending and clock.monotonic() >= self._asked_at + AGAIN:
                self._send(again=True)
            return None
        if not isinstance(record, Mapping):
            self._refuse(record.reason if isinstance(record, BadRecord) else "a record is a mapping with time and bars")
            return None
        now = None if self._now is None else self._now()
        if self._catching_up and self._is_known(record):
            return None
        if (self.folder / KILL).exists():
            self.policy.kill()
        portfolio = self._portfolio(record, now)
        decision = self.policy.step(record, portfolio, now=now, fills=self.books.fills)
        if decision.status == "refused":
            self._refuse("; ".join(decision.notes))
            return None
        self.decision, self._catching_up = decision, False
        self._commit(decision)
        return decision

    def save(self) -> None:
        """Saves bars that were not traded on, which are saved from time to time only."""
        if self.decision is not None and self.decision.time != self.books.last.get("time"):
            self._write(self.decision, [])

    def write_page(self) -> None:
        """Writes the page of the folder, in one move."""
        killed = (self.folder / KILL).exists()
        shown = Shown(self.policy.rules.name, self.account, self.send, killed, self.refused, self.books)
        write_file(self.folder / PAGE, render(shown))

    def close(self) -> None:
        """Gives up the folder."""
        self.books.log.close()

    def _is_known(self, record: Mapping[str, Any]) -> bool:
        """Whether a record is of before the restart."""
        last = self.policy.feed.time
        try:
            return last is not None and self.policy.feed.peek_time(record) <= last
        except RefusedError:
            return False

    def _refuse(self, reason: str) -> None:
        """Remembers a record that was not used."""
        self.refused += 1
        self.books.events.append((self.books.last.get("time", ""), f"refused: {reason[:300]}"))

    def _portfolio(self, record: Mapping[str, Any], now: float | None) -> Positions | None:
        """The real account at the close of a record; None for that of the accounting function."""
        if self.broker is None or self.broker.keeps_account:
            return None
        if self._positions is None or self._may_trade(record, now):
            self._send(again=True, late=True)
            if self.send and self.books.pending:
                raise BrokerError("orders are not acknowledged; nothing is decided before it is known of them")
            self._settle(self.broker)
            found: Positions = self._asked(self.broker.positions)
            self._reconcile(found)
            self._positions = found if found.on_order else dataclasses.replace(found, on_order=self.books.on_order)
        return self._positions

    def _may_trade(self, record: Mapping[str, Any], now: float | None) -> bool:
        """Whether a record looks like one to trade on: a broker is not asked for others."""
        rules, last = self.policy.rules.feed, self.policy.feed.time
        try:
            time = self.policy.feed.peek_time(record)
        except RefusedError:
            return False
        if not isinstance(record.get("bars"), Mapping) or (last is not None and time <= last):
            return False
        oldest = rules.bar_seconds + self.policy.max_age
        return now is None or -MAX_AHEAD <= now - time / SECOND <= oldest

    def _settle(self, broker: Broker) -> None:
        """Learns what became of orders, and takes back what is left of them before new ones are decided."""
        for attempt in (1, 2):
            working = self.books.working
            if not working:
                return
            found = self._asked(partial(broker.orders, working))
            for order in working:
                self.books.answered(order.client_id, found[order.client_id])
            if attempt == 1:
                for order in self.books.working:
                    self._asked(partial(broker.cancel, order))

    def _reconcile(self, positions: Positions) -> None:
        """Notes positions that orders do not explain; the broker's count."""
        if not self.books.last:
            return
        expected = self.books.expected
        for symbol in self.policy.symbols:
            has, should = positions.shares.get(symbol, 0.0), expected.get(symbol, 0.0)
            if abs(has - should) > SAME * max(abs(has), abs(should), 1.0):
                self.books.noted(f"{symbol}: the broker has {has:g}, orders explain {should:g}; the broker's count")

    def _commit(self, decision: Decision) -> None:
        """Saves the state, writes the decision with its orders in one line, and sends them."""
        orders = [
            Order(
                client_id(self.policy.rules.identity, self.account, decision.time, symbol),
                symbol,
                float(quantity),
                float(price),
                decision.time,
            )
            for symbol, quantity, price in zip(
                decision.symbols, decision.values["ordered"], decision.price, strict=True
            )
            if quantity != 0 and math.isfinite(quantity)
        ]
        idle = decision.status != "decided" and not np.any(decision.values["filled"]) and not self.books.fills
        if idle and clock.monotonic() - self._committed < OFTEN:
            return
        self._write(decision, orders)
        self._send(again=False)

    def _write(self, decision: Decision, orders: list[Order]) -> None:
        """The commit of a decision: state first, then the line that names it."""
        state = STATES[STATES.index(self.books.last["state"]) - 1] if self.books.last else STATES[0]
        self.policy.save(self.folder / state)
        sync_folder(self.folder)
        self.books.decided(
            time=decision.time,
            status=decision.status,
            state=state,
            orders=[{"client_id": o.client_id, "symbol": o.symbol, "quantity": o.quantity, "price": o.price}
                    for o in orders],
            **self._account(decision),
        )  # fmt: skip
        self._committed = clock.monotonic()
        self._told_paper()

    def _account(self, decision: Decision) -> dict[str, Any]:
        """What the log keeps of the account at a close."""
        values, named = decision.values, decision.symbols
        shares = {s: float(x) for s, x in zip(named, decision.shares, strict=True) if x != 0}
        fills = {s: float(x) for s, x in zip(named, values["filled"], strict=True) if x != 0}
        worth = float(np.sum(np.where(self.policy.rules.futures, 0.0, decision.shares * decision.price)))
        levels = {n.removeprefix("monitored."): _finite(x) for n, x in values.items() if n.startswith("monitored.")}
        return {
            "equity": _finite(decision.equity),
            "cash": _finite(decision.equity - worth) or 0.0,
            "paid": _finite(values["paid"]),
            "shares": shares,
            "price": {s: _finite(x) for s, x in zip(named, decision.price, strict=True)},
            "targets": {s: _finite(x) for s, x in decision.targets.items()},
            "fills": fills,
            "monitored": levels,
            "stopped": bool(values["stopped"]),
            "liquidated": bool(values["liquidated"]),
            "notes": [note[:200] for note in decision.notes[:8]],
        }

    def _told_paper(self) -> None:
        """Has the simulated broker write down what filled in the last bar; it was told before if it knows the bar."""
        last, broker = self.books.last, self.broker
        if last and self.send and isinstance(broker, SimulatedBroker):
            broker.settle(last["time"], last["fills"], {name: last[name] for name in ("shares", "cash", "paid")})
            found = broker.orders(self.books.working)
            for name, status in found.items():
                self.books.answered(name, status)

    def _send(self, *, again: bool, late: bool = False) -> None:
        """Sends orders that are to be sent.

        Args:
          again: whether they may have been sent before: the broker is asked first.
          late: whether there is a later bar to decide on: what never arrived is not sent any more.
        """
        for order in self.books.pending:
            if not self.send:
                self.books.became(order.client_id, DRY)
            elif self.broker is not None:
                self._send_one(order, self.broker, again, late or self._is_too_old(order))

    def _send_one(self, order: Order, broker: Broker, again: bool, late: bool) -> None:
        """Sends one order; leaves it pending where the broker cannot be reached."""
        for attempt in range(TRIES):
            try:
                known = broker.orders([order])[order.client_id] if again else Status("unknown")
                if known.state == "unknown" and late:
                    self.books.became(order.client_id, EXPIRED, reason="too old to be sent")
                    return
                status = known if known.state != "unknown" else broker.submit(order)
                self.books.answered(order.client_id, status)
                return
            except BrokerError as error:
                again = True
                if attempt == TRIES - 1:
                    self._asked_at = clock.monotonic()
                    self.books.noted(f"{order.symbol}: not acknowledged: {error}")
                else:
                    clock.sleep(self._pause)

    def _is_too_old(self, order: Order) -> bool:
        """Whether the bar of an order is too old to trade on by now."""
        if self._now is None:
            return False
        start = np.datetime64(order.time, "s").astype(np.int64)
        return self._now() > float(start) + self.policy.rules.feed.bar_seconds + self.policy.max_age

    def _asked(self, question: Callable[[], Any]) -> Any:
        """The answer of a broker that may not be reached at once."""
        for attempt in range(TRIES):
            try:
                return question()
            except BrokerError:
                if attempt == TRIES - 1:
                    raise
                clock.sleep(self._pause)
        raise AssertionError


def follow(trader: Trader, feed: Iterable[Fed], stopped: Callable[[], bool] = lambda: False) -> Iterator[Decision]:
    """Takes an account through a feed until it ends or is stopped, and saves.

    Args:
      trader: of the account.
      feed: records, see `jaxppo.deploy.trading.feeds`.
      stopped: asked after every record.

    Yields:
      Every decision, once it is written and its orders are sent.
    """
    trader.write_page()
    written, seen, new = clock.monotonic(), trader.refused, False
    for record in feed:
        decision = trader.take(record)
        new = new or decision is not None or trader.refused != seen
        if new and clock.monotonic() - written >= OFTEN:
            trader.write_page()
            written, seen, new = clock.monotonic(), trader.refused, False
        if decision is not None:
            yield decision
        if stopped():
            break
    trader.save()
    trader.write_page()


def _finite(value: Any) -> float | None:
    """A number as JSON has it."""
    number = float(value)
    return number if math.isfinite(number) else None
