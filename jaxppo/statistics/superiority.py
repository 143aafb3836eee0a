"""Tests of an agent, and of all that was tried, against the baselines: Hansen's SPA and White's reality check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.statistics.comparison import reality_check, superior_predictive_ability

MARKET = "buy_and_hold"
"""The baseline that all trials are tested against."""
FEWEST_BARS = 16
"""Bars that the tests need."""


def superiority_figures(
    key: jax.Array,
    agent: np.ndarray,
    baselines: Mapping[str, np.ndarray],
    trials: np.ndarray,
    *,
    n_resamples: int = 2000,
) -> dict[str, Any]:
    """Computes one-sided p-values of "not better on average" over the same bars, ready for JSON.

    Args:
      key: consumed.
      agent: `[n]` simple return per bar.
      baselines: name -> `[n]` of the baselines; the trials are tested where `MARKET` is among them.
      trials: `[n, N]` of everything that was tried on these bars, the agent included.
      n_resamples: of the bootstrap.

    Returns:
      `no_better_than`: baseline -> p-value of the agent, by SPA of one strategy, which is White's reality check too.
      `trials` (N that differ from the market), `spa` (Hansen's consistent p-value) and `reality_check` (White's) of
      "none of them is better than the market". None where there is nothing to test: fewer than 16 bars, or returns
      that are those of the baseline. The last three are absent without the market.

    Reference: Hansen, JBES 23(4), 2005; White, Econometrica 68(5), 2000.
    """
    agent_key, spa_key, check_key = jax.random.split(key, 3)

    def tested(test: Callable[..., float], test_key: jax.Array, excess: np.ndarray) -> float | None:
        if len(excess) < FEWEST_BARS or not excess.shape[1]:
            return None
        return float(test(test_key, jnp.asarray(excess), n_resamples=n_resamples))

    def ability(test_key: jax.Array, excess: jax.Array, n_resamples: int) -> float:
        return superior_predictive_ability(test_key, excess, n_resamples=n_resamples).consistent

    over_baselines = {
        name: tested(ability, jax.random.fold_in(agent_key, number), _excess(agent[:, None], against))
        for number, (name, against) in enumerate(baselines.items())
    }
    if MARKET not in baselines:
        return {"no_better_than": over_baselines}
    over_market = _excess(trials, baselines[MARKET])
    return {
        "no_better_than": over_baselines,
        "trials": over_market.shape[1],
        "spa": tested(ability, spa_key, over_market),
        "reality_check": tested(reality_check, check_key, over_market),
    }


def _excess(returns: np.ndarray, against: np.ndarray) -> np.ndarray:
    """Differences `[n, N]` float32, without the columns that never differ: registers keep single precision."""
    excess = np.asarray(returns, np.float32) - np.asarray(against, np.float32)[:, None]
    return excess[:, np.ptp(excess, axis=0) > 0]
