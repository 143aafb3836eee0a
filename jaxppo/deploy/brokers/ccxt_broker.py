"""A spot account of a crypto exchange, through ccxt.

Positions are balances: an account that holds what the policy does not trade is fine, and so are balances of others.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

from jaxppo.deploy.brokers.base import BrokerError, Order, State, Status
from jaxppo.deploy.positions import Positions
from jaxppo.errors import ConfigError

KEY, SECRET = "JAXPPO_CCXT_KEY", "JAXPPO_CCXT_SECRET"
STATES: dict[str, State] = {
    "open": "open",
    "closed": "filled",
    "canceled": "cancelled",
    "expired": "cancelled",
    "rejected": "rejected",
}


def ccxt_broker(name: str, symbols: Sequence[str]) -> CcxtBroker:
    """The account whose keys are in the environment as JAXPPO_CCXT_KEY and JAXPPO_CCXT_SECRET.

    Args:
      name: of the exchange, as ccxt has it.
      symbols: such as BTC/USDT.

    Raises:
      ConfigError: ccxt is missing, keys are, or it has no such exchange.
    """
    ccxt = _ccxt()
    if name not in ccxt.exchanges:
        raise ConfigError(f"--broker ccxt:{name[:40]}: no exchange of ccxt has that name")
    missing = [variable for variable in (KEY, SECRET) if not os.environ.get(variable)]
    if missing:
        raise ConfigError(f"--broker ccxt:{name}: {missing[0]} is not set in the environment")
    keys = {"apiKey": os.environ[KEY], "secret": os.environ[SECRET], "enableRateLimit": True}
    return CcxtBroker(getattr(ccxt, name)(keys), symbols)


class CcxtBroker:
    """A spot account.

    Args:
      exchange: of ccxt, with keys.
      symbols: that the policy trades, such as BTC/USDT, in one quote currency.

    Raises:
      ConfigError: a symbol that the exchange has not, or no one quote currency.
      BrokerError: the exchange cannot be reached.
    """

    keeps_account = False

    def __init__(self, exchange: Any, symbols: Sequence[str]):
        self.name, self._exchange, self._errors = f"ccxt:{exchange.id}", exchange, _ccxt()
        markets = self._called(exchange.load_markets)
        unknown = [symbol for symbol in symbols if not markets.get(symbol, {}).get("spot")]
        if unknown:
            raise ConfigError(f"{self.name} has no spot market {unknown[0]}; symbols are such as BTC/USDT")
        quotes = {markets[symbol]["quote"] for symbol in symbols}
        if len(quotes) != 1:
            raise ConfigError(f"{self.name}: one quote currency is expected, not {', '.join(sorted(quotes))}")
        self._base, self._quote = {symbol: markets[symbol]["base"] for symbol in symbols}, quotes.pop()

    def positions(self) -> Positions:
        """Balances of the base currencies, and of the quote currency as cash."""
        total = self._called(self._exchange.fetch_balance)["total"]
        shares = {symbol: float(total.get(base) or 0.0) for symbol, base in self._base.items()}
        return Positions(shares, float(total.get(self._quote) or 0.0))

    def submit(self, order: Order) -> Status:
        """Sends a market order, once.

        Args:
          order: to be sent.
        """
        exchange, ccxt = self._exchange, self._errors
        side = "buy" if order.quantity > 0 else "sell"
        try:
            amount = float(exchange.amount_to_precision(order.symbol, abs(order.quantity)))
            # With a price, some exchanges are asked for an amount of currency instead: it is for those that need it.
            price = order.price if exchange.options.get("createMarketBuyOrderRequiresPrice") else None
            found = exchange.create_order(
                order.symbol, "market", side, amount, price, {"clientOrderId": order.client_id}
            )
            return self._status(found, order)
        except (ccxt.NetworkError, ccxt.AuthenticationError) as error:
            raise BrokerError(f"{self.name}: {str(error)[:200]}") from None
        except ccxt.BaseError as error:
            known = self.orders([order])[order.client_id]  # one that is sent twice is refused, and known
            return Status("rejected", 0.0, str(error)[:200]) if known.state == "unknown" else known

    def orders(self, orders: Sequence[Order]) -> dict[str, Status]:
        """Client id -> what became of the order.

        Args:
          orders: that may have been sent.
        """
        return {order.client_id: self._order(order) for order in orders}

    def cancel(self, order: Order) -> None:
        """Takes back what has not filled.

        Args:
          order: that was sent.
        """
        ccxt = self._errors
        try:
            self._exchange.cancel_order(None, order.symbol, {"clientOrderId": order.client_id})
        except (ccxt.OrderNotFound, ccxt.InvalidOrder):
            return  # it is done
        except ccxt.BaseError as error:
            raise BrokerError(f"{self.name}: {str(error)[:200]}") from None

    def _order(self, order: Order) -> Status:
        """What became of an order; what is not a plain "no such order" is no answer."""
        ccxt = self._errors
        try:
            found = self._exchange.fetch_order(None, order.symbol, {"clientOrderId": order.client_id})
        except ccxt.OrderNotFound:
            return Status("unknown")
        except ccxt.BaseError as error:
            raise BrokerError(f"{self.name}: {str(error)[:200]}") from None
        return self._status(found, order)

    def _status(self, found: dict[str, Any], order: Order) -> Status:
        """Status of an order as ccxt has it."""
        filled = float(found.get("filled") or 0.0)
        state = STATES.get(found.get("status") or "open")
        if state is None:
            raise BrokerError(f"{self.name}: an order is {found.get('status')!r}, which is not understood")
        if state == "open" and filled > 0:
            state = "partly"
        price = float(found.get("average") or 0.0)
        fee = self._fee(found, order, price) if filled > 0 else 0.0
        return Status(state, filled if order.quantity > 0 else -filled, price=price, fee=fee)

    def _fee(self, found: dict[str, Any], order: Order, price: float) -> float:
        """Fees of an order, quote currency; 0 where they are in a third one, such as BNB, or are not told."""
        fees = _fees_of(found)
        if not fees and self._exchange.has.get("fetchOrderTrades"):
            trades = self._called(partial(self._exchange.fetch_order_trades, found["id"], order.symbol))
            fees = [fee for trade in trades for fee in _fees_of(trade)]
        rate = {self._quote: 1.0, self._base[order.symbol]: price}
        return sum(float(fee.get("cost") or 0.0) * rate.get(fee.get("currency"), 0.0) for fee in fees)

    def _called(self, function: Any) -> Any:
        """What a function of ccxt returns."""
        try:
            return function()
        except self._errors.BaseError as error:
            raise BrokerError(f"{self.name}: {str(error)[:200]}") from None


def _fees_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Fees of an order or a trade as ccxt has them: a list, or one."""
    return [fee for fee in found.get("fees") or [found.get("fee")] if fee and fee.get("cost") is not None]


def _ccxt() -> Any:
    """The package."""
    try:
        import ccxt
    except ImportError:
        raise ConfigError("--broker ccxt needs the extra `ccxt`: pip install 'jaxppo[ccxt]'") from None
    return ccxt
