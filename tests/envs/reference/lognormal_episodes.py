"""Episodes of a `LognormalProblem`, each on a market of its own that several policies share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.envs.reference.lognormal import LognormalProblem


class Episodes(NamedTuple):
    """Outcomes `[n_policies, n_paths]`, float64.

    Attributes:
      total: discounted sum of rewards.
      start: tail value of the first state.
      tail: discounted tail value of the last state.
      luck: `[n_policies, n_paths, 2]` discounted sums of the profits of the positions, less their mean, and of the
        squares of these, less theirs: their means are exactly 0.
      terminated: the episode ended early.
    """

    total: np.ndarray
    start: np.ndarray
    tail: np.ndarray
    luck: np.ndarray
    terminated: np.ndarray


def run(
    problem: LognormalProblem, policy: Callable[[Any, jax.Array], jax.Array], variants: Any, seed: int, n_paths: int
) -> Episodes:
    """Runs the policies `state -> policy(state, variant)`, one for each row of `variants`."""
    variants = jnp.asarray(variants, jnp.float32)
    drift, deviation = problem.drift * problem.dt, problem.deviation
    expected = jnp.asarray(np.expm1(drift), jnp.float32)
    moment = np.expm1(problem.correlation * np.outer(deviation, deviation))
    covariance = jnp.asarray(np.exp(np.add.outer(drift, drift)) * moment, jnp.float32)

    def path(key: jax.Array) -> Episodes:
        key_market, key_reset = jax.random.split(key)
        params = problem.params_for(problem.market(key_market))
        _, start = problem.env.reset_env(key_reset, params)

        def episode(variant: jax.Array) -> Episodes:
            def bar(carry: Any, step: jax.Array) -> tuple[Any, None]:
                state, alive, total, luck = carry
                _, after, reward, terminated, _ = problem.env.step_env(None, state, policy(state, variant), params)
                simple = params.market.close[after.bar] / params.market.close[state.bar] - 1.0
                position = after.portfolio.shares * state.portfolio.price / state.portfolio.equity
                weight = jnp.where(alive, problem.discount**step, 0.0)
                profit = position @ (simple - expected)
                surprise = jnp.stack([profit, profit**2 - position @ covariance @ position])
                luck = luck + weight * surprise
                return (after, alive & ~terminated, total + weight * reward, luck), None

            first = (start, jnp.asarray(True), jnp.zeros(()), jnp.zeros(2))
            (last, alive, total, luck), _ = jax.lax.scan(bar, first, jnp.arange(problem.horizon))
            tail = problem.discount**problem.horizon * problem.tail_value(last)
            return Episodes(total, problem.tail_value(start), tail, luck, ~alive)

        return jax.vmap(episode)(variants)

    keys = jax.random.split(jax.random.key(seed), n_paths)
    outcomes = jax.jit(jax.vmap(path))(keys)
    return Episodes(*(np.swapaxes(np.asarray(outcome, np.float64), 0, 1) for outcome in outcomes))


def estimate(sample: np.ndarray, luck: np.ndarray) -> tuple[float, float]:
    """Mean of a sample `[n]` and its standard error, with luck `[n, 2]` of mean 0 as control variates."""
    scale = luck.std(axis=0) + 1e-30
    slope = np.linalg.lstsq((luck - luck.mean(axis=0)) / scale, sample - sample.mean())[0]
    residual = sample - luck / scale @ slope
    return float(residual.mean()), float(residual.std() / np.sqrt(len(sample)))


def differences(episodes: Episodes) -> list[tuple[float, float]]:
    """Mean and standard error of each policy's value, tail included, less that of policy 0 in the same markets."""
    value = episodes.total + episodes.tail
    return [estimate(value[i] - value[0], episodes.luck[i] - episodes.luck[0]) for i in range(1, len(value))]
