"""What the host loop looks at after an iteration: the policy on validation data, constraints that are infeasible."""

from __future__ import annotations

import math
import sys

import jax
import numpy as np

from jaxppo.ppo.iteration import TrainState
from jaxppo.training.run_state import Done, Run


def validate(run: Run, state: TrainState, done: Done) -> dict[str, float]:
    """Scores the current policy on validation and keeps it if it is the best so far.

    Args:
      run: whose evaluator scores it.
      state: of training.
      done: what is done so far, which learns of the score.

    Returns:
      The figures, named `validation_...`; that of the criterion is not a number where a parameter is none.
    """
    evaluator, net = run.experiment.evaluator, jax.device_get(state.params)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(net)):
        return {f"validation_{evaluator.criterion}": math.nan}
    score = evaluator.score(net, run.folder, done.iteration)
    reached = score[evaluator.criterion]
    done.evaluations += 1
    # A tie goes to the later network: it has trained longer, and accounts that never trade all score 0.
    if done.best_score is None or reached >= done.best_score:
        done.best_score, done.best_iteration = reached, done.iteration
        run.best.save(done.iteration, {"params": net}, {"iteration": done.iteration, **score})
    return {f"validation_{name}": value for name, value in score.items()}


def report_infeasible(row: dict[str, float], known: set[str]) -> None:
    """Reports on stderr every constraint that has become infeasible, once.

    Args:
      row: figures of an iteration.
      known: names of those that were reported; grows.
    """
    found = {name for name, value in row.items() if name.endswith("_infeasible") and value}
    for name in sorted(found - known):
        constraint = name.removesuffix("_infeasible")
        print(
            f"{constraint.replace('_', ' ', 1)} is infeasible so far: {row[constraint]:.4g}, above its limit with the "
            "multiplier at its maximum",
            file=sys.stderr,
        )
    known |= found
