"""Hyper-parameters as arguments of a program: each is read, and gives what a configuration with the number gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import prices, tiny_config

from jaxppo import envs
from jaxppo.config.sweep import TRACED
from jaxppo.ppo.learner import data_mesh, make_learner
from jaxppo.ppo.trading_task import trading_task
from jaxppo.run.build import build
from jaxppo.run.objectives import make_reward_shaping
from jaxppo.run.setup import dropout_rate, first_policy
from jaxppo.sweep import member_config
from jaxppo.training.hyperparameters import learner_with

CONFIG = {
    "rewards": [{kind: {"weight": 0.1}} for kind in ("drawdown_penalty", "cvar_penalty", "turnover_penalty")]
    + [{"holding_penalty": {"weight": 0.1}}],
    "ppo": {
        "kl_penalty": "doubling", "kl_target": 1e-3, "kl_stop": 1.0, "target_lambda": 0.9, "clip": 0.02,
        "entropy_schedule": "linear", "entropy_final": 0.001, "epochs": 2,
    },
    "policy": {"dropout": 0.1},
}  # fmt: skip
OTHERS = {
    "ppo.learning_rate": 0.003, "ppo.gamma": 0.9, "ppo.gae_lambda": 0.8, "ppo.target_lambda": 0.7, "ppo.clip": 0.01,
    "ppo.entropy_coefficient": 0.05, "ppo.entropy_final": 0.02, "ppo.value_coefficient": 0.8, "ppo.max_grad_norm": 0.1,
    "ppo.reward_scale": 10.0, "ppo.kl_target": 1e-6, "ppo.kl_stop": 1e-8, "policy.dropout": 0.3,
    **{f"rewards.{kind}.weight": 0.5 for kind in ("drawdown_penalty", "cvar_penalty", "turnover_penalty")},
    "rewards.holding_penalty.weight": 0.5,
}  # fmt: skip
DEVICE = jax.devices()[0]


@pytest.fixture(scope="module")
def setup():
    return build(tiny_config(**CONFIG), envs.load_market(prices()))


@pytest.fixture(scope="module")
def iterate(setup):
    """`values -> (state, metrics)` of one iteration from the same start: one program for all values."""
    network, net = first_policy(setup)
    params = setup.period_params("train")
    state = learner_with(setup, network, {}, DEVICE).fresh(net, 7, params)
    step = jax.jit(lambda values: learner_with(setup, network, values, DEVICE).step(state, params, jnp.float32(0.5)))
    given = {key: _value(setup.config, key) for key in TRACED}

    def run(changes):
        return step({key: jnp.float32(value) for key, value in {**given, **changes}.items()})

    return run


def _value(config, key):
    section, *path = key.split(".")
    if section == "rewards":
        return next(item.values.weight for item in config.rewards if item.kind == path[0])
    return getattr(getattr(config, section), path[0])


def test_the_numbers_of_a_configuration_as_arguments_give_its_iteration(setup, iterate):
    values = {**OTHERS, "ppo.kl_stop": 0.5}  # the other one would end the iteration after a minibatch
    config = member_config(setup.config, values, setup.config.seed)
    alone = build(config, setup.market)
    network, net = first_policy(alone)
    task = trading_task(network, alone.env, alone.ppo, dropout_rate(config), alone.monitor)
    learner = make_learner(task, alone.ppo, data_mesh([DEVICE]), make_reward_shaping(config, alone.periods_per_year))
    state = learner.init(net, 7, alone.period_params("train"))
    state, metrics = learner.iterate(state, alone.period_params("train"), jnp.float32(0.5))
    ours, figures = iterate(values)
    assert set(figures) == set(metrics)
    for name, value in metrics.items():
        assert float(figures[name]) == pytest.approx(float(value), rel=1e-3, abs=1e-5), name
    for mine, its in zip(jax.tree.leaves(ours.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_allclose(mine, its, atol=1e-5)


def test_every_key_that_can_be_swept_is_read(iterate):
    assert set(OTHERS) == set(TRACED)
    before, _ = iterate({})
    for key, value in OTHERS.items():
        after, _ = iterate({key: value})
        assert _differs(_learned(before), _learned(after)), key


def _learned(state):
    return state.params, state.kl_coefficient


def _differs(one, other):
    return any(not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


@pytest.mark.slow
def test_what_is_swept_leaves_the_setup_as_it_is(setup, iterate):
    rewards = setup.env.rewards
    iterate(OTHERS)
    assert setup.env.rewards is rewards
