"""The base of a run: the untrained agent is the base exactly, whatever its actions; its keys; its utility."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxppo import simulate
from jaxppo.backtest.agent_account import agent_of, ensemble_of, rules_of
from jaxppo.backtest.conditions import conditions_of
from jaxppo.backtest.front_door import simulate_streaming
from jaxppo.backtest.simulate import simulate_account
from jaxppo.book.base import base_returns
from jaxppo.config import ConfigError, validate_config
from jaxppo.envs import simulators
from jaxppo.envs.trading.types import Outcome
from jaxppo.envs.trading.view import MarketView
from jaxppo.monte_carlo import Paths, run_paths
from jaxppo.policy import rules
from jaxppo.run.base import base_policy
from jaxppo.run.build import build, configured_base
from jaxppo.run.saved import SavedRun
from jaxppo.run.setup import first_policy
from jaxppo.training.trainer import train

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


def account(setup, policy, limited=True):
    """The ledger of a policy over the test, under the rules of the run."""
    where, by = setup.periods["test"], rules_of(setup)._replace(limited=limited)
    return simulate_account(policy, by, setup.params, jnp.int32(where.first), where.n_bars)


def test_no_share_of_an_agent_is_the_base_and_all_of_it_the_agent():
    """What a closed gate trades, with sized tilts, a limit of the sum, and a drawdown control after it."""
    sizing = [{"risk_units": {}}, {"drawdown_control": {"limit": 0.2, "move": 0.05}}]
    policy = {**POLICY, "kind": "linear", "base": "trend"}
    setup = build(config(policy=policy, sizing=sizing, masks=["no_short"]), market())
    network, net = first_policy(setup)
    net = jax.tree.map(lambda x: x + 0.3, net)
    nets = jax.tree.map(lambda x: x[None], net)
    base, agent = account(setup, base_policy(setup)), account(setup, agent_of(setup, network, net))
    closed, whole = (account(setup, ensemble_of(setup, network, nets, share)) for share in (0.0, 1.0))
    np.testing.assert_array_equal(closed.equity, base.equity)
    np.testing.assert_allclose(whole.equity, agent.equity, rtol=1e-6)
    assert np.abs(agent.equity / base.equity - 1.0).max() > 1e-3
    assert min(np.min(agent.weights), np.min(base.weights)) >= 0.0
    assert np.abs(base.weights).sum() > 0.5


def test_a_rule_on_a_run_with_a_base_holds_its_own_weights():
    """By both ways to its conditions; the agent beside it is a tilt around the base still."""
    setup = build(config("trend"), market())
    run = SavedRun(pathlib.Path("untrained"), setup, *first_policy(setup))
    rule, where = rules.buy_and_hold(), setup.periods["test"]
    expected = account(setup, rule, limited=False).weights
    np.testing.assert_array_equal(simulate(rule, run).ledger.weights, expected)
    other = simulate(rule, market(), conditions=conditions_of(run, base=False), first=where.first, n_bars=where.n_bars)
    np.testing.assert_array_equal(other.ledger.weights, expected)
    tilts = simulate(rule, run, conditions=conditions_of(run), check=False).ledger.weights
    assert np.abs(tilts - expected).max() > 0.05
    agent = simulate(run.agent(), run).ledger.weights
    np.testing.assert_allclose(agent, account(setup, base_policy(setup)).weights, atol=1e-6)
    assert conditions_of(run).identity != conditions_of(run, base=False).identity


@pytest.mark.parametrize("of", ["a base", "a book"])
def test_a_rule_is_refused_where_its_weights_would_be_tilts(of):
    """Wherever conditions are given: of a base and of a book, for a rule and for an array of weights."""
    book = {"sizing": [{"book": {"strategies": ["agent", "trend"]}}]}
    setup = build(config("trend") if of == "a base" else config(None, **book), market())
    run = SavedRun(pathlib.Path("untrained"), setup, *first_policy(setup))
    ours, tilting = run_paths(run, n_bars=10, devices=jax.devices()[:1]), conditions_of(run)
    rule = rules.buy_and_hold()._replace(warmup=ours.history)
    array = jnp.zeros(market().close.shape)
    for trade in (
        lambda by, **more: Paths(rule, by, ours.generator, 10, **more),
        lambda by, **more: simulate(rule, market(), conditions=by, n_bars=5, **more),
        lambda by, **more: simulate(array, market(), conditions=by, first=ours.history, n_bars=5, **more),
        lambda by, **more: simulate_streaming(rule, market(), by, n_bars=5, **more),
    ):
        with pytest.raises(ValueError, match=r" decides weights, but .* take conditions_of\(run, base=False\)"):
            trade(tilting)
        assert trade(conditions_of(run, base=False))
        assert trade(tilting, check=False)
    assert Paths(rules.flat()._replace(warmup=ours.history), tilting, ours.generator, 10)
    assert simulate(run.agent(), market(), conditions=tilting, n_bars=5)


@pytest.mark.slow
def test_a_base_of_futures_keeps_the_margin_of_its_account():
    """The base would hold more than the margin allows: its account, and the one that copies it, are the rule's."""
    costs = {"margin_volatility": 200.0, "max_leverage": 1.0, "maintenance_margin": 0.0}
    futures = market().replace(futures=jnp.ones(3, bool))
    setup = build(config("jaxppo.policy.rules:equal_weight", costs=costs), futures)
    policy, where = configured_base(setup.config, futures), setup.periods["test"]
    rule, copied = account(setup, policy, limited=False), account(setup, base_policy(setup))
    assert np.abs(rule.weights).sum(axis=1)[1:].max() < 0.9, "the margin binds"
    np.testing.assert_allclose(copied.weights, rule.weights, atol=1e-5)
    view = MarketView(futures, setup.periods_per_year, setup.env.position_limit)
    own = base_returns(policy, setup.env, setup.params, view, where.first, where.n_bars)
    np.testing.assert_allclose(own, np.diff(rule.equity) / rule.equity[:-1], atol=2e-6)


def test_a_base_of_ones_own_is_found_by_its_name():
    found = configured_base(config(f"{__name__}:of_my_own"), market())
    assert found.name == f"{__name__}.of_my_own"
    assert found == configured_base(config(f"{__name__}:of_my_own"), market()), "so that it compiles once"


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("nowhere:policy", "policy.base is 'nowhere:policy'; there is no module nowhere in"),
        (f"{__name__}:no_policy", "no_policy returns an int; a Policy is expected"),
        (f"{__name__}:nothing", "has no function nothing"),
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
    aversion, mean = max(returns.mean() / returns.var(), 1.0), returns.mean()
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


@pytest.mark.slow
def test_a_run_learns_around_another_run_and_stops_and_resumes_to_the_same_bits(tmp_path):
    """The pathwise learner under everything that shapes or watches rewards, then as a base."""
    keys = {"policy": {**POLICY, "kind": "linear", "base": None}, "ppo": {**PPO, "schedule": "constant"}}
    more = {"monitor": [{"drawdown": {"limit": 0.2}}], "objective": {"kind": "cvar"}}
    more["constraints"] = [{"volatility": {"limit": 0.1}}]
    training = {"learner": "pathwise", "devices": 1, "evaluate_every": 2, "checkpoint_every": 2}
    evaluation = {"bootstrap_resamples": 100}

    def run(name, steps, resume=False):
        chosen = config(**keys, **more, training={**training, "steps": steps}, evaluation=evaluation)
        return train(chosen, output=tmp_path / name, market=market(), progress=False, resume=resume)

    whole, _ = run("whole", 384), run("half", 192)
    again = run("half", 384, resume=True)
    for one, other in zip(*(jax.tree.leaves(each.last_params) for each in (whole, again)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert "volatility" in whole.summary["constraints"]
    around = config({"run": str(tmp_path / "whole")}, training={**training, "steps": 128}, evaluation=evaluation)
    summary = train(around, output=tmp_path / "around", market=market(), progress=False).summary["out_of_sample"]
    base, untrained = (summary["baseline"][name] for name in ("base", "untrained"))
    assert base["total_return"] == pytest.approx(untrained["total_return"], abs=1e-6)
    assert base["turnover"] > 0.0
