"""A trained agent as a strategy of a book: a policy under masks and sizing of its own."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxppo.envs.trading.account import Account, BarRow
from jaxppo.envs.trading.view import MarketView
from jaxppo.policy.agent import agent
from jaxppo.policy.encoding import encode_bars
from jaxppo.policy.networks.actor_critic import ActorCritic, Params
from jaxppo.policy.protocol import Observed, Policy, Targets
from jaxppo.run.regimes import find_regimes
from jaxppo.run.setup import Setup


class AgentRow(struct.PyTreeNode):
    """What a trained agent reads of a bar; leading axis T in its table.

    Attributes:
      bar: `[]` int32.
      encoded: `[A, 2 D]` from the encoder; zeros where it cannot decide yet.
      tradable: `[A]` bool.
      masks: row of the table of its masks.
      sizing: row of that of its sizing.
    """

    bar: jax.Array
    encoded: jax.Array
    tradable: jax.Array
    masks: Any
    sizing: Any


class AgentState(struct.PyTreeNode):
    """What a trained agent remembers.

    Attributes:
      masks: state of its masks.
      sizing: state of its sizing.
    """

    masks: Any
    sizing: Any


def strategy_of(setup: Setup, network: ActorCritic, net: Params, *, name: str) -> Policy:
    """The agent of a run without its randomness, under the masks and the sizing that it was trained with.

    Args:
      setup: of the run; other markets need as many assets.
      network: encoder and head.
      net: parameters.
      name: in the book.
    """
    env, config = setup.env, setup.config
    inner = agent(network, jax.tree.map(np.asarray, net), env, config.evaluation.decision)
    encoding = inner.encoding
    assert encoding is not None
    encode = jax.jit(lambda net, inputs, first, n: encode_bars(encoding, net, inputs, first, n), static_argnums=3)

    def table(net: Params, view: MarketView) -> AgentRow:
        market = view.market
        n_bars, known = market.n_bars, env.first_decision
        if market.n_assets != env.n_assets:
            raise ValueError(f"the market has {market.n_assets} assets, the run {name} {env.n_assets}")
        if known >= n_bars - 1:
            raise ValueError(f"the market has {n_bars} bars; the run {name} needs more than {known + 1}")
        regimes, _ = find_regimes(config.regimes, market, n_bars - 1, config.seed)
        params = env.make_params(market, feature_dtype=setup.encoder.dtype, regimes=regimes)
        encoded = encode(net, encoding.inputs(params), jnp.int32(known), n_bars - known)
        of_env = MarketView(market, view.periods, env.position_limit, regimes)
        return AgentRow(
            bar=jnp.arange(n_bars, dtype=jnp.int32),
            encoded=jnp.concatenate([jnp.zeros((known, *encoded.shape[1:])), encoded]),
            tradable=market.tradable,
            masks=() if env.masks is None else env.masks.table(of_env),
            sizing=() if env.sizing is None else env.sizing.table(of_env),
        )

    def init(n_assets: int) -> AgentState:
        return AgentState(env.mask_start(), env.sizing_start())

    def apply(net: Params, state: AgentState, observed: Observed) -> tuple[Targets, AgentState]:
        portfolio, row = observed.portfolio, observed.row
        account = Account(portfolio, state.masks, state.sizing)
        bar = BarRow(row.bar, (), row.tradable, row.masks, row.sizing)
        seen = env.view(account, bar)
        decided = Observed(portfolio, (), seen.observation, seen.constraint, row.encoded)
        (weights, hold), _ = inner.apply(net, (), decided)
        weights, hold, sizing = env.size(state.sizing, row.sizing, portfolio, weights, hold)
        weights, hold = env.feasible(portfolio, weights, hold, seen.constraint)
        waiting = row.bar < env.first_decision
        after = jax.tree.map(lambda old, new: jnp.where(waiting, old, new), state, AgentState(seen.masks, sizing))
        return Targets(weights, hold | waiting), after

    return Policy(name, apply, init, table, warmup=env.first_decision, params=inner.params)
