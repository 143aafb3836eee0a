"""How a result depends on costs and on the capital that is traded: cost levels, break-even cost, capacity curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from envs.execution import Costs
from envs.perturbations import prices_of, scale
from jaxppo.backtest.run import SavedRun
from jaxppo.backtest.simulate import run_policy
from jaxppo.risk import metrics

LEVELS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
FIGURES = ("sharpe", "total_return", "max_drawdown", "costs", "turnover", "unfilled", "liquidated")
DECADES = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
GRID = 17


def at_level(costs: Costs, level: jax.Array | float) -> Costs:
    """`costs` with every price, impact that lasts included, times `level` `[]` >= 0; limits stay."""
    return scale(costs, dict.fromkeys(prices_of(costs), level))


def cost_levels(run: SavedRun, levels: Sequence[float] = LEVELS) -> pd.DataFrame:
    """The agent of a run over its test period at several multiples of its costs. It does not learn anew.

    Args:
      run: from `jaxppo.backtest.load_run`.
      levels: multiples of all prices of trading and holding, >= 0.

    Returns:
      A row a level: `level`, `sharpe` (annual), `total_return`, `max_drawdown`, `costs` (fraction of the capital),
      `turnover` (a year), `unfilled` (share of the ordered notional that was not filled in its bar), `liquidated`.

    Raises:
      ValueError: a level outside its range.
    """
    _check("levels", levels, at_least=0.0)
    capital = float(run.setup.params.initial_cash)
    return _table("level", levels, _figures(run, levels, [capital] * len(levels)))


def capacity_curve(run: SavedRun, capitals: Sequence[float] | None = None) -> pd.DataFrame:
    """The agent of a run over its test period with several amounts of capital, whose trades volume and impact limit.

    Args:
      run: from `jaxppo.backtest.load_run`.
      capitals: currency, > 0; default: from a hundredth of the run's to a thousand times as much.

    Returns:
      As `cost_levels`, with `capital` in place of `level` and the `gain` in currency beside the return.

    Raises:
      ValueError: a capital outside its range.
    """
    own = float(run.setup.params.initial_cash)
    capitals = [own * factor for factor in DECADES] if capitals is None else capitals
    _check("capitals", capitals, at_least=math.ulp(0.0))
    frame = _table("capital", capitals, _figures(run, [1.0] * len(capitals), capitals))
    frame.insert(3, "gain", frame["capital"] * frame["total_return"])
    return frame


def break_even(run: SavedRun, *, most: float = 64.0) -> float:
    """Multiple of the run's costs at which the agent's return over the test period falls to 0.

    The first crossing on a grid of levels, on a second grid within that bracket, and there on a straight line.

    Args:
      run: from `jaxppo.backtest.load_run`.
      most: largest multiple that is tried, > 0.

    Returns:
      The multiple; 0 if the agent does not earn anything without costs either, inf if it still earns at `most`.

    Raises:
      ValueError: `most` outside its range.
    """
    _check("most", [most], at_least=math.ulp(0.0))
    low, high, earned = 0.0, most, np.zeros(2)
    levels = np.concatenate([[0.0], np.geomspace(most / 256.0, most, GRID - 1)])
    for _ in range(2):
        returns = _figures(run, levels, [float(run.setup.params.initial_cash)] * GRID)["total_return"]
        losing = np.flatnonzero(returns <= 0.0)
        if len(losing) == 0:
            return math.inf
        if losing[0] == 0:
            return float(low)
        low, high = levels[losing[0] - 1], levels[losing[0]]
        earned = returns[[losing[0] - 1, losing[0]]]
        levels = np.linspace(low, high, GRID)
    return float(low + (high - low) * earned[0] / (earned[0] - earned[1]))


def _figures(run: SavedRun, levels: Sequence[float], capitals: Sequence[float]) -> dict[str, np.ndarray]:
    """Figures `[n]` at n levels of costs with n amounts of capital."""
    setup, where = run.setup, run.setup.periods["test"]
    decision, annual = setup.config.evaluation.decision, float(setup.periods_per_year)

    def one(params: Any, net: Any, level: jax.Array, capital: jax.Array) -> dict[str, jax.Array]:
        params = params.replace(costs=at_level(params.costs, level), initial_cash=capital)
        first = jnp.int32(where.first)
        ledger = run_policy(run.policy, setup.env, net, params, first, where.n_bars, decision, setup.monitor)
        before, after = ledger.equity[:-1], ledger.equity[1:]
        returns = jnp.where(before > 0, after / jnp.where(before > 0, before, 1.0) - 1.0, 0.0)
        paid = jnp.sum(ledger.paid) + jnp.sum(ledger.financing)
        ordered, filled = (jnp.sum(jnp.abs(x) * ledger.price) for x in (ledger.ordered, ledger.quantity))
        return {
            "sharpe": metrics.sharpe(returns, periods=annual),
            "total_return": ledger.equity[-1] / ledger.equity[0] - 1.0,
            "max_drawdown": metrics.max_drawdown(returns),
            "costs": paid / ledger.equity[0],
            "turnover": jnp.mean(ledger.turnover) * annual,
            "unfilled": jnp.maximum(1.0 - filled / jnp.maximum(ordered, 1.0), 0.0) * (ordered > 0),
            "liquidated": ledger.liquidated,
        }

    many = jax.jit(jax.vmap(one, in_axes=(None, None, 0, 0)))
    given = (jnp.asarray(values, jnp.float32) for values in (levels, capitals))
    return {name: np.asarray(x) for name, x in many(setup.params, run.params, *given).items()}


def _table(name: str, values: Sequence[float], figures: dict[str, np.ndarray]) -> pd.DataFrame:
    return pd.DataFrame({name: np.asarray(values, np.float64), **{figure: figures[figure] for figure in FIGURES}})


def _check(name: str, values: Sequence[float], *, at_least: float) -> None:
    wrong = [value for value in values if not at_least <= value < math.inf]
    if wrong or len(values) == 0:
        bound = ">= 0" if at_least == 0.0 else "> 0"
        raise ValueError(f"{name} is {wrong[0] if wrong else 'empty'}; it must be finite and {bound}")
