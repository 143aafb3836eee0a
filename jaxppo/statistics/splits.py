"""Splits of the bars in training and test: rolling, expanding, and combinatorial purged cross-validation.

All are positions in the bars, whatever the data. Bars have to be left out between training and test, in the terms of an
agent that learns from trading:

- **purge** removes training bars next to a test period. The "label" of a training bar is everything that its update
  sees of later bars: rewards up to the end of the chunk that advantages are estimated over, or up to the end of a held
  position. Purge at least that many bars *before* a test period, or what was trained on has seen the test.
- **embargo** removes training bars *after* a test period. Their features look back: purge plus embargo must be at
  least the longest look-back of the features and the context of the policy, or training reads test bars as its past.
  Only splits that train after a test need it, so rolling and expanding ones have none.
- A test bar may read training bars as its past: at that time they were known.

References: Lopez de Prado, "Advances in Financial Machine Learning", 2018, chapters 7 and 12. The positions are those
of skfolio's `WalkForward` and `CombinatorialPurgedCV`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np

from jaxppo.statistics.checks import check_count

MOST_SPLITS = 100_000


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Bars to train on and bars to test on.

    Attributes:
      train: positions, increasing; with gaps where a test period, its purge or its embargo lies in between.
      tests: one array of consecutive positions for each test fold.
      paths: for each test fold, the path that it is a part of; all 0 where there is only one.
    """

    train: np.ndarray
    tests: tuple[np.ndarray, ...]
    paths: tuple[int, ...]

    @property
    def test(self) -> np.ndarray:
        """All test positions, increasing."""
        return np.concatenate(self.tests)

    @property
    def train_segments(self) -> tuple[tuple[int, int], ...]:
        """`(first, stop)` of each run of consecutive training bars: an episode must not cross from one to the next."""
        breaks = np.flatnonzero(np.diff(self.train) > 1) + 1
        parts = np.split(self.train, breaks) if len(self.train) else []
        return tuple((int(part[0]), int(part[-1]) + 1) for part in parts)


def rolling(n_bars: int, train: int, test: int, *, purge: int = 0, partial: bool = False) -> tuple[Split, ...]:
    """Splits by a window of `train` bars that moves on by `test` bars; the tests follow each other without a gap.

    Args:
      n_bars: bars to split.
      train: bars to train on, in every split.
      test: bars to test on.
      purge: bars between the end of training and the test.
      partial: also the last test, if fewer than `test` bars are left.

    Returns:
      Splits in the order of time; the tests together are one path.

    Raises:
      ValueError: a size is out of range, or no test fits.
    """
    return _walk(n_bars, train, test, purge, partial, expand=False)


def expanding(n_bars: int, train: int, test: int, *, purge: int = 0, partial: bool = False) -> tuple[Split, ...]:
    """Splits as `rolling` does, but with all bars from the first one on to train on.

    Args:
      n_bars: bars to split.
      train: bars to train on in the first split.
      test: bars to test on.
      purge: bars between the end of training and the test.
      partial: also the last test, if fewer than `test` bars are left.
    """
    return _walk(n_bars, train, test, purge, partial, expand=True)


def combinatorial_purged(
    n_bars: int, folds: int, test_folds: int, *, purge: int = 0, embargo: int = 0
) -> tuple[Split, ...]:
    """Splits into folds, and tests every choice of `test_folds` of them once; the rest is trained on.

    Each fold is tested `C(folds - 1, test_folds - 1)` times, each time by another training. The p-th test of every fold
    is a part of path p: there are as many whole out-of-sample paths as tests of a fold. Training bars may lie after
    test bars: the paths say how robust a rule is, not what it would have earned.

    Args:
      n_bars: bars to split; the last fold takes what does not divide.
      folds: >= 2.
      test_folds: in [1, folds - 1].
      purge: training bars removed before *and* after each test period.
      embargo: more of them removed after it; `purge + embargo` below the length of a fold less 1.

    Returns:
      `C(folds, test_folds)` splits in lexicographic order of their test folds.

    Raises:
      ValueError: a size is out of range, or more than 100,000 splits.
    """
    check_count("folds", folds, 2)
    check_count("test_folds", test_folds, 1)
    check_count("purge", purge, 0)
    check_count("embargo", embargo, 0)
    if test_folds >= folds:
        raise ValueError(f"test_folds is {test_folds}; it must be below folds, {folds}")
    if math.comb(folds, test_folds) > MOST_SPLITS:
        raise ValueError(
            f"{test_folds} of {folds} folds are {math.comb(folds, test_folds):,} splits; at most {MOST_SPLITS:,}"
        )
    length = n_bars // folds
    if purge + embargo >= length - 1:
        raise ValueError(
            f"purge + embargo is {purge + embargo} bars; it must be below {length - 1}, a fold of {length} bars less 1"
        )
    edges = [*(length * fold for fold in range(folds)), n_bars]
    tested = [0] * folds
    splits = []
    for chosen in itertools.combinations(range(folds), test_folds):
        kept = np.ones(n_bars, bool)
        for fold in chosen:
            # Between neighbouring test folds there is no training to purge; the folds themselves cover it.
            kept[max(0, edges[fold] - purge) : edges[fold + 1] + purge + embargo] = False
        paths = tuple(tested[fold] for fold in chosen)
        for fold in chosen:
            tested[fold] += 1
        tests = tuple(np.arange(edges[fold], edges[fold + 1]) for fold in chosen)
        splits.append(Split(np.flatnonzero(kept), tests, paths))
    return tuple(splits)


def paths(splits: tuple[Split, ...]) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Orders the tests that make up each out-of-sample path.

    Returns:
      For each path, `(split, position in its tests)` in the order of time; each path of `combinatorial_purged` covers
      every bar once, the one path of `rolling` and `expanding` every bar from the first test on.
    """
    parts: dict[int, list[tuple[int, int, int]]] = {}
    for number, split in enumerate(splits):
        for position, (path, test) in enumerate(zip(split.paths, split.tests, strict=True)):
            parts.setdefault(path, []).append((int(test[0]), number, position))
    return tuple(tuple((split, position) for _, split, position in sorted(parts[path])) for path in sorted(parts))


def _walk(n_bars: int, train: int, test: int, purge: int, partial: bool, *, expand: bool) -> tuple[Split, ...]:
    """Splits by a window that moves on, or one that expands."""
    check_count("train", train, 1)
    check_count("test", test, 1)
    check_count("purge", purge, 0)
    first = train + purge
    starts = range(first, n_bars if partial else n_bars - test + 1, test)
    if not len(starts):
        raise ValueError(f"{n_bars} bars leave no test of {test} after {train} bars of training and {purge} of purge")
    return tuple(
        Split(
            np.arange(0 if expand else start - first, start - purge),
            (np.arange(start, min(start + test, n_bars)),),
            (0,),
        )
        for start in starts
    )
