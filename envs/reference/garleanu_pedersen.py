"""Garleanu-Pedersen: trading many assets on mean-reverting factors at quadratic cost."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment

from jaxppo.envs.reference.environment import BOX_DEVIATIONS, ReferenceEnv, make_params
from jaxppo.envs.reference.parameters import checked, positive, positive_int
from jaxppo.envs.reference.problem import Problem

SLOWEST_HALF_LIFE = 240.0
FASTEST_HALF_LIFE = 15.0
VOLATILITY = 0.002
SIGNAL_TO_NOISE = 1.5


@struct.dataclass
class FactorState(environment.EnvState):
    """State of one portfolio.

    Attributes:
      time: `[]` int32 steps since reset.
      factors: `[m]` f, known at the decision.
      position: `[n]` x, units held over the last step, 0 at reset.
    """

    factors: jax.Array
    position: jax.Array


@struct.dataclass(kw_only=True)
class FactorParams(environment.EnvParams):
    """Parameters of `FactorEnv`, float32; `GarleanuPedersen.params` builds them.

    Attributes:
      max_steps_in_episode: `[]` int32, steps to truncation.
      discount: `[]` of the criterion; it also discounts the profit of a step against its cost.
      risk_aversion: `[]` gamma.
      loadings: `[n, m]` B, expected return per unit of factor.
      transition: `[m, m]` I - Phi.
      factor_root: `[m, m]` square root of the covariance of the factors' shocks.
      start_root: `[m, m]` square root of the factors' stationary covariance.
      return_covariance: `[n, n]` Sigma.
      return_root: `[n, n]` square root of Sigma.
      trading_cost: `[n, n]` Lambda.
      factor_scale: `[m]` factor that is observed as 1.
      position_scale: `[n]` units that are observed as 1.
      position_limit: `[n]` units at action 1.
      reward_scale: `[]` reward of one unit of profit.
    """

    discount: jax.Array
    risk_aversion: jax.Array
    loadings: jax.Array
    transition: jax.Array
    factor_root: jax.Array
    start_root: jax.Array
    return_covariance: jax.Array
    return_root: jax.Array
    trading_cost: jax.Array
    factor_scale: jax.Array
    position_scale: jax.Array
    position_limit: jax.Array
    reward_scale: jax.Array


class FactorEnv(ReferenceEnv):
    """Environment of `GarleanuPedersen`.

    Args:
      parameters: default parameters.
    """

    terminates = False

    def __init__(self, parameters: FactorParams):
        super().__init__(parameters)
        self.n_actions, self.n_factors = parameters.loadings.shape
        self.n_inputs = self.n_factors + self.n_actions

    def _start(self, key: jax.Array, params: FactorParams) -> FactorState:
        """Draws the factors from their stationary law; the position is 0. Consumes `key`."""
        factors = params.start_root @ jax.random.normal(key, (self.n_factors,))
        return FactorState(time=jnp.zeros((), jnp.int32), factors=factors, position=jnp.zeros((self.n_actions,)))

    def _transition(
        self, key: jax.Array, state: FactorState, action: jax.Array, params: FactorParams
    ) -> tuple[FactorState, jax.Array, jax.Array]:
        """Trades to the target position and holds it for one step. Consumes `key`."""
        n_assets = self.n_actions
        position = jnp.clip(jnp.reshape(action, (n_assets,)), -1.0, 1.0) * params.position_limit
        trade = position - state.position
        shock = jax.random.normal(key, (n_assets + self.n_factors,))
        returns = params.loadings @ state.factors + params.return_root @ shock[:n_assets]
        risk = params.risk_aversion / 2 * position @ (params.return_covariance @ position)
        profit = params.discount * (position @ returns - risk) - trade @ (params.trading_cost @ trade) / 2
        factors = params.transition @ state.factors + params.factor_root @ shock[n_assets:]
        return FactorState(time=state.time + 1, factors=factors, position=position), profit, shock

    def _observation(self, state: FactorState, params: FactorParams) -> jax.Array:
        """Factors and positions."""
        return jnp.concatenate([state.factors / params.factor_scale, state.position / params.position_scale])


def _sized(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """`value` as a finite array of this shape, or ValueError."""
    array = np.asarray(value, np.float64)
    if array.shape != shape or not np.all(np.isfinite(array)):
        raise ValueError(f"{name} has shape {array.shape} and values {array}; it must be finite with shape {shape}")
    return array


def _covariance(name: str, value: Any, size: int) -> np.ndarray:
    """`value` as a symmetric positive definite `[size, size]`, or ValueError."""
    matrix = _sized(name, value, (size, size))
    if np.max(np.abs(matrix - matrix.T)) > 1e-6 * np.max(np.abs(matrix)):
        raise ValueError(f"{name} is {matrix}; it must be symmetric")
    matrix = (matrix + matrix.T) / 2
    if not np.min(np.linalg.eigvalsh(matrix)) > 0:
        raise ValueError(f"{name} has eigenvalues {np.linalg.eigvalsh(matrix)}; it must be positive definite")
    return matrix


def stationary_covariance(transition: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Covariance `[k, k]` of the stationary `y' = transition y + e`, by doubling.

    Args:
      transition: `[k, k]`, eigenvalues inside the unit circle.
      noise: `[k, k]` covariance of e.
    """
    total, power = noise, transition
    while np.max(np.abs(power)) > 1e-18:
        total, power = total + power @ total @ power.T, power @ power
    return total


def _symmetric_root(matrix: np.ndarray) -> np.ndarray:
    """Symmetric square root `[k, k]` of a positive definite matrix."""
    value, vector = np.linalg.eigh(matrix)
    return (vector * np.sqrt(value)) @ vector.T


def _optimal_gains(
    loadings: np.ndarray, transition: np.ndarray, risk: np.ndarray, cost: np.ndarray, discount: float
) -> tuple[np.ndarray, np.ndarray]:
    """Gains `[n, n]` K_x and `[n, m]` K_f of the optimal policy `x = K_x x_before + K_f f`.

    In the coordinates where `cost` (Lambda) is the identity and `risk` (gamma Sigma) is diagonal, the Riccati equation
    of the value `-x'A x / 2 + x'C f + ...` separates into one quadratic equation per coordinate: with
    `J = 1 + discount (s + a)`, `a = 1 - 1 / J`, and the row of C solves `c J = b discount + discount c transition`.
    """
    root = _symmetric_root(cost)
    inverse = np.linalg.inv(root)
    scaled, vector = np.linalg.eigh(inverse @ risk @ inverse)
    linear = discount * scaled + 1.0 - discount
    curvature = 2 * discount * scaled / (linear + np.sqrt(linear**2 + 4 * discount**2 * scaled))
    rest = 1.0 / (1.0 + discount * (scaled + curvature))
    to_levels, from_levels = vector.T @ inverse, inverse @ vector
    earned = discount * to_levels @ loadings
    identity = np.eye(transition.shape[0])
    gains = [
        np.linalg.solve((identity - discount * keep * transition).T, keep * row)
        for keep, row in zip(rest, earned, strict=True)
    ]
    return from_levels * rest @ (vector.T @ root), from_levels @ np.asarray(gains)


class GarleanuPedersen(Problem):
    """Trades n assets on m mean-reverting factors at quadratic cost.

    Model, with the notation of the paper in brackets: returns per unit held `r_{t+1} = loadings f_t + u_{t+1}` [B],
    `u ~ N(0, return_covariance)` [Sigma], and factors `f_{t+1} = f_t - factor_reversion f_t + e_{t+1}` [Phi],
    `e ~ N(0, factor_covariance)`. The agent sees `f_t` and its position `x_{t-1}`, trades to `x_t` and earns
    `discount (x_t'r_{t+1} - risk_aversion / 2 x_t'Sigma x_t) - (x_t - x_{t-1})' Lambda (x_t - x_{t-1}) / 2`; `discount`
    is the paper's `1 - rho`.

    - Criterion: `E[sum_t discount^t r_t]` over `max_steps_in_episode` steps.
    - Observation `[m + n]`: factors and positions, in stationary standard deviations (positions: of the optimum).
    - Action `[n]` in [-1, 1]: `x_t / position_limit`, four standard deviations of the optimal position by asset.
    - Reward: profit, with the realised return, times `reward_scale`, one over the root mean square of `x'r` under the
      optimum.
    - `info["market"]` `[n + m]`: the standardised shocks of returns and factors.
    - Start: `x = 0`, f from its stationary law. Truncated after `max_steps_in_episode` steps, never terminated.

    Optimum, of the problem without end (`discount = 1`: of the average reward): `x_t = position_gain x_{t-1} +
    factor_gain f_t`, in closed form for every positive definite Lambda. For `Lambda = lambda Sigma` the
    position moves a constant share of the way to an aim. Its value over the episode is exact, by the recursion of the
    covariance of `(x_{t-1}, f_t)`.

    Args:
      n_assets: n.
      n_factors: m; default n.
      risk_aversion: gamma, > 0.
      trading_cost: a number lambda > 0 for `Lambda = lambda Sigma`, or Lambda `[n, n]`, positive definite.
      loadings: `[n, m]`; default: asset i follows factor `i mod m` and, a third as strongly, the next one; predicted
        returns have 1.5 times the standard deviation of u.
      factor_reversion: `[m]`, or `[m, m]` with the eigenvalues of `1 - factor_reversion` inside the unit circle;
        default: half-lives from 240 steps down to 15.
      factor_covariance: `[m, m]`; default: the one that makes the stationary factors uncorrelated with variance 1.
      return_covariance: `[n, n]`; default: volatilities from 0.002 to 0.004 a step, correlation `0.5^|i - j|`.
      discount: in (0, 1].
      max_steps_in_episode: >= 1.

    Raises:
      ValueError: a parameter outside its range or of the wrong shape.

    Attributes:
      position_gain: `[n, n]` float64.
      factor_gain: `[n, m]` float64, units per unit of factor.
      average_reward: stationary mean reward per step of the optimal policy, in units of profit (not scaled).
      reward_scale: reward of one unit of profit.

    Reference: Garleanu and Pedersen (2013), "Dynamic trading with predictable returns and transaction costs", Journal
      of Finance 68(6), propositions 1-3. Defaults for one asset: Brini and Tantari (2023), arXiv:2104.14683.
    """

    def __init__(
        self,
        *,
        n_assets: int = 1,
        n_factors: int | None = None,
        risk_aversion: float = 1e-4,
        trading_cost: Any = 9e-4,
        loadings: Any = None,
        factor_reversion: Any = None,
        factor_covariance: Any = None,
        return_covariance: Any = None,
        discount: float = 0.99,
        max_steps_in_episode: int = 1200,
    ):
        n = positive_int("n_assets", n_assets)
        m = n if n_factors is None else positive_int("n_factors", n_factors)
        self.horizon = positive_int("max_steps_in_episode", max_steps_in_episode)
        self.risk_aversion = positive("risk_aversion", risk_aversion)
        self.discount = checked("discount", discount, 0 < discount <= 1, "in (0, 1]")
        self._transition, self._factor_noise = _factor_law(m, factor_reversion, factor_covariance)
        self._factor_covariance = stationary_covariance(self._transition, self._factor_noise)
        sigma = _default_returns(n) if return_covariance is None else return_covariance
        self._sigma = _covariance("return_covariance", sigma, n)
        default = _default_loadings(np.sqrt(np.diag(self._sigma)), np.sqrt(np.diag(self._factor_covariance)))
        self._loadings = default if loadings is None else _sized("loadings", loadings, (n, m))
        if np.ndim(trading_cost) == 0:
            trading_cost = self._sigma * positive("trading_cost", trading_cost)
        self._cost = _covariance("trading_cost", trading_cost, n)
        self.position_gain, self.factor_gain = _optimal_gains(
            self._loadings, self._transition, self.risk_aversion * self._sigma, self._cost, self.discount
        )
        self._finish(n, m)

    def _finish(self, n: int, m: int) -> None:
        """Scales and parameters of the environment, from the stationary law under the optimal policy."""
        noise = np.zeros((n + m, n + m))
        noise[n:, n:] = self._factor_noise
        before = stationary_covariance(self._joint_transition(), noise)
        self.average_reward = self._mean_profit(before)
        held = self._policy() @ before @ self._policy().T
        risk_held = np.diag(held) * np.diag(self._sigma)
        if not np.min(risk_held) > 1e-12 * np.max(risk_held):
            raise ValueError(f"loadings are {self._loadings}; every asset must be traded under the optimum")
        expected = self._loadings @ self._factor_covariance @ self._loadings.T
        overlap = self._policy() @ before[:, n:] @ self._loadings.T
        mean_square = np.trace(overlap) ** 2 + np.sum(held * expected) + np.sum(overlap * overlap.T)
        self.reward_scale = 1.0 / math.sqrt(mean_square + np.sum(held * self._sigma))
        deviation = np.sqrt(np.diag(held))
        self.params = make_params(
            FactorParams,
            self.horizon,
            discount=self.discount,
            risk_aversion=self.risk_aversion,
            loadings=self._loadings,
            transition=self._transition,
            factor_root=_symmetric_root(self._factor_noise),
            start_root=_symmetric_root(self._factor_covariance),
            return_covariance=self._sigma,
            return_root=_symmetric_root(self._sigma),
            trading_cost=self._cost,
            factor_scale=np.sqrt(np.diag(self._factor_covariance)),
            position_scale=deviation,
            position_limit=BOX_DEVIATIONS * deviation,
            reward_scale=self.reward_scale,
        )
        self.env = FactorEnv(self.params)
        self._gain = jnp.asarray(self._policy() / (BOX_DEVIATIONS * deviation)[:, None], jnp.float32)

    def _policy(self) -> np.ndarray:
        """Gains `[n, n + m]` of `(x_{t-1}, f_t)`."""
        return np.concatenate([self.position_gain, self.factor_gain], axis=1)

    def _joint_transition(self) -> np.ndarray:
        """Matrix `[n + m, n + m]` from `(x_{t-1}, f_t)` to `(x_t, f_{t+1})`, without noise."""
        n, m = self._loadings.shape
        return np.block([[self.position_gain, self.factor_gain], [np.zeros((m, n)), self._transition]])

    def _mean_profit(self, before: np.ndarray) -> float:
        """Mean unscaled reward of a step from the covariance `[n + m, n + m]` of `(x_{t-1}, f_t)`."""
        n, policy = self._loadings.shape[0], self._policy()
        trade = policy - np.eye(n, policy.shape[1])
        earned = np.sum((policy @ before[:, n:]) * self._loadings)
        risk = self.risk_aversion / 2 * np.sum((policy @ before @ policy.T) * self._sigma)
        return float(self.discount * (earned - risk) - np.sum((trade @ before @ trade.T) * self._cost) / 2)

    def optimal_value(self) -> float:
        """Exact value of the criterion, by the recursion of the covariance."""
        (n, m), transition, total = self._loadings.shape, self._joint_transition(), 0.0
        noise, before = np.zeros((n + m, n + m)), np.zeros((n + m, n + m))
        noise[n:, n:], before[n:, n:] = self._factor_noise, self._factor_covariance
        for step in range(self.horizon):
            total += self.discount**step * self._mean_profit(before)
            before = transition @ before @ transition.T + noise
        return self.reward_scale * total

    def optimal_action(self, state: FactorState) -> jax.Array:
        """Optimal positions over the position limits, `[n]`."""
        return self._gain @ jnp.concatenate([state.position, state.factors])


def _factor_law(m: int, reversion: Any, covariance: Any) -> tuple[np.ndarray, np.ndarray]:
    """Checked transition matrix and shock covariance `[m, m]` of the factors, with their defaults."""
    if reversion is None:
        reversion = -np.expm1(-math.log(2) / np.geomspace(SLOWEST_HALF_LIFE, FASTEST_HALF_LIFE, m))
    shape = (m, m) if np.ndim(reversion) == 2 else (m,)
    reversion = _sized("factor_reversion", reversion, shape)
    transition = np.eye(m) - (reversion if reversion.ndim == 2 else np.diag(reversion))
    radius = np.max(np.abs(np.linalg.eigvals(transition)))
    if not radius < 1:
        raise ValueError(
            f"factor_reversion is {reversion}; 1 - factor_reversion must have its eigenvalues inside the unit circle"
        )
    if covariance is not None:
        return transition, _covariance("factor_covariance", covariance, m)
    covariance = np.eye(m) - transition @ transition.T
    if not np.min(np.linalg.eigvalsh(covariance)) > 0:
        raise ValueError(f"factor_covariance is None; with factor_reversion {reversion} it must be given")
    return transition, covariance


def _default_returns(n: int) -> np.ndarray:
    """Covariance `[n, n]` of returns: volatilities from 0.002 to 0.004, correlation `0.5^|i - j|`."""
    volatility = VOLATILITY * np.geomspace(1.0, 2.0, n)
    distance = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    return 0.5**distance * np.multiply.outer(volatility, volatility)


def _default_loadings(volatility: np.ndarray, factor_deviation: np.ndarray) -> np.ndarray:
    """Loadings `[n, m]`: asset i follows factor `i mod m` and, a third as strongly, the next one."""
    n, m = volatility.size, factor_deviation.size
    mixture = np.zeros((n, m))
    for asset in range(n):
        mixture[asset, asset % m] += 1.0
        mixture[asset, (asset + 1) % m] += 1.0 / 3.0 if m > 1 else 0.0
    mixture /= np.linalg.norm(mixture, axis=1, keepdims=True)
    return SIGNAL_TO_NOISE * volatility[:, None] * mixture / factor_deviation
