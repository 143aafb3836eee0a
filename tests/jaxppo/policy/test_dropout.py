"""Dropout: one mask per path and iteration, the same in rollout and update, scheduled, off outside training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxppo.policy.encoding import encode_paths
from jaxppo.policy.networks.dropout import draw_masks, drop
from jaxppo.ppo.learner import data_mesh, make_learner
from jaxppo.ppo.trading_task import trading_task

ONE_STEP = tiny.PPO.model_copy(update={"epochs": 1, "minibatches": 1, "clip": None, "micro_batch": 4})


def falling(progress: jax.Array) -> jax.Array:
    return 0.6 * (1.0 - progress)


@functools.cache
def task(config=ONE_STEP):
    return trading_task(tiny.policy()[0], tiny.env(), config, falling)


@functools.cache
def collected(progress: float, iteration: int = 0):
    """States and rollout of the next chunk of fresh paths."""
    net, params = tiny.policy()[1], tiny.shared_params()
    key_start, key_act = jax.random.split(jax.random.key(iteration))
    states = jax.jit(task().start)(params, jax.random.split(key_start, ONE_STEP.paths))
    keys = jax.random.split(key_act, ONE_STEP.paths)
    return jax.jit(task().collect)(net, params, states, keys, jnp.float32(progress))[1]


def masks(rate: float, n_paths: int = 400, width: int = 50) -> jax.Array:
    keys = jax.random.split(jax.random.key(0), n_paths)
    return jax.vmap(lambda key: draw_masks(key, jnp.float32(rate), 2, width))(keys)


def test_units_are_dropped_at_the_rate_and_the_rest_is_scaled_up():
    found = np.asarray(drop(jnp.ones((400, 3, 7, 50)), masks(0.3), 1))
    assert set(np.round(np.unique(found), 5)) == {0.0, np.float32(1 / 0.7).round(5)}
    deviation = np.sqrt(0.3 * 0.7 / (400 * 50))
    assert abs((found[:, 0, 0] == 0).mean() - 0.3) < 4 * deviation
    np.testing.assert_array_equal(found, np.broadcast_to(found[:, :1, :1], found.shape))
    assert (found[0] != found[1]).any()
    np.testing.assert_array_equal(masks(0.0), 1.0)


def test_places_have_masks_of_their_own_and_none_drops_nothing():
    x = jnp.ones((400, 50))
    assert (drop(x, masks(0.5), 0) != drop(x, masks(0.5), 1)).mean() > 0.4
    np.testing.assert_array_equal(drop(x, None, 0), x)


def test_the_importance_ratio_is_one_before_the_first_step():
    """The update looks at other chunk lengths and paths at a time than the rollout did."""
    rollout = collected(0.0)
    net, params = tiny.policy()[1], tiny.shared_params()
    distribution, value = jax.jit(task().predict)(net, params, rollout)
    np.testing.assert_allclose(distribution.log_prob(rollout.action), rollout.log_prob, atol=2e-6)
    np.testing.assert_allclose(value, rollout.value, atol=2e-6)
    other = rollout.replace(inputs=rollout.inputs.replace(masks=None))
    plain, _ = jax.jit(task().predict)(net, params, other)
    assert np.abs(np.asarray(plain.log_prob(rollout.action) - rollout.log_prob)).max() > 1e-4


@pytest.mark.slow
def test_a_whole_iteration_reports_a_ratio_of_one():
    learner = make_learner(task(), ONE_STEP, data_mesh(jax.devices()[:1]))
    params = learner.replicate(tiny.shared_params())
    state, first = learner.iterate(learner.init(tiny.policy()[1], 0, params), params, jnp.float32(0))
    _, second = learner.iterate(state, params, jnp.float32(0.5))
    for metrics in (first, second):
        assert abs(float(metrics["ratio_max"]) - 1) < 1e-5
        assert abs(float(metrics["ratio_min"]) - 1) < 1e-5
        assert abs(float(metrics["kl"])) < 1e-6


def test_masks_are_drawn_anew_every_iteration_and_follow_the_schedule():
    first, again, late = (np.asarray(collected(*x).inputs.masks) for x in ((0.0, 0), (0.0, 1), (0.5, 0)))
    assert first.shape == (ONE_STEP.paths, 4, 8)
    assert abs((first == 0).mean() - 0.6) < 0.1
    assert abs((late == 0).mean() - 0.3) < 0.1
    assert (first != again).mean() > 0.3
    assert len(np.unique(first.reshape(ONE_STEP.paths, -1), axis=0)) == ONE_STEP.paths


def test_the_mean_over_masks_is_near_the_memory_without_them():
    """Inverted scaling: at a small rate the average over many masks is the plain memory, to first order."""
    (policy, net), params = tiny.policy(), tiny.shared_params()
    bars, keys = jnp.full(3000, 100), jax.random.split(jax.random.key(1), 3000)
    drawn = jax.vmap(policy.draw_masks, in_axes=(0, None))(keys, jnp.float32(0.02))
    encode = jax.jit(lambda bars, masks: encode_paths(policy, net, params, bars, 1, None, masks))
    dropped, plain = np.asarray(encode(bars, drawn)), np.asarray(encode(bars[:1], None))
    spread = dropped.std(axis=0)
    assert spread.mean() > 0.02
    assert np.abs(dropped.mean(axis=0) - plain[0]).mean() < 0.25 * spread.mean()
