"""What the environments with a flat observation share, and the utility that some of them pay."""

from __future__ import annotations

import abc
from typing import Any

import jax
import jax.numpy as jnp
from gymnax.environments import environment, spaces

LARGEST_EXPONENT = 80.0


class ReferenceEnv(environment.Environment):
    """An environment of a fixed number of steps, a flat observation and a box of actions.

    Args:
      parameters: default parameters; they have `max_steps_in_episode` and `reward_scale`.
      n_inputs: length of the observation.
      n_actions: length of the action.
      ends: whether the last step terminates the episode; False: it truncates it, and nothing ever terminates.
      lowest: smallest action; the largest is 1.
    """

    def __init__(self, parameters: Any, *, n_inputs: int, n_actions: int = 1, ends: bool, lowest: float = -1.0):
        super().__init__()
        self._default, self._n_inputs, self._n_actions, self._ends = parameters, n_inputs, n_actions, ends
        self._lowest = lowest

    @abc.abstractmethod
    def see(self, state: Any, params: Any) -> jax.Array:
        """Observation `[n_inputs]` of a state, of order one."""

    def outcome(
        self, state: Any, reward: jax.Array, market: jax.Array, params: Any
    ) -> tuple[jax.Array, Any, jax.Array, jax.Array, dict[str, Any]]:
        """What `step_env` returns for a new state, a reward before its scale and the exogenous input of the step."""
        terminated = self.is_terminated(state, params)
        info = {"discount": jnp.where(terminated, 0.0, 1.0), "market": market}
        return self.see(state, params), state, params.reward_scale * reward, terminated, info

    @property
    def default_params(self) -> Any:
        """The parameters that the problem was built with."""
        return self._default

    @property
    def num_actions(self) -> int:
        """Dimension of the action."""
        return self._n_actions

    def is_terminated(self, state: Any, params: Any) -> jax.Array:
        """Whether the problem has ended."""
        return (state.time >= params.max_steps_in_episode) & self._ends

    def is_truncated(self, state: Any, params: Any) -> jax.Array:
        """Whether the episode is cut while the problem goes on."""
        return (state.time >= params.max_steps_in_episode) & (not self._ends)

    def observe(self, key: jax.Array, state: Any, action: Any, params: Any) -> jax.Array:
        """Observation of a state."""
        del key, action
        return self.see(state, params)

    def action_space(self, params: Any = None) -> spaces.Box:
        """The same for all parameters."""
        del params
        return spaces.Box(self._lowest, 1.0, (self._n_actions,), jnp.float32)

    def observation_space(self, params: Any = None) -> spaces.Box:
        """Unbounded, of order one."""
        del params
        return spaces.Box(-jnp.inf, jnp.inf, (self._n_inputs,), jnp.float32)


def utility_increment(before: jax.Array, gain: jax.Array, power: jax.Array) -> jax.Array:
    """`u(x + gain) - u(x)` of `u(x) = (e^(power x) - 1) / power`, the identity for power 0, any shape.

    The utility of constant relative risk aversion `1 - power` where x is the logarithm of wealth, of constant absolute
    risk aversion `-power` where x is wealth. The exponent is capped at 80, so that a ruinous policy loses a finite
    float32 utility.
    """
    safe = jnp.where(power == 0.0, 1.0, power)
    now = jnp.minimum(safe * before, LARGEST_EXPONENT)
    after = jnp.minimum(safe * (before + gain), LARGEST_EXPONENT)
    return jnp.where(power == 0.0, gain, jnp.exp(now) * jnp.expm1(after - now) / safe)
