"""Natural cubic splines on an even grid, as linear maps of the values on it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


class CubicSplines:
    """Splines through values on even knots `x_i` with spacing h; the second derivatives m_i are 0 at both ends.

    `s(x) = w v_i + u v_{i+1} + h^2 / 6 ((w^3 - w) m_i + (u^3 - u) m_{i+1})` with `u = (x - x_i) / h`, `w = 1 - u`.

    Args:
      knots: `[N]`, N >= 3.
    """

    def __init__(self, knots: np.ndarray):
        self.knots, self.step = knots, knots[1] - knots[0]
        n = len(knots) - 2
        system = 4 * np.eye(n) + np.eye(n, k=1) + np.eye(n, k=-1)
        differences = np.eye(n, n + 2) - 2 * np.eye(n, n + 2, k=1) + np.eye(n, n + 2, k=2)
        self._second = np.zeros((n + 2, n + 2))
        self._second[1:-1] = np.linalg.solve(system, 6 * differences / self.step**2)

    def _place(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Index of the knot to the left of x, and u."""
        scaled = (x - self.knots[0]) / self.step
        left = np.clip(np.floor(scaled).astype(int), 0, len(self.knots) - 2)
        return left, scaled - left

    def matrix(self, x: np.ndarray) -> np.ndarray:
        """Matrix `[..., N]` from values to the spline at x `[...]`, within the knots."""
        left, u = self._place(x)
        unit = np.eye(len(self.knots))
        return self._at(u[..., None], unit[left], unit[left + 1], self._second[left], self._second[left + 1])

    def reader(self, x: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """Function from values `[F, N]` to their splines at x `[F, M]`, within the knots."""
        left, u = self._place(x)

        def read(values: np.ndarray) -> np.ndarray:
            second = values @ self._second.T
            pairs = (np.take_along_axis(array, left + i, axis=1) for array in (values, second) for i in (0, 1))
            return self._at(u, *pairs)

        return read

    def slope(self, values: np.ndarray, points: int) -> np.ndarray:
        """Derivative `[F, points (N - 1) + 1]` of splines at evenly spaced points.

        Args:
          values: `[F, N]` on the knots.
          points: points from one knot to the next.
        """
        second = values @ self._second.T
        left = np.minimum(np.arange(points * (len(self.knots) - 1) + 1) // points, len(self.knots) - 2)
        u = np.arange(len(left)) / points - left
        bend = (3 * u**2 - 1) * second[:, left + 1] - (3 * (1 - u) ** 2 - 1) * second[:, left]
        return (values[:, left + 1] - values[:, left]) / self.step + self.step / 6 * bend

    def _at(self, u: np.ndarray, v0: np.ndarray, v1: np.ndarray, m0: np.ndarray, m1: np.ndarray) -> np.ndarray:
        w = 1 - u
        return w * v0 + u * v1 + self.step**2 / 6 * ((w**3 - w) * m0 + (u**3 - u) * m1)
