"""The Gymnasium views: accepted by Gymnasium's own checker, reproducible from a seed, faithful to the environment."""

import functools
import warnings

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from jaxppo.envs import simulators, to_gymnasium
from jaxppo.envs.execution.costs import basic_costs
from jaxppo.envs.trading.environment import TradingEnv

EPISODE = 6


@functools.cache
def environment(n_assets: int = 3, actions: str = "discrete", observation: str = "window") -> TradingEnv:
    return TradingEnv(
        n_assets=n_assets,
        actions=actions,
        levels=(-1.0, -0.5, 0.0, 0.5, 1.0),
        start="flat",
        observation=observation,
        window=3,
        groups=("price",),
        normalisation_window=10,
    )


@functools.cache
def parameters(n_assets: int = 3):
    market = simulators.gbm(jax.random.key(0), 160, n_assets)
    return environment(n_assets).make_params(market, basic_costs(commission_bps=1.0), episode_bars=EPISODE)


@functools.cache
def vector_view(num_envs: int = 4):
    return to_gymnasium(environment(), parameters(), num_envs=num_envs)


@pytest.mark.parametrize(
    ("n_assets", "actions"), [(1, "discrete"), (3, "discrete"), (3, "continuous"), (3, "band"), (3, "hierarchical")]
)
def test_the_view_passes_gymnasiums_checker(n_assets, actions):
    view = to_gymnasium(environment(n_assets, actions), parameters(n_assets))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*(?:bounds|infinity|symmetric and normalized).*")
        check_env(view, skip_render_check=True)


@pytest.mark.parametrize(
    ("n_assets", "actions", "space"),
    [
        (1, "discrete", gymnasium.spaces.Discrete(6)),
        (3, "discrete", gymnasium.spaces.MultiDiscrete([6, 6, 6])),
        (3, "continuous", gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32)),
        (3, "band", gymnasium.spaces.Box(-1.0, 1.0, (3, 2), np.float32)),
        (3, "hierarchical", gymnasium.spaces.MultiDiscrete([4, 6, 6, 6])),
    ],
)
def test_the_action_space_is_gymnasiums(n_assets, actions, space):
    assert to_gymnasium(environment(n_assets, actions), parameters(n_assets)).action_space == space


def test_an_episode_ends_at_its_final_observation_and_repeats_from_its_seed():
    view = to_gymnasium(environment(), parameters())

    def episode(seed: int) -> list:
        observation, _ = view.reset(seed=seed)
        seen, ended = [observation], False
        actions = np.random.default_rng(0)
        while not ended:
            observation, reward, terminated, truncated, info = view.step(actions.integers(0, 6, 3))
            assert type(reward) is float
            assert type(terminated) is type(truncated) is bool
            assert observation in view.observation_space
            seen.append(np.append(observation, [reward, info["equity"]]))
            ended = terminated or truncated
        assert truncated
        return seen

    first = episode(3)
    assert len(first) == EPISODE + 1
    for one, other in zip(first, episode(3), strict=True):
        np.testing.assert_array_equal(one, other)
    assert any(np.any(episode(seed)[0] != first[0]) for seed in range(4, 8))


def test_the_view_pays_what_the_environment_pays():
    env, params = environment(), parameters()
    view = to_gymnasium(env, params)
    view.reset(seed=1)
    state = view._state
    for action in ([5, 0, 2], [0, 1, 4], [3, 3, 0]):
        observation, reward, *_ = view.step(np.array(action))
        expected, state, expected_reward, *_ = env.step_env(jax.random.key(0), state, np.array(action), params)
        assert reward == pytest.approx(float(expected_reward), rel=1e-4, abs=1e-8)
        np.testing.assert_allclose(observation, expected, rtol=1e-4, atol=1e-6)


def test_the_vector_view_resets_in_the_same_step():
    view = vector_view()
    observation, _ = view.reset(seed=0)
    assert view.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert observation.shape == view.observation_space.shape == (4, *view.single_observation_space.shape)
    assert view.action_space.shape == (4, 3)
    hold = np.zeros((4, 3), int)
    for i in range(EPISODE):
        observation, reward, terminated, truncated, info = view.step(hold)
        assert (observation.shape, reward.shape, terminated.dtype) == (
            (4, view.single_observation_space.shape[0]),
            (4,),
            bool,
        )
        assert info["equity"].shape == (4,)
        assert not terminated.any()
        assert truncated.tolist() == [i == EPISODE - 1] * 4
        assert ("final_obs" in info) == (i == EPISODE - 1)
    assert info["_final_obs"].tolist() == info["_final_info"].tolist() == [True] * 4
    assert np.all(info["final_info"]["equity"] == 1e6)
    for final, fresh in zip(info["final_obs"], observation, strict=True):
        assert final.shape == fresh.shape
        assert np.any(final != fresh)
    assert np.all(view.step(hold)[3] == 0)


def test_the_copies_of_a_vector_view_differ_and_repeat_from_their_seed():
    view = vector_view()
    first, _ = view.reset(seed=5)
    assert np.any(first[0] != first[1])
    run = [view.step(np.full((4, 3), 5))[:2] for _ in range(EPISODE + 2)]
    again, _ = view.reset(seed=5)
    np.testing.assert_array_equal(first, again)
    for observation, reward in run:
        same = view.step(np.full((4, 3), 5))
        np.testing.assert_array_equal(observation, same[0])
        np.testing.assert_array_equal(reward, same[1])
    assert np.any(view.reset(seed=6)[0] != first)


def test_what_has_no_gymnasium_view_is_refused():
    with pytest.raises(ValueError, match=r"observation is 'index'; Gymnasium needs TradingEnv\(observation='window'\)"):
        to_gymnasium(environment(observation="index"), parameters())
    with pytest.raises(ValueError, match="num_envs is 0; it must be >= 1"):
        to_gymnasium(environment(), parameters(), num_envs=0)


def test_every_environment_has_its_own_seed():
    """Same seed, same episode, wherever it stands; and masks from the first observation on."""
    view = to_gymnasium(environment(), parameters(), num_envs=3)
    one, info = view.reset(seed=[1, 2, 3])
    other, _ = view.reset(seed=[1, 9, 3])
    np.testing.assert_array_equal(one[[0, 2]], other[[0, 2]])
    assert (one[1] != other[1]).any()
    same, _ = view.reset(seed=[5, 5, 5])
    np.testing.assert_array_equal(same, np.broadcast_to(same[0], same.shape))
    counted, _ = view.reset(seed=7)
    np.testing.assert_array_equal(counted, view.reset(seed=[7, 8, 9])[0])
    assert info["action_mask"].shape == (3, 3, 6)
    _, first = to_gymnasium(environment(), parameters()).reset(seed=1)
    assert first["action_mask"].shape == (3, 6)
    with pytest.raises(ValueError, match="2 seeds are given for 3 environments"):
        view.reset(seed=[1, 2])
