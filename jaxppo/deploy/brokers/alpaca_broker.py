"""An account at Alpaca, through alpaca-py."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from jaxppo.deploy.brokers.base import BrokerError, Order, State, Status
from jaxppo.deploy.positions import Positions
from jaxppo.envs.data.sources.alpaca_client import alpaca_keys, said, with_timeout
from jaxppo.errors import ConfigError

REAL = "JAXPPO_ALPACA_REAL"
STATES: dict[str, State] = {
    "filled": "filled",
    "canceled": "cancelled",
    "expired": "cancelled",
    "replaced": "cancelled",
    "done_for_day": "cancelled",
    "rejected": "rejected",
    "suspended": "rejected",
}
"""Of orders of which nothing more fills; all others are open."""
NOT_FOUND, REFUSED, UNREADABLE = 404, 403, 422


def alpaca_broker(symbols: Sequence[str]) -> AlpacaBroker:
    """The account whose keys are in the environment; Alpaca's own paper account unless JAXPPO_ALPACA_REAL is 1.

    Args:
      symbols: that the policy trades.

    Raises:
      ConfigError: alpaca-py is missing, or keys are.
    """
    key, secret = alpaca_keys("--broker alpaca")
    try:
        from alpaca.trading.client import TradingClient
    except ImportError:
        raise ConfigError("--broker alpaca needs the extra `alpaca`: pip install 'jaxppo[alpaca]'") from None
    real = os.environ.get(REAL) == "1"
    client = TradingClient(key, secret, paper=not real)
    return AlpacaBroker(client, name=f"alpaca{'' if real else ' paper'}")


class AlpacaBroker:
    """An account. Orders carry no fees: Alpaca books what regulators charge at the end of the day.

    Args:
      client: a `TradingClient`.
      name: of the account.
    """

    keeps_account = False

    def __init__(self, client: Any, name: str = "alpaca"):
        self.name, self._client = name, with_timeout(client)

    def positions(self) -> Positions:
        """Shares, cash, and what is on order."""
        from alpaca.trading.enums import QueryOrderStatus
        from alpaca.trading.requests import GetOrdersRequest

        account = self._called(self._client.get_account)
        held = self._called(self._client.get_all_positions)
        working = self._called(lambda: self._client.get_orders(GetOrdersRequest(status=QueryOrderStatus.OPEN)))
        on_order: dict[str, float] = {}
        for order in working:
            missing = float(order.qty or 0.0) - float(order.filled_qty or 0.0)
            on_order[order.symbol] = on_order.get(order.symbol, 0.0) + _signed(missing, order.side)
        shares = {one.symbol: _signed(abs(float(one.qty)), one.side) for one in held}
        return Positions(shares, float(account.cash), on_order=on_order)

    def submit(self, order: Order) -> Status:
        """Sends a market order for the day, once.

        Args:
          order: to be sent.
        """
        from alpaca.common.exceptions import APIError
        from alpaca.trading.enums import OrderSide, TimeInForce
        from alpaca.trading.requests import MarketOrderRequest

        request = MarketOrderRequest(
            symbol=order.symbol,
            qty=abs(order.quantity),
            side=OrderSide.BUY if order.quantity > 0 else OrderSide.SELL,
            time_in_force=TimeInForce.DAY,
            client_order_id=order.client_id,
        )
        try:
            return self._status(self._client.submit_order(request))
        except APIError as error:
            if error.status_code not in (REFUSED, UNREADABLE):
                raise self._failed(error) from None
            known = self.orders([order])[order.client_id]  # one that is sent twice is refused, and known
            return Status("rejected", 0.0, said(error)) if known.state == "unknown" else known
        except (OSError, ValueError) as error:  # of requests, and of an answer that is no JSON
            raise self._failed(error) from None

    def orders(self, orders: Sequence[Order]) -> dict[str, Status]:
        """Client id -> what became of the order.

        Args:
          orders: that may have been sent.
        """
        found = {order.client_id: self._order(order) for order in orders}
        return {name: Status("unknown") if one is None else self._status(one) for name, one in found.items()}

    def cancel(self, order: Order) -> None:
        """Takes back what has not filled.

        Args:
          order: that was sent.
        """
        from alpaca.common.exceptions import APIError

        found = self._order(order)
        if found is None:
            return
        try:
            self._client.cancel_order_by_id(found.id)
        except APIError as error:
            if error.status_code not in (NOT_FOUND, UNREADABLE):  # it is done
                raise self._failed(error) from None
        except (OSError, ValueError) as error:
            raise self._failed(error) from None

    def _order(self, order: Order) -> Any:
        """The order as Alpaca has it; None where it never arrived."""
        from alpaca.common.exceptions import APIError

        try:
            return self._client.get_order_by_client_id(order.client_id)
        except APIError as error:
            if error.status_code == NOT_FOUND:
                return None
            raise self._failed(error) from None
        except (OSError, ValueError) as error:
            raise self._failed(error) from None

    def _status(self, found: Any) -> Status:
        """Status of an order as Alpaca has it."""
        filled = _signed(float(found.filled_qty or 0.0), found.side)
        state = STATES.get(found.status.value, "partly" if filled else "open")
        return Status(state, filled, price=float(found.filled_avg_price or 0.0))

    def _called(self, function: Callable[[], Any]) -> Any:
        """What a function of the client returns."""
        from alpaca.common.exceptions import APIError

        try:
            return function()
        except (APIError, OSError, ValueError) as error:
            raise self._failed(error) from None

    def _failed(self, error: Exception) -> BrokerError:
        return BrokerError(f"{self.name}: {said(error)}")


def _signed(quantity: float, side: Any) -> float:
    """Shares with the sign of a side: buy and long are > 0."""
    return quantity if side.value in ("buy", "long") else -quantity
