"""The configuration that `jaxppo init` writes: the ten keys that matter, each with what it means and accepts."""

from __future__ import annotations

import itertools
import pathlib
from typing import Any

import yaml

from jaxppo.cli.keys import MATTER, Key, all_keys, wrapped
from jaxppo.config.load import dump_value
from jaxppo.config.shipped import shipped
from jaxppo.envs.market.kernels import platform

EXAMPLE = "quickstart"
"""The configuration that ships of which the values are taken: an agent that is known to train on them."""
HEAD = """\
# A run of jaxppo: the ten keys to know first. Every other key has its default; jaxppo help all explains them.
# Check it with  jaxppo doctor --config {path}
# Train it with  jaxppo train --config {path}
"""
WIDTH = 100
ON_GPU = 2
"""By how much a GPU takes more paths, and more steps: launches take longest there, and more paths need none more."""


def first_values(data: str | None = None) -> dict[str, Any]:
    """Dotted key -> value: that of the quick start, or the default where the quick start leaves it out.

    On a GPU there are `ppo.paths` too.

    Args:
      data: in place of its prices; None keeps them.
    """
    tree = yaml.safe_load(shipped()[EXAMPLE].read_text(encoding="utf-8"))
    values = {name: _value(tree, all_keys()[name]) for name in MATTER}
    values |= {} if data is None else {"data.path": data}
    if platform() != "gpu":
        return values
    more = ("training.steps", "ppo.paths")
    return values | {name: ON_GPU * _value(tree, all_keys()[name]) for name in more}


def as_tree(values: dict[str, Any]) -> dict[str, Any]:
    """Nested sections of dotted keys."""
    tree: dict[str, Any] = {}
    for name, value in values.items():
        section, dot, key = name.partition(".")
        if dot:
            tree.setdefault(section, {})[key] = value
        else:
            tree[section] = value
    return tree


def as_text(values: dict[str, Any], path: pathlib.Path) -> str:
    """YAML of dotted keys, with their meaning, what they accept and their default as comments.

    Args:
      values: by dotted key; those of a section follow one another.
      path: of the file, for its first lines.
    """
    lines = [HEAD.format(path=path)]
    for section, names in itertools.groupby(values, lambda name: name.partition(".")[0]):
        inside = [name for name in names if name != section]
        lines += [f"{section}:"] if inside else []
        for name in inside or [section]:
            indent, key = "  " if inside else "", all_keys()[name]
            lines += wrapped(key.meaning, f"{indent}# ", WIDTH)
            lines += wrapped(f"Accepts {key.allowed}.", f"{indent}# ", WIDTH)
            lines += [f"{indent}{name.rpartition('.')[2]}: {dump_value(values[name])}", ""]
    return "\n".join(lines[:-1]) + "\n"


def _value(tree: dict[str, Any], key: Key) -> Any:
    """The value of a key in nested sections, or its default."""
    section, dot, name = key.name.partition(".")
    inside, name = (tree.get(section) or {}, name) if dot else (tree, section)
    return inside[name] if name in inside else yaml.safe_load(key.default)
