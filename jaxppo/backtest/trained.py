"""A trained agent as a strategy of a book."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxppo.backtest.run import SavedRun, best_policy, on_one_device
from jaxppo.backtest.simulate import decide_without_randomness, prepare_bars
from jaxppo.envs.execution.limits import project
from jaxppo.envs.execution.portfolio import Portfolio, expected_weights
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.trading.view import MarketView
from jaxppo.policy.rules import Strategy
from jaxppo.run import folder as run_folder
from jaxppo.run.regimes import find_regimes
from jaxppo.run.setup import build


@struct.dataclass
class AgentRow:
    """What a trained agent reads of a bar; leading axis T in its table.

    Attributes:
      bar: `[]` int32.
      prepared: `[A, 2 D]` from the encoder; zeros where it cannot decide yet.
      tradable: `[A]` bool.
      masks: row of the table of its masks.
      sizing: row of that of its sizing.
    """

    bar: jax.Array
    prepared: jax.Array
    tradable: jax.Array
    masks: Any
    sizing: Any


@struct.dataclass
class AgentState:
    """What a trained agent remembers.

    Attributes:
      masks: state of its masks.
      sizing: state of its sizing.
    """

    masks: Any
    sizing: Any


def open_trained(folder: str | pathlib.Path, market: MarketData, *, name: str | None = None) -> Strategy:
    """`trained` of a run, as it is, on other prices: whatever it has learned from, which the caller has to check.

    Raises:
      ConfigError: not a run, or one that does not fit the prices.
    """
    folder, config = run_folder.open_folder(folder)
    setup = build(on_one_device(config), market, split=False)
    return trained(SavedRun(folder, setup, *best_policy(folder, setup)), name=name)


def trained(run: SavedRun, *, name: str | None = None) -> Strategy:
    """The agent of a run without its randomness, under the masks and the sizing that it was trained with.

    On other prices it sees what it would have seen there: features, and regimes by the model that was fitted in
    training. Up to the bar at which features and context are complete it stays flat.

    Args:
      run: from `jaxppo.backtest.load_run`; the assets of the book must be as many as those of the run.
      name: of the strategy; default: that of the run's folder.
    """
    setup = run.setup
    env, config = setup.env, setup.config

    def table(view: MarketView) -> AgentRow:
        market = view.market
        n_bars, known = market.n_bars, env.first_decision
        if market.n_assets != env.n_assets:
            raise ValueError(f"the market has {market.n_assets} assets, the run {run.folder.name} {env.n_assets}")
        if known >= n_bars - 1:
            raise ValueError(f"the market has {n_bars} bars; the run {run.folder.name} needs more than {known + 1}")
        regimes, _ = find_regimes(config.regimes, market, n_bars - 1, config.seed)
        params = env.make_params(market, feature_dtype=setup.encoder.dtype, regimes=regimes)
        encode = jax.jit(prepare_bars, static_argnames=("policy", "n_bars"))
        prepared = encode(run.policy, run.params, params, jnp.int32(known), n_bars - known)
        own = MarketView(market, view.periods, env.position_limit, regimes)
        return AgentRow(
            bar=jnp.arange(n_bars, dtype=jnp.int32),
            prepared=jnp.concatenate([jnp.zeros((known, *prepared.shape[1:])), prepared]),
            tradable=market.tradable,
            masks=() if env.masks is None else env.masks.table(own),
            sizing=() if env.sizing is None else env.sizing.table(own),
        )

    def init(n_assets: int) -> AgentState:
        return AgentState(env.mask_start(), env.sizing_start())

    def decide(state: AgentState, row: AgentRow, portfolio: Portfolio) -> tuple[jax.Array, jax.Array, AgentState]:
        constraint, masks = env.limit(state.masks, row.masks, row.bar, portfolio, row.tradable, state.sizing)
        seen = env.observe_portfolio(row.bar, portfolio, row.tradable, constraint)
        net, decision = jax.tree.map(np.asarray, run.params), config.evaluation.decision
        weights, hold = decide_without_randomness(
            run.policy, env, net, portfolio, seen, row.prepared, constraint, decision
        )
        weights, hold, sizing = env.size(state.sizing, row.sizing, portfolio, weights, hold)
        if constraint is not None:
            weights = project(constraint, weights, hold)
            hold = weights == expected_weights(portfolio)
        waiting = row.bar < env.first_decision
        after = jax.tree.map(lambda old, new: jnp.where(waiting, old, new), state, AgentState(masks, sizing))
        return weights, hold | waiting, after

    return Strategy(run.folder.name if name is None else name, table, init, decide)
