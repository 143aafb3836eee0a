"""Correlations of series with missing bars, and roots to draw with; host-side, float64."""

from __future__ import annotations

import numpy as np

FEWEST_PAIRS = 10
SMALLEST_EIGENVALUE = 1e-6


def pairwise_correlation(values: np.ndarray, known: np.ndarray, otherwise: np.ndarray | float = 0.0) -> np.ndarray:
    """Correlation `[A, A]` of each pair over the bars at which both are known.

    Args:
      values: `[T, A]`, any value where not known.
      known: `[T, A]` bool.
      otherwise: correlation of pairs with fewer than 10 bars in common; `[A, A]` or a number.
    """
    count = known.sum(axis=0)
    mean = np.where(known, values, 0.0).sum(axis=0) / np.maximum(count, 1)
    centred = np.where(known, values - mean, 0.0)
    both = known.astype(np.float64)
    squares = (centred**2).T @ both
    scale = np.sqrt(squares * squares.T)
    found = (both.T @ both >= FEWEST_PAIRS) & (scale > 0)
    result = np.where(found, centred.T @ centred / np.where(scale > 0, scale, 1.0), otherwise)
    np.fill_diagonal(result, 1.0)
    return result


def correlation_root(correlation: np.ndarray) -> np.ndarray:
    """Root L `[A, A]` with `L L' = correlation`, of a positive definite correlation matrix near the given one.

    Pairwise estimates need not be positive definite: eigenvalues are raised to 1e-6 and the diagonal is scaled to 1.
    """
    values, vectors = np.linalg.eigh((correlation + correlation.T) / 2)
    root = vectors * np.sqrt(np.maximum(values, SMALLEST_EIGENVALUE))
    return root / np.sqrt(np.square(root).sum(axis=1, keepdims=True))
