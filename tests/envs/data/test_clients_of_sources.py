"""Clients of the vendors themselves, fed with answers in their wire formats; skipped where an extra is absent."""

import datetime
import importlib
import pathlib
import sys
import types

import numpy as np
import pandas as pd
import pytest

from jaxppo.envs import DataError, load_market
from jaxppo.envs.data.sources import asking, downloads, yahoo
from jaxppo.envs.data.sources.request import request_of

EASTERN = "America/New_York"
DAYS = pd.bdate_range("2021-01-04", "2021-04-09")
NOW = pd.Timestamp("2021-04-09 21:30", tz="UTC")
META = {
    "currency": "USD", "symbol": "SPY", "exchangeName": "PCX", "instrumentType": "ETF", "gmtoffset": -14400,
    "timezone": "EDT", "exchangeTimezoneName": EASTERN, "regularMarketPrice": 411.49, "priceHint": 2,
    "dataGranularity": "1d", "range": "", "validRanges": ["1d", "5d", "1mo", "max"],
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv(downloads.CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr(downloads, "_now", lambda: NOW)
    monkeypatch.setattr(asking.time, "sleep", lambda seconds: None)


def refusal(source, **options):
    with pytest.raises(DataError) as error:
        load_market(source, **options)
    return str(error.value)


class Answer:
    """Of Yahoo: an answer over HTTP."""

    text = ""

    def __init__(self, content):
        self.content = content

    def raise_for_status(self):
        if (self.content.get("chart") or {}).get("error"):
            from yfinance._http import HTTPError

            error = HTTPError("HTTP Error 404")
            error.response = types.SimpleNamespace(status_code=404)
            raise error

    def json(self):
        return self.content


def chart(times, empty_row=None):
    """What Yahoo answers to `/v8/finance/chart`: epochs in seconds, `None` where it has nothing."""
    close = [round(400 + 0.37 * (n % 11), 2) for n in range(len(times))]
    fields = {
        "open": [c - 0.5 for c in close], "high": [c + 1.5 for c in close], "low": [c - 1.25 for c in close],
        "close": close, "volume": [1_000_000 + n for n in range(len(times))],
    }  # fmt: skip
    adjusted = [0.9 * c for c in close]
    if empty_row is not None:
        for column in (*fields.values(), adjusted):
            column[empty_row] = None
    result = {"meta": dict(META), "timestamp": [int(time.timestamp()) for time in times],
              "indicators": {"quote": [fields], "adjclose": [{"adjclose": adjusted}]}}  # fmt: skip
    return {"chart": {"result": [result], "error": None}}


@pytest.fixture
def yahoo_says(monkeypatch, tmp_path):
    yfinance = pytest.importorskip("yfinance", reason="needs the extra yfinance")
    from yfinance.data import YfData

    yfinance.set_tz_cache_location(str(tmp_path / "zones"))
    asked = []

    def says(answer):
        def get(self, url, params=None, timeout=None, **_):
            asked.append({**(params or {}), "symbol": url.rsplit("/", 1)[-1]})
            found = answer(asked[-1]) if callable(answer) else answer
            if isinstance(found, Exception):
                raise found
            return Answer(found)

        monkeypatch.setattr(YfData, "get", get)
        monkeypatch.setattr(YfData, "cache_get", get)
        return asked

    return says


def test_daily_bars_of_yahoo(yahoo_says):
    opens = [pd.Timestamp(f"{day:%Y-%m-%d} 09:30", tz=EASTERN) for day in DAYS]
    asked = yahoo_says(chart(opens, empty_row=7))
    market = load_market("yfinance:SPY", start="2021-01-04")
    report = market.info.report
    assert (market.n_bars, report["first"], report["last"]) == (len(DAYS) - 2, "2021-01-04", "2021-04-08")
    assert report["adjusted_by"] == "adj_close"
    np.testing.assert_allclose(market.close[:3, 0], [0.9 * c for c in (400.0, 400.37, 400.74)], rtol=1e-6)
    np.testing.assert_allclose(market.volume[0, 0], 1_000_000 / 0.9, rtol=1e-6)
    history = [request for request in asked if "period1" in request]
    assert {request["symbol"] for request in history} == {"SPY"}
    assert history[0]["period1"] == int(pd.Timestamp("2021-01-04", tz=EASTERN).timestamp())


def test_all_that_yahoo_has_is_asked_for_without_dates(yahoo_says):
    asked = yahoo_says(chart([pd.Timestamp(f"{day:%Y-%m-%d} 09:30", tz=EASTERN) for day in DAYS]))
    load_market("yfinance:SPY")
    assert any(request.get("period1", 1) < 0 for request in asked), "from before 1970 on"


def test_an_end_alone_does_not_mean_the_month_before_it(yahoo_says):
    asked = yahoo_says(chart([pd.Timestamp(f"{day:%Y-%m-%d} 09:30", tz=EASTERN) for day in DAYS]))
    assert load_market("yfinance:SPY", end="2021-03-01").info.report["last"] == "2021-03-01"
    history = next(request for request in asked if "period1" in request)
    assert history["period1"] < 0
    assert history["period2"] == int(pd.Timestamp("2021-03-02", tz=EASTERN).timestamp())


def test_prices_in_several_currencies_are_refused(yahoo_says):
    opens = [pd.Timestamp(f"{day:%Y-%m-%d} 09:30", tz=EASTERN) for day in DAYS]
    american, german = chart(opens), chart(opens)
    german["chart"]["result"][0]["meta"]["currency"] = "EUR"
    yahoo_says(lambda request: german if request["symbol"] == "SAP.DE" else american)
    assert "SPY in USD and SAP.DE in EUR: an account has one currency" in refusal("yfinance:SPY,SAP.DE")
    assert load_market("yfinance:SPY,QQQ").n_assets == 2


def test_errors_of_yahoo_are_said_in_a_line(yahoo_says, capfd):
    from yfinance.exceptions import YFRateLimitError

    unknown = "No data found, symbol may be delisted"
    yahoo_says({"chart": {"result": None, "error": {"code": "Not Found", "description": unknown}}})
    assert "yfinance:NOPE: Yahoo has no prices of NOPE" in refusal("yfinance:NOPE")
    yahoo_says(YFRateLimitError())
    assert "was asked too often (Too Many Requests" in refusal("yfinance:AAPL")
    yahoo_says(ConnectionError("Could not resolve host: query2.finance.yahoo.com"))
    assert "is this machine offline" in refusal("yfinance:MSFT")
    assert "Yahoo has no bars of 2h" in refusal("yfinance:SPY:2h")
    assert capfd.readouterr().err == "", "the client logs nothing beside"


def test_intraday_bars_of_yahoo_keep_their_instant(yahoo_says):
    pytest.importorskip("yfinance")
    starts = [pd.Timestamp(f"{day:%Y-%m-%d} {9 + n}:30", tz=EASTERN) for day in DAYS[-12:] for n in range(7)]
    answer = chart(starts)
    period = {"timezone": "EDT", "gmtoffset": -14400}
    regular = [
        [{**period, "start": int(pd.Timestamp(f"{day:%Y-%m-%d} 09:30", tz=EASTERN).timestamp()),
          "end": int(pd.Timestamp(f"{day:%Y-%m-%d} 16:00", tz=EASTERN).timestamp())}] for day in DAYS[-12:]
    ]  # fmt: skip
    answer["chart"]["result"][0]["meta"] |= {"tradingPeriods": regular, "dataGranularity": "1h"}
    yahoo_says(answer)
    [series] = yahoo.bars_of(request_of("yfinance:SPY:1h", "2021-03-25", "2021-04-09"))
    assert list(series.frame["time"]) == [start.tz_convert("UTC") for start in starts]


def wire_formats(extra):
    """The module of tests that has servers of vendors' wire formats."""
    pytest.importorskip(extra, reason=f"needs the extra {extra}")
    sys.path.append(str(pathlib.Path(__file__).parents[2] / "jaxppo" / "deploy"))
    return importlib.import_module("wire")


MINUTE = 1_700_000_040
"""Start of the first bar of the servers."""


@pytest.fixture
def binance():
    wire = wire_formats("ccxt")

    class Bars(wire.Exchange):
        def answer(self, method, path, query, body):
            if path == "/api/v3/exchangeInfo":
                return 200, wire.BINANCE_MARKETS
            since, listed = int(query["startTime"]) // 1000, MINUTE + 60 * 300
            times = [t for t in range(listed, MINUTE + 60 * 1500, 60) if t >= since]
            if since < MINUTE + 60 * 200:  # before the listing, as exchanges do that know no later bar
                times = []
            return 200, [
                [1000 * t, "100.0", "101.0", "99.0", f"{100 + t % 7 / 10}", "7.5", 0, "750", 3, "1", "1", "0"]
                for t in times[: int(query["limit"])]
            ]  # fmt: skip

    server = wire.serving(Bars)
    yield server, wire.binance_at(server)
    server.shutdown()
    server.server_close()


def test_bars_of_an_exchange_page_by_page(binance, monkeypatch):
    import ccxt

    server, exchange = binance
    monkeypatch.setattr(ccxt, "binance", lambda options: exchange)
    monkeypatch.setattr(downloads, "_now", lambda: pd.Timestamp(MINUTE + 60 * 1499 + 30, unit="s", tz="UTC"))
    server.down = 1  # asked again
    market = load_market("ccxt:binance:BTC/USDT:1m", start="2023-11-14", end="2023-11-15")
    assert market.n_bars == 1199, "from the listing to the last finished minute, over several pages"
    assert market.info.timestamps[0] == np.datetime64(MINUTE + 60 * 300, "s")
    assert market.info.symbols == ("BTC/USDT",)
    np.testing.assert_allclose(market.volume, 7.5)
    assert "has no market DOGE/USDT" in refusal("ccxt:binance:DOGE/USDT", start="2023-11-14")
    assert "has no bars of 7h, only" in refusal("ccxt:binance:BTC/USDT:7h", start="2023-11-14")
    assert "--data" not in refusal("ccxt:binance:BTC/USDT")
    assert "pass a first date, such as start='2022-01-01'" in refusal("ccxt:binance:BTC/USDT")
    assert "no exchange of ccxt is called 'nowhere'" in refusal("ccxt:nowhere:BTC/USDT", start="2023-11-14")
    server.down = 100
    assert "gives no usable answer" in refusal("ccxt:binance:ETH/USDT:1m", start="2023-11-14")


@pytest.fixture
def alpaca(monkeypatch):
    wire = wire_formats("alpaca")

    class Bars(wire.Exchange):
        def answer(self, method, path, query, body):
            if path != "/v2/stocks/bars" or (query["adjustment"], query["feed"]) != ("all", "sip"):
                return 404, {"code": 40410000, "message": "no such path"}
            if self.headers["APCA-API-KEY-ID"] != "key":
                return 401, {"message": "forbidden."}
            if "BAD!" in query["symbols"]:
                return 400, {"message": "invalid symbol: BAD!"}
            start, end = (
                datetime.datetime.fromisoformat(query[name]).replace(tzinfo=None) for name in ("start", "end")
            )
            rows = [
                (symbol, pd.Timestamp(f"{day:%Y-%m-%d}", tz=EASTERN).tz_convert("UTC"))
                for symbol in query["symbols"].split(",") if symbol != "NONE" for day in DAYS
            ]  # fmt: skip
            rows = [row for row in rows if start <= row[1].tz_localize(None).to_pydatetime() <= end]
            first, found = int(query.get("page_token") or 0), {}
            for n, (symbol, time) in enumerate(rows[first : first + 50]):
                bar = {"c": 100 + n % 7, "h": 110, "l": 90, "n": 3, "o": 100, "v": 5000, "vw": 100}
                found.setdefault(symbol, []).append({"t": f"{time:%Y-%m-%dT%H:%M:%SZ}", **bar})
            more = str(first + 50) if first + 50 < len(rows) else None
            return 200, {"bars": found, "next_page_token": more}

    server = wire.serving(Bars)
    from alpaca.data import historical

    original = historical.StockHistoricalDataClient
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(
        historical,
        "StockHistoricalDataClient",
        lambda *keys, **options: original(*keys, **options, url_override=address),
    )
    monkeypatch.setenv("APCA_API_KEY_ID", "key")
    monkeypatch.setenv("APCA_API_SECRET_KEY", "secret")
    yield server
    server.shutdown()
    server.server_close()


def test_bars_of_stocks_from_alpaca(alpaca, monkeypatch):
    market = load_market("alpaca:AAPL,MSFT:1Day", start="2021-01-04", end="2021-04-09")
    assert market.info.symbols == ("AAPL", "MSFT")
    assert (market.info.report["first"], market.info.report["last"]) == ("2021-01-04", "2021-04-08")
    assert market.n_bars == len(DAYS) - 1, "dates of New York, not of UTC"
    assert "no finished bar of NONE" in refusal("alpaca:AAPL,NONE", start="2021-01-04")
    assert "invalid symbol: BAD!" in refusal("alpaca:BAD!", start="2021-01-04")
    assert "Alpaca has no bars of 90min, only of 1 to 59 minutes" in refusal("alpaca:AAPL:90Min")
    alpaca.down = 100
    assert "gives no usable answer" in refusal("alpaca:AAPL:1Week")
    monkeypatch.delenv("APCA_API_SECRET_KEY")
    with pytest.raises(ValueError, match="alpaca:SPY: APCA_API_SECRET_KEY is not set in the environment"):
        load_market("alpaca:SPY")


def test_tables_of_a_database(tmp_path):
    duckdb = pytest.importorskip("duckdb", reason="needs the extra duckdb")
    file = tmp_path / "prices.db"
    close = 100 + np.arange(len(DAYS)) % 7
    prices = pd.DataFrame(
        {"time": DAYS, "symbol": "A", "open": close, "high": close + 1, "low": close - 1, "close": close, "volume": 1e6}
    )
    with duckdb.connect(str(file)) as database:
        database.execute("CREATE SCHEMA daily; CREATE TABLE daily.bars AS SELECT * FROM prices")
    expected = load_market(prices).info.report["fingerprint"]
    for what in ("daily.bars", "SELECT * FROM daily.bars", "SELECT *, time::TIMESTAMP AS x FROM daily.bars"):
        assert load_market(f"duckdb:{file}:{what}").info.report["fingerprint"] == expected
    assert load_market(f"duckdb:{file}:SELECT * FROM daily.bars WHERE time < '2021-02-01'").n_bars == 20
    assert "must be the name of a table, or one SELECT" in refusal(f"duckdb:{file}:DROP TABLE daily.bars")
    assert "or one SELECT" in refusal(f"duckdb:{file}:SELECT 1; SELECT 2")
    assert "or one SELECT" in refusal(f"duckdb:{file}:COPY (SELECT 1) TO '{tmp_path}/out.csv'")
    assert not (tmp_path / "out.csv").exists()
    assert "Table with name nothing does not exist" in refusal(f"duckdb:{file}:nothing")
    assert "no such file" in refusal(f"duckdb:{tmp_path}/absent.db:bars")
    (tmp_path / "junk.db").write_text("junk" * 1000)
    assert "junk.db" in refusal(f"duckdb:{tmp_path}/junk.db:bars")
