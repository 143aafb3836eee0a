"""Own code where a key names one thing: regimes, the objective, the prices."""

import jax
import jax.numpy as jnp
import numpy as np
import own_parts
import pandas as pd
import pytest
from tiny_run import prices, tiny_config

from jaxppo import DataError, own_code, register, rules
from jaxppo.backtest.agent_account import rules_of
from jaxppo.backtest.simulate import simulate_account
from jaxppo.config import ConfigError, validate_config
from jaxppo.config.own import own_names
from jaxppo.deploy.streams import check_own_streams
from jaxppo.envs import simulators
from jaxppo.envs.data.load import load_market
from jaxppo.risk.objectives import EpisodeUtility
from jaxppo.run.build import build
from jaxppo.run.data import load_data
from jaxppo.run.objectives import make_reward_shaping, make_utility

GROUP = {"groups": ["price"], "normalisation_window": 20}


@pytest.fixture(scope="module")
def market():
    return simulators.gbm(jax.random.key(3), 420, 2)


@pytest.fixture
def names(monkeypatch):
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(own_code, "_registered", {})


def test_regimes_of_an_own_function_reach_features_and_masks(market):
    config = tiny_config(
        features={**GROUP, "groups": ["price", "regime"]},
        regimes={"kind": "own_parts:by_range", "options": {"level": 0.015}},
        masks=[{"regime": {"crisis": [0.0, 0.5]}}],
    )
    assert dict(own_names(config)) == {"regimes.kind": "own_parts:by_range"}
    setup = build(config, market)
    found = np.asarray(setup.regimes)
    assert found.shape == (420, 2, 4)
    wide = pd.Series(np.log(np.asarray(market.high) / np.asarray(market.low)).mean(axis=1)).rolling(5).mean() > 0.015
    np.testing.assert_array_equal(found[5:, 0, 3], wide[5:])
    assert 0.2 < found[5:, 0, 3].mean() < 0.8
    columns = setup.env.features.table(market, np.nan, setup.regimes)[..., setup.env.features.slices["regime"]]
    np.testing.assert_array_equal(columns[5:, :, 3], found[5:, :, 3])
    check_own_streams(setup)


REGIMES = {
    "leaks": (lambda market: _two(market.close.mean(axis=1) > market.close[-1].mean()), "looks ahead: at bar "),
    "three": (lambda market: jnp.ones((market.n_bars, 3)), r"the shape \[420, 3\]; probabilities of bull, .* \[T, 4\]"),
    "no sum": (lambda market: jnp.ones((market.n_bars, 4)), "at bar .* of asset 0 are 1, 1, 1, 1; they must be >= 0"),
    "not a number": (lambda market: jnp.full((market.n_bars, 4), jnp.nan), "are nan, nan, nan, nan"),
    "numpy": (lambda market: _two(np.asarray(market.close).mean(axis=1) > 50), "it must be written in jax.numpy"),
    "fails": (lambda market: 1 // 0, r"ZeroDivisionError: .* \(line \d+ of test_own_sources.py\)"),
}


def _two(bull):
    none = jnp.zeros(len(bull))
    return jnp.stack([jnp.asarray(bull, jnp.float32), none, none, 1.0 - jnp.asarray(bull, jnp.float32)], axis=-1)


@pytest.mark.parametrize("name", REGIMES)
def test_wrong_regimes_are_named(names, market, name):
    function, message = REGIMES[name]
    register(function, name="mine:it")
    with pytest.raises(ConfigError, match=f"^regimes.kind mine:it.*{message}") as raised:
        build(tiny_config(features=GROUP, regimes={"kind": "mine:it"}), market)
    assert "\n" not in str(raised.value)


def test_an_own_objective_is_the_utility_that_is_learned(market):
    config = tiny_config(features=GROUP, objective={"kind": "own_parts:cubed", "options": {"loss": 3.0}})
    build(config, market)
    utility = make_utility(config.objective).utility(jnp.asarray([-0.1, 0.2]), jnp.zeros(()))
    np.testing.assert_allclose(utility, [-0.3, 0.2], rtol=1e-6)
    assert make_reward_shaping(config, 252.0) is not None
    assert config.objective.usual_outcome(trading=True) == "simple"


OBJECTIVES = {
    "a number": (lambda: 3, "returns an int; an EpisodeUtility is expected"),
    "a sum": (lambda: EpisodeUtility("x", None, lambda x, _: x.sum()), r"of \[11\] returns within .* are float32\[\]"),
    "a logarithm": (
        lambda: EpisodeUtility("x", None, lambda x, _: jnp.log(x)),
        r"float32\[11\], of which 5 are numbers",
    ),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_wrong_objective_is_named(names, market, name):
    make, message = OBJECTIVES[name]
    register(make, name="mine:it")
    with pytest.raises(ConfigError, match=f"^objective.kind mine:it.*{message}"):
        build(tiny_config(features=GROUP, objective={"kind": "mine:it"}), market)


def test_own_slippage_is_charged_by_the_accounting_function(market):
    """Half of the volatility twice: by the key that ships, and by an own function."""
    none = {"commission_bps": 0.0, "spread_multiplier": 0.0, "impact": 0.0}
    ships = build(tiny_config(features=GROUP, costs={**none, "slippage": 0.5}), market)
    own = {"function": "own_parts:of_range", "options": {"share": 0.5}}
    mine = build(tiny_config(features=GROUP, costs={**none, "slippage": 0.0, **own}), market)
    ledgers = [
        simulate_account(rules.equal_weight(), rules_of(setup), setup.params, jnp.int32(100), 200)
        for setup in (ships, mine)
    ]
    assert float(ledgers[0].costs.slippage.sum()) > 100.0
    np.testing.assert_allclose(ledgers[1].costs.slippage, ledgers[0].costs.slippage, rtol=1e-5)
    np.testing.assert_allclose(ledgers[1].equity, ledgers[0].equity, rtol=1e-6)


COSTS = {
    "negative": (lambda quantity, price, bar: quantity * price, "a fill of -1 of asset 0 costs -1; it must be >= 0"),
    "a sum": (lambda quantity, price, bar: price.sum(), r"what it returns is float32\[\]; \[A\] = \[2\] numbers"),
    "not a number": (lambda quantity, price, bar: price * jnp.nan, "costs nan; it must be >= 0"),
    "numpy": (lambda quantity, price, bar: np.asarray(price), "it must be written in jax.numpy"),
    "an option": (lambda quantity, price, bar, more: price, "needs the option more, which has no default"),
}


@pytest.mark.parametrize("name", COSTS)
def test_wrong_costs_are_named(names, market, name):
    function, message = COSTS[name]
    register(function, name="mine:it")
    with pytest.raises(ConfigError, match=f"^costs.function mine:it.*{message}"):
        build(tiny_config(features=GROUP, costs={"function": "mine:it"}), market)


def test_prices_may_come_from_an_own_function():
    config = validate_config({"data": {"path": "own_parts:random_walks", "symbols": ["BBB"]}, "training": {"steps": 1}})
    found, expected = load_data(config), load_market(own_parts.random_walks(), symbols=["BBB"])
    assert found.info.symbols == ("BBB",)
    np.testing.assert_array_equal(found.close, expected.close)
    assert found.info.report["fingerprint"] == expected.info.report["fingerprint"]
    drawn = load_data(validate_config({"data": {"path": "own_parts:drawn_walks"}, "training": {"steps": 1}}))
    np.testing.assert_array_equal(drawn.close, own_parts.drawn_walks().close)


def test_a_file_of_that_name_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prices(n_bars=30).to_csv("own_parts:random_walks", index=False)
    config = validate_config({"data": {"path": "own_parts:random_walks"}, "training": {"steps": 1}})
    assert dict(own_names(config)) == {}
    with pytest.raises(DataError, match="own_parts:random_walks"):  # no table by its name
        load_data(config)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: 3, "data.path mine:it: prices must be a path, a list of paths or a data frame, not int"),
        (lambda: pd.DataFrame({"a": [1.0]}), "data.path mine:it: .*column"),
        (
            lambda: own_parts.drawn_walks().replace(high=jnp.zeros((420, 2))),
            "data.path mine:it: the market's high of asset 0",
        ),
        (lambda: 1 // 0, "data.path mine:it: ZeroDivisionError: "),
    ],
    ids=["a number", "no prices", "no market", "fails"],
)
def test_what_are_no_prices_is_named(names, make, message):
    register(make, name="mine:it")
    with pytest.raises((ConfigError, DataError), match=message) as raised:
        load_data(validate_config({"data": {"path": "mine:it"}, "training": {"steps": 1}}))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"regimes": {"kind": "rule"}}, 'regimes.kind is "rule"; allowed: one of none, rules, hmm or module:function'),
        (
            {"regimes": {"kind": "rules", "options": {"a": 1}}},
            "regimes.options are of an own function, but regimes.kind",
        ),
        (
            {"objective": {"options": {"a": 1}}},
            "objective.options is {'a': 1}, but objective.kind expected does not read",
        ),
        (
            {"objective": {"kind": "a:b", "level": 0.9}},
            "objective.level is 0.9, but objective.kind a:b does not read it",
        ),
    ],
)
def test_keys_that_nothing_reads_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        tiny_config(**given)
