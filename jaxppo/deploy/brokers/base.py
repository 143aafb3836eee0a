"""What a trader asks of a broker: positions, orders under ids of our own, what became of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Literal, Protocol

from jaxppo.deploy.positions import Positions

State = Literal["open", "partly", "filled", "rejected", "cancelled", "unknown"]
WORKING: tuple[State, ...] = ("open", "partly")
"""States in which more of an order may still fill."""


class BrokerError(OSError):
    """A broker that cannot be reached, or whose answer is not understood; whether it acted is not known."""


@dataclasses.dataclass(frozen=True)
class Order:
    """A market order.

    Attributes:
      client_id: see `client_id`.
      symbol: of the asset.
      quantity: shares, signed: > 0 buys.
      price: last price when it was decided, currency.
      time: of the bar at whose close it was decided.
    """

    client_id: str
    symbol: str
    quantity: float
    price: float
    time: str


@dataclasses.dataclass(frozen=True)
class Status:
    """What became of an order.

    Attributes:
      state: "unknown" where the broker has no order of that id.
      filled: shares so far, signed.
      reason: of a rejection, in the broker's words.
      price: average of what has filled so far, currency; 0 where nothing has, or the broker says none.
      fee: charged for it so far, currency; a rebate is negative.
    """

    state: State
    filled: float = 0.0
    reason: str = ""
    price: float = 0.0
    fee: float = 0.0


class Broker(Protocol):
    """Takes orders. What cannot be reached raises `BrokerError`; a rejection is an answer, no error.

    Attributes:
      name: of broker and account: orders of two accounts have different ids.
      keeps_account: whether the account is that of the accounting function, so that the policy is told no positions.
    """

    name: str
    keeps_account: bool

    def positions(self) -> Positions:
        """The account as it is, with what is on order."""

    def submit(self, order: Order) -> Status:
        """Sends an order. One whose id is known already is not sent twice: its status is returned.

        Args:
          order: to be sent.
        """

    def orders(self, orders: Sequence[Order]) -> dict[str, Status]:
        """Client id -> what became of the order; "unknown" for one that never arrived.

        Args:
          orders: that may have been sent.
        """

    def cancel(self, order: Order) -> None:
        """Takes back what has not filled; of an order that is done, nothing.

        Args:
          order: that was sent.
        """


def client_id(identity: str, account: str, time: str, symbol: str) -> str:
    """The id of an order, which is the same whenever the same decision is sent again; 27 letters and digits.

    Args:
      identity: of the policy.
      account: name of broker and account.
      time: of the bar.
      symbol: of the asset.
    """
    content = json.dumps([identity, account, time, symbol]).encode()
    return f"jxp{hashlib.sha256(content).hexdigest()[:24]}"
