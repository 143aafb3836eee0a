"""The reference of a run: its training period, and nothing after it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.deploy.drift.reference import History, Reference, make_reference, squared_returns, window_length
from jaxppo.deploy.drift.tracker import Drift, Tracker
from jaxppo.envs.execution.bars import unpack_bar
from jaxppo.envs.execution.costs import trade_costs
from jaxppo.errors import ConfigError
from jaxppo.run.periods import Period
from jaxppo.run.setup import Setup

TRADED = 0.1
"""Size of the trade whose cost is told, share of the opening equity."""


def training_reference(setup: Setup) -> Reference:
    """Describes the period that a run was trained on; no later bar has any part in it.

    Args:
      setup: of the run, with the period train.

    Raises:
      ConfigError: it has none.
    """
    if "train" not in setup.periods:
        raise ConfigError("the prices have no training period; drift is measured against that of the run")
    period, market = setup.periods["train"], setup.market
    sessions = len(np.unique(np.asarray(market.session[period.first : period.last])))
    history = history_of(setup, period)
    window = window_length(period.n_bars, period.n_bars / max(sessions, 1))
    return make_reference(
        history,
        features=setup.env.features.names,
        symbols=market.info.symbols or tuple(f"asset {number}" for number in range(market.n_assets)),
        cost=_modelled_cost(setup, period),
        window=window,
    )


def recent_drift(setup: Setup, reference: Reference, last: int) -> Drift:
    """Compares the last bars of prices with training.

    Args:
      setup: of the run on these prices.
      reference: of its training.
      last: bar up to which prices are known.
    """
    market, tracker = setup.market, Tracker(reference)
    first = max(last + 1 - reference.window, setup.env.first_decision)
    bars = slice(first - 1, last + 1)
    fields = {name: np.asarray(getattr(market, name)[bars]) for name in ("close", "half_spread", "tradable")}
    features = np.asarray(setup.params.features[bars].astype(jnp.float32))
    for number in range(len(features)):
        bar = {name: values[number] for name, values in fields.items()}
        if number == 0:
            tracker.watch(bar)
        else:
            tracker.count(features[number], bar)
    return tracker.drift()


def history_of(setup: Setup, period: Period) -> History:
    """Features, half-spreads and squared returns of a period.

    Args:
      setup: of a run.
      period: its decision bars are taken.
    """
    market, bars = setup.market, slice(period.first, period.last)
    close, tradable = (np.asarray(x[: period.last]) for x in (market.close, market.tradable))
    return History(
        features=np.asarray(setup.params.features[bars].astype(jnp.float32)),
        half_spread=np.where(tradable[bars], np.asarray(market.half_spread[bars], np.float64), np.nan),
        squared_return=squared_returns(close, tradable)[bars],
    )


def _modelled_cost(setup: Setup, period: Period) -> np.ndarray:
    """Mean cost `[A]` of a trade of `TRADED` of the opening equity, fraction of its value."""
    costs, value = setup.params.costs, TRADED * setup.params.initial_cash

    @jax.jit
    def of_bars(table: jax.Array) -> jax.Array:
        def of_bar(row: jax.Array) -> jax.Array:
            bar = unpack_bar(row)
            return trade_costs(value / bar.open, bar.open, bar, costs).total() / value

        return jax.lax.map(of_bar, table)

    tradable = np.asarray(setup.market.tradable[period.first : period.last])
    found = np.asarray(of_bars(setup.params.table[period.first : period.last]), np.float64)
    count = tradable.sum(axis=0)
    return np.where(count > 0, np.where(tradable, found, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)
