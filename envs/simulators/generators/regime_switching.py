"""Gaussian returns with means, volatilities and correlations of a regime that follows a Markov chain."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.simulators.generators.bar_shapes import (
    Returns,
    bar_shapes,
    bars_around,
    consecutive_rows,
    fitted_returns,
)
from jaxppo.envs.simulators.generators.correlations import correlation_root, pairwise_correlation
from jaxppo.envs.simulators.generators.generator import Generator, checked_source
from jaxppo.envs.simulators.markov import checked_chain, checked_labels, estimate_chain, markov_path

FEWEST_RETURNS = 10
"""Returns that an asset needs in a regime to have its moments estimated there."""


def regime_switching(
    market: MarketData, n_bars: int, *, labels: np.ndarray, transition: np.ndarray | None = None
) -> Generator:
    """Markov-switching Gaussian returns: `r_t = mean_s + deviation_s L_s z_t` in the regime s of the bar.

    Args:
      market: `[T, A]` source.
      n_bars: of a path.
      labels: `[T]` ints, the regime of each bar, one for all assets; negative where unknown. Moments are those of the
        bars of each regime; with the states of a hidden Markov model these are its hard assignments.
      transition: `[S, S]` probabilities of the next bar's regime (column) given this bar's (row), such as those of a
        fitted model; default: relative frequencies of the labels.

    Raises:
      ValueError: an argument outside its range, or an asset with too few returns.

    Reference: Hamilton (1989), A new approach to the economic analysis of nonstationary time series.
    """
    source = checked_source(market, n_bars)
    labels = checked_labels(labels, market.n_bars)
    share, estimated = estimate_chain(labels)
    transition = estimated if transition is None else checked_chain(transition, len(share))
    returns = fitted_returns(source)
    means, deviations, roots = _moments(returns, labels, len(share))
    overall = np.sqrt(np.square(returns.values).sum(axis=0) / returns.known.sum(axis=0))
    of_bar = np.where((labels >= 0)[:, None], deviations[labels], overall)
    data = {
        "shapes": bar_shapes(source, returns, of_bar),
        "initial": jnp.asarray(share, jnp.float32),
        "transition": jnp.asarray(transition, jnp.float32),
        "means": jnp.asarray(means, jnp.float32),
        "deviations": jnp.asarray(deviations, jnp.float32),
        "roots": jnp.asarray(roots, jnp.float32),
    }
    return Generator("regime_switching", data, _draw(n_bars))


def _moments(returns: Returns, labels: np.ndarray, n_states: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means and deviations `[S, A]` and roots of correlations `[S, A, A]`.

    An asset with fewer than 10 returns in a regime has its overall mean there, and its overall deviation times the mean
    ratio of the regime's deviation to the overall one among the other assets.
    """
    values, known = returns.values, returns.known
    count = known.sum(axis=0)
    mean = values.sum(axis=0) / count
    deviation = np.sqrt(np.where(known, (values - mean) ** 2, 0.0).sum(axis=0) / count)
    correlation = pairwise_correlation(values, known)
    means, deviations, roots = [], [], []
    for state in range(n_states):
        here = known & (labels == state)[:, None]
        n = here.sum(axis=0)
        mean_here = np.where(here, values, 0.0).sum(axis=0) / np.maximum(n, 1)
        deviation_here = np.sqrt(np.where(here, (values - mean_here) ** 2, 0.0).sum(axis=0) / np.maximum(n, 1))
        enough = (n >= FEWEST_RETURNS) & (deviation_here > 0)
        factor = float(np.mean(deviation_here[enough] / deviation[enough])) if enough.any() else 1.0
        means.append(np.where(enough, mean_here, mean))
        deviations.append(np.where(enough, deviation_here, factor * deviation))
        roots.append(correlation_root(pairwise_correlation(values, here, correlation)))
    return np.stack(means), np.stack(deviations), np.stack(roots)


@functools.cache
def _draw(n_bars: int):
    def draw(data: dict[str, Any], key: jax.Array) -> MarketData:
        row_key, path_key, normal_key = jax.random.split(key, 3)
        shapes = data["shapes"]
        row = consecutive_rows(row_key, n_bars, shapes.gap.shape[0])
        regime = markov_path(path_key, n_bars, data["initial"], data["transition"])
        normals = jax.random.normal(normal_key, (n_bars, shapes.gap.shape[1]))
        mixed = jnp.einsum("sab,nb->sna", data["roots"], normals, precision=jax.lax.Precision.HIGHEST)
        shocks = jnp.take_along_axis(mixed, regime[None, :, None], axis=0)[0]
        deviation = data["deviations"][regime]
        return bars_around(shapes, row, data["means"][regime] + deviation * shocks, deviation)

    return draw
