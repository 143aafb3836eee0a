"""Other people's PPO trains on it: rejax by gymnax's legacy wrapper, stable-baselines3 by the Gymnasium view."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.wrappers.compat import LegacyStepAPIWrapper

from jaxppo.envs import EnvParams, TradingEnv, basic_costs, simulators, to_gymnasium, to_sb3

EPISODE = 32
ABSENT = "the bench extra is not installed: pip install 'jaxppo[bench]'"


class CopyableLegacyWrapper(LegacyStepAPIWrapper):
    """rejax copies its configuration, and copying gymnax 1.0.1's wrapper recurses without end; it never changes."""

    def __deepcopy__(self, memo):
        return self


def rising_market() -> tuple[TradingEnv, EnvParams]:
    """One asset that gains about 1 % a bar: whoever learns anything learns to hold it."""
    env = TradingEnv(window=2, groups=("price",), normalisation_window=10, levels=(-1.0, 0.0, 1.0))
    market = simulators.gbm(jax.random.key(0), 400, drift=math.log(1.01), volatility=0.002)
    return env, env.make_params(market, basic_costs(), episode_bars=EPISODE)


def test_rejax_trains_through_gymnaxs_legacy_wrapper():
    rejax = pytest.importorskip("rejax", reason=ABSENT)
    env, params = rising_market()
    steps = 8192
    ppo = rejax.PPO.create(
        env=CopyableLegacyWrapper(env),
        env_params=params,
        total_timesteps=steps,
        eval_freq=steps,
        num_envs=16,
        num_steps=32,
        num_epochs=4,
        num_minibatches=4,
        learning_rate=3e-3,
        max_grad_norm=0.5,
    )
    with jax.debug_key_reuse(False):  # rejax evaluates with a key that it splits again
        state, (lengths, returns) = jax.jit(ppo.train)(jax.random.key(0))
    assert int(state.global_step) == steps
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(state.actor_ts.params))
    before, after = np.asarray(returns).mean(axis=1)
    assert np.all(np.asarray(lengths)[-1] <= EPISODE)
    assert after > max(before, 0.8 * EPISODE * math.log(1.01))


def test_stable_baselines3_trains_on_many_environments_at_once():
    stable_baselines3 = pytest.importorskip("stable_baselines3", reason=ABSENT)
    env, params = rising_market()
    view = to_sb3(env, params, num_envs=8)
    view.seed(3)
    first = view.reset()
    masks = view.env_method("action_masks")
    assert len(masks) == 8
    assert view.has_attr("action_masks")
    np.testing.assert_array_equal(np.stack(masks), [info["action_mask"].reshape(-1) for info in view.reset_infos])
    view.seed(3)
    np.testing.assert_array_equal(view.reset(), first)
    for _ in range(EPISODE):
        _, _, done, infos = view.step(np.zeros((8, *view.action_space.shape), int))
    assert done.all()
    assert all(info["TimeLimit.truncated"] for info in infos)
    assert infos[0]["terminal_observation"].shape == view.observation_space.shape
    agent = stable_baselines3.PPO(
        "MlpPolicy", view, n_steps=64, batch_size=128, learning_rate=3e-3, gamma=0.9, seed=0, device="cpu"
    )
    agent.learn(4096)
    assert agent.num_timesteps == 4096
    mean, _ = stable_baselines3.common.evaluation.evaluate_policy(agent, view)
    assert mean > 0.8 * EPISODE * math.log(1.01)


def test_stable_baselines3_trains_on_the_gymnasium_view():
    stable_baselines3 = pytest.importorskip("stable_baselines3", reason=ABSENT)
    env, params = rising_market()
    view = to_gymnasium(env, params)
    agent = stable_baselines3.PPO(
        "MlpPolicy", view, n_steps=512, batch_size=128, learning_rate=3e-3, gamma=0.9, seed=0, device="cpu"
    )
    agent.learn(4096)
    assert agent.num_timesteps == 4096
    observation, _ = view.reset(seed=1)
    total, ended = 0.0, False
    while not ended:
        action, _ = agent.predict(observation, deterministic=True)
        observation, reward, terminated, truncated, _ = view.step(action)
        total += reward
        ended = terminated or truncated
    assert total > 0.8 * EPISODE * math.log(1.01)
