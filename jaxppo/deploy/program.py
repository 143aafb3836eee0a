"""The step of a live account as a function of lists of arrays: what is exported, and what a live policy calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxppo.deploy.live_step import LiveStep

Arrays = Sequence[Any]


class Program(NamedTuple):
    """A live step, flat.

    Attributes:
      step: `(weights, state, bar) -> (state, output)`, lists of arrays each.
      weights: of the policy.
      state: before the first bar.
      bar: name -> array like the one that a step is told, in order.
      output: names of the arrays of the output, in order.
      weight_names: names of `weights`, in order.
      state_names: names of `state`, in order, such as `account.account.portfolio.equity`.
    """

    step: Callable[[Arrays, Arrays, Arrays], tuple[Arrays, Arrays]]
    weights: list[np.ndarray]
    state: list[np.ndarray]
    bar: dict[str, np.ndarray]
    output: tuple[str, ...]
    weight_names: tuple[str, ...]
    state_names: tuple[str, ...]


def program_of(live: LiveStep) -> Program:
    """Flattens the step of a live account.

    Args:
      live: of a run.
    """
    weights, state, bar = live.policy.params, live.init(), live.bar_like()
    trees = [jax.tree.structure(tree) for tree in (weights, state, bar)]

    def step(weights: Arrays, state: Arrays, bar: Arrays) -> tuple[Arrays, Arrays]:
        given = (jax.tree.unflatten(tree, list(flat)) for tree, flat in zip(trees, (weights, state, bar), strict=True))
        after, output = live(*given)
        return jax.tree.leaves(after), jax.tree.leaves(output)

    said = jax.eval_shape(live, weights, state, bar)[1]
    return Program(
        step=step,
        weights=[np.asarray(x) for x in jax.tree.leaves(weights)],
        state=[np.asarray(x) for x in jax.tree.leaves(state)],
        bar={name: np.asarray(x) for name, x in _named(bar)},
        output=tuple(name for name, _ in _named(said)),
        weight_names=tuple(name for name, _ in _named(weights)),
        state_names=tuple(name for name, _ in _named(state)),
    )


def _named(tree: Any) -> list[tuple[str, Any]]:
    """Leaves of a tree with their paths, such as `fields.open`."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in paths]
