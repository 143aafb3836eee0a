"""What PPO needs to know of a problem: three pure functions, and the rollout that they exchange."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import struct

DATA_AXIS = "data"
"""Mesh axis over which the paths are spread."""

Params = Any


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


class Task(NamedTuple):
    """Pure functions, run under `shard_map` on the paths of one device; `net` are the network's parameters.

    Attributes:
      start: `(env_params, keys [P]) -> states [P]`, fresh episodes. Consumes `keys`.
      collect: `(net, env_params, states [P], keys [P], progress []) -> (states [P], Rollout)`, after a share `progress`
        of the budget. Consumes `keys`.
      predict: `(net, env_params, rollout) -> (distributions [P, S, K], values like `rollout.value`)` of any number
        of paths.
      metrics: `rollout -> {name: []}`, equal on all devices: reduced over `DATA_AXIS`.
      value_layer: path of the last linear layer of the critic in `net`: its kernel and bias set the scale of values.
      chunk: S.
    """

    start: Callable[[Any, jax.Array], Any]
    collect: Callable[[Params, Any, Any, jax.Array, jax.Array], tuple[Any, Rollout]]
    predict: Callable[[Params, Any, Rollout], tuple[Any, jax.Array]]
    metrics: Callable[[Rollout], dict[str, jax.Array]]
    value_layer: tuple[str, ...]
    chunk: int
