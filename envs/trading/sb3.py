"""Stable-Baselines3's view of a `TradingEnv`: many environments stepped in one compiled call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

Indices = int | Iterable[int] | None
"""Numbers of environments; None for all."""


class Sb3View(VecEnv):
    """A `VecEnv` over the Gymnasium vector view; `action_masks` is that of sb3-contrib's `MaskablePPO`.

    Args:
      view: from `to_gymnasium(..., num_envs=...)`.
    """

    def __init__(self, view: Any):
        self._view = view
        self._masks = np.zeros((view.num_envs, 0), bool)
        super().__init__(view.num_envs, view.single_observation_space, view.single_action_space)

    def reset(self) -> np.ndarray:
        """Starts an episode in every environment, with the seeds that `seed` set."""
        seeded = any(seed is not None for seed in self._seeds)
        observation, info = self._view.reset(seed=list(self._seeds) if seeded else None)
        self._reset_seeds()
        self._reset_options()
        self._masks = info["action_mask"]
        self.reset_infos = [{"action_mask": mask} for mask in self._masks]
        return observation

    def step_async(self, actions: np.ndarray) -> None:
        """Keeps the actions `[num_envs, ...]` of the next step."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Takes the step; environments that end start anew, with `terminal_observation` in their info."""
        observation, reward, terminated, truncated, info = self._view.step(self._actions)
        done = terminated | truncated
        final, _, of_final, _ = (
            info.pop(name, None) for name in ("final_obs", "_final_obs", "final_info", "_final_info")
        )
        self._masks = info["action_mask"]
        rows = [{name: values[i] for name, values in info.items()} for i in range(self.num_envs)]
        for i in np.flatnonzero(done):
            rows[i] = {name: values[i] for name, values in of_final.items()}
            rows[i]["terminal_observation"] = final[i]
            rows[i]["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
        # Stable-Baselines3 adds the value of the last state of a truncated episode to its reward, in place.
        return observation, np.array(reward), done, rows

    def action_masks(self) -> list[np.ndarray]:
        """Allowed actions of each environment, flat as `MaskablePPO` reads them."""
        return [mask.reshape(-1) for mask in self._masks]

    def close(self) -> None:
        """Nothing is open."""

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """An attribute of the environments, which share all of them."""
        found = self.action_masks if attr_name == "action_masks" else getattr(self._view, attr_name)
        return [found for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Sets an attribute of the environments, of all of them."""
        setattr(self._view, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Indices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Calls `action_masks`, the one method that environments have by themselves."""
        if method_name != "action_masks":
            raise AttributeError(f"an environment has no method {method_name}; it has action_masks")
        masks = self.action_masks()
        return [masks[i] for i in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type, indices: Indices = None) -> list[bool]:
        """None of them is."""
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """There are none."""
        return [None] * self.num_envs
