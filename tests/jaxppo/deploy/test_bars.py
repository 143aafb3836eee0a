"""Bars of exchanges and brokers: closed ones alone, all assets of a time together and in order."""

import dataclasses
import datetime

import numpy as np
import pytest
from cheap_policy import RULES, SYMBOLS, CheapPolicy

from jaxppo.deploy.bars.named import is_source, named_source
from jaxppo.deploy.bars.polled import GIVE_UP, MISSING, QUIET, Poller, SourceError, polled_feed
from jaxppo.deploy.feed import SECOND
from jaxppo.deploy.trader import Trader, follow
from jaxppo.deploy.trading.feeds import BadRecord
from jaxppo.errors import ConfigError

START = 1_700_000_040
BAR = {"open": 50.0, "high": 51.0, "low": 49.0, "close": 50.5, "volume": 1e3}


class Clock:
    """Seconds since the first bar began, which a test sets."""

    def __init__(self):
        self.at = 0.0

    def __call__(self):
        return START + self.at


class Market:
    """Has a bar of every asset from the moment it begins, but for those that come late, in minutes and seconds."""

    name = "market"

    def __init__(self, now):
        self.now, self.late, self.down, self.asked = now, {}, 0, []

    def bars(self, start, end):
        self.asked.append(self.now.at)
        if self.down:
            self.down -= 1
            raise SourceError("market: no route")
        first = -(-(start - START) // 60)
        return {
            START + 60 * minute: {
                symbol: BAR for symbol in SYMBOLS if self.now.at >= 60 * minute + self.late.get((minute, symbol), 0)
            }
            for minute in range(first, (end - 1 - START) // 60 + 1)
        }

    def span(self, n_bars):
        return 60.0 * n_bars


@pytest.fixture
def now():
    return Clock()


@pytest.fixture
def market(now):
    return Market(now)


def lived(poller, now, seconds):
    """Records of a stretch of time, each with the second at which it was handed on."""
    found, end = [], now.at + seconds
    while now.at < end:
        told, pause = poller.poll()
        found += [(now.at, (one["time"] - START) // 60, sorted(one["bars"])) for one in told if isinstance(one, dict)]
        now.at += pause
    return found


def test_bars_are_handed_on_once_they_have_closed(market, now):
    poller = Poller(market, RULES, since=(START - 60) * SECOND, now=now)
    found = lived(poller, now, 300)
    assert [minute for _, minute, _ in found] == [0, 1, 2, 3]
    assert all(60 * (minute + 1) + 1 <= at <= 60 * (minute + 1) + 2 for at, minute, _ in found)
    assert all(symbols == list(SYMBOLS) for _, _, symbols in found)
    assert len(market.asked) <= 8


def test_it_begins_with_the_bars_that_warm_a_policy_up_or_after_the_last_one_that_is_known(market, now):
    now.at = 600.0
    assert [m for _, m, _ in lived(Poller(market, RULES, n_bars=5, now=now), now, 1)] == [4, 5, 6, 7, 8]
    now.at = 600.0
    assert [m for _, m, _ in lived(Poller(market, RULES, since=(START + 360) * SECOND, now=now), now, 1)] == [7, 8]


def test_an_asset_that_is_late_is_waited_for_and_one_that_does_not_come_is_left_out(market, now):
    market.late = {(1, "BBB"): 60 + 5, (2, "AAA"): 1e9}
    found = lived(Poller(market, RULES, since=(START - 60) * SECOND, now=now), now, 300)
    assert [(minute, symbols) for _, minute, symbols in found] == [
        (0, ["AAA", "BBB"]), (1, ["AAA", "BBB"]), (2, ["BBB"]), (3, ["AAA", "BBB"]),
    ]  # fmt: skip
    at = {minute: at for at, minute, _ in found}
    assert 125 <= at[1] <= 125 + MISSING
    assert 180 + QUIET <= at[2] <= 180 + QUIET + MISSING


def test_a_bar_that_comes_after_its_time_was_handed_on_is_left_out(market, now):
    market.late = {(1, "BBB"): 60 + 40}
    found = lived(Poller(market, RULES, since=(START - 60) * SECOND, quiet=3.0, now=now), now, 300)
    assert [minute for _, minute, _ in found] == [0, 1, 2, 3]
    assert found[1][2] == ["AAA"]


def test_a_source_that_is_away_is_asked_less_and_less_often_and_nothing_is_left_out(market, now):
    poller, pauses = Poller(market, RULES, since=(START - 60) * SECOND, now=now), []
    lived(poller, now, 70)
    market.down = 8
    for _ in range(8):
        told, pause = poller.poll()
        assert isinstance(told[0], BadRecord)
        assert f"market: no route; asked again in {pause:g} s" in told[0].reason
        pauses.append(pause)
        now.at += pause
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    assert [minute for _, minute, _ in lived(poller, now, 1)] == [1, 2, 3, 4]
    market.down = 1
    assert poller.poll()[1] == 1


def test_a_source_that_stays_away_ends_the_feed(market, now):
    market.down = 10**6
    poller = Poller(market, RULES, now=now)
    with pytest.raises(SourceError, match="no answer for 15 minutes"):
        lived(poller, now, 2 * GIVE_UP)
    assert GIVE_UP <= now.at < GIVE_UP + 60


def test_quotes_that_a_source_has_not_are_a_mistake(market):
    with pytest.raises(ConfigError, match=r"market: has no quotes, and data\.spread"):
        Poller(market, dataclasses.replace(RULES, spread=("fixed", "quoted")))


def test_volumes_are_in_the_unit_that_the_policy_reads(market, now):
    now.at = 100.0
    told, _ = Poller(market, dataclasses.replace(RULES, notional=True), n_bars=5, now=now).poll()
    assert told[-1]["bars"]["AAA"]["volume"] == BAR["volume"] * BAR["close"]


def test_bars_outside_the_sessions_of_the_calendar_are_left_out():
    class Hours:
        name = "hours"

        def bars(self, start, end):
            first = int(datetime.datetime(2026, 1, 5, 9, tzinfo=datetime.UTC).timestamp())  # 4:00 in New York, a Monday
            return {first + 3600 * hour: dict.fromkeys(SYMBOLS, BAR) for hour in range(16)}

    rules = dataclasses.replace(RULES, calendar="XNYS", bar_seconds=3600.0)
    told, _ = Poller(Hours(), rules, since=0).poll()
    hours = [datetime.datetime.fromtimestamp(one["time"], datetime.UTC).hour for one in told]
    assert hours == [14, 15, 16, 17, 18, 19, 20]


def test_daily_bars_are_of_their_date():
    class Days:
        name = "days"

        def bars(self, start, end):
            return {86_400 * day + 5 * 3600: dict.fromkeys(SYMBOLS, BAR) for day in (20_000, 20_001)}

    now = Clock()
    now.at = 86_400 * 20_002 + 5.0 - START
    rules = dataclasses.replace(RULES, daily=True, bar_seconds=86_400.0)
    poller = Poller(Days(), rules, since=86_400 * 19_999 * SECOND, now=now)
    assert [one["time"] for one in poller.poll()[0]] == [86_400 * 20_000, 86_400 * 20_001]
    assert poller.poll()[0] == []


def test_a_trader_follows_it_and_goes_on_after_the_last_bar_that_it_knows(market, now, tmp_path):
    times = []
    for now.at, n in ((600.0, 5), (900.0, 10)):
        trader = Trader(CheapPolicy(), tmp_path)
        feed = polled_feed(Poller(market, RULES, since=trader.policy.feed.time, n_bars=5, now=now))
        times += [decision.time for decision in follow(trader, feed, lambda t=trader, n=n: t.policy.seen == n)]
        feed.close()
        trader.close()
    assert times == [str(np.datetime64(START + 60 * minute, "s")) for minute in range(4, 14)]


def test_what_ends_a_feed_is_raised_where_it_is_read(market):
    def refuse(start, end):
        raise ConfigError("market: no rights")

    market.bars = refuse
    with pytest.raises(ConfigError, match="no rights"):
        list(polled_feed(Poller(market, RULES)))


@pytest.mark.parametrize("name", ["ccxt", "ccxt:", "alpaca:x", "alpaca"])
def test_a_source_that_there_is_not_is_a_mistake(name, monkeypatch):
    monkeypatch.delenv("APCA_API_KEY_ID", raising=False)
    assert is_source(name)
    with pytest.raises(ConfigError, match="--feed"):
        named_source(name, RULES)


def test_a_file_is_no_source():
    assert not any(is_source(name) for name in ("prices.csv", "ws://x", "-", "./alpaca", "C:/prices.csv"))
