"""Best Sharpe ratio on `predictable_factor` at proportional costs, and the policy that reaches it."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

from jaxppo.envs.market.market_data import SECONDS_PER_YEAR
from jaxppo.envs.simulators.splines import CubicSplines

BARS_PER_YEAR = SECONDS_PER_YEAR / 86400.0 * 5.0 / 7.0
"""Weekdays in a year, the bars of a simulated market."""

REACH = 5.5
"""Standard deviations of the factor on the grid."""
FACTOR_STEP = 0.6
"""Largest spacing of the factor's grid, in standard deviations of its shock."""
RANGE = 5.0
"""Largest position on the grid, in units of the one that is best for a factor of 1 without costs."""
N_POSITIONS = 61
REFINEMENT = 16
"""Points from one position of the grid to the next, in the search for the best trade."""
SHOCKS = 3
"""Gauss-Hermite nodes of a bar's return."""
SWEEPS = 40
"""Steps of value iteration with one policy."""
IMPROVEMENTS = 400
TOLERANCE = 1e-8
"""Relative change of the average reward at convergence."""
STRONGEST = 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class CostlyFactor:
    """Optimum for one asset of `predictable_factor` (without signal noise) at proportional costs.

    At the close of t the factor is f and the position is worth Y. The agent orders a position that is worth X at that
    close; it fills at the open, a gap g later, for a cost of `cost` times what is traded, and earns the body b:

        profit = Y g + (1 + g) (X b - cost |X - Y|),      Y' = X (1 + g) (1 + b),
        E[g] = 0,      E[b | f] = strength volatility f.

    These are the returns of `TradingEnv` for positions X and Y in fractions of equity, as long as a bar's return is
    small beside 1. Profits are proportional to the scale of all positions, so the policy with the largest long-run mean
    of `profit - lambda / 2 profit^2` is, for any lambda, one with the largest ratio B of squared mean and second moment
    of the profit, hence with the largest Sharpe ratio `sqrt(B / (1 - B))`; that mean is `B / (2 lambda)`.

    The unit of positions here is the one that is best for a factor of 1 without costs or predictable variance,
    `lambda = strength / volatility`; multiply by any small number.

    Attributes:
      strength: expected body in units of `volatility` for a factor of 1.
      persistence: of the factor per bar.
      volatility: of the log return per bar.
      gap_share: share of the variance that falls on the gap.
      cost: of a trade, fraction of its value.
      sharpe_per_bar: the largest Sharpe ratio of one asset.
      factors: `[F]` grid of f.
      positions: `[N]` grid of Y.
      bought: `[F, N]` position to buy up to where it exceeds Y.
      sold: `[F, N]` position to sell down to where it is less than Y.
    """

    strength: float
    persistence: float
    volatility: float
    gap_share: float
    cost: float
    sharpe_per_bar: float
    factors: np.ndarray
    positions: np.ndarray
    bought: np.ndarray
    sold: np.ndarray

    def sharpe(self, n_assets: int = 1) -> float:
        """Largest Sharpe ratio a year on independent assets, of the policies that treat them separately."""
        return self.sharpe_per_bar * math.sqrt(BARS_PER_YEAR * n_assets)

    def edges(self, factor: jax.Array, position: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Edges of the no-trade band: positions to buy up to and to sell down to, of the shape of the arguments.

        Args:
          factor: known at the close, any shape.
          position: held at the close, in the unit of the class, of the same shape.
        """
        row = (factor - self.factors[0]) / (self.factors[1] - self.factors[0])
        column = (position - self.positions[0]) / (self.positions[1] - self.positions[0])
        at = [jnp.clip(row, 0, len(self.factors) - 1), jnp.clip(column, 0, len(self.positions) - 1)]
        low, high = (map_coordinates(jnp.asarray(x, jnp.float32), at, order=1) for x in (self.bought, self.sold))
        return low, high

    def sharpe_of(self, policy: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> float:
        """Sharpe ratio per bar of another policy on one asset, to about 1 % of itself where it trades at every bar.

        Args:
          policy: `(factor [F, 1], position [1, N]) -> position after the trade [F, N]`, in any unit in which all
            positions lie within -5 and 5.
        """
        program = _program(self.strength, self.persistence, self.volatility, self.gap_share, self.cost)
        after = np.broadcast_to(policy(program.factors[:, None], program.positions[None]), program.shape)
        after = np.clip(after, -RANGE, RANGE)
        mean, second = (program.average(after, reward) for reward in program.moments(after))
        return mean / math.sqrt(second - mean**2)


@functools.lru_cache(maxsize=32)
def solve_costly_factor(
    strength: float, *, persistence: float = 0.98, volatility: float = 0.01, gap_share: float = 0.2, cost: float
) -> CostlyFactor:
    """Solves for the policy of the largest Sharpe ratio at proportional costs.

    Modified policy iteration in (f, Y): the trapezium rule over the factor's shock, Gauss-Hermite nodes over the
    return, cubic splines over positions. Given f, the first-order condition of the best trade is linear in Y, so one
    table of the inverse policy gives all trades. The Sharpe ratio is exact to about 1e-4 of itself.

    Args:
      strength: expected return from open to close in units of `volatility` for a factor of 1, in (0, 1).
      persistence: of the factor per bar, in [0, 1).
      volatility: of the log return per bar, in (0, 0.1].
      gap_share: share of the variance that falls on the gap, in [0, 1).
      cost: of a trade, fraction of its value, in [0, 1).

    Raises:
      ValueError: a parameter outside its range, or no convergence.
    """
    allowed = 0 < strength < STRONGEST and 0 <= persistence < 1 and 0 < volatility <= 0.1
    if not (allowed and 0 <= gap_share < 1 and 0 <= cost < 1):
        raise ValueError(
            "need 0 < strength < 1, 0 <= persistence < 1, 0 < volatility <= 0.1, 0 <= gap_share < 1 and 0 <= cost < 1, "
            f"got {strength}, {persistence}, {volatility}, {gap_share} and {cost}"
        )
    program = _program(strength, persistence, volatility, gap_share, cost)
    average, bought, sold = program.solve()
    share = 2 * program.risk_aversion * average
    ratio = math.sqrt(share / (1 - share))
    grids = (program.factors, program.positions, bought, sold)
    return CostlyFactor(strength, persistence, volatility, gap_share, cost, ratio, *grids)


@functools.lru_cache(maxsize=32)
def strength_for_sharpe(
    sharpe: float,
    *,
    n_assets: int = 1,
    persistence: float = 0.98,
    volatility: float = 0.01,
    gap_share: float = 0.2,
    cost: float,
) -> float:
    """Finds the `strength` of `predictable_factor` at which the best Sharpe ratio a year after costs is `sharpe`.

    The secant method on `solve_costly_factor`, to 1e-4 of the ratio.

    Args:
      sharpe: a year (of 260.9 weekdays), > 0.
      n_assets: independent assets.
      persistence: of the factor per bar, in [0, 1).
      volatility: of the log return per bar, in (0, 0.1].
      gap_share: share of the variance that falls on the gap, in [0, 1).
      cost: of a trade, fraction of its value, in [0, 1).

    Raises:
      ValueError: a parameter outside its range, or no strength below 1 reaches the ratio.
    """
    per_bar = sharpe / math.sqrt(BARS_PER_YEAR * n_assets)
    if not 0 < per_bar < STRONGEST:
        raise ValueError(f"sharpe is {sharpe}; with n_assets {n_assets} it must lie in (0, {sharpe / per_bar:.3g})")
    market = {"persistence": persistence, "volatility": volatility, "gap_share": gap_share, "cost": cost}

    def excess(strength: float) -> float:
        return solve_costly_factor(strength, **market).sharpe_per_bar - per_bar

    below, strength = per_bar, min(1.3 * per_bar, 0.99 * STRONGEST)
    missing, error = excess(below), excess(strength)
    for _ in range(20):
        if abs(error) < 1e-4 * per_bar:
            return strength
        slope = max((error - missing) / (strength - below), 0.1)
        below, missing = strength, error
        strength = strength - error / slope
        if not 0 < strength < STRONGEST:
            break
        error = excess(strength)
    raise ValueError(f"cost is {cost:g}; it must be lower, so that a Sharpe ratio of {sharpe:g} can be reached")


class _Program:
    """Dynamic programme of `CostlyFactor` on its grids; arrays are `[F, N]`."""

    def __init__(self, strength: float, persistence: float, volatility: float, gap_share: float, cost: float):
        self.cost, self.risk_aversion = cost, strength / volatility
        shock = math.sqrt(1 - persistence**2)
        half = math.ceil(REACH / (FACTOR_STEP * shock))
        self.factors = np.linspace(-REACH, REACH, 2 * half + 1)
        density = np.exp(-0.5 * ((self.factors - persistence * self.factors[:, None]) / shock) ** 2)
        self.transition = density / density.sum(axis=1, keepdims=True)
        self.positions = np.linspace(-RANGE, RANGE, N_POSITIONS)
        self.fine = np.linspace(-RANGE, RANGE, REFINEMENT * (N_POSITIONS - 1) + 1)
        self.shape = (len(self.factors), N_POSITIONS)
        self._middle = (half, N_POSITIONS // 2)
        self.splines = CubicSplines(self.positions)
        self.mean = strength * volatility * self.factors[:, None]
        self.gap_variance = math.expm1(gap_share * volatility**2)
        variance = math.expm1((1 - gap_share) * volatility**2)
        self.square = variance * (1 + self.mean) ** 2 + self.mean**2
        node, weight = np.polynomial.hermite_e.hermegauss(SHOCKS)
        growth = (1 + self.mean) * np.exp(volatility * node - volatility**2 / 2)
        moved = np.clip(self.positions[:, None] * growth[:, None, :], -RANGE, RANGE)
        self.drift = np.einsum("fxky,k->fxy", self.splines.matrix(moved), weight / weight.sum())

    def moments(self, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and second moment of the profit of trading to `after`."""
        held, paid = self.positions, self.cost * np.abs(after - self.positions)
        mean = after * self.mean - paid
        body = after**2 * self.square - 2 * after * paid * self.mean + paid**2
        return mean, self.gap_variance * held * (held + 2 * mean) + (1 + self.gap_variance) * body

    def later(self, value: np.ndarray) -> np.ndarray:
        """Expected value of the next bar by f and by the position after the trade."""
        return np.einsum("fxy,fy->fx", self.drift, self.transition @ value)

    def best_trades(self, later: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions to buy up to and to sell down to: `slope(X) = tilt Y`, by the inverse of the decreasing slope."""
        x, slope_later = self.fine, self.splines.slope(later, REFINEMENT)
        found = []
        for side in (self.cost, -self.cost):
            body = self.square * x - 2 * side * self.mean * x + side**2 * x
            slope = self.mean - side - self.risk_aversion * (1 + self.gap_variance) * body + slope_later
            tilt = (1 + self.gap_variance) * (side * self.mean - side**2) + self.gap_variance * (self.mean - side)
            wanted = self.risk_aversion * tilt * self.positions
            found.append(np.stack([np.interp(-w, -s, x) for w, s in zip(wanted, slope, strict=True)]))
        return found[0], found[1]

    def sweep(self, value: np.ndarray, reward: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, float]:
        """`SWEEPS` steps with one policy; the value relative to that of f = Y = 0, and the last increment there."""
        read = self.splines.reader(after)
        for _ in range(SWEEPS):
            new = reward + read(self.later(value))
            increment = new[self._middle]
            value = new - increment
        return value, float(increment)

    def solve(self) -> tuple[float, np.ndarray, np.ndarray]:
        """Average reward, and the two tables of the policy."""
        value, average = np.zeros(self.shape), 0.0
        for _ in range(IMPROVEMENTS):
            bought, sold = self.best_trades(self.later(value))
            after = np.clip(self.positions, bought, np.maximum(bought, sold))
            mean, second = self.moments(after)
            value, found = self.sweep(value, mean - self.risk_aversion / 2 * second, after)
            if abs(found - average) <= TOLERANCE * abs(found):
                return max(found, 0.0), bought, sold
            average = found
        raise ValueError(f"the optimum at a cost of {self.cost} has not converged; persistence must be lower")

    def average(self, after: np.ndarray, reward: np.ndarray) -> float:
        """Long-run mean of `reward` under the policy that trades to `after`."""
        value, average = np.zeros(self.shape), math.nan
        for _ in range(IMPROVEMENTS):
            value, found = self.sweep(value, reward, after)
            if abs(found - average) <= TOLERANCE * abs(found):
                return found
            average = found
        raise ValueError("the mean under this policy has not converged; persistence must be lower")


_program = functools.lru_cache(maxsize=2)(_Program)
