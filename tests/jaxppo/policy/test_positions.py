"""Rotary phases of elapsed time, exact over any history; biases by lag."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxppo.policy.networks.positions import (
    N_SINUSOIDS,
    LagBias,
    make_lag_bias,
    phase_steps,
    rotate,
    rotation,
    rotations,
)

turns = jax.jit(rotations, static_argnums=1)


def normals(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def angles(elapsed: np.ndarray, n_pairs: int) -> np.ndarray:
    """RoFormer's angles in float64: position times `10000^(-i / n)`."""
    return np.cumsum(elapsed.astype(np.float64))[:, None] * 10_000.0 ** (-np.arange(n_pairs) / n_pairs)


def test_angles_are_those_of_roformer_at_the_elapsed_time():
    elapsed = np.random.default_rng(0).choice([1.0, 17.5, 65.5], 40).astype(np.float32)
    found = turns(jnp.asarray(elapsed), 4)
    np.testing.assert_allclose(found.cos[:, :4], np.cos(angles(elapsed, 4)), atol=2e-4)
    np.testing.assert_allclose(found.sin[:, 4:], np.sin(angles(elapsed, 4)), atol=2e-4)
    np.testing.assert_array_equal(found.sin[:, :4], -found.sin[:, 4:])
    np.testing.assert_array_equal(found.cos[:, :4], found.cos[:, 4:])


def test_a_rotation_keeps_norms_and_turns_pairs():
    x = jnp.asarray(normals(2, 3, 2, 5, 6))
    rotated = rotate(x, jax.tree.map(lambda r: r[None, None], turns(jnp.asarray([0.0, 1.0, 2.5, 40.0, 1000.0]), 3)))
    np.testing.assert_array_equal(rotated[:, :, 0], x[:, :, 0])
    np.testing.assert_allclose(jnp.linalg.norm(rotated, axis=-1), jnp.linalg.norm(x, axis=-1), rtol=1e-5)
    pair = rotate(jnp.asarray([[1.0, 0.0]]), turns(jnp.asarray([np.pi / 2], jnp.float32), 1))
    np.testing.assert_allclose(pair, [[0.0, 1.0]], atol=1e-6)


def test_scores_depend_on_what_lies_between_two_bars_and_on_no_history():
    """After a million bars with gaps the scores are those of a fresh start, to the rounding of one rotation."""
    query, key = jnp.asarray(normals(0, 12, 8)), jnp.asarray(normals(1, 12, 8))
    between = jnp.asarray(np.random.default_rng(2).choice([1.0, 18.5, 66.25], 12), jnp.float32)
    history = jnp.asarray(np.random.default_rng(3).choice([1.0, 17.5], 1_000_000), jnp.float32)

    @jax.jit
    def scores(before: jax.Array) -> jax.Array:
        past = jnp.sum(phase_steps(before, 4), axis=0, dtype=jnp.uint32)
        by = rotation(past[None] + jnp.cumsum(phase_steps(between, 4), axis=0, dtype=jnp.uint32))
        return rotate(query, by) @ rotate(key, by).T

    np.testing.assert_allclose(scores(history), scores(history[:1]), atol=5e-6)
    longer = rotate(key, turns(between.at[6].add(5.0), 4))
    fresh = rotate(key, turns(between, 4))
    here, there = (np.asarray(rotate(query, turns(between, 4)) @ x.T) for x in (fresh, longer))
    assert np.abs(here - there)[:, 6:].max() > 0.1


def test_steps_are_whole_turns_modulo_one():
    wave = 2 * np.pi * 10_000.0 ** (np.arange(4) / 4)
    step = phase_steps(jnp.asarray([2.25 * wave[0]], jnp.float32), 4)
    assert step.dtype == jnp.uint32
    np.testing.assert_allclose(np.asarray(step)[0, 0] / 2.0**32, 0.25, atol=1e-6)


def test_alibi_slopes_are_those_of_the_paper():
    bias = np.asarray(LagBias("alibi", 8, 5)())
    np.testing.assert_allclose(bias, -np.outer(0.5 ** np.arange(1, 9), np.arange(5)), rtol=1e-6)


@pytest.mark.parametrize("kind", ["sinusoidal", "learned"])
def test_learned_biases_start_at_zero_and_can_single_out_a_lag(kind):
    bias = LagBias(kind, 2, 12)
    np.testing.assert_array_equal(bias(), np.zeros((2, 12)))
    graph, state = nnx.split(bias)
    (reach,) = jax.tree.leaves(jax.jacobian(lambda s: nnx.merge(graph, s)()[0])(state))
    rank = np.linalg.matrix_rank(np.asarray(reach).reshape(12, -1), tol=1e-3)
    assert rank >= (12 if kind == "learned" else N_SINUSOIDS // 2)


@pytest.mark.parametrize(("kind", "expected"), [("rotary", False), ("none", False), ("learned", True)])
def test_only_biases_have_parameters(kind, expected):
    assert (make_lag_bias(kind, 2, 4) is not None) is expected
