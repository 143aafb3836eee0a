"""Dynamic programming on grids, without the closed form: the oracle of problems with utility of terminal wealth."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from scipy import interpolate

from jaxppo.envs.reference import Problem, simulate


def brute_force(
    transition: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    *,
    n_shocks: int,
    grid: np.ndarray,
    positions: np.ndarray,
    power: float,
    carry: float,
    drag: float,
    n_steps: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Maximises the expected utility over a grid of positions, step by step backwards.

    Args:
      transition: `(x [m, 1], shocks [n_shocks, K]) -> (gain [m, K] per unit of position, next x [m, K])`.
      n_shocks: independent standard normal shocks of a step.
      grid: `[m]` states.
      positions: `[J]` candidates.
      power: exponent of the utility.
      carry: log growth of a step that does not depend on the position.
      drag: log growth lost per squared position.
      n_steps: to the horizon.

    Returns:
      `[n_steps, m]` best candidates, `[m]` log certainty equivalent at the start.
    """
    node, weight = np.polynomial.hermite_e.hermegauss(21)
    shocks = np.stack(np.meshgrid(*[node] * n_shocks, indexing="ij")).reshape(n_shocks, -1)
    weight = np.prod(np.stack(np.meshgrid(*[weight / weight.sum()] * n_shocks)), axis=0).ravel()
    gain, following = transition(grid[:, None], shocks)
    value, best = np.zeros_like(grid), np.zeros((n_steps, len(grid)))
    for step in reversed(range(n_steps)):
        later = interpolate.CubicSpline(grid, value)(following)
        candidates = np.stack([_certainty(later + carry + p * gain - drag * p * p, weight, power) for p in positions])
        best[step], value = positions[np.argmax(candidates, axis=0)], np.max(candidates, axis=0)
    return best, value


def _certainty(log_wealth: np.ndarray, weight: np.ndarray, power: float) -> np.ndarray:
    if power == 0.0:
        return log_wealth @ weight
    return np.log(np.exp(power * log_wealth) @ weight) / power


def stationary_certainty(grid: np.ndarray, value: np.ndarray, mean: float, deviation: float, power: float) -> float:
    """Log certainty equivalent of a start that is normal with this mean and deviation."""
    node, weight = np.polynomial.hermite_e.hermegauss(21)
    return float(
        _certainty(interpolate.CubicSpline(grid, value)(mean + deviation * node), weight / weight.sum(), power)
    )


def affine_policies(problem: Problem, scales: list[float], shifts: list[float], n_paths: int) -> np.ndarray:
    """`[J, n_paths]` returns of `scale * optimal + shift` under the same market."""

    def one(scale: jax.Array, shift: jax.Array) -> jax.Array:
        return simulate(
            problem, lambda _, state: scale * problem.optimal_action(state) + shift, jax.random.key(5), n_paths
        )

    return np.asarray(jax.vmap(one)(jnp.asarray(scales), jnp.asarray(shifts)), np.float64)


def t_statistic(difference: np.ndarray) -> float:
    """Mean over its standard error."""
    return float(difference.mean() / (difference.std() / np.sqrt(difference.size)))
