"""What an agent differs by from what stands beside it, with intervals, and what so many years can show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxppo.backtest.ledger import Ledger
from jaxppo.run.setup import Setup
from jaxppo.statistics import bootstrap_difference_interval, sharpe_per_bar
from jaxppo.statistics.detectable import correlation, detectable_difference

UNTRAINED = "untrained"
"""The network of the agent with its first parameters."""
UNGATED = "ungated"
"""The agent where the base was traded instead."""
UNLEARNED = "The agent has learned nothing that shows"
"""How the sentence on such an agent begins."""
ALIKE = 0.999
"""Correlation of returns above which two accounts are the same."""
SMALL = 0.01
"""Mean absolute difference of weights per asset below which they hold the same, fraction of equity."""
USUAL = 3
"""Baselines of an evaluation that names none; their keys are those of earlier versions."""
MORE = 3000
"""The keys of further ones are numbered from here on."""


def key_numbers(place: int) -> tuple[int, int]:
    """What the key is folded with for the intervals of a baseline, and for those of the agent's difference from it.

    Args:
      place: of the baseline, from 0.
    """
    if place < USUAL:
        return 1 + place, 1 + USUAL + place
    return MORE + 2 * place, MORE + 2 * place + 1


def difference_figures(setup: Setup, agent: Ledger, baseline: Ledger, key: jax.Array) -> dict[str, Any]:
    """Compares Sharpe ratios over the same bars.

    Args:
      setup: of the evaluation.
      agent: its ledger.
      baseline: ledger over the same bars.
      key: consumed.

    Returns:
      `sharpe_difference_ci`: interval of the agent's annual Sharpe ratio minus the baseline's, on the same resampled
      bars. `detectable`: smallest difference that so many years can show, see `detectable_difference`.
    """
    chosen, periods = setup.config.evaluation, setup.periods_per_year
    ends = bootstrap_difference_interval(
        key,
        agent.returns,
        baseline.returns,
        sharpe_per_bar,
        level=chosen.level,
        n_resamples=chosen.bootstrap_resamples,
    )
    return {
        "sharpe_difference_ci": [float(end) * periods**0.5 if np.isfinite(end) else None for end in ends],
        "detectable": detectable_difference(agent.returns, baseline.returns, periods),
    }


def unlearned_sentences(ledgers: Mapping[str, Ledger]) -> tuple[str, ...]:
    """Says where the agent holds what it held before any training.

    Args:
      ledgers: name -> ledger of the agent and of what stands beside it.
    """
    if UNTRAINED not in ledgers:
        return ()
    agent, first = ledgers["agent"], ledgers[UNTRAINED]
    apart = float(np.mean(np.abs(np.asarray(agent.weights, np.float64) - np.asarray(first.weights, np.float64))))
    alike = correlation(agent.returns, first.returns)
    idle = not np.any(agent.returns) and not np.any(first.returns)
    if not (apart < SMALL and (idle or (alike is not None and alike > ALIKE))):
        return ()
    what = "never trades" if idle else f"holds the same positions ({apart:.2%} of equity apart per asset, on average)"
    return (f"{UNLEARNED}: with its first parameters it {what}.",)


def detectable_sentence(summary: Mapping[str, Any]) -> str:
    """Says what differences of Sharpe ratios the period can show; empty where none is known.

    Args:
      summary: the `out_of_sample` entry.
    """
    rows = {name: row.get("detectable") for name, row in summary["baseline"].items()}
    known = [f"{value:.2f} ({name})" for name, value in rows.items() if value is not None]
    if not known:
        return ""
    return "\n".join(
        [
            "smallest difference of Sharpe ratios that this period can show (one-sided 5 %, power 80 %):",
            *(f"  {', '.join(known[i : i + 4])}" for i in range(0, len(known), 4)),
        ]
    )


def columns_width(names: Sequence[str], least: int) -> int:
    """Characters of the column of names.

    Args:
      names: in it.
      least: characters at least.
    """
    return max(least, *(len(name) + 2 for name in names))
