"""Hints to the compiler change no number, and what one kernel cannot hold is left to several."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxppo.envs.market.kernels import in_one, once
from jaxppo.envs.market.own_bars import all_in_batch, carried_forward, own_bars


def totals(x):
    return jax.lax.fori_loop(0, 5, lambda i, y: jnp.sqrt(y * y + x) - 0.5 * jnp.abs(y), x)


def ranked(x):
    return jax.lax.fori_loop(0, 5, lambda i, y: jnp.sort(y)[::-1] + 0.1 * x, x)


@pytest.mark.parametrize(("function", "whole"), [(totals, True), (ranked, False)])
def test_one_kernel_where_it_can_be_and_the_same_numbers(function, whole):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(300,)) ** 2, jnp.float32)
    lowered = jax.jit(lambda x: in_one(function, x)).lower(x)
    assert ('xla_cpu_small_call = "true"' in lowered.as_text()) is whole
    np.testing.assert_allclose(lowered.compile()(x), jax.jit(function)(x), rtol=1e-6)


def test_what_is_computed_once_is_a_call_and_maps():
    def both(x):
        shared = once(totals, x)
        return shared + 1.0, shared * 2.0

    x = jnp.arange(12.0).reshape(3, 4)
    lowered = jax.jit(jax.vmap(both)).lower(x)
    assert 'inlineable = "false"' in lowered.as_text()
    for found, expected in zip(lowered.compile()(x), (totals(x) + 1.0, totals(x) * 2.0), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@jax.jit
def moved(tradable, x):
    """One market: own bars found, packed and spread, and the last known value."""
    bars = own_bars(tradable)
    packed = bars.pack(x)
    return bars.source, bars.latest, packed, bars.spread(packed), *carried_forward(x, tradable, x[0] + 1.0)


def test_markets_without_halts_beside_others_and_alone():
    random = np.random.default_rng(1)
    tradable = random.random((4, 30, 3)) < 0.6
    tradable[0] = True
    x = random.normal(size=tradable.shape).astype(np.float32)
    together = jax.jit(jax.vmap(moved))(tradable, x)
    whole = jax.jit(jax.vmap(moved))(np.ones_like(tradable), x)
    for i in range(len(tradable)):
        for found, alone in zip(together, moved(tradable[i], x[i]), strict=True):
            np.testing.assert_array_equal(found[i], alone)
        np.testing.assert_array_equal(whole[3][i], x[i])
    for found, alone in zip(whole, together, strict=True):
        np.testing.assert_array_equal(found[0], alone[0])  # found among whole markets, and moved about among others
    assert not bool(jax.vmap(all_in_batch)(tradable).any())
    assert bool(jax.vmap(all_in_batch)(np.ones_like(tradable)).all())
