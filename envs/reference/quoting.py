"""Optimal quotes of a market maker for discrete time steps, by exact dynamic programming over time and inventory.

In a step, market orders arrive on each side with probability `arrival`, independently, and fill a quote at `depth` from
the mid-price with probability `arrival exp(-fill_decay depth)`. Axes: S = 2 for the sides (bid, ask), Q = 2
inventory_limit + 1 inventories from short to long. A side that is not quoted has infinite depth.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

MAX_ROUNDS = 500
TOLERANCE = 1e-13


@dataclasses.dataclass(frozen=True)
class QuoteLaw:
    """Parameters of the dynamic programme of quotes.

    Attributes:
      n_steps: to the end.
      arrival: probability of a market order on a side in a step, in (0, 1].
      fill_decay: k, per unit of depth, > 0.
      risk_aversion: absolute (CARA), per unit of wealth, >= 0.
      running_penalty: per squared unit of inventory after the fills of a step, >= 0.
      terminal_penalty: per squared unit of inventory at the end, >= 0.
      inventory_limit: >= 1; at the limit the side that would exceed it is not quoted.
    """

    n_steps: int
    arrival: float
    fill_decay: float
    risk_aversion: float
    running_penalty: float
    terminal_penalty: float
    inventory_limit: int

    @property
    def inventories(self) -> np.ndarray:
        """Inventories from short to long, `[Q]`."""
        return np.arange(-self.inventory_limit, self.inventory_limit + 1.0)

    @property
    def quoted(self) -> np.ndarray:
        """Sides that may trade, `[S, Q]` bool."""
        limit = self.inventory_limit
        return np.stack([self.inventories < limit, self.inventories > -limit])

    @property
    def markup(self) -> float:
        """Optimal depth when inventory does not matter, `log(1 + risk_aversion / k) / risk_aversion`."""
        if self.risk_aversion == 0.0:
            return 1.0 / self.fill_decay
        return math.log1p(self.risk_aversion / self.fill_decay) / self.risk_aversion

    def fill_probabilities(self, depths: np.ndarray) -> np.ndarray:
        """Probabilities of a fill `[..., S, Q]` for depths `[..., S, Q]`."""
        return np.where(self.quoted, self.arrival * np.exp(-self.fill_decay * depths), 0.0)


def certain_gain(gain: np.ndarray, log_probability: np.ndarray, risk_aversion: float) -> np.ndarray:
    """Certainty equivalent of a chance to win, `-log E[exp(-a G)] / a`; the mean for a = 0.

    Args:
      gain: G where it is won, any shape; else 0.
      log_probability: of winning.
      risk_aversion: a, >= 0.
    """
    probability = np.exp(log_probability)
    if risk_aversion == 0.0:
        return probability * gain
    exponent = -risk_aversion * gain
    change = probability * np.expm1(np.minimum(exponent, 1.0))
    # Far from 0 the sum is taken in logs, which cannot overflow; near 0 by `log1p`, which does not cancel. The log of
    # zero is that of a certain gain.
    with np.errstate(divide="ignore"):
        far = np.logaddexp(np.log1p(-probability), log_probability + exponent)
    near = (np.abs(change) < 0.5) & (exponent < 1.0)
    return -np.where(near, np.log1p(np.maximum(change, -0.5)), far) / risk_aversion


def _best_quotes(law: QuoteLaw, later: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Optimal depths `[S, Q]` of one step, and certainty equivalent `[Q]` before it.

    Both sides can fill in the same step, which couples them. Given the other side, the best depth is
    `markup - (filled - unfilled)`, at least 0, with the certainty equivalents after a fill of this side and without
    it; the two conditions are iterated, and the objective rises with every round. Without risk aversion it is concave
    in the fill probabilities, and has one stationary point, if `arrival * k` times the curvature of `later` is below
    1. Beyond, the best of three starts is taken.

    Args:
      law: of the problem.
      later: `[Q]` certainty equivalent of an inventory after the step's fills.
    """
    # By side: certainty equivalent after a fill of the bid, after one of the ask.
    after = np.where(law.quoted, np.stack([np.roll(later, -1), np.roll(later, 1)]), later)
    log_arrival = np.where(law.quoted, math.log(law.arrival), -np.inf)

    def respond(side: int, opposite: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        other = 1 - side
        chance = log_arrival[other] - law.fill_decay * opposite
        back = opposite + later - after[side]
        filled = after[side] + certain_gain(back, chance, law.risk_aversion)
        unfilled = later + certain_gain(opposite + after[other] - later, chance, law.risk_aversion)
        depth = np.maximum(law.markup - (filled - unfilled), 0.0)
        chance = log_arrival[side] - law.fill_decay * depth
        return depth, unfilled + certain_gain(depth + filled - unfilled, chance, law.risk_aversion)

    ask = np.repeat([[0.0], [law.markup], [100.0 / law.fill_decay]], later.size, axis=1)
    for _ in range(MAX_ROUNDS):
        bid, _ = respond(0, ask)
        previous, (ask, value) = ask, respond(1, bid)
        if np.max(np.abs(ask - previous)) <= TOLERANCE * (law.markup + np.max(np.abs(ask))):
            break
    best = np.argmax(value, axis=0)[None]
    depths = np.stack([np.take_along_axis(depth, best, axis=0)[0] for depth in (bid, ask)])
    return np.where(law.quoted, depths, np.inf), np.take_along_axis(value, best, axis=0)[0]


def solve_quotes(law: QuoteLaw) -> tuple[np.ndarray, np.ndarray]:
    """Solves for the optimal depths >= 0, step by step backwards.

    `v_t(q) = max CE[gains of the fills + v_{t+1}(q') - running_penalty q'^2]`, `v_T(q) = -terminal_penalty q^2`.

    Returns:
      `[n_steps, S, Q]` depths and `[n_steps + 1, Q]` values v.
    """
    square = law.inventories**2
    values = [-law.terminal_penalty * square]
    depths = []
    for _ in range(law.n_steps):
        depth, value = _best_quotes(law, values[-1] - law.running_penalty * square)
        depths.append(depth)
        values.append(value)
    return np.asarray(depths[::-1]), np.asarray(values[::-1])


def occupancy(law: QuoteLaw, depths: np.ndarray) -> np.ndarray:
    """Probabilities `[n_steps + 1, Q]` of the inventories over time, from inventory 0.

    Args:
      law: of the problem.
      depths: `[n_steps, S, Q]`.
    """
    law_of_inventory = [np.where(law.inventories == 0, 1.0, 0.0)]
    for bid, ask in law.fill_probabilities(depths):
        mass = law_of_inventory[-1]
        down, up = mass * ask * (1.0 - bid), mass * bid * (1.0 - ask)
        moved = mass - down - up
        moved[:-1] += down[1:]
        moved[1:] += up[:-1]
        law_of_inventory.append(moved)
    return np.asarray(law_of_inventory)


def root_mean_squares(law: QuoteLaw, depths: np.ndarray, noise: float) -> tuple[float, float]:
    """Root mean squares, over the steps, of the change of marked wealth and of the inventory after the fills.

    Args:
      law: of the problem.
      depths: `[n_steps, S, Q]`.
      noise: standard deviation of the mid-price over a step; it moves the inventory after the fills.
    """
    visited, chance = occupancy(law, depths), law.fill_probabilities(depths)
    gain = np.where(chance > 0, depths, 0.0)
    earned = np.sum(chance * gain**2, axis=1) + 2 * np.prod(chance * gain, axis=1)
    inventory = float(np.mean(visited[1:] @ law.inventories**2))
    return math.sqrt(np.sum(visited[:-1] * earned) / law.n_steps + noise**2 * inventory), math.sqrt(inventory)
