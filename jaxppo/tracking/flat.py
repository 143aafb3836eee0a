"""Configurations and summaries as trackers take them: flat names with a value each, and tables."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxppo.config import Config

SCALARS = (bool, int, float, str)
TABLES = ("drawdowns", "ended_positions", "folds")
"""Lists of rows in a summary that are tables of their own."""


class Table(NamedTuple):
    """A table.

    Attributes:
      columns: their names.
      rows: the cells of each row; None where there is none.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def flat_config(config: Config) -> dict[str, bool | int | float | str]:
    """Lists the keys of a configuration that are set: `ppo.gamma` -> 0.99; lists as JSON.

    Args:
      config: of a run; where it is tracked is left out.
    """
    return {name: value for name, value in _leaves(nested_config(config), ".") if value is not None}


def nested_config(config: Config) -> dict[str, Any]:
    """Sections and keys of a configuration.

    Args:
      config: of a run; where it is tracked is left out.
    """
    tree = config.model_dump(mode="json")
    del tree["tracking"]
    return tree


def _leaves(tree: Mapping[str, Any], separator: str, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Name and value of every leaf; what is neither a number nor a text is JSON."""
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, separator, f"{prefix}{name}{separator}")
        else:
            yield prefix + name, value if value is None or isinstance(value, SCALARS) else json.dumps(value)


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a row; yes and no are none.

    Args:
      row: name -> value.
    """
    return {name: value for name, value in row.items() if _is_number(value)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def final_figures(summary: Mapping[str, Any]) -> dict[str, float]:
    """The headline figures of a summary: `out_of_sample/sharpe` -> 0.4; those of baselines are in the tables.

    Args:
      summary: content of summary.json.
    """
    found: dict[str, float] = {}
    for section, entries in summary.items():
        if isinstance(entries, Mapping):
            found |= {f"{section}/{name}": value for name, value in numbers(entries).items()}
    return found


def tables(summary: Mapping[str, Any]) -> dict[str, Table]:
    """The tables of a summary: the agent beside its baselines, drawdowns, folds of a walk-forward.

    Args:
      summary: content of summary.json.

    Returns:
      Name -> table; without those that would be empty.
    """
    out = summary.get("out_of_sample") or {}
    found: dict[str, Sequence[Mapping[str, Any]]] = {}
    if out.get("baseline"):
        accounts = {"agent": out, **out["baseline"]}
        found["out_of_sample"] = [{"account": name, **_cells(row)} for name, row in accounts.items()]
    for section in (out, summary.get("walk_forward") or {}):
        found |= {name: section[name] for name in TABLES if section.get(name)}
    return {name: _table(rows) for name, rows in found.items()}


def _cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers and texts of a row; the ends of an interval are two cells."""
    cells: dict[str, Any] = {}
    for name, value in row.items():
        if value is None or isinstance(value, SCALARS):
            cells[name] = value
        elif name.endswith("_ci"):
            cells |= {f"{name}_low": value[0], f"{name}_high": value[1]}
    return cells


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows with the columns of all of them, in the order in which they come."""
    flat = [dict(_leaves(row, ".")) for row in rows]
    columns = tuple(dict.fromkeys(name for row in flat for name in row))
    return Table(columns, tuple(tuple(row.get(name) for name in columns) for row in flat))
