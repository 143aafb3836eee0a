"""Random bars and decisions for the accounting tests, and the accounting function scanned over them."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy.signal import lfilter

from jaxppo.envs.execution.bars import unpack_bar
from jaxppo.envs.execution.costs import Costs
from jaxppo.envs.execution.fill_rule import FillRule
from jaxppo.envs.execution.margin import leverage_use_at
from jaxppo.envs.execution.portfolio import Fills, Portfolio, open_portfolio, orders_to_target, step


def random_bars(seed: int, n_bars: int, n_assets: int, *, volatility: float = 0.004, depth: float = 3e6) -> np.ndarray:
    """`[T, 7, A]` float32 in the layout of `pack_bars`: mean-reverting prices with fat tails, gaps at the open, halts.

    Args:
      seed: of the generator.
      n_bars: T.
      n_assets: A, at prices from 30 to 300.
      volatility: of a bar.
      depth: typical currency traded per bar.
    """
    generator = np.random.default_rng(seed)
    shape = (n_bars, n_assets)
    level = lfilter([1.0], [1.0, -(1 - 1e-4)], volatility * generator.standard_t(5, shape), axis=0)
    halted = generator.random(shape) < 0.05
    source = np.maximum.accumulate(np.where(halted, 0, np.arange(n_bars)[:, None]), axis=0)
    close = np.float32(np.take_along_axis(np.linspace(30, 300, n_assets) * np.exp(level), source, axis=0))
    gap = np.exp(volatility / 4 * generator.standard_normal(shape))
    opened = np.where(halted, close, np.concatenate([close[:1], close[:-1]]) * gap)
    volume = np.where(halted, 0.0, depth * np.exp(generator.standard_normal(shape)) / close)
    night = np.where(generator.random((n_bars, 1)) < 0.01, 3e-3, 2e-6)
    columns = [
        opened,
        close,
        volume,
        generator.uniform(0, 4e-5, shape),
        volatility * generator.uniform(0.7, 1.5, shape),
        depth * np.exp(0.3 * generator.standard_normal(shape)) / close,
        np.broadcast_to(night, shape),
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def random_decisions(
    seed: int, n_bars: int, n_assets: int, *, hold: float = 0.8, flat: float = 0.3
) -> tuple[np.ndarray, np.ndarray]:
    """Target weights `[T - 1, A]` in [-0.7, 1] and hold flags `[T - 1, A]`.

    Args:
      seed: of the generator.
      n_bars: T.
      n_assets: A.
      hold: share of decisions that leave the asset alone.
      flat: share of the targets that are exactly zero.
    """
    generator = np.random.default_rng((seed, 1))
    shape = (n_bars - 1, n_assets)
    weights = np.where(generator.random(shape) < flat, 0.0, generator.uniform(-0.7, 1.0, shape))
    return weights.astype(np.float32), generator.random(shape) < hold


@functools.partial(jax.jit, static_argnames="rule")
def run_account(
    bars: jax.Array, weights: jax.Array, hold: jax.Array, costs: Costs, initial_cash: jax.Array, rule: FillRule
) -> tuple[Portfolio, Fills, jax.Array]:
    """Decides at every close and lives through the next bar, from a flat start.

    Args:
      bars: `[T, 7 to 10, A]`.
      weights: `[T - 1, A]` targets.
      hold: `[T - 1, A]` bool.
      costs: cost parameters.
      initial_cash: `[]` currency.
      rule: fill rule (static).

    Returns:
      Portfolios and fills after bars 1 to T - 1, and the orders `[T - 1, A]`; everything with a leading axis T - 1.
    """

    def live(portfolio, decision):
        row, target, held = decision
        order = orders_to_target(portfolio, target, held, costs, leverage_use_at(row, costs))
        after, fills = step(portfolio, order, unpack_bar(row), costs, rule)
        return after, (after, fills, order)

    start = open_portfolio(bars[0, 1], initial_cash, rule)
    return jax.lax.scan(live, start, (bars[1:], weights, hold))[1]


def costs_as_floats(costs: Costs) -> dict[str, float]:
    """The float32 cost parameters as Python floats, by name, those of displacement among them."""
    others = ("displacement", "conditions", "latency", "initial_margins", "maintenance_margins")
    given = [field.name for field in dataclasses.fields(costs) if field.name not in others]
    names = [name for name in given if not isinstance(getattr(costs, name), tuple)]
    values = {name: float(getattr(costs, name)) for name in names}
    own = dataclasses.fields(costs.displacement) if costs.displacement else ()
    return values | {field.name: float(getattr(costs.displacement, field.name)) for field in own}


def as_float64(tree):
    """The arrays of a pytree as float64 NumPy arrays, bools unchanged."""
    return jax.tree.map(lambda x: np.asarray(x) if x.dtype == jnp.bool_ else np.asarray(x, np.float64), tree)
