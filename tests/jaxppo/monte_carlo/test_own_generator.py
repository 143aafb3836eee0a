"""Generators of a user's own: tried once, and named with the hash of their code."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxppo import own_code, register
from jaxppo.config import ConfigError, validate_config
from jaxppo.envs import simulators
from jaxppo.envs.simulators.generators import Generator
from jaxppo.monte_carlo.sources import draws_of
from jaxppo.run.periods import Period

N_BARS = 30


@pytest.fixture(scope="module")
def run():
    """What `draws_of` reads of a run."""
    market, config = simulators.gbm(jax.random.key(2), 120, 2), validate_config({"training": {"steps": 1}})
    return types.SimpleNamespace(
        setup=types.SimpleNamespace(market=market, config=config, periods={"test": Period(50, 119)})
    )


def test_an_own_generator_draws_like_one_that_ships(run):
    made = draws_of(run, "own_parts:drawn_bars", N_BARS)
    sha256 = own_code.find("own_parts:drawn_bars", "key").sha256
    assert made.name == f"own_parts:drawn_bars, SHA-256 {sha256[:12]}"
    markets = [made.draw(made.data, jax.random.key(seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(markets[0].close, markets[1].close)
    assert np.any(markets[0].close != markets[2].close)
    assert np.isin(markets[0].close, run.setup.market.close[50:]).all(), "bars of the test period"


def _drawn(change):
    def made(market, n_bars):
        def draw(market, key):
            return change(jax.tree.map(lambda x: x[:n_bars] if x.ndim and len(x) > n_bars else x, market))

        return Generator("x", market, draw)

    return made


CASES = {
    "no generator": (lambda market, n_bars: market, "returns a MarketData; a Generator is expected"),
    "no market": (_drawn(lambda market: market.close), "draws .*; a market of"),
    "too short": (
        _drawn(lambda market: market.replace(close=market.close[:7])),
        r"draws \[7, 2\]; .* \[30, 2\] is exp",
    ),
    "no prices": (_drawn(lambda market: market.replace(low=jnp.zeros((N_BARS, 2)))), "low"),
    "fails": (lambda market, n_bars: 1 // 0, "ZeroDivisionError"),
    "an option": (lambda market, n_bars, more: market, "needs the option more, which has no default"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_generator_is_named(run, monkeypatch, name):
    monkeypatch.setattr(own_code, "_registered", {})
    made, message = CASES[name]
    register(made, name="mine:it")
    with pytest.raises(ConfigError, match=f"^--generator mine:it.*{message}") as raised:
        draws_of(run, "mine:it", N_BARS)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere:it", "--generator is 'nowhere:it'; there is no module nowhere"),
        ("a b:c", "--generator is 'a b:c'; module:function is expected"),
        ("bootstrap", "it must be one of stationary_bootstrap, .*, or module:function of your own"),
    ],
)
def test_names_of_generators_are_checked(run, name, message):
    with pytest.raises(ConfigError, match=message):
        draws_of(run, name, N_BARS)
