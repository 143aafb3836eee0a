"""What the accounting of a bar needs of the market, packed into one table so that a step reads one row."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.envs.execution.payments import as_traded, payment_rows
from jaxppo.envs.execution.slippage import slippage_scale
from jaxppo.envs.market.features import MINIMUM_VOLUME, average_volume, ewma_volatility
from jaxppo.envs.market.market_data import SECONDS_PER_YEAR, MarketData
from jaxppo.envs.market.windows import shift


class Bar(struct.PyTreeNode):
    """What the accounting of one bar needs, for `A` assets; fill conditions are those known before the bar opens.

    Attributes:
      open: `[A]` price at which orders fill.
      close: `[A]` price at which the portfolio is marked.
      available_volume: `[A]` shares that traded in the bar; 0 where not tradable, inf where volume is not reported.
      half_spread: `[A]` fraction of price, as of the previous close.
      volatility: `[A]` per-bar volatility forecast, as of the previous close.
      average_volume: `[A]` shares per bar, as of the previous close, > 0; inf where volume is not reported.
      year_fraction: `[A]` years since the previous bar (the same for every asset).
      slippage_scale: `[A]` what slippage is multiplied by, or `()` for nothing.
      ended: `[A]` 1 where the asset's last bar is past, else 0; `()` in a market in which none ends.
      futures: `[A]` 1 for a future, else 0; `()` in a market without any.
      high: `[A]` highest price of the bar; `()` where nothing depends on it.
      low: `[A]` lowest price, likewise.
      funding: `[A]` rate that longs pay to shorts at the open, fraction of notional; `()` in a market without payments.
      dividend: `[A]` currency per share held at the close before; `()` in a market without any.
    """

    open: jax.Array
    close: jax.Array
    available_volume: jax.Array
    half_spread: jax.Array
    volatility: jax.Array
    average_volume: jax.Array
    year_fraction: jax.Array
    slippage_scale: Any = ()
    ended: Any = ()
    futures: Any = ()
    high: Any = ()
    low: Any = ()
    funding: Any = ()
    dividend: Any = ()


BAR_FIELDS = ("open", "close", "available_volume", "half_spread", "volatility", "average_volume", "year_fraction")
"""Rows of a packed bar; then, as far as the market needs them, `slippage_scale` where slippage depends on conditions,
`ended` where an asset ends, `futures` where there are some, `high` and `low` for exits and limit orders, and `funding`
and `dividend` where positions are paid."""
EXTRA_FIELDS = (("slippage_scale", 1.0), ("ended", 0.0), ("futures", 0.0), ("high", 0.0), ("low", 0.0),
                ("funding", 0.0), ("dividend", 0.0))  # fmt: skip
"""These rows and what stands in one that is not needed, if a later one is."""


def pack_bars(
    market: MarketData,
    *,
    volatility_span: int = 63,
    volume_span: int = 21,
    conditions: Any = (),
    regimes: jax.Array | None = None,
    ahead: bool = False,
    ranges: bool = False,
) -> jax.Array:
    """All `Bar`s of a market as one table `[T, len(BAR_FIELDS), A]` float32, so that a step reads one row.

    Args:
      market: unbatched market.
      volatility_span: span in bars of the EWMA volatility forecast.
      volume_span: span in bars of the EWMA volume forecast.
      conditions: `Costs.conditions`.
      regimes: `[T, A, 4]` probabilities of the regimes at each close, for conditions on them.
      ahead: the bar after each instead, as far as it is known at the close before: its forecasts. Prices and volume are
        those of the bar before, and nothing ends.
      ranges: with `high` and `low`, which exits and limit orders need.

    Returns:
      The table; row 0 uses its own bar for the forecasts (nothing ever fills there), and an asset that has not traded
      before a bar takes that bar's volume as its normal one.

    Raises:
      ValueError: conditions on regimes without regimes.
    """

    def before(x: jax.Array) -> jax.Array:
        return x if ahead else shift(x, 1)

    traded, known = as_traded(market), market.volume_known[None, :]
    available = jnp.where(market.tradable, jnp.where(known, market.volume, jnp.inf), 0.0)
    volume = average_volume(market, volume_span)
    volatility = ewma_volatility(market, volatility_span)
    expected = before(volume)
    own = jnp.maximum(market.volume, MINIMUM_VOLUME)
    normal_volume = jnp.where(known, jnp.where(expected > MINIMUM_VOLUME, expected, own), jnp.inf)
    years = market.seconds_since_previous[:, None] / SECONDS_PER_YEAR
    columns = [
        traded.open,
        traded.close,
        available,
        before(market.half_spread),
        before(volatility),
        normal_volume,
        jnp.broadcast_to(years, market.close.shape),
    ]
    extra: dict[str, jax.Array] = {}
    if not isinstance(conditions, tuple):
        extra["slippage_scale"] = slippage_scale(market, conditions, regimes, volatility, volume, ahead=ahead)
    if not isinstance(market.ended, tuple):
        extra["ended"] = jnp.zeros_like(market.ended) if ahead else market.ended
    if not isinstance(market.futures, tuple):
        extra["futures"] = jnp.broadcast_to(market.futures, market.close.shape)
    if ranges:
        extra |= {"high": traded.high, "low": traded.low}
    extra |= payment_rows(market, ahead)
    needed = max((place for place, (name, _) in enumerate(EXTRA_FIELDS) if name in extra), default=-1) + 1
    columns += [extra.get(name, jnp.full_like(market.close, neutral)) for name, neutral in EXTRA_FIELDS[:needed]]
    return jnp.stack([jnp.asarray(column, jnp.float32) for column in columns], axis=1)


def unpack_bar(row: jax.Array) -> Bar:
    """`Bar` of one packed row `[len(BAR_FIELDS), A]`, or up to seven more."""
    fields = (*BAR_FIELDS, *(name for name, _ in EXTRA_FIELDS))[: row.shape[0]]
    return Bar(**{name: row[i] for i, name in enumerate(fields)})
