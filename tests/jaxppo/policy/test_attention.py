"""Attention against a dense softmax in float64: windows, dilated windows, both in one softmax, across assets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxppo.policy.networks import attention
from jaxppo.policy.networks.attention import (
    attention_over_assets,
    dilated_attention,
    fused_window_attention,
    merge,
    sliding_window_attention,
)

windowed = jax.jit(sliding_window_attention, static_argnames=("window", "block"))
dilated = jax.jit(dilated_attention, static_argnames=("window", "dilation"))
across = jax.jit(attention_over_assets)


def normals(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def softmax_over(query: np.ndarray, parts: list[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, np.ndarray]:
    """Float64, one query at a time. A part is (key, value, window, dilation, bias `[H, window]` or None).

    Query i sees the last key of the part that belongs to its bar and those `dilation` apart before it. Returns the
    outputs and the logarithms of the sums of exponentiated scores.
    """
    length = query.shape[-2]
    out, log_weight = np.empty(query.shape), np.empty(query.shape[:-1])
    for i in range(length):
        scores, values = [], []
        for key, value, window, dilation, bias in parts:
            lags = np.arange(window)
            bars = i + dilation * (window - 1) - dilation * lags
            score = np.einsum("bhd,bhkd->bhk", query[:, :, i].astype(np.float64), key[:, :, bars].astype(np.float64))
            scores.append(score / np.sqrt(query.shape[-1]) + (0 if bias is None else bias[:, lags]))
            values.append(value[:, :, bars].astype(np.float64))
        score, value = np.concatenate(scores, axis=-1), np.concatenate(values, axis=2)
        weight = np.exp(score)
        log_weight[:, :, i] = np.log(weight.sum(axis=-1))
        out[:, :, i] = np.einsum("bhk,bhkd->bhd", weight / weight.sum(axis=-1, keepdims=True), value)
    return out, log_weight


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
    bias = normals(3, 2, window)
    for lag_bias in (None, bias):
        found = windowed(query, key, value, window=window, block=block, lag_bias=lag_bias)
        out, log_weight = softmax_over(query, [(key, value, window, 1, lag_bias)])
        np.testing.assert_allclose(found.out, out, rtol=2e-4, atol=2e-5)
        np.testing.assert_allclose(found.log_weight, log_weight, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(("length", "window", "dilation"), [(1, 1, 3), (1, 4, 5), (23, 4, 5), (40, 16, 2), (7, 3, 20)])
def test_dilated_attention_equals_dense_attention_in_float64(length, window, dilation):
    key, value = (normals(s, 2, 2, length + dilation * (window - 1), 4) for s in range(2))
    query, bias = normals(2, 2, 2, length, 4), normals(3, 2, window)
    for lag_bias in (None, bias):
        found = dilated(query, key, value, window=window, dilation=dilation, lag_bias=lag_bias)
        out, log_weight = softmax_over(query, [(key, value, window, dilation, lag_bias)])
        np.testing.assert_allclose(found.out, out, rtol=2e-4, atol=2e-5)
        np.testing.assert_allclose(found.log_weight, log_weight, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(("length", "window"), [(1, 1), (23, 8), (9, 33)])
def test_the_fused_kernel_sees_the_same_window(length, window):
    """Its interface in XLA's implementation, which computes what cuDNN does."""
    query, key, value = normals(0, 2, 2, length, 8), *(normals(s, 2, 2, length + window - 1, 8) for s in (1, 2))
    fused = jax.jit(functools.partial(fused_window_attention, window=window, implementation="xla"))
    expected, _ = softmax_over(query, [(key, value, window, 1, None)])
    np.testing.assert_allclose(fused(query, key, value), expected, rtol=2e-4, atol=2e-5)
    gradients = [
        jax.jit(jax.grad(lambda q, attend=attend: jnp.sum(jnp.sin(attend(q, key, value)))))(query)
        for attend in (fused, lambda *x: windowed(*x, window=window).out)
    ]
    np.testing.assert_allclose(*gradients, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("length", "window"), [(8, 8), (8, 33), (64, 32), (63, 33), (65, 32)])
def test_the_fused_kernel_gets_even_lengths(length, window):
    """cuDNN derives no others; `test_the_fused_kernel_sees_the_same_window` shows that the padding is not read."""
    query, key = jnp.zeros((1, 1, length, 8)), jnp.zeros((1, 1, length + window - 1, 8))
    attend = functools.partial(fused_window_attention, window=window, implementation="xla")
    lowered = jax.jit(attend).lower(query, key, key).as_text()
    rows = length + window - 1 + (length + window - 1) % 2
    assert f"tensor<1x1x{rows}x{rows}xf32>" in lowered


def test_merged_parts_are_one_softmax():
    """A window of 6, and 3 keys 5 apart: sizes of the logits differ by a factor of twenty."""
    query = normals(0, 2, 2, 9, 4)
    near = [normals(1, 2, 2, 14, 4), normals(2, 2, 2, 14, 4)]
    far = [20 * normals(3, 2, 2, 19, 4), normals(4, 2, 2, 19, 4)]
    out = merge([windowed(query, *near, window=6), dilated(query, *far, window=3, dilation=5)])
    expected, _ = softmax_over(query, [(*near, 6, 1, None), (*far, 3, 5, None)])
    np.testing.assert_allclose(out, expected, rtol=2e-4, atol=2e-5)


def test_memory_grows_with_the_length_not_with_its_square():
    """Bytes of temporaries of a compiled pass; the square of 4,096 bars would add 67 MB a head."""

    def temporaries(length: int) -> int:
        query = jax.ShapeDtypeStruct((1, 2, length, 4), jnp.float32)
        key = jax.ShapeDtypeStruct((1, 2, length + 31, 4), jnp.float32)
        return windowed.lower(query, key, key, window=32).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(4096) < 2.2 * temporaries(2048) < 10e6


def test_no_key_outside_the_window_has_any_weight():
    """Values outside the window are infinite in effect: one of 1e30 would show at any positive weight."""
    length, window = 37, 6
    query, key = normals(0, 1, 1, length, 4), normals(1, 1, 1, length + window - 1, 4)
    for bar in (0, 5, 20, length + window - 2):
        value = np.zeros((1, 1, length + window - 1, 1), np.float32)
        value[0, 0, bar] = 1e30
        out = np.asarray(windowed(query, key, value, window=window).out)[0, 0, :, 0]
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
    exact = windowed(query, key, value, window=8).out
    short = windowed(*(x.astype(jnp.bfloat16) for x in (query, key, value)), window=8).out
    assert short.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(short, np.float32), exact, atol=0.04)


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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_few_assets_attend_to_each_other_the_same_on_a_gpu(dtype, monkeypatch):
    """Values and derivatives of sums of products against those of matrix products."""
    given = [jnp.asarray(normals(i, 2, 3, 2, 5, 4), dtype) for i in range(3)]
    present, pull = jnp.asarray(normals(3, 2, 3, 5) > 0), normals(4, 2, 3, 2, 5, 4)

    def run(*given):
        out, back = jax.vjp(lambda *x: attention_over_assets(*x, present), *given)
        return out, *back(jnp.asarray(pull, dtype))

    expected = jax.jit(run)(*given)
    monkeypatch.setattr(attention, "platform", lambda: "gpu")
    traced = jax.jit(lambda *x: run(*x)).trace(*given)
    assert "dot_general" not in str(traced.jaxpr)
    for found, value in zip(traced.lower().compile()(*given), expected, strict=True):
        assert found.dtype == dtype
        np.testing.assert_allclose(*(np.float32(x) for x in (found, value)), atol=0.03 if dtype == "bfloat16" else 1e-5)


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
