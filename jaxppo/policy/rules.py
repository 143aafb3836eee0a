"""Rules as policies: decisions that nothing has to be learned for.

A factory with static hyper-parameters returns a `Policy`, the same one for the same arguments, so that it is compiled
once. Baselines, benchmarks and the strategies of a book are made of these.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.arguments import (
    AtLeastThree,
    NonNegativeInt,
    NonNegativeRatio,
    PositiveInt,
    PositiveRatio,
    ProperFraction,
    Text,
    checked,
)
from jaxppo.envs.execution.portfolio import expected_weights, outstanding
from jaxppo.envs.market.features import ewma_volatility
from jaxppo.envs.market.index import equal_weight_volatility
from jaxppo.envs.market.indicators import log_return
from jaxppo.envs.market.own_bars import own_bars
from jaxppo.envs.market.rows import followed
from jaxppo.envs.market.windows import rolling_moments
from jaxppo.envs.trading.view import MarketView
from jaxppo.policy.feature_portfolios import FEWEST, YEAR, portfolios, refitted
from jaxppo.policy.protocol import Observed, Policy, Targets


@checked
def rule(
    name: Text,
    targets: Callable[[MarketView], jax.Array],
    *,
    gross: PositiveRatio = 1.0,
    tolerance: ProperFraction = 0.1,
    warmup: NonNegativeInt = 0,
) -> Policy:
    """Follows target weights which depend on the market alone.

    Args:
      name: of the policy.
      targets: `MarketView -> [T, A]` weights, those of row t known at its close.
      gross: largest gross exposure, fraction of equity: larger targets are scaled down to it, all by the same factor.
      tolerance: an asset is traded when it is off its target by more than this share of it.
      warmup: bars of history behind the weights.

    Raises:
      ValueError: an argument outside its range.
    """

    def table(params: Any, view: MarketView) -> dict[str, jax.Array]:
        weights = targets(view)
        total = jnp.sum(jnp.abs(weights), axis=-1, keepdims=True)
        scale = jnp.where(total > gross, gross / jnp.where(total > gross, total, 1.0), 1.0)
        return {"weights": weights * scale, "tradable": view.market.tradable}

    def apply(params: Any, state: Any, observed: Observed) -> tuple[Targets, Any]:
        wanted = observed.row["weights"]
        near = jnp.abs(wanted - expected_weights(observed.portfolio)) <= tolerance * jnp.abs(wanted)
        return Targets(wanted, near | ~observed.row["tradable"]), state

    return Policy(name, apply, table=table, warmup=warmup)


@functools.lru_cache
def flat() -> Policy:
    """Takes no position."""

    def apply(params: Any, state: Any, observed: Observed) -> tuple[Targets, Any]:
        shares = observed.portfolio.shares
        return Targets(jnp.zeros_like(shares), jnp.ones(shares.shape, bool)), state

    return Policy("flat", apply)


@functools.lru_cache
def buy_and_hold() -> Policy:
    """Equal weights in the assets that are tradable at the first decision that has any, never touched again."""

    def apply(params: Any, state: Any, observed: Observed) -> tuple[Targets, Any]:
        portfolio, tradable = observed.portfolio, observed.row
        weights = tradable / jnp.maximum(tradable.sum(), 1)
        bought = jnp.any((portfolio.shares != 0) | (outstanding(portfolio) != 0))
        return Targets(weights, bought | ~tradable), state

    return Policy("buy_and_hold", apply, table=lambda params, view: view.market.tradable)


@functools.lru_cache
@checked
def equal_weight(*, gross: PositiveRatio = 1.0, tolerance: ProperFraction = 0.1) -> Policy:
    """Equal weights in the tradable assets, `gross` in all, each rebalanced when it leaves its band.

    Args:
      gross: gross exposure, fraction of equity.
      tolerance: half-width of the band, share of the weight.

    Raises:
      ValueError: an argument outside its range.
    """

    def targets(view: MarketView) -> jax.Array:
        tradable = view.market.tradable
        return gross * tradable / jnp.maximum(tradable.sum(axis=-1, keepdims=True), 1)

    return rule("equal_weight", targets, gross=gross, tolerance=tolerance)


@functools.lru_cache
@checked
def volatility_target(
    target: PositiveRatio = 0.1,
    *,
    span: PositiveInt = 63,
    gross: PositiveRatio = 1.0,
    tolerance: ProperFraction = 0.1,
) -> Policy:
    """Equal weights, scaled so that the forecast volatility of their portfolio is the target.

    Args:
      target: volatility per year, fraction of equity.
      span: bars of the exponential forecast of volatility.
      gross: largest gross exposure, fraction of equity.
      tolerance: an asset is traded when it is off its target by more than this share of it.

    Raises:
      ValueError: an argument outside its range.
    """

    def targets(view: MarketView) -> jax.Array:
        scale = target / (equal_weight_volatility(view.market, span)[:, None] * view.periods**0.5)
        tradable = view.market.tradable
        return scale * tradable / jnp.maximum(tradable.sum(axis=-1, keepdims=True), 1)

    return rule("volatility_target", targets, gross=gross, tolerance=tolerance, warmup=span)


@functools.lru_cache
@checked
def trend(
    *,
    lookback: PositiveInt = 252,
    volatility: PositiveRatio = 0.4,
    span: PositiveInt = 63,
    short: bool = True,
    gross: PositiveRatio = 1.0,
    tolerance: ProperFraction = 0.1,
) -> Policy:
    """Time-series momentum: long what has risen over the look-back, short what has fallen.

    `w_a = sign(log(p_t / p_{t - lookback})) volatility / sigma_a / A_t`, with `sigma_a` the volatility forecast per
    year and `A_t` the number of tradable assets.

    Args:
      lookback: own bars of an asset over which the sign of the return counts.
      volatility: volatility of each position by itself, per year, before it is divided by the number of tradable
        assets.
      span: own bars of the exponential forecast of volatility.
      short: whether to go short; otherwise the strategy is flat instead.
      gross: largest gross exposure, fraction of equity.
      tolerance: an asset is traded when it is off its target by more than this share of it.

    Raises:
      ValueError: an argument outside its range.

    References:
      Moskowitz, Ooi & Pedersen (2012), Time series momentum, JFE 104, equation 5 (12 months, 40 %).
    """

    def targets(view: MarketView) -> jax.Array:
        bars = own_bars(view.market.tradable)
        moved = bars.computed(lambda close: log_return(close, lookback), view.market.close)
        side = jnp.where(bars.latest >= lookback, jnp.sign(moved), 0.0)
        return (side if short else jnp.maximum(side, 0.0)) * _scaled(view, volatility, span)

    return rule("trend", targets, gross=gross, tolerance=tolerance, warmup=max(lookback, span))


@functools.lru_cache
@checked
def mean_reversion(
    *,
    window: AtLeastThree = 20,
    entry: PositiveRatio = 1.25,
    leave: NonNegativeRatio = 0.5,
    volatility: PositiveRatio = 0.4,
    span: PositiveInt = 63,
    short: bool = True,
    gross: PositiveRatio = 1.0,
    tolerance: ProperFraction = 0.1,
) -> Policy:
    """Buys what is far below its recent mean and sells what is far above, until it is near again.

    With `z` the distance of the log price from its mean over the window in standard deviations: long from
    `z < -entry` until `z > -leave`, short from `z > entry` until `z < leave`; sizes as for `trend`.

    Args:
      window: own bars of mean and deviation.
      entry: distance from the mean, in deviations, at which a position is opened.
      leave: distance from the mean, in deviations, at which a position is closed; less than `entry`.
      volatility: volatility of each position by itself, per year, before it is divided by the number of tradable
        assets.
      span: own bars of the exponential forecast of volatility.
      short: whether to go short; otherwise the strategy is flat instead.
      gross: largest gross exposure, fraction of equity.
      tolerance: an asset is traded when it is off its target by more than this share of it.

    Raises:
      ValueError: an argument outside its range.

    References:
      Avellaneda & Lee (2010), Statistical arbitrage in the US equities market, Quantitative Finance 10, section 4
      (entry 1.25, leave 0.5 on the price itself instead of on residuals).
    """
    if not entry > leave:
        raise ValueError(f"leave is {leave}; it must be less than entry, which is {entry}")

    def targets(view: MarketView) -> jax.Array:
        bars = own_bars(view.market.tradable)

        def distance(close: jax.Array) -> jax.Array:
            log_price = jnp.log(close)
            mean, squares = rolling_moments(log_price, window)
            deviation = jnp.sqrt(squares / (window - 1))
            return jnp.where(deviation > 0, (log_price - mean) / jnp.where(deviation > 0, deviation, 1.0), 0.0)

        apart = jnp.where(bars.latest >= window - 1, bars.computed(distance, view.market.close), 0.0)

        def follow(side: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
            near = jnp.where(side > 0, z > -leave, z < leave)
            side = jnp.where(z < -entry, 1.0, jnp.where(z > entry, -1.0, jnp.where(near, 0.0, side)))
            return side, side

        side = followed(follow, jnp.zeros(view.market.n_assets), apart)
        return (side if short else jnp.maximum(side, 0.0)) * _scaled(view, volatility, span)

    return rule("mean_reversion", targets, gross=gross, tolerance=tolerance, warmup=max(window, span))


@functools.lru_cache
@checked
def inverse_volatility(
    *,
    span: PositiveInt = 63,
    gross: PositiveRatio = 1.0,
    tolerance: ProperFraction = 0.1,
) -> Policy:
    """Long the tradable assets in proportion to `1 / sigma_a`, `gross` in all.

    Args:
      span: own bars of the exponential forecast of volatility.
      gross: gross exposure, fraction of equity.
      tolerance: an asset is traded when it is off its target by more than this share of it.

    Raises:
      ValueError: an argument outside its range.
    """

    def targets(view: MarketView) -> jax.Array:
        part = view.market.tradable / ewma_volatility(view.market, span)
        total = jnp.sum(part, axis=-1, keepdims=True)
        return gross * part / jnp.where(total > 0, total, 1.0)

    return rule("inverse_volatility", targets, gross=gross, tolerance=tolerance, warmup=span)


@functools.lru_cache
@checked
def feature_portfolios(
    target: PositiveRatio = 0.1,
    *,
    span: PositiveInt = 63,
    first_fit: PositiveInt = 504,
    refit: PositiveInt = 252,
    spread: NonNegativeRatio = 1.0,
    commission_bps: NonNegativeRatio = 0.0,
    gross: PositiveRatio = 1.0,
    tolerance: ProperFraction = 0.1,
) -> Policy:
    """Mixes positions that follow trend, rank and carry by what each has earned so far; flat before the first fit.

    See `jaxppo.policy.feature_portfolios`. Every fit uses all gains known at its bar, of the market that is traded: on
    drawn paths it is fitted anew.

    Args:
      target: volatility per year of the mixture, fraction of equity.
      span: own bars of the exponential forecast of volatility.
      first_fit: bar of the market at whose close the mixture is fitted first.
      refit: bars between two fits.
      spread: share of the half-spread that a portfolio is charged for its trades.
      commission_bps: basis points of the traded notional that it is charged.
      gross: largest gross exposure, fraction of equity.
      tolerance: an asset is traded when it is off its target by more than this share of it.

    Raises:
      ValueError: an argument outside its range.

    Reference: Brandt, Santa-Clara, Valkanov (2009), Parametric portfolio policies.
    """
    if first_fit < YEAR + FEWEST:
        raise ValueError(
            f"first_fit is {first_fit}; gains count from bar {YEAR} on, so it must be {YEAR + FEWEST} or more"
        )

    def targets(view: MarketView) -> jax.Array:
        found = portfolios(view.market, view.periods, target, span, spread, commission_bps * 1e-4)
        return refitted(found, np.arange(first_fit, view.market.n_bars, refit), view.periods, target)

    return rule("feature_portfolios", targets, gross=gross, tolerance=tolerance, warmup=first_fit)


def _scaled(view: MarketView, volatility: float, span: int) -> jax.Array:
    """Weights `[T, A]` of positions of that volatility per year each, divided among the tradable assets."""
    number = jnp.maximum(view.market.tradable.sum(axis=-1, keepdims=True), 1)
    return volatility / (ewma_volatility(view.market, span) * view.periods**0.5) / number
