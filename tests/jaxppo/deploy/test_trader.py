"""A trader: every order once, whenever it is killed; positions reconcile; nothing hostile orders or raises."""

import contextlib
import dataclasses
import json
import os
import pathlib

import numpy as np
import pytest
from cheap_policy import CASH, CheapPolicy, RealBroker, hostile_records, records

from jaxppo.deploy.brokers import BrokerError, SimulatedBroker, Status
from jaxppo.deploy.drift.fills import Fill
from jaxppo.deploy.log import Log
from jaxppo.deploy.trader import KILL, Trader, follow
from jaxppo.errors import ConfigError

BARS, N_KILLED = records(12), 5


def paper(folder, **options):
    folder.mkdir(exist_ok=True)
    return Trader(CheapPolicy(), folder, SimulatedBroker(folder / "paper.jsonl"), send=True, **options)


def close(trader):
    trader.close()
    if isinstance(trader.broker, SimulatedBroker):
        trader.broker.close()


def run(trader, feed=BARS):
    decisions = list(follow(trader, feed))
    close(trader)
    return decisions


def orders_of(path):
    lines = [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]
    return [(line["client_id"], line["quantity"]) for line in lines if line["kind"] == "order"]


def expected_orders(tmp_path, feed=BARS):
    run(paper(tmp_path / "whole"), feed)
    return orders_of(tmp_path / "whole" / "paper.jsonl")


def test_paper_orders_fill_at_the_next_bar_and_positions_are_their_sum(tmp_path):
    trader = paper(tmp_path / "a")
    decisions = run(trader)
    assert len(decisions) == len(BARS)
    ordered = sum(d.values["ordered"] for d in decisions[:-1])
    np.testing.assert_allclose([trader.broker.fills[s] for s in ("AAA", "BBB")], ordered)
    held = trader.broker.positions()
    assert held.shares == {s: x for s, x in trader.broker.fills.items() if x}
    price = decisions[-1].price
    assert held.cash + sum(held.shares.get(s, 0.0) * p for s, p in zip(("AAA", "BBB"), price, strict=True)) == (
        pytest.approx(decisions[-1].equity)
    )


def test_a_dry_run_sends_nothing_and_writes_down_what_it_would_order(tmp_path):
    broker = RealBroker()
    trader = Trader(CheapPolicy(), tmp_path, broker)
    run(trader)
    assert broker.orders_seen == []
    states = [json.loads(x).get("state") for x in (tmp_path / "orders.jsonl").read_text().splitlines()]
    assert states.count("dry") > 10


def test_a_restart_goes_on_at_the_next_bar(tmp_path):
    whole = expected_orders(tmp_path)
    run(paper(tmp_path / "a"), BARS[:5])
    decisions = run(paper(tmp_path / "a"))
    assert len(decisions) == len(BARS) - 5
    assert orders_of(tmp_path / "a" / "paper.jsonl") == whole


class Killed(BaseException):
    """The process ends here."""


class Instants:
    """Ends the process at the n-th thing that it does to a disk; of a write half arrives."""

    def __init__(self, monkeypatch, number):
        self.left, self.dead = number, False
        for name in ("write", "fsync", "replace"):
            monkeypatch.setattr(os, name, self.watched(getattr(os, name), name))

    def watched(self, real, name):
        def call(*arguments, **options):
            if self.dead:
                raise Killed
            self.left -= 1
            if self.left == 0:
                self.dead = True
                if name == "write":
                    real(arguments[0], arguments[1][: len(arguments[1]) // 2])
                raise Killed
            return real(*arguments, **options)

        return call


def killed_once(folder, number):
    """Trades until the process ends at an instant; False where there are not so many."""
    with pytest.MonkeyPatch.context() as patch:
        folder.mkdir(exist_ok=True)
        broker, trader = SimulatedBroker(folder / "paper.jsonl"), None
        instants = Instants(patch, number)
        try:
            trader = Trader(CheapPolicy(), folder, broker, send=True)
            list(follow(trader, BARS[:N_KILLED]))
        except Killed:
            pass
        if trader is not None:
            trader.close()
        broker.close()
        return instants.dead


def test_no_order_is_lost_or_doubled_whenever_it_is_killed(tmp_path):
    """At every single write, at each of which half of it may arrive."""
    whole, number = expected_orders(tmp_path, BARS[:N_KILLED]), 1
    while killed_once(tmp_path / f"kill {number}", number):
        trader = paper(tmp_path / f"kill {number}")
        run(trader, BARS[:N_KILLED])
        assert orders_of(tmp_path / f"kill {number}" / "paper.jsonl") == whole, number
        assert trader.broker.positions().shares == {s: x for s, x in trader.broker.fills.items() if x}, number
        number += 1
    assert number > 50


def test_killed_again_and_again(tmp_path):
    whole, draws = expected_orders(tmp_path, BARS[:N_KILLED]), np.random.default_rng(1)
    for _ in range(20):
        killed_once(tmp_path / "a", int(draws.integers(3, 30)))
    run(paper(tmp_path / "a"), BARS[:N_KILLED])
    assert orders_of(tmp_path / "a" / "paper.jsonl") == whole


class Dying(RealBroker):
    """Ends the process before or after the n-th order has arrived."""

    def __init__(self, number, after):
        super().__init__()
        self.left, self.after = number, after

    def submit(self, order):
        self.left -= 1
        if self.left == 0 and not self.after:
            raise Killed
        answer = super().submit(order)
        if self.left == 0:
            raise Killed
        return answer


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("number", range(1, 8))
def test_a_real_broker_is_asked_before_anything_is_sent_again(tmp_path, number, after):
    broker = Dying(number, after)
    trader = Trader(CheapPolicy(), tmp_path, broker, send=True)
    with pytest.raises(Killed):
        list(follow(trader, BARS))
    trader.close()
    run(Trader(CheapPolicy(), tmp_path, broker, send=True))
    ids = [order.client_id for order in broker.orders_seen]
    assert len(ids) == len(set(ids))
    assert broker.twice == []
    plain = RealBroker()
    run(Trader(CheapPolicy(), tmp_path / "plain", plain, send=True))
    assert [o.client_id for o in plain.orders_seen] == ids
    assert plain.shares == broker.shares


def test_an_order_that_is_too_old_after_a_restart_is_not_sent(tmp_path):
    broker, now = Dying(1, after=False), BARS[0]["time"] + 61.0
    trader = Trader(CheapPolicy(), tmp_path, broker, send=True, now=lambda: now)
    with pytest.raises(Killed):
        trader.take(BARS[0])
    trader.close()
    trader = Trader(CheapPolicy(), tmp_path, broker, send=True, now=lambda: now + 600)
    assert broker.orders_seen == []
    assert [w.state for w in trader.books.orders.values()] == ["expired"] * len(trader.books.orders)
    trader.close()


def test_a_broker_that_is_away_for_a_moment_gets_every_order_once(tmp_path):
    broker = RealBroker()
    trader = Trader(CheapPolicy(), tmp_path, broker, send=True, pause=0.0)
    for number, record in enumerate(BARS):
        broker.down = number % 3
        trader.take(record)
    close(trader)
    ids = [order.client_id for order in broker.orders_seen]
    assert len(ids) == len(set(ids)) > 10


def test_nothing_is_decided_while_a_broker_is_away(tmp_path):
    broker = RealBroker()
    broker.down = 99
    trader = Trader(CheapPolicy(), tmp_path, broker, send=True, pause=0.0)
    with pytest.raises(BrokerError, match="no route"):
        trader.take(BARS[0])
    close(trader)


def test_what_is_left_of_an_order_is_taken_back_before_the_next_decision(tmp_path):
    broker = RealBroker()
    broker.fraction = 0.5
    trader = Trader(CheapPolicy(), tmp_path, broker, send=True)
    first = trader.take(BARS[0])
    second = trader.take(BARS[1])
    assert len(broker.cancelled) == 2
    np.testing.assert_allclose(second.shares, 0.5 * first.values["ordered"])
    assert not [what for _, what in trader.books.events]
    close(trader)


def test_what_cannot_be_taken_back_is_on_order(tmp_path):
    class Slow(RealBroker):
        def cancel(self, order):
            self.cancelled.append(order.client_id)

    broker, told = Slow(), []
    broker.fraction = 0.5
    trader = Trader(CheapPolicy(), tmp_path, broker, send=True)
    step = trader.policy.step
    trader.policy.step = lambda record, held, **options: told.append(held) or step(record, held, **options)
    for record in BARS[:2]:
        trader.take(record)
    assert told[0].on_order == {}
    assert told[1].on_order == {"AAA": 5.0, "BBB": -2.5}
    close(trader)


def test_every_fill_is_told_once_with_what_it_cost_however_often_it_is_killed(tmp_path):
    """Of an order that fills in parts, what is new since the bar before."""
    broker, filled = Dying(0, after=True), {"AAA": 0.0, "BBB": 0.0}
    for number in range(30):
        broker.left = 1 + number % 4
        trader = Trader(CheapPolicy(), tmp_path, broker, send=True)
        with contextlib.suppress(Killed):
            list(follow(trader, BARS))
        trader.close()
    told = trader.policy.told_fills
    for fill in told:
        filled[fill.symbol] += fill.quantity
    last = {written.order.symbol: written.filled for written in trader.books.orders.values()}
    assert {s: x + last.get(s, 0.0) for s, x in filled.items()} == pytest.approx(broker.shares)
    assert len(told) > 15
    prices = {(bar["time"], symbol): bar["bars"][symbol]["close"] for bar in BARS for symbol in bar["bars"]}
    assert all(fill.fee == pytest.approx(0.1 * abs(fill.quantity)) for fill in told)
    wanted = {(s, p * (1.01 if up else 0.99)) for (_, s), p in prices.items() for up in (True, False)}
    assert all(any(fill.symbol == s and fill.price == pytest.approx(p) for s, p in wanted) for fill in told)


def test_an_order_that_fills_in_parts_tells_each_part_at_its_price(tmp_path):
    class Slow(RealBroker):
        def cancel(self, order):
            pass

    broker = Slow()
    broker.fraction = 0.5
    trader = Trader(CheapPolicy(), tmp_path, broker, send=True)
    trader.take(BARS[0])
    first = broker.orders_seen[0]
    trader.take(BARS[1])
    broker.known[first.client_id] = Status("filled", first.quantity, price=first.price * 1.02, fee=1.5)
    trader.take(BARS[2])
    half = first.quantity / 2
    parts = [fill for fill in trader.policy.told_fills if fill.symbol == first.symbol][:2]
    assert parts[0] == Fill(first.symbol, half, pytest.approx(first.price * 1.01), pytest.approx(0.1 * half))
    assert parts[1] == Fill(first.symbol, half, pytest.approx(first.price * 1.03), pytest.approx(1.5 - 0.1 * half))
    close(trader)


def test_a_fill_of_which_no_price_is_known_is_not_told(tmp_path):
    broker = RealBroker()
    trader = Trader(CheapPolicy(), tmp_path, broker, send=True)
    trader.take(BARS[0])
    for name, price in zip(list(broker.known), (0.0, float("nan")), strict=True):
        trader.books.answered(name, dataclasses.replace(broker.known[name], price=price))
    trader.take(BARS[1])
    assert trader.policy.told_fills == []
    close(trader)


def test_rejections_are_written_down_and_not_repeated(tmp_path):
    broker = RealBroker()
    broker.reject = True
    trader = Trader(CheapPolicy(), tmp_path, broker, send=True)
    trader.take(BARS[0])
    assert {(w.state, w.reason) for w in trader.books.orders.values()} == {("rejected", "no money")}
    trader.take(None)
    assert len(broker.orders_seen) == 2
    assert broker.shares == {"AAA": 0.0, "BBB": 0.0}
    close(trader)


def test_positions_that_orders_do_not_explain_are_named_and_the_brokers_count_is_used(tmp_path):
    broker = RealBroker()
    trader = Trader(CheapPolicy(), tmp_path, broker, send=True)
    trader.take(BARS[0])
    broker.shares["AAA"] += 7
    second = trader.take(BARS[1])
    assert second.shares[0] == broker.known[trader.books.closed[0].order.client_id].filled + 7
    assert "AAA: the broker has 17, orders explain 10" in trader.books.events[-1][1]
    close(trader)


def test_the_kill_switch_closes_everything(tmp_path):
    trader = paper(tmp_path)
    for record in BARS[:4]:
        trader.take(record)
    (tmp_path / KILL).touch()
    for record in BARS[4:6]:
        decision = trader.take(record)
    np.testing.assert_array_equal(decision.shares, 0.0)
    np.testing.assert_array_equal(decision.values["ordered"], 0.0)
    close(trader)


def test_a_folder_belongs_to_one_policy_one_account_and_one_process(tmp_path):
    trader = Trader(CheapPolicy(), tmp_path)
    with pytest.raises(ConfigError, match="another process"):
        Trader(CheapPolicy(), tmp_path)
    close(trader)
    with pytest.raises(ConfigError, match="another policy"):
        Trader(CheapPolicy("other"), tmp_path)
    with pytest.raises(ConfigError, match="of the account none, dry"):
        paper(tmp_path)


def test_a_changed_log_is_refused_and_half_a_line_is_cut_off(tmp_path):
    log = Log(tmp_path / "log")
    for number in range(3):
        log.append("x", number=number)
    log.close()
    whole = (tmp_path / "log").read_bytes()
    (tmp_path / "log").write_bytes(whole + b'{"kind": "x", "numb')
    assert [entry["number"] for entry in Log(tmp_path / "log").entries] == [0, 1, 2]
    lines = whole.splitlines(keepends=True)
    for changed in (whole.replace(b'"number": 1', b'"number": 7'), lines[0] + lines[2], lines[1] + lines[0]):
        (tmp_path / "other").write_bytes(changed)
        with pytest.raises(ConfigError, match="damaged"):
            Log(tmp_path / "other")


def test_hostile_records_raise_nothing_and_order_nothing(tmp_path):
    broker, now = RealBroker(), 1_800_000_000.0
    trader = Trader(CheapPolicy(), tmp_path, broker, send=True, now=lambda: now)
    for record in hostile_records(300, np.random.default_rng(0)):
        trader.take(record)
    assert broker.orders_seen == []
    assert trader.refused > 50
    close(trader)


def test_a_flood_of_old_bars_orders_nothing(tmp_path):
    broker = RealBroker()
    trader = Trader(CheapPolicy(), tmp_path, broker, send=True, now=lambda: 1_800_000_000.0)
    for record in records(10_000):
        trader.take(record)
    assert broker.orders_seen == []
    assert broker.positions().cash == CASH
    close(trader)
