"""Base of the environments with a flat observation, and the utility that some of them pay."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from gymnax.environments import environment, spaces

Params = TypeVar("Params")

LARGEST_EXPONENT = 80.0
BOX_DEVIATIONS = 4.0
"""Standard deviations of the optimal position that the action box holds."""


class ReferenceEnv(environment.Environment):
    """An environment of a fixed number of steps, with a flat observation and a box of actions up to 1.

    A subclass implements `_start`, `_transition` and `_observation` for its own state and parameters. States have
    `time`, steps since reset; parameters have `max_steps_in_episode` and `reward_scale`.

    Attributes:
      n_inputs: length of the observation.
      n_actions: length of the action.
      terminates: whether the last step terminates the episode; False: it truncates it, and nothing ever terminates.
      lowest_action: lower end of the action box.

    Args:
      parameters: default parameters.
    """

    n_inputs: int
    n_actions: int = 1
    terminates: bool = True
    lowest_action: float = -1.0

    def __init__(self, parameters: Any):
        super().__init__()
        self._parameters = parameters

    @abc.abstractmethod
    def _start(self, key: jax.Array, params: Any) -> Any:
        """Draws the first state of an episode. Consumes `key`."""

    @abc.abstractmethod
    def _transition(self, key: jax.Array, state: Any, action: jax.Array, params: Any) -> tuple[Any, jax.Array, Any]:
        """Takes one step: the next state, the unscaled reward, and the exogenous input `[m]`. Consumes `key`."""

    @abc.abstractmethod
    def _observation(self, state: Any, params: Any) -> jax.Array:
        """Observation `[n_inputs]` of a state, of order one."""

    def reset_env(self, key: jax.Array, params: Any) -> tuple[jax.Array, Any]:
        """Starts an episode.

        Args:
          key: consumed.
          params: parameters of the environment.

        Returns:
          Observation `[n_inputs]` and state.
        """
        state = self._start(key, params)
        return self._observation(state, params), state

    def step_env(
        self, key: jax.Array, state: Any, action: jax.Array, params: Any
    ) -> tuple[jax.Array, Any, jax.Array, jax.Array, dict[str, Any]]:
        """Takes one step, without reset.

        Args:
          key: consumed.
          state: before the step.
          action: `[n_actions]`, clipped to the box.
          params: parameters of the environment.

        Returns:
          Observation `[n_inputs]`, state, reward `[]`, terminated `[]` bool, and `discount` and `market` (the exogenous
          input of the step, `[m]`) by name.
        """
        state, reward, market = self._transition(key, state, action, params)
        terminated = self.is_terminated(state, params)
        info = {"discount": jnp.where(terminated, 0.0, 1.0), "market": market}
        return self._observation(state, params), state, params.reward_scale * reward, terminated, info

    def observe(self, key: jax.Array, state: Any, action: Any, params: Any) -> jax.Array:
        """Observes a state, `[n_inputs]`.

        Args:
          key: unused.
          state: to observe.
          action: unused.
          params: parameters of the environment.
        """
        del key, action
        return self._observation(state, params)

    def _remaining(self, state: Any, params: Any) -> jax.Array:
        """Share of the episode that remains, `[]`."""
        return (params.max_steps_in_episode - state.time) / params.max_steps_in_episode

    def is_terminated(self, state: Any, params: Any) -> jax.Array:
        """Whether the problem has ended, `[]` bool.

        Args:
          state: after a step.
          params: parameters of the environment.
        """
        return (state.time >= params.max_steps_in_episode) & self.terminates

    def is_truncated(self, state: Any, params: Any) -> jax.Array:
        """Whether the episode is cut while the problem goes on, `[]` bool.

        Args:
          state: after a step.
          params: parameters of the environment.
        """
        return (state.time >= params.max_steps_in_episode) & (not self.terminates)

    @property
    def default_params(self) -> Any:
        """The parameters that the problem was built with."""
        return self._parameters

    @property
    def num_actions(self) -> int:
        """Dimension of the action."""
        return self.n_actions

    def action_space(self, params: Any = None) -> spaces.Box:
        """Box of actions, the same for all parameters."""
        del params
        return spaces.Box(self.lowest_action, 1.0, (self.n_actions,), jnp.float32)

    def observation_space(self, params: Any = None) -> spaces.Box:
        """Unbounded box of observations, the same for all parameters."""
        del params
        return spaces.Box(-jnp.inf, jnp.inf, (self.n_inputs,), jnp.float32)


def make_params(kind: Callable[..., Params], n_steps: int, **fields: Any) -> Params:
    """Builds the parameters of an environment, traced arrays.

    Args:
      kind: class of the parameters.
      n_steps: steps of an episode, for `max_steps_in_episode`.
      **fields: all other fields: JAX arrays as they are, numbers and NumPy arrays stored in float32.
    """
    for name, value in fields.items():
        fields[name] = value if isinstance(value, jax.Array) else jnp.asarray(value, jnp.float32)
    return kind(max_steps_in_episode=jnp.asarray(n_steps, jnp.int32), **fields)


def utility_increment(before: jax.Array, gain: jax.Array, power: jax.Array) -> jax.Array:
    """Increment `u(x + gain) - u(x)` of the utility `u(x) = (e^(power x) - 1) / power`, the identity for power 0.

    The utility of constant relative risk aversion `1 - power` where x is the logarithm of wealth, of constant absolute
    risk aversion `-power` where x is wealth.

    Args:
      before: x, any shape.
      gain: change of x.
      power: of the utility.
    """
    safe = jnp.where(power == 0.0, 1.0, power)
    # The exponent is capped, so that a ruinous policy loses a finite float32 utility.
    now = jnp.minimum(safe * before, LARGEST_EXPONENT)
    after = jnp.minimum(safe * (before + gain), LARGEST_EXPONENT)
    return jnp.where(power == 0.0, gain, jnp.exp(now) * jnp.expm1(after - now) / safe)
