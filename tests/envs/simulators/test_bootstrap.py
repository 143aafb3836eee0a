"""The stationary bootstrap: the index sampler, whole bars in order, ragged markets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from moments import assert_mean

from jaxppo.envs import simulators
from jaxppo.envs.market.market_data import MarketData, slice_bars
from jaxppo.envs.simulators.bootstrap import stationary_indices


def source_market(seed: int) -> MarketData:
    """400 bars of 2 correlated assets to draw from."""
    return simulators.gbm(jax.random.key(seed), 400, 2, correlation=0.5)


def test_stationary_indices_by_hand_and_against_arch():
    starts = jnp.array([3, 0, 1, 4, 2, 0], jnp.int32)
    draws = jnp.array([0.9, 0.5, 0.1, 0.8, 0.9, 0.2])
    index, fresh = stationary_indices(starts, draws, 0.2, 5)
    np.testing.assert_array_equal(index, [3, 4, 1, 2, 3, 0])
    np.testing.assert_array_equal(fresh, [True, False, True, False, False, True])
    samplers = pytest.importorskip("arch.bootstrap._samplers_python")
    rng = np.random.default_rng(0)
    starts, draws = rng.integers(0, 50, 50), rng.uniform(size=50)
    ours, _ = stationary_indices(jnp.asarray(starts, jnp.int32), jnp.asarray(draws), 0.1, 50)
    expected = samplers.stationary_bootstrap_sample_python(starts.copy(), draws, 0.1)
    np.testing.assert_array_equal(ours, expected)


def test_bootstrap_keeps_bars_whole_and_blocks_in_order():
    """The spread column numbers the source bars, so every drawn bar can be traced back and compared in full."""
    n_source, n_bars, block = 400, 3000, 15.0
    source = source_market(16)
    numbers = jnp.arange(n_source, dtype=jnp.float32)[:, None]
    source = source.replace(half_spread=jnp.broadcast_to(numbers, (n_source, 2)))
    drawn = simulators.block_bootstrap(jax.random.key(17), source, n_bars, block)
    row = np.asarray(drawn.half_spread).astype(int)
    np.testing.assert_array_equal(row[:, 0], row[:, 1])
    row = row[:, 0]
    assert row.min() >= 1
    for name in ("volume", "tradable"):
        np.testing.assert_array_equal(getattr(drawn, name), np.asarray(getattr(source, name))[row])
    np.testing.assert_array_equal(drawn.day_of_week, np.asarray(source.day_of_week)[row])
    for name in ("open", "high", "low", "close"):
        ours = np.asarray(getattr(drawn, name), np.float64)[1:] / np.asarray(drawn.close, np.float64)[:-1]
        close = np.asarray(source.close, np.float64)
        theirs = np.asarray(getattr(source, name), np.float64)[row[1:]] / close[row[1:] - 1]
        np.testing.assert_allclose(ours, theirs, rtol=5e-6)
    follows = row[1:] == np.where(row[:-1] == n_source - 1, 1, row[:-1] + 1)
    assert_mean(~follows, (1 - 1 / (n_source - 1)) / block)


def test_bootstrap_of_a_ragged_market_keeps_the_contract():
    """Late listing and missing bars: stale prices where not tradable, 1.0 before the first bar, no jump from 1.0."""
    source = source_market(18)
    bar = np.arange(400)
    tradable = np.stack([bar >= 240, bar % 4 != 1], axis=1)
    latest = np.maximum.accumulate(np.where(tradable, bar[:, None], -1), axis=0)
    close = np.take_along_axis(np.asarray(source.close), np.maximum(latest, 0), axis=0)
    stale = np.where(latest < 0, 1.0, close)
    prices = {
        name: jnp.asarray(np.where(tradable, getattr(source, name), stale)) for name in ("open", "high", "low", "close")
    }
    source = source.replace(**prices, tradable=jnp.asarray(tradable), volume=source.volume * tradable)
    numbers = jnp.broadcast_to(jnp.arange(400, dtype=jnp.float32)[:, None], (400, 2))
    source = source.replace(half_spread=numbers)
    drawn = simulators.block_bootstrap(jax.random.key(19), source, 3000, 8.0)
    on, listed = np.asarray(drawn.tradable), np.cumsum(np.asarray(drawn.tradable), axis=0) > 0
    assert 0.2 < on[:, 0].mean() < 0.6
    for name in ("open", "high", "low", "close"):
        values = np.asarray(getattr(drawn, name))
        np.testing.assert_array_equal(values[~listed], 1.0)
        halted = ~on[1:] & listed[:-1]
        np.testing.assert_array_equal(values[1:][halted], np.asarray(drawn.close)[:-1][halted])
    assert (np.asarray(drawn.volume)[~on] == 0).all()
    first = int(np.argmax(on[:, 0]))
    row = int(drawn.half_spread[first, 0])
    assert first > 0
    whole = [float(getattr(drawn, name)[first, 0]) for name in ("open", "high", "low", "close")]
    theirs = [float(getattr(source, name)[row, 0]) for name in ("open", "high", "low", "close")]
    before = float(source.open[240, 0] if row == 240 else source.close[row - 1, 0])
    np.testing.assert_allclose(whole, np.array(theirs) / before * float(source.close[240, 0]), rtol=1e-5)
    moves = np.abs(np.diff(np.log(np.asarray(drawn.close)), axis=0))[listed[:-1]]
    assert moves.max() < 0.1
    with pytest.raises(ValueError, match="at least 2 bars"):
        simulators.block_bootstrap(jax.random.key(20), slice_bars(source, 0, 1), 10, 5.0)
