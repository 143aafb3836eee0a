"""What a trade costs and how much of it gets done: commission, spread, slippage, impact, participation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from pydantic import Field

from jaxppo.arguments import (
    BasisPoints,
    Charge,
    CodeOnly,
    CostFactor,
    Factor,
    Leverage,
    NonNegativeRatio,
    PositiveCoefficient,
    PositiveFraction,
    Power,
    ProperFraction,
    YearlyRate,
    checked,
)
from jaxppo.envs.execution.bars import Bar
from jaxppo.envs.execution.by_symbol import PerSymbol, PerSymbolShare, given, of_symbols
from jaxppo.envs.execution.impact import Impact
from jaxppo.envs.execution.slippage import SlippageConditions
from jaxppo.envs.market.safe import root, size_of


class Costs(struct.PyTreeNode):
    """Prices of trading and holding; every field is traceable, most are scalars, so a batch may be `vmap`ped.

    Attributes:
      commission_rate: `[]` fraction of the traded notional (1e-4 is 1 basis point).
      commission_per_share: `[]` currency per share.
      commission_minimum: `[]` currency per filled order of one asset in one bar.
      spread_multiplier: `[]` share of the market's half-spread paid by each fill; 1 crosses the whole half-spread.
      slippage: `[]` adverse price move per fill, in multiples of the per-bar volatility forecast.
      impact: `[]` `Y` of the square-root law, 0.5-1 in the literature; 0 switches impact off.
      participation_limit: `[]` largest share of the bar's volume that one fill may be, > 0; 1e30 for no limit.
      borrow_rate: `[]` fee per year on the market value of short positions, fraction.
      margin_rate: `[]` interest per year on negative cash, fraction.
      max_leverage: `[]` largest gross exposure that an order may aim at, multiple of equity.
      maintenance_margin: `[]` equity below this fraction of gross exposure liquidates the portfolio.
      displacement: `Impact`, what the account's trades do to the price of later ones; `()` for nothing.
      conditions: `SlippageConditions` that the table of bars is made with, one for a batch of costs on one table; `()`
        for none.
      latency: `[FillRule.latency_bars]` bool, true for the one of the next bars in which orders are due, the first is
        the next; the same for all orders of an account. `()` for the last, as the fill rule says.
      cash_rate: `[]` interest per year that positive cash earns, fraction; `()` for none.
      margin_volatility: `[]` margin of a future, in forecast deviations of the profit of a bar; `()` for margins by
        notional.
      initial_margins: `[]` or `[A]` equity that a position needs, fraction of its value; 0 for that of `max_leverage`
        or `margin_volatility`, `()` for no others.
      maintenance_margins: `[]` or `[A]` in place of `maintenance_margin`, fraction of the value; 0 for that one, `()`
        for no others.
      lot_size: `[]` or `[A]` shares that orders are multiples of; `()` for any fraction.
      minimum_notional: `[]` or `[A]` smallest value of an order, currency; `()` for any.
      exits: `Exits`, what closes positions inside a bar; `()` for nothing.
      limit_orders: `LimitOrders`, where orders rest; `()` for orders at the market.
      own: static; `(quantity, price, bar) -> [A]`, currency >= 0 of slippage beside the rest; `()` for nothing.
    """

    commission_rate: jax.Array
    commission_per_share: jax.Array
    commission_minimum: jax.Array
    spread_multiplier: jax.Array
    slippage: jax.Array
    impact: jax.Array
    participation_limit: jax.Array
    borrow_rate: jax.Array
    margin_rate: jax.Array
    max_leverage: jax.Array
    maintenance_margin: jax.Array
    displacement: Any = ()
    conditions: Any = ()
    latency: Any = ()
    cash_rate: Any = ()
    margin_volatility: Any = ()
    initial_margins: Any = ()
    maintenance_margins: Any = ()
    lot_size: Any = ()
    minimum_notional: Any = ()
    exits: Any = ()
    limit_orders: Any = ()
    own: Any = struct.field(pytree_node=False, default=())


FourFactors = Annotated[tuple[Factor, ...], Field(min_length=4, max_length=4)]
NO_PARTICIPATION_LIMIT = 1e30
OMISSIBLE = ("commission_per_share", "spread_multiplier", "slippage", "impact", "borrow_rate", "margin_rate")
"""Prices that are left out of a program which is written with the number 0 for them, instead of an array."""


def zero_prices(costs: Costs) -> tuple[str, ...]:
    """Those of `OMISSIBLE` that are zero; host-side."""
    return tuple(name for name in OMISSIBLE if not np.any(np.asarray(getattr(costs, name))))


def without(costs: Costs, names: Sequence[str]) -> Costs:
    """Costs with the number 0 for some prices, which makes them free to compute as well; within a program.

    Args:
      costs: cost parameters.
      names: of `OMISSIBLE`.
    """
    return costs.replace(**dict.fromkeys(names, 0.0))


def is_charged(price: jax.Array | float) -> bool:
    """Whether a price has to be computed with: it is not the number 0."""
    return not isinstance(price, float) or price != 0.0


@checked
def make_costs(
    *,
    commission_bps: BasisPoints = 1.0,
    commission_per_share: Charge = 0.0,
    commission_minimum: Charge = 0.0,
    spread_multiplier: CostFactor = 1.0,
    slippage: CostFactor = 0.02,
    slippage_open: Factor = 1.0, slippage_close: Factor = 1.0,
    slippage_volatility: Power = 0.0, slippage_volume: Power = 0.0, slippage_spread: Power = 0.0,
    slippage_regimes: FourFactors | None = None,
    impact: CostFactor = 0.6,
    transient_impact: CostFactor = 0.0, transient_half_life: NonNegativeRatio = 1.0, permanent_impact: CostFactor = 0.0,
    participation_limit: PositiveFraction | None = 0.1,
    borrow_rate: YearlyRate = 0.01, margin_rate: YearlyRate = 0.05,
    max_leverage: Leverage = 1.0, maintenance_margin: ProperFraction = 0.25,
    cash_rate: YearlyRate = 0.0,
    margin_volatility: PositiveCoefficient | None = None,
    initial_margins: PerSymbolShare | None = None, maintenance_margins: PerSymbolShare | None = None,
    lot_size: PerSymbol | None = None,
    minimum_notional: PerSymbol | None = None,
    symbols: CodeOnly[tuple[str, ...]] = (),
) -> Costs:  # fmt: skip
    """Builds costs of trading and holding from plain numbers; impact that lasts needs `FillRule(displacement=True)`.

    Args:
      commission_bps: commission, basis points of notional.
      commission_per_share: commission, currency per share.
      commission_minimum: smallest commission of a filled order, currency.
      spread_multiplier: share of the half-spread that a fill pays.
      slippage: adverse move of each fill, multiples of per-bar volatility; the other keys of slippage multiply it by
        what is known at the close before, all together by 0.1 to 10.
      slippage_open: factor of slippage in the first bar of a session of several bars.
      slippage_close: factor of slippage in the last bar of a session of several bars.
      slippage_volatility: power of the volatility forecast over its usual value (252 bars) that multiplies slippage.
      slippage_volume: power of the usual volume over the forecast that multiplies slippage.
      slippage_spread: power of the half-spread over its usual value that multiplies slippage.
      slippage_regimes: factors of slippage in bull, bear, sideways and crisis; needs regimes.
      impact: Y of the square-root law of impact.
      transient_impact: how far a fill of a bar's normal volume moves the price of the account's later ones, multiples
        of per-bar volatility; it decays.
      transient_half_life: bars in which half of that has decayed; 0 for linear impact on the fill itself alone.
      permanent_impact: likewise, impact that stays.
      participation_limit: largest share of a bar's volume per fill; None for no limit.
      borrow_rate: borrow fee on short positions, per year.
      margin_rate: interest on negative cash, per year.
      max_leverage: largest gross exposure that an order may aim at, multiple of equity.
      maintenance_margin: equity below this share of gross exposure is liquidated.
      cash_rate: interest that positive cash earns, per year; of futures all equity is cash.
      margin_volatility: margin of a future, standard deviations of a bar's profit, in place of max_leverage;
        maintenance_margin is then a share of it. None for notional.
      initial_margins: equity that a position needs, fraction of its value, of all symbols or each; others need that of
        max_leverage, or of margin_volatility.
      maintenance_margins: fraction of the value of a position that counts in place of maintenance_margin, likewise.
      lot_size: shares that orders are multiples of, of all symbols or each (others any), but to close a position.
      minimum_notional: smallest value of an order, currency, of all symbols or each; smaller ones are not sent.
      symbols: of the market's assets, in order, for values by symbol.

    Raises:
      ValueError: a value outside its range, a symbol that is not there, or margins that liquidate what is held.
    """
    _check_margins(maintenance_margin, max_leverage)
    _check_by_symbol(initial_margins, maintenance_margins, maintenance_margin, max_leverage)
    powers = {"volatility": slippage_volatility, "volume": slippage_volume, "spread": slippage_spread}
    limit = NO_PARTICIPATION_LIMIT if participation_limit is None else participation_limit
    return Costs(
        **_traced(
            commission_rate=commission_bps * 1e-4, commission_per_share=commission_per_share,
            commission_minimum=commission_minimum, spread_multiplier=spread_multiplier, slippage=slippage,
            impact=impact, participation_limit=limit, borrow_rate=borrow_rate, margin_rate=margin_rate,
            max_leverage=max_leverage, maintenance_margin=maintenance_margin,
        ),
        displacement=_displacement(transient_impact, transient_half_life, permanent_impact),
        cash_rate=given(cash_rate if cash_rate > 0 else None),
        margin_volatility=given(margin_volatility),
        initial_margins=of_symbols("initial_margins", initial_margins, symbols),
        maintenance_margins=of_symbols("maintenance_margins", maintenance_margins, symbols),
        lot_size=of_symbols("lot_size", lot_size, symbols),
        minimum_notional=of_symbols("minimum_notional", minimum_notional, symbols),
        conditions=_conditions({"open": slippage_open, "close": slippage_close}, powers, slippage_regimes),
    )  # fmt: skip


def _check_margins(maintenance_margin: float, max_leverage: float) -> None:
    """Refuses margins that liquidate a portfolio which is fully invested."""
    if not maintenance_margin * max_leverage < 1:
        raise ValueError(
            f"maintenance_margin {maintenance_margin} with max_leverage {max_leverage} liquidates a portfolio that is "
            "fully invested: their product must be < 1"
        )


def _check_by_symbol(initial: Any, maintenance: Any, maintenance_margin: float, max_leverage: float) -> None:
    """Refuses a symbol whose maintenance margin is not below what its position needs at first."""

    def of(given: Any, symbol: str | None, otherwise: float) -> float:
        return given.get(symbol, otherwise) if isinstance(given, Mapping) else otherwise if given is None else given

    named = {symbol for given in (initial, maintenance) if isinstance(given, Mapping) for symbol in given}
    for symbol in (None, *sorted(named)):
        first, least = of(initial, symbol, 1 / max_leverage), of(maintenance, symbol, maintenance_margin)
        if not least < first:
            whose = f" of {symbol}" if symbol else ""
            raise ValueError(
                f"maintenance_margins{whose} is {least:g} and initial_margins{whose} {first:g} (without a value, "
                "maintenance_margin and 1 / max_leverage); the first must be less, or a position is liquidated at once"
            )


def _displacement(transient: float, half_life: float, permanent: float) -> Any:
    """What the account's trades do to later prices; `()` for nothing."""
    displaced = transient > 0 or permanent > 0
    return Impact(**_traced(transient=transient, half_life=half_life, permanent=permanent)) if displaced else ()


def _conditions(factors: dict[str, float], powers: dict[str, float], regimes: tuple[float, ...] | None) -> Any:
    """What slippage depends on; `()` for nothing."""
    if all(factor == 1 for factor in factors.values()) and not any(powers.values()) and regimes is None:
        return ()
    by_regime = () if regimes is None else jnp.asarray(regimes, jnp.float32)
    return SlippageConditions(**_traced(**factors, **powers), regimes=by_regime)


def basic_costs(**charged: Any) -> Costs:
    """Builds the simplest costs: fills cross the market's half-spread; nothing else is charged but what is named.

    Args:
      **charged: arguments of `make_costs`.

    Raises:
      ValueError: as `make_costs`.
    """
    free: dict[str, Any] = dict.fromkeys(("commission_bps", "slippage", "impact", "borrow_rate", "margin_rate"), 0.0)
    return make_costs(**{**free, "participation_limit": None, **charged})


def _traced(**values: float) -> dict[str, jax.Array]:
    return {name: jnp.asarray(value, jnp.float32) for name, value in values.items()}


class TradeCosts(struct.PyTreeNode):
    """Currency paid for the fills of one bar, by kind; each `[A]`, >= 0.

    Only `impact` can be negative: where a fill is on the other side of the displacement that earlier ones have left.
    """

    commission: jax.Array
    spread: jax.Array
    slippage: jax.Array
    impact: jax.Array

    def total(self) -> jax.Array:
        """Sum over kinds, `[A]`."""
        return self.commission + self.spread + self.slippage + self.impact


def trade_costs(quantity: jax.Array, price: jax.Array, bar: Bar, costs: Costs) -> TradeCosts:
    """Cost of filling `quantity` at a mid price of `price`; always adverse, whatever the side.

    Impact is the average cost of the square-root law, two thirds of the peak:
    `2/3 Y sigma sqrt(|q| / V) |q| p` with per-bar volatility `sigma` and normal volume `V`.

    Args:
      quantity: `[A]` shares, signed.
      price: `[A]` mid price of the fill.
      bar: conditions of the fill.
      costs: cost parameters.

    References:
      Toth et al. (2011), Anomalous price impact and the critical nature of liquidity, Phys. Rev. X 1.
    """
    size = size_of(quantity)
    notional = size * price
    spread = slippage = impact = jnp.zeros_like(notional)
    commission = costs.commission_rate * notional
    if is_charged(costs.commission_per_share):
        commission = commission + costs.commission_per_share * size
    if is_charged(costs.spread_multiplier):
        spread = notional * (bar.half_spread * costs.spread_multiplier)
    if is_charged(costs.slippage):
        moved = bar.volatility * costs.slippage
        if not isinstance(bar.slippage_scale, tuple):
            moved = moved * bar.slippage_scale
        slippage = notional * moved
    if is_charged(costs.impact):
        participation = root(size / bar.average_volume)
        impact = notional * participation * (bar.volatility * costs.impact * (2.0 / 3.0))
    if not isinstance(costs.own, tuple):
        slippage = slippage + jnp.where(size > 0, costs.own(quantity, price, bar), 0.0)
    commission = jnp.where(size > 0, jnp.maximum(costs.commission_minimum, commission), 0.0)
    return TradeCosts(commission=commission, spread=spread, slippage=slippage, impact=impact)


def fillable(wanted: jax.Array, bar: Bar, costs: Costs) -> jax.Array:
    """Part of an order that the bar can absorb: `|fill| <= participation_limit * volume`, 0 on a halted asset.

    Args:
      wanted: `[A]` shares, signed.
      bar: the bar in which the order is worked.
      costs: cost parameters.

    Returns:
      `[A]` shares, signed, same side as `wanted`.
    """
    limit = costs.participation_limit * bar.available_volume
    return jnp.where(limit > 0, jnp.clip(wanted, -limit, limit), 0.0)
