"""Merton and Kelly: constant weights in lognormal assets, without cost."""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial import hermite_e

from jaxppo.envs.reference.lognormal import LognormalProblem, utility
from jaxppo.envs.reference.parameters import checked
from jaxppo.envs.trading.bar import LARGEST_LOSS
from jaxppo.envs.trading.types import EnvState

MAXIMUM_LEVEL = 40
NEWTON_STEPS = 50
LARGEST_QUADRATURE_ERROR = 0.01


def sparse_hermite(n_dimensions: int, level: int) -> tuple[np.ndarray, np.ndarray]:
    """Smolyak's combination of Gauss-Hermite rules for the mean over independent standard normals.

    Exact for polynomials of total degree `2 level + 1`.

    Args:
      n_dimensions: n, >= 1.
      level: >= 0; for one dimension the rule of `level + 1` nodes.

    Returns:
      Nodes `[m, n]` and weights `[m]`, some of them negative, that sum to 1.

    Reference: Gerstner and Griebel (1998), Numerical integration using sparse grids, Numer. Algorithms 18, eq. 10.
    """
    rules = []
    for size in range(1, level + 2):
        node, weight = hermite_e.hermegauss(size)
        rules.append((node, weight / math.sqrt(2 * math.pi)))
    nodes, weights = [], []
    lowest = max(level - n_dimensions + 1, 0)
    for total in range(lowest, level + 1):
        sign = (-1) ** (level - total) * math.comb(n_dimensions - 1, level - total)
        for bars in itertools.combinations(range(total + n_dimensions - 1), n_dimensions - 1):
            edges = (-1, *bars, total + n_dimensions - 1)
            sizes = [right - left - 1 for left, right in itertools.pairwise(edges)]
            active = [i for i, size in enumerate(sizes) if size > 0]
            grid = np.zeros((math.prod(sizes[i] + 1 for i in active), n_dimensions))
            grid[:, active] = np.array(list(itertools.product(*(rules[sizes[i]][0] for i in active))))
            product = np.array([math.prod(w) for w in itertools.product(*(rules[sizes[i]][1] for i in active))])
            nodes.append(grid)
            weights.append(sign * product)
    return np.concatenate(nodes), np.concatenate(weights)


class Merton(LognormalProblem):
    """Chooses weights in lognormal assets without cost; Kelly's problem for risk aversion 1.

    Example:
      >>> import jax
      >>> from jaxppo.envs import reference
      >>> problem = reference.Merton(drift=0.06, volatility=0.2, risk_aversion=2.0)
      >>> problem.weights.round(3)
      array([0.75])
      >>> _, state = problem.env.reset(jax.random.key(0), problem.params)
      >>> (problem.optimal_action(state) * problem.position_limit).round(2)
      Array([0.75], dtype=float32)
      >>> round(problem.percent_of_optimum(problem.horizon * problem.expected_utility([0.5])), 1)
      88.9

    Model: see `LognormalProblem`; `G = 1 + w' (e^R - 1)`, weights rebalanced at every bar.

    - Criterion: `E[sum_t discount^t u(G_t)]` over `horizon` bars, `u(G) = (G^(1-a) - 1) / (1-a)`, `a = risk_aversion`.
      Returns are independent, so every discount and horizon, and the utility of terminal wealth, have one optimum.
    - State, observation: those of `TradingEnv(observation="index")`; the optimum needs none of it.
    - Action `[A]` in [-1, 1]: weight over `position_limit`, by default twice the largest optimal weight.
    - Reward: `u(G)` of the bar, about `w sigma sqrt(dt)`; `TradingEnv` does not scale it.
    - Start: flat. Truncated after `horizon` bars; terminated if the account is lost.

    Optimum: the maximum of `E[u(G)]` by Newton's method on a quadrature of the bar's returns (Gauss-Hermite for one
    asset, sparse grid for several). `quadrature_error` is the relative change of the weights from the next coarser
    rule, which bounds their error. As `dt -> 0` they tend to `continuous_weights`, `Sigma^-1 mu / a`.

    Args:
      n_assets: A; default: the longest of drift and volatility.
      drift: excess log of the expected gross return, per unit of time; a number or `[A]`.
      volatility: per square root of a unit of time, > 0; a number or `[A]`.
      correlation: one number in (-1 / (A - 1), 1) or a positive definite `[A, A]` correlation matrix.
      risk_aversion: a > 0.
      dt: length of a bar, > 0.
      horizon: bars of an episode.
      discount: in (0, 1].
      position_limit: weight at action 1; must hold the optimum.
      n_bars: bars of a table.

    Raises:
      ValueError: a parameter outside its range, or bars so long that the optimum risks the account.

    Reference: Merton (1969), Lifetime portfolio selection under uncertainty, Rev. Econ. Stat. 51, eq. 29. Defaults:
    Huh, Jeon, Koo (2025), arXiv:2504.11116.
    """

    def __init__(
        self,
        *,
        n_assets: int | None = None,
        drift: float | Any = 0.06,
        volatility: float | Any = 0.2,
        correlation: float | Any = 0.0,
        risk_aversion: float = 2.0,
        dt: float = 0.05,
        horizon: int = 20,
        discount: float = 1.0,
        position_limit: float | None = None,
        n_bars: int | None = None,
    ):
        self.discount = checked("discount", discount, 0 < discount <= 1, "in (0, 1]")
        model = _checked_model(n_assets, drift, volatility, correlation)
        super().__init__(*model, risk_aversion=risk_aversion, dt=dt, horizon=horizon, n_bars=n_bars)
        covariance = self.correlation * np.outer(self.volatility, self.volatility)
        self.continuous_weights = np.linalg.solve(covariance, self.drift) / self.risk_aversion
        level = _quadrature_level(len(self.drift))
        coarse = self._best_weights(*self._returns(level - 1))
        self._outcomes = self._returns(level)
        self.weights = self._best_weights(*self._outcomes)
        self.quadrature_error = float(np.linalg.norm(self.weights - coarse) / np.linalg.norm(self.weights))
        if not (self._survives(self.weights) and self.quadrature_error < LARGEST_QUADRATURE_ERROR):
            raise ValueError(
                f"dt is {dt}; it must be shorter, because one bar of so long a step can ruin the optimal portfolio "
                f"(weights {np.round(self.weights, 3).tolist()})"
            )
        largest = float(np.max(np.abs(self.weights)))
        limit = 2.0 * largest if position_limit is None else float(position_limit)
        if not largest <= limit < math.inf:
            raise ValueError(f"position_limit is {position_limit}; it must be >= {largest:.4g}, the largest weight")
        self._trade(levels=(-1.0, 1.0), position_limit=limit, start="flat")

    def optimal_action(self, state: EnvState) -> jax.Array:
        """Optimal weights over the position limit, `[A]`, the same in every state."""
        del state
        return jnp.asarray(self.weights / self.position_limit, jnp.float32)

    def expected_utility(self, weights: Any) -> float:
        """`E[u(G)]` of one bar with these weights `[A]`."""
        simple, probability = self._outcomes
        return float(probability @ utility(_log_growth(simple, np.reshape(weights, -1)), self.risk_aversion))

    def optimal_value(self) -> float:
        """Expected discounted sum of rewards of the optimal weights over an episode."""
        return self.expected_utility(self.weights) * sum(self.discount**step for step in range(self.horizon))

    def certainty_equivalent(self, weights: Any) -> float:
        """Riskless excess log growth per unit of time with the utility of these weights `[A]`."""
        power, value = 1.0 - self.risk_aversion, self.expected_utility(weights)
        return (value if power == 0.0 else math.log1p(power * value) / power) / self.dt

    def weight_error(self, weights: Any) -> float:
        """Euclidean distance of weights `[A]` from the optimal ones, relative to their norm."""
        return float(np.linalg.norm(np.reshape(weights, -1) - self.weights) / np.linalg.norm(self.weights))

    def _returns(self, level: int) -> tuple[np.ndarray, np.ndarray]:
        """Simple returns `[m, A]` of a bar and their probabilities `[m]`."""
        nodes, probability = sparse_hermite(len(self.drift), level)
        root = np.linalg.cholesky(self.correlation) * self.deviation[:, None]
        return np.expm1(self.growth + nodes @ root.T), probability

    def _best_weights(self, simple: np.ndarray, probability: np.ndarray) -> np.ndarray:
        """Maximum of the expected utility over weights `[A]`: Newton's method, with halved steps where it is worse."""
        weights = np.zeros_like(self.drift)
        scale = self.continuous_weights
        value = 0.0
        for _ in range(NEWTON_STEPS):
            log_growth = _log_growth(simple, weights)
            marginal = probability * np.exp(-self.risk_aversion * log_growth)
            slope = marginal @ simple
            curvature = -(simple.T * (marginal * np.exp(-log_growth))) @ simple * self.risk_aversion
            move = np.linalg.solve(curvature, -slope)
            while (grown := probability @ utility(_log_growth(simple, weights + move), self.risk_aversion)) < value:
                move = move / 2
                if np.linalg.norm(move) < 1e-12 * np.linalg.norm(scale):
                    return weights
            weights, value = weights + move, grown
        return weights


def _log_growth(simple: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Log growth `[m]` of weights `[A]` at simple returns `[m, A]`, with the environment's largest loss."""
    return np.log1p(np.maximum(simple @ weights, -LARGEST_LOSS))


def _quadrature_level(n_assets: int) -> int:
    """Level of the sparse grid: as exact as some 10^5 nodes allow, at least of degree 5."""
    level = max(MAXIMUM_LEVEL // n_assets, 3)
    return level if math.comb(n_assets + level, level) <= 6000 else 2


def _checked_model(
    n_assets: int | None, drift: Any, volatility: Any, correlation: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Drift `[A]`, volatility `[A]` and correlation `[A, A]` in float64, or ValueError."""
    drift, volatility, matrix = (np.asarray(x, np.float64) for x in (drift, volatility, correlation))
    if n_assets is None:
        n_assets = max(drift.size, volatility.size, len(matrix) if matrix.ndim else 1)
    if n_assets < 1:
        raise ValueError(f"n_assets is {n_assets}; it must be >= 1")
    for name, value in (("drift", drift), ("volatility", volatility)):
        if value.shape not in ((), (n_assets,)):
            raise ValueError(
                f"{name} has shape {value.shape}; it must be a number or one for each of {n_assets} assets"
            )
    drift, volatility = np.broadcast_to(drift, (n_assets,)), np.broadcast_to(volatility, (n_assets,))
    if not np.all(np.isfinite(drift)) or not np.any(drift):
        raise ValueError(f"drift is {drift.tolist()}; it must be finite and not all zero")
    if not (np.all(np.isfinite(volatility)) and np.all(volatility > 0)):
        raise ValueError(f"volatility is {volatility.tolist()}; it must be finite and > 0")
    if matrix.ndim == 0:
        matrix = np.where(np.eye(n_assets) == 1, 1.0, matrix)
    if matrix.shape != (n_assets, n_assets) or not np.allclose(np.diag(matrix), 1) or not np.allclose(matrix, matrix.T):
        raise ValueError(f"correlation is {correlation}; it must be a number or a symmetric matrix with diagonal 1")
    if not (np.all(np.isfinite(matrix)) and np.linalg.eigvalsh(matrix)[0] > 1e-6):
        raise ValueError(f"correlation is {correlation}; it must be positive definite")
    return drift, volatility, matrix
