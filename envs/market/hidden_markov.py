"""Gaussian hidden Markov models: the causal filter, and a fit by expectation maximisation.

Written for one sequence; `vmap` over sequences, folds and restarts. Nothing here smooths or decodes a whole path for
use in decisions: what later observations say about a state reaches `fit` alone, and only inside the bars it is given.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

MAX_STATES = 6
SMALLEST_PROBABILITY = 1e-6
"""Least probability of a transition that a fit returns, so that no state is ever ruled out for good."""


@struct.dataclass
class HiddenMarkovModel:
    """N states, each with a Gaussian of D independent components.

    Attributes:
      initial: `[N]` probabilities of the states at the first observation.
      transition: `[N, N]` probabilities, from state (row) to state; rows sum to 1.
      mean: `[N, D]` in units of the observations.
      variance: `[N, D]`, > 0.
    """

    initial: jax.Array
    transition: jax.Array
    mean: jax.Array
    variance: jax.Array

    @property
    def n_states(self) -> int:
        """N."""
        return self.mean.shape[-2]


class Filtered(NamedTuple):
    """What observations up to each bar say.

    Attributes:
      probabilities: `[T, N]` of the state at t, given the observations up to and including t.
      log_likelihood: `[T]` log density of the observation at t, given those before it; 0 where there is none.
    """

    probabilities: jax.Array
    log_likelihood: jax.Array


def log_density(model: HiddenMarkovModel, x: jax.Array, valid: jax.Array) -> jax.Array:
    """`[T, N]` log density of observations `[T, D]` in each state; 0, which says nothing, where not valid `[T]`."""
    deviation = jnp.where(valid[:, None], x, 0.0)[:, None, :] - model.mean[None]
    terms = jnp.square(deviation) / model.variance[None] + jnp.log(2.0 * math.pi * model.variance)[None]
    return jnp.where(valid[:, None], -0.5 * terms.sum(axis=-1), 0.0)


def forward_filter(model: HiddenMarkovModel, x: jax.Array, valid: jax.Array) -> Filtered:
    """Probabilities of the states at each bar, from what was observed until then.

    `p_t(j) ~ f_j(x_t) sum_i p_{t-1}(i) A_ij`, with `p_0(j) ~ initial(j) f_j(x_0)`. A bar without an observation moves
    the state on and learns nothing.

    Args:
      model: the model.
      x: `[T, D]` observations, any value where not valid.
      valid: `[T]` bool.

    Reference: Rabiner (1989), A tutorial on hidden Markov models, section V.A.
    """
    return _forward(model.initial, model.transition, log_density(model, x, valid))


def _forward(initial: jax.Array, transition: jax.Array, density: jax.Array) -> Filtered:
    """`forward_filter` from log densities `[T, N]`."""

    def step(predicted: jax.Array, now: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        # The best of the states that are possible: another one might leave them all at nothing.
        possible = predicted > 0
        peak = jax.lax.stop_gradient(jnp.max(now, where=possible, initial=-jnp.inf))
        joint = predicted * jnp.exp(jnp.where(possible, now - peak, 0.0))
        total = jnp.maximum(joint.sum(), jnp.finfo(joint.dtype).tiny)
        posterior = joint / total
        return posterior @ transition, (posterior, jnp.log(total) + peak)

    _, (posterior, logs) = jax.lax.scan(step, initial, density, unroll=4)
    return Filtered(posterior, logs)


class _Expected(NamedTuple):
    """What a model expects of the hidden path, given all observations.

    Attributes:
      log_likelihood: `[]`.
      first: `[N]` probabilities at the first bar.
      moves: `[N, N]` number of transitions.
      states: `[T, N]` probabilities at each bar.
    """

    log_likelihood: jax.Array
    first: jax.Array
    moves: jax.Array
    states: jax.Array


def _expected(model: HiddenMarkovModel, x: jax.Array, valid: jax.Array) -> _Expected:
    """The E step: expectations are gradients of the log-likelihood by log-probabilities.

    Reference: Eisner (2016), Inside-outside and forward-backward algorithms are just backprop.
    https://aclanthology.org/W16-5901
    """

    def total(initial: jax.Array, transition: jax.Array, density: jax.Array) -> jax.Array:
        return _forward(jnp.exp(initial), jnp.exp(transition), density).log_likelihood.sum()

    given = (jnp.log(model.initial), jnp.log(model.transition), log_density(model, x, valid))
    value, gradients = jax.value_and_grad(total, argnums=(0, 1, 2))(*given)
    return _Expected(value, *gradients)


def _maximised(
    expected: _Expected, x: jax.Array, valid: jax.Array, smallest_variance: jax.Array, pseudo_count: float
) -> HiddenMarkovModel:
    """The M step, from the expectations of S sequences (leading axis)."""
    weight = jnp.where(valid[..., None], expected.states, 0.0)
    observed = jnp.where(valid[..., None], x, 0.0)
    count = jnp.maximum(weight.sum(axis=(0, 1)), 1e-6)[:, None]
    mean = jnp.einsum("stn,std->nd", weight, observed) / count
    deviation = jnp.square(observed[:, :, None, :] - mean[None, None])
    variance = jnp.einsum("stn,stnd->nd", weight, deviation) / count
    moves = expected.moves.sum(axis=0) + pseudo_count
    return HiddenMarkovModel(
        initial=_probabilities(expected.first.mean(axis=0)),
        transition=_probabilities(moves),
        mean=mean,
        variance=jnp.maximum(variance, smallest_variance[None]),
    )


def _probabilities(weights: jax.Array) -> jax.Array:
    """Rows in proportion to `weights`, each entry at least about `SMALLEST_PROBABILITY`."""
    shares = weights / jnp.maximum(weights.sum(axis=-1, keepdims=True), 1e-12)
    shares = jnp.maximum(shares, SMALLEST_PROBABILITY)
    return shares / shares.sum(axis=-1, keepdims=True)


def first_guess(key: jax.Array, x: jax.Array, valid: jax.Array, n_states: int, stay: float = 0.95) -> HiddenMarkovModel:
    """A model to start from: means and scales drawn around those of the sample, states that last. Consumes `key`.

    Args:
      key: randomness.
      x: `[S, T, D]` observations of S sequences.
      valid: `[S, T]` bool.
      n_states: N.
      stay: probability of staying in a state.
    """
    key_mean, key_scale = jax.random.split(key)
    mean, variance = _moments(x, valid)
    variance = jnp.maximum(variance, 1e-12)
    shape = (n_states, x.shape[-1])
    shift = jax.random.normal(key_mean, shape) * jnp.sqrt(variance)[None]
    spread = jnp.geomspace(0.25, 4.0, n_states)[:, None] * jnp.exp(0.5 * jax.random.normal(key_scale, shape))
    leave = (1.0 - stay) / max(n_states - 1, 1)
    return HiddenMarkovModel(
        initial=jnp.full((n_states,), 1.0 / n_states),
        transition=jnp.where(jnp.eye(n_states, dtype=bool), stay, leave),
        mean=mean[None] + 0.5 * shift,
        variance=variance[None] * spread,
    )


def _moments(x: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and variance `[D]` of the valid observations of all sequences."""
    count = jnp.maximum(valid.sum(), 1)
    mean = jnp.where(valid[..., None], x, 0.0).sum(axis=(0, 1)) / count
    deviation = jnp.where(valid[..., None], x - mean[None, None], 0.0)
    return mean, jnp.square(deviation).sum(axis=(0, 1)) / count


class Fitted(NamedTuple):
    """Outcome of `fit`.

    Attributes:
      model: the fitted model.
      log_likelihood: `[]` of all observations.
      iterations: `[]` int32 steps taken.
    """

    model: HiddenMarkovModel
    log_likelihood: jax.Array
    iterations: jax.Array


@partial(jax.jit, static_argnames=("max_iterations",))
def improve(
    model: HiddenMarkovModel,
    x: jax.Array,
    valid: jax.Array,
    *,
    max_iterations: int = 100,
    tolerance: float = 1e-5,
    variance_floor: float = 1e-3,
    pseudo_count: float = 0.0,
) -> Fitted:
    """Expectation maximisation from a given model, until the gain per observation is below `tolerance`.

    Args:
      model: where to start.
      x: `[S, T, D]` observations of S independent sequences that share one model.
      valid: `[S, T]` bool.
      max_iterations: steps at most, >= 1.
      tolerance: log-likelihood per observation, nats.
      variance_floor: smallest variance, as a fraction of that of the sample.
      pseudo_count: added to each expected number of transitions, which keeps rare states from vanishing.

    Reference: Baum et al. (1970); Rabiner (1989), section III.C.
    """
    count = jnp.maximum(valid.sum(), 1)
    smallest = jnp.maximum(variance_floor * _moments(x, valid)[1], 1e-12)

    def expect(model: HiddenMarkovModel) -> _Expected:
        return jax.vmap(lambda a, b: _expected(model, a, b))(x, valid)

    def body(carry: tuple) -> tuple:
        model, _, now, iteration = carry
        expected = expect(model)
        better = _maximised(expected, x, valid, smallest, pseudo_count)
        return better, now, expected.log_likelihood.sum(), iteration + 1

    def unfinished(carry: tuple) -> jax.Array:
        _, before, now, iteration = carry
        return (iteration < max_iterations) & ((iteration < 2) | (now - before > tolerance * count))

    lowest = jnp.asarray(-jnp.inf, x.dtype)
    model, _, _, iteration = jax.lax.while_loop(unfinished, body, (model, lowest, lowest, jnp.int32(0)))
    final = jax.vmap(lambda a, b: forward_filter(model, a, b).log_likelihood.sum())(x, valid).sum()
    return Fitted(model, final, iteration)


@partial(jax.jit, static_argnames=("n_states", "n_restarts", "max_iterations"))
def fit(
    key: jax.Array,
    x: jax.Array,
    valid: jax.Array,
    n_states: int,
    *,
    n_restarts: int = 8,
    max_iterations: int = 100,
    tolerance: float = 1e-5,
    pseudo_count: float = 1.0,
) -> Fitted:
    """The likeliest of several fits from random starts, its states in order of mean, then variance. Consumes `key`.

    Args:
      key: randomness of the starts.
      x: `[S, T, D]` observations of S independent sequences that share one model.
      valid: `[S, T]` bool.
      n_states: N, 2 to 6.
      n_restarts: random starts.
      max_iterations: steps of each, at most.
      tolerance: see `improve`.
      pseudo_count: see `improve`.

    Raises:
      ValueError: `n_states` outside 2 to 6.
    """
    if not 2 <= n_states <= MAX_STATES:
        raise ValueError(f"n_states is {n_states}; it must be from 2 to {MAX_STATES}")

    def one(key: jax.Array) -> Fitted:
        start = first_guess(key, x, valid, n_states)
        return improve(start, x, valid, max_iterations=max_iterations, tolerance=tolerance, pseudo_count=pseudo_count)

    fits = jax.vmap(one)(jax.random.split(key, n_restarts))
    score = jnp.where(jnp.isfinite(fits.log_likelihood), fits.log_likelihood, -jnp.inf)
    best = jax.tree.map(lambda leaf: leaf[jnp.argmax(score)], fits)
    return best._replace(model=ordered(best.model))


def ordered(model: HiddenMarkovModel) -> HiddenMarkovModel:
    """The same model with its states in order of the mean of the first component, then of its variance."""
    order = jnp.lexsort((model.variance[:, 0], model.mean[:, 0]))
    return HiddenMarkovModel(
        initial=model.initial[order],
        transition=model.transition[order][:, order],
        mean=model.mean[order],
        variance=model.variance[order],
    )
