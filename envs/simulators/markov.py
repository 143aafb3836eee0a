"""Markov chains over a few states: drawing a path, and estimating a chain from labels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def markov_path(key: jax.Array, n_bars: int, initial: jax.Array, transition: jax.Array) -> jax.Array:
    """Draws the state of each bar, `[n_bars]` int32.

    Args:
      key: consumed.
      n_bars: static, >= 1.
      initial: `[S]` probabilities of the first state.
      transition: `[S, S]`, `transition[i, j] = P(j | i)`; rows sum to 1.
    """
    n_states = transition.shape[0]
    draws = jax.random.uniform(key, (n_bars,))

    def choose(probabilities: jax.Array, draw: jax.Array) -> jax.Array:
        return jnp.minimum(jnp.sum(jnp.cumsum(probabilities) <= draw), n_states - 1).astype(jnp.int32)

    def step(state: jax.Array, draw: jax.Array) -> tuple[jax.Array, jax.Array]:
        state = choose(transition[state], draw)
        return state, state

    first = choose(initial, draws[0])
    _, later = jax.lax.scan(step, first, draws[1:])
    return jnp.concatenate([first[None], later])


def stationary_law(transition: jax.Array) -> jax.Array:
    """Stationary probabilities `[S]` of an irreducible chain `[S, S]`."""
    n_states = transition.shape[0]
    balance = (transition.T - jnp.eye(n_states)).at[-1].set(1.0)
    return jnp.linalg.solve(balance, jnp.zeros(n_states).at[-1].set(1.0))


def checked_labels(labels: np.ndarray, n_bars: int) -> np.ndarray:
    """Returns labels as `[T]` int64, with bar 0, which no generator draws, set to unknown (-1).

    Args:
      labels: `[T]` ints; negative where unknown.
      n_bars: T.

    Raises:
      ValueError: another shape than `[n_bars]`, values that are not whole numbers, or none that is known.
    """
    labels = np.asarray(labels)
    if labels.shape != (n_bars,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"regime labels must be {n_bars} whole numbers, one per bar, got {labels.dtype} of shape {labels.shape}"
        )
    labels = labels.astype(np.int64)
    labels[0] = -1
    if (labels < 0).all():
        raise ValueError("regime labels must be >= 0 in at least one bar after the first; negative means unknown")
    return labels


def estimate_chain(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Estimates the chain of a sequence of labels by relative frequencies.

    The last known label counts as followed by the first, as in a circular bootstrap: then every observed state can be
    left, and the shares of the states are exactly the stationary law of the transitions.

    Args:
      labels: `[T]` ints, negative where unknown; those bars are left out.

    Returns:
      `(share [S], transition [S, S])` float64, S one more than the largest label; a state that does not occur has share
      0 and stays where it is.
    """
    known = labels[labels >= 0]
    n_states = int(known.max()) + 1
    moves = np.zeros((n_states, n_states))
    np.add.at(moves, (known, np.roll(known, -1)), 1.0)
    total = moves.sum(axis=1, keepdims=True)
    transition = np.where(total > 0, moves / np.maximum(total, 1.0), np.eye(n_states))
    return total[:, 0] / len(known), transition


def checked_chain(transition: np.ndarray, n_states: int) -> np.ndarray:
    """Returns a transition matrix as `[S, S]` float64.

    Args:
      transition: `[S, S]` probabilities of the next state (column) given this one (row).
      n_states: S.

    Raises:
      ValueError: another shape, a negative probability, or rows that do not sum to 1.
    """
    transition = np.asarray(transition, np.float64)
    if transition.shape != (n_states, n_states):
        raise ValueError(f"transition has shape {transition.shape}; the labels have {n_states} regimes")
    if not (transition >= 0).all() or not np.allclose(transition.sum(axis=1), 1.0, atol=1e-6):
        raise ValueError(f"the rows of transition must be probabilities that sum to 1, got {transition.tolist()}")
    return transition
