"""What is done about losses, gradients and figures that are not finite.

An update whose loss or gradient is not finite is left out and counted. An iteration that is lost, since most of its
updates were left out or one of its figures is not finite, ends training, or takes it back to the last checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from jaxppo.config import ConfigError, PPOConfig

MOST_HALVINGS = 3
"""How often a training goes back to its last checkpoint with half the step."""
MOST_SKIPPED = 0.5
"""Share of the updates of an iteration that may be left out."""
OF_ENVIRONMENT = ("reward", "reward_std")
"""Figures of an iteration that its environment alone makes, as long as the policy is untrained."""


class LostIteration(Exception):
    """An iteration from which nothing can be learned.

    Attributes:
      iteration: its number, from 1.
      figure: what is not finite, as `name is value`, or the updates that were left out.
      by_environment: whether no update can be the cause of it.
    """

    def __init__(self, iteration: int, figure: str, by_environment: bool):
        super().__init__(figure)
        self.iteration, self.figure, self.by_environment = iteration, figure, by_environment


def not_finite(row: Mapping[str, float]) -> str | None:
    """The first figure of a row that is not finite, as `name is value`, rewards first; None where all are finite."""
    ordered = [*(name for name in OF_ENVIRONMENT if name in row), *row]
    return next((f"{name} is {row[name]}" for name in ordered if not math.isfinite(row[name])), None)


def check_iteration(iteration: int, row: Mapping[str, float], skipped: float, config: PPOConfig) -> None:
    """Checks that an iteration is not lost.

    Args:
      iteration: its number, from 1.
      row: its figures.
      skipped: updates that were left out.
      config: number of updates of an iteration.

    Raises:
      LostIteration: it is.
    """
    updates = config.epochs * config.minibatches
    if found := not_finite(row):
        by_environment = iteration == 1 and found.split(" ")[0] in OF_ENVIRONMENT
        raise LostIteration(iteration, found, by_environment)
    if skipped > MOST_SKIPPED * updates:
        figure = f"loss or gradient of {skipped:.0f} of {updates} updates is not finite"
        raise LostIteration(iteration, figure, False)


def with_smaller_steps(config: PPOConfig, halvings: int) -> PPOConfig:
    """Hyper-parameters with the step halved some times; the divergence of a natural step is quadratic in its length.

    Args:
      config: those of the run.
      halvings: how often, >= 0.
    """
    update = {"learning_rate": config.learning_rate * 0.5**halvings}
    if config.direction == "natural" and config.kl_limit is not None:
        update["kl_limit"] = config.kl_limit * 0.25**halvings
    return config.model_copy(update=update)


def divergence(where: str, lost: LostIteration, learning_rate: float, halvings: int = 0) -> ConfigError:
    """Makes the error that ends a training.

    Args:
      where: fold, seed and iteration, as far as there are several.
      lost: its last iteration.
      learning_rate: of the run.
      halvings: how often the step was halved before.
    """
    if lost.by_environment:
        return ConfigError(
            f"training stopped in {where}: {lost.figure} before anything was learned; the environment made it: look at "
            "prices, costs and env.initial_cash"
        )
    tried = f", and halved {halvings} times: {learning_rate * 0.5**halvings:g}" if halvings else ""
    return ConfigError(
        f"training diverged in {where}: {lost.figure}; ppo.learning_rate is {learning_rate:g}{tried}; try a smaller one"
    )
