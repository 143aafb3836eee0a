"""What a walk-forward trains: the agents, the parameters of their folds' environments, and the budget."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.envs.trading.types import EnvParams
from jaxppo.errors import ConfigError
from jaxppo.run.setup import Setup, step_budget


@dataclasses.dataclass(frozen=True)
class FoldParams:
    """Parameters of the folds' environments; a leaf that is the same in all of them is stored once.

    Attributes:
      shared: parameters of the first fold.
      per_fold: for each leaf, None where it is shared, else `[folds, ...]`.
    """

    shared: EnvParams
    per_fold: tuple[jax.Array | None, ...]

    @classmethod
    def of(cls, each: Sequence[EnvParams]) -> FoldParams:
        """Stacks the parameters of every fold."""
        columns = zip(*(jax.tree.leaves(params) for params in each), strict=True)
        return cls(each[0], tuple(None if _alike(column) else jnp.stack(column) for column in columns))

    def __getitem__(self, folds: Sequence[int]) -> EnvParams:
        """Parameters of some folds, to be mapped over the axes `fill(None, 0)`."""
        leaves, chosen = jax.tree.leaves(self.shared), jnp.asarray(folds)
        taken = [leaf if rows is None else rows[chosen] for leaf, rows in zip(leaves, self.per_fold, strict=True)]
        return jax.tree.unflatten(jax.tree.structure(self.shared), taken)

    def one(self, fold: int) -> EnvParams:
        """Parameters of one fold."""
        return jax.tree.map(lambda x, axis: x if axis < 0 else x[0], self[[fold]], self.fill(-1, 0))

    def fill(self, shared: Any, mapped: Any) -> EnvParams:
        """Makes a tree of the same structure, for `vmap` and `shard_map`.

        Args:
          shared: value of the leaves that are the same in all folds.
          mapped: value of the others.
        """
        return jax.tree.unflatten(
            jax.tree.structure(self.shared), [shared if rows is None else mapped for rows in self.per_fold]
        )


def _alike(column: Sequence[jax.Array]) -> bool:
    floating = jnp.issubdtype(column[0].dtype, jnp.floating)
    return all(x is column[0] or np.array_equal(x, column[0], equal_nan=floating) for x in column[1:])


@dataclasses.dataclass
class Agent:
    """One agent, and the state of its training.

    Attributes:
      fold: number of its fold.
      seed: of all its randomness.
      best_iteration: of the checkpoint that was best on validation.
      best_score: annual Sharpe ratio of that checkpoint on validation; None before the first evaluation.
      evaluations: on validation.
      stopped: what ended its training: a breached limit, see `jaxppo.training.monitor.stop_in`, or as `limit` the
        figure that was not finite.
      rows: metrics at each evaluation, with `iteration` and `validation_sharpe`.
      iterations: that it was trained for before it was stopped.
      skipped_updates: updates that were left out, since their loss or gradient was not finite.
      last: metrics of its last iteration, until it is evaluated.
      values: hyper-parameters of its own, by dotted key; empty where all agents have those of the configuration.
    """

    fold: int
    seed: int
    best_iteration: int = 0
    best_score: float | None = None
    evaluations: int = 0
    stopped: dict[str, Any] | None = None
    rows: list[dict[str, float]] = dataclasses.field(default_factory=list)
    iterations: int = 0
    skipped_updates: int = 0
    last: dict[str, float] = dataclasses.field(default_factory=dict)
    values: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def score(self) -> float:
        """`best_score` of an agent that was evaluated."""
        assert self.best_score is not None, "training ends with an error where an agent is never evaluated"
        return self.best_score

    @classmethod
    def restored(cls, fields: dict[str, Any]) -> Agent:
        """From a checkpoint; older ones call the evaluations looks.

        Raises:
          ConfigError: it is not what a checkpoint of this version holds.
        """
        try:
            agent = cls(**{"evaluations" if name == "looks" else name: value for name, value in fields.items()})
            counts = (agent.fold, agent.seed, agent.best_iteration, agent.evaluations, agent.iterations)
            sound = all(type(count) is int and count >= 0 for count in counts) and isinstance(agent.rows, list)
            sound &= agent.best_score is None or math.isfinite(agent.best_score)
            sound &= isinstance(agent.last, dict) and isinstance(agent.values, dict)
            sound &= agent.stopped is None or {"limit", "iteration"} <= agent.stopped.keys()
        except (TypeError, AttributeError) as error:
            raise ConfigError(f"an agent of the last checkpoint is damaged, or of a newer version: {error}") from None
        if not sound:
            raise ConfigError(f"an agent of the last checkpoint is damaged: {str(fields)[:200]}")
        return agent


@dataclasses.dataclass(frozen=True)
class Job:
    """What is trained, on what, and for how long.

    Attributes:
      setup: of the first fold: environment, policy and hyper-parameters of all.
      params: of the environments of the folds.
      validation: first decision of the validation of each fold.
      n_validation: decisions of a validation.
      seeds: of the agents of each fold.
      folder: of the walk-forward or sweep; checkpoints are kept in it.
      values: hyper-parameters that agents differ in, by dotted key; each is trained on every fold with every seed.
      tolerant: whether an agent that diverges before it was ever evaluated is given up, instead of ending the job.
      until: iterations after which agents are looked at, evaluated in any case; None for the whole budget.
    """

    setup: Setup
    params: FoldParams
    validation: tuple[int, ...]
    n_validation: int
    seeds: tuple[int, ...]
    folder: pathlib.Path
    values: tuple[Mapping[str, float], ...] = ({},)
    tolerant: bool = False
    until: int | None = None

    @property
    def agents(self) -> list[Agent]:
        """Untrained agents, fold by fold, and of a fold the seeds of the same values side by side."""
        folds = range(len(self.validation))
        return [Agent(fold, seed, values=dict(own)) for fold in folds for own in self.values for seed in self.seeds]

    @property
    def steps(self) -> int:
        """Environment steps of an iteration of an agent."""
        ppo = self.setup.ppo
        return ppo.paths * ppo.portfolios * ppo.chunk

    @property
    def budget(self) -> int:
        """Environment steps of each agent."""
        budget = step_budget(self.setup.config)
        assert budget is not None, "a budget in minutes is refused before"
        return budget

    @property
    def n_iterations(self) -> int:
        """Iterations of each agent."""
        whole = -(-self.budget // self.steps)
        return whole if self.until is None else min(whole, self.until)

    @property
    def every(self) -> int:
        """Iterations from one evaluation on validation to the next."""
        return min(self.setup.config.training.evaluate_every, self.n_iterations)

    @property
    def most_at_once(self) -> int:
        """Iterations of one call of the program at most: it ends where an evaluation or a checkpoint is due."""
        return min(self.every, self.setup.config.training.checkpoint_every)

    def next_pause(self, iteration: int) -> int:
        """The iteration after which the next evaluation or checkpoint is due, or training ends.

        Args:
          iteration: iterations done, below `n_iterations`.
        """
        cadences = self.every, self.setup.config.training.checkpoint_every
        return min(self.n_iterations, *(iteration - iteration % cadence + cadence for cadence in cadences))

    def is_evaluated_after(self, iteration: int) -> bool:
        """Whether agents are evaluated after an iteration.

        Args:
          iteration: iterations done, above 0.
        """
        return iteration % self.every == 0 or iteration >= self.n_iterations
