"""Downloads are asked for once and kept; sources that do not answer are said so in a line."""

import http.server
import io
import json
import threading
import urllib.parse

import numpy as np
import pandas as pd
import pytest

from jaxppo.envs import DataError, format_report, load_market
from jaxppo.envs.data.sources import asking, downloads, hugging_face, yahoo
from jaxppo.envs.data.sources.request import request_of
from jaxppo.envs.data.sources.series import Series, finished
from jaxppo.envs.data.sources.timeframes import Timeframe, timeframe_of

NOW = pd.Timestamp("2021-04-09 21:30", tz="UTC")  # in New York, half past five in the afternoon


def bars(symbol, times, zone="UTC", factor=1.0):
    close = factor * (100 + np.arange(len(times)) % 7)
    columns = {"open": close, "high": close + 1, "low": close - 1, "close": close, "volume": 1e6}
    return Series(symbol, pd.DataFrame({"time": times, **columns}), zone)


class Vendor:
    """A stand-in for yfinance that counts how often it is asked."""

    def __init__(self):
        self.requests, self.factor = [], 1.0

    def __call__(self, request):
        self.requests.append(request)
        days = pd.bdate_range(request.start or "2021-01-04", min(request.end or "2021-04-09", "2021-04-09"))
        return [bars(symbol, days, "America/New_York", self.factor) for symbol in request.symbols]


@pytest.fixture
def vendor(monkeypatch, tmp_path):
    found = Vendor()
    monkeypatch.setenv(downloads.CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr(yahoo, "bars_of", found)
    monkeypatch.setattr(downloads, "_now", lambda: NOW)
    return found


def refusal(source, **options):
    with pytest.raises(DataError) as error:
        load_market(source, **options)
    return str(error.value)


def test_a_source_is_asked_once_and_again_on_demand_alone(vendor):
    first = load_market("yfinance:SPY,qqq")
    assert first.info.symbols == ("QQQ", "SPY")
    assert load_market("yfinance:SPY,qqq").info.report["fingerprint"] == first.info.report["fingerprint"]
    assert len(vendor.requests) == 1
    vendor.factor = 2.0
    again = load_market("yfinance:SPY,qqq", refresh=True)
    np.testing.assert_allclose(again.close, 2 * np.asarray(first.close), rtol=1e-6)
    np.testing.assert_array_equal(load_market("yfinance:SPY,qqq").close, again.close)
    assert len(vendor.requests) == 2


def test_a_download_that_is_named_by_its_hash_stays_the_same(vendor, tmp_path):
    first = load_market("yfinance:SPY")
    record = first.info.report["downloads"][0]
    vendor.factor = 2.0
    load_market("yfinance:SPY", refresh=True)
    for digits in (8, 16, 64):
        same = load_market(f"yfinance:SPY#{record['sha256'][:digits]}")
        np.testing.assert_array_equal(same.close, first.close)
    next(tmp_path.glob(f"cache/prices/*/{record['sha256'][:16]}.parquet")).unlink()
    assert "are no longer in" in refusal(f"yfinance:SPY#{record['sha256'][:12]}")
    assert len(vendor.requests) == 2, "nobody is asked for prices that are gone"


def test_the_report_names_source_symbols_period_and_adjustment(vendor):
    market = load_market("yfinance:SPY", start="2021-02-01", end="2021-03-31")
    report = market.info.report
    line = next(line for line in format_report(report).split("\n") if "downloaded" in line)
    assert "yfinance:SPY: bars of 1d, 2021-02-01 to 2021-03-31; prices adjusted for splits" in line
    record = report["downloads"][0]
    assert (record["symbols"], record["rows"], report["first"]) == (["SPY"], 43, "2021-02-01")
    assert (vendor.requests[0].start, vendor.requests[0].end) == ("2021-02-01", "2021-03-31")


def test_the_day_that_is_not_over_is_left_out(vendor):
    assert load_market("yfinance:SPY").info.report["last"] == "2021-04-08"


@pytest.mark.parametrize(
    ("length", "starts", "zone", "kept"),
    [
        (Timeframe(1, "h"), ["2021-04-09 19:30", "2021-04-09 20:30", "2021-04-09 20:31"], "UTC", 2),
        (Timeframe(1, "d"), ["2021-04-08", "2021-04-09"], "America/New_York", 1),
        (Timeframe(1, "d"), ["2021-04-08", "2021-04-09"], "Asia/Tokyo", 2),  # where it is the tenth already
        (Timeframe(1, "w"), ["2021-03-29", "2021-04-05"], "UTC", 1),
        (Timeframe(1, "mo"), ["2021-02-28", "2021-03-09", "2021-03-10"], "UTC", 2),
    ],
)
def test_a_bar_is_finished_when_its_time_is_over_on_the_clock_of_the_exchange(length, starts, zone, kept):
    times = pd.to_datetime(starts, utc=not length.daily)
    assert len(finished(bars("X", times, zone), length, NOW)) == kept


def test_a_damaged_file_is_not_used(vendor, tmp_path):
    load_market("yfinance:SPY")
    file = next(tmp_path.glob("cache/prices/*/*.parquet"))
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert "is not what was downloaded; remove it" in refusal("yfinance:SPY")
    next(tmp_path.glob("cache/prices/*/latest.json")).write_text("junk")
    assert "latest.json: cannot be read; remove it" in refusal("yfinance:SPY")


def test_nothing_finished_is_no_download(vendor, tmp_path):
    assert "no finished bar of SPY from 2021-04-09 to now" in refusal("yfinance:SPY", start="2021-04-09")
    assert not list(tmp_path.glob("cache/prices/*/*"))


def test_where_downloads_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXPPO_CACHE", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert downloads.cache_folder() == tmp_path / "prices"
    monkeypatch.delenv("JAXPPO_CACHE")
    assert str(downloads.cache_folder()) == "/xdg/jaxppo/prices"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert str(downloads.cache_folder()) == "/home/me/.cache/jaxppo/prices"


def test_a_cache_that_cannot_be_written_is_named(vendor, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(downloads.CACHE, str(tmp_path / "file"))
    assert "downloads cannot be kept there: Not a directory; set JAXPPO_CACHE" in refusal("yfinance:SPY")


@pytest.mark.parametrize(
    ("source", "symbols", "length"),
    [
        ("yfinance:spy,QQQ", ("SPY", "QQQ"), "1d"),
        ("yfinance:^GSPC:1wk", ("^GSPC",), "1w"),
        ("alpaca:AAPL,MSFT:15Min", ("AAPL", "MSFT"), "15min"),
        ("ccxt:binance:BTC/USDT:1h", ("BTC/USDT",), "1h"),
        ("ccxt:binanceusdm:BTC/USDT:USDT,ETH/USDT:USDT", ("BTC/USDT:USDT", "ETH/USDT:USDT"), "1d"),
        ("ccxt:binanceusdm:BTC/USDT:USDT:1M", ("BTC/USDT:USDT",), "1mo"),
    ],
)
def test_symbols_and_lengths_are_read_from_the_name(source, symbols, length):
    request = request_of(source)
    assert (request.symbols, str(request.timeframe)) == (symbols, length)


def test_requests_that_differ_are_kept_apart():
    sources = ["yfinance:SPY", "yfinance:SPY:1h", "yfinance:SPY,QQQ", "alpaca:SPY", "hf:SPY/SPY", "hf:SPY/SPY:a"]
    asked = [request_of(source) for source in sources] + [request_of("yfinance:SPY", "2020-01-01")]
    asked += [request_of("yfinance:SPY", None, "2020-01-01")]
    assert len({request.folder for request in asked}) == len(asked)
    assert request_of("yfinance:spy:1d").folder.split("-")[-1] == request_of("yfinance:SPY").folder.split("-")[-1]


@pytest.mark.parametrize("text", ["", "1", "h", "0d", "1x", "1.5h", "d1", "1h ", "1 h", "99999d"])
def test_what_is_no_length(text):
    assert timeframe_of(text) is None


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("yfinance:", "a source of yfinance is written yfinance:SYMBOL"),
        ("yfinance:SPY,", "a source of yfinance is written"),
        ("yfinance:SPY QQQ", "a source of yfinance is written"),
        ("yfinance:SPY#newest", "a source of yfinance is written"),
        ("yfinance:SPY,spy", "names SPY more than once"),
        ("yfinance:SPY:2x", "'2x' is no length of bars"),
        ("ccxt:BTC/USDT", "a source of ccxt is written ccxt:EXCHANGE:BASE/QUOTE"),
        ("hf:name", "a source of hf is written hf:OWNER/NAME"),
        ("duckdb:prices.db", "a table is written duckdb:FILE:TABLE"),
        ("polygon:SPY", "no such file or folder (shipped data sets: us5_1d; sources: yfinance:, ccxt:, alpaca:, hf:"),
    ],
)
def test_names_that_mean_nothing_are_refused(source, words, monkeypatch):
    monkeypatch.setattr("jaxppo.envs.data.sources.databases.extra", lambda *_: None)
    assert words in refusal(source)


def test_a_source_is_asked_again_after_growing_pauses():
    answers, pauses = iter([asking.Unavailable("503"), asking.Unavailable("503"), "prices"]), []

    def ask():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert asking.asked(ask, "x:y", pauses.append) == "prices"
    assert pauses == [1.0, 2.0]


@pytest.mark.parametrize(
    ("error", "words", "waited"),
    [
        (asking.Unavailable("503"), r"x:y: gives no usable answer \(503\), 4 times", asking.PAUSES),
        (asking.Unavailable("429", limited=True), r"was asked too often \(429\), 5 times", asking.LIMITED_PAUSES),
        (asking.Unavailable("Could not resolve host: a"), "is this machine offline", ()),
    ],
)
def test_a_source_that_never_answers_is_said_so(error, words, waited):
    pauses = []

    def ask():
        raise error

    with pytest.raises(DataError, match=words):
        asking.asked(ask, "x:y", pauses.append)
    assert tuple(pauses) == waited


@pytest.mark.parametrize(
    ("module", "source"), [("yfinance", "yfinance:SPY"), ("ccxt", "ccxt:binance:BTC/USDT"), ("alpaca", "alpaca:SPY")]
)
def test_an_extra_that_is_missing_is_named(module, source, monkeypatch, tmp_path):
    monkeypatch.setenv(downloads.CACHE, str(tmp_path))
    for name in (module, f"{module}.data", f"{module}.data.historical"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    assert refusal(source) == f"{source} needs the extra '{module}': pip install 'jaxppo[{module}]'"


class Hub(http.server.BaseHTTPRequestHandler):
    """The wire format of the two addresses of Hugging Face."""

    def do_GET(self):
        url = urllib.parse.urlparse(self.path)
        name = urllib.parse.parse_qs(url.query).get("dataset", [""])[0]
        server, base = self.server, f"http://127.0.0.1:{self.server.server_port}"
        server.tokens.append(self.headers.get("Authorization"))
        if server.errors:
            return self.send(server.errors.pop(0), b"{}")
        if url.path == "/parquet":
            if name == "me/private":
                return self.send(401, b'{"error": "does not exist, or is not accessible without authentication"}')
            files = [
                {"dataset": name, "config": config, "split": split, "url": f"{base}/file/{split}.parquet",
                 "filename": "0000.parquet", "size": 1000}
                for config in server.configs for split in ("train", "test")
            ]  # fmt: skip
            answer = {"parquet_files": files, "pending": [], "failed": [], "partial": server.partial}
            return self.send(200, json.dumps(answer).encode())
        days = {"train": pd.bdate_range("2020-01-01", periods=60), "test": pd.bdate_range("2020-04-01", periods=30)}
        content = io.BytesIO()
        bars("ABC", days[url.path.split("/")[-1].removesuffix(".parquet")]).frame.to_parquet(content)
        return self.send(200, content.getvalue())

    def send(self, code, content):
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.tokens, server.errors, server.configs, server.partial = [], [], ["default"], False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    monkeypatch.setattr(hugging_face, "LISTING", f"{address}parquet")
    monkeypatch.setattr(hugging_face, "HOST", address)
    monkeypatch.setattr(asking.time, "sleep", lambda seconds: None)
    monkeypatch.setenv(downloads.CACHE, str(tmp_path))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield server
    server.shutdown()
    server.server_close()


def test_a_data_set_of_hugging_face_with_all_its_splits(hub):
    hub.errors[:] = [503]
    assert load_market("hf:me/prices").n_bars == 90
    asked = len(hub.tokens)
    assert load_market("hf:me/prices").n_bars == 90
    assert len(hub.tokens) == asked
    assert load_market("hf:me/prices:default:train").n_bars == 60
    assert set(hub.tokens) == {None}


def test_the_token_of_the_environment_is_sent(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    load_market("hf:me/prices")
    assert set(hub.tokens) == {"Bearer secret"}


def test_what_hugging_face_has_not_is_refused(hub):
    assert "no such data set, or not a public one (HF_TOKEN" in refusal("hf:me/private")
    assert "has no split 'valid'; there is test, train" in refusal("hf:me/prices:default:valid")
    assert "has no config 'x'; there is default" in refusal("hf:me/prices:x")
    hub.configs = ["daily", "hourly"]
    assert "has several configurations; add one of them: :daily, :hourly" in refusal("hf:me/prices")
    hub.partial = True
    assert "has converted only a part" in refusal("hf:me/prices:daily")
    hub.configs = []
    assert "has no Parquet files of this data set" in refusal("hf:me/prices")
    hub.errors[:] = [429] * 5
    assert "was asked too often (HTTP 429), 5 times" in refusal("hf:me/prices")
