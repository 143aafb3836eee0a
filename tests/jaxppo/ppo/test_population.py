"""Agents that differ in hyper-parameters, as one program on several devices."""

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from jaxppo.ppo.learner import data_mesh, make_learner
from jaxppo.ppo.population import Varied, population_program, train_population

RATES, SEEDS, ITERATIONS = (0.01, 0.01, 0.03, 0.03), (3, 4, 3, 4), 3


def learner_of(values):
    config = tiny.BANDIT_PPO.model_copy(update=values)
    return make_learner(tiny.bandit_task(), config, data_mesh(jax.devices()[:1]))


def test_an_agent_of_several_rates_is_the_one_trained_alone():
    net, params = tiny.bandit_policy()[1], tiny.bandit_params()
    varied = Varied(learner_of, {"learning_rate": jnp.asarray(RATES)})
    nets, metrics, _ = train_population(varied, lambda key: net, params, SEEDS, ITERATIONS)
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(nets)} == {4}
    for place, (rate, seed) in enumerate(zip(RATES, SEEDS, strict=True)):
        learner = learner_of({"learning_rate": rate})
        state, rewards = learner.init(net, seed, params), []
        for i in range(ITERATIONS):
            state, row = learner.iterate(state, params, jnp.float32(i / ITERATIONS))
            rewards.append(row["reward"])
        np.testing.assert_allclose(metrics["reward"][place], rewards, rtol=1e-4, atol=1e-5)
        for ours, alone in zip(jax.tree.leaves(nets), jax.tree.leaves(state.params), strict=True):
            np.testing.assert_allclose(ours[place], alone, rtol=1e-3, atol=1e-5)
    assert len(np.unique(np.asarray(metrics["reward"][:, -1]))) == len(RATES)


def test_agents_are_spread_over_as_many_devices_as_divide_them():
    net, params = tiny.bandit_policy()[1], tiny.bandit_params()
    nets = jax.tree.map(lambda x: jnp.stack([x] * 3), net)
    trained, *_ = population_program(learner_of, params, 1)(nets, jnp.arange(3), {"learning_rate": jnp.full(3, 0.01)})
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(trained)} == {3}
