"""How orders reach the market, and whether the costs of a run agree with it."""

from __future__ import annotations

import dataclasses
from typing import Literal

from jaxppo.arguments import BoundedInt, DelistingReturn, check
from jaxppo.envs.execution.costs import Costs
from jaxppo.envs.execution.exits import Exits
from jaxppo.envs.execution.impact import Impact
from jaxppo.envs.execution.limit_orders import LimitOrders


@dataclasses.dataclass(frozen=True)
class FillRule:
    """How orders reach the market (static).

    Attributes:
      latency_bars: bars from decision to fill; 1 fills at the next open. With `Costs.latency` the most that there may
        be.
      unfilled: what happens to the part of an order that a bar could not absorb: `"carry"` works it in the following
        bars until a new decision replaces it, `"drop"` cancels it.
      fill_price: price of fills; `"decision_close"` is a price that the decision has already seen, which no market
        offers: for research on that bias only, with a latency of 1, and reports say so in red.
      displacement: own trades move the price of later ones, by `Costs.displacement`.
      exits: positions are closed inside a bar at the prices of `Costs.exits`.
      limit_orders: orders rest at the prices of `Costs.limit_orders`. With a latency of more than 1 what is unfilled
        has to be carried: orders that were decided since count on it.
      delisting: what a position in an asset is settled for in the bar after its last one: that bar's close; the close
        after a return, such as -0.3; `freeze` keeps the position at the close to the end.

    Raises:
      ValueError: an attribute outside its range.
    """

    latency_bars: BoundedInt = 1
    unfilled: Literal["carry", "drop"] = "carry"
    fill_price: Literal["next_open", "decision_close"] = "next_open"
    displacement: bool = False
    exits: bool = False
    delisting: Literal["last_close", "freeze"] | DelistingReturn = "last_close"
    limit_orders: bool = False

    def __post_init__(self):
        check(FillRule, vars(self))
        if self.fill_price == "decision_close" and self.latency_bars != 1:
            raise ValueError(f"fill_price 'decision_close' needs latency_bars 1, not {self.latency_bars}")
        if self.fill_price == "decision_close" and self.exits:
            raise ValueError("fill_price 'decision_close' allows no stop_loss, take_profit or trailing_stop")
        if self.limit_orders:
            self._check_limit_orders()

    def _check_limit_orders(self) -> None:
        """Refuses what limit orders do not go with."""
        if self.fill_price == "decision_close":
            raise ValueError("fill_price 'decision_close' allows no limit orders, which fill in later bars")
        if self.displacement:
            raise ValueError(
                "transient and permanent impact allow no limit orders: highs and lows know nothing of own trades"
            )
        if self.latency_bars > 1 and self.unfilled == "drop":
            raise ValueError(
                f"unfilled 'drop' with latency_bars {self.latency_bars} allows no limit orders: those on their way "
                "count on the ones before; use 'carry', or latency_bars 1"
            )

    @property
    def ranges(self) -> bool:
        """Whether fills depend on the highs and lows of bars."""
        return self.exits or self.limit_orders


def check_agree(costs: Costs, rule: FillRule) -> None:
    """Checks that costs and fill rule agree about impact that lasts, exits and limit orders.

    Args:
      costs: cost parameters.
      rule: how orders reach the market.

    Raises:
      ValueError: one of the two has a displacement of prices, exits or limit orders, and the other has not.
    """
    if isinstance(costs.displacement, Impact) != rule.displacement:
        raise ValueError(
            "transient and permanent impact need FillRule(displacement=True), and that needs one of them: the costs "
            f"have {'some' if isinstance(costs.displacement, Impact) else 'none'}, and the rule says "
            f"displacement={rule.displacement}"
        )
    if isinstance(costs.exits, Exits) != rule.exits:
        raise ValueError(
            "stop_loss, take_profit and trailing_stop need FillRule(exits=True), and that needs one of them: the costs "
            f"have {'some' if isinstance(costs.exits, Exits) else 'none'}, and the rule says exits={rule.exits}"
        )
    if isinstance(costs.limit_orders, LimitOrders) != rule.limit_orders:
        raise ValueError(
            "limit orders need FillRule(limit_orders=True), and that needs an offset: the costs have "
            f"{'one' if isinstance(costs.limit_orders, LimitOrders) else 'none'}, and the rule says "
            f"limit_orders={rule.limit_orders}"
        )


def check_latency(costs: Costs, rule: FillRule) -> None:
    """Checks that costs and fill rule agree about latency.

    Args:
      costs: cost parameters.
      rule: how orders reach the market.

    Raises:
      ValueError: the costs have a latency, of another number of bars than the rule.
    """
    if not isinstance(costs.latency, tuple) and costs.latency.shape != (rule.latency_bars,):
        raise ValueError(
            f"orders of these costs are due within {costs.latency.shape[-1]} bars, and FillRule says latency_bars="
            f"{rule.latency_bars}; the two must be equal"
        )
