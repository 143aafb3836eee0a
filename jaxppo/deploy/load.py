"""Loading an exported policy: JAX, NumPy and pandas, and nothing of a trainer."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import safetensors.numpy
from jax import export as jax_export

from jaxppo.deploy.feed import FeedRules
from jaxppo.deploy.live_policy import LivePolicy, LiveRules
from jaxppo.deploy.manifest import read_manifest
from jaxppo.errors import ConfigError

STEP, WEIGHTS, STATE, RULES, CONFIG = (
    "step.bin",
    "weights.safetensors",
    "state.safetensors",
    "rules.json",
    "config.yaml",
)
PLATFORMS = ("cpu", "cuda", "tpu")


def load_policy(
    folder: str | pathlib.Path, *, journal: str | pathlib.Path | None = None, max_age: float | None = None
) -> LivePolicy:
    """Loads an exported policy, of which every byte is verified.

    Args:
      folder: from `export_run`.
      journal: see `LivePolicy`.
      max_age: see `LivePolicy`.

    Raises:
      ConfigError: no export, another format, or a file that was changed, is missing or is not of it.
    """
    folder = pathlib.Path(folder)
    read_manifest(folder)
    try:
        rules = _rules(json.loads((folder / RULES).read_text(encoding="utf-8")))
        exported = jax_export.deserialize(bytearray((folder / STEP).read_bytes()))
        weights = _in_order(safetensors.numpy.load_file(folder / WEIGHTS))
        kept = safetensors.numpy.load_file(folder / STATE)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ConfigError(f"{folder}: cannot be read by this version: {error}") from None
    bar = {name: kept.pop(f"bar {name}") for name in rules.bar}
    return LivePolicy(exported.call, weights, _in_order(kept), bar, rules, journal=journal, max_age=max_age)


def numbered(arrays: Sequence[Any]) -> dict[str, np.ndarray]:
    """Arrays by their places, such as `0007`.

    Args:
      arrays: in order.
    """
    return {f"{place:04d}": np.asarray(x, order="C") for place, x in enumerate(arrays)}


def _in_order(arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [arrays[name] for name in sorted(arrays)]


def _rules(plain: dict[str, Any]) -> LiveRules:
    """Rules from JSON, whose lists were tuples."""
    feed = FeedRules(**{name: _frozen(value) for name, value in plain.pop("feed").items()})
    return LiveRules(feed=feed, **{name: _frozen(value) for name, value in plain.items()})


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
