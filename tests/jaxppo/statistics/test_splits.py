"""Splits equal skfolio's on random sizes; paths cover every bar once; training never touches what it must not."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skfolio.model_selection import CombinatorialPurgedCV, WalkForward

from jaxppo.statistics import splits


@settings(max_examples=80, deadline=None)
@given(
    n=st.integers(2, 200),
    train=st.integers(1, 60),
    test=st.integers(1, 40),
    purge=st.integers(0, 10),
    partial=st.booleans(),
    expand=st.booleans(),
)
def test_walk_forward_equals_skfolio(n: int, train: int, test: int, purge: int, partial: bool, expand: bool) -> None:
    theirs = WalkForward(test, train, purged_size=purge, reduce_test=partial, expand_train=expand)
    walk = splits.expanding if expand else splits.rolling
    try:
        expected = list(theirs.split(np.zeros((n, 1))))
    except ValueError:
        expected = []
    if not expected:
        with pytest.raises(ValueError, match="leave no test"):
            walk(n, train, test, purge=purge, partial=partial)
        return
    ours = walk(n, train, test, purge=purge, partial=partial)
    assert len(ours) == len(expected)
    for split, (train_bars, test_bars) in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(split.train, train_bars)
        np.testing.assert_array_equal(split.test, test_bars)
    stitched = np.concatenate([ours[number].tests[position] for number, position in splits.paths(ours)[0]])
    np.testing.assert_array_equal(stitched, np.arange(train + purge, train + purge + len(stitched)))


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(20, 200),
    folds=st.integers(3, 8),
    chosen=st.integers(2, 6),
    purge=st.integers(0, 6),
    embargo=st.integers(0, 6),
)
def test_combinatorial_equals_skfolio(n: int, folds: int, chosen: int, purge: int, embargo: int) -> None:
    chosen = min(chosen, folds - 1)
    theirs = CombinatorialPurgedCV(folds, chosen, purged_size=purge, embargo_size=embargo)
    try:
        expected = list(theirs.split(np.zeros((n, 1))))
    except ValueError:
        with pytest.raises(ValueError, match=r"purge \+ embargo"):
            splits.combinatorial_purged(n, folds, chosen, purge=purge, embargo=embargo)
        return
    ours = splits.combinatorial_purged(n, folds, chosen, purge=purge, embargo=embargo)
    assert len(ours) == len(expected) == math.comb(folds, chosen)
    np.testing.assert_array_equal([split.paths for split in ours], theirs.get_path_ids())
    for split, (train_bars, tests) in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(split.train, train_bars)
        for own, their in zip(split.tests, tests, strict=True):
            np.testing.assert_array_equal(own, their)
    recombined = splits.paths(ours)
    assert len(recombined) == theirs.n_test_paths
    for path in recombined:
        covered = np.concatenate([ours[number].tests[position] for number, position in path])
        np.testing.assert_array_equal(covered, np.arange(n))


def test_by_hand() -> None:
    """60 bars, 6 folds, tests 0 and 5, purge 3, embargo 2: training from 15 to 46."""
    found = next(
        s
        for s in splits.combinatorial_purged(60, 6, 2, purge=3, embargo=2)
        if s.tests[1][0] == 50 and s.tests[0][0] == 0
    )
    np.testing.assert_array_equal(found.train, np.arange(15, 47))
    assert found.train_segments == ((15, 47),)
    first, second, *_ = splits.rolling(60, 20, 10, purge=2)
    assert (first.train[0], first.train[-1], first.test[0], first.test[-1]) == (0, 19, 22, 31)
    assert (second.train[0], second.train[-1], second.test[0], second.test[-1]) == (10, 29, 32, 41)
    middle = splits.combinatorial_purged(40, 4, 1, purge=1, embargo=1)[1]
    assert middle.train_segments == ((0, 9), (22, 40))
    whole = splits.combinatorial_purged(21, 2, 1)
    assert [len(split.test) for split in whole] == [10, 11]


WRONG = {
    "train is 0": lambda: splits.rolling(10, 0, 1),
    "test is 1.5": lambda: splits.rolling(10, 1, 1.5),
    "purge is -1": lambda: splits.expanding(10, 1, 1, purge=-1),
    "folds is 1": lambda: splits.combinatorial_purged(10, 1, 1),
    "test_folds is 3": lambda: splits.combinatorial_purged(30, 3, 3),
    "embargo is -1": lambda: splits.combinatorial_purged(30, 3, 1, embargo=-1),
    "at most 100,000": lambda: splits.combinatorial_purged(1000, 30, 15),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_arguments_are_named(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WRONG[message]()
