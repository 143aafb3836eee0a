"""Masks that depend on the market alone: regime, volatility, trading hours, halts, no short positions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.arguments import (
    CodeOnly,
    Multiple,
    NonNegativeRatio,
    PositiveInt,
    PositiveRatio,
    ProperFraction,
    Ratio,
    Text,
    checked,
)
from jaxppo.envs.execution.limits import Limits
from jaxppo.envs.market.features import ewma_volatility
from jaxppo.envs.market.kernels import compiled
from jaxppo.envs.market.own_bars import own_bars
from jaxppo.envs.market.regimes import NAMES
from jaxppo.envs.market.rows import followed
from jaxppo.envs.market.windows import rolling_max, shift
from jaxppo.envs.trading.transform import MaskTransform
from jaxppo.envs.trading.view import MarketView
from jaxppo.masks.hours import trading_hours
from jaxppo.masks.transform import market_only


def box_limits(low: jax.Array, high: jax.Array, force: float | None = None) -> Limits:
    """Limits each position to a range.

    Args:
      low: `[A]` smallest weights, <= 0.
      high: `[A]` largest weights, >= 0.
      force: multiple of the range, >= 1, beyond which positions are reduced to it; None for never.
    """
    far = jnp.full(low.shape, jnp.inf)
    if force is None:
        return Limits(low, high, -far, far)
    return Limits(low, high, force * low, force * high)


def no_short() -> MaskTransform:
    """Forbids short positions.

    Example:
      >>> from jaxppo import masks
      >>> masks.no_short().name
      'no_short'
    """
    return market_only("no_short", _ones, lambda ones: box_limits(0.0 * ones, ones * jnp.inf))


def _ones(view: MarketView) -> jax.Array:
    return jnp.ones(view.market.close.shape, jnp.float32)


@checked
def regime(sides: Mapping[Text, tuple[Ratio, Ratio]], *, force: bool = False) -> MaskTransform:
    """Limits the side and size of positions in each regime, the most probable one of the asset.

    Args:
      sides: regime -> smallest and largest weight, in units of the position limit, `low <= 0 <= high`; what is not
        named is not limited.
      force: whether positions beyond the range are given up when a regime begins.

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
    lows, highs = (
        jnp.asarray([sides.get(name, (-math.inf, math.inf))[i] for name in NAMES], jnp.float32) for i in (0, 1)
    )

    def table(view: MarketView) -> dict[str, jax.Array]:
        if view.regimes is None:
            raise ValueError("the mask regime needs regimes: choose how they are found")
        now = jnp.argmax(view.regimes, axis=-1)
        return {"low": lows[now] * view.position_limit, "high": highs[now] * view.position_limit}

    return market_only("regime", table, lambda row: box_limits(row["low"], row["high"], 1.0 if force else None))


@checked
def volatility_cap(
    target: PositiveRatio, *, span: PositiveInt = 21, hysteresis: ProperFraction = 0.1, force: Multiple | None = None
) -> MaskTransform:
    """Caps each position by its forecast volatility: `|w| <= target / (sigma sqrt(periods))`.

    Args:
      target: volatility that one position may add by itself, per year, fraction of equity.
      span: bars of the exponential forecast of volatility.
      hysteresis: a cap that fell rises again once the forecast allows one larger by this fraction of it.
      force: multiple of the cap beyond which a position is reduced to it; None for never.
    """

    def table(view: MarketView) -> jax.Array:
        wanted = target / (ewma_volatility(view.market, span) * view.periods**0.5)
        if hysteresis == 0:
            return wanted

        return _with_hysteresis(wanted, hysteresis)

    return market_only("volatility_cap", table, lambda cap: box_limits(-cap, cap, force), warmup=span)


@partial(compiled, inline=False, static_argnums=1)
def _with_hysteresis(wanted: jax.Array, hysteresis: float) -> jax.Array:
    """Caps `[T, A]` that fall at once, and rise only when it is worth trading for: noise is not traded."""

    def follow(cap: jax.Array, now: jax.Array) -> tuple[jax.Array, jax.Array]:
        cap = jnp.where((now < cap) | (now > (1.0 + hysteresis) * cap), now, cap)
        return cap, cap

    return followed(follow, wanted[0], wanted)


@checked
def session(
    calendar: Text,
    *,
    open_minutes: NonNegativeRatio = 0.0,
    close_minutes: NonNegativeRatio = 0.0,
    flat_minutes: NonNegativeRatio | None = None,
) -> MaskTransform:
    """Allows positions to be opened in trading hours only, and closes them before the market does.

    A decision at the close of a bar fills at a later open: to hold nothing over night, `flat_minutes` must be at least
    as long as the bars of latency, so that the order fills in the last bar of the session.

    Args:
      calendar: exchange_calendars name; see `trading_hours` for half days and markets that never close.
      open_minutes: no new positions earlier than this after the open.
      close_minutes: no new positions in this many minutes before the close, nor outside trading hours.
      flat_minutes: positions are closed from this many minutes before the close, at least `env.latency_bars` bars, and
        outside trading hours; None for never.
    """

    def table(view: MarketView) -> dict[str, jax.Array]:
        hours = trading_hours(view.market, calendar)
        rows = session_limits(*hours, open_minutes, close_minutes, flat_minutes)
        shape = view.market.close.shape
        return {name: jnp.broadcast_to(jnp.asarray(x, jnp.float32)[:, None], shape) for name, x in rows.items()}

    def limits(row: dict[str, jax.Array]) -> Limits:
        forced = row.get("forced", jnp.full(row["most"].shape, jnp.inf))
        most = jnp.minimum(row["most"], forced)
        return Limits(-most, most, -forced, forced)

    return market_only("session", table, limits)


def session_limits(
    since_open: np.ndarray, to_close: np.ndarray, open_minutes: float, close_minutes: float, flat_minutes: float | None
) -> dict[str, np.ndarray]:
    """Rows of the table of `session`: largest weight of a new position `[T]`, and of any, where there is such a limit.

    Args:
      since_open: `[T]` minutes since the open, see `trading_hours`.
      to_close: `[T]` minutes to the close.
      open_minutes: see `session`, as the others.
      close_minutes: before the close.
      flat_minutes: before the close.
    """
    outside = to_close < 0
    shut = outside | (since_open < open_minutes) | (to_close <= close_minutes)
    rows = {"most": np.where(shut, 0.0, np.inf)}
    if flat_minutes is not None:
        rows["forced"] = np.where(outside | (to_close <= flat_minutes), 0.0, np.inf)
    return rows


@checked
def halt(
    *,
    symbols: tuple[Text, ...] = (),
    move: PositiveRatio | None = None,
    bars: PositiveInt = 1,
    names: CodeOnly[tuple[str, ...]] = (),
) -> MaskTransform:
    """Forbids new positions in named assets, and for some bars after a large move of the price.

    An asset without a bar cannot be traded at all, whatever the masks.

    Args:
      symbols: assets that are halted for good.
      move: absolute log return from one bar of the asset to its next that halts it; None for no such halt.
      bars: how many bars of the asset a move halts it for, that of the move included.
      names: symbols of the market's assets, in order.

    Raises:
      ValueError: nothing to halt for, or an unknown symbol.
    """
    unknown = [symbol for symbol in symbols if symbol not in names]
    if unknown:
        raise ValueError(f"symbol {unknown[0]!r} is not in the market; it has {', '.join(names) or 'no names'}")
    if not symbols and move is None:
        raise ValueError("halt must limit something: symbols or move")
    named = jnp.asarray([name in symbols for name in names], bool)

    def table(view: MarketView) -> jax.Array:
        if symbols and view.market.n_assets != len(names):
            raise ValueError(f"the market has {view.market.n_assets} assets, but {len(names)} names were given")
        halted = jnp.zeros(view.market.close.shape, bool)
        if move is not None:
            # Bars of the asset: a gap over a halt is one move, however many market bars it took.
            of_asset = own_bars(view.market.tradable)
            halted = of_asset.computed(partial(_jumped, move, bars), view.market.close) & of_asset.listed
        if symbols:
            halted = halted | named[None]
        return jnp.where(halted, 0.0, jnp.inf)

    warmup = 0 if move is None else bars
    return market_only("halt", table, lambda most: box_limits(-most, most), warmup=warmup)


def _jumped(move: float, bars: int, close: jax.Array) -> jax.Array:
    """Whether the price moved by more than `move`, log return, in one of the last bars, `[T, A]` bool."""
    log_price = jnp.log(close)
    jumped = (jnp.abs(log_price - shift(log_price, 1)) > move).astype(jnp.float32)
    return rolling_max(jumped, bars) > 0
