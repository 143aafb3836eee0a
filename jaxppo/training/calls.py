"""Several iterations in one call of the compiled program: devices need not wait for the host after each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.envs.market.packing import pack, pack_parts, unpack, unpack_parts
from jaxppo.ppo.iteration import TrainState
from jaxppo.ppo.learner import Learner
from jaxppo.training.run_state import Done, Run

MOST = 64
"""Iterations of a call."""
ABOUT = 1.0
"""Seconds that a call of more than one iteration may take: so long a signal waits."""


def several_iterations(learner: Learner, stopping: tuple[str, ...]) -> Any:
    """Program of the iteration of a learner, as often as a call says: what a call costs beside is paid once.

    Args:
      learner: whose iteration it is.
      stopping: metrics that end the call where they are above 0.

    Returns:
      `(state, env_params, progress [MOST], n) -> (state, rows [MOST, M], number)`, jitted, donates `state`. `number` of
      the n iterations were done, with the figures in `rows`, in the order of `metric_names`.
    """

    def iterations(state: TrainState, params: Any, progress: jax.Array, n: jax.Array) -> Any:
        def goes_on(carry: Any) -> jax.Array:
            return (carry[0] < n) & ~carry[-1]

        def iterate(carry: Any) -> Any:
            number, state, rows, _ = carry
            state, row = learner.iterate(_unpacked(state), params, progress[number])
            figures = jnp.stack([row[name].astype(jnp.float32) for name in sorted(row)])
            stops = jnp.asarray(sum(row[name] for name in stopping) > 0)
            return number + 1, _packed(state), rows.at[number].set(figures), stops

        rows = jnp.zeros((MOST, len(metric_names(learner, state, params))))
        first = (jnp.int32(0), _packed(state), rows, jnp.bool_(False))
        number, state, rows, _ = jax.lax.while_loop(goes_on, iterate, first)
        return _unpacked(state), rows, number

    return jax.jit(iterations, donate_argnums=0)


def _packed(state: TrainState) -> Any:
    """A state with parameters and moments in one vector each, as an update takes them: nothing lies between two."""
    return state.replace(params=pack(state.params), opt_state=pack_parts(state.opt_state, state.params))


def _unpacked(state: Any) -> TrainState:
    return state.replace(params=unpack(state.params), opt_state=unpack_parts(state.opt_state))


def metric_names(learner: Learner, state: TrainState, params: Any) -> tuple[str, ...]:
    """Names of the figures of an iteration, from the state of training and parameters, or their shapes."""
    return tuple(sorted(jax.eval_shape(learner.iterate, state, params, jnp.float32(0.0))[1]))


def like_call() -> tuple[jax.Array, jax.Array]:
    """What the program takes beside state and parameters, to trace it."""
    return jnp.zeros(MOST, jnp.float32), jnp.int32(1)


def arguments(spent: Sequence[float]) -> tuple[np.ndarray, np.int32]:
    """What the program takes beside state and parameters, for iterations after these shares of the budget."""
    return np.pad(np.asarray(spent, np.float32), (0, MOST - len(spent))), np.int32(len(spent))


def next_call(run: Run, done: Done, seconds: float | None) -> list[float]:
    """Share of the budget that is spent before each iteration of the next call.

    It ends at the next evaluation, checkpoint or end of the budget. How long calls are changes nothing else: all are of
    one program.

    Args:
      run: whose budget and intervals count.
      done: what is done so far.
      seconds: that an iteration takes; None for a call of one.
    """
    cadence = run.experiment.config.training
    due = min(every - done.iteration % every for every in (cadence.evaluate_every, cadence.checkpoint_every))
    if seconds is None:
        return [run.spent(done)]
    most = max(1, min(due, MOST, int(ABOUT / max(seconds, 1e-9))))
    first, *others = (run.spent(done, more, seconds) for more in range(most))
    return [first, *(share for share in others if share < 1.0)]
