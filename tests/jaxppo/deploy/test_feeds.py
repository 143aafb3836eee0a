"""Feeds: what is complete, what is refused, and that nothing raises."""

import dataclasses
import io
import json
import threading

import numpy as np
import pytest
from cheap_policy import RULES

from jaxppo.deploy.bars.named import named_source
from jaxppo.deploy.feed import Feed
from jaxppo.deploy.trading.feeds import LONGEST_LINE, BadRecord, csv_tail, json_lines, json_record, json_stream
from jaxppo.errors import ConfigError, DataError

HEADER = "time,symbol,open,high,low,close,volume\n"


def row(minute, symbol, close="1.5"):
    return f"2026-01-05T14:{minute:02d}:00Z,{symbol},1,2,1,{close},10\n"


def told(feed):
    return [record for record in feed if record is not None]


def test_a_time_is_complete_once_a_later_one_appears(tmp_path):
    path = tmp_path / "prices.csv"
    path.write_text(HEADER + row(1, "AAA") + row(1, "BBB") + row(2, "AAA"))
    feed = csv_tail(path)
    assert sorted(next(feed)["bars"]) == ["AAA", "BBB"]
    assert next(feed) is None
    with open(path, "a") as file:
        file.write(row(2, "BBB") + row(3, "AAA")[:10])
    assert next(feed) is None  # half a line says nothing
    with open(path, "a") as file:
        file.write(row(3, "AAA")[10:])
    found = next(feed)
    assert found["time"] == "2026-01-05T14:02:00Z"
    assert sorted(found["bars"]) == ["AAA", "BBB"]


def test_the_last_time_is_complete_after_a_while_or_at_the_end(tmp_path):
    path = tmp_path / "prices.csv"
    path.write_text(HEADER + row(1, "AAA"))
    assert [sorted(one["bars"]) for one in told(csv_tail(path, follow=False))] == [["AAA"]]
    feed = csv_tail(path, quiet=0.0)
    assert next(one for one in feed if one)["bars"]["AAA"]["close"] == "1.5"


def test_a_file_that_goes_symbol_by_symbol_is_put_in_order(tmp_path):
    path = tmp_path / "prices.csv"
    path.write_text(HEADER + "".join(row(m, s) for s in ("AAA", "BBB") for m in (1, 2, 3)))
    found = told(csv_tail(path, follow=False))
    assert [sorted(one["bars"]) for one in found] == [["AAA", "BBB"]] * 3


def test_lines_that_are_none_are_refused_and_the_rest_is_read(tmp_path):
    path = tmp_path / "prices.csv"
    bad = ["never,AAA,1,2,1,1,1\n", "1,2\n", '"open quote\n', row(1, "AAA"), "\x00\xff\n", "x" * 2_000_000 + "\n"]
    path.write_text(HEADER + row(1, "AAA") + "".join(bad) + row(2, "AAA"), encoding="latin-1")
    found = told(csv_tail(path, follow=False))
    assert sum(isinstance(one, BadRecord) for one in found) == len(bad)
    assert [one["time"][11:16] for one in found if isinstance(one, dict)] == ["14:01", "14:02"]


def test_a_file_that_cannot_be_a_feed_is_a_mistake(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        next(csv_tail(tmp_path / "none.csv"))
    (tmp_path / "prices.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no column time"):
        next(csv_tail(tmp_path / "prices.csv"))


def test_a_feed_without_the_funding_that_a_policy_pays_is_refused(tmp_path):
    (tmp_path / "prices.csv").write_text(
        HEADER.replace("volume", "volume,Rate") + row(0, "AAA").replace("\n", ",0.001\n")
    )
    assert len(told(csv_tail(tmp_path / "prices.csv", follow=False, funding="Rate"))) == 1
    with pytest.raises(DataError, match="no column premium, the funding that the policy pays"):
        next(csv_tail(tmp_path / "prices.csv", funding="premium"))
    with pytest.raises(ConfigError, match="whose bars have no funding; the policy pays 'Rate'"):
        named_source("ccxt:binance", dataclasses.replace(RULES, funding="Rate"))


def test_funding_is_paid_in_its_bar_alone():
    feed = Feed(dataclasses.replace(RULES, optional=("funding",), funding="Rate"))
    bar = {"close": 10.0, "volume": 1.0}
    cells = ({"Rate": 1e-4}, {}, {"rate": -1e-4}, {"Rate": 0.5})
    read = [feed.read({"time": 60 * place, "bars": {"AAA": bar | cell}}) for place, cell in enumerate(cells, start=1)]
    assert [one.fields["funding"].tolist() for one in read] == [[1e-4, 0.0], [0.0, 0.0], [-1e-4, 0.0], [0.0, 0.0]]
    assert read[-1].refused == {"AAA": "carry is 0 a year, funding 0.5"}


def test_hostile_lines_are_refused():
    draws = np.random.default_rng(0)
    lines = ["[" * 100_000, "{", "NaN", '"x"', "[1]", "9" * 10_000, "x" * (LONGEST_LINE + 1), "\ud800", '{"a": 1e999']
    good = json.dumps({"time": 0, "bars": {"AAA": {"close": 1.0}}})
    for _ in range(500):
        letters = list(good)
        letters[draws.integers(len(letters))] = chr(draws.integers(0, 0x300))
        lines.append("".join(letters[: draws.integers(1, len(letters))]))
    assert all(isinstance(one, BadRecord | dict) or one is None for one in json_lines(lines))
    assert sum(isinstance(json_record(line), BadRecord) for line in lines[:9]) == 9


def test_a_stream_never_holds_up_its_reader():
    class Slow(io.StringIO):
        def readline(self, size=-1):
            waiting.wait(timeout=10)
            return super().readline(size)

    waiting = threading.Event()
    feed = json_stream(Slow('{"time": 1, "bars": {}}\nno\n'))
    assert next(feed) is None
    waiting.set()
    assert [type(one) for one in told(feed)] == [dict, BadRecord]


def test_a_websocket_is_a_feed_and_connects_again():
    pytest.importorskip("websockets", reason="needs the extra websocket")
    from websockets.sync.server import serve

    from jaxppo.deploy.trading.feeds import websocket_feed

    def talk(connection):
        connection.send('{"time": 1, "bars": {}}')
        connection.send("no")

    with serve(talk, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        feed = websocket_feed(f"ws://127.0.0.1:{server.socket.getsockname()[1]}")
        found = []
        while sum(isinstance(one, dict) for one in found) < 2:
            found.append(next(feed))
        assert any(isinstance(one, BadRecord) and "connecting again" in one.reason for one in found)
        server.shutdown()
    with pytest.raises(DataError, match="no address"):
        next(websocket_feed("ws://"))
