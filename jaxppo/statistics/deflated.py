"""The best of many trials: the Sharpe ratio that luck alone would reach, and whether a strategy exceeds it."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from jaxppo.statistics.checks import check_panel
from jaxppo.statistics.sharpe import probabilistic_sharpe


def expected_maximum_sharpe(n_trials: jax.Array | float, spread: jax.Array | float) -> jax.Array:
    """Sharpe ratio that the best of N trials without skill is expected to reach.

    `sd ((1 - g) Phi^-1(1 - 1 / N) + g Phi^-1(1 - 1 / (N e)))` with the Euler-Mascheroni constant g.

    Args:
      n_trials: N >= 1, of independent trials; need not be whole.
      spread: standard deviation of the Sharpe ratio across trials, >= 0.

    Returns:
      In the units of `spread`, >= 0; 0 for a single trial.

    Raises:
      ValueError: fewer than one trial, or a negative spread.

    Reference: Bailey & Lopez de Prado, "The Deflated Sharpe Ratio", JPM 40(5), 2014, eq. 1.
    """
    for name, value, least in (("n_trials", n_trials, 1.0), ("spread", spread, 0.0)):
        if not isinstance(value, jax.core.Tracer) and not np.all(np.asarray(value) >= least):
            raise ValueError(f"{name} is {value}; it must be at least {least:g}")
    return _expected_maximum(jnp.asarray(n_trials, jnp.result_type(float)), spread)


@jax.jit
def _expected_maximum(n: jax.Array, spread: jax.Array | float) -> jax.Array:
    """See `expected_maximum_sharpe`."""
    maximum = -(1.0 - np.euler_gamma) * norm.ppf(1.0 / n) - np.euler_gamma * norm.ppf(1.0 / (n * math.e))
    return spread * jnp.where(n > 1.0, jnp.maximum(maximum, 0.0), 0.0)


def effective_trials(trial_returns: jax.Array | np.ndarray) -> jax.Array:
    """Effective number of independent trials among N correlated ones.

    `(sum_i sqrt(l_i))^2 / sum_i l_i` of the eigenvalues l of the correlation matrix of the trials' returns: N if they
    are uncorrelated, K if they are K groups of copies, 1 if all are the same. Of the measures in use it is the one for
    a maximum. Selection acts on what trials do not share, and its size is in the spread of their Sharpe ratios already:
    the participation ratio `N^2 / sum l^2` and an average correlation would count a common factor again, and leave too
    few trials.

    Args:
      trial_returns: `[T, N]` return per bar, the same bars for all; with N > T there are at most T - 1.

    Returns:
      `[]` in [1, N].

    Raises:
      ValueError: fewer than 3 bars, a value that is not finite, a constant column.

    Reference: Galwey, "A new measure of the effective number of tests", Genetic Epidemiology 33(7), 2009, eq. 14.
    """
    return _effective(check_panel(trial_returns, name="trial_returns", at_least=3))


@jax.jit
def _effective(returns: jax.Array) -> jax.Array:
    """See `effective_trials`."""
    centred = returns - jnp.mean(returns, axis=0, keepdims=True)
    unit = centred / jnp.sqrt(jnp.sum(centred**2, axis=0, keepdims=True))
    root = jnp.linalg.svd(unit, compute_uv=False)  # square roots of the eigenvalues of the correlation matrix
    return jnp.clip(jnp.sum(root) ** 2 / jnp.sum(root**2), 1.0, returns.shape[1])


def deflated_sharpe(
    returns: jax.Array | np.ndarray,
    trial_sharpes: jax.Array | np.ndarray,
    *,
    n_trials: jax.Array | float | None = None,
    axis: int = -1,
    bias: bool = True,
) -> jax.Array:
    """Deflated Sharpe ratio (DSR): the PSR against the ratio that the best of all trials would reach by luck.

    Args:
      returns: `[..., n]` excess return per bar of the selected strategy.
      trial_sharpes: `[N]` Sharpe ratio per bar of every strategy that was tried, the selected one among them.
      n_trials: number of independent trials; None takes N, which is right for unrelated trials and severe for similar
        ones. `effective_trials` estimates it.
      axis: the time axis of `returns`.
      bias: see `probabilistic_sharpe`.

    Returns:
      `[...]` in [0, 1]; with a single trial, the PSR against 0.

    Raises:
      ValueError: no trial, or one that is not finite; see `probabilistic_sharpe` and `expected_maximum_sharpe`.

    Reference: Bailey & Lopez de Prado 2014, eq. 2.
    """
    sharpes = jnp.asarray(trial_sharpes)
    if sharpes.ndim != 1 or not len(sharpes):
        raise ValueError(f"trial_sharpes has shape {sharpes.shape}; one Sharpe ratio per trial is expected")
    if not isinstance(sharpes, jax.core.Tracer) and not np.isfinite(np.asarray(sharpes)).all():
        raise ValueError("trial_sharpes has a value that is not finite; a trial that never traded counts as 0")
    spread = jnp.std(sharpes, ddof=1) if len(sharpes) > 1 else 0.0
    hurdle = expected_maximum_sharpe(len(sharpes) if n_trials is None else n_trials, spread)
    return probabilistic_sharpe(returns, hurdle, axis=axis, bias=bias)
