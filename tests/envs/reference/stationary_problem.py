"""What the tests of the problems without end check alike: the environment's contract, and paired comparisons."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.envs.reference import simulate


def value_error(problem, key, n_paths):
    """Simulated minus exact value, and the standard error, both as a share of the exact value."""
    total = np.asarray(simulate(problem, lambda _, state: problem.optimal_action(state), key, n_paths), np.float64)
    exact = problem.optimal_value()
    return total.mean() / exact - 1.0, total.std() / np.sqrt(n_paths) / exact


def gains(problem, perturbed, settings, key, n_paths):
    """t-statistic of each perturbed policy's gain over the optimum, `[n_settings]`, on the same markets.

    Args:
      perturbed: `(state, setting) -> action`.
      settings: `[n_settings, ...]`; the first must be the optimum itself.
    """
    run = jax.vmap(lambda setting: simulate(problem, lambda _, state: perturbed(state, setting), key, n_paths))
    totals = np.asarray(run(jnp.asarray(settings, jnp.float32)), np.float64)
    difference = totals[1:] - totals[0]
    return difference.mean(axis=1) / (difference.std(axis=1) / np.sqrt(n_paths))


def check_environment(problem, n_actions, n_observed, n_market):
    """gymnax's contract, truncation without termination, exogenous market, scales of order one."""
    env, params = problem.env, problem.params
    assert env.num_actions == n_actions
    assert problem.horizon == int(params.max_steps_in_episode)
    space = env.action_space(params)
    assert space.shape == (n_actions,)
    assert env.observation_space(params).shape == (n_observed,)
    keys = jax.random.split(jax.random.key(0), 400)
    observation, state = jax.jit(jax.vmap(env.reset, in_axes=(0, None)))(keys, params)
    assert observation.shape == (400, n_observed)
    assert np.all(env.observation_space(params).contains(observation))

    def one_step(carry, step):
        observation, state = carry
        action = jax.vmap(problem.optimal_action)(state)
        key = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, step)
        observation, state, reward, terminated, truncated, info = jax.vmap(env.step, in_axes=(0, 0, 0, None))(
            key, state, action, params
        )
        outputs = (info["final_observation"], action, reward, terminated, truncated, info["market"], info["discount"])
        return (observation, state), outputs

    (observation, state), outputs = jax.jit(lambda carry: jax.lax.scan(one_step, carry, jnp.arange(problem.horizon)))(
        (observation, state)
    )
    seen, action, reward, terminated, truncated, market, discount = (np.asarray(output) for output in outputs)
    assert {output.dtype for output in (seen, action, reward, market)} == {np.dtype(np.float32)}
    assert reward.shape == (problem.horizon, 400)
    assert market.shape == (problem.horizon, 400, n_market)
    assert not terminated.any()
    assert np.all(discount == 1.0)
    assert not truncated[:-1].any()
    assert truncated[-1].all()
    assert np.all(np.asarray(state.time) == 0)
    np.testing.assert_array_equal(np.asarray(state.position), 0.0)
    late = slice(problem.horizon // 2, None)
    scale = np.sqrt(np.mean(seen[late] ** 2, axis=(0, 1)))
    assert np.all((scale > 0.5) & (scale < 2.0)), scale
    assert 0.1 < np.sqrt(np.mean(reward[late] ** 2)) < 10.0
    assert np.mean(np.abs(action).min(axis=-1) > 1.0) < 1e-3
    assert np.mean(np.abs(action)) > 0.02
    np.testing.assert_allclose(market.mean(axis=(0, 1)), 0.0, atol=0.1)

    one = jax.tree.map(lambda leaf: leaf[0], state)
    actions = jnp.broadcast_to(jnp.asarray([[0.0], [0.5], [1.0], [3.0]]), (4, n_actions))
    step_env = jax.vmap(env.step_env, in_axes=(None, None, 0, None))
    _, after, reward, _, info = step_env(jax.random.key(7), one, actions, params)
    exogenous = [info["market"], *(getattr(after, name) for name in ("signal", "factors") if hasattr(after, name))]
    for leaf in exogenous:
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[0], leaf.shape))
    np.testing.assert_allclose(after.position[3], params.position_limit, rtol=1e-6)
    np.testing.assert_array_equal(reward[3], reward[2])
