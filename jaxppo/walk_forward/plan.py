"""The folds of a walk-forward: the decisions that each one trains on, selects by and tests on."""

from __future__ import annotations

import dataclasses

from jaxppo.config.walk_forward import DEFAULT_FOLDS, WalkForwardConfig
from jaxppo.errors import ConfigError
from jaxppo.run.periods import Period
from jaxppo.statistics import splits
from jaxppo.statistics.splits import Split

LEAST = 2
"""Decisions that a validation or a test needs: a Sharpe ratio of less does not exist."""


@dataclasses.dataclass(frozen=True)
class Fold:
    """One training and what it is tested on.

    Attributes:
      train: stretches to train on, in the order of time; more than one only where a test lies between them.
      validation: what selects the checkpoint, as long in every fold.
      tests: consecutive decisions that neither training nor selection has seen; several only in combinatorial splits.
    """

    train: tuple[Period, ...]
    validation: Period
    tests: tuple[Period, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """The folds of a walk-forward and how their tests are put together.

    Attributes:
      folds: one for each training.
      paths: for each out-of-sample path, `(fold, position in its tests)` in the order of time. Each one covers the same
        bars without a gap; there is one but in combinatorial splits.
      left_out: decisions at the end of the market that are too few for another test.
    """

    folds: tuple[Fold, ...]
    paths: tuple[tuple[tuple[int, int], ...], ...]
    left_out: int = 0

    @property
    def test(self) -> Period:
        """From the first tested decision to the last mark."""
        parts = [self.folds[fold].tests[position] for fold, position in self.paths[0]]
        return Period(parts[0].first, parts[-1].last)


def make_plan(config: WalkForwardConfig, n_bars: int, first_decision: int, chunk: int, purge: int) -> Plan:
    """Splits the decisions on a market: those at the closes of bars `first_decision .. n_bars - 2`.

    Each decision earns until the next close. The last `validation` share of the (first) training window is held back to
    select the checkpoint, after a purge. In combinatorial splits it ends the last stretch of training that has room for
    it, and stretches shorter than a chunk are not trained on.

    Args:
      config: how to split.
      n_bars: bars of the market.
      first_decision: first bar at which a decision can be taken.
      chunk: bars of a training rollout.
      purge: decisions left out between training, validation and test.

    Raises:
      ConfigError: the market is too short; names the keys.
    """
    n = n_bars - 1 - first_decision
    try:
        found = _split(config, n, first_decision, purge)
    except ValueError as error:
        raise ConfigError(
            f"walk_forward.kind is {config.kind!r}, with {n} decisions ({n_bars} bars, of which {first_decision} are "
            f"the history of the first): {error}"
        ) from None
    held_back = max(round(config.validation * min(len(split.train) for split in found)), LEAST)
    folds = tuple(_fold(split, held_back, first_decision, chunk, purge, config) for split in found)
    return Plan(folds, splits.paths(found), n_bars - 1 - max(test.last for fold in folds for test in fold.tests))


def _split(config: WalkForwardConfig, n: int, history: int, purge: int) -> tuple[Split, ...]:
    """Splits `n` decisions."""
    if config.kind == "combinatorial":
        embargo = history if config.embargo_bars is None else config.embargo_bars
        n_folds, n_tests = config.folds or DEFAULT_FOLDS[0], config.test_folds or DEFAULT_FOLDS[1]
        return splits.combinatorial_purged(n, n_folds, n_tests, purge=purge, embargo=embargo)
    train = n // 2 if config.train_bars is None else config.train_bars
    test = (n - train - purge) // 5 if config.test_bars is None else config.test_bars
    if test < LEAST:
        raise ValueError(f"test_bars is {test}; at least {LEAST} are needed")
    return {"rolling": splits.rolling, "expanding": splits.expanding}[config.kind](n, train, test, purge=purge)


def _fold(split: Split, held_back: int, first_decision: int, chunk: int, purge: int, config: WalkForwardConfig) -> Fold:
    """Takes the validation of a split out of its training."""
    segments = split.train_segments
    room = [number for number, (start, stop) in enumerate(segments) if stop - start >= held_back + purge + chunk]
    if not room:
        longest = max((stop - start for start, stop in segments), default=0)
        raise ConfigError(
            f"walk_forward.validation is {config.validation:g}: {held_back} decisions, {purge} of purge and {chunk} of "
            f"a training chunk need {held_back + purge + chunk} in a row, but the longest stretch of training has "
            f"{longest}"
        )
    start, stop = segments[room[-1]]
    fits = [*segments[: room[-1]], (start, stop - held_back - purge), *segments[room[-1] + 1 :]]

    def period(first: int, last: int) -> Period:
        return Period(first_decision + first, first_decision + last)

    return Fold(
        train=tuple(period(*fit) for fit in fits if fit[1] - fit[0] >= chunk),
        validation=period(stop - held_back, stop),
        tests=tuple(period(int(test[0]), int(test[-1]) + 1) for test in split.tests),
    )
