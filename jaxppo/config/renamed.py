"""Keys of earlier versions: runs that were saved with them still open, and still mean what they meant."""

from __future__ import annotations

import copy
from typing import Any

RENAMED = {"walk_forward.agents_at_once": "walk_forward.batch_size"}
"""Key of a section in an earlier version -> its name now."""
SHRUNK = {(True, True): "both", (True, False): "mean", (False, True): "covariance", (False, False): "none"}
"""What `shrink_mean` and `shrink_covariance` of `sizing.kelly` were -> `shrink`."""
MEANT: dict[str, dict[str, Any]] = {
    "env": {"delisting": "freeze"},
    "data": {"spread": "edge"},
    "walk_forward": {"combine": "best"},
}
"""Section -> key that an earlier version had not -> what it did."""


def with_present_keys(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree of a saved configuration with the keys of this version.

    Args:
      tree: as read from the folder of a run.
    """
    tree = copy.deepcopy(tree)
    for before, now in RENAMED.items():
        section, name = before.split(".")
        if isinstance(tree.get(section), dict) and name in tree[section]:
            tree[section][now.split(".")[1]] = tree[section].pop(name)
    for section, keys in MEANT.items():
        if isinstance(tree.get(section, {}), dict):
            tree[section] = keys | tree.get(section, {})
    for item in tree.get("sizing") or ():
        kelly = item.get("kelly") if isinstance(item, dict) else None
        if isinstance(kelly, dict) and {"shrink_mean", "shrink_covariance"} & kelly.keys():
            kelly["shrink"] = SHRUNK[kelly.pop("shrink_mean", True), kelly.pop("shrink_covariance", True)]
    return tree
