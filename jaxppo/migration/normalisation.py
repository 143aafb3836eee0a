"""Normalisation of observations: that of Stable-Baselines3's `VecNormalize`, read without it."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np

from jaxppo.errors import ConfigError
from jaxppo.migration import arrays
from jaxppo.migration.archive import read_file
from jaxppo.migration.pickled import Record, read_pickle
from jaxppo.migration.spaces import is_name

CLASS = "stable_baselines3.common.vec_env.vec_normalize.VecNormalize"
STATISTICS = "stable_baselines3.common.running_mean_std.RunningMeanStd"


class Normalisation(NamedTuple):
    """`clip((x - mean) / sqrt(variance + epsilon), -clip, clip)`.

    Attributes:
      mean: shape of an observation, its units.
      variance: likewise, squared, >= 0.
      clip: largest absolute value, > 0; infinity for any.
      epsilon: > 0.
    """

    mean: np.ndarray
    variance: np.ndarray
    clip: float = 10.0
    epsilon: float = 1e-8


def read_normalisation(path: str | os.PathLike) -> Normalisation | None:
    """Reads the file that `VecNormalize.save` wrote, as data.

    Args:
      path: the file.

    Returns:
      What it does to observations; None where it normalises rewards alone.

    Raises:
      ConfigError: no such file, damaged, a dictionary of observations, or something else than `VecNormalize`.
    """
    where = str(path)
    data = read_file(path, "one that VecNormalize.save wrote")
    saved = read_pickle(data, lambda name: name in (CLASS, STATISTICS) or is_name(name), where)
    if not isinstance(saved, Record) or saved.name != CLASS or not isinstance(saved.state, dict):
        raise ConfigError(f"{where}: holds no VecNormalize")
    return _normalisation(saved.state, where)


def _normalisation(state: dict[Any, Any], where: str) -> Normalisation | None:
    statistics = state.get("obs_rms")
    if state.get("norm_obs") is False:
        return None
    if not isinstance(statistics, Record) or statistics.name != STATISTICS or not isinstance(statistics.state, dict):
        raise ConfigError(f"{where}: normalises several observations by name; one can be imported")
    try:
        mean, variance = (np.asarray(arrays.array_of(statistics.state[name]), np.float64) for name in ("mean", "var"))
        clip, epsilon = (float(arrays.number_of(state[name])) for name in ("clip_obs", "epsilon"))
        return checked_normalisation(Normalisation(mean, variance, clip, epsilon))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{where}: is damaged: {error}") from None


def checked_normalisation(given: Normalisation) -> Normalisation:
    """A normalisation whose numbers make sense, as float64.

    Raises:
      ValueError: names what does not.
    """
    mean, variance = np.asarray(given.mean, np.float64), np.asarray(given.variance, np.float64)
    if mean.shape != variance.shape:
        raise ValueError(f"mean {mean.shape} and variance {variance.shape} must have one shape")
    if not (np.isfinite(mean).all() and np.isfinite(variance).all() and (variance >= 0).all()):
        raise ValueError("mean must be finite, variance finite and >= 0")
    if not (given.clip > 0 and 0 < given.epsilon < np.inf):
        raise ValueError(f"clip is {given.clip} and epsilon {given.epsilon}; both must be > 0")
    return Normalisation(mean, variance, float(given.clip), float(given.epsilon))
