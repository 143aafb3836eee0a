"""Rollout: observations, actions and rewards of K portfolios on each of P paths."""

from __future__ import annotations

from typing import Any

import jax
from flax import struct

DATA_AXIS = "data"
"""Mesh axis over which the paths are spread."""


class Rollout(struct.PyTreeNode):
    """S decisions of K portfolios on each of P paths.

    Values are `[P, S, K]`, or `[P, S, K, N]` quantiles in any order.

    Attributes:
      inputs: of `Task.predict`; every leaf has leading axis P.
      hindsight: `[P, S, K or 1, ...]` exogenous future for the critic, or None.
      action: `[P, S, K, ...]` as stored by the distribution.
      behaviour: `[P, S, K]` distributions that the actions were drawn from.
      log_prob: `[P, S, K]` joint log-probability when taken.
      value: of the state acted in, network units.
      value_after: of the state arrived at, before any reset, network units.
      reward: `[P, S, K]`, before `PPOConfig.reward_scale`.
      terminated: `[P, S, K]` bool, nothing follows.
      truncated: `[P, S, K]` bool, the episode was cut: estimates bootstrap from `value_after`.
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
