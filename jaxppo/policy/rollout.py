"""A rollout: what K portfolios on each of P paths saw, did and earned."""

from __future__ import annotations

from typing import Any

import jax
from flax import struct

DATA_AXIS = "data"
"""Mesh axis over which the paths are spread."""


@struct.dataclass
class Rollout:
    """S decisions of K portfolios on each of P paths.

    Values are `[P, S, K]`; those of a quantile critic `[P, S, K, N]`, in any order.

    Attributes:
      inputs: what `Task.predict` reads; every leaf has leading axis P.
      hindsight: `[P, S, K or 1, ...]` what the critic may know of the exogenous future, or None.
      action: `[P, S, K, ...]` as stored by the distribution.
      behaviour: `[P, S, K]` distributions that the actions were drawn from.
      log_prob: `[P, S, K]` joint log-probability when taken.
      value: `[P, S, K]` or `[P, S, K, N]` network value of the state acted in.
      value_after: like `value`, network value of the state arrived at, before any reset.
      reward: `[P, S, K]`.
      terminated: `[P, S, K]` bool, nothing follows.
      truncated: `[P, S, K]` bool, the episode was cut; what follows is worth `value_after`.
      info: `[P, S, K]` each, figures to report.
    """

    inputs: Any
    hindsight: jax.Array | None
    action: jax.Array
    behaviour: Any
    log_prob: jax.Array
    value: jax.Array
    value_after: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    info: dict[str, jax.Array]
