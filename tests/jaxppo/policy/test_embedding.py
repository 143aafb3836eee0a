"""Group embedding against plain layer normalisation, tokens for unknown values, pooled tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxppo.policy.networks.embedding import GroupEmbedding, pooled

GROUPS, WIDTH = (3, 1, 5), 16


def embedding(dtype: str = "float32") -> GroupEmbedding:
    made = GroupEmbedding(GROUPS, WIDTH, jnp.dtype(dtype), nnx.Rngs(0))
    made.gates[...] = jnp.asarray([0.5, -1.0, 2.0])
    return made


def features(seed: int = 0, *shape: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(*shape, sum(GROUPS))).astype(np.float32)
    x[rng.uniform(size=x.shape) < 0.3] = np.nan
    return x


def test_equal_to_a_normalised_projection_per_group():
    """Flax's LayerNorm of every group's own product, unknown values as indicators."""
    made, x = embedding(), features(0, 7, 11)
    kernel = np.asarray(made.kernel[...])
    n, start, total = sum(GROUPS), 0, 0.0
    norm = nnx.LayerNorm(WIDTH, use_bias=False, use_scale=False, rngs=nnx.Rngs(0))
    for g, size in enumerate(GROUPS):
        columns = slice(start, start + size)
        unknown = np.isnan(x[..., columns])
        projected = np.where(unknown, 0, x[..., columns]) @ kernel[columns]
        projected = projected + unknown @ kernel[n + start : n + start + size] + kernel[2 * n + g]
        total = total + np.asarray(made.weights())[g] * np.asarray(norm(jnp.asarray(projected)))
        start += size
    np.testing.assert_allclose(made(jnp.asarray(x)), total / np.sqrt(len(GROUPS)), rtol=1e-4, atol=1e-5)
    assert np.ptp(np.asarray(made.weights())) > 1.0


def test_an_unknown_value_is_not_an_average_one():
    made = embedding()
    x = jnp.zeros((1, sum(GROUPS)))
    for column in range(sum(GROUPS)):
        assert np.abs(made(x.at[0, column].set(jnp.nan)) - made(x)).max() > 0.05


def test_gradients_are_finite_where_nothing_is_known():
    made = embedding()
    graph, state = nnx.split(made)
    loss = jax.grad(lambda s, x: jnp.sum(jnp.sin(nnx.merge(graph, s)(x))))
    for leaf in jax.tree.leaves(loss(state, jnp.full((4, sum(GROUPS)), jnp.nan))):
        assert np.isfinite(leaf).all()
        assert np.abs(leaf).max() > 0


def test_bfloat16_features_and_weights():
    x = jnp.asarray(features(1, 50))
    short = embedding("bfloat16")(x.astype(jnp.bfloat16))
    assert short.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(short, np.float32), embedding()(x), atol=0.06)


@pytest.mark.parametrize("pool", [1, 2, 3, 5, 7, 16, 20])
def test_pools_are_rolling_means(pool):
    x = np.random.default_rng(2).normal(size=(2, 31, 4)).astype(np.float32)
    expected = np.stack([x[:, t : t + pool].mean(axis=1) for t in range(31 - pool + 1)], axis=1)
    found = pooled(jnp.asarray(x), pool)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    later = pooled(jnp.asarray(x[:, 4:]), pool)
    np.testing.assert_array_equal(later, found[:, 4:])
