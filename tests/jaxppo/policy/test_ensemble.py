"""An ensemble: the mean of what several agents hold, its share, and agents that hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxppo.backtest.account import AccountRules
from jaxppo.backtest.simulate import simulate_account
from jaxppo.envs.execution.limits import no_limits
from jaxppo.envs.execution.portfolio import expected_weights, open_portfolio
from jaxppo.policy import rules
from jaxppo.policy.agent import agent, decide
from jaxppo.policy.ensemble import ensemble
from jaxppo.policy.protocol import Observed

N_BARS = 40


@pytest.fixture(scope="module")
def nets():
    """Three nets `[3, ...]`, loud enough to differ."""
    net = tiny.policy()[1]
    keys = jax.random.split(jax.random.key(3), 3)

    def louder(key):
        leaves, tree = jax.tree.flatten(net)
        own = jax.random.split(key, len(leaves))
        return jax.tree.unflatten(
            tree, [x + 0.5 * jax.random.normal(k, x.shape) for x, k in zip(leaves, own, strict=True)]
        )

    return jax.tree.map(lambda *x: jnp.stack(x), *map(louder, keys))


def net_of(nets, number):
    return jax.tree.map(lambda x: x[number], nets)


@pytest.fixture(scope="module")
def params(env):
    return env.make_params(tiny.market())


@pytest.fixture(scope="module")
def env():
    return tiny.env()


def opened(env, params):
    return open_portfolio(params.market.close[50], params.initial_cash, env.fill_rule)


def traded(policy, env, params):
    return jax.device_get(
        simulate_account(policy, AccountRules(env, 252.0), params, jnp.int32(env.first_decision), N_BARS)
    )


@pytest.mark.parametrize("decision", ["mode", "mean"])
def test_copies_of_an_agent_trade_like_the_agent(env, params, nets, decision):
    network, net = tiny.policy()[0], net_of(nets, 0)
    copies = jax.tree.map(lambda x: jnp.stack([x, x]), net)
    one = traded(agent(network, net, env, decision), env, params)
    both = traded(ensemble(network, copies, env, decision), env, params)
    assert np.abs(one.shares).max() > 0
    np.testing.assert_allclose(both.equity, one.equity, rtol=1e-6)
    np.testing.assert_allclose(both.shares, one.shares, rtol=1e-4, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("share", [pytest.param(1.0, marks=pytest.mark.slow), 0.25])
def test_weights_are_the_mean_of_targets_and_of_what_is_held(env, params, nets, share):
    network = tiny.policy()[0]
    policy = ensemble(network, nets, env, "mode", share=share)
    rng, held = np.random.default_rng(0), []
    encoded = jnp.asarray(rng.normal(size=(60, 3, env.n_assets, 2 * tiny.encoder_config().width)), jnp.float32)
    portfolio = opened(env, params).replace(shares=jnp.asarray([2000.0, -500.0]))
    tradable = params.market.tradable[50]

    def seen(portfolio):
        return env.observe_portfolio(jnp.int32(50), portfolio, tradable)

    full = portfolio.replace(shares=portfolio.shares / share)
    for x in encoded:
        targets, _ = policy.apply(policy.params, (), Observed(portfolio, (), seen(portfolio), None, x))
        each = [
            decide(network, env, net_of(nets, i), Observed(full, (), seen(full), None, x[i]), "mode") for i in range(3)
        ]
        expected = np.mean(
            [np.where(one.hold, expected_weights(portfolio), share * np.asarray(one.weights)) for one in each], axis=0
        )
        np.testing.assert_allclose(targets.weights, expected, atol=1e-6)
        np.testing.assert_array_equal(targets.hold, np.all([one.hold for one in each], axis=0))
        held.append(np.asarray([one.hold for one in each]))
    assert 0 < np.mean(held) < 1


def test_a_share_of_nothing_is_no_trade_and_closes_what_is_there(env, params, nets):
    network = tiny.policy()[0]
    none, flat = (traded(policy, env, params) for policy in (ensemble(network, nets, env, share=0.0), rules.flat()))
    for name in ("equity", "shares", "quantity", "paid", "turnover"):
        np.testing.assert_array_equal(getattr(none, name), getattr(flat, name))
    policy = ensemble(network, nets, env, share=0.0)
    portfolio = opened(env, params).replace(shares=jnp.full(env.n_assets, 10.0))
    tradable = params.market.tradable[50]
    constraint = env.constraint(no_limits(env.n_assets), jnp.int32(50), portfolio, tradable, ())
    for allowed in (None, constraint):
        seen = env.observe_portfolio(jnp.int32(50), portfolio, tradable, allowed)
        encoded = jnp.zeros((3, env.n_assets, 2 * tiny.encoder_config().width))
        targets, _ = policy.apply(policy.params, (), Observed(portfolio, (), seen, allowed, encoded))
        np.testing.assert_array_equal(targets.weights, 0.0)
        assert not targets.hold.any()


def test_a_smaller_share_is_a_smaller_account_of_the_same_kind(env, params, nets):
    network = tiny.policy()[0]
    ledgers = [
        traded(ensemble(network, net, env, "mode", share=share), env, params)
        for net in (jax.tree.map(lambda x: x[:1], nets),)
        for share in (1.0, 0.5)
    ]
    gross = [np.abs(np.asarray(ledger.weights)).sum(axis=1).mean() for ledger in ledgers]
    assert gross[1] == pytest.approx(gross[0] / 2, rel=0.1)
