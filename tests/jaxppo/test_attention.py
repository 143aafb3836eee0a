"""Attention against a dense softmax in float64, rotary positions, attention across assets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxppo.networks.attention import attention_over_assets, rotate, sliding_window_attention

pytestmark = pytest.mark.usefixtures("quick_compilation")

windowed = jax.jit(sliding_window_attention, static_argnames=("window", "block"))
across = jax.jit(attention_over_assets)


def normals(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def dense(query: np.ndarray, key: np.ndarray, value: np.ndarray, window: int) -> np.ndarray:
    """Query i, at bar `i + window - 1` of the keys, sees that bar and the `window - 1` before it, one at a time."""
    query, key, value = (x.astype(np.float64) for x in (query, key, value))
    out = np.empty((*query.shape[:3], value.shape[-1]))
    for i in range(query.shape[2]):
        now = i + window - 1
        seen = slice(now - window + 1, now + 1)
        score = np.einsum("bhd,bhkd->bhk", query[:, :, i], key[:, :, seen]) / np.sqrt(query.shape[-1])
        weight = np.exp(score - score.max(axis=-1, keepdims=True))
        weight /= weight.sum(axis=-1, keepdims=True)
        out[:, :, i] = np.einsum("bhk,bhkd->bhd", weight, value[:, :, seen])
    return out


CASES = [
    (1, 1, None),
    (1, 5, None),
    (7, 1, None),
    (7, 1, 2),
    (5, 4, 16),
    (16, 8, 16),
    (17, 8, 16),
    (33, 8, None),
    (33, 8, 5),
    (32, 8, 8),
    (32, 9, 8),
    (23, 17, 4),
    (9, 33, 2),
    (10, 7, 1),
    (40, 40, None),
    (70, 33, None),
]


@pytest.mark.parametrize(("length", "window", "block"), CASES)
def test_equal_to_dense_attention_in_float64(length, window, block):
    query, key, value = (3 * normals(s, 2, 2, length + window - 1, 4) for s in range(3))
    query = query[:, :, window - 1 :]
    actual = windowed(jnp.asarray(query), jnp.asarray(key), jnp.asarray(value), window=window, block=block)
    np.testing.assert_allclose(actual, dense(query, key, value, window), rtol=2e-4, atol=2e-5)


def test_no_key_outside_the_window_has_any_weight():
    """Values outside the window are infinite in effect: one of 1e30 would show at any positive weight."""
    length, window = 37, 6
    query, key = normals(0, 1, 1, length, 4), normals(1, 1, 1, length + window - 1, 4)
    for bar in (0, 5, 20, length + window - 2):
        value = np.zeros((1, 1, length + window - 1, 1), np.float32)
        value[0, 0, bar] = 1e30
        out = np.asarray(windowed(jnp.asarray(query), jnp.asarray(key), jnp.asarray(value), window=window))[0, 0, :, 0]
        touched = np.flatnonzero(out)
        expected = np.arange(max(bar - window + 1, 0), min(bar, length - 1) + 1)
        assert touched.tolist() == expected.tolist()


def test_keys_that_do_not_cover_the_window_are_refused():
    x = jnp.zeros((1, 1, 8, 4))
    with pytest.raises(ValueError, match="8 queries with window 3 need 10 keys, not 8"):
        sliding_window_attention(x, x, x, 3)


def test_bfloat16_keeps_its_dtype_and_is_near_float32():
    query, key, value = (jnp.asarray(normals(s, 1, 2, 40, 8)) for s in range(3))
    query = query[:, :, 7:]
    exact = windowed(query, key, value, window=8)
    short = windowed(*(x.astype(jnp.bfloat16) for x in (query, key, value)), window=8)
    assert short.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(short, np.float32), exact, atol=0.04)


@pytest.mark.parametrize("offset", [1.0, 17.0, 500.0])
def test_rotary_scores_depend_on_position_differences_only(offset):
    query, key = jnp.asarray(normals(0, 12, 8)), jnp.asarray(normals(1, 12, 8))
    position = jnp.arange(12, dtype=jnp.float32)
    here = rotate(query, position) @ rotate(key, position).T
    there = rotate(query, position + offset) @ rotate(key, position + offset).T
    np.testing.assert_allclose(here, there, atol=2e-4)
    shifted = rotate(query, position + offset) @ rotate(key, position).T
    assert np.abs(np.asarray(shifted - here)).max() > 0.1


def test_rotary_is_a_rotation_that_starts_at_the_identity():
    x = jnp.asarray(normals(2, 3, 2, 5, 6))
    rotated = rotate(x, jnp.asarray([0.0, 1.0, 2.5, 40.0, 1000.0]))
    np.testing.assert_array_equal(rotated[:, :, 0], x[:, :, 0])
    np.testing.assert_allclose(jnp.linalg.norm(rotated, axis=-1), jnp.linalg.norm(x, axis=-1), rtol=1e-5)
    pair = rotate(jnp.asarray([[1.0, 0.0]]), jnp.asarray([np.pi / 2], jnp.float32))
    np.testing.assert_allclose(pair, [[0.0, 1.0]], atol=1e-6)


def assets(seed: int = 0, n_assets: int = 4) -> tuple[jax.Array, ...]:
    """Query, key, value `[B, S, H, A, D]`."""
    return tuple(jnp.asarray(normals(seed + s, 2, 3, 2, n_assets, 4)) for s in range(3))


def test_attention_across_assets_equals_a_softmax_over_those_present():
    query, key, value = assets()
    present = jnp.asarray(np.random.default_rng(5).random((2, 3, 4)) < 0.5)
    out = np.asarray(across(query, key, value, present))
    for b, s, h, a in np.ndindex(2, 3, 2, 4):
        others = np.flatnonzero(np.asarray(present)[b, s] | (np.arange(4) == a))
        score = np.asarray(key)[b, s, h, others].astype(np.float64) @ np.asarray(query)[b, s, h, a] / 2
        weight = np.exp(score) / np.exp(score).sum()
        np.testing.assert_allclose(out[b, s, h, a], weight @ np.asarray(value)[b, s, h, others], rtol=1e-4, atol=1e-5)


def test_attention_across_assets_follows_a_permutation():
    order = np.array([2, 0, 3, 1])
    present = jnp.asarray(np.random.default_rng(1).random((2, 3, 4)) < 0.6)
    reorder = functools.partial(jnp.take, indices=order, axis=3)
    expected = reorder(across(*assets(), present))
    actual = across(*map(reorder, assets()), present[..., order])
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_an_absent_asset_is_invisible_to_the_others():
    query, key, value = assets()
    present = jnp.ones((2, 3, 4), bool).at[:, :, 1].set(False)
    other = across(query, key.at[..., 1, :].set(50.0), value.at[..., 1, :].set(-1e6), present)
    kept = np.array([0, 2, 3])
    np.testing.assert_array_equal(other[..., kept, :], across(query, key, value, present)[..., kept, :])
    without = across(*(x[..., kept, :] for x in (query, key, value)), present[..., kept])
    np.testing.assert_allclose(other[..., kept, :], without, rtol=1e-5, atol=1e-6)
