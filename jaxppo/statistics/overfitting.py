"""Probability of backtest overfitting, by combinatorially symmetric cross-validation: does selection carry over?"""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.statistics.checks import check_panel
from jaxppo.statistics.resampling import BATCH_ELEMENTS


class Overfitting(NamedTuple):
    """Results over the C ways to split the bars in two halves, of which one selects and the other tests.

    Attributes:
      probability: `[]` share of the splits where the selected strategy is at or below the median of the other half.
      logits: `[C]` `log(w / (1 - w))` of the relative rank w of the selected strategy in the other half.
      slope: `[]` of the regression of `out_of_sample` on `in_sample`: 1 if performance carries over, 0 or less if not.
      loss_probability: `[]` share of the splits where the selected strategy has a negative Sharpe ratio in the other.
      in_sample: `[C]` Sharpe ratio per bar of the selected strategy in the half that selected it.
      out_of_sample: `[C]` the same in the other half.
    """

    probability: jax.Array
    logits: jax.Array
    slope: jax.Array
    loss_probability: jax.Array
    in_sample: jax.Array
    out_of_sample: jax.Array


def probability_of_backtest_overfitting(returns: jax.Array | np.ndarray, n_blocks: int = 16) -> Overfitting:
    """Estimates the PBO of choosing the strategy with the highest Sharpe ratio. Jittable, `n_blocks` static.

    The bars are cut into S blocks; every half of the blocks selects once and is tested on the other half. Sums of
    returns and their squares by block are all that a Sharpe ratio needs, so the halves are the rows of one matrix
    product. Ties share their rank; of equal winners the first is taken. A strategy that does not trade in a half has a
    ratio of 0 there.

    Args:
      returns: `[T, N]` return per bar of every strategy that was tried; the last `T mod S` bars are left out.
      n_blocks: S, even; 16 gives 12,870 splits.

    Returns:
      `Overfitting`.

    Raises:
      ValueError: `n_blocks` is odd or below 2, fewer than 2 strategies, fewer than two bars a block, a value that is
        not finite, a constant strategy.

    Reference: Bailey, Borwein, Lopez de Prado & Zhu, "The Probability of Backtest Overfitting", Journal of
    Computational Finance 20(4), 2017, section 3.
    """
    if n_blocks != int(n_blocks) or n_blocks < 2 or n_blocks % 2:
        raise ValueError(f"n_blocks is {n_blocks}; an even number of at least 2 is expected")
    returns = check_panel(returns, at_least=2 * n_blocks, strategies=2)
    return _overfitting(returns, n_blocks=int(n_blocks))


@functools.partial(jax.jit, static_argnames="n_blocks")
def _overfitting(returns: jax.Array, n_blocks: int) -> Overfitting:
    """`probability_of_backtest_overfitting` without its checks."""
    length, n_strategies = returns.shape[0] // n_blocks, returns.shape[1]
    used = returns[: length * n_blocks]
    mean = jnp.mean(used, axis=0)
    blocks = (used - mean[None]).reshape(n_blocks, length, n_strategies)
    sums, squares = blocks.sum(axis=1), (blocks**2).sum(axis=1)
    n = length * n_blocks // 2
    least = 1e-5 * jnp.mean(squares, axis=0) / length

    def sharpe(half: jax.Array) -> jax.Array:
        centre = half @ sums / n
        variance = (half @ squares - n * centre**2) / (n - 1)
        flat = variance <= least
        return jnp.where(flat, 0.0, (mean + centre) / jnp.sqrt(jnp.where(flat, 1.0, variance)))

    def one(half: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        inside, outside = sharpe(half), sharpe(1.0 - half)
        winner = jnp.argmax(inside)
        rank = jnp.sum(outside < outside[winner]) + (jnp.sum(outside == outside[winner]) + 1.0) / 2.0
        relative = rank / (n_strategies + 1.0)
        return jnp.log(relative / (1.0 - relative)), inside[winner], outside[winner]

    halves = jnp.asarray(_halves(n_blocks), returns.dtype)
    batch = max(1, min(len(halves), BATCH_ELEMENTS // n_strategies))
    logits, inside, outside = jax.lax.map(one, halves, batch_size=batch)
    centred = inside - inside.mean()
    slope = jnp.sum(centred * outside) / jnp.sum(centred**2)
    lost, late = (jnp.mean(what, dtype=returns.dtype) for what in (outside < 0, logits <= 0))
    return Overfitting(late, logits, slope, lost, inside, outside)


def _halves(n_blocks: int) -> np.ndarray:
    """`[C, n_blocks]` bool, the blocks of every half, in lexicographic order."""
    chosen = np.array(list(itertools.combinations(range(n_blocks), n_blocks // 2)))
    halves = np.zeros((len(chosen), n_blocks), bool)
    np.put_along_axis(halves, chosen, True, axis=1)
    return halves
