"""Keys of a walk-forward."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from jaxppo.arguments import BoundedInt, NonNegativeInt, OpenFraction, PositiveInt
from jaxppo.config.items import Keys

DEFAULT_FOLDS = (6, 2)
"""Folds, and those tested at a time, of combinatorial splits."""
OF_KIND = {
    "combinatorial": ("folds", "test_folds", "embargo_bars"),
    "rolling or expanding": ("train_bars", "test_bars"),
}
"""Keys that only some kinds read."""


class WalkForwardConfig(Keys):
    """How a walk-forward (`jaxppo.walk_forward`) splits the bars, in place of the periods of `data`."""

    kind: Literal["rolling", "expanding", "combinatorial"] = "rolling"
    """A window of training bars that moves on, one that grows, or combinatorial purged cross-validation."""
    train_bars: PositiveInt | None = None
    """Rolling and expanding: bars of the (first) training window, validation included; absent: half of those after the
    history of the first decision."""
    test_bars: PositiveInt | None = None
    """Rolling and expanding: bars of each test; absent: a fifth of what follows the first training window."""
    folds: Annotated[int, Field(ge=2, le=64)] | None = None
    """Combinatorial: consecutive folds of bars; absent: 6."""
    test_folds: Annotated[int, Field(ge=1, le=32)] | None = None
    """Combinatorial: folds that are tested at a time; every choice of them is; absent: 2."""
    embargo_bars: NonNegativeInt | None = None
    """Combinatorial: bars left out of training after a test, beside `data.purge_bars`; absent: as many as features and
    window look back."""
    validation: OpenFraction = 0.2
    """Share of the training bars (of the first window, of the fewest in combinatorial splits), at their end, that
    selects the checkpoint; `data.purge_bars` before it are left out."""
    seeds: BoundedInt = 1
    """Agents for each fold, of seeds `seed`, `seed + 1`, ..."""
    combine: Literal["mean", "best"] = "mean"
    """What is reported first of several seeds: the mean of their targets, or the one that was best on validation."""
    batch_size: PositiveInt | None = None
    """Agents that are trained in one program; absent: as many as fit the memory."""


def check_walk_forward(config: WalkForwardConfig) -> None:
    """Refuses a key that the kind does not read.

    Raises:
      ValueError: names the key, its value and the kinds that read it.
    """
    for kinds, names in OF_KIND.items():
        for name in names if config.kind not in kinds else ():
            if getattr(config, name) is not None:
                raise ValueError(
                    f"walk_forward.{name} is {getattr(config, name)}, which only walk_forward.kind {kinds} reads; "
                    f"it is {config.kind}"
                )
