"""Each asset on its own bars: what halts move about, alone and in a batch of markets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxppo.envs.market.own_bars import carried_forward, own_bars

N_BARS, N_ASSETS = 12, 2


def moved(tradable, x):
    found = own_bars(tradable)
    held, known = carried_forward(x, tradable, jnp.full(N_ASSETS, -1.0))
    return found.listed, found.pack(x), found.spread(found.pack(x)), held, known


@pytest.mark.parametrize("halted", [(), (1,), (0, 2), (0, 1, 2)], ids=str)
def test_a_batch_is_its_markets_one_by_one_whichever_of_them_have_halts(halted):
    draws = np.random.default_rng(0)
    tradable = np.ones((3, N_BARS, N_ASSETS), bool)
    for market in halted:
        tradable[market] = draws.random((N_BARS, N_ASSETS)) < 0.6
        tradable[market, 0, 0] = False
    x = draws.normal(size=tradable.shape).astype(np.float32)
    together = jax.jit(jax.vmap(moved))(tradable, x)
    for market in range(3):
        series = [np.flatnonzero(tradable[market, :, asset]) for asset in range(N_ASSETS)]
        for asset, own in enumerate(series):
            listed, packed, spread, held, known = (np.asarray(y)[market, :, asset] for y in together)
            column = x[market, :, asset]
            np.testing.assert_array_equal(packed[: len(own)], column[own])
            latest = np.searchsorted(own, np.arange(N_BARS), side="right") - 1
            np.testing.assert_array_equal(listed, latest >= 0)
            np.testing.assert_array_equal(known, latest >= 0)
            seen = latest >= 0
            np.testing.assert_array_equal(spread[seen], column[own[latest[seen]]])
            np.testing.assert_array_equal(held[seen], column[own[latest[seen]]])
            np.testing.assert_array_equal(held[~seen], np.full((~seen).sum(), -1.0))
