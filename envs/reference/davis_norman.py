"""Davis-Norman: one risky asset with proportional costs, where the optimum is a no-trade band."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial import chebyshev

from jaxppo.envs.execution.portfolio import weights_of
from jaxppo.envs.reference.lognormal import LognormalProblem, utility
from jaxppo.envs.reference.parameters import checked, positive
from jaxppo.envs.reference.quadrature import chebyshev_points, decreasing_root, normal_panels, panels
from jaxppo.envs.trading.bar import LARGEST_LOSS
from jaxppo.envs.trading.types import EnvState

N_NODES = 48
N_PANEL_NODES = 40
REACH = 9.0
"""Standard deviations of a bar's return that the quadrature covers on either side."""

ITERATIONS = 60
TOLERANCE = 1e-6
SMALLEST_MARGIN = 0.01
"""Fractions of the band's width: change of the edges at convergence, and cover of the nodes beyond the band."""

SMALLEST_COST = 1e-6
TABLE_SIZE = 129
BOX_MARGIN = 1.5
"""Position limit over the upper edge of the band, where an account survives so large a position."""


class _BandProgram:
    """Howard's policy iteration for the discounted problem, with values on Chebyshev nodes around the band.

    With weight x after the trade, `B = 1 + x (e^R - 1)` and `w' = x e^R / B`, the value before the trade is
    `V(w) = max_x u(A) + A^q H(x) + discount K(x)`, where `H(x) = E[u(B)]`, `K(x) = E[V(w')]`, `q = 1 - a`, and
    `A = (1 + c w) / (1 + c x)` is the share of wealth that a purchase leaves, `(1 - c w) / (1 - c x)` a sale. H and K
    are smooth, and outside the band V is known from the edges, so only K on the band has to be represented.

    Args:
      growth: mean of the log return R of a bar.
      deviation: its standard deviation.
      cost: c, in [0, 1).
      risk_aversion: a.
      discount: per bar, in (0, 1]; 1 maximises the average reward.
    """

    def __init__(self, growth: float, deviation: float, cost: float, risk_aversion: float, discount: float):
        self.growth, self.deviation, self.cost = growth, deviation, cost
        self.risk_aversion, self.power, self.discount = risk_aversion, 1.0 - risk_aversion, discount
        self._chebyshev, self._fit = chebyshev_points(N_NODES)

    def solve(self, low: float, high: float, allowed: tuple[float, float]) -> bool:
        """Sets the edges of the optimal band from guesses; returns whether they converged inside `allowed`.

        The nodes close in on the band with the iterations, because values bend most at its edges.
        """
        margin = high - low
        for _ in range(ITERATIONS):
            self._cover(max(low - margin, allowed[0]), min(high + margin, allowed[1]))
            self._evaluate(low, high)
            found = self._edge(1.0), self._edge(-1.0)
            change = max(abs(found[0] - low), abs(found[1] - high))
            # Far from the optimum the edges may cross; the band between them is still the better guess.
            middle, half = sum(found) / 2, max(abs(found[1] - found[0]), SMALLEST_MARGIN * (high - low)) / 2
            low, high = max(middle - half, allowed[0]), min(middle + half, allowed[1])
            if not low < high:
                return False
            margin = np.clip(4 * change, SMALLEST_MARGIN * (high - low), high - low)
            if change < TOLERANCE * (high - low):
                break
        self.low, self.high = low, high
        near = 1e-3 * (high - low)
        return allowed[0] + near < low < high < allowed[1] - near and change < 1e3 * TOLERANCE * (high - low)

    def wealth_left(self, weight: np.ndarray, traded: np.ndarray) -> np.ndarray:
        """A: share of wealth left when the weight before the trade becomes `traded` after it, any shape."""
        signed = np.where(traded > weight, self.cost, -self.cost)
        return np.maximum((1.0 + signed * weight) / (1.0 + signed * traded), 1.0 - LARGEST_LOSS)

    def target(self, weight: np.ndarray) -> np.ndarray:
        """Optimal weight after the trade `[m]` from a weight `[m]` before it."""
        bought = self._stationary_point(weight, 1.0)
        sold = self._stationary_point(weight, -1.0)
        return np.where(weight < self.low, bought, np.where(weight > self.high, sold, weight))

    def values(self, weight: np.ndarray, n_bars: int) -> np.ndarray:
        """Value `[m]` of `n_bars` >= 1 bars of the optimal policy of the infinite horizon, from weights `[m]`."""
        later = np.zeros(N_NODES)
        for _ in range(n_bars - 1):
            later = self._constant + self._transition @ later
        return self._before_trade(weight, self.target(weight), later)

    def relative_value(self, weight: np.ndarray) -> np.ndarray:
        """Value `[m]` of the infinite horizon up to a constant, from weights `[m]` before the trade."""
        return self._before_trade(weight, self.target(weight), self._later)

    def _before_trade(self, weight: np.ndarray, traded: np.ndarray, later: np.ndarray) -> np.ndarray:
        basis = self._basis(traded)
        left = self.wealth_left(weight, traded)
        bar = left**self.power * (basis @ self._reward)
        return utility(np.log(left), self.risk_aversion) + bar + self.discount * (basis @ later)

    def _cover(self, first: float, last: float) -> None:
        """Moves the nodes to `[first, last]` and integrates H there."""
        self.first, self.last = first, last
        self.nodes = first + (last - first) * (self._chebyshev + 1) / 2
        _, log_growth, weight = self._outcomes(self.nodes, first, last)
        self._reward = np.sum(weight * utility(log_growth, self.risk_aversion), axis=1)

    def _basis(self, x: np.ndarray) -> np.ndarray:
        """Matrix `[..., N_NODES]` that interpolates node values at x `[...]`."""
        scaled = 2 * (x - self.first) / (self.last - self.first) - 1
        return chebyshev.chebvander(scaled, N_NODES - 1) @ self._fit

    def _outcomes(self, x: np.ndarray, low: float, high: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Quadrature of one bar after a trade to x `[m]`: `[m, K]` next weight, log B, and probabilities."""
        x = x[:, None]
        # The integrand has a kink where the weight leaves the band, so three panels meet there. The odds `w / (1 - w)`
        # grow with the price, which gives the crossings in closed form.
        with np.errstate(divide="ignore", invalid="ignore"):
            odds = np.array([[low, high]]) * (1 - x) / (x * (1 - np.array([[low, high]])))
            crossing = np.where(odds > 0, (np.log(np.abs(odds)) - self.growth) / self.deviation, REACH)
        crossing = np.sort(np.clip(crossing, -REACH, REACH), axis=1)
        ends = np.concatenate([np.full_like(x, -REACH), crossing, np.full_like(x, REACH)], axis=1)
        shock, weight = normal_panels(ends, N_PANEL_NODES)
        simple = np.expm1(self.growth + self.deviation * shock)
        log_growth = np.log1p(x * simple)
        return x * (1 + simple) * np.exp(-log_growth), log_growth, weight

    def _evaluate(self, low: float, high: float) -> None:
        """Sets K of trading to the nearest of two edges: the fixed point of a linear map on the node values."""
        after, _, weight = self._outcomes(self.nodes, low, high)
        traded = np.clip(after, low, high)
        left, basis = self.wealth_left(after, traded), self._basis(traded)
        bar = utility(np.log(left), self.risk_aversion) + left**self.power * (basis @ self._reward)
        self._constant = np.sum(weight * bar, axis=1)
        self._transition = self.discount * np.einsum("mk,mkn->mn", weight, basis)
        system = np.eye(N_NODES) - self._transition
        # K counts up to a constant: no decision depends on it, and it is infinite for discount 1. Node 0 is set to 0.
        system[:, 0] = 1.0
        self._later = np.linalg.solve(system, self._constant)
        self._later[0] = 0.0

    def _marginal(self, x: np.ndarray, left: np.ndarray, side: float) -> np.ndarray:
        """Derivative `[m]` by x of the value of trading to x, where `left` is A; side 1 buys, -1 sells."""
        scale = 2 / (self.last - self.first)
        scaled = scale * (x - self.first) - 1

        def slope(values: np.ndarray) -> np.ndarray:
            return scale * chebyshev.chebval(scaled, chebyshev.chebder(self._fit @ values))

        reward = chebyshev.chebval(scaled, self._fit @ self._reward)
        paid = side * self.cost / (1 + side * self.cost * x)
        bar = slope(self._reward) - paid * (1 + self.power * reward)
        return left**self.power * bar + self.discount * slope(self._later)

    def _edge(self, side: float) -> float:
        """Weight at which the next small purchase (side 1) or sale (side -1) is worth its cost."""
        ends = np.array([self.first]), np.array([self.last])
        return float(decreasing_root(lambda x: self._marginal(x, np.ones_like(x), side), *ends)[0])

    def _stationary_point(self, weight: np.ndarray, side: float) -> np.ndarray:
        """Best weight `[m]` to buy up to (sell down to) from weights `[m]`."""

        def marginal(x: np.ndarray) -> np.ndarray:
            left = (1 + side * self.cost * weight) / (1 + side * self.cost * x)
            return self._marginal(x, left, side)

        return decreasing_root(marginal, np.full(len(weight), self.first), np.full(len(weight), self.last))


class DavisNorman(LognormalProblem):
    """Chooses the weight of one lognormal asset at a proportional cost.

    Model: see `LognormalProblem`. Trading weight w to the target `a` costs `cost |a - w|` of wealth, paid from cash as
    `TradingEnv` does: `G = 1 - cost |a - w| + a (e^R - 1)`, and the next bar finds the weight `w' = a e^R / G`.

    - Criterion: `E[sum_t discount^t u(G_t)]` over `horizon` bars, `u(G) = (G^(1-a) - 1) / (1-a)`, `a = risk_aversion`.
    - State: the weight before the trade. Observation of `TradingEnv(observation="index")`: `asset[0, 0]` is the weight
      in units of `position_limit`.
    - Action `[1, 2]` in [0, 1]: the edges of a band over `position_limit`, which is 1.5 times the upper edge.
    - Reward: `u(G)` of the bar, about `w sigma sqrt(dt)`; `TradingEnv` does not scale it.
    - Start: the weight uniform in [0, position_limit], so that both edges are met. Truncated after `horizon` bars.

    Optimum: the stationary policy of the infinite horizon (of the average reward for discount 1) by policy iteration;
    `optimal_value` is its exact value over `horizon` bars. It trades to the nearest edge of `band()`; from far away the
    target differs from the edge by a share of order `a cost` of the half-width, which is computed too.

    In continuous time the half-width tends to `(3 / (4 a) w*^2 (1 - w*)^2 2 cost)^(1/3)` around Merton's
    `w* = drift / (a volatility^2)` as the cost vanishes, and for `a = 1` that is also the band of terminal utility. For
    `a != 1` rewards that are summed over bars leave out how wealth covaries with later weights. The asset's drift then
    pushes the weight up on average (down for `w* > 1`, or `a < 1`), and the band sits against it by a distance of order
    `cost^(2/3)`: at a cost of 0.5 % and `a = 5` by 15 % of its width.

    Args:
      drift: excess log of the expected gross return, per unit of time, > 0.
      volatility: per square root of a unit of time, > 0.
      risk_aversion: a > 0.
      cost: of a purchase or a sale, fraction of the traded value, in [1e-6, 1); `eps / 2` for ask S and bid
        (1 - eps) S.
      dt: length of a bar, > 0.
      discount: per bar, in (0, 1].
      horizon: bars of an episode.
      n_bars: bars of a table.

    Raises:
      ValueError: a parameter outside its range, bars so long that they risk the account, or a cost so high that one of
        the edges does not exist.

    Reference: Davis and Norman (1990), Portfolio selection with transaction costs, Math. Oper. Res. 15; asymptotics:
    Gerhold, Guasoni, Muhle-Karbe, Schachermayer (2014), Transaction costs, trading volume, and the liquidity premium,
    Finance Stoch. 18, Theorem 2.2.
    """

    def __init__(
        self,
        *,
        drift: float = 0.08,
        volatility: float = 0.16,
        risk_aversion: float = 5.0,
        cost: float = 0.005,
        dt: float = 1 / 12,
        discount: float = 0.99,
        horizon: int = 120,
        n_bars: int | None = None,
    ):
        drift, volatility = positive("drift", drift), positive("volatility", volatility)
        self.cost = checked("cost", cost, SMALLEST_COST <= cost < 1, f"in [{SMALLEST_COST}, 1)")
        self.discount = checked("discount", discount, 0 < discount <= 1, "in (0, 1]")
        super().__init__(drift, volatility, risk_aversion=risk_aversion, dt=dt, horizon=horizon, n_bars=n_bars)
        growth, deviation = float(self.growth[0]), float(self.deviation[0])
        self._program = _BandProgram(growth, deviation, self.cost, self.risk_aversion, self.discount)
        merton = self.merton_weight = drift / (self.risk_aversion * volatility**2)
        largest = 0.999 / -math.expm1(growth - REACH * deviation)
        if 1.1 * merton > largest:
            raise ValueError(f"dt is {dt}; it must be shorter: one bar can ruin an account at the weight {merton:.3g}")
        half = merton - self.asymptotic_band()[0]
        guesses = [(max(merton - k * half, merton / 10), min(merton + k * half, largest)) for k in (1.0, 0.3, 3.0)]
        if not any(self._program.solve(*guess, (1e-3 * merton, largest)) for guess in guesses):
            raise ValueError(
                f"cost is {cost}; it must be lower, discount ({discount}) higher or dt ({dt}) shorter: no band inside "
                f"(0, {largest:.3g}) is worth trading to"
            )
        limit = min(BOX_MARGIN * self._program.high, largest)
        self._trade(actions="band", levels=(0.0, 1.0), position_limit=limit, start="random", commission_rate=self.cost)
        self._weights, self._targets, self._values = self._tabulate()

    def band(self) -> tuple[float, float]:
        """Edges of the band: weights below the first are traded up to it, above the second down to it."""
        return self._program.low, self._program.high

    def asymptotic_band(self) -> tuple[float, float]:
        """Band of the continuous-time problem for small costs, to the order `cost^(1/3)`."""
        merton = self.merton_weight
        cube = 3 / (4 * self.risk_aversion) * merton**2 * (1 - merton) ** 2 * 2 * self.cost
        # Around w* = 1 the price no longer moves the weight, and only the discounted gain decides.
        impatience = self.cost * (1 - self.discount) / (self.risk_aversion * float(self.deviation[0]) ** 2)
        half = max(cube ** (1 / 3), impatience, 1e-3 * merton)
        return merton - half, merton + half

    def optimal_action(self, state: EnvState) -> jax.Array:
        """Edges of the band over the position limit, `[1, 2]`; the target twice where the weight is outside."""
        weight, edges = self._weight(state), jnp.asarray(self.band())
        inside = (weight > edges[0]) & (weight < edges[1])
        edges = jnp.where(inside, edges, jnp.interp(weight, self._weights, self._targets))
        return (edges / self.position_limit)[None]

    def optimal_value(self) -> float:
        """Expected discounted sum of rewards over `horizon` bars, from the uniform law of the starting weight."""
        ends = np.array([0.0, *self.band(), self.position_limit])
        start, weight = (x.ravel() for x in panels(ends[:-1], ends[1:], N_PANEL_NODES))
        density = weight / self.position_limit
        return float(density @ self._program.values(start, self.horizon))

    def tail_value(self, state: EnvState) -> jax.Array:
        """Value of the infinite horizon from `state`, up to a constant, `[]`."""
        return jnp.interp(self._weight(state), self._weights, self._values)

    def _weight(self, state: EnvState) -> jax.Array:
        """Weight of the asset before the trade, `[]`."""
        return weights_of(state.portfolio)[0]

    def _tabulate(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Weights `[n]` up to twice the position limit; the target to order at each, share of wealth; the value."""
        ends = (0.0, *self.band(), 2 * self.position_limit)
        weight = np.unique(np.concatenate([np.linspace(*pair, TABLE_SIZE) for pair in itertools.pairwise(ends)]))
        traded = self._program.target(weight)
        target, value = traded * self._program.wealth_left(weight, traded), self._program.relative_value(weight)
        return jnp.asarray(weight, jnp.float32), jnp.asarray(target, jnp.float32), jnp.asarray(value, jnp.float32)
