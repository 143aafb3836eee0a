"""Results at other costs and capital: cost levels, break-even cost, capacity curve.

What trades is what the evaluation of the run trades: with `evaluation.ship` base_unless, what its gate lets trade.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxppo.backtest.account import AccountRules
from jaxppo.backtest.agent_account import rules_of
from jaxppo.backtest.shipping import decided, shipped_of
from jaxppo.backtest.simulate import simulate_account
from jaxppo.envs.execution.perturbations import prices_of, scale
from jaxppo.envs.trading.types import EnvParams
from jaxppo.policy.protocol import Policy
from jaxppo.risk import metrics
from jaxppo.run.progress import announce
from jaxppo.run.saved import SavedRun
from jaxppo.statistics import bootstrap_interval, sharpe_per_bar

LEVELS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Multiples of the costs."""
FIGURES = ("sharpe", "total_return", "max_drawdown", "costs", "turnover", "unfilled", "liquidated")
DECADES = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
"""Multiples of the capital."""
GRID = 17
"""Levels of costs that are traded together in search of the break-even."""
MOST = 64.0
"""Largest multiple of the costs that is tried in search of the break-even."""


def cost_levels(run: SavedRun, levels: Sequence[float] = LEVELS) -> pd.DataFrame:
    """Trades what of a run trades over its test period at several multiples of its costs, without learning anew.

    Args:
      run: from `jaxppo.backtest.load_run`.
      levels: multiples of all prices of trading and holding, >= 0.

    Returns:
      A row a level: `level`, `sharpe` (annual), `sharpe_low` and `sharpe_high` of its interval, `total_return`,
      `max_drawdown`, `costs` (fraction of the capital), `turnover` (a year), `unfilled` (share of the ordered notional
      that was not filled in its bar), `liquidated`.

    Raises:
      ValueError: a level outside its range.
    """
    _check("levels", levels, at_least=0.0)
    capital = float(run.setup.params.initial_cash)
    return _table(run, "level", levels, _figures(run, levels, [capital] * len(levels)))


def capacity_curve(run: SavedRun, capitals: Sequence[float] | None = None) -> pd.DataFrame:
    """Trades what of a run trades over its test with several amounts of capital, which volume and impact limit.

    Args:
      run: from `jaxppo.backtest.load_run`.
      capitals: currency, > 0; default: from a hundredth of the run's to a thousand times as much.

    Returns:
      As `cost_levels`, with `capital` in place of `level` and the `gain` in currency beside the return.

    Raises:
      ValueError: a capital outside its range.
    """
    capital = float(run.setup.params.initial_cash)
    capitals = [capital * factor for factor in DECADES] if capitals is None else capitals
    _check("capitals", capitals, at_least=math.ulp(0.0))
    frame = _table(run, "capital", capitals, _figures(run, [1.0] * len(capitals), capitals))
    frame.insert(5, "gain", frame["capital"] * frame["total_return"])
    return frame


def break_even(run: SavedRun, *, most: float = MOST) -> float:
    """Finds the multiple of the run's costs at which the agent's return over the test period falls to 0.

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


def costs_and_capital(run: SavedRun, *, most: float = MOST) -> dict[str, Any]:
    """Computes `cost_levels`, `capacity_curve` and `break_even` of a run, ready for JSON.

    Args:
      run: from `jaxppo.backtest.load_run`.
      most: largest multiple of the costs that is tried in search of the break-even, > 0.

    Returns:
      `levels` and `capitals`: a mapping for each row, undefined numbers None; `break_even`: None if the agent still
      earns at `most`; `most`; `capital`: of the run, currency; `level`: of the intervals; `traded`: `agent` or `base`,
      only of a run with a gate.
    """
    announce("other costs and capital")
    run = decided(run)
    found = break_even(run, most=most)
    return ({} if run.ship is None else {"traded": run.ship.figures["traded"]}) | {
        "levels": _rows(cost_levels(run)),
        "capitals": _rows(capacity_curve(run)),
        "break_even": found if math.isfinite(found) else None,
        "most": most,
        "capital": float(run.setup.params.initial_cash),
        "level": run.setup.config.evaluation.level,
    }


def _figures(run: SavedRun, levels: Sequence[float] | np.ndarray, capitals: Sequence[float]) -> dict[str, np.ndarray]:
    """Figures `[n]` and returns `[n, bars]` of what trades, at n levels of costs with n amounts of capital."""
    setup, where = run.setup, run.setup.periods["test"]
    given = (jnp.asarray(values, jnp.float32) for values in (levels, capitals))
    policy = shipped_of(decided(run))
    settings = (policy.without_params(), rules_of(setup), where.n_bars)
    found = _traded(*settings, policy.params, setup.params, jnp.int32(where.first), *given)
    return {name: np.asarray(x) for name, x in found.items()}


@partial(jax.jit, static_argnames=("static", "rules", "n_bars"))
def _traded(
    static: Policy,
    rules: AccountRules,
    n_bars: int,
    net: Any,
    params: EnvParams,
    first: jax.Array,
    levels: jax.Array,
    capitals: jax.Array,
) -> dict[str, jax.Array]:
    """Figures of a policy at each level of costs and capital `[n]`; see `_figures`."""
    policy, annual = static._replace(params=net), rules.periods

    def one(level: jax.Array, capital: jax.Array) -> dict[str, jax.Array]:
        changed = params.replace(
            costs=scale(params.costs, dict.fromkeys(prices_of(params.costs), level)), initial_cash=capital
        )
        ledger = simulate_account(policy, rules, changed, first, n_bars)
        before, after = ledger.equity[:-1], ledger.equity[1:]
        returns = jnp.where(before > 0, after / jnp.where(before > 0, before, 1.0) - 1.0, 0.0)
        paid = jnp.sum(ledger.paid) + jnp.sum(ledger.financing)
        ordered = jnp.sum(jnp.abs(ledger.ordered) * ledger.price)
        # No order asked for settlements of assets that ended, which turnover leaves out, nor for exits.
        filled = jnp.sum(ledger.turnover * before)
        if not isinstance(ledger.exited, tuple):
            filled = filled - jnp.sum(jnp.abs(ledger.exited.quantity) * ledger.exited.price)
        return {
            "returns": returns,
            "sharpe": metrics.sharpe(returns, periods=annual),
            "total_return": ledger.equity[-1] / ledger.equity[0] - 1.0,
            "max_drawdown": metrics.max_drawdown(returns),
            "costs": paid / ledger.equity[0],
            "turnover": jnp.mean(ledger.turnover) * annual,
            "unfilled": jnp.maximum(1.0 - filled / jnp.maximum(ordered, 1.0), 0.0) * (ordered > 0),
            "liquidated": ledger.liquidated,
        }

    return jax.vmap(one)(levels, capitals)


def _table(run: SavedRun, name: str, values: Sequence[float], figures: dict[str, np.ndarray]) -> pd.DataFrame:
    """A row a value, with the interval of the Sharpe ratio as in an evaluation of the run."""
    chosen, annual = run.setup.config.evaluation, float(run.setup.periods_per_year) ** 0.5
    key = jax.random.fold_in(jax.random.key(run.setup.config.seed), 0)
    interval = partial(
        bootstrap_interval, metric=sharpe_per_bar, level=chosen.level, n_resamples=chosen.bootstrap_resamples
    )
    ends = [interval(jax.random.clone(key), returns) for returns in figures["returns"]]
    frame = pd.DataFrame({name: np.asarray(values, np.float64), **{figure: figures[figure] for figure in FIGURES}})
    for place, (side, found) in enumerate(zip(("low", "high"), zip(*ends, strict=True), strict=True)):
        frame.insert(2 + place, f"sharpe_{side}", np.asarray(found) * annual)
    return frame


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows for JSON, where what is not finite is None."""
    return [
        {name: value if math.isfinite(value) else None for name, value in row.items()}
        for row in frame.to_dict("records")
    ]


def _check(name: str, values: Sequence[float], *, at_least: float) -> None:
    """Refuses values that are not finite or below a bound."""
    wrong = [value for value in values if not at_least <= value < math.inf]
    if wrong or len(values) == 0:
        bound = ">= 0" if at_least == 0.0 else "> 0"
        raise ValueError(f"{name} is {wrong[0] if wrong else 'empty'}; it must be finite and {bound}")
