"""The base of a run: the untrained agent is the base exactly, whatever its actions; its keys; its utility."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxppo.backtest.evaluation import agent_of, rules_of
from jaxppo.backtest.simulate import simulate_account
from jaxppo.config import ConfigError, validate_config
from jaxppo.envs import simulators
from jaxppo.envs.trading.types import Outcome
from jaxppo.policy import rules
from jaxppo.run.build import build, configured_base
from jaxppo.run.setup import first_policy

MARKET = {"n_bars": 420, "n_assets": 3}
POLICY = {"kind": "mlp", "width": 8, "layers": 1, "heads": 2}
PPO = {"chunk": 8, "paths": 4, "portfolios": 2, "minibatches": 2}


def market():
    return simulators.gbm(jax.random.key(7), **MARKET, half_spread=5e-4, drift=3e-4)


def config(base="inverse_volatility", **changes):
    given = {
        "env": {"actions": "continuous", "levels": [-1, 1]},
        "policy": {**POLICY, "base": base},
        "features": {"groups": ["price"], "normalisation_window": 20},
        "ppo": PPO,
        "training": {"steps": 1000, "devices": 1},
    }
    for section, keys in changes.items():
        given[section] = {**given[section], **keys} if isinstance(keys, dict) and section in given else keys
    return validate_config(given)


def of_my_own():
    """A base that is found by its name."""
    return rules.equal_weight(gross=0.5)


def no_policy():
    """No base."""
    return 3


CASES = {
    "continuous": config(),
    "sized": config("trend", sizing=[{"risk_units": {"target": 0.1}}]),
    "discrete": config({"volatility_target": {"target": 0.1}}, env={"actions": "discrete", "levels": [-1, 0, 1]}),
    "band": config("buy_and_hold", env={"actions": "band"}),
    "hierarchical": config("buy_and_hold", env={"actions": "hierarchical", "levels": [-1, 0, 1]}),
    "scale": config("buy_and_hold", policy={**POLICY, "base": "buy_and_hold", "kind": "linear", "tilt": "scale"}),
    "beta": config("flat", policy={**POLICY, "base": "flat", "action_distribution": "beta"}),
    "own": config("jaxppo.policy.rules:equal_weight"),
}
SLOW = ("discrete", "band", "hierarchical", "beta", "own")


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in CASES])
def test_the_untrained_agent_is_the_base(name):
    setup = build(CASES[name], market())
    network, net = first_policy(setup)
    where, rules_ = setup.periods["test"], rules_of(setup)
    run = (setup.params, jnp.int32(where.first), where.n_bars)
    agent = simulate_account(agent_of(setup, network, net), rules_, *run)
    base = simulate_account(configured_base(setup.config, setup.market), rules_._replace(limited=False), *run)
    np.testing.assert_allclose(agent.equity, base.equity, rtol=1e-6)
    np.testing.assert_allclose(agent.turnover, base.turnover, atol=1e-6)


def test_a_base_of_ones_own_is_found_by_its_name():
    found = configured_base(config(f"{__name__}:of_my_own"), market())
    assert found.name == "equal_weight"


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("nowhere:policy", "policy.base is 'nowhere:policy', which cannot be called: No module named 'nowhere'"),
        (f"{__name__}:no_policy", "which returns a int, not a Policy"),
        (f"{__name__}:nothing", "has no attribute 'nothing'"),
    ],
)
def test_a_function_that_gives_no_base_is_named(base, message):
    with pytest.raises(ConfigError, match=message):
        configured_base(config(base), market())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": "momentum"}, "policy.base.*momentum"),
        ({"env": {"levels": [0, 1]}}, "must reach as far down as up"),
        ({"policy": {"base": "flat", "tilt": "scale"}, "sizing": ["risk_units"]}, "needs no unit"),
        ({"policy": {"base": None, "tilt": "scale"}}, "there is no policy.base to tilt around"),
        ({"policy": {"base": None}, "rewards": ["active_utility"]}, "rewards names active_utility"),
        ({"sizing": [{"book": {"strategies": ["agent", "trend"]}}]}, "use one of them"),
    ],
)
def test_keys_that_do_not_fit_a_base_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        config(**changes)


def test_the_aversion_is_that_at_which_nobody_would_scale_the_base():
    setup = build(config("buy_and_hold", rewards=["active_utility"]), market())
    where = setup.periods["train"]
    run = (setup.params, jnp.int32(where.first), where.n_bars)
    base = simulate_account(rules.buy_and_hold(), rules_of(setup)._replace(limited=False), *run)
    returns = np.diff(np.asarray(base.equity, np.float64)) / np.asarray(base.equity, np.float64)[:-1]
    aversion, mean = max(returns.mean() / returns.var(ddof=1), 1.0), returns.mean()
    assert aversion > 1.0

    def utility(own):
        """Of the formula, written once more."""
        return own - returns - aversion / 2 * ((own - mean) ** 2 - (returns - mean) ** 2)

    outcome = jax.tree.map(jnp.float32, _outcome())
    apply = jax.vmap(
        lambda own, base: setup.env.rewards.apply(
            setup.env.rewards.init(), jnp.float32(0), outcome.replace(log_growth=own, base_log_growth=base)
        )[0]
    )
    for scale in (0.5, 1.0, 2.0):
        found = apply(jnp.log1p(jnp.float32(scale * returns)), jnp.log1p(jnp.float32(returns)))
        np.testing.assert_allclose(found, utility(scale * returns), atol=1e-6)
        assert float(found.mean()) <= 1e-8 + (0 if scale == 1 else -1e-6)


def _outcome():
    names = ("log_growth", "drawdown_before", "drawdown", "leverage", "net", "concentration", "turnover", "costs")
    return Outcome(**dict.fromkeys(names, 0.0), base_log_growth=0.0)
