"""Distortion risk measures of a distribution that is known by N quantiles.

A distortion `g` from [0, 1] onto [0, 1] moves probability towards bad outcomes:

    rho(Z) = int_0^1 F^-1(tau) dg(tau),    g increasing and concave.

The N quantiles are those at `tau_i = (i - 1/2) / N`, each the middle of a cell `[(i - 1) / N, i / N]` of probability. A
cell weighs `w_i = g(i / N) - g((i - 1) / N)`, so `rho = sum_i w_i q_i`.

Quantiles are sorted before they are weighed: those of a network may cross, and weights by position would then belong to
no distribution, and let more aversion raise the value. Sorted they are the quantile function of the N equally likely
atoms, which is never farther from the true one than the unsorted quantiles (Chernozhukov et al. 2010.
https://arxiv.org/abs/0704.3649).

Weights are static: NumPy, float64, exact at the edges of cells.
"""

from __future__ import annotations

from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np


def midpoints(n: int) -> np.ndarray:
    """Levels `[N]` of the quantiles, `(i - 1/2) / N`.

    Reference: Dabney et al. (2018), lemma 2. https://arxiv.org/abs/1710.10044
    """
    return (np.arange(n) + 0.5) / n


def distort(share: np.ndarray, kind: str, level: float) -> np.ndarray:
    """Distorts probabilities: `g(share)` is the weight of the worst `share` of the outcomes.

    Args:
      share: `[...]` probabilities in [0, 1].
      kind: "cvar", `min(tau / level, 1)`: the mean of the worst `level` of the outcomes; "wang",
        `Phi(Phi^-1(tau) + level)`, which takes `level` standard deviations off the mean of a normal distribution;
        "power", `1 - (1 - tau)^(1 + level)`: for a whole `level` the mean of the worst of `1 + level` independent
        draws; "none", `tau`: the mean.
      level: "cvar": in (0, 1], smaller is more averse; "wang" and "power": > 0, larger is more averse; "none": unread.

    Returns:
      `[...]` in [0, 1].

    Raises:
      ValueError: an unknown kind, or a level outside its range.

    References:
      Wang (2000), "A class of distortion operators for pricing financial and insurance risks", Journal of Risk and
      Insurance 67; Dabney et al. (2018b), section 3.1, whose beta is the inverse of g. https://arxiv.org/abs/1806.06923
    """
    share = np.asarray(share, np.float64)
    if kind == "none":
        return share
    if kind not in ("cvar", "wang", "power"):
        raise ValueError(f"kind is {kind!r}; it must be none, cvar, wang or power")
    if not level > 0.0 or (kind == "cvar" and level > 1.0):
        raise ValueError(f"level is {level}; {kind} takes one {'in (0, 1]' if kind == 'cvar' else '> 0'}")
    if kind == "cvar":
        return np.minimum(share / level, 1.0)
    if kind == "power":
        return 1.0 - (1.0 - share) ** (1.0 + level)
    normal, inside = NormalDist(), (share > 0.0) & (share < 1.0)
    moved = [normal.cdf(normal.inv_cdf(tau) + level) for tau in share[inside]]
    found = share.copy()
    found[inside] = moved
    return found


def cell_weights(n: int, kind: str, level: float = 0.0) -> np.ndarray:
    """Weights `[N]` of N quantiles in ascending order, `g(i / N) - g((i - 1) / N)`; they are >= 0 and sum to 1.

    Args:
      n: number N of quantiles, >= 1.
      kind: "none", "cvar", "wang" or "power", the distortions of `distort`.
      level: degree of aversion, in the range that `distort` takes.

    Raises:
      ValueError: an unknown kind, or a level outside its range.
    """
    return np.diff(distort(np.arange(n + 1) / n, kind, level))


def distorted_value(quantiles: jax.Array, weights: np.ndarray) -> jax.Array:
    """Computes `rho = sum_i w_i q_(i)`, with `q_(i)` the quantiles in ascending order.

    Args:
      quantiles: `[..., N]`, in any order.
      weights: `[N]` from `cell_weights`.

    Returns:
      `[...]` in the unit of the quantiles.
    """
    # Not a matrix product: accelerators would round its inputs.
    return (jnp.sort(quantiles, axis=-1) * _shaped(weights, quantiles.ndim)).sum(axis=-1)


def marginal_utility(outcome: jax.Array, quantiles: jax.Array, weights: np.ndarray) -> jax.Array:
    """Derivative of `rho` in the probability of an outcome, up to a constant: `u` with `u' = g'(F)`.

    For `F` moved towards a point mass at x, `d rho = u(x) - E[u]`. With the quantile function linear between the N
    quantiles, cell i ends at `e_i = (q_(i) + q_(i+1)) / 2` and `u` rises by `N w_i` per unit within it: piecewise
    linear, increasing, and concave for a concave distortion. For "cvar" it is `min(x, value at risk) / level`; for
    equal weights it is x.

    Args:
      outcome: `[..., M]`.
      quantiles: `[..., N]`, in any order.
      weights: `[N]` from `cell_weights`.

    Returns:
      `[..., M]`.

    References:
      Huber and Ronchetti (2009), "Robust Statistics", chapter 3: `u - E[u]` is the influence function of an L-estimate;
      Tamar et al. (2015), for "cvar". https://arxiv.org/abs/1404.3862
    """
    slopes = np.asarray(weights) * len(weights)
    bends = np.diff(slopes)
    used = np.flatnonzero(bends)
    mean = quantiles.mean(axis=-1, keepdims=True)  # of large values only the differences count
    outcome, ordered = outcome - mean, jnp.sort(quantiles, axis=-1) - mean
    found = float(slopes[0]) * outcome
    if used.size:
        edges = 0.5 * (ordered[..., used] + ordered[..., used + 1])
        beyond = jax.nn.relu(outcome[..., :, None] - edges[..., None, :])
        found = found + (beyond * _shaped(bends[used], beyond.ndim)).sum(axis=-1)
    return found


def _shaped(x: np.ndarray, ndim: int) -> jax.Array:
    """Shapes `[N]` as float32 with leading axes of length 1."""
    return jnp.asarray(x, jnp.float32).reshape((1,) * (ndim - 1) + (-1,))
