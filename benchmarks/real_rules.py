"""Rules that `benchmarks.real` compares agents with: policies in units of risk, fitted on the past only where fitted.

A signal of 1 is one part of the budget of risk, as for an agent under `jaxppo.risk.sizing.risk_units`:
`target / (sigma_a sqrt(periods)) / sqrt(B)` of the equity in asset a, with B assets. None of the rules has been tuned.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.envs.market.features import compute_features, ewma_volatility, feature_names
from jaxppo.envs.market.indicators import log_return
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.market.own_bars import own_bars
from jaxppo.envs.market.safe import ratio
from jaxppo.envs.trading.view import MarketView
from jaxppo.policy import rules
from jaxppo.policy.feature_portfolios import earned
from jaxppo.policy.protocol import Policy
from jaxppo.risk.sizing import risk_units

YEAR = 252
"""Bars of the trend, and of the start of a market that nothing is fitted on."""
SPAN = 63
"""Bars of the forecast of volatility."""
PRIOR_EXPLAINED = 5e-4
"""Share of the variance of a bar's return that the ridge regression expects all its features to explain together: a
Sharpe ratio of 0.35 a year in one asset."""
LARGEST_RETURN = 5.0
"""Bound of the returns that the ridge regression reads, in units of volatility."""


class Trading(NamedTuple):
    """How rules trade a market; static.

    Attributes:
      target: budget of risk, volatility per year.
      gross: largest gross exposure, multiple of equity.
      refits: bars from which on a rule is fitted anew, evenly spaced; the first is that of the first decision.
      spread: share of the half-spread that a fill pays.
      commission: fraction of the traded notional.
    """

    target: float
    gross: float
    refits: tuple[int, ...]
    spread: float = 1.0
    commission: float = 0.0


def policies(trading: Trading, carry: bool) -> dict[str, Policy]:
    """Name -> rule; the same ones for the same arguments, so that they are compiled once.

    Args:
      trading: how they trade.
      carry: whether the market has carry.
    """
    found = {
        "buy and hold": rules.buy_and_hold(),
        "volatility target": rules.volatility_target(0.1, gross=trading.gross),
    }
    free = trading._replace(spread=1.0, commission=0.0)
    names = [name for name in SIGNALS if carry or name != "carry"]
    found |= {name: _in_risk_units(name, free if name == "ridge" else free._replace(refits=())) for name in names}
    first, *later = trading.refits
    fitted = {"span": SPAN, "first_fit": first, "refit": later[0] - first if later else YEAR, "gross": trading.gross}
    charged = {"spread": trading.spread, "commission_bps": trading.commission * 1e4}
    return found | {"linear policy": rules.feature_portfolios(trading.target, **fitted, **charged)}


@functools.lru_cache
def _in_risk_units(name: str, trading: Trading) -> Policy:
    """A rule that holds its signal in units of risk."""

    def targets(view: MarketView) -> jax.Array:
        return SIGNALS[name](view, trading) * units(view, trading.target)

    return rules.rule(name, targets, gross=trading.gross, warmup=YEAR)


def units(view: MarketView, target: float) -> jax.Array:
    """Weights `[T, A]` of one part of the budget of risk, fractions of equity.

    Args:
      view: of the market.
      target: volatility per year of all parts together, were they independent.
    """
    return risk_units(target, span=SPAN).table(view) * view.position_limit


def direction(view: MarketView) -> jax.Array:
    """Sign `[T, A]` of the return over a year; 0 where there is no year yet.

    Args:
      view: of the market.

    Reference: Moskowitz, Ooi, Pedersen (2012), Time series momentum.
    """
    bars = own_bars(view.market.tradable)
    moved = jnp.sign(bars.computed(lambda close: log_return(close, YEAR), view.market.close))
    return jnp.where(bars.latest >= YEAR, moved, 0.0)


def _groups(market: MarketData) -> tuple[str, ...]:
    """Groups of features of a market."""
    return ("trend", "cross_section") if isinstance(market.carry, tuple) else ("trend", "cross_section", "carry")


def _names(prefix: str) -> tuple[str, ...]:
    return tuple(name for name in feature_names(("trend",)) if name.startswith(prefix))


def columns(view: MarketView, names: tuple[str, ...] | None = None) -> jax.Array:
    """Features `[T, A, K]`, 0 where unknown.

    Args:
      view: of the market.
      names: of the features; None for all there are.
    """
    groups = _groups(view.market)
    table, every = compute_features(view.market, groups=groups), feature_names(groups)
    return table if names is None else table[..., np.asarray([every.index(name) for name in names])]


def _blocks(n_bars: int, refits: tuple[int, ...]) -> np.ndarray:
    """Refits `[T]` at or before each bar."""
    return np.searchsorted(np.asarray(refits), np.arange(n_bars), side="right")


def _known_sums(values: jax.Array, trading: Trading) -> jax.Array:
    """Sums `[refits, ...]` of the rows of `values [T, ...]` whose gains are known before each refit."""
    n_bars = values.shape[0]
    known = np.minimum(np.arange(n_bars) + 2, n_bars - 1)
    block = jnp.asarray(_blocks(n_bars, trading.refits)[known])
    counted = jnp.where((jnp.arange(n_bars) < YEAR).reshape((-1,) + (1,) * (values.ndim - 1)), 0.0, values)
    sums = jax.ops.segment_sum(counted, block, num_segments=len(trading.refits) + 1)
    return jnp.cumsum(sums, axis=0)[:-1]


def _at_bars(fitted: jax.Array, n_bars: int, trading: Trading) -> jax.Array:
    """Rows `[T, ...]` of what was fitted last `[refits, ...]`; 0 before the first refit."""
    rows = jnp.concatenate([jnp.zeros_like(fitted[:1]), fitted])
    return rows[jnp.asarray(_blocks(n_bars, trading.refits))]


def ridge(view: MarketView, trading: Trading) -> jax.Array:
    """Signal `[T, A]` of a pooled ridge regression: its forecast of a bar's return in units of volatility, in units of
    the forecasts it was fitted with.

    The penalty is that of a prior of independent coefficients that explain `PRIOR_EXPLAINED` together. Fitted at every
    refit on all returns known before.

    Args:
      view: of the market.
      trading: refits.
    """
    market = view.market
    features = columns(view)
    features = jnp.concatenate([jnp.ones_like(features[..., :1]), features], axis=-1)
    present = (market.tradable & (units(view, trading.target) > 0)).astype(features.dtype)
    scaled = jnp.clip(earned(market) / ewma_volatility(market, SPAN), -LARGEST_RETURN, LARGEST_RETURN)
    counts = _known_sums(jnp.sum(present, axis=1)[:, None], trading)[:, 0]
    products = _known_sums(jnp.einsum("taj,ta,tak->tjk", features, present, features), trading)
    moments = _known_sums(jnp.einsum("tak,ta->tk", features, present * scaled), trading)
    coefficients = jax.vmap(_ridge_fit)(products, moments, counts)
    return jnp.einsum("tak,tk->ta", features, _at_bars(coefficients, market.n_bars, trading))


def _ridge_fit(product: jax.Array, moment: jax.Array, count: jax.Array) -> jax.Array:
    """Coefficients `[K]`, scaled so that the forecasts of the sample have a mean square of 1."""
    n = jnp.maximum(count, 1.0)
    size = jnp.sqrt(jnp.maximum(jnp.diag(product) / n, 1e-12))
    gram = product / n / jnp.outer(size, size)
    penalty = len(size) / PRIOR_EXPLAINED / n
    found = jnp.linalg.solve(gram + penalty * jnp.eye(len(size)), moment / n / size)
    typical = jnp.sqrt(jnp.maximum(found @ gram @ found, 0.0))
    return found / size * ratio(jnp.ones_like(typical), typical, 0.0)


SIGNALS: dict[str, Callable[[MarketView, Trading], jax.Array]] = {
    "inverse volatility": lambda view, _: jnp.ones_like(view.market.close),
    "TSMOM long/short": lambda view, _: direction(view),
    "TSMOM long/flat": lambda view, _: jnp.maximum(direction(view), 0.0),
    "MACD": lambda view, _: jnp.mean(columns(view, _names("macd_")), axis=-1),
    "carry": lambda view, _: jnp.sign(columns(view, ("carry",))[..., 0]),
    "ridge": ridge,
}
"""Name -> `[T, A]` parts of the budget of risk that a rule holds."""
