"""Gymnasium views of a `TradingEnv`, so that Stable-Baselines3 and others can train on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import jax
import numpy as np
from gymnasium import spaces as gym_spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from gymnax.environments import spaces

from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.spaces import MultiDiscrete
from jaxppo.envs.trading.types import EnvParams


def to_gymnasium(
    env: TradingEnv, params: EnvParams | None = None, *, num_envs: int | None = None
) -> gymnasium.Env | VectorEnv:
    """A Gymnasium environment that steps the compiled one.

    Args:
      env: with `observation="window"`.
      params: market, costs, period; default: `env.default_params`.
      num_envs: None for a `gymnasium.Env`; a number for a `gymnasium.vector.VectorEnv` of that many copies (same-step
        automatic reset, `final_obs` and `final_info` in the info).

    Raises:
      ValueError: the environment's observations are not arrays, or `num_envs` < 1.
    """
    if env.observation != "window":
        raise ValueError(f"observation is {env.observation!r}; Gymnasium needs TradingEnv(observation='window')")
    if num_envs is not None and num_envs < 1:
        raise ValueError(f"num_envs is {num_envs}; it must be >= 1")
    params = env.default_params if params is None else params
    return _SingleView(env, params) if num_envs is None else _VectorView(env, params, num_envs)


def to_sb3(env: TradingEnv, params: EnvParams | None = None, *, num_envs: int = 8) -> Any:
    """A `VecEnv` of Stable-Baselines3 that steps the compiled environments in one call.

    `MaskablePPO` of sb3-contrib finds the action masks.

    Args:
      env: with `observation="window"`.
      params: market, costs, period; default: `env.default_params`.
      num_envs: environments, >= 1.

    Raises:
      ImportError: Stable-Baselines3 is not installed.
      ValueError: the environment's observations are not arrays, or `num_envs` < 1.
    """
    view = to_gymnasium(env, params, num_envs=num_envs)
    try:
        from jaxppo.envs.trading.sb3 import Sb3View
    except ModuleNotFoundError as error:
        raise ImportError("to_sb3 needs Stable-Baselines3: pip install stable-baselines3") from error
    return Sb3View(view)


def _space(space: spaces.Space) -> gym_spaces.Space:
    """The Gymnasium space of one of `TradingEnv`'s."""
    if isinstance(space, MultiDiscrete):
        return gym_spaces.MultiDiscrete(list(space.categories))
    if isinstance(space, spaces.Discrete):
        return gym_spaces.Discrete(space.n)
    return gym_spaces.Box(float(space.low), float(space.high), space.shape, np.float32)


class _SingleView(gymnasium.Env):
    """One environment; episodes end at their final observation, the caller resets."""

    render_mode = None

    def __init__(self, env: TradingEnv, params: EnvParams):
        self.metadata = {"render_modes": []}
        self.action_space = _space(env.action_space(params))
        self.observation_space = _space(env.observation_space(params))
        self._params = params

        def reset(key: jax.Array, params: EnvParams) -> tuple[Any, ...]:
            observation, state = env.reset_env(key, params)
            return observation, state, env.action_mask_of(state, params)

        self._reset = jax.jit(reset)

        def step(key: jax.Array, state: Any, action: jax.Array, params: EnvParams) -> tuple[Any, ...]:
            observation, state, reward, terminated, info = env.step_env(key, state, action, params)
            return observation, state, reward, terminated, env.is_truncated(state, params), info

        self._step = jax.jit(step)
        self._state = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Starts an episode at a random bar of the period.

        Args:
          seed: of all episodes from here on; None goes on with the present one.
          options: not used; part of Gymnasium's interface.
        """
        super().reset(seed=seed)
        self._key = jax.random.key(int(self.np_random.integers(2**31)))
        observation, self._state, mask = self._reset(self._key, self._params)
        return np.asarray(observation), {"action_mask": np.asarray(mask)}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One decision and one bar."""
        observation, self._state, reward, terminated, truncated, info = self._step(
            self._key, self._state, np.asarray(action), self._params
        )
        info = {name: np.asarray(value) for name, value in info.items()}
        return np.asarray(observation), float(reward), bool(terminated), bool(truncated), info


class _VectorView(VectorEnv):
    """`num_envs` environments stepped in one compiled call."""

    def __init__(self, env: TradingEnv, params: EnvParams, num_envs: int):
        self.num_envs = num_envs
        self.metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_action_space = _space(env.action_space(params))
        self.single_observation_space = _space(env.observation_space(params))
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._params = params

        def reset(key: jax.Array, params: EnvParams) -> tuple[Any, ...]:
            observation, state = env.reset(key, params)
            return observation, state, env.action_mask_of(state, params)

        self._reset = jax.jit(jax.vmap(reset, in_axes=(0, None)))
        self._step = jax.jit(jax.vmap(env.step, in_axes=(0, 0, 0, None)))
        self._states = None
        self._count = 0

    def _next_keys(self) -> jax.Array:
        self._count += 1
        return jax.vmap(jax.random.fold_in, in_axes=(0, None))(self._keys, self._count)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        """Starts an episode in every environment.

        Args:
          seed: one per environment, of all its episodes from here on; one number s for s, s + 1, ... None, also for
            single environments, goes on with what is random already.
          options: not used; part of Gymnasium's interface.

        Raises:
          ValueError: another number of seeds than environments.
        """
        super().reset(seed=seed if isinstance(seed, int) else None)
        drawn = self.np_random.integers(2**31, size=self.num_envs).tolist()
        seeds: Sequence[int | None] = [None] * self.num_envs
        if isinstance(seed, (int, np.integer)):
            seeds = range(int(seed), int(seed) + self.num_envs)
        elif seed is not None:
            seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"{len(seeds)} seeds are given for {self.num_envs} environments")
        chosen = [new if given is None else int(given) for given, new in zip(seeds, drawn, strict=True)]
        self._keys = jax.vmap(jax.random.key)(np.asarray(chosen, np.uint32))
        self._count = 0
        observation, self._states, mask = self._reset(self._next_keys(), self._params)
        return np.asarray(observation), {"action_mask": np.asarray(mask)}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One decision and one bar in every environment; those that end are reset in the same step."""
        observation, self._states, reward, terminated, truncated, info = self._step(
            self._next_keys(), self._states, np.asarray(actions), self._params
        )
        info = {name: np.asarray(value) for name, value in info.items()}
        terminated, truncated = info.pop("terminated"), info.pop("truncated")
        final, final_mask = info.pop("final_observation"), info.pop("final_action_mask")
        done = terminated | truncated
        if done.any():
            boxed = np.empty(self.num_envs, dtype=object)
            boxed[:] = [row if ended else None for row, ended in zip(final, done, strict=True)]
            ended_info = {**info, "action_mask": final_mask}
            info |= {"final_obs": boxed, "_final_obs": done, "final_info": ended_info, "_final_info": done}
        return np.asarray(observation), np.asarray(reward), terminated, truncated, info
