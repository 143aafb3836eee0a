"""A policy that trades bar by bar decides as the backtest does, goes on after restarts, and takes no bad bar."""

import dataclasses
import json
import math

import numpy as np
import pytest
from shipped_run import SYMBOLS

from jaxppo.backtest import conditions_of, load_run, simulate
from jaxppo.backtest.shipping import decided, shipped_of
from jaxppo.deploy import Positions, live_policy
from jaxppo.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def policy(folder):
    """One for all tests, so that its step is compiled once."""
    return live_policy(folder)


@pytest.fixture(autouse=True)
def fresh(policy):
    policy.reset()
    policy._killed = False
    policy.journal = None


@pytest.fixture(scope="module")
def ledger(folder):
    """Of the backtest from the earliest decision on."""
    run = load_run(folder)
    return simulate(
        shipped_of(decided(run)), run.setup.market, conditions=conditions_of(run), first=first_of(run)
    ).ledger


def first_of(run):
    return run.setup.env.first_decision


@pytest.fixture(scope="module")
def first(folder):
    return first_of(load_run(folder))


def fed(policy, records):
    return [policy.step(record) for record in records]


def test_it_decides_as_the_backtest_on_every_bar_restarted_five_times(policy, records, ledger, first, tmp_path):
    restarts = {first, 60, 61, 150, 300}
    for bar, record in enumerate(records[:-1]):
        if bar in restarts:
            policy.save(tmp_path / "state")
            policy.reset()
            policy.restore(tmp_path / "state")
        decision = policy.step(record)
        assert decision.status == ("decided" if bar >= first else "warming up")
        if bar < first:
            assert decision.orders.empty
            continue
        place = bar - first
        np.testing.assert_allclose(decision.values["ordered"], ledger.ordered[place], rtol=1e-5, atol=1e-3)
        assert decision.equity == pytest.approx(float(ledger.equity[place]), rel=1e-6)
    assert np.abs(ledger.ordered).sum() > 0


def test_every_mask_and_the_sizing_is_named_where_it_changed_a_decision(policy, records):
    said = {reason for decision in fed(policy, records[:200]) for n in range(2) for reason in decision.reasons(n)}
    assert {"sized by own_parts.shrunk, volatility_target", "limited by turnover", "limited by volatility_cap"} <= said
    assert "limited by own_parts.calm_only" in said
    assert "cut to whole lots, or too small" in said


def test_time_and_memory_of_a_bar_do_not_grow(policy, records):
    fed(policy, records[:5])
    before = [x.shape for x in policy._state]
    fed(policy, records[5:200])
    assert [x.shape for x in policy._state] == before
    assert len(json.dumps(policy.feed.state())) < 50_000


def test_orders_are_those_of_the_real_account(policy, records):
    for record in records[:100]:
        policy.step(record)
    held = Positions({"AAA": 3000.0}, 5e5)
    decision = policy.step(records[100], held)
    price = decision.price
    equity = 5e5 + 3000.0 * price[0]
    assert decision.equity == pytest.approx(equity, rel=1e-6)
    np.testing.assert_allclose(decision.values["weights"], [3000.0 * price[0] / equity, 0.0], rtol=1e-5)
    after = np.asarray([3000.0, 0.0]) + decision.values["ordered"]
    target = decision.values["targets"] * equity / price
    np.testing.assert_allclose(after, target, atol=1.0 + 1e-3, rtol=1e-5)  # whole shares
    assert np.all(decision.values["ordered"] == np.round(decision.values["ordered"]))


def test_positions_in_what_the_policy_does_not_know_are_refused(policy, records):
    with pytest.raises(DataError, match="ZZZ is none of AAA, BBB"):
        policy.step(records[0], Positions({"ZZZ": 1.0}, 1e5))
    assert policy.feed.time is None


def test_the_kill_switch_closes_everything_for_good(policy, records, tmp_path):
    fed(policy, records[:120])
    policy.kill()
    told = policy.step(records[120])
    assert bool(told.values["stopped"])
    policy.save(tmp_path / "state")
    policy.reset()
    policy.restore(tmp_path / "state")
    later = fed(policy, records[121:140])
    assert all(bool(decision.values["stopped"]) for decision in later)
    np.testing.assert_array_equal(later[-1].shares, 0.0)
    assert later[-1].orders.empty


def test_a_state_that_was_changed_or_is_of_another_policy_is_refused(policy, records, tmp_path):
    fed(policy, records[:30])
    path = policy.save(tmp_path / "state")
    content = path.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(content), 60):
        changed = bytearray(content)
        changed[place] ^= 1 << int(place % 8)
        path.write_bytes(bytes(changed))
        with pytest.raises(ConfigError):
            policy.restore(path)
    path.write_bytes(content[:100])
    with pytest.raises(ConfigError, match="damaged"):
        policy.restore(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        policy.restore(tmp_path / "nothing")
    path.write_bytes(content)
    policy.restore(path)


def bar(**changes):
    return {"open": 50.0, "high": 51.0, "low": 49.0, "close": 50.5, "volume": 1e6, **changes}


RECORDS = {
    "nothing": None,
    "text": "AAPL 50",
    "a list": [1, 2],
    "no time": {"bars": {"AAA": bar()}},
    "a time that is none": {"time": "yesterday", "bars": {}},
    "a time that is infinite": {"time": math.inf, "bars": {}},
    "a time beyond all": {"time": 1e300, "bars": {}},
    "a time of the year 9999": {"time": "9999-12-31", "bars": {}},
    "no bars": {"time": "2030-01-01"},
    "bars as a list": {"time": "2030-01-01", "bars": [bar()]},
}
BARS = {
    "no mapping": 5,
    "no close": {"open": 1.0},
    "not a number": bar(close=math.nan),
    "infinite": bar(high=math.inf),
    "a text": bar(close="fifty"),
    "a whole number without end": bar(close=10**400),
    "true": bar(close=True),
    "negative": bar(low=-1.0),
    "zero": bar(low=0.0),
    "huge": bar(high=1e300),
    "high below low": bar(high=40.0),
    "close above high": bar(close=60.0),
    "a unit error": bar(high=5000.0),
    "a jump": bar(open=5000.0, high=5100.0, low=4900.0, close=5050.0),
    "half, as after a split": bar(open=25.0, high=25.1, low=24.9, close=25.0),
    "negative volume": bar(volume=-1.0),
    "infinite volume": bar(volume=math.inf),
    "crossed quotes": bar(bid=51.0, ask=50.0),
}


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_a_record_that_cannot_be_used_changes_nothing(policy, records, record):
    fed(policy, records[:3])
    before = [np.asarray(x) for x in policy._state], json.dumps(policy.feed.state())
    decision = policy.step(record)
    assert decision.status == "refused"
    assert decision.orders.empty
    assert decision.notes
    assert json.dumps(policy.feed.state()) == before[1]
    for old, new in zip(before[0], policy._state, strict=True):
        np.testing.assert_array_equal(old, np.asarray(new))


def test_a_record_of_a_time_that_no_calendar_covers_changes_nothing(policy, records, monkeypatch):
    keys = {"calendar": "XSHG", "open_minutes": 0.0, "close_minutes": 0.0, "flat_minutes": None}
    monkeypatch.setattr(policy, "rules", dataclasses.replace(policy.rules, sessions={"0": keys}))
    decision = policy.step({**records[0], "time": "2199-01-05"})
    assert decision.status == "refused"
    assert policy.feed.time is None


def test_a_bar_that_comes_again_or_too_late_is_refused(policy, records):
    fed(policy, records[:3])
    assert "was read before" in policy.step(records[2]).notes[0]
    assert "out of order" in policy.step(records[0]).notes[0]
    assert "days after the last one" in policy.step({**records[3], "time": "2031-01-01"}).notes[0]
    assert policy.step(records[3]).status == "warming up"


@pytest.mark.parametrize("wrong", BARS.values(), ids=BARS)
def test_a_bar_that_cannot_be_right_counts_as_none(policy, records, wrong):
    fed(policy, records[:90])
    close = policy.feed.close[1]
    scale = close / 50.5
    if isinstance(wrong, dict):  # around the last close
        wrong = {k: v * scale if isinstance(v, float) and k not in ("volume",) else v for k, v in wrong.items()}
    decision = policy.step({"time": records[90]["time"], "bars": {**records[90]["bars"], "BBB": wrong}})
    assert decision.status == "decided"
    assert any(note.startswith("BBB: no bar: ") for note in decision.notes), decision.notes
    assert not decision.values["tradable"][1]
    assert decision.values["ordered"][1] == 0.0
    assert decision.price[1] == close
    assert all(np.all(np.isfinite(value)) for value in decision.values.values())


def test_what_is_missing_is_no_fault(policy, records):
    fed(policy, records[:90])
    bars = {
        name: {**bar, "volume": math.nan, "bid": math.nan, "ask": None} for name, bar in records[90]["bars"].items()
    }
    decision = policy.step({"time": records[90]["time"], "bars": bars})
    assert not decision.notes
    assert not decision.values["tradable"].any()  # nobody traded
    np.testing.assert_allclose(decision.price, [bar["close"] for bar in bars.values()])


def test_no_bar_at_all_is_a_bar_without_trading(policy, records):
    fed(policy, records[:90])
    decision = policy.step({"time": records[90]["time"], "bars": {}})
    assert decision.orders.empty
    assert not decision.values["tradable"].any()


def test_fuzz_of_records_raises_nothing(policy, records):
    draws = np.random.default_rng(1)
    odd = [None, True, math.nan, -math.inf, 1e300, -1e300, 0, "", "x", [], {}, 10**30, 1e-30, "1e9", b"a"]
    fed(policy, records[:90])
    for number in range(150):
        record = json.loads(json.dumps(records[90 + number % 5]))
        for _ in range(int(draws.integers(1, 4))):
            where = draws.integers(4)
            value = odd[draws.integers(len(odd))]
            if where == 0:
                record["time"] = value
            elif where == 1:
                record["bars"] = value
            elif isinstance(record.get("bars"), dict):
                symbol = str(draws.choice([*SYMBOLS, "ZZZ"]))
                if where == 2:
                    record["bars"][symbol] = value
                elif isinstance(record["bars"].get(symbol), dict):
                    record["bars"][symbol][str(draws.choice(["open", "high", "low", "close", "volume", "bid"]))] = value
        decision = policy.step(record)
        assert np.all(np.isfinite(decision.values["ordered"]))
        json.dumps(decision.as_dict(), allow_nan=False)


def test_a_bar_is_traded_on_only_while_it_is_new(policy, records):
    fed(policy, records[:90])
    time = np.datetime64(records[90]["time"], "s").astype(np.int64)
    day = policy.rules.feed.bar_seconds
    decision = policy.step(records[90], now=float(time) + 5 * day)
    assert decision.status == "stale"
    assert decision.orders.empty
    time = np.datetime64(records[91]["time"], "s").astype(np.int64)
    assert policy.step(records[91], now=float(time) - 3600.0).status == "refused"
    assert policy.step(records[91], now=float(time) + day + 60.0).status == "decided"


def test_a_flood_of_old_bars_orders_nothing(policy, records):
    now = float(np.datetime64("2030-01-01", "s").astype(np.int64))
    assert all(policy.step(record, now=now).orders.empty for record in records[:200])


def test_every_decision_is_a_line_of_json(policy, records, tmp_path):
    policy.journal = tmp_path / "journal.jsonl"
    fed(policy, [*records[:90], None])
    lines = [json.loads(line) for line in policy.journal.read_text().splitlines()]
    assert len(lines) == 91
    assert [line["status"] for line in lines[-2:]] == ["decided", "refused"]
    assert {row["symbol"] for row in lines[80]["assets"]} == set(SYMBOLS)
