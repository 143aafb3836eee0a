"""Keys of the out-of-sample evaluation: what stands beside the agent, and whether the agent trades at all."""

from __future__ import annotations

import pathlib
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from jaxppo.arguments import NonNegativeRatio, PositiveRatio, Text
from jaxppo.config.book import RULES, OwnPolicy, RunStrategy, with_folders
from jaxppo.config.from_signature import keys_of
from jaxppo.config.items import OWN, Item, Keys
from jaxppo.policy import rules

BASELINE_RULES = (*RULES, "flat", "volatility_target", "equal_weight")
RESERVED = ("agent", "untrained", "ungated")
"""Names that an evaluation gives itself."""


class _Named(Keys):
    name: Text | None = None
    """Name in tables; absent: that of the rule."""


class RunBaseline(RunStrategy):
    """An agent that was trained before, on other bars than those of the test."""

    name: Text | None = None
    """Name in tables; absent: that of the folder."""


class BenchmarkBaseline(Keys):
    """Prices that are held: an asset of the market, bought once, or a column of a file, without costs."""

    symbol: Text | None = None
    """Asset of the market, bought at the first decision at which it is tradable; this or `path`."""
    path: Text | None = None
    """File of an index: a column of times, and `column`; the latest price known at each close counts."""
    column: Text | None = None
    """Column of `path`; absent: close."""
    name: Text | None = None
    """Name in tables; absent: the symbol, or the name of the file."""


class BaselineConfig(
    Item, kinds={name: keys_of(getattr(rules, name), base=_Named) for name in BASELINE_RULES}, own=OwnPolicy
):
    """One baseline: a name and its keys."""

    run: RunBaseline | None = None
    benchmark: BenchmarkBaseline | None = None

    @property
    def title(self) -> str:
        """Its name in tables."""
        keys = self.values
        if self.kind == OWN:
            return self.label
        if keys.name is not None:
            return keys.name
        if self.run is not None:
            return pathlib.Path(self.run.folder).name
        if self.benchmark is not None:
            return keys.symbol or pathlib.Path(keys.path or "benchmark").stem
        return self.kind


class EvaluationConfig(Keys):
    """Out-of-sample evaluation and the report."""

    decision: Literal["mode", "mean"] = "mode"
    """How the policy acts without randomness: its most probable target, or the mean of its targets."""
    bootstrap_resamples: Annotated[int, Field(ge=100, le=2**20)] = 2000
    """Resamples of the stationary block bootstrap behind every interval."""
    level: Annotated[float, Field(gt=0.5, le=0.999)] = 0.95
    """Coverage of the intervals."""
    target_volatility: PositiveRatio = 0.10
    """Annual volatility of the volatility-targeted baseline."""
    baselines: Annotated[tuple[BaselineConfig, ...], BeforeValidator(with_folders)] = ()
    """What stands beside the agent, such as `[buy_and_hold, trend, {run: runs/NAME}, {benchmark: {symbol: SPY}}]`;
    empty: buy and hold, no position, and a volatility-targeted portfolio. The untrained agent is there too."""
    ship: Literal["always", "base_unless"] = "always"
    """`base_unless` trades the base, unless the agent's utility over it is significant before the test."""
    ship_t: NonNegativeRatio = 1.65
    """Largest t-statistic of that utility with which the base is traded."""
    shrink: bool = False
    """Whether an agent that `ship: base_unless` lets trade moves only `1 - 1 / t^2` of the way from base to target."""


def check_evaluation(config: EvaluationConfig, env: str) -> None:
    """Refuses baselines that cannot be told apart or built, and a shrinkage that nothing decides on.

    Args:
      config: the section.
      env: `env.name` of the run.

    Raises:
      ValueError: names the key, its value and what is allowed.
    """
    if config.shrink and config.ship == "always":
        raise ValueError("evaluation.shrink is true, which only evaluation.ship base_unless reads; it is always")
    if env != "trading" and (config.baselines or config.ship != "always"):
        key = "baselines" if config.baselines else "ship"
        raise ValueError(f"evaluation.{key} is of accounts, but env.name is {env!r}; leave it out")
    for number, item in enumerate(config.baselines):
        if item.benchmark is not None:
            _check_benchmark(f"evaluation.baselines[{number}].benchmark", item.benchmark)
    _check_names([item.title for item in config.baselines])


def _check_benchmark(where: str, keys: BenchmarkBaseline) -> None:
    """Refuses a benchmark that is of no prices, or of two."""
    if (keys.symbol is None) == (keys.path is None):
        given = "both" if keys.symbol else "neither"
        raise ValueError(f"{where} has {given} of symbol and path; give one of them")
    if keys.column is not None and keys.path is None:
        raise ValueError(f"{where}.column is {keys.column!r}, which only a benchmark with a path reads")


def _check_names(names: Sequence[str]) -> None:
    """Refuses names that are not unique, or taken."""
    counted: Counter[Any] = Counter(names)
    for number, name in enumerate(names):
        if counted[name] > 1 or name in RESERVED:
            taken = f"taken; {', '.join(RESERVED)} are" if name in RESERVED else "there twice; names must be unique"
            hint = "" if name in RESERVED else ": give one of them a name"
            raise ValueError(f"evaluation.baselines[{number}]: the name {name!r} is {taken}{hint}")
