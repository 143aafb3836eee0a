"""What positions are paid, or pay, at the open of a bar: dividends, and the funding of perpetuals.

Both are those of the shares that were held at the close before, whatever fills in the bar:

- a dividend of `D_a` a share: `shares_a D_a`, which a short position pays. It is cash at the ex-date.
- a funding rate `f_a`: `f_a shares_a mark_a` from longs to shorts, with the mark of the close before.

A payment is known at its bar, and no decision before it sees it. Without such columns nothing of this is computed.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.envs.market.market_data import MarketData


class Payments(struct.PyTreeNode):
    """What the positions of an account were paid in a bar.

    Attributes:
      dividends: `[A]` currency received; negative where a short position paid.
      funding: `[A]` currency paid; negative where it was received.
    """

    dividends: jax.Array
    funding: jax.Array


def payments(shares: jax.Array, mark: jax.Array, funding: Any, dividend: Any, fill_price: str) -> Any:
    """Payments of a bar on the positions held at its open, before its fills; `()` in a market without any.

    Args:
      shares: `[A]` positions at the close before, signed.
      mark: `[A]` price there.
      funding: as in `Bar`.
      dividend: as in `Bar`.
      fill_price: as in `FillRule`.

    Raises:
      ValueError: orders that fill at the close before: what they buy there would have had the payments of the bar.
    """
    if isinstance(funding, tuple):
        return ()
    if fill_price == "decision_close":
        raise ValueError("fill_price 'decision_close' allows no dividends and no funding")
    dividends = jnp.zeros_like(shares) if isinstance(dividend, tuple) else shares * dividend
    return Payments(dividends, funding * shares * mark)


def booked(paid: Any, profit: jax.Array, financing: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Profit `[A]` with the dividends, and financing `[]` with the funding.

    Args:
      paid: from `payments`.
      profit: `[A]` currency, from prices alone.
      financing: `[]` currency, borrow fee and interest.
    """
    return (profit, financing) if isinstance(paid, tuple) else (profit + paid.dividends, financing + paid.funding.sum())


def after_dividends(price: jax.Array, mark: jax.Array, dividend: Any) -> jax.Array:
    """A price that an account remembers `[A]`, less what the dividend of the bar takes from it: `p (1 - D / mark)`.

    Stop orders are reduced alike at exchanges: a fall by the dividend is no loss.

    Args:
      price: `[A]` remembered.
      mark: `[A]` of the close before.
      dividend: as in `Bar`.
    """
    return price if isinstance(dividend, tuple) else price * (1.0 - dividend / mark)


def as_traded(market: MarketData) -> MarketData:
    """The market at the prices at which accounts trade and are marked: without the dividends that they are paid.

    Args:
      market: unbatched.
    """
    if isinstance(market.dividends, tuple):
        return market
    return market.replace(
        **{name: getattr(market, name) / market.dividends.factor for name in ("open", "high", "low", "close")}
    )


def payment_rows(market: MarketData, ahead: bool) -> dict[str, jax.Array]:
    """Rows of the table of bars: `funding` `[T, A]` and, where there are any, `dividend`; empty without payments.

    Args:
      market: unbatched.
      ahead: of the bar after each, whose payments are unknown: 0.
    """
    rows: dict[str, jax.Array] = {}
    if not isinstance(market.funding, tuple):
        rows["funding"] = market.funding
    if not isinstance(market.dividends, tuple):
        rows["dividend"] = market.dividends.amount
    return {name: jnp.zeros_like(x) for name, x in rows.items()} if ahead else rows
