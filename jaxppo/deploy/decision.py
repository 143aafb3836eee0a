"""What was decided at one close, for people and for brokers: a table, CSV, JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from typing import Any

import numpy as np
import pandas as pd

ORDER_COLUMNS = ("symbol", "side", "quantity", "price", "notional", "position", "weight", "target", "cost", "reasons")
BASE = "base"
"""Name of the sizing transform that adds what the policy decides to its base."""
SAME = 1e-5
"""Weights that differ by less are the same."""


@dataclasses.dataclass(frozen=True, eq=False)
class Decision:
    """A decision at the close of a bar, and its orders for the next one; arrays are NumPy's.

    Attributes:
      time: of the bar, its start, UTC; its number in a market without times.
      symbols: names of the A assets.
      price: `[A]` last price, currency.
      shares: `[A]` positions at that close.
      values: what was decided and why, see `jaxppo.deploy.explained.Explained`.
      masks: names of the masks of `bound`, in order.
      sizing: names of the sizing transforms.
      notes: what a reader has to know, a sentence each.
      status: "decided"; or why there are no orders: "warming up" (features and window are not complete), "stale" (the
        bar is too old to trade on) or "refused" (the record was not used).
    """

    time: str
    symbols: tuple[str, ...]
    price: np.ndarray
    shares: np.ndarray
    values: dict[str, np.ndarray]
    masks: tuple[str, ...] = ()
    sizing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    status: str = "decided"

    @property
    def equity(self) -> float:
        """Of the account at that close, currency."""
        return float(self.values["equity"])

    @property
    def targets(self) -> dict[str, float]:
        """Symbol -> weight that the order leads to, after all limits, fraction of equity."""
        return dict(zip(self.symbols, self.values["targets"].tolist(), strict=True))

    @property
    def table(self) -> pd.DataFrame:
        """A row for each asset: position, what was decided, what became of it, the order and its expected cost."""
        values, ordered = self.values, self.values["ordered"].astype(np.float64)
        found = pd.DataFrame(
            {
                "symbol": self.symbols,
                "side": np.where(ordered > 0, "buy", np.where(ordered < 0, "sell", "")),
                "quantity": np.abs(ordered),
                "price": self.price.astype(np.float64),
                "notional": np.abs(ordered) * self.price,
                "position": self.shares.astype(np.float64),
                "weight": values["weights"].astype(np.float64),
                "decided": values["decided"].astype(np.float64),
                "sized": values["sized"].astype(np.float64),
                "target": values["targets"].astype(np.float64),
                "cost": values["cost"].astype(np.float64),
                "reasons": ["; ".join(self.reasons(number)) for number in range(len(self.symbols))],
            }
        )
        if self.has_limits:
            found.insert(found.columns.get_loc("price") + 1, "limit", values["limit"].astype(np.float64))
        return found

    @property
    def has_limits(self) -> bool:
        """Whether orders have limits; the table then has their prices, NaN of orders at the market."""
        return not isinstance(self.values.get("limit", ()), tuple)

    @property
    def orders(self) -> pd.DataFrame:
        """A row for each order: symbol, side, quantity in shares, price, notional, position and so on."""
        table = self.table
        columns = [name for name in table.columns if name in (*ORDER_COLUMNS, "limit")]
        return table[table["quantity"] > 0][columns].reset_index(drop=True)

    def reasons(self, number: int) -> list[str]:
        """What changed the decision for an asset, in order.

        Args:
          number: of the asset.
        """
        values = self.values
        found = ["no bar at this close"] if not values["tradable"][number] else []
        if bool(values["liquidated"]):
            return [*found, "the account was liquidated"]
        if abs(float(values["sized"][number] - values["decided"][number])) > SAME:
            found += self._sized()
        found += [
            f"limited by {name}" for name, bound in zip(self.masks, values["bound"], strict=True) if bound[number]
        ]
        if bool(values["stopped"]):
            found.append("closed by a monitored limit")
        if values["levered"][number]:
            found.append("scaled to the leverage limit")
        if values["cut"][number]:
            found.append("cut to whole lots, or too small")
        return found

    def _sized(self) -> list[str]:
        """What sizing has done, in the order in which it comes; a base is named as what the agent tilts."""
        others = [name for name in self.sizing if name != BASE]
        sized = [f"sized by {', '.join(others)}"] if others else [] if self.sizing else ["sized"]
        return [*(["the base with the agent's tilt"] if BASE in self.sizing else []), *sized]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and text: what one line of JSON holds."""
        return {
            "time": self.time,
            "status": self.status,
            "equity": self.equity,
            "stopped": bool(self.values["stopped"]),
            "liquidated": bool(self.values["liquidated"]),
            "assets": [
                {name: _plain(value) for name, value in row.items()} for row in self.table.to_dict(orient="records")
            ],
            "notes": list(self.notes),
        }

    def write(self, path: str | pathlib.Path) -> pathlib.Path:
        """Writes the orders: as JSON, all that is known, where the name ends in .json, else as CSV.

        Args:
          path: of the file.
        """
        path = pathlib.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".json":
            text = json.dumps(self.as_dict(), indent=2) + "\n"
        else:
            text = self.orders.to_csv(index=False)
        draft = path.with_name(path.name + ".part")
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
        return path

    def __str__(self) -> str:
        """A table for a terminal."""
        table, lines = self.table, [f"decided at {self.time}, equity {self.equity:,.2f}"]
        rows = [("symbol", "order", "price", "weight", "target", "cost", "why")]
        for row in table.itertuples():
            order = f"{row.side} {row.quantity:,.6g}" if row.quantity > 0 else "-"
            if self.has_limits and row.quantity > 0:
                order += f" at {row.limit:,.6g}" if math.isfinite(row.limit) else " at the market"
            rows.append(
                (row.symbol, order, f"{row.price:,.6g}", f"{row.weight:+.2%}", f"{row.target:+.2%}", f"{row.cost:,.2f}",
                 row.reasons)
            )  # fmt: skip
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        n = int((table["quantity"] > 0).sum())
        lines.append(
            f"{n} order{'' if n == 1 else 's'}, {table['notional'].sum() / max(self.equity, 1e-12):.1%} of the equity, "
            f"expected to cost {table['cost'].sum():,.2f}"
        )
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def _plain(value: Any) -> Any:
    """A value as JSON has it; numbers that are not finite are null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
