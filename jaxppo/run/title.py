"""Titles of reports: what was evaluated, on which prices, at which changed costs."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxppo.config import Config
from jaxppo.envs.data.sources.request import kind_of
from jaxppo.envs.execution.costs import Costs, make_costs
from jaxppo.envs.market.market_data import MarketData
from jaxppo.run.data import GIVEN_IN_PYTHON
from jaxppo.run.simulation import SIMULATED

MOST_NAMED = 3
"""Files and costs that a title names; more are counted."""


def title_of_run(name: str, config: Config, trained: Config | None = None) -> str:
    """Names a run, its prices, and the costs that are not the defaults or not those that it was trained with.

    Args:
      name: of the run.
      config: that it is evaluated with.
      trained: that it was trained with; None: the same.
    """
    return title(name, _prices(config), _changed_keys(config, trained or config))


def title_on_market(name: str, market: MarketData, costs: Costs | None) -> str:
    """Names a policy, the prices it traded, and the costs that are not the defaults.

    Args:
      name: of the policy.
      market: what it traded.
      costs: what it paid; None where that is not known.
    """
    sources = [str(source["name"]) for source in market.info.report.get("sources", ())]
    return title(name, sources or list(market.info.symbols), [] if costs is None else _changed_prices(costs))


def title(name: str, prices: Sequence[str], costs: Sequence[str]) -> str:
    """Puts a title together.

    Args:
      name: what was evaluated.
      prices: names of files, or of symbols; empty where the prices have none.
      costs: the changed ones, in words.
    """
    on = f" on {_listed(prices)}" if prices else ""
    return f"{name}{on}{', ' if costs else ''}{_listed(costs)}"


def _listed(names: Sequence[str]) -> str:
    """The first of the names, and how many more there are."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _prices(config: Config) -> list[str]:
    """Names of the files of prices, without their folders."""
    path = config.data.path
    if path == SIMULATED:
        return [f"simulated prices ({config.simulation.kind})"]
    if path == GIVEN_IN_PYTHON:
        return ["prices given in Python"]
    return [one if kind_of(one) else pathlib.PurePath(one).name for one in ([path] if isinstance(path, str) else path)]


def _changed_keys(config: Config, trained: Config) -> list[str]:
    """The keys of the costs that are not the defaults, or not those of the training."""
    found = []
    for key, value in config.costs.model_dump().items():
        default, before = type(config.costs).model_fields[key].get_default(), getattr(trained.costs, key)
        if value != before:
            found.append(f"costs.{key} {_shown(value)} (trained with {_shown(before)})")
        elif value != default:
            found.append(f"costs.{key} {_shown(value)}")
    return found


def _changed_prices(costs: Costs) -> list[str]:
    """The prices of trading and holding that are not those of `make_costs()`."""
    found = []
    for field, usual in vars(make_costs()).items():
        value = getattr(costs, field)
        given, expected = jax.tree.leaves(value), jax.tree.leaves(usual)
        if len(given) != len(expected) or not all(map(np.array_equal, given, expected)):
            plain = len(given) == 1 and np.size(given[0]) == 1 and field != "own"
            found.append(f"{field} {_shown(float(np.asarray(given[0]).item()))}" if plain else field)
    return found


def _shown(value: Any) -> str:
    """A value of a cost as a title has it."""
    return f"{value:g}" if isinstance(value, float) else "null" if value is None else str(value)
