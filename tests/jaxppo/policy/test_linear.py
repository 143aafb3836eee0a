"""The linear policy: its formula, its start, and one bar at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxppo.policy.networks import ActionConfig, Bars, make_actor_critic

ACTION = ActionConfig("continuous", 1, -1.0, 1.0)


def bars(n_bars=6, n_assets=2):
    n_features = sum(tiny.encoder_config().groups)
    features = np.random.default_rng(0).normal(size=(1, n_bars, n_assets, n_features)).astype(np.float32)
    features[0, 1, 0, 2] = np.nan
    return Bars(jnp.asarray(features), jnp.ones((1, n_bars, n_assets), bool), jnp.full((1, n_bars), 86_400.0))


def observation(n_bars=6):
    seen = tiny.observation(1, 1, n_bars)
    whole = jnp.broadcast_to(jnp.asarray([-1.0, 1.0]), (*seen.asset.shape[:-1], 2))
    return seen.replace(mask=whole)


def test_the_untrained_policy_takes_no_position():
    network, params = make_actor_critic(tiny.encoder_config(kind="linear"), ACTION, jax.random.key(0))
    distribution, _ = network.act(params, network.encode(params, bars()), observation())
    np.testing.assert_array_equal(distribution.squash(distribution.mode()), 0.0)


def test_targets_are_linear_in_features_and_position_with_the_same_weights_for_every_asset():
    network, params = make_actor_critic(tiny.encoder_config(kind="linear"), ACTION, jax.random.key(0))
    rng = np.random.default_rng(3)
    n_inputs = params["head"]["actor"]["kernel"].shape[0]
    kernel, bias = rng.normal(size=n_inputs), 0.3
    params["head"]["actor"] = {"kernel": jnp.asarray(kernel[:, None], jnp.float32), "bias": jnp.asarray([bias])}
    seen = observation()
    distribution, _ = network.act(params, network.encode(params, bars()), seen)
    features = np.nan_to_num(np.asarray(bars().features))[0]
    for t, a in np.ndindex(*features.shape[:2]):
        own = np.concatenate([features[t, a], np.asarray(seen.asset)[0, t, a], np.asarray(seen.account)[0, t]])
        assert float(distribution.mode()[0, t, a]) == pytest.approx(float(own @ kernel + bias), rel=1e-4)


def test_one_bar_at_a_time_has_the_same_memory():
    network, params = make_actor_critic(tiny.encoder_config(kind="linear"), ACTION, jax.random.key(0))
    whole, cache = network.encode(params, bars()), network.start(params, 1, 2)
    for t in range(6):
        one = jax.tree.map(lambda x, t=t: x[:, t : t + 1], bars())
        cache, memory = network.step(params, cache, one)
        np.testing.assert_array_equal(memory, whole[:, t])
