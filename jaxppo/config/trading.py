"""Keys of the environment, of the costs of trading, and of what fills or closes inside a bar."""

from __future__ import annotations

from typing import Any, Literal

from jaxppo import envs
from jaxppo.arguments import (
    DelistingReturn,
    Leverage,
    Numbers,
    OpenFraction,
    OwnName,
    PositiveCoefficient,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
    PriceOffset,
    Text,
)
from jaxppo.config.from_signature import key_of
from jaxppo.config.items import Keys
from jaxppo.envs.execution.costs import FourFactors


class EnvConfig(Keys):
    """The trading environment (`envs.TradingEnv`), or any gymnax environment with the MLP policy."""

    name: Text = "trading"
    """`trading`, or the id of a gymnax environment such as CartPole-v1; then no other key of this section counts."""
    actions: Literal["discrete", "continuous", "band", "hierarchical"] = key_of(envs.TradingEnv, "actions")
    units: Literal["weight", "risk"] = "weight"
    """Targets are shares of equity, or with `risk` a budget of volatility. `sizing` then begins with `risk_units`,
    with its defaults unless it is named there."""
    levels: Numbers = key_of(envs.TradingEnv, "levels")
    gross_buckets: Numbers = key_of(envs.TradingEnv, "gross_buckets")
    position_limit: Leverage | None = key_of(envs.TradingEnv, "position_limit")
    initial_cash: float = key_of(envs.TradingEnv.make_params, "initial_cash")
    episode_chunks: PositiveInt = 2
    """Length of a training episode in rollout chunks."""
    risk_aversion: float = key_of(envs.TradingEnv.make_params, "risk_aversion")
    drawdown_limit: OpenFraction | None = key_of(envs.TradingEnv.make_params, "drawdown_limit")
    start: Literal["flat", "random"] = key_of(envs.TradingEnv, "start")
    latency_bars: int = key_of(envs.FillRule, "latency_bars")
    unfilled: Literal["carry", "drop"] = key_of(envs.FillRule, "unfilled")
    fill_price: Literal["next_open", "decision_close"] = key_of(envs.FillRule, "fill_price")
    delisting: Literal["last_close", "freeze"] | DelistingReturn = key_of(envs.FillRule, "delisting")


class CostsConfig(Keys):
    """Costs of trading and holding (`envs.make_costs`)."""

    commission_bps: float = key_of(envs.make_costs, "commission_bps")
    commission_per_share: float = key_of(envs.make_costs, "commission_per_share")
    commission_minimum: float = key_of(envs.make_costs, "commission_minimum")
    spread_multiplier: float = key_of(envs.make_costs, "spread_multiplier")
    slippage: float = key_of(envs.make_costs, "slippage")
    slippage_open: float = key_of(envs.make_costs, "slippage_open")
    slippage_close: float = key_of(envs.make_costs, "slippage_close")
    slippage_volatility: float = key_of(envs.make_costs, "slippage_volatility")
    slippage_volume: float = key_of(envs.make_costs, "slippage_volume")
    slippage_spread: float = key_of(envs.make_costs, "slippage_spread")
    slippage_regimes: FourFactors | None = key_of(envs.make_costs, "slippage_regimes")
    impact: float = key_of(envs.make_costs, "impact")
    transient_impact: float = key_of(envs.make_costs, "transient_impact")
    transient_half_life: float = key_of(envs.make_costs, "transient_half_life")
    permanent_impact: float = key_of(envs.make_costs, "permanent_impact")
    participation_limit: PositiveFraction | None = key_of(envs.make_costs, "participation_limit")
    borrow_rate: float = key_of(envs.make_costs, "borrow_rate")
    margin_rate: float = key_of(envs.make_costs, "margin_rate")
    max_leverage: float = key_of(envs.make_costs, "max_leverage")
    maintenance_margin: float = key_of(envs.make_costs, "maintenance_margin")
    cash_rate: float = key_of(envs.make_costs, "cash_rate")
    margin_volatility: PositiveCoefficient | None = key_of(envs.make_costs, "margin_volatility")
    initial_margins: PositiveFraction | dict[str, PositiveFraction] | None = key_of(envs.make_costs, "initial_margins")
    maintenance_margins: PositiveFraction | dict[str, PositiveFraction] | None = key_of(
        envs.make_costs, "maintenance_margins"
    )
    lot_size: PositiveFloat | dict[str, PositiveFloat] | None = key_of(envs.make_costs, "lot_size")
    minimum_notional: PositiveFloat | dict[str, PositiveFloat] | None = key_of(envs.make_costs, "minimum_notional")
    function: OwnName | None = None
    """`module:function` of your own: `(quantity, price, bar) -> [A]`, slippage of fills beside the rest, currency."""
    options: dict[str, Any] | None = None
    """Its further arguments, by name."""


class ExitsConfig(Keys):
    """What closes positions inside a bar (`envs.make_exits`)."""

    stop_loss: OpenFraction | dict[str, OpenFraction] | None = key_of(envs.make_exits, "stop_loss")
    take_profit: PositiveFloat | dict[str, PositiveFloat] | None = key_of(envs.make_exits, "take_profit")
    trailing_stop: OpenFraction | dict[str, OpenFraction] | None = key_of(envs.make_exits, "trailing_stop")
    wait: int = key_of(envs.make_exits, "wait")


class LimitOrdersConfig(Keys):
    """Where orders rest until a bar goes through their limit (`envs.make_limit_orders`)."""

    offset: PriceOffset | dict[str, PriceOffset] | None = key_of(envs.make_limit_orders, "offset")
    touch: bool = key_of(envs.make_limit_orders, "touch")
