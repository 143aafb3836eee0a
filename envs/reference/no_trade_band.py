"""Optimal no-trade band for an AR(1) signal under proportional cost, solved level by level of the position.

In the units of this file the signal is `p' = decay p + z`, z standard normal; one unit of level c earns `p - c` a step,
and a trade costs `cost`. A position is a stack of levels, `x = int 1{x > c} dc` for c > 0 (mirrored for c < 0). Hence
`p x - x^2 / 2 - cost |dx| = int [(p - c) I_c - cost |dI_c|] dc` with `I_c = 1{x > c}`: the problem separates into one
switching problem per level, in one variable.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from jaxppo.envs.reference.quadrature import panels

RANGE_DEVIATIONS = 6.0
RAREST_TRADE = 3.0
N_LEVELS = 64
HOWARD_STEPS = 40
TOLERANCE = 1e-10


def _normal_density(x: np.ndarray) -> np.ndarray:
    """Standard normal density, any shape."""
    return np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


def normal_tail(x: np.ndarray) -> np.ndarray:
    """Tail probability `P(Z > x)` of a standard normal, any shape."""
    flat = [math.erfc(value / math.sqrt(2)) / 2 for value in np.ravel(x)]
    return np.reshape(np.asarray(flat), np.shape(x))


def stationary_deviation(decay: float) -> float:
    """Standard deviation of the stationary signal, for innovations of variance 1."""
    return 1.0 / math.sqrt(1.0 - decay**2)


def _count_nodes(width: float) -> int:
    """Gauss-Legendre nodes on an interval of `width` that integrate the transition density to about 1e-10."""
    return 16 + math.ceil(3 * width)


def _kernel(decay: float, sell: np.ndarray, buy: np.ndarray, n_nodes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes on bands from `sell` to `buy` `[L]`, and the transition law among them.

    Returns:
      `[L, n]` nodes, `[L, n]` quadrature weights, and `[L, n, n]` transition density from row to column times weight.
    """
    node, weight = panels(sell, buy, n_nodes)
    return node, weight, _normal_density(node[:, None, :] - decay * node[:, :, None]) * weight[:, None, :]


@dataclasses.dataclass(frozen=True)
class Band:
    """Edges of the band by level: a level is bought above `buy`, sold below `sell`, left alone between.

    Attributes:
      level: `[L]` c > 0, Gauss-Legendre nodes on the range of positions.
      weight: `[L]` quadrature weights of the levels.
      sell: `[L]` signal.
      buy: `[L]` signal.
    """

    level: np.ndarray
    weight: np.ndarray
    sell: np.ndarray
    buy: np.ndarray


def _improve(level: float, edges: np.ndarray, decay: float, cost: float, discount: float) -> tuple[np.ndarray, float]:
    """One step of Howard's policy iteration on the edges `[2]` (sell, buy) of a level.

    The marginal value of the level solves `w(p) = p - level + discount E[clip(w(p'), -cost, cost)]`. With the edges
    given, the clip is known outside the band and the equation is linear inside (Nystrom's method). The better edges
    solve `w = -cost` and `w = cost`; one Newton step goes there, and converges quadratically because the edges are a
    stationary point of w.

    Returns:
      The next edges, and the largest residual of the two conditions.
    """
    node, weight, transition = _kernel(decay, edges[:1], edges[1:], _count_nodes(edges[1] - edges[0]))
    node, weight, transition = node[0], weight[0], transition[0]

    def outside(p: np.ndarray) -> np.ndarray:
        return p - level + discount * cost * (normal_tail(edges[1] - decay * p) - normal_tail(decay * p - edges[0]))

    w = np.linalg.solve(np.eye(node.size) - discount * transition, outside(node))
    gap = node - decay * edges[:, None]
    value = outside(edges) + discount * (_normal_density(gap) * weight) @ w
    density = _normal_density(edges[1] - decay * edges) + _normal_density(edges[0] - decay * edges)
    slope = 1.0 + discount * decay * (cost * density + (_normal_density(gap) * gap * weight) @ w)
    residual = value - cost * np.array([-1.0, 1.0])
    return edges - residual / slope, float(np.max(np.abs(residual)))


def _solve_level(level: float, edges: np.ndarray, decay: float, cost: float, discount: float) -> np.ndarray | None:
    """Edges `[2]` of a level from a first guess; None where the iteration leaves the range or does not converge."""
    deviation = stationary_deviation(decay)
    for _ in range(HOWARD_STEPS):
        new, residual = _improve(level, edges, decay, cost, discount)
        if residual < TOLERANCE * cost + 1e-13 * deviation:
            return edges
        if not (new[0] < new[1] and np.max(np.abs(new)) < 3 * RANGE_DEVIATIONS * deviation):
            return None
        edges = new
    return None


def solve_band(decay: float, cost: float, discount: float) -> Band | None:
    """Solves for the band, up to the level that is bought at six stationary standard deviations of the signal.

    Args:
      decay: autocorrelation of the signal over a step, in [0, 1).
      cost: per unit traded, > 0.
      discount: per step, in (0, 1].

    Returns:
      The band; None where the cost is so high that level 0 is bought only beyond three standard deviations.
    """
    deviation = stationary_deviation(decay)
    half_width = min(cost, max((1.5 * cost) ** (1 / 3), cost * (1.0 - discount * decay)))
    start = _solve_level(0.0, half_width * np.array([-1.0, 1.0]), decay, cost, discount)
    if start is None or start[1] > RAREST_TRADE * deviation:
        return None
    # Continuation: the edges of a level are a good guess for those of the next. A step that fails is halved.
    levels, edges, step = [0.0], [start], 0.01 * deviation
    while edges[-1][1] < RANGE_DEVIATIONS * deviation:
        slope = (edges[-1] - edges[-2]) / (levels[-1] - levels[-2]) if len(levels) > 1 else np.ones(2)
        level = levels[-1] + step
        found = _solve_level(level, edges[-1] + slope * step, decay, cost, discount)
        if found is None:
            step /= 2
            continue
        step *= min(2.0, 0.25 * deviation / (found[1] - edges[-1][1]))
        levels.append(level)
        edges.append(found)
    sell, buy = np.asarray(edges).T
    node, weight = np.polynomial.legendre.leggauss(N_LEVELS)
    end = np.interp(RANGE_DEVIATIONS * deviation, buy, levels) / 2
    node = end * (node + 1.0)
    guess = np.stack([np.interp(node, levels, sell), np.interp(node, levels, buy)], axis=1)
    solved = [_solve_level(c, first, decay, cost, discount) for c, first in zip(node, guess, strict=True)]
    sell, buy = np.asarray(solved).T
    return Band(node, end * weight, sell, buy)


class BandValue:
    """Exact moments of the position under a band, by quadrature over levels and the signal in the band.

    `u_t(p) = P(I_t = 1 | p_t = p)` follows `u_t(p) = P(p' > buy | p) + int_band u_{t-1}(p') P(dp' | p)`, because a
    stationary Gaussian AR(1) is reversible.

    Args:
      band: for levels c > 0; level -c is sold where level c is bought with the opposite signal.
      decay: of the signal, in [0, 1).
    """

    def __init__(self, band: Band, decay: float):
        self.band = band
        deviation, n_nodes = stationary_deviation(decay), _count_nodes(float(np.max(band.buy - band.sell)))
        node, weight, self._transition = _kernel(decay, band.sell, band.buy, n_nodes)
        self._density = weight * _normal_density(node / deviation) / deviation
        self._enter = normal_tail(band.buy[:, None] - decay * node)
        self._leave = self._density * normal_tail(decay * node - band.sell[:, None])
        self._profit = self._density * (node - band.level[:, None])
        # Constants of the region above the band, where a level is always on.
        self._above = normal_tail(band.buy / deviation)
        at_edge = deviation * _normal_density(band.buy / deviation)
        self._profit_above = at_edge - band.level * self._above
        tail, tail_weight = panels(band.buy, band.buy + 10 * deviation, _count_nodes(10 * deviation))
        falls = normal_tail(decay * tail - band.sell[:, None])
        self._leave_above = np.sum(tail_weight * _normal_density(tail / deviation) / deviation * falls, axis=1)
        self._stationary = np.linalg.solve(np.eye(n_nodes) - self._transition, self._enter[..., None])[..., 0]

    def _step(self, on: np.ndarray) -> np.ndarray:
        return self._enter + np.einsum("lij,lj->li", self._transition, on)

    def _held(self, on: np.ndarray) -> np.ndarray:
        return self._above + np.sum(self._density * on, axis=1)

    def _reward(self, before: np.ndarray, on: np.ndarray, cost: float) -> float:
        sold = self._leave_above + np.sum(self._leave * before, axis=1)
        traded = 2 * sold + self._held(on) - self._held(before)
        profit = self._profit_above + np.sum(self._profit * on, axis=1)
        return 2.0 * float(self.band.weight @ (profit - cost * traded))

    def average_reward(self, cost: float) -> float:
        """Stationary mean of `p x - x^2 / 2 - cost |dx|` per step."""
        return self._reward(self._stationary, self._stationary, cost)

    def mean_square(self) -> float:
        """Stationary mean of the squared position."""
        return 2.0 * float(self.band.weight @ (2 * self.band.level * self._held(self._stationary)))

    def discounted_reward(self, cost: float, discount: float, n_steps: int) -> float:
        """Mean discounted sum of the rewards of `n_steps` steps from position 0 and a stationary signal.

        Args:
          cost: per unit traded.
          discount: in (0, 1].
          n_steps: >= 1.
        """
        on = np.zeros_like(self._enter)
        first = self._profit_above - cost * self._above
        total, weight = 2.0 * float(self.band.weight @ first), 1.0
        for step in range(1, n_steps):
            before, on, weight = on, self._step(on), weight * discount
            reward = self._reward(before, on, cost)
            if np.max(np.abs(on - before)) < 1e-13:  # stationary: the remaining rewards are equal
                remaining = n_steps - step
                series = remaining if discount == 1.0 else (1.0 - discount**remaining) / (1.0 - discount)
                return total + weight * series * reward
            total += weight * reward
        return total
