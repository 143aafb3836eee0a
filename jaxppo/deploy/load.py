"""Loading an exported policy: JAX, NumPy and pandas, and nothing of a trainer."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from jax import export as jax_export

from jaxppo.deploy.drift.reference import Reference
from jaxppo.deploy.feed import FeedRules
from jaxppo.deploy.live_account import LivePolicy, LiveRules
from jaxppo.deploy.manifest import read_manifest
from jaxppo.errors import ConfigError

STEP, BATCH, RULES, CONFIG = "step.bin", "step_of_many.bin", "rules.json", "config.yaml"
REFERENCE = "reference.json"
WEIGHTS, STATE = "weights.safetensors", "state.safetensors"
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
    rules, exported, weights, state, bar = _read(folder, STEP)
    try:
        reference = Reference.from_dict(json.loads((folder / REFERENCE).read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ConfigError(f"{folder}: cannot be read by this version: {error}") from None
    return LivePolicy(
        exported.call, weights, state, bar, rules, journal=journal, max_age=max_age, reference=reference
    )  # fmt: skip


class BatchStep(NamedTuple):
    """The step of many accounts side by side, for a device of its own.

    Attributes:
      step: `(weights, state, bar) -> (state, output)`, lists of arrays; all but the weights with a leading axis of
        accounts, however many.
      weights: of the policy.
      state: of one account before its first bar.
      bar: name -> array like the one that an account is told, in order.
      output: names of the arrays of the output, in order.
    """

    step: Callable[..., Any]
    weights: list[np.ndarray]
    state: list[np.ndarray]
    bar: dict[str, np.ndarray]
    output: tuple[str, ...]


def load_batch_step(folder: str | pathlib.Path) -> BatchStep:
    """Loads the step of an exported policy for many accounts.

    Args:
      folder: from `export_run`.

    Raises:
      ConfigError: see `load_policy`.
    """
    rules, exported, weights, state, bar = _read(pathlib.Path(folder), BATCH)
    return BatchStep(exported.call, weights, state, bar, rules.output)


def _read(folder: pathlib.Path, step: str) -> tuple[LiveRules, Any, list[np.ndarray], list[np.ndarray], dict[str, Any]]:
    """Rules, step, weights, first state and a bar of a verified folder."""
    read_manifest(folder)
    try:
        rules = _rules(json.loads((folder / RULES).read_text(encoding="utf-8")))
        exported = jax_export.deserialize(bytearray((folder / step).read_bytes()))
        weights = _in_order(safetensors.numpy.load_file(folder / WEIGHTS))
        kept = safetensors.numpy.load_file(folder / STATE)
        bar = {name: kept.pop(f"bar {name}") for name in rules.bar}
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ConfigError(f"{folder}: cannot be read by this version: {error}") from None
    return rules, exported, weights, _in_order(kept), bar


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
