"""Servers on this machine that speak the wire format of a broker or an exchange."""

import http.server
import json
import threading
import time
import urllib.parse


class Exchange(http.server.BaseHTTPRequestHandler):
    """What both servers have: answers in JSON, and accounts in memory that belong to the server."""

    protocol_version = "HTTP/1.1"

    def handle_any(self):
        length = int(self.headers.get("Content-Length") or 0)
        body, url = self.rfile.read(length).decode(), urllib.parse.urlparse(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        self.server.requests.append((self.command, url.path))
        time.sleep(self.server.slow)
        if self.server.down:
            self.server.down -= 1
            code, answer = 503, {"code": 50310000, "msg": "down", "message": "down"}
        else:
            code, answer = self.answer(self.command, url.path, query, body)
        content = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_DELETE = handle_any

    def log_message(self, *arguments):
        pass


def serving(handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.requests, server.orders, server.down, server.slow = [], {}, 0, 0.0
    server.behaviour = "fill"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def binance_market(base):
    size = {"filterType": "LOT_SIZE", "minQty": "0.001", "maxQty": "9000", "stepSize": "0.001"}
    price = {"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "1000000", "tickSize": "0.01"}
    return {"symbol": f"{base}USDT", "status": "TRADING", "baseAsset": base, "baseAssetPrecision": 8,
            "quoteAsset": "USDT", "quotePrecision": 8, "quoteAssetPrecision": 8, "orderTypes": ["MARKET"],
            "isSpotTradingAllowed": True, "isMarginTradingAllowed": False, "permissions": ["SPOT"],
            "permissionSets": [["SPOT"]], "filters": [size, price]}  # fmt: skip


BINANCE_MARKETS = {"timezone": "UTC", "serverTime": 1, "rateLimits": [],
                   "symbols": [binance_market("BTC"), binance_market("ETH")]}  # fmt: skip


def binance_at(server):
    """The exchange of ccxt, spot alone, at a server."""
    import ccxt

    exchange = ccxt.binance({"apiKey": "key", "secret": "secret"})
    exchange.options |= {"fetchCurrencies": False, "fetchMargins": False, "fetchMarkets": {"types": ["spot"]}}
    exchange.has["fetchCurrencies"] = False
    address = f"http://127.0.0.1:{server.server_port}/api/v3"
    exchange.urls["api"] |= {"public": address, "private": address}
    return exchange
