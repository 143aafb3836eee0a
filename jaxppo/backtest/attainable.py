"""What of the best Sharpe ratio of a market was reached, where that is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxppo.config import Config
from jaxppo.run.simulation import best_sharpe


def attainable_figures(config: Config, agent: Mapping[str, Any]) -> dict[str, Any]:
    """Compares an agent with the best that anybody can reach on a simulated market.

    Args:
      config: of the run.
      agent: figures of the agent, `sharpe` and `sharpe_ci` among them.

    Returns:
      `sharpe`, the best one, annual and after costs, and of it the `share` and `share_ci` that were reached; empty
      where the best one is not known, see `jaxppo.run.simulation.best_sharpe`.
    """
    best = best_sharpe(config)
    if best is None:
        return {}
    reached, interval = agent["sharpe"], agent["sharpe_ci"]
    share = None if reached is None else reached / best
    return {"sharpe": best, "share": share, "share_ci": [None if end is None else end / best for end in interval]}


def attainable_sentence(found: Mapping[str, Any]) -> str:
    """The same in a sentence.

    Args:
      found: from `attainable_figures`, not empty.
    """
    share, (low, high) = found["share"], found["share_ci"]
    reached = "nothing" if share is None else f"{share:.0%}"
    interval = "" if low is None or high is None else f" ({low:.0%} to {high:.0%})"
    best = f"The best Sharpe ratio of this market is {found['sharpe']:g} after costs"
    return f"{best}: {reached} of it was reached{interval}."
