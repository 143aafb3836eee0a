"""Keys of a walk-forward."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from jaxppo.config_values import Bars, Few, Positive, Section, Share


class WalkForwardConfig(Section):
    """How `scripts/walk_forward.py` splits the bars, in place of the periods of `data`; see
    `jaxppo.backtest.folds`."""

    kind: Literal["rolling", "expanding", "combinatorial"] = "rolling"
    """A window of training bars that moves on, one that grows, or combinatorial purged cross-validation."""
    train_bars: Positive | None = None
    """Rolling and expanding: bars of the (first) training window, validation included; absent: half of all."""
    test_bars: Positive | None = None
    """Rolling and expanding: bars of each test; absent: a fifth of what follows the first training window."""
    folds: Annotated[int, Field(ge=2, le=64)] = 6
    """Combinatorial: consecutive folds of bars."""
    test_folds: Annotated[int, Field(ge=1, le=32)] = 2
    """Combinatorial: folds that are tested at a time; every choice of them is."""
    embargo_bars: Bars | None = None
    """Combinatorial: bars left out of training after a test, beside `data.purge_bars`; absent: as many as features and
    window look back."""
    validation: Share = 0.2
    """Share of the training bars, their last, that selects the checkpoint; `data.purge_bars` before it are left out."""
    seeds: Few = 1
    """Agents for each fold, of seeds `seed`, `seed + 1`, ..."""
    agents_at_once: Positive | None = None
    """Agents that are trained in one program; absent: as many as fit the memory."""
