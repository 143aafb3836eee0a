"""Which agents a sweep trains: combinations of values, each with every seed."""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from jaxppo.config import Config, validate_config
from jaxppo.config.sweep import DRAWN_MEMBERS, GRID_POINTS, MOST_MEMBERS, TRACED, RangeConfig, Value
from jaxppo.config.types import accepted, is_number, is_whole_field
from jaxppo.config.types import keys as every_key
from jaxppo.errors import ConfigError
from jaxppo.run.setup import step_budget
from jaxppo.sweep.halving import make_rungs
from jaxppo.sweep.pbt import even_rungs
from jaxppo.training.hyperparameters import with_values

MOST_DRAWS = 1000
"""Draws for each combination, until that many different ones are found."""
SEEDS_END = 2**31
"""Smallest number that is too large for a seed."""
SEARCHED = ("features", "policy", "ppo", "pathwise")
"""Sections whose keys may differ between agents that are compared by their scores, each in a program of its own."""


def combinations(config: Config) -> tuple[dict[str, float], ...]:
    """The values that are tried, by dotted key: all combinations of a grid, or different ones drawn from `seed`.

    Example:
      >>> from jaxppo import load_config
      >>> config = load_config({"training": {"steps": 1000}, "sweep": {"ppo.gamma": {"linear": [0.8, 1.0], "n": 3}}})
      >>> combinations(config)
      ({'ppo.gamma': 0.8}, {'ppo.gamma': 0.9}, {'ppo.gamma': 1.0})

    Args:
      config: whose section `sweep` says what is tried.
    """
    named, keys = config.sweep.parameters or {}, config.sweep
    if keys.method == "grid":
        grids = [[(key, value) for value in _points(of_key)] for key, of_key in named.items()]
        return tuple(map(dict, itertools.product(*grids)))
    draws, found = np.random.default_rng(config.seed), {}
    n = keys.members or DRAWN_MEMBERS
    for _ in range(MOST_DRAWS * n):
        drawn = {key: _draw(of_key, draws) for key, of_key in named.items()}
        found[tuple(drawn.values())] = drawn
        if len(found) == n:
            break
    return tuple(found.values())


def _points(of_key: RangeConfig) -> list[float]:
    """Values of a grid."""
    n = of_key.n or GRID_POINTS
    if of_key.values is not None:
        return list(of_key.numbers)
    if of_key.log is not None:
        return _rounded(np.geomspace(*of_key.log, n))
    assert of_key.linear is not None, "`RangeConfig` has one of the three"
    return _rounded(np.linspace(*of_key.linear, n))


def _draw(of_key: RangeConfig, draws: np.random.Generator) -> float:
    """One value."""
    if of_key.values is not None:
        return float(draws.choice(of_key.numbers))
    if of_key.log is not None:
        low, high = map(math.log, of_key.log)
        return _rounded([math.exp(draws.uniform(low, high))])[0]
    assert of_key.linear is not None, "`RangeConfig` has one of the three"
    return _rounded([draws.uniform(*of_key.linear)])[0]


def _rounded(values: np.ndarray | list[float]) -> list[float]:
    """Values in the precision that they are trained with, so that what is written is what was used."""
    return [float(f"{np.float32(value):.6g}") for value in values]


def is_whole(key: str) -> bool:
    """Whether a key takes whole numbers only.

    Args:
      key: dotted.
    """
    field = dict(every_key()).get(key)
    return field is not None and is_whole_field(field)


def member_config(config: Config, values: Mapping[str, Value], seed: int) -> Config:
    """The configuration of one agent as a run of its own.

    Args:
      config: of the sweep.
      values: by dotted key.
      seed: of the agent.

    Raises:
      ConfigError: a value is out of its range, or does not go with the others.
    """
    tree = with_values(config, values).model_copy(update={"seed": seed}).model_dump(mode="json")
    return validate_config(tree, source="sweep")


def check(config: Config) -> None:
    """Refuses what a sweep cannot do, before anything is read.

    Raises:
      ConfigError: names the key.
    """
    if config.env.name != "trading":
        raise ConfigError(f"env.name is {config.env.name!r}; a sweep trains agents that trade: trading")
    if config.training.minutes is not None:
        raise ConfigError(
            f"training.minutes is {config.training.minutes:g}; agents that are trained together share a budget in "
            "steps: set training.steps or training.episodes, of each agent"
        )
    keys = config.sweep
    if not keys.parameters and keys.seeds == 1:
        raise ConfigError("sweep has nothing to try; name keys in sweep.parameters, or set sweep.seeds to 2 or more")
    if not keys.parameters and keys.method != "grid":
        raise ConfigError(f"sweep.method is {keys.method}, but sweep.parameters names no key to draw values of")
    if config.seed + keys.seeds > SEEDS_END:
        raise ConfigError(f"sweep.seeds is {keys.seeds}; seed {config.seed} leaves room for fewer")
    sizes = [len(of_key.values or ()) or of_key.n or GRID_POINTS for of_key in (keys.parameters or {}).values()]
    n = math.prod(sizes) if keys.method == "grid" else keys.members or DRAWN_MEMBERS
    if n * keys.seeds > MOST_MEMBERS:
        raise ConfigError(
            f"sweep has {n} combinations of {keys.seeds} seeds: {n * keys.seeds} agents; at most {MOST_MEMBERS}"
        )
    if keys.method in ("halving", "pbt"):
        steps = config.ppo.paths * config.ppo.portfolios * config.ppo.chunk
        n_iterations = -(-(step_budget(config) or 0) // steps)
        every = min(config.training.evaluate_every, n_iterations)
        if keys.method == "pbt":
            even_rungs(keys, n_iterations, every)
        else:
            make_rungs(keys, n, n_iterations, every)
    if keys.method == "optuna":
        _check_searched(keys.parameters or {})
        return
    ends = [{key: end} for key, of_key in (keys.parameters or {}).items() for end in of_key.log or of_key.linear or ()]
    tried = combinations(config)
    different = len({tuple(values.values()) for values in tried})
    if different < n:
        raise ConfigError(
            f"sweep has {n} combinations, of which only {different} differ; widen the ranges or try fewer"
        )
    for values in (*ends, *tried):
        member_config(config, values, config.seed)


def _check_searched(parameters: Mapping[str, RangeConfig]) -> None:
    """Refuses keys that are none, or not of `SEARCHED`, and values that a key cannot have whatever the others are."""
    known = {key: field for key, field in every_key() if key.partition(".")[0] in SEARCHED and key.count(".") == 1}
    for key, of_key in parameters.items():
        field = known.get(key)
        if field is None and key not in TRACED:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"allowed: keys of {', '.join(SEARCHED)}"
            raise ConfigError(f"sweep.parameters names {key}; {hint}")
        if field is None:
            continue
        constrained: Any = Annotated[field.annotation, field]
        accepts: TypeAdapter[Any] = TypeAdapter(constrained)
        ends = of_key.log or of_key.linear
        if ends is not None and is_whole(key) and math.ceil(ends[0]) >= math.floor(ends[1]):
            raise ConfigError(
                f"sweep.parameters.{key} is {list(ends)}; allowed: a range with two whole numbers or more"
            )
        if ends is not None and not is_number(field):
            raise ConfigError(f"sweep.parameters.{key} is a range; allowed: values, each {accepted(field)}")
        for value in of_key.values or of_key.log or of_key.linear or ():
            try:
                accepts.validate_python(int(value) if is_whole(key) and of_key.values is None else value)
            except ValidationError:
                raise ConfigError(f"sweep.parameters.{key} has {value!r}; allowed: {accepted(field)}") from None
