"""Bootstrap generators: samplers equal to arch's, whole bars, regimes that follow their chain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from moments import ERRORS, assert_mean

from jaxppo.envs import simulators
from jaxppo.envs.simulators.bootstrap import circular_indices, stationary_indices
from jaxppo.envs.simulators.generators import GENERATORS
from jaxppo.envs.simulators.markov import estimate_chain

N_SOURCE, N_BARS = 300, 2000


def numbered_market(seed: int):
    """300 bars of 2 assets whose half-spread is the number of the bar, so that drawn bars can be traced back."""
    source = simulators.gbm(jax.random.key(seed), N_SOURCE, 2, correlation=0.5)
    numbers = jnp.arange(N_SOURCE, dtype=jnp.float32)[:, None]
    return source.replace(half_spread=jnp.broadcast_to(numbers, (N_SOURCE, 2)))


def rows_of(market) -> np.ndarray:
    """Bars of the source in a path drawn from `numbered_market`."""
    rows = np.asarray(market.half_spread).astype(int)
    np.testing.assert_array_equal(rows[:, 0], rows[:, 1])
    return rows[:, 0]


def some_labels(seed: int) -> np.ndarray:
    """Three regimes in spells, the first 20 bars unknown."""
    spells = np.random.default_rng(seed).choice([0, 1, 1, 2], size=60)
    return np.where(np.arange(N_SOURCE) < 20, -1, np.repeat(spells, 5))


@pytest.mark.parametrize("block", [1, 7, 50, 64])
def test_circular_indices_equal_archs(block):
    base = pytest.importorskip("arch.bootstrap.base")
    series, n = np.arange(50.0), 50
    theirs = base.CircularBlockBootstrap(block, series, seed=np.random.default_rng(3)).update_indices()
    starts = base._get_random_integers(np.random.default_rng(3), n, size=-(-n // block))
    ours, fresh = circular_indices(jnp.asarray(starts, jnp.int32), jnp.asarray(block, jnp.int32), n, n)
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(fresh, np.arange(n) % block == 0)


def test_stationary_indices_equal_archs_whole_sampler():
    base = pytest.importorskip("arch.bootstrap.base")
    n, block = 200, 12.0
    theirs = base.StationaryBootstrap(block, np.arange(200.0), seed=np.random.default_rng(4)).update_indices()
    generator = np.random.default_rng(4)
    starts = base._get_random_integers(generator, n, size=n)
    ours, _ = stationary_indices(jnp.asarray(starts, jnp.int32), jnp.asarray(generator.random(n)), 1 / block, n)
    np.testing.assert_array_equal(ours, theirs)


def test_circular_blocks_have_one_length_and_keep_bars_whole():
    source = numbered_market(0)
    _, data, draw = GENERATORS["circular_bootstrap"](source, N_BARS, block=24.2)
    drawn = jax.jit(draw)(data, jax.random.key(1))
    rows = rows_of(drawn)
    assert rows.min() >= 1
    np.testing.assert_array_equal(drawn.volume, np.asarray(source.volume)[rows])
    follows = rows[1:] == np.where(rows[:-1] == N_SOURCE - 1, 1, rows[:-1] + 1)
    within = np.arange(1, N_BARS) % 25 != 0
    assert follows[within].all()
    assert follows[~within].mean() < 0.1
    ours = np.asarray(drawn.high, np.float64)[1:] / np.asarray(drawn.close, np.float64)[:-1]
    theirs = np.asarray(source.high, np.float64)[rows[1:]] / np.asarray(source.close, np.float64)[rows[1:] - 1]
    np.testing.assert_allclose(ours, theirs, rtol=5e-6)


def test_the_regimes_of_a_path_follow_the_chain_of_the_labels():
    labels = some_labels(2)
    share, transition = estimate_chain(labels)
    np.testing.assert_allclose(share @ transition, share, atol=1e-12)
    _, data, draw = GENERATORS["regime_bootstrap"](numbered_market(1), N_BARS, labels=labels, mean_block=4.0)
    drawn = jax.jit(jax.vmap(draw, (None, 0)))(data, jax.random.split(jax.random.key(2), 20))
    rows = np.asarray(drawn.half_spread[..., 0]).astype(int)
    regimes = labels[rows]
    assert regimes.min() == 0
    before, after = regimes[:, :-1].ravel(), regimes[:, 1:].ravel()
    for state in range(3):
        assert_mean(regimes[:, 0] == state, share[state])
        counts = np.bincount(after[before == state], minlength=3)
        error = np.sqrt(transition[state] * (1 - transition[state]) / counts.sum())
        assert (np.abs(counts / counts.sum() - transition[state]) <= ERRORS * error + 1e-12).all()
        # Within a regime every bar is as likely as any other to be the first of a block.
        assert set(np.flatnonzero(labels == state)) - {0} <= set(rows.ravel())
    assert 0.4 < np.mean(rows[:, 1:] == rows[:, :-1] + 1) < 0.75


def test_a_path_of_nothing_but_one_regime_and_a_given_chain():
    labels = some_labels(3)
    source = numbered_market(4)
    _, data, draw = GENERATORS["regime_bootstrap"](source, N_BARS, labels=labels, mean_block=4.0, regime=2)
    traced = []

    def counted(data, key):
        traced.append(1)
        return draw(data, key)

    compiled = jax.jit(counted)
    assert set(labels[rows_of(compiled(data, jax.random.key(5)))]) == {2}
    other = GENERATORS["regime_bootstrap"](
        source, N_BARS, labels=labels, mean_block=4.0, transition=np.roll(np.eye(3), 1, axis=1)
    )
    assert other.draw is draw
    regimes = labels[rows_of(compiled(other.data, jax.random.key(6)))]
    np.testing.assert_array_equal(regimes[1:], (regimes[:-1] + 1) % 3)
    assert len(traced) == 1, "other data of the same shape do not recompile"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("stationary_bootstrap", {"mean_block": None}, "mean_block is None"),
        ("circular_bootstrap", {"block": 0.5}, "block is 0.5"),
        ("regime_bootstrap", {"labels": np.zeros(5, int), "mean_block": 2}, "300 whole numbers"),
        ("regime_bootstrap", {"labels": np.zeros(N_SOURCE), "mean_block": 2}, "float64"),
        ("regime_bootstrap", {"labels": np.full(N_SOURCE, -1), "mean_block": 2}, "at least one bar"),
        ("regime_bootstrap", {"labels": some_labels(0), "mean_block": 2, "regime": 3}, "regime is 3"),
        ("regime_bootstrap", {"labels": some_labels(0), "mean_block": 2, "transition": np.eye(2)}, "3 regimes"),
        ("regime_bootstrap", {"labels": some_labels(0), "mean_block": 2, "transition": np.ones((3, 3))}, "sum to 1"),
    ],
)
def test_mistakes_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        GENERATORS[name](numbered_market(7), 10, **options)


def test_no_path_without_bars():
    with pytest.raises(ValueError, match="n_bars is 0"):
        GENERATORS["circular_bootstrap"](numbered_market(7), 0, block=3)
