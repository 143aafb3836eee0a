"""The configuration as digests see it: keys that were added later count only where they are set."""

from __future__ import annotations

from typing import Any

from jaxppo.config.learning import PathwiseConfig
from jaxppo.config.own import own_names
from jaxppo.config.schema import Config
from jaxppo.config.sweep import SweepConfig
from jaxppo.own_code import find

ADDED: dict[str, dict[str, Any]] = {
    "data": {
        "volume": None,
        "rate_column": None,
        "stablecoins_at_par": False,
        "spread": "edge",
        "half_spread": None,
        "tick": None,
        "multiplier": 1.0,
        "futures": False,
        "columns": None,
        "funding": None,
        "dividends": None,
        "splits": None,
        "start": None,
        "end": None,
        "refresh": False,
    },
    "costs": {
        "cash_rate": 0.0,
        "margin_volatility": None,
        "initial_margins": None,
        "maintenance_margins": None,
        "lot_size": None,
        "minimum_notional": None,
        "function": None,
        "options": None,
    },
    "exits": {"stop_loss": None, "take_profit": None, "trailing_stop": None, "wait": 0},
    "limit_orders": {"offset": None, "touch": False},
    "env": {"delisting": "freeze", "units": "weight"},
    "features": {"timeframes": [], "normalise": None, "columns": None, "functions": None},
    "regimes": {"options": None},
    "objective": {"options": None},
    "policy": {"options": None, "base": None, "start": None, "tilt": "add"},
    "ppo": {"encoder_epochs": None},
    "training": {"learner": "ppo"},
    "pathwise": PathwiseConfig().model_dump(mode="json"),
    "walk_forward": {"combine": "best"},
    "sweep": SweepConfig().model_dump(mode="json"),
    "evaluation": {"baselines": [], "ship": "always", "ship_t": 1.65, "shrink": False},
}
"""Section -> key that jobs and trials of 0.1.0 did not have -> the value with which it changes nothing."""

NEW_SECTIONS = ("exits", "limit_orders", "pathwise", "sweep")
"""Sections that jobs and trials of 0.1.0 did not have at all."""

UNREAD = ("tracking",)
"""Sections that change nothing of a result: digests do not see them."""

ADDED_TO_ITEMS: dict[str, dict[str, dict[str, Any]]] = {"sizing": {"drawdown_control": {"window": None}}}
"""List -> kind of its items -> such keys of theirs."""


def digest_tree(config: Config) -> dict[str, Any]:
    """Writes a configuration out without added keys that change nothing, so that digests of older jobs stay valid.

    Own code that it names counts by its content.

    Args:
      config: of a run.
    """
    tree = {name: value for name, value in config.model_dump(mode="json").items() if name not in UNREAD}
    for section, neutral in ADDED.items():
        kept = {key: value for key, value in tree.pop(section).items() if neutral.get(key, ...) != value}
        if kept or section not in NEW_SECTIONS:
            tree[section] = kept
    for name, kinds in ADDED_TO_ITEMS.items():
        for item in tree[name]:
            for kind, neutral in kinds.items():
                if kind in item:
                    item[kind] = {key: value for key, value in item[kind].items() if neutral.get(key, ...) != value}
    own = {name: find(name, key).sha256 for key, name in own_names(config)}
    return {**tree, "own_code": own} if own else tree
