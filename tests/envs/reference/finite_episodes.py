"""What the tests of the problems with a fixed end check alike: the environment's contract over whole episodes."""

import jax
import jax.numpy as jnp
import numpy as np


def check_environment(problem, n_actions, n_observed, n_market, order_one=True):
    """gymnax's contract, termination without truncation, exogenous market, scales of order one."""
    env, params = problem.env, problem.params
    assert env.num_actions == n_actions
    assert problem.horizon == int(params.max_steps_in_episode)
    space = env.action_space(params)
    assert space.shape == (n_actions,)
    assert env.observation_space(params).shape == (n_observed,)
    keys = jax.random.split(jax.random.key(0), 300)
    start = jax.jit(jax.vmap(env.reset, in_axes=(0, None)))(keys, params)
    assert start[0].shape == (300, n_observed)

    def one_step(carry, step):
        _, state = carry
        action = jax.vmap(problem.optimal_action)(state)
        key = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, step)
        observation, state, reward, terminated, truncated, info = jax.vmap(env.step, in_axes=(0, 0, 0, None))(
            key, state, action, params
        )
        outputs = (info["final_observation"], action, reward, terminated, truncated, info["market"], info["discount"])
        return (observation, state), outputs

    (fresh, state), outputs = jax.jit(lambda carry: jax.lax.scan(one_step, carry, jnp.arange(problem.horizon)))(start)
    seen, action, reward, terminated, truncated, market, discount = (np.asarray(output) for output in outputs)
    assert {output.dtype for output in (seen, action, reward, market)} == {np.dtype(np.float32)}
    assert reward.shape == (problem.horizon, 300)
    assert market.shape == (problem.horizon, 300, n_market)
    assert np.all(np.isfinite(seen))
    assert np.all(env.observation_space(params).contains(seen))
    assert np.all(space.contains(action))
    assert not truncated.any()
    assert not terminated[:-1].any()
    assert terminated[-1].all()
    np.testing.assert_array_equal(discount, np.where(terminated, 0.0, 1.0))
    np.testing.assert_array_equal(fresh, start[0])
    np.testing.assert_array_equal(state.time, 0)
    if order_one:
        scale = np.sqrt(np.mean(np.concatenate([np.asarray(start[0])[None], seen[:-1]]) ** 2, axis=(0, 1)))
        assert np.all((scale > 0.25) & (scale < 2.0)), scale
        assert 0.2 < np.sqrt(np.mean(reward**2)) < 5.0

    def at_start(size):
        same = jax.vmap(lambda key, state: env.step_env(key, state, jnp.full((n_actions,), size), params))
        _, _, reward, _, info = same(jax.random.split(jax.random.key(1), 300), start[1])
        return reward, info["market"]

    rewards, markets = jax.jit(jax.vmap(at_start))(jnp.array([0.0, 0.6, 1.0, 3.0]))
    for market in markets[1:]:
        np.testing.assert_array_equal(market, markets[0])
    assert np.any(rewards[0] != rewards[1])
    np.testing.assert_array_equal(rewards[3], rewards[2])
