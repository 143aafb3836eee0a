"""Masks that depend on the market alone: regime, volatility, trading hours, halts, no short positions."""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.envs.execution.limits import Limits
from jaxppo.envs.market.features import ewma_volatility
from jaxppo.envs.market.own_bars import own_bars
from jaxppo.envs.market.regimes import NAMES
from jaxppo.envs.market.windows import rolling_max, shift
from jaxppo.envs.trading.view import MarketView
from jaxppo.masks.hours import trading_hours
from jaxppo.masks.transform import MaskTransform, market_only


def box_limits(low: jax.Array, high: jax.Array, force: float | None = None) -> Limits:
    """Limits of a box `[A]`; `force` is the multiple of it beyond which positions are reduced, None for never."""
    far = jnp.full(low.shape, jnp.inf)
    if force is None:
        return Limits(low, high, -far, far)
    return Limits(low, high, force * low, force * high)


def no_short() -> MaskTransform:
    """No short positions."""
    return market_only("no_short", _number_of_assets, lambda ones: box_limits(0.0 * ones, ones * jnp.inf))


def _number_of_assets(view: MarketView) -> jax.Array:
    return jnp.ones(view.market.close.shape, jnp.float32)


def regime(sides: Mapping[str, tuple[float, float]], *, force: bool = False) -> MaskTransform:
    """Allowed sides and sizes in each regime, that of the asset; the most probable one counts.

    Args:
      sides: regime -> smallest and largest weight, in units of the position limit, `low <= 0 <= high`; what is not
        named is not limited.
      force: positions beyond it are given up when a regime begins; otherwise they may be kept.

    Raises:
      ValueError: no regime, an unknown one, or a range without 0.
    """
    if not sides:
        raise ValueError(f"the mask must limit something: a range for one of {', '.join(NAMES)}")
    for name, (low, high) in sides.items():
        if name not in NAMES:
            raise ValueError(f"regime {name!r} is unknown; the regimes are {', '.join(NAMES)}")
        if not low <= 0.0 <= high:
            raise ValueError(f"regime {name} allows [{low}, {high}]; the range must contain 0")
    low, high = (
        jnp.asarray([sides.get(name, (-math.inf, math.inf))[i] for name in NAMES], jnp.float32) for i in (0, 1)
    )

    def table(view: MarketView) -> dict[str, jax.Array]:
        if view.regimes is None:
            raise ValueError("the mask regime needs regimes: choose how they are found")
        now = jnp.argmax(view.regimes, axis=-1)
        return {"low": low[now] * view.position_limit, "high": high[now] * view.position_limit}

    return market_only("regime", table, lambda row: box_limits(row["low"], row["high"], 1.0 if force else None))


def volatility_cap(
    target: float, *, span: int = 21, hysteresis: float = 0.1, force: float | None = None
) -> MaskTransform:
    """No position whose own volatility exceeds a target: `|w| <= target / (sigma sqrt(periods))`.

    Args:
      target: volatility per year that one position may add by itself, as a fraction of equity, > 0.
      span: bars of the exponential forecast of volatility.
      hysteresis: a cap that fell rises again once the forecast allows one larger by this fraction of it, in [0, 1).
      force: multiple of the cap, >= 1, beyond which a position is reduced to it; None for never.

    Raises:
      ValueError: an argument outside its range.
    """
    if not target > 0 or not 0 <= hysteresis < 1 or span < 1:
        raise ValueError(f"target ({target}) must be > 0, hysteresis ({hysteresis}) in [0, 1), span ({span}) >= 1")
    if force is not None and force < 1:
        raise ValueError(f"force is {force}; it must be at least 1")

    def table(view: MarketView) -> jax.Array:
        wanted = target / (ewma_volatility(view.market, span) * view.periods**0.5)
        if hysteresis == 0:
            return wanted

        def follow(cap: jax.Array, now: jax.Array) -> tuple[jax.Array, jax.Array]:
            cap = jnp.where((now < cap) | (now > (1.0 + hysteresis) * cap), now, cap)
            return cap, cap

        return jax.lax.scan(follow, wanted[0], wanted)[1]

    return market_only("volatility_cap", table, lambda cap: box_limits(-cap, cap, force))


def session(
    calendar: str, *, open_minutes: float = 0.0, close_minutes: float = 0.0, flat_minutes: float | None = None
) -> MaskTransform:
    """Trading hours: when positions may be opened, and when there must be none.

    A decision at the close of a bar fills at a later open: to hold nothing over night, `flat_minutes` must be at least
    as long as the bars of latency, so that the order fills in the last bar of the session.

    Args:
      calendar: exchange_calendars name; see `trading_hours` for half days and markets that never close.
      open_minutes: no new positions earlier than this after the open.
      close_minutes: no new positions in this many minutes before the close, nor outside trading hours.
      flat_minutes: positions are closed from this many minutes before the close, and outside trading hours; None for
        never.

    Raises:
      ValueError: a negative number of minutes.
    """
    given = {"open_minutes": open_minutes, "close_minutes": close_minutes, "flat_minutes": flat_minutes or 0.0}
    for name, value in given.items():
        if value < 0:
            raise ValueError(f"{name} is {value}; it must be >= 0")

    def table(view: MarketView) -> dict[str, jax.Array]:
        since_open, to_close = trading_hours(view.market, calendar)
        outside = to_close < 0
        shut = outside | (since_open < open_minutes) | (to_close <= close_minutes)
        rows = {"most": np.where(shut, 0.0, np.inf)}
        if flat_minutes is not None:
            rows["kept"] = np.where(outside | (to_close <= flat_minutes), 0.0, np.inf)
        shape = view.market.close.shape
        return {name: jnp.broadcast_to(jnp.asarray(x, jnp.float32)[:, None], shape) for name, x in rows.items()}

    def limits(row: dict[str, jax.Array]) -> Limits:
        kept = row.get("kept", jnp.full(row["most"].shape, jnp.inf))
        most = jnp.minimum(row["most"], kept)
        return Limits(-most, most, -kept, kept)

    return market_only("session", table, limits)


def halt(
    *, symbols: tuple[str, ...] = (), move: float | None = None, bars: int = 1, names: tuple[str, ...] = ()
) -> MaskTransform:
    """No new positions in named assets, nor for some bars after a large move of the price.

    An asset without a bar cannot be traded at all, whatever the masks.

    Args:
      symbols: assets that are halted for good.
      move: absolute log return from one own bar to the next that halts an asset; None for none.
      bars: for how many own bars, that of the move included, >= 1.
      names: symbols of the market's assets, in order.

    Raises:
      ValueError: an unknown symbol, or an argument outside its range.
    """
    unknown = [symbol for symbol in symbols if symbol not in names]
    if unknown:
        raise ValueError(f"symbol {unknown[0]!r} is not in the market; it has {', '.join(names) or 'no names'}")
    if not symbols and move is None:
        raise ValueError("halt must limit something: symbols or move")
    if bars < 1 or (move is not None and not move > 0):
        raise ValueError(f"bars ({bars}) must be >= 1, and move ({move}) > 0 or absent")
    named = jnp.asarray([name in symbols for name in names], bool)

    def table(view: MarketView) -> jax.Array:
        if symbols and view.market.n_assets != len(names):
            raise ValueError(f"the market has {view.market.n_assets} assets, but {len(names)} names were given")
        halted = jnp.zeros(view.market.close.shape, bool)
        if move is not None:
            own = own_bars(view.market.tradable)
            log_price = jnp.log(own.pack(view.market.close))
            jumped = (jnp.abs(log_price - shift(log_price, 1)) > move).astype(jnp.float32)
            halted = (own.spread(rolling_max(jumped, bars)) > 0) & own.listed
        if symbols:
            halted = halted | named[None]
        return jnp.where(halted, 0.0, jnp.inf)

    return market_only("halt", table, lambda most: box_limits(-most, most))
