"""Does anything beat the baselines? Tests of mean returns that know how much was tried: Hansen's SPA, White's check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.report.formatting import MISSING, escaped
from jaxppo.statistics import reality_check, superior_predictive_ability

MARKET = "buy_and_hold"
"""The baseline that all looks are tested against."""
FEWEST_BARS = 16
"""What the tests need."""

Figures = Mapping[str, Any]


def superiority_figures(
    key: jax.Array,
    agent: np.ndarray,
    baselines: Mapping[str, np.ndarray],
    looks: np.ndarray,
    *,
    n_resamples: int = 2000,
) -> dict[str, Any]:
    """p-values of "not better on average", over the same bars, one-sided; small ones say that it is.

    Args:
      key: consumed.
      agent: `[n]` simple return per bar.
      baselines: name -> `[n]` of the baselines, `MARKET` among them.
      looks: `[n, N]` of everything that was looked at on these bars, the agent included.
      n_resamples: of the bootstrap.

    Returns:
      `no_better_than`: baseline -> p-value of the agent, by SPA of one strategy, which is White's reality check too.
      `looks` (N that differ from the market), `spa` (Hansen's consistent p-value) and `reality_check` (White's) of
      "none of them is better than the market". None where there is nothing to test: fewer than 16 bars, or returns
      that are those of the baseline.

    Reference: Hansen, JBES 23(4), 2005; White, Econometrica 68(5), 2000.
    """
    agent_key, spa_key, check_key = jax.random.split(key, 3)

    def tested(test: Callable[..., float], own: jax.Array, returns: np.ndarray, against: np.ndarray) -> float | None:
        excess = _excess(returns, against)
        if len(excess) < FEWEST_BARS or not excess.shape[1]:
            return None
        return float(test(own, jnp.asarray(excess), n_resamples=n_resamples))

    def ability(own: jax.Array, excess: jax.Array, n_resamples: int) -> float:
        return superior_predictive_ability(own, excess, n_resamples=n_resamples).consistent

    market = baselines[MARKET]
    return {
        "no_better_than": {
            name: tested(ability, jax.random.fold_in(agent_key, number), agent[:, None], against)
            for number, (name, against) in enumerate(baselines.items())
        },
        "looks": _excess(looks, market).shape[1],
        "spa": tested(ability, spa_key, looks, market),
        "reality_check": tested(reality_check, check_key, looks, market),
    }


def _excess(returns: np.ndarray, against: np.ndarray) -> np.ndarray:
    """Differences `[n, N]` float32, without the columns that never differ: registers keep single precision."""
    excess = np.asarray(returns, np.float32) - np.asarray(against, np.float32)[:, None]
    return excess[:, np.ptp(excess, axis=0) > 0]


def section(figures: Figures, level: float) -> str:
    """The part of the report as HTML.

    Args:
      figures: see `superiority_figures`.
      level: 1 less the p-value from which on something is taken to be better.
    """
    rows = [
        f'<tr><th scope="row">The agent earns no more than {escaped(name)}</th><td>{_p_value(p)}</td></tr>'
        for name, p in figures["no_better_than"].items()
    ]
    if figures["looks"] > 1:
        all_of = f"None of {figures['looks']:,} looks at these bars earns more than {MARKET}"
        rows += [
            f'<tr><th scope="row">{all_of} ({test})</th><td>{_p_value(figures[name])}</td></tr>'
            for name, test in (("spa", "Hansen, SPA"), ("reality_check", "White"))
        ]
    head = '<th class="text">Could this be so?</th><th scope="col">p-value</th>'
    table = f'<table class="compact"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    note = (
        "Mean returns, whatever their risk, of bars resampled in blocks. A p-value is how often luck alone would bring "
        f"an advantage as large; below {1 - level:.2g} it is taken to be real. {escaped(verdict(figures, level))}"
    )
    return f'<div class="scroll">{table}</div><p class="caption">{note}</p>'


def verdict(figures: Figures, level: float) -> str:
    """What the tests say, in a plain sentence or two."""
    known = {name: p for name, p in figures["no_better_than"].items() if p is not None}
    better = [name for name, p in known.items() if p < 1 - level]
    open_ = [name for name in known if name not in better]
    sentences = []
    if better:
        sentences.append(f"The agent earns more than {' and '.join(better)} by more than luck explains.")
    if open_:
        sentences.append(f"That it earns more than {' or '.join(open_)} is not shown.")
    if figures["looks"] > 1 and figures["spa"] is not None:
        beats = f"earns more than {MARKET} by more than the luck of having tried so many"
        found = f"the best {beats}" if figures["spa"] < 1 - level else f"none is shown to earn more than {MARKET}"
        sentences.append(f"Of the {figures['looks']:,} looks at these bars, {found}.")
    return " ".join(sentences)


def _p_value(p: float | None) -> str:
    return MISSING if p is None else f"{p:.3f}"
