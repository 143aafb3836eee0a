"""Base of the reference problems, and the simulation that scores a policy on one."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from gymnax.environments import environment


class Problem(abc.ABC):
    """A decision problem whose optimal policy and value are known for the time step that is simulated.

    The criterion is `E[sum_t discount^t r_t]` over one episode that starts at `env.reset`.

    Attributes:
      env: the environment; its observation is flat, its action a box, `info["market"]` the exogenous input of the step.
      params: its parameters.
      discount: in (0, 1].
      horizon: steps of an episode.
    """

    env: environment.Environment
    params: Any
    discount: float
    horizon: int

    @abc.abstractmethod
    def optimal_action(self, state: Any) -> jax.Array:
        """Optimal action in a state of `env`, `[n_actions]` (unbatched), in the units of its action space."""

    @abc.abstractmethod
    def optimal_value(self) -> float:
        """Exact value of the criterion under `optimal_action`, rewards scaled as in the environment."""

    def percent_of_optimum(self, value: float) -> float:
        """Per cent of the optimal value that a policy of value `value` reaches; 0 is doing nothing."""
        return 100.0 * value / self.optimal_value()


def simulate(
    problem: Problem,
    policy: Callable[[jax.Array, Any], jax.Array],
    key: jax.Array,
    n_paths: int,
    tail: Callable[[Any], jax.Array] | None = None,
) -> jax.Array:
    """Simulates a policy on independent episodes.

    Policies that are compared under the same key meet the same market: the noise is a function of key, path and step.

    Args:
      problem: the problem.
      policy: `(observation, state) -> action`, unbatched, jittable.
      key: randomness of resets and steps. Consumed.
      n_paths: episodes.
      tail: terminal value of the last state, `state -> []`, where the episode does not terminate. Default: 0.

    Returns:
      `[n_paths]` discounted sums of rewards, terminal value included.
    """
    env, params = problem.env, problem.params

    def episode(key: jax.Array) -> jax.Array:
        key_reset, key_steps = jax.random.split(key)
        observation, state = env.reset_env(key_reset, params)

        def one_step(carry: Any, step: jax.Array) -> tuple[Any, None]:
            observation, state, over, total = carry
            action = policy(observation, state)
            key_step = jax.random.fold_in(key_steps, step)
            observation, state, reward, terminated, _ = env.step_env(key_step, state, action, params)
            total = total + jnp.where(over, 0.0, problem.discount**step * reward)
            return (observation, state, over | terminated, total), None

        start = (observation, state, jnp.zeros((), bool), jnp.zeros(()))
        (_, last, over, total), _ = jax.lax.scan(one_step, start, jnp.arange(problem.horizon))
        if tail is None:
            return total
        return total + jnp.where(over, 0.0, problem.discount**problem.horizon * tail(last))

    return jax.jit(jax.vmap(episode))(jax.random.split(key, n_paths))
