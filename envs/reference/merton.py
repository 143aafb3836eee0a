"""Merton and Kelly: constant weights in lognormal assets, and what the problems on the same market share."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial import hermite_e

from envs import simulators
from envs.execution import Costs, make_costs
from envs.market import SECONDS_PER_YEAR, MarketData
from envs.reference.problem import Problem
from envs.trading import LARGEST_LOSS, TradingEnv
from envs.types import EnvParams, EnvState

RUIN_DEVIATIONS = 8.0
"""A weight is allowed if the account survives a bar of so many standard deviations (one in 10^15) against it."""

LONGEST_TABLE = 4096
LARGEST_LOG_PRICE = 60.0
"""Prices must stay within `exp(+-60)`, the range in which float32 prices are exact."""

MAXIMUM_LEVEL = 40
NEWTON_STEPS = 50
LARGEST_QUADRATURE_ERROR = 0.01


def checked(name: str, value: float, condition: bool, allowed: str) -> float:
    """Returns `value` as a float, or raises ValueError unless the condition holds and it is finite."""
    if not (condition and math.isfinite(value)):
        raise ValueError(f"{name} is {value}; it must be {allowed}")
    return float(value)


def utility(log_growth: np.ndarray, risk_aversion: float) -> np.ndarray:
    """`(G^(1 - a) - 1) / (1 - a)` of log growth, any shape, float64; the logarithm for a = 1."""
    power = 1.0 - risk_aversion
    return log_growth if power == 0.0 else np.expm1(power * log_growth) / power


class LognormalProblem(Problem):
    """A problem of `TradingEnv` on bars of geometric Brownian motion, `log(S'/S) ~ N((mu - sigma^2/2) dt, sigma^2 dt)`.

    A bar opens at the previous close, so an order fills at the price at which it was decided; there is no spread,
    slippage or impact. Cash earns nothing: prices are in units of the riskless account, and drifts are in excess of
    its rate (for constant relative risk aversion nothing is lost by that).

    `params` holds one realised table; values are expectations over tables. Draw a new one by
    `params_for(market(key))`, which compiles and may be `vmap`ped over keys, or a copy of the problem by `on_market`.

    Args:
      drift: `[A]` excess log of the expected gross return, per unit of time.
      volatility: `[A]` per square root of a unit of time, > 0.
      correlation: `[A, A]` of the log returns.
      risk_aversion: of the reward of `TradingEnv`; 1 is the log growth of a bar.
      dt: length of a bar in units of time (years), > 0.
      horizon: bars of an episode, >= 1.
      n_bars: bars of a table, at least `horizon` and those before its first decision; default: 4096, or as many as
        float32 prices can follow.

    Raises:
      ValueError: an argument outside its range.
    """

    def __init__(
        self,
        drift: np.ndarray,
        volatility: np.ndarray,
        correlation: np.ndarray,
        *,
        risk_aversion: float,
        dt: float,
        horizon: int,
        n_bars: int | None,
    ):
        if horizon < 1:
            raise ValueError(f"horizon is {horizon}; it must be >= 1 bars")
        self.drift, self.volatility, self.correlation = drift, volatility, correlation
        self.risk_aversion = checked("risk_aversion", risk_aversion, risk_aversion > 0, "finite and > 0")
        self.dt = checked("dt", dt, dt > 0, "finite and > 0")
        self.horizon = int(horizon)
        self.deviation = volatility * math.sqrt(dt)
        self.growth = drift * dt - self.deviation**2 / 2
        longest = self._longest_table()
        self.n_bars = min(LONGEST_TABLE, longest) if n_bars is None else int(n_bars)
        if self.n_bars > longest:
            raise ValueError(
                f"n_bars is {n_bars}; with this drift, volatility and dt it must be <= {longest}, so that log prices "
                f"stay within {LARGEST_LOG_PRICE:.0f}"
            )

    def trade(
        self,
        *,
        levels: tuple[float, float],
        position_limit: float,
        start: str,
        commission_rate: float = 0.0,
        drawdown_limit: float | None = None,
    ) -> None:
        """Builds `env` and `params`.

        Args:
          levels: smallest and largest action.
          position_limit: weight at action 1.
          start: "flat" or "random".
          commission_rate: cost per traded notional.
          drawdown_limit: the episode terminates beyond it.

        Raises:
          ValueError: the tables are too short for an episode.
        """
        n_assets = len(self.drift)
        self.position_limit, self._drawdown_limit = float(position_limit), drawdown_limit
        self._commission_rate = commission_rate
        self.env = TradingEnv(
            n_assets=n_assets,
            actions="continuous",
            levels=levels,
            position_limit=position_limit,
            observation="index",
            window=1,
            start=start,
            groups=("calendar",),
            normalisation_window=2,
        )
        shortest = self.env.first_decision + self.horizon + 1
        if self.n_bars < shortest:
            raise ValueError(f"n_bars is {self.n_bars}; it must be >= {shortest} for a horizon of {self.horizon}")
        self.params = self.params_for(self.market(jax.random.key(0)))

    def costs(self) -> Costs:
        """The commission and no other cost; the account may hold `position_limit` in every asset."""
        gross = 1.001 * self.position_limit * len(self.drift)
        return make_costs(commission_bps=1e4 * self._commission_rate, max_leverage=gross, maintenance_margin=0.0)

    def market(self, key: jax.Array) -> MarketData:
        """A table of `n_bars` bars; jittable. Consumes `key`."""
        bars = simulators.gbm(
            key,
            self.n_bars,
            len(self.drift),
            drift=jnp.asarray(self.drift * self.dt, jnp.float32),
            volatility=jnp.asarray(self.deviation, jnp.float32),
            correlation=jnp.asarray(self.correlation, jnp.float32),
            gap_share=0.0,
            half_spread=0.0,
            start_price=1.0,
        )
        opened = jnp.concatenate([bars.open[:1], bars.close[:-1]])
        seconds = jnp.full(self.n_bars, self.dt * SECONDS_PER_YEAR, jnp.float32).at[0].set(0.0)
        return bars.replace(
            open=opened,
            high=jnp.maximum(bars.high, opened),
            low=jnp.minimum(bars.low, opened),
            seconds_since_previous=seconds,
        )

    def params_for(self, market: MarketData) -> EnvParams:
        """Parameters of `env` on a market, with the costs and limits of the problem; jittable."""
        return self.env.make_params(
            market,
            self.costs(),
            risk_aversion=self.risk_aversion,
            drawdown_limit=self._drawdown_limit,
            episode_bars=self.horizon,
        )

    def on_market(self, market: MarketData) -> LognormalProblem:
        """The same problem on other bars."""
        other = copy.copy(self)
        other.params = self.params_for(market)
        return other

    def _longest_table(self) -> int:
        """Bars after which a log price may leave its range: the root of `growth n + 8 deviation sqrt(n) = limit`."""
        growth, noise = np.max(np.abs(self.growth)), RUIN_DEVIATIONS * np.max(self.deviation)
        root = 2 * LARGEST_LOG_PRICE / (noise + math.sqrt(noise**2 + 4 * growth * LARGEST_LOG_PRICE))
        return int(root**2)

    def tail_value(self, state: EnvState) -> jax.Array:
        """`[]` what `state` is worth to the optimum after the last bar, up to a constant: 0 if nothing depends on it.

        The optima are stationary: over finitely many bars another policy may gain by leaving a worse state behind, but
        none in `E[sum_{t < horizon} discount^t r_t + discount^horizon tail_value(last state)]`.
        """
        del state
        return jnp.zeros(())

    def survives(self, weights: np.ndarray) -> bool:
        """Whether a bar of `RUIN_DEVIATIONS` standard deviations against the weights `[A]` leaves more than 0.1 %."""
        root = np.linalg.cholesky(self.correlation) * self.deviation[:, None]
        exposure = root.T @ weights
        size = np.linalg.norm(exposure)
        worst = self.growth - RUIN_DEVIATIONS * root @ (exposure / size if size > 0 else exposure)
        return bool(1.0 + weights @ np.expm1(worst) > 1.0 - LARGEST_LOSS)


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
        if not (self.survives(self.weights) and self.quadrature_error < LARGEST_QUADRATURE_ERROR):
            raise ValueError(
                f"dt is {dt}; it must be shorter, because one bar of so long a step can ruin the optimal portfolio "
                f"(weights {np.round(self.weights, 3).tolist()})"
            )
        largest = float(np.max(np.abs(self.weights)))
        limit = 2.0 * largest if position_limit is None else float(position_limit)
        if not largest <= limit < math.inf:
            raise ValueError(f"position_limit is {position_limit}; it must be >= {largest:.4g}, the largest weight")
        self.trade(levels=(-1.0, 1.0), position_limit=limit, start="flat")

    def optimal_action(self, state: EnvState) -> jax.Array:
        """`[A]` optimal weights over the position limit, the same in every state."""
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
        """Excess log growth per unit of time that is worth as much as these weights `[A]`."""
        power, worth = 1.0 - self.risk_aversion, self.expected_utility(weights)
        return (worth if power == 0.0 else math.log1p(power * worth) / power) / self.dt

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
