"""What a trade costs and how much of it gets done: commission, spread, slippage, impact, participation."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import struct

from envs.features import MINIMUM_VOLUME, average_volume, ewma_volatility
from envs.market import SECONDS_PER_YEAR, MarketData


@struct.dataclass
class Costs:
    """Prices of trading and holding; every field is a traceable scalar, so a batch of them may be `vmap`ped.

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


NO_PARTICIPATION_LIMIT = 1e30


def make_costs(
    *,
    commission_bps: float = 0.0,
    commission_per_share: float = 0.0,
    commission_minimum: float = 0.0,
    spread_multiplier: float = 1.0,
    slippage: float = 0.0,
    impact: float = 0.0,
    participation_limit: float | None = None,
    borrow_rate: float = 0.0,
    margin_rate: float = 0.0,
    max_leverage: float = 1.0,
    maintenance_margin: float = 0.25,
) -> Costs:
    """Builds `Costs` from plain numbers: see `Costs` for units, `commission_bps` in basis points of notional.

    Raises:
      ValueError: a value outside its range.
    """
    limit = NO_PARTICIPATION_LIMIT if participation_limit is None else min(participation_limit, NO_PARTICIPATION_LIMIT)
    values = {
        "commission_bps": commission_bps,
        "commission_per_share": commission_per_share,
        "commission_minimum": commission_minimum,
        "spread_multiplier": spread_multiplier,
        "slippage": slippage,
        "impact": impact,
        "participation_limit": limit,
        "borrow_rate": borrow_rate,
        "margin_rate": margin_rate,
        "max_leverage": max_leverage,
        "maintenance_margin": maintenance_margin,
    }
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} is {value}; it must be a finite number >= 0")
    if not limit > 0 or not max_leverage > 0:
        raise ValueError(f"participation_limit ({limit}) and max_leverage ({max_leverage}) must be > 0")
    if not maintenance_margin * max_leverage < 1:
        raise ValueError(
            f"maintenance_margin {maintenance_margin} with max_leverage {max_leverage} liquidates a portfolio that is "
            "fully invested: their product must be < 1"
        )
    values["commission_rate"] = values.pop("commission_bps") * 1e-4
    return Costs(**{name: jnp.asarray(value, jnp.float32) for name, value in values.items()})


@struct.dataclass
class Bar:
    """What the accounting of one bar needs, for `A` assets; fill conditions are those known before the bar opens.

    Attributes:
      open: `[A]` price at which orders fill.
      close: `[A]` price at which the portfolio is marked.
      available_volume: `[A]` shares that traded in the bar; 0 where not tradable, inf where volume is not reported.
      half_spread: `[A]` fraction of price, as of the previous close.
      volatility: `[A]` per-bar volatility forecast, as of the previous close.
      average_volume: `[A]` shares per bar, as of the previous close, > 0; inf where volume is not reported.
      year_fraction: `[A]` years since the previous bar (the same for every asset).
    """

    open: jax.Array
    close: jax.Array
    available_volume: jax.Array
    half_spread: jax.Array
    volatility: jax.Array
    average_volume: jax.Array
    year_fraction: jax.Array


BAR_FIELDS = ("open", "close", "available_volume", "half_spread", "volatility", "average_volume", "year_fraction")


def pack_bars(market: MarketData, *, volatility_span: int = 63, volume_span: int = 21) -> jax.Array:
    """All `Bar`s of a market as one table `[T, len(BAR_FIELDS), A]` float32, so that a step reads one row.

    Args:
      market: unbatched market.
      volatility_span: span in bars of the EWMA volatility forecast.
      volume_span: span in bars of the EWMA volume forecast.

    Returns:
      The table; row 0 uses its own bar for the forecasts (nothing ever fills there), and an asset that has not traded
      before a bar takes that bar's volume as its normal one.
    """

    def before(x: jax.Array) -> jax.Array:
        return jnp.concatenate([x[:1], x[:-1]])

    known = market.volume_known[None, :]
    available = jnp.where(market.tradable, jnp.where(known, market.volume, jnp.inf), 0.0)
    expected = before(average_volume(market, volume_span))
    own = jnp.maximum(market.volume, MINIMUM_VOLUME)
    normal_volume = jnp.where(known, jnp.where(expected > MINIMUM_VOLUME, expected, own), jnp.inf)
    years = market.seconds_since_previous[:, None] / SECONDS_PER_YEAR
    columns = [
        market.open,
        market.close,
        available,
        before(market.half_spread),
        before(ewma_volatility(market, volatility_span)),
        normal_volume,
        jnp.broadcast_to(years, market.close.shape),
    ]
    return jnp.stack([jnp.asarray(column, jnp.float32) for column in columns], axis=1)


def unpack_bar(row: jax.Array) -> Bar:
    """`Bar` of one packed row `[len(BAR_FIELDS), A]`."""
    return Bar(**{name: row[i] for i, name in enumerate(BAR_FIELDS)})


@struct.dataclass
class TradeCosts:
    """Currency paid for the fills of one bar, by kind; each `[A]`, >= 0."""

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
    size = jnp.abs(quantity)
    notional = size * price
    commission = jnp.maximum(
        costs.commission_minimum, costs.commission_rate * notional + costs.commission_per_share * size
    )
    participation = jnp.sqrt(size / bar.average_volume)
    return TradeCosts(
        commission=jnp.where(size > 0, commission, 0.0),
        spread=notional * (bar.half_spread * costs.spread_multiplier),
        slippage=notional * (bar.volatility * costs.slippage),
        impact=notional * participation * (bar.volatility * costs.impact * (2.0 / 3.0)),
    )


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
    return jnp.clip(wanted, -limit, limit)
