"""Monte Carlo with a random latency: each path trades as under a fill rule of its own number of bars."""

import pathlib

import jax
import numpy as np
import pytest
from tiny_run import prices, tiny_config

from jaxppo.envs import load_market
from jaxppo.errors import ConfigError
from jaxppo.monte_carlo import Stress, monte_carlo, run_paths
from jaxppo.run.build import build
from jaxppo.run.saved import SavedRun
from jaxppo.run.setup import first_policy

pytestmark = pytest.mark.slow

BOOK = {"book": {"strategies": ["agent", {"trend": {"lookback": 10, "short": False}}], "warmup": 3}}
MOST, N_BARS, N_PATHS = 3, 25, 16


@pytest.fixture(scope="module")
def opened():
    """Bars of latency -> a run that has not learned, with accounts of strategies that wait for their fills as well."""
    market = load_market(prices())

    def opened(latency_bars):
        config = tiny_config(sizing=[BOOK], env={"latency_bars": latency_bars}, features={"normalisation_window": 10})
        setup = build(config, market)
        return SavedRun(pathlib.Path("runs/tiny"), setup, *first_policy(setup))

    return opened


def paths_of(run, latency=None):
    return run_paths(run, n_bars=N_BARS, seed=2, stress=Stress(latency=latency), devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def mixed(opened):
    return paths_of(opened(MOST), (1, MOST))


@pytest.fixture(scope="module")
def table(mixed):
    return monte_carlo(mixed, N_PATHS, progress=False).table.frame()


@pytest.mark.slow
def test_a_path_equals_that_of_a_fill_rule_with_its_latency(opened, table):
    """Bit for bit, the accounts of a book included; the others differ."""
    static = monte_carlo(paths_of(opened(2)), N_PATHS, progress=False).table.frame()
    same = (table == static).all(axis=1)
    assert 2 <= same.sum() <= N_PATHS - 4
    own = static["total_return"][~same]
    assert (own != table["total_return"][~same]).all()


def test_every_latency_is_drawn_and_replayed(mixed, table):
    """The first order is filled as many bars later, and a replay has the numbers of the job."""
    found = []
    for path in range(N_PATHS):
        replay = mixed.replay(path)
        assert replay.figures["total_return"] == table["total_return"][path]
        ordered, filled = (
            np.flatnonzero(np.asarray(x).any(axis=1)) for x in (replay.ledger.ordered, replay.ledger.quantity)
        )
        found.append(filled[0] - ordered[0] + 1)
    assert set(found) == set(range(1, MOST + 1))


def test_a_run_opened_with_another_latency_is_refused(opened):
    with pytest.raises(ConfigError, match=r"--latency goes up to 3; the run must be opened with --env.latency_bars 3"):
        paths_of(opened(1), (1, 3))
    with pytest.raises(ValueError, match="latency is 2 1; it must be two numbers of bars, 1 <= LOW <= HIGH"):
        Stress(latency=(2, 1))
