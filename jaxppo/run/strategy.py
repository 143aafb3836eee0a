"""What a trained run trades as a strategy of a book: a policy under masks and sizing of its own."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxppo.envs.execution.bars import pack_bars
from jaxppo.envs.market import streaming
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.market.rows import row_number, running_count
from jaxppo.envs.trading.account import Account, BarRow
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.types import EnvParams
from jaxppo.envs.trading.view import MarketView
from jaxppo.policy.encoding import encode_bars, encode_newest
from jaxppo.policy.networks.actor_critic import ActorCritic, Params
from jaxppo.policy.protocol import Observed, Policy, Targets
from jaxppo.run.regimes import find_regimes
from jaxppo.run.setup import Setup
from jaxppo.run.ship import Ship, shipped_policy


class AgentRow(struct.PyTreeNode):
    """What a trained agent reads of a bar; leading axis T in its table.

    Attributes:
      bar: `[]` int32.
      encoded: from the encoder; zeros where it cannot decide yet, `()` where the base is traded.
      tradable: `[A]` bool.
      masks: row of the table of its masks.
      sizing: row of that of its sizing.
      packed: `[fields, A]` the bar itself, in which orders of its base fill; `()` without a base.
    """

    bar: jax.Array
    encoded: Any
    tradable: jax.Array
    masks: Any
    sizing: Any
    packed: Any = ()


class AgentState(struct.PyTreeNode):
    """What a trained agent remembers.

    Attributes:
      masks: state of its masks.
      sizing: state of its sizing.
    """

    masks: Any
    sizing: Any


def strategy_of(setup: Setup, network: ActorCritic, net: Params, *, name: str, ship: Ship | None = None) -> Policy:
    """What of a run trades, without randomness, under the masks and the sizing that it was trained with.

    Args:
      setup: of the run; other markets need as many assets.
      network: encoder and head.
      net: parameters.
      name: in the book.
      ship: what its gate decided; None for a run without one, whose agent trades.
    """
    env, config, conditions = setup.env, setup.config, setup.params.costs.conditions
    inner = shipped_policy(setup, network, jax.tree.map(np.asarray, net), ship)
    encode = None if inner.encoding is None else jax.jit(partial(encode_bars, inner.encoding), static_argnums=3)

    def table(net: Params, view: MarketView) -> AgentRow:
        market = view.market
        n_bars, known = market.n_bars, env.first_decision
        if market.n_assets != env.n_assets:
            raise ValueError(f"the market has {market.n_assets} assets, the run {name} {env.n_assets}")
        streams = streaming.current() is not None
        if known >= n_bars - 1 and not streams:
            raise ValueError(f"the market has {n_bars} bars; the run {name} needs more than {known + 1}")
        regimes, _ = find_regimes(config.regimes, market, n_bars - 1, config.seed)
        encoded: Any = ()
        if streams and inner.encoding is not None:
            inputs = inner.encoding.inputs(row_params(setup, market, regimes))
            encoded = encode_newest(inner.encoding, net, inputs, env.window)
        elif encode is not None and inner.encoding is not None:
            params = env.make_params(market, feature_dtype=setup.encoder.dtype, regimes=regimes)
            encoded = encode(net, inner.encoding.inputs(params), jnp.int32(known), n_bars - known)
            encoded = jnp.concatenate([jnp.zeros((known, *encoded.shape[1:])), encoded])
        of_env = MarketView(market, view.periods, env.position_limit, regimes)
        return AgentRow(
            bar=row_number(market.session),
            encoded=encoded,
            tradable=market.tradable,
            masks=() if env.masks is None else env.masks.table(of_env),
            sizing=() if env.sizing is None else env.sizing.table(of_env),
            packed=()
            if env.base is None
            else pack_bars(market, conditions=conditions, regimes=regimes, ranges=env.fill_rule.ranges),
        )

    def init(n_assets: int) -> AgentState:
        return AgentState(env.mask_start(), env.sizing_start())

    def apply(net: Params, state: AgentState, observed: Observed) -> tuple[Targets, AgentState]:
        portfolio, row = observed.portfolio, observed.row
        account = Account(portfolio, state.masks, _with_base_settled(env, state.sizing, row))
        bar = BarRow(row.bar, (), row.tradable, row.masks, row.sizing)
        seen = env.view(account, bar)
        decided = Observed(portfolio, (), seen.observation, seen.constraint, row.encoded)
        (weights, hold), _ = inner.apply(net, (), decided)
        weights, hold, sizing = env.size(account.sizing, row.sizing, portfolio, weights, hold)
        weights, hold = env.feasible(portfolio, weights, hold, seen.constraint)
        waiting = row.bar < env.first_decision
        after = jax.tree.map(lambda old, new: jnp.where(waiting, old, new), state, AgentState(seen.masks, sizing))
        return Targets(weights, hold | waiting), after

    return Policy(name, apply, init, table, warmup=env.first_decision, params=inner.params)


def row_params(setup: Setup, market: MarketData, regimes: jax.Array | None) -> EnvParams:
    """Parameters with the tables of one row of a stream; those of masks and sizing are left out.

    Args:
      setup: of a run.
      market: `[1, A]` newest bar.
      regimes: `[1, A, 4]` probabilities at its close, where there are any.
    """
    conditions = setup.params.costs.conditions
    return setup.params.replace(
        market=market,
        table=pack_bars(market, conditions=conditions, regimes=regimes, ranges=setup.env.fill_rule.ranges),
        features=setup.env.features.table(market, setup.env.unknown, regimes).astype(setup.encoder.dtype),
        listed=running_count(market.tradable) > 0,
        masks=(),
        sizing=(),
    )


def _with_base_settled(env: TradingEnv, sizing: Any, row: AgentRow) -> Any:
    """The state of the sizing once the base is through the bar: no environment settles it for a strategy."""
    if env.base is None or env.sizing is None:
        return sizing
    place = [part.name for part in env.sizing.parts].index("base")
    settled, _ = env.base.settle(sizing, row.packed, row.sizing[place].costs)
    return jax.tree.map(lambda new, old: jnp.where(sizing.begun, new, old), settled, sizing)
