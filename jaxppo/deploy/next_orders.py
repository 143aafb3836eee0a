"""The orders of the morning: what a trained run decides at the last bar of its prices, for a real account."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.backtest.account import AccountRules, AccountState, open_account
from jaxppo.backtest.agent_account import rules_of
from jaxppo.backtest.shipping import decided, ship_notes, shipped_of
from jaxppo.backtest.simulate import continue_account, market_rows, policy_rows
from jaxppo.deploy.decision import Decision
from jaxppo.deploy.drift.of_run import recent_drift, training_reference
from jaxppo.deploy.explained import Explained, explained_orders, mask_names
from jaxppo.deploy.positions import Positions
from jaxppo.envs.execution.portfolio import Portfolio
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.trading.types import EnvParams
from jaxppo.errors import ConfigError, UserError
from jaxppo.policy.protocol import Policy
from jaxppo.run.build import unfinished_note
from jaxppo.run.periods import time_of
from jaxppo.run.saved import SavedRun, load_run, load_run_for_next_bar


def next_orders(
    folder: str | pathlib.Path,
    *,
    data: str | pathlib.Path | None = None,
    positions: Positions | None = None,
    overrides: Sequence[str] = (),
    market: MarketData | None = None,
) -> Decision:
    """Decides at the last bar of the prices, as an evaluation does at that bar once later ones are known.

    What masks, sizing and monitored limits remember is that of the account of the evaluation, which opens flat after
    what the run was trained and selected on. With positions the orders are those of the real account.

    Args:
      folder: the run.
      data: prices up to today, with the symbols of the run; None takes those of the run.
      positions: of the real account; None for the account of the evaluation.
      overrides: dotted keys, for example `("--costs.lot_size", "1")`.
      market: prices in place of a file: those of a run that was trained on a market given in Python.

    Raises:
      ConfigError: not a run, or a setting that does not fit it.
      DataError: the prices or the positions cannot be used.
    """
    run = load_run_for_next_bar(folder, data=data, overrides=overrides, market=market)
    if run.setup.config.data.splits is not None:
        raise ConfigError(
            f"data.splits is {run.setup.config.data.splits!r}: orders would count the shares of the first bar, not of "
            "today; trade a run on prices that are adjusted for splits"
        )
    with jax.default_device(run.setup.devices[0]):
        run = decided(run)
        decision = decide_at_last_bar(run, positions)
        return dataclasses.replace(decision, notes=(*decision.notes, *_drift_notes(run, market)))


def _drift_notes(run: SavedRun, market: MarketData | None) -> tuple[str, ...]:
    """How the last bars differ from those that a run was trained on, in a sentence each."""
    setup = run.setup
    trained = setup
    if "train" not in setup.periods:
        try:
            trained = load_run(run.folder, market=market).setup
        except UserError:
            return ("drift is not known: the prices of the training cannot be read",)
    return recent_drift(setup, training_reference(trained), setup.periods["test"].last - 1).alarms


def decide_at_last_bar(run: SavedRun, positions: Positions | None = None) -> Decision:
    """Decides at the last bar but one of the test period of an opened run, whose last bar nothing is known of.

    Args:
      run: from `load_run_for_next_bar`, its gate decided.
      positions: of a real account; None for the account of the evaluation.

    Raises:
      DataError: the positions cannot be used.
    """
    setup, rules, policy = run.setup, rules_of(run.setup), shipped_of(run)
    period, market = setup.periods["test"], setup.market
    first, last = jnp.int32(period.first), period.last - 1
    static = policy.without_params()
    state = open_account(policy, rules, setup.params, first)
    if last > period.first:
        state = _until(static, policy.params, rules, setup.params, state, first, last - period.first)
    symbols = market.info.symbols or tuple(f"asset {number}" for number in range(market.n_assets))
    if positions is not None:
        no_futures = isinstance(market.futures, tuple)
        futures = np.zeros(market.n_assets, bool) if no_futures else np.asarray(market.futures)
        account = state.account
        portfolio = held_portfolio(positions, symbols, account.portfolio, futures)
        state = state.replace(account=account.replace(portfolio=portfolio))
    values = jax.device_get(_at(static, policy.params, rules, setup.params, state, jnp.int32(last)))
    note = unfinished_note(run.folder)
    return Decision(
        time=str(time_of(market, last)),
        symbols=symbols,
        price=np.asarray(market.mark(last)),
        shares=np.asarray(state.account.portfolio.shares),
        values=values._asdict(),
        masks=mask_names(rules),
        sizing=() if setup.env.sizing is None else tuple(part.name for part in setup.env.sizing.parts),
        notes=(*ship_notes(run), *([note] if note else [])),
    )


@partial(jax.jit, static_argnames=("static", "rules", "n_bars"))
def _until(
    static: Policy, net: Any, rules: AccountRules, params: EnvParams, state: AccountState, first: jax.Array, n_bars: int
) -> AccountState:
    """The account after `n_bars` decisions from bar `first` on."""
    return continue_account(static._replace(params=net), rules, params, state, first, n_bars)[0]


@partial(jax.jit, static_argnames=("static", "rules"))
def _at(
    static: Policy, net: Any, rules: AccountRules, params: EnvParams, state: AccountState, bar: jax.Array
) -> Explained:
    """The decision of an account at the close of a bar."""
    policy = static._replace(params=net)
    rows = market_rows(params, bar, 1, policy_rows(policy, rules, params, bar, 1))
    row = jax.tree.map(lambda x: x[0], rows)
    return explained_orders(policy, rules, params.costs, state, row)[2]


def held_portfolio(positions: Positions, symbols: Sequence[str], like: Portfolio, futures: np.ndarray) -> Portfolio:
    """The portfolio of a real account at the marks of another.

    Args:
      positions: of the account.
      symbols: of the market's assets, in order.
      like: at the close at which positions are marked.
      futures: `[A]` bool, assets that cost no cash.

    Raises:
      DataError: a position in what the market has not, or nothing left of the account.
    """
    positions.check(symbols)
    equity = positions.equity(symbols, np.asarray(like.price), futures)
    peak = equity if positions.peak is None else max(equity, positions.peak)
    shares, on_order = (
        jnp.asarray([of.get(name, 0.0) for name in symbols], like.shares.dtype)
        for of in (positions.shares, positions.on_order)
    )
    return like.replace(
        shares=shares,
        equity=jnp.asarray(equity, like.equity.dtype),
        equity_error=jnp.zeros_like(like.equity_error),
        peak_equity=jnp.asarray(peak, like.peak_equity.dtype),
        unfilled=on_order,
        in_flight=tuple(jnp.zeros_like(x) for x in like.in_flight),
    )
