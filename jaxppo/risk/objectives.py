"""Utilities of the return of an episode, whose expectation is learned instead of the expected return.

A utility `U(D, threshold)` of the return D of an episode is paid to the learner in increments, `U(D_t) - U(D_{t-1})`
for the bar t, where `D_t` is the return of the episode up to then. They add up to `U(D_T) - U(0)`, so a learner of
undiscounted rewards (`gamma = 1`) maximises `E[U(D)]` exactly, whatever the length of episodes; with a discount late
increments count less. The threshold is learned beside the policy from the returns of finished episodes.

The best policy under such an objective may depend on `D_t` (Bauerle & Ott, "Markov decision processes with
average-value-at-risk criteria", Math. Methods Oper. Res. 2011, section 4). Training finds the best among the policies
that the observation allows; the trading policy sees its drawdown, not `D_t`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxppo.arguments import Fraction, OpenFraction, PositiveCoefficient, checked
from jaxppo.risk import batch

LARGEST_EXPONENT = 30.0
"""Exponent up to which the exponential utility is one: far beyond any loss of equity, and finite in float32."""


class EpisodeUtility(NamedTuple):
    """A utility of the return of an episode as pure functions.

    Attributes:
      name: of its kind.
      learn: `(returns, counted) -> []`, the best threshold for the returns that are `counted`, any shape; runs under
        `shard_map`. None without a threshold.
      utility: `(returns, threshold []) -> utilities`, any shape.
    """

    name: str
    learn: Callable[[jax.Array, jax.Array], jax.Array] | None
    utility: Callable[[jax.Array, jax.Array], jax.Array]


def expected() -> EpisodeUtility:
    """Maximises the expected return of an episode: `U = D`."""
    return EpisodeUtility("expected", None, lambda returns, _: returns)


@checked
def cvar(level: OpenFraction = 0.95, weight: Fraction = 1.0) -> EpisodeUtility:
    """Maximises the mean of the worst `1 - level` of the episodes, mixed with the mean of all.

    `U = (1 - w) D + w (eta - (eta - D)^+ / (1 - level))`. The expectation of the bracket, maximised over eta, is the
    mean of the worst `1 - level`, which is minus the conditional value at risk of the loss; the best eta is the
    `1 - level` quantile of D (Rockafellar-Uryasev). For weight w < 1 and the multiplier `lambda = w / (1 - w)` this is
    the Lagrangian of CVaR-PPO, `E[D] - lambda CVaR`.

    Args:
      level: the worst `1 - level` of the episodes count.
      weight: weight w of the worst episodes; the rest is the mean of all.

    References:
      Rockafellar & Uryasev, "Optimization of conditional value-at-risk", Journal of Risk 2000, theorem 1.
      Ying et al., "Towards safe reinforcement learning via constraining conditional value-at-risk", IJCAI 2022, eq. 7.
    """
    tail = 1.0 - level

    def utility(returns: jax.Array, threshold: jax.Array) -> jax.Array:
        worst = threshold - jnp.maximum(threshold - returns, 0.0) / tail
        return (1.0 - weight) * returns + weight * worst

    return EpisodeUtility("cvar", lambda returns, counted: batch.quantile(returns, counted, tail), utility)


@checked
def mean_variance(aversion: PositiveCoefficient = 1.0) -> EpisodeUtility:
    """Maximises the mean less `c / 2` times the variance: `U = D - c / 2 (D - m)^2`.

    `Var(D)` is the minimum of `E[(D - m)^2]` over m, taken at the mean, so policy and m maximise the same expectation.

    Args:
      aversion: risk aversion c per unit of return.

    Reference: Xie et al., "A block coordinate ascent algorithm for mean-variance optimization", NeurIPS 2018, eq. 6.
    """
    return EpisodeUtility("mean_variance", batch.mean, lambda x, m: x - 0.5 * aversion * jnp.square(x - m))


@checked
def exponential(aversion: PositiveCoefficient = 1.0) -> EpisodeUtility:
    """Maximises a utility of constant absolute risk aversion: `U = (1 - exp(-c D)) / c`.

    Beyond `-c D = 30` it goes on as its tangent, so that a ruinous episode costs a finite float32 number.

    Args:
      aversion: risk aversion c per unit of return.

    Reference: Howard & Matheson, "Risk-sensitive Markov decision processes", Management Science 1972, eq. 2.
    """

    def utility(returns: jax.Array, _: jax.Array) -> jax.Array:
        exponent = -aversion * returns
        bounded = jnp.minimum(exponent, LARGEST_EXPONENT)
        beyond = jnp.exp(jnp.float32(LARGEST_EXPONENT)) * (exponent - bounded)
        return -(jnp.expm1(bounded) + beyond) / aversion

    return EpisodeUtility("exponential", None, utility)
