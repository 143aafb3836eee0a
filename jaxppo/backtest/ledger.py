"""The ledger of an account: what a policy did, bar by bar."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxppo.backtest.account import AccountStep
from jaxppo.envs.execution.costs import TradeCosts
from jaxppo.envs.execution.portfolio import weights_of


class Ledger(struct.PyTreeNode):
    """What a policy did over n bars.

    Attributes:
      equity: `[n + 1]` currency at the close of each bar, the starting capital first.
      ordered: `[n, A]` shares ordered at the decision before each bar.
      shares: `[n, A]` positions at the close of each bar.
      weights: `[n, A]` position weights at the close of each bar.
      quantity: `[n, A]` shares filled in each bar, exits and forced liquidations included.
      price: `[n, A]` mid price of the fills, exits apart; of a fill and a liquidation in one bar their mean, weighted
        by shares.
      costs: `[n]` currency by kind.
      paid: `[n, A]` currency, costs of all kinds by asset.
      financing: `[n]` currency, borrow fee, margin interest and funding less interest on cash.
      turnover: `[n]` traded notional as a fraction of the equity before the bar.
      liquidated: `[]` bool: the account was liquidated; it stays out of the market from then on.
      monitored: monitored limit -> `[n]` level after each bar.
      exited: `[n, A]` `Exited`, what stop-losses, take-profits and trailing stops closed; `()` without them.
      payments: `[n, A]` `Payments`, dividends received and funding paid; `()` in a market without them.
      recorded: `[n]` pytree: what `record` kept of each bar, see `simulate_account`.
    """

    equity: jax.Array
    ordered: jax.Array
    shares: jax.Array
    weights: jax.Array
    quantity: jax.Array
    price: jax.Array
    costs: TradeCosts
    paid: jax.Array
    financing: jax.Array
    turnover: jax.Array
    liquidated: jax.Array
    monitored: dict[str, jax.Array] = struct.field(default_factory=dict)
    exited: Any = ()
    payments: Any = ()
    recorded: Any = ()

    @property
    def legs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Fills in the order in which they happened, host-side: shares, prices and costs, `[n, A]`.

        `[2 n, A]` with exits: what filled at the open of each bar, then what an exit closed.
        """
        fills = np.asarray(self.quantity), np.asarray(self.price), np.asarray(self.paid)
        if isinstance(self.exited, tuple):
            return fills
        exited = tuple(np.asarray(x) for x in (self.exited.quantity, self.exited.price, self.exited.paid))
        at_open = (fills[0] - exited[0], fills[1], fills[2] - exited[2])
        quantity, price, paid = (
            np.stack(pair, axis=1).reshape(-1, pair[0].shape[-1]) for pair in zip(at_open, exited, strict=True)
        )
        return quantity, price, paid

    @property
    def returns(self) -> np.ndarray:
        """Simple returns per bar, `[n]` float64, host-side; 0 once nothing is left (a debt does not earn)."""
        return returns_of(self.equity)

    @property
    def expenses(self) -> np.ndarray:
        """Costs of trading of all kinds and financing per bar, `[n]` currency, float64, host-side."""
        kinds = (self.costs.commission, self.costs.spread, self.costs.slippage, self.costs.impact, self.financing)
        return np.sum([np.asarray(kind, np.float64) for kind in kinds], axis=0)


def returns_of(equity: jax.Array | np.ndarray) -> np.ndarray:
    """Simple returns per bar `[..., n]` of `[..., n + 1]` equity; see `Ledger.returns`."""
    equity = np.asarray(equity, np.float64)
    before, after = equity[..., :-1], equity[..., 1:]
    alive = before > 0
    return np.where(alive, after / np.where(alive, before, 1.0) - 1.0, 0.0)


def ledger_line(step: AccountStep, recorded: Any = ()) -> Ledger:
    """The line of a ledger of one bar.

    Args:
      step: what the bar did.
      recorded: what is kept of it besides.
    """
    fills, after = step.result.fills, step.result.after
    exited = fills.exited
    quantity = fills.quantity + fills.liquidation
    spent = fills.quantity * fills.price + fills.liquidation * after.price
    mixed = (fills.liquidation != 0) & (quantity != 0)
    return Ledger(
        equity=after.equity,
        ordered=step.result.ordered,
        shares=after.shares,
        weights=weights_of(after),
        quantity=quantity if isinstance(exited, tuple) else quantity + exited.quantity,
        price=jnp.where(mixed, spent / jnp.where(mixed, quantity, 1.0), fills.price),
        costs=jax.tree.map(jnp.sum, fills.costs),
        paid=fills.costs.total(),
        financing=fills.financing,
        turnover=step.result.outcome.turnover,
        liquidated=step.liquidated,
        monitored=step.monitored,
        exited=exited,
        payments=fills.payments,
        recorded=recorded,
    )


def whole_ledger(capital: jax.Array, lines: Ledger, liquidated: jax.Array) -> Ledger:
    """Joins consecutive lines to a ledger.

    Args:
      capital: `[]` currency at the start.
      lines: of the bars, leading axis `n`.
      liquidated: `[]` bool at the end.
    """
    return lines.replace(equity=jnp.concatenate([capital[None], lines.equity]), liquidated=liquidated)
