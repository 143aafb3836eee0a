"""Grossman-Zhou: the fastest growth of wealth that never loses more than a given share of its running maximum."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial import chebyshev

from jaxppo.envs.execution.limits import Constraint
from jaxppo.envs.execution.portfolio import Portfolio, drawdown
from jaxppo.envs.reference.lognormal import RUIN_DEVIATIONS, LognormalProblem
from jaxppo.envs.reference.parameters import checked, positive
from jaxppo.envs.reference.quadrature import chebyshev_points, decreasing_root, normal_panels
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.types import EnvState

N_NODES = 64
N_PANEL_NODES = 48
DEEPEST = 10.0
SHALLOWEST = 4.0
"""Values are represented down to a cushion of `exp(-10)` of wealth, at least `exp(-4)` of the largest cushion."""

ITERATIONS = 50
TOLERANCE = 1e-9
TABLE_SIZE = 512
BOX_MARGIN = 2.0
"""Largest multiple of the cushion over the largest optimal one, where the floor survives so large a position."""


class FloorEnv(TradingEnv):
    """`TradingEnv` whose targets are multiples of the cushion: weight `target (W - floor M) / W`, 0 below the floor.

    Where orders fill at once and in full, only a bar that loses more than `1 / (multiple held)` can breach the floor.

    Args:
      floor: share of the running maximum of the equity that is never lost, in (0, 1).
      **choices: of `TradingEnv`.

    References:
      Grossman and Zhou (1993), Optimal investment strategies for controlling drawdowns, Math. Finance 3, eq. 16.
    """

    def __init__(self, floor: float, **choices: Any):
        super().__init__(**choices)
        if (self.actions, self.start) != ("continuous", "flat"):
            raise ValueError(
                f"actions is {self.actions!r}, start {self.start!r}; a floor needs 'continuous' and 'flat'"
            )
        self.floor = checked("floor", floor, 0 < floor < 1, "in (0, 1)")

    def decode(
        self, action: jax.Array, portfolio: Portfolio, constraint: Constraint | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Decodes an action into weights, as `TradingEnv.decode` does, in multiples of the cushion.

        Args:
          action: `[A]` in the action box.
          portfolio: equity and its maximum say how large the cushion is.
          constraint: as in `TradingEnv.decode`.
        """
        multiple, hold = super().decode(action, portfolio, constraint)
        return multiple * cushion_share(drawdown(portfolio), self.floor), hold


def cushion_share(loss: jax.Array, floor: float) -> jax.Array:
    """Cushion as a share of equity, `(W - floor M) / W`; 0 below the floor.

    Args:
      loss: drawdown `1 - W / M`, any shape.
      floor: share of the maximum, in (0, 1).
    """
    return 1.0 - floor / jnp.maximum(1.0 - loss, floor)


class _FloorProgram:
    """Policy iteration for the long-run growth of wealth above the floor, over the states of the cushion.

    With wealth W, maximum M and floor `alpha M`, the state is `y = log((W - alpha M) / ((1 - alpha) M)) <= 0`. A weight
    `m (W - alpha M) / W` multiplies the cushion by `C = 1 + m (e^R - 1)`, so that `y' = min(y + log C, 0)`: what
    exceeds 0 raises the maximum. Growth g and relative value h solve `g + h(y) = max_m E[log(W'/W) + h(y')]`.
    Far below the maximum, growth comes only from filling the cushion as fast as possible: `h' = g / E[log C]`.

    Args:
      growth: mean of the log return R of a bar.
      deviation: its standard deviation.
      floor: alpha, in (0, 1).
    """

    def __init__(self, growth: float, deviation: float, floor: float):
        self.growth, self.deviation, self.floor = growth, deviation, floor
        self.largest = 1.0 / -math.expm1(growth - RUIN_DEVIATIONS * deviation)
        self.kelly = self._kelly_multiple()
        # The policy bends within a few bars' moves of the maximum: nodes are dense there, logarithmic farther away.
        self._scale = 2 * self.kelly * deviation
        self.deepest = max(DEEPEST + math.log((1 - floor) / floor), SHALLOWEST)
        self._span = math.asinh(self.deepest / self._scale)
        coordinate, self._fit = chebyshev_points(N_NODES)
        self.nodes = self._depth(coordinate)

    def solve(self) -> bool:
        """Sets the optimal multiples on the nodes and the growth of wealth per bar; returns whether they converged."""
        self.multiples, growth = np.full(N_NODES, self.kelly), 0.0
        for _ in range(ITERATIONS):
            self.evaluate()
            if abs(self.growth_of_wealth - growth) <= TOLERANCE * self.growth_of_wealth:
                return True
            growth, self.multiples = self.growth_of_wealth, self._improve()
        return False

    def evaluate(self) -> None:
        """Growth and relative value of the present multiples: a linear system in (h on the nodes, g).

        The value is 0 at the maximum. Multiples that let the cushion dwindle have no growth in the long run.
        """
        _, log_cushion, weight = self._outcomes(self.nodes, self.multiples)
        after = np.minimum(self.nodes[:, None] + log_cushion, 0.0)
        self.filling = float(self._step(np.array([-np.inf]), self.multiples[:1])[0][0])
        _, self._reward = self._step(self.nodes, self.multiples)
        self._transition = np.einsum("mk,mkn->mn", weight, self._basis(after))
        beyond = np.sum(weight * np.minimum(after + self.deepest, 0.0), axis=1) / self.filling
        system = np.zeros((N_NODES + 1, N_NODES + 1))
        system[:-1, :-1] = np.eye(N_NODES) - self._transition
        system[:-1, -1] = 1.0 - beyond
        system[-1, :-1] = self._basis(np.zeros(1))[0]
        *value, growth = np.linalg.solve(system, np.append(self._reward, 0.0))
        self.value, self.growth_of_wealth = np.array(value), float(growth) if self.filling > 0 else 0.0

    def multiple(self, y: np.ndarray) -> np.ndarray:
        """Optimal multiple of the cushion at any y, `[m]`."""
        return np.minimum(chebyshev.chebval(self._coordinate(y), self._fit @ self.multiples), self.largest)

    def relative_value(self, y: np.ndarray) -> np.ndarray:
        """h at any y, `[m]`."""
        slope = self.growth_of_wealth / self.filling
        return self._basis(y) @ self.value + slope * np.minimum(y + self.deepest, 0.0)

    def log_growth(self, n_bars: int) -> float:
        """Expected log growth of wealth over `n_bars` that start at the maximum."""
        total = np.zeros(N_NODES)
        for _ in range(n_bars):
            total = self._reward + self._transition @ total
        return float(self._basis(np.zeros(1))[0] @ total)

    def _depth(self, coordinate: np.ndarray) -> np.ndarray:
        """y of Chebyshev's coordinate in [-1, 1]: 1 is the maximum, -1 the deepest."""
        return -self._scale * np.sinh(self._span * (1 - coordinate) / 2)

    def _coordinate(self, y: np.ndarray) -> np.ndarray:
        """Inverse of `_depth`; constant below the deepest."""
        return np.maximum(1 - 2 * np.arcsinh(-y / self._scale) / self._span, -1.0)

    def _basis(self, y: np.ndarray) -> np.ndarray:
        """Matrix `[..., N_NODES]` that interpolates node values at y `[...]`."""
        return chebyshev.chebvander(self._coordinate(y), N_NODES - 1) @ self._fit

    def cushion_share(self, y: np.ndarray) -> np.ndarray:
        """`(W - alpha M) / W` at y, any shape."""
        cushion = (1 - self.floor) * np.exp(y)
        return cushion / (self.floor + cushion)

    def _outcomes(self, y: np.ndarray, multiple: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Quadrature of one bar from y `[m]`: `[m, K]` simple return of the asset, log C, and probabilities."""
        y, multiple = y[:, None], np.maximum(multiple, 1e-9)[:, None]
        # The integrand has a kink where wealth reaches its maximum, so two panels meet there. Returns of
        # `RUIN_DEVIATIONS` and more below the mean, which would breach the floor, are left out.
        with np.errstate(over="ignore"):
            needed = np.log1p(np.expm1(-y) / multiple)
        crossing = np.clip((needed - self.growth) / self.deviation, -RUIN_DEVIATIONS, RUIN_DEVIATIONS)
        far = np.full_like(crossing, RUIN_DEVIATIONS)
        shock, weight = normal_panels(np.concatenate([-far, crossing, far], axis=1), N_PANEL_NODES)
        simple = np.expm1(self.growth + self.deviation * shock)
        return simple, np.log1p(multiple * simple), weight

    def _step(self, y: np.ndarray, multiple: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean growth of the log cushion without a maximum, and of log wealth, `[m]` each."""
        simple, log_cushion, weight = self._outcomes(y, multiple)
        exposure = (self.cushion_share(y) * multiple)[:, None]
        return np.sum(weight * log_cushion, axis=1), np.sum(weight * np.log1p(exposure * simple), axis=1)

    def _kelly_multiple(self) -> float:
        """Multiple under which the log cushion grows fastest when the maximum is far."""

        def marginal(multiple: np.ndarray) -> np.ndarray:
            simple, log_cushion, weight = self._outcomes(np.array([-np.inf]), multiple)
            return np.sum(weight * simple * np.exp(-log_cushion), axis=1)

        return float(decreasing_root(marginal, np.zeros(1), np.array([self.largest]))[0])

    def _improve(self) -> np.ndarray:
        """Multiples `[N_NODES]` at which the derivative of `E[log(W'/W) + h(y')]` vanishes."""
        slope = chebyshev.chebder(self._fit @ self.value)
        share = self.cushion_share(self.nodes)[:, None]

        def marginal(multiple: np.ndarray) -> np.ndarray:
            simple, log_cushion, weight = self._outcomes(self.nodes, multiple)
            after = self.nodes[:, None] + log_cushion
            per_depth = 2 / (self._span * np.hypot(self._scale, after))
            inside = chebyshev.chebval(self._coordinate(np.minimum(after, 0.0)), slope) * per_depth
            pull = np.where(after < -self.deepest, self.growth_of_wealth / self.filling, inside) * (after < 0)
            gain = share / (1 + share * multiple[:, None] * simple) + pull * np.exp(-log_cushion)
            return np.sum(weight * simple * gain, axis=1)

        return decreasing_root(marginal, np.zeros(N_NODES), np.full(N_NODES, self.largest))


class GrossmanZhou(LognormalProblem):
    """Chooses the weight of one lognormal asset for the fastest growth of wealth above a floor under its maximum.

    Model: see `LognormalProblem`; no cost. Wealth W is compared at each close with `floor` times its running maximum
    M, and the episode terminates where it is below.

    - Criterion: `E[sum_t log(W_{t+1} / W_t)]`, undiscounted, among the policies whose floor survives any bar within
      eight standard deviations of the mean (a breach is rarer than one bar in 10^15).
    - State: `W / M`. Observation of `TradingEnv(observation="index")`: `account[2]` is the drawdown `1 - W / M`.
    - Action `[1]` in [0, 1]: multiple of the cushion over `position_limit`, which is twice the largest optimal
      multiple, or less where the floor would not survive any bar within eight standard deviations at twice that.
    - Reward: the log return of the account; `TradingEnv` does not scale it.
    - Start: flat, at the maximum. Truncated after `horizon` bars; terminated at a breach, which takes a bar that loses
      more than eight standard deviations.

    Optimum: the stationary policy of the fastest long-run growth, for bars of this length, by policy iteration;
    `growth_rate` is that growth, `optimal_value` the exact expected log growth over `horizon` bars from the maximum.
    The latter is larger at first, and larger still for bolder policies, which spend the cushion that the future needs
    (at the defaults this lasts beyond 20 years): compare policies by `growth_rate`, or add `tail_value` of the last
    state. The optimum holds `multiple(W / M) (W - floor M)` in the asset. In continuous time the multiple is constant,
    `drift / volatility^2`, and the growth `(1 - floor) drift^2 / (2 volatility^2)`. Here only closes count: the maximum
    is exceeded by whole bars, growth is somewhat higher, and the optimum holds slightly more near the maximum.

    Args:
      drift: excess log of the expected gross return, per unit of time, > 0.
      volatility: per square root of a unit of time, > 0.
      floor: share of the running maximum that is never lost, alpha, in (0, 1).
      dt: length of a bar, > 0.
      horizon: bars of an episode.
      n_bars: bars of a table.

    Raises:
      ValueError: a parameter outside its range, or bars so long that the optimum cannot hold the floor.

    Reference: Grossman and Zhou (1993), Optimal investment strategies for controlling drawdowns, Math. Finance 3,
    eq. 16; Cvitanic and Karatzas (1995), On portfolio optimization under "drawdown" constraints, IMA 65, section 6.
    """

    discount = 1.0

    def __init__(
        self,
        *,
        drift: float = 0.08,
        volatility: float = 0.2,
        floor: float = 0.5,
        dt: float = 1 / 12,
        horizon: int = 240,
        n_bars: int | None = None,
    ):
        self.floor = checked("floor", floor, 0 < floor < 1, "in (0, 1)")
        model = positive("drift", drift), positive("volatility", volatility)
        super().__init__(*model, risk_aversion=1.0, dt=dt, horizon=horizon, n_bars=n_bars)
        self._program = _FloorProgram(float(self.growth[0]), float(self.deviation[0]), self.floor)
        holds = self._program.kelly < 0.9 * self._program.largest and self._program.solve()
        if not holds:
            raise ValueError(
                f"dt is {dt}; it must be shorter: a bar of {RUIN_DEVIATIONS:.0f} standard deviations must not cost the "
                f"whole cushion, which caps its multiple at {self._program.largest:.3g}, and the optimum needs more"
            )
        grid = np.append(-np.geomspace(self._program.deepest, 1e-5, TABLE_SIZE), 0.0)
        multiple = self._program.multiple(grid)
        largest = float(np.max(multiple))
        limit = max(largest, min(BOX_MARGIN * largest, 0.99 * self._program.largest))
        self._depths, self._multiples = jnp.asarray(grid, jnp.float32), jnp.asarray(multiple, jnp.float32)
        self._values = jnp.asarray(self._program.relative_value(grid), jnp.float32)
        self._trade(
            levels=(0.0, 1.0),
            position_limit=limit,
            start="flat",
            drawdown_limit=1.0 - self.floor,
            make_env=functools.partial(FloorEnv, self.floor),
        )

    def multiple(self, share_of_maximum: jax.Array) -> jax.Array:
        """Optimal position over the cushion `W - floor M` at a share `W / M` in [floor, 1], any shape."""
        return jnp.interp(self._depth(share_of_maximum), self._depths, self._multiples)

    def optimal_action(self, state: EnvState) -> jax.Array:
        """Optimal multiple of the cushion over `position_limit`, `[1]`."""
        return (self.multiple(1.0 - drawdown(state.portfolio)) / self.position_limit)[None]

    def optimal_value(self) -> float:
        """Expected log growth of wealth over `horizon` bars of the optimal policy, from the maximum."""
        return self._program.log_growth(self.horizon)

    def tail_value(self, state: EnvState) -> jax.Array:
        """Log wealth lost in the long run by the cushion of `state` against one at the maximum, `[]`, <= 0.

        With it, `E[sum of rewards + tail_value(end)]` is largest for the optimum over every horizon, and equals
        `growth_rate() dt horizon` for it from a start at the maximum.
        """
        return jnp.interp(self._depth(1.0 - drawdown(state.portfolio)), self._depths, self._values)

    def growth_rate(self, weight: Callable[[np.ndarray], np.ndarray] | None = None) -> float:
        """Exact long-run growth of log wealth per unit of time, which simulation would need centuries to measure.

        Args:
          weight: policy of the drawdown: weight of the asset `[n]` at `W / M` `[n]`, float64, >= 0; capped at what the
            floor survives. Default: the optimum.
        """
        program = self._program
        if weight is not None:
            program = copy.copy(program)
            cushion = (1.0 - self.floor) * np.exp(program.nodes)
            share = cushion / (self.floor + cushion)
            multiples = np.asarray(weight(self.floor + cushion), np.float64) / share
            program.multiples = np.clip(multiples, 0.0, 0.999 * program.largest)
            program.evaluate()
        return program.growth_of_wealth / self.dt

    def _depth(self, share_of_maximum: jax.Array) -> jax.Array:
        """State y at a share `W / M` of the maximum, any shape."""
        cushion = (share_of_maximum - self.floor) / (1.0 - self.floor)
        return jnp.log(jnp.maximum(cushion, jnp.finfo(jnp.float32).tiny))
