"""Quadrature, interpolation and root finding of the dynamic programmes; host-side, float64."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
from numpy.polynomial import chebyshev

BISECTIONS = 60
"""Halvings of an interval until its ends are neighbouring float64 numbers, nearly."""

_legendre = functools.cache(np.polynomial.legendre.leggauss)


def panels(low: np.ndarray, high: np.ndarray, n_nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre rule on each of many intervals.

    Args:
      low: `[...]` lower ends.
      high: `[...]` upper ends.
      n_nodes: n.

    Returns:
      `[..., n]` nodes and `[..., n]` weights.
    """
    node, weight = _legendre(n_nodes)
    half_width = ((high - low) / 2)[..., None]
    return low[..., None] + half_width * (node + 1.0), half_width * weight


def normal_panels(ends: np.ndarray, n_nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Quadrature of standard normal expectations whose integrands have kinks at known points.

    Args:
      ends: `[m, P + 1]` ends of P adjacent panels, increasing; the kinks are among them.
      n_nodes: nodes of a panel, n.

    Returns:
      `[m, P n]` nodes and `[m, P n]` probabilities.
    """
    node, weight = panels(ends[:, :-1], ends[:, 1:], n_nodes)
    node, weight = node.reshape(len(ends), -1), weight.reshape(len(ends), -1)
    return node, weight * np.exp(-(node**2) / 2) / math.sqrt(2 * math.pi)


def chebyshev_points(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Chebyshev points in (-1, 1), increasing, `[n]`, and the map `[n, n]` from values on them to coefficients."""
    node = np.cos((np.arange(n)[::-1] + 0.5) * np.pi / n)
    fit = chebyshev.chebvander(node, n - 1).T * (2.0 / n)
    fit[0] /= 2
    return node, fit


def decreasing_root(function: Callable[[np.ndarray], np.ndarray], first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Finds roots `[m]` of decreasing functions by bisection; an end of the interval where there is none.

    Args:
      function: `[m] -> [m]`.
      first: `[m]` lower ends of the intervals.
      last: `[m]` upper ends.
    """
    for _ in range(BISECTIONS):
        middle = (first + last) / 2
        positive = function(middle) > 0
        first, last = np.where(positive, middle, first), np.where(positive, last, middle)
    return (first + last) / 2
