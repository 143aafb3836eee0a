"""Gaussian hidden Markov models: a causal filter, and a fit by expectation maximisation.

The filter is written for one sequence; `vmap` over sequences, folds and restarts. No path is smoothed or decoded: later
observations inform earlier states only inside `fit`, within the bars it is given.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.envs.market.kernels import compiled
from jaxppo.envs.market.precision import einsum, matmul
from jaxppo.envs.market.rows import followed

MAX_STATES = 6
START_PERSISTENCE = 0.95
"""Probability of staying in a state at the start of a fit."""
SMALLEST_PROBABILITY = 1e-6
"""Smallest probability that a fit returns, so that no state is ever ruled out for good."""


class HiddenMarkovModel(struct.PyTreeNode):
    """Hidden Markov model of N states, each with a Gaussian of D independent components.

    Attributes:
      initial: `[N]` probabilities of the states at the first observation.
      transition: `[N, N]` probabilities from state (row) to state (column); rows sum to 1.
      mean: `[N, D]` in units of the observations.
      variance: `[N, D]`, > 0.
    """

    initial: jax.Array
    transition: jax.Array
    mean: jax.Array
    variance: jax.Array

    @property
    def n_states(self) -> int:
        """Number of states N."""
        return self.mean.shape[-2]


class Filtered(NamedTuple):
    """Filtered states of one sequence, or of several side by side (further axes after T).

    Attributes:
      probabilities: `[T, N]` probabilities of the states at t, given the observations up to and including t.
      log_likelihood: `[T]` log density of the observation at t, given those before it; 0 where there is none.
    """

    probabilities: jax.Array
    log_likelihood: jax.Array


def _log_density(model: HiddenMarkovModel, x: jax.Array, valid: jax.Array) -> jax.Array:
    """Log density `[T, ..., N]` of observations `[T, ..., D]` in each state; 0, which favours none, where not valid."""
    ones = (1,) * valid.ndim
    mean, variance = (parameter.reshape(ones + parameter.shape) for parameter in (model.mean, model.variance))
    deviation = jnp.where(valid[..., None], x, 0.0)[..., None, :] - mean
    terms = jnp.square(deviation) / variance + jnp.log(2.0 * math.pi * variance)
    return jnp.where(valid[..., None], -0.5 * terms.sum(axis=-1), 0.0)


def forward_filter(model: HiddenMarkovModel, x: jax.Array, valid: jax.Array) -> Filtered:
    """Filters the states: their probabilities at each bar, given the observations up to it.

    `p_t(j) ~ f_j(x_t) sum_i p_{t-1}(i) A_ij`, with `p_0(j) ~ initial(j) f_j(x_0)`. A bar without an observation applies
    the transition alone.

    Args:
      model: N states, D components.
      x: `[T, ..., D]` observations; any value where not valid.
      valid: `[T, ...]` bool, there is an observation.

    Reference: Rabiner (1989), A tutorial on hidden Markov models, section V.A.
    """
    return _forward(model.initial, model.transition, _log_density(model, x, valid))


@compiled
def _forward(initial: jax.Array, transition: jax.Array, density: jax.Array) -> Filtered:
    """Runs the forward recursion on log densities `[T, ..., N]`."""

    def step(predicted: jax.Array, now: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        # The peak over possible states only: an impossible state with a high density would underflow all the others.
        possible = predicted > 0
        peak = jax.lax.stop_gradient(jnp.max(now, axis=-1, where=possible, initial=-jnp.inf, keepdims=True))
        joint = predicted * jnp.exp(jnp.where(possible, now - peak, 0.0))
        total = jnp.maximum(joint.sum(axis=-1, keepdims=True), jnp.finfo(joint.dtype).tiny)
        posterior = joint / total
        return matmul(posterior, transition), (posterior, (jnp.log(total) + peak)[..., 0])

    start = jnp.broadcast_to(initial, density.shape[1:])
    return Filtered(*followed(step, start, density, unroll=4))


class _Expectations(NamedTuple):
    """Expected sufficient statistics of the hidden path, given all observations.

    Attributes:
      log_likelihood: `[]` log-likelihood of the observations.
      first: `[N]` probabilities of the states at the first bar.
      moves: `[N, N]` expected numbers of transitions.
      states: `[T, N]` probabilities of the states at each bar.
    """

    log_likelihood: jax.Array
    first: jax.Array
    moves: jax.Array
    states: jax.Array


def _e_step(model: HiddenMarkovModel, x: jax.Array, valid: jax.Array) -> _Expectations:
    """E step: the expectations are gradients of the log-likelihood with respect to the log-probabilities.

    Reference: Eisner (2016), Inside-outside and forward-backward algorithms are just backprop.
    https://aclanthology.org/W16-5901
    """

    def total(initial: jax.Array, transition: jax.Array, density: jax.Array) -> jax.Array:
        return _forward(jnp.exp(initial), jnp.exp(transition), density).log_likelihood.sum()

    logarithms = (jnp.log(model.initial), jnp.log(model.transition), _log_density(model, x, valid))
    value, gradients = jax.value_and_grad(total, argnums=(0, 1, 2))(*logarithms)
    return _Expectations(value, *gradients)


def _m_step(
    expected: _Expectations, x: jax.Array, valid: jax.Array, smallest_variance: jax.Array, pseudo_count: float
) -> HiddenMarkovModel:
    """M step: the model that maximises the expected log-likelihood of S sequences (leading axis)."""
    weight = jnp.where(valid[..., None], expected.states, 0.0)
    observed = jnp.where(valid[..., None], x, 0.0)
    count = jnp.maximum(weight.sum(axis=(0, 1)), 1e-6)[:, None]
    mean = einsum("stn,std->nd", weight, observed) / count
    deviation = jnp.square(observed[:, :, None, :] - mean[None, None])
    variance = einsum("stn,stnd->nd", weight, deviation) / count
    moves = expected.moves.sum(axis=0) + pseudo_count
    return HiddenMarkovModel(
        initial=_normalised(expected.first.mean(axis=0)),
        transition=_normalised(moves),
        mean=mean,
        variance=jnp.maximum(variance, smallest_variance[None]),
    )


def _normalised(weights: jax.Array) -> jax.Array:
    """Scales rows to probabilities, each at least about `SMALLEST_PROBABILITY`."""
    probabilities = weights / jnp.maximum(weights.sum(axis=-1, keepdims=True), 1e-12)
    probabilities = jnp.maximum(probabilities, SMALLEST_PROBABILITY)
    return probabilities / probabilities.sum(axis=-1, keepdims=True)


def _random_start(key: jax.Array, x: jax.Array, valid: jax.Array, n_states: int) -> HiddenMarkovModel:
    """Draws a model with persistent states, means and scales around those of the sample. Consumes `key`."""
    key_mean, key_scale = jax.random.split(key)
    mean, variance = _moments(x, valid)
    variance = jnp.maximum(variance, 1e-12)
    shape = (n_states, x.shape[-1])
    offset = jax.random.normal(key_mean, shape) * jnp.sqrt(variance)[None]
    scale = jnp.geomspace(0.25, 4.0, n_states)[:, None] * jnp.exp(0.5 * jax.random.normal(key_scale, shape))
    leave = (1.0 - START_PERSISTENCE) / max(n_states - 1, 1)
    return HiddenMarkovModel(
        initial=jnp.full((n_states,), 1.0 / n_states),
        transition=jnp.where(jnp.eye(n_states, dtype=bool), START_PERSISTENCE, leave),
        mean=mean[None] + 0.5 * offset,
        variance=variance[None] * scale,
    )


def _moments(x: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and variance `[D]` of the valid observations of all sequences."""
    count = jnp.maximum(valid.sum(), 1)
    mean = jnp.where(valid[..., None], x, 0.0).sum(axis=(0, 1)) / count
    deviation = jnp.where(valid[..., None], x - mean[None, None], 0.0)
    return mean, jnp.square(deviation).sum(axis=(0, 1)) / count


class FitResult(NamedTuple):
    """Outcome of an expectation maximisation.

    Attributes:
      model: fitted model.
      log_likelihood: `[]` log-likelihood of all observations.
      iterations: `[]` int32, steps taken.
    """

    model: HiddenMarkovModel
    log_likelihood: jax.Array
    iterations: jax.Array


@partial(jax.jit, static_argnames=("max_iterations",))
def expectation_maximisation(
    model: HiddenMarkovModel,
    x: jax.Array,
    valid: jax.Array,
    *,
    max_iterations: int = 100,
    tolerance: float = 1e-5,
    variance_floor: float = 1e-3,
    pseudo_count: float = 0.0,
) -> FitResult:
    """Improves a model by expectation maximisation, until the gain per observation is below a tolerance.

    Args:
      model: start.
      x: `[S, T, D]` observations of S independent sequences that share one model; any value where not valid.
      valid: `[S, T]` bool, there is an observation.
      max_iterations: largest number of steps, >= 1.
      tolerance: gain in log-likelihood per observation, nats.
      variance_floor: smallest variance, fraction of that of the sample, > 0.
      pseudo_count: added to each expected number of transitions, >= 0; keeps rare states from vanishing.

    Reference: Baum et al. (1970); Rabiner (1989), section III.C.
    """
    count = jnp.maximum(valid.sum(), 1)
    smallest = jnp.maximum(variance_floor * _moments(x, valid)[1], 1e-12)

    def expect(model: HiddenMarkovModel) -> _Expectations:
        return jax.vmap(lambda a, b: _e_step(model, a, b))(x, valid)

    def body(carry: tuple) -> tuple:
        model, _, now, iteration = carry
        expected = expect(model)
        better = _m_step(expected, x, valid, smallest, pseudo_count)
        return better, now, expected.log_likelihood.sum(), iteration + 1

    def unfinished(carry: tuple) -> jax.Array:
        _, before, now, iteration = carry
        return (iteration < max_iterations) & ((iteration < 2) | (now - before > tolerance * count))

    lowest = jnp.asarray(-jnp.inf, x.dtype)
    model, _, _, iteration = jax.lax.while_loop(unfinished, body, (model, lowest, lowest, jnp.int32(0)))
    final = jax.vmap(lambda a, b: forward_filter(model, a, b).log_likelihood.sum())(x, valid).sum()
    return FitResult(model, final, iteration)


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
) -> FitResult:
    """Fits a model from several random starts and returns the likeliest, states in order of mean. Consumes `key`.

    Args:
      key: random key of the starts.
      x: `[S, T, D]` observations of S independent sequences that share one model; any value where not valid.
      valid: `[S, T]` bool, there is an observation.
      n_states: N, 2 to 6.
      n_restarts: random starts, >= 1.
      max_iterations: largest number of steps from each start, >= 1.
      tolerance: gain in log-likelihood per observation at which a start ends, nats.
      pseudo_count: added to each expected number of transitions, >= 0.

    Raises:
      ValueError: `n_states` outside 2 to 6.
    """
    if not 2 <= n_states <= MAX_STATES:
        raise ValueError(f"n_states is {n_states}; it must be from 2 to {MAX_STATES}")

    def fit_once(key: jax.Array) -> FitResult:
        start = _random_start(key, x, valid, n_states)
        limits = {"max_iterations": max_iterations, "tolerance": tolerance}
        return expectation_maximisation(start, x, valid, pseudo_count=pseudo_count, **limits)

    fits = jax.vmap(fit_once)(jax.random.split(key, n_restarts))
    score = jnp.where(jnp.isfinite(fits.log_likelihood), fits.log_likelihood, -jnp.inf)
    best = jax.tree.map(lambda leaf: leaf[jnp.argmax(score)], fits)
    return best._replace(model=sort_states(best.model))


def sort_states(model: HiddenMarkovModel) -> HiddenMarkovModel:
    """Sorts the states of a model by the mean of the first component, then by its variance."""
    order = jnp.lexsort((model.variance[:, 0], model.mean[:, 0]))
    return HiddenMarkovModel(
        initial=model.initial[order],
        transition=model.transition[order][:, order],
        mean=model.mean[order],
        variance=model.variance[order],
    )
