"""Bars of Binance and Alpaca, against servers on this machine that speak their wire format."""

import datetime

import pytest
from cheap_policy import RULES
from wire import BINANCE_MARKETS, Exchange, binance_at, serving

from jaxppo.deploy.bars.polled import Poller, SourceError
from jaxppo.errors import ConfigError

START, N_MINUTES = 1_700_000_040, 1200
"""Of the first bar, and bars that there are; the last one has not closed."""
NOW = START + 60 * N_MINUTES - 30
SYMBOLS = {"binance": ("BTC/USDT", "ETH/USDT"), "alpaca": ("SPY", "TLT")}


class BinanceBars(Exchange):
    def answer(self, method, path, query, body):
        if path == "/api/v3/exchangeInfo":
            return 200, BINANCE_MARKETS
        if path != "/api/v3/klines" or query["interval"] != "1m":
            return 404, {"code": -1, "msg": "no such path"}
        first = max(-(-(int(query["startTime"]) // 1000 - START) // 60), 0)
        times = [1000 * (START + 60 * n) for n in range(first, N_MINUTES)][: int(query["limit"])]
        price = {"BTCUSDT": 100.0, "ETHUSDT": 50.0}[query["symbol"]]
        return 200, [
            [time, str(price), str(price + 1), str(price - 1), str(price + 0.5), "7.5", time + 59_999, "750.0", 3, "1",
             "1", "0"] for time in times
        ]  # fmt: skip


class AlpacaBars(Exchange):
    def answer(self, method, path, query, body):
        if path != "/v2/stocks/bars" or query["timeframe"] != "1Min" or query["adjustment"] != "all":
            return 404, {"code": 40410000, "message": "no such path"}
        if self.headers["APCA-API-KEY-ID"] != "key":
            return 401, {"code": 40110000, "message": "request is not authorized"}
        if query["feed"] == "sip":
            return 403, {"code": 42210000, "message": "subscription does not permit querying recent SIP data"}
        start, end = (
            datetime.datetime.fromisoformat(query[name]).replace(tzinfo=datetime.UTC).timestamp()
            for name in ("start", "end")
        )
        rows = [(s, START + 60 * n) for s in query["symbols"].split(",") for n in range(N_MINUTES)]
        rows = [(s, t) for s, t in rows if start <= t <= end]
        at, size = int(query.get("page_token") or 0), 1000
        bars = {}
        for symbol, time in rows[at : at + size]:
            text = datetime.datetime.fromtimestamp(time, datetime.UTC).isoformat().replace("+00:00", "Z")
            price = {"SPY": 100.0, "TLT": 50.0}[symbol]
            bars.setdefault(symbol, []).append({"t": text, "o": price, "h": price + 1, "l": price - 1,
                                                "c": price + 0.5, "v": 7.5, "n": 3, "vw": price})  # fmt: skip
        more = str(at + size) if at + size < len(rows) else None
        return 200, {"bars": bars, "next_page_token": more}


def binance(symbols=SYMBOLS["binance"], seconds=60.0, **_):
    pytest.importorskip("ccxt", reason="needs the extra ccxt")
    from jaxppo.deploy.bars.ccxt_bars import CcxtBars

    server = serving(BinanceBars)
    exchange = binance_at(server)
    exchange.enableRateLimit = False
    return server, CcxtBars(exchange, symbols, seconds)


def alpaca(symbols=SYMBOLS["alpaca"], seconds=60.0, key="key", feed="iex"):
    pytest.importorskip("alpaca", reason="needs the extra alpaca")
    from alpaca.data.historical import StockHistoricalDataClient

    from jaxppo.deploy.bars.alpaca_bars import AlpacaBars as Source

    server = serving(AlpacaBars)
    address = f"http://127.0.0.1:{server.server_port}"
    client = StockHistoricalDataClient(key, "secret", raw_data=True, url_override=address)
    return server, Source(client, symbols, seconds, feed)


@pytest.fixture(params=[alpaca, binance], ids=["alpaca", "binance"])
def there(request):
    server, source = request.param()
    yield server, source, SYMBOLS[request.param.__name__]
    server.shutdown()
    server.server_close()


def test_bars_of_all_pages_and_assets(there):
    server, source, symbols = there
    found = source.bars(START + 60, START + 60 * N_MINUTES)
    assert sorted(found) == [START + 60 * n for n in range(1, N_MINUTES)]
    bar = {"open": 50.0, "high": 51.0, "low": 49.0, "close": 50.5, "volume": 7.5}
    assert all(of_time[symbols[1]] == bar and len(of_time) == 2 for of_time in found.values())
    assert sum("bars" in path or "klines" in path for _, path in server.requests) > 2
    assert source.bars(START + 60 * N_MINUTES, START + 60 * N_MINUTES + 30) == {}


def test_a_bar_that_has_not_closed_is_not_handed_on(there):
    _, source, symbols = there
    rules = RULES.__class__(**{**vars(RULES), "symbols": symbols})
    told, pause = Poller(source, rules, since=10**9 * (NOW - 600), now=lambda: float(NOW)).poll()
    assert [one["time"] for one in told] == [START + 60 * n for n in range(N_MINUTES - 10, N_MINUTES - 1)]
    assert 0 < pause <= 60
    assert source.span(100) >= 6000


def test_a_server_that_is_down_is_an_error_and_asked_again(there, monkeypatch):
    server, source, _ = there
    server.down = 1
    with pytest.raises(SourceError, match="down"):
        source.bars(NOW - 600, NOW)
    assert len(source.bars(NOW - 600, NOW)) == 10
    monkeypatch.setattr("jaxppo.envs.data.sources.alpaca_client.TIMEOUT", 0.1)
    monkeypatch.setattr(getattr(source, "_exchange", source), "timeout", 100, raising=False)  # of ccxt, ms
    server.slow = 1.0
    with pytest.raises(SourceError):
        source.bars(NOW - 600, NOW)


def test_a_symbol_that_the_exchange_has_not_is_a_mistake():
    with pytest.raises(ConfigError, match="has no market DOGE/USDT"):
        binance(symbols=("BTC/USDT", "DOGE/USDT"))


@pytest.mark.parametrize("make", [alpaca, binance])
def test_a_length_of_bars_that_there_is_not_is_a_mistake(make):
    with pytest.raises(ConfigError, match="has no bars of 5400 s"):
        make(seconds=5400.0)


@pytest.mark.parametrize("wrong", [{"key": "other"}, {"feed": "sip"}])
def test_rights_that_an_account_has_not_are_a_mistake(wrong):
    _, source = alpaca(**wrong)
    with pytest.raises(ConfigError, match=r"not authorized|subscription"):
        source.bars(NOW - 600, NOW)


def test_lengths_of_bars_of_alpaca():
    said = [str(alpaca(seconds=seconds)[1]._timeframe) for seconds in (60.0, 900.0, 3600.0, 14_400.0, 86_400.0)]
    assert said == ["1Min", "15Min", "1Hour", "4Hour", "1Day"]
