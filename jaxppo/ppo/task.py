"""Task: a problem as PPO learns it, pure functions that exchange rollouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jaxppo.policy.networks.actor_critic import Params
from jaxppo.policy.rollout import Rollout


class Task(NamedTuple):
    """Problem as pure functions, run under `shard_map` on the paths of one device; `net` are the network's parameters.

    Attributes:
      start: `(env_params, keys [P]) -> states [P]`, fresh episodes. Consumes `keys`.
      collect: `(net, env_params, states [P], keys [P], progress []) -> (states [P], Rollout)`, after a share `progress`
        of the budget. Consumes `keys`.
      predict: `(net, env_params, rollout) -> (distributions [P, S, K], values like `rollout.value`)` of any number
        of paths.
      metrics: `rollout -> {name: []}`, equal on all devices: reduced over `DATA_AXIS`.
      value_layer: path in `net` of the last linear layer of the critic, whose kernel and bias set the scale of values.
      chunk: S, decisions of a rollout.
      unroll: `collect(..., explore)` that is differentiable in `net`: through accounts and actions, while the
        parameters of the values count as constants; `explore` says whether actions are drawn. None where the problem
        has no such gradient.
      critic_layers: paths in `net` of the layers that only the critic reads.
      encode: `(net, env_params, rollout, micro_batch) -> [P, ...]`, all that the head reads of the exogenous inputs, of
        `micro_batch` paths at a time; None where the network has no encoder.
      act: `(net, encoded, rollout) -> ...`, the rest of `predict`, which reads the part `HEAD` of `net` alone.
    """

    start: Callable[[Any, jax.Array], Any]
    collect: Callable[[Params, Any, Any, jax.Array, jax.Array], tuple[Any, Rollout]]
    predict: Callable[[Params, Any, Rollout], tuple[Any, jax.Array]]
    metrics: Callable[[Rollout], dict[str, jax.Array]]
    value_layer: tuple[str, ...]
    chunk: int
    unroll: Callable[[Params, Any, Any, jax.Array, jax.Array, bool], tuple[Any, Rollout]] | None = None
    critic_layers: tuple[tuple[str, ...], ...] = ()
    encode: Callable[[Params, Any, Rollout, int | None], jax.Array] | None = None
    act: Callable[[Params, jax.Array, Rollout], tuple[Any, jax.Array]] | None = None
