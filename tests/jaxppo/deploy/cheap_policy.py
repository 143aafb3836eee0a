"""A policy that costs nothing, with the interface of a live one, and a broker that fills at once."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import types

import numpy as np

from jaxppo.deploy.brokers import BrokerError, Status
from jaxppo.deploy.decision import Decision
from jaxppo.deploy.drift.fills import Fill
from jaxppo.deploy.feed import Feed, FeedRules, RefusedError, time_text
from jaxppo.deploy.positions import Positions

SYMBOLS = ("AAA", "BBB")
CASH = 1e6
RULES = FeedRules(
    symbols=SYMBOLS, daily=False, bar_seconds=60.0, timezone="UTC", calendar=None, volume_known=(True, True),
    counted=(False, False), notional=False, multiplier=(1.0, 1.0), spread=("fixed", "fixed"),
    half_spread=(1e-4, 1e-4), tick=(None, None), min_half_spread=1e-4, widest_edge=2e-3, spread_window=4,
    range_tolerance=1e-3, max_log_jump=1.0, max_log_range=2.0, split_tolerance=0.0, max_hole_days=30.0,
)  # fmt: skip


class CheapPolicy:
    """Holds 10 times the number of the bar, buying and selling in turns; fills whole orders at the next close."""

    symbols = SYMBOLS
    max_age = 60.0

    def __init__(self, identity="cheap"):
        self.rules = types.SimpleNamespace(name="cheap", identity=identity, feed=RULES, futures=(False, False))
        self.feed, self.killed = Feed(RULES), False
        self.shares, self.ordered, self.cash, self.seen = np.zeros(2), np.zeros(2), CASH, 0
        self.told_fills = []

    def kill(self):
        self.killed = True

    def step(self, record, portfolio=None, *, now=None, fills=()):
        try:
            time = self.feed.peek_time(record) if isinstance(record, dict) else 0
            if now is not None and time / 1e9 > now + 60:
                raise RefusedError("ahead of time")
            reading = self.feed.read(record)
        except RefusedError as error:
            zero = np.zeros(2)
            return Decision("none", SYMBOLS, zero, zero, {"equity": np.asarray(0.0)}, notes=(str(error),),
                            status="refused")  # fmt: skip
        price, filled = reading.fields["close"], self.ordered
        self.told_fills += fills
        self.shares, self.cash = self.shares + filled, self.cash - float(filled @ price)
        if portfolio is not None:
            self.shares = np.asarray([portfolio.shares.get(s, 0.0) for s in SYMBOLS])
        self.seen += 1
        goal = np.asarray([10.0 * (self.seen % 7), -5.0 * (self.seen % 3)]) * (not self.killed)
        self.ordered = goal - self.shares
        old = now is not None and now > reading.time / 1e9 + 120
        ordered = np.zeros(2) if old else self.ordered
        self.ordered = ordered
        zero, no = np.zeros(2), np.asarray(False)
        values = dict.fromkeys(("weights", "decided", "sized", "targets", "cost"), zero)
        values |= {"ordered": ordered, "filled": filled, "paid": np.asarray(0.0), "tradable": np.ones(2, bool)}
        values |= {"equity": np.asarray(self.cash + self.shares @ price), "stopped": no, "liquidated": no}
        values |= {"scaled": zero > 1, "bound": np.zeros((0, 2), bool)}
        status = "stale" if old else "decided"
        return Decision(time_text(reading.time), SYMBOLS, price, self.shares.copy(), values, status=status)

    def save(self, path):
        state = {
            "feed": self.feed.state(),
            "shares": self.shares.tolist(),
            "ordered": self.ordered.tolist(),
            "cash": self.cash,
            "seen": self.seen,
            "killed": self.killed,
            "told_fills": self.told_fills,
        }
        draft = pathlib.Path(f"{path}.part")
        draft.write_text(json.dumps(state))
        draft.replace(path)

    def restore(self, path):
        state = json.loads(pathlib.Path(path).read_text())
        self.feed = Feed(RULES)
        self.feed.restore(state["feed"])
        self.shares, self.ordered = np.asarray(state["shares"]), np.asarray(state["ordered"])
        self.cash, self.seen, self.killed = state["cash"], state["seen"], state["killed"]
        self.told_fills = [Fill(*fill) for fill in state["told_fills"]]


def records(n_bars, start=1_700_000_040, seed=0):
    """Minute bars of two assets."""
    close = 50.0 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 1e-3, (n_bars, 2)), axis=0))
    return [
        {"time": start + 60 * number, "bars": {
            symbol: {"open": price, "high": price * 1.001, "low": price * 0.999, "close": price, "volume": 1e6}
            for symbol, price in zip(SYMBOLS, row.tolist(), strict=True)
        }}
        for number, row in enumerate(close)
    ]  # fmt: skip


class RealBroker:
    """A real account that lives on while traders are killed; an id that is sent twice is counted."""

    name, keeps_account = "real", False

    def __init__(self, path=None):
        self.shares, self.known, self.twice = dict.fromkeys(SYMBOLS, 0.0), {}, []
        self.orders_seen, self.cancelled = [], []
        self.fraction, self.reject, self.down = 1.0, False, 0

    def _answer(self):
        if self.down:
            self.down -= 1
            raise BrokerError("no route")

    def positions(self):
        self._answer()
        return Positions(dict(self.shares), CASH)

    def submit(self, order):
        self._answer()
        if order.client_id in self.known:
            self.twice.append(order.client_id)
            return self.known[order.client_id]
        self.orders_seen.append(order)
        filled = 0.0 if self.reject else order.quantity * self.fraction
        self.shares[order.symbol] += filled
        state = "rejected" if self.reject else "filled" if self.fraction == 1.0 else "partly"
        price = 0.0 if self.reject else order.price * (1.01 if filled > 0 else 0.99)
        reason = "no money" if self.reject else ""
        self.known[order.client_id] = Status(state, filled, reason, price, 0.1 * abs(filled))
        return self.known[order.client_id]

    def orders(self, orders):
        self._answer()
        return {order.client_id: self.known.get(order.client_id, Status("unknown")) for order in orders}

    def cancel(self, order):
        self._answer()
        client_id = order.client_id
        self.cancelled.append(client_id)
        self.known[client_id] = dataclasses.replace(self.known[client_id], state="cancelled")


HOSTILE = [
    None, 1, "x", [], {}, {"time": None, "bars": {}}, {"time": 10**400, "bars": {}}, {"time": float("nan"), "bars": {}},
    {"time": 1e300, "bars": {}}, {"time": -1e300, "bars": {}}, {"time": "now", "bars": {}}, {"time": True, "bars": {}},
    {"time": 4e9, "bars": {}}, {"time": [1], "bars": {}}, {"time": 1_700_000_040, "bars": []},
    {"bars": {"AAA": {"close": 1.0}}}, {"time": 0, "bars": {"AAA": {"close": 1e300}}},
]  # fmt: skip
VALUES = (float("nan"), float("inf"), -1.0, 0.0, 1e300, -1e300, 10**400, "x", None, [], {}, True, "1e999")


def hostile_records(n, draws, start=1_700_000_040):
    """Records of which something is wrong, in every place."""
    found = list(HOSTILE)
    for record in records(n, start):
        bars = {symbol: dict(bar) for symbol, bar in record["bars"].items()}
        for symbol in bars:
            bars[symbol][("open", "high", "low", "close", "volume")[draws.integers(5)]] = VALUES[
                draws.integers(len(VALUES))
            ]
        found.append({"time": record["time"] + float(draws.choice([0, -1e6, 1e7, 1e9])), "bars": bars})
    return found
