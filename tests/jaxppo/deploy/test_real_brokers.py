"""Adapters of real brokers, against servers on this machine that speak their wire format."""

import json
import urllib.parse
import uuid

import pytest
from wire import BINANCE_MARKETS, Exchange, binance_at, serving

from jaxppo.deploy.brokers import BrokerError, Order

NOW = "2026-01-05T14:30:00Z"


class Alpaca(Exchange):
    def answer(self, method, path, query, body):
        orders = self.server.orders
        if path == "/v2/account":
            return 200, {"id": str(uuid.uuid4()), "account_number": "1", "status": "ACTIVE", "cash": "1000.5",
                         "currency": "USD", "pattern_day_trader": False, "trading_blocked": False,
                         "transfers_blocked": False, "account_blocked": False, "created_at": NOW,
                         "trade_suspended_by_user": False, "shorting_enabled": True}  # fmt: skip
        if path == "/v2/positions":
            return 200, [self.position("SPY", "3", "long"), self.position("TLT", "-2", "short")]
        if path == "/v2/orders" and method == "GET":
            return 200, [order for order in orders.values() if order["status"] == "partially_filled"]
        if path == "/v2/orders:by_client_order_id":
            found = orders.get(query["client_order_id"])
            return (404, {"code": 40410000, "message": "order not found"}) if found is None else (200, found)
        if path == "/v2/orders":
            return self.submitted(json.loads(body))
        if method == "DELETE":
            for order in orders.values():
                if path.endswith(order["id"]):
                    if order["status"] == "filled":
                        return 422, {"code": 42210000, "message": "order is not cancelable"}
                    order["status"] = "canceled"
            return 204, None
        return 404, {"code": 40410000, "message": "no such path"}

    def submitted(self, sent):
        orders = self.server.orders
        if sent["client_order_id"] in orders:
            return 422, {"code": 40010001, "message": "client_order_id must be unique"}
        if self.server.behaviour == "reject":
            return 403, {"code": 40310000, "message": "insufficient buying power"}
        part = self.server.behaviour == "part"
        order = {"id": str(uuid.uuid4()), "client_order_id": sent["client_order_id"], "created_at": NOW,
                 "updated_at": NOW, "submitted_at": NOW, "asset_id": str(uuid.uuid4()), "symbol": sent["symbol"],
                 "asset_class": "us_equity", "qty": str(sent["qty"]),
                 "filled_qty": str(float(sent["qty"]) / 2 if part else sent["qty"]), "filled_avg_price": "100.5",
                 "order_class": "simple",
                 "order_type": "market", "type": "market", "side": sent["side"], "time_in_force": "day",
                 "status": "partially_filled" if part else "filled", "extended_hours": False}  # fmt: skip
        orders[sent["client_order_id"]] = order
        if self.server.behaviour == "lost":
            self.server.behaviour = "fill"
            return 500, {"code": 50010000, "message": "lost"}
        return 200, order

    def position(self, symbol, quantity, side):
        plain = dict.fromkeys(
            ("avg_entry_price", "market_value", "cost_basis", "unrealized_pl", "unrealized_plpc", "current_price",
             "unrealized_intraday_pl", "unrealized_intraday_plpc", "lastday_price", "change_today"), "1.0"
        )  # fmt: skip
        return {**plain, "asset_id": str(uuid.uuid4()), "symbol": symbol, "exchange": "ARCA", "qty": quantity,
                "asset_class": "us_equity", "asset_marginable": True, "side": side}  # fmt: skip


class Binance(Exchange):
    def answer(self, method, path, query, body):
        orders, sent = self.server.orders, {**query, **dict(urllib.parse.parse_qsl(body))}
        if path == "/api/v3/exchangeInfo":
            return 200, BINANCE_MARKETS
        if path == "/api/v3/account":
            assert sent["signature"]
            return 200, {"balances": [{"asset": "BTC", "free": "0.5", "locked": "0.25"},
                                      {"asset": "USDT", "free": "900.0", "locked": "0.0"},
                                      {"asset": "DOGE", "free": "7.0", "locked": "0.0"}]}  # fmt: skip
        if path == "/api/v3/myTrades":
            found = next(order for order in orders.values() if str(order["orderId"]) == sent["orderId"])
            plain = {"symbol": found["symbol"], "orderId": found["orderId"], "time": 1_700_000_000_000,
                     "isBuyer": found["side"] == "BUY", "isMaker": False, "isBestMatch": True}  # fmt: skip
            parts = self.fills(float(found["executedQty"]))
            return 200, [{**plain, **part, "id": number} for number, part in enumerate(parts)]
        if path != "/api/v3/order":
            return 404, {"code": -1, "msg": "no such path"}
        name = sent.get("origClientOrderId") or sent.get("newClientOrderId")
        if method == "POST":
            return self.submitted(name, sent)
        if name not in orders:
            return 400, {"code": -2011 if method == "DELETE" else -2013, "msg": "Order does not exist."}
        if method == "DELETE":
            if orders[name]["status"] == "FILLED":
                return 400, {"code": -2011, "msg": "Unknown order sent."}
            orders[name]["status"] = "CANCELED"
        return 200, orders[name]

    def submitted(self, name, sent):
        if name in self.server.orders:
            return 400, {"code": -2010, "msg": "Duplicate order sent."}
        if self.server.behaviour == "reject":
            return 400, {"code": -2010, "msg": "Account has insufficient balance for requested action."}
        part = self.server.behaviour == "part"
        done = float(sent["quantity"]) / (2 if part else 1)
        self.server.orders[name] = {
            "symbol": sent["symbol"], "orderId": len(self.server.orders) + 1, "clientOrderId": name,
            "transactTime": 1_700_000_000_000, "time": 1_700_000_000_000, "price": "0.0", "origQty": sent["quantity"],
            "executedQty": str(done), "cummulativeQuoteQty": str(done * 100.5), "type": "MARKET", "side": sent["side"],
            "status": "PARTIALLY_FILLED" if part else "FILLED", "timeInForce": "GTC",
        }  # fmt: skip
        if self.server.behaviour == "lost":
            self.server.behaviour = "fill"
            return 503, {"code": -1007, "msg": "Timeout waiting for response from backend server."}
        return 200, {**self.server.orders[name], "fills": self.fills(done)}

    def fills(self, done):
        """Two halves, whose fees are in the quote and in the base currency."""
        half = {"qty": str(done / 2), "tradeId": 1}
        return [{**half, "price": "100.0", "commission": "0.5", "commissionAsset": "USDT"},
                {**half, "price": "101.0", "commission": "0.01", "commissionAsset": "BTC"}]  # fmt: skip


def alpaca():
    pytest.importorskip("alpaca", reason="needs the extra alpaca")
    from alpaca.trading.client import TradingClient

    from jaxppo.deploy.brokers.alpaca_broker import AlpacaBroker

    server = serving(Alpaca)
    client = TradingClient("key", "secret", url_override=f"http://127.0.0.1:{server.server_port}")
    return server, AlpacaBroker(client), "SPY"


def binance():
    pytest.importorskip("ccxt", reason="needs the extra ccxt")
    from jaxppo.deploy.brokers.ccxt_broker import CcxtBroker

    server = serving(Binance)
    exchange = binance_at(server)
    return server, CcxtBroker(exchange, ("BTC/USDT", "ETH/USDT")), "BTC/USDT"


@pytest.fixture(params=[alpaca, binance], ids=["alpaca", "binance"])
def there(request):
    server, broker, symbol = request.param()
    yield server, broker, lambda number, quantity=2.0: Order(f"jxp{number:024x}", symbol, quantity, 100.0, "t")
    server.shutdown()
    server.server_close()


def test_orders_fill(there):
    server, broker, order = there
    assert broker.submit(order(1)).state == "filled"
    sold = broker.submit(order(2, -1.5))
    assert (sold.state, sold.filled) == ("filled", -1.5)
    assert list(server.orders) == [order(1).client_id, order(2).client_id]


def test_what_a_fill_cost_is_told_when_it_is_sent_and_when_it_is_asked_for(there):
    server, broker, order = there
    fee = 0.0 if broker.name == "alpaca" else 0.5 + 0.01 * 100.5
    for answer in (broker.submit(order(1, -2.0)), broker.orders([order(1, -2.0)])[order(1).client_id]):
        assert (answer.filled, answer.price, answer.fee) == (-2.0, 100.5, pytest.approx(fee))
    server.behaviour = "reject"
    answer = broker.submit(order(2))
    assert (answer.price, answer.fee) == (0.0, 0.0)


def test_an_order_that_is_sent_twice_is_one_order(there):
    server, broker, order = there
    assert broker.submit(order(1)) == broker.submit(order(1))
    assert len(server.orders) == 1


def test_an_order_that_never_arrived_is_unknown(there):
    _, broker, order = there
    broker.submit(order(1))
    found = broker.orders([order(1), order(2)])
    assert [found[order(number).client_id].state for number in (1, 2)] == ["filled", "unknown"]


def test_part_of_an_order_is_taken_back(there):
    server, broker, order = there
    server.behaviour = "part"
    answer = broker.submit(order(1))
    assert (answer.state, answer.filled) == ("partly", 1.0)
    broker.cancel(order(1))
    left = broker.orders([order(1)])[order(1).client_id]
    assert (left.state, left.filled) == ("cancelled", 1.0)


def test_an_order_that_is_done_is_not_taken_back(there):
    _, broker, order = there
    broker.submit(order(1))
    broker.cancel(order(1))
    assert broker.orders([order(1)])[order(1).client_id].state == "filled"


def test_a_rejection_is_an_answer(there):
    server, broker, order = there
    server.behaviour = "reject"
    answer = broker.submit(order(1))
    assert (answer.state, answer.filled) == ("rejected", 0.0)
    assert "insufficient" in answer.reason
    assert server.orders == {}


def test_an_answer_that_is_lost_is_an_error_and_the_order_is_found(there):
    server, broker, order = there
    server.behaviour = "lost"
    with pytest.raises(BrokerError):
        broker.submit(order(1))
    assert broker.orders([order(1)])[order(1).client_id].state == "filled"


def test_a_server_that_is_down_is_an_error(there):
    server, broker, order = there
    for ask in (broker.positions, lambda: broker.submit(order(1)), lambda: broker.orders([order(1)])):
        server.down = 99
        with pytest.raises(BrokerError):
            ask()
    server.down = 0
    assert server.orders == {}


def test_an_answer_that_does_not_come_is_an_error(monkeypatch):
    server, broker, _ = alpaca()
    monkeypatch.setattr("jaxppo.envs.data.sources.alpaca_client.TIMEOUT", 0.1)
    server.slow = 1.0
    with pytest.raises(BrokerError, match="timed out"):
        broker.positions()
    server.shutdown()


def test_positions_of_alpaca():
    server, broker, _ = alpaca()
    server.behaviour = "part"
    broker.submit(Order("a", "SPY", -4.0, 100.0, "t"))
    found = broker.positions()
    assert (found.shares, found.cash, found.on_order) == ({"SPY": 3.0, "TLT": -2.0}, 1000.5, {"SPY": -2.0})
    server.shutdown()


def test_positions_of_binance():
    server, broker, _ = binance()
    found = broker.positions()
    assert (found.shares, found.cash) == ({"BTC/USDT": 0.75, "ETH/USDT": 0.0}, 900.0)
    server.shutdown()
