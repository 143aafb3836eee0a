"""Rolling a policy out over P market paths with K portfolios each."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from envs.portfolio import FillRule, Portfolio, open_portfolio
from envs.trading import TradingEnv
from envs.types import EnvParams, Observation
from jaxppo.networks.policy import Params, Policy


@struct.dataclass
class PathState:
    """Where a path and its portfolios stand between two iterations. Leading axis P under `vmap`.

    Attributes:
      path: `[]` int32, global index; all randomness of the path derives from it.
      bar: `[]` int32, next decision bar, shared by the portfolios.
      time: `[]` int32, bars since the episode began.
      portfolio: `[K]` accounts.
    """

    path: jax.Array
    bar: jax.Array
    time: jax.Array
    portfolio: Portfolio


@struct.dataclass
class Rollout:
    """S decisions of K portfolios on a path. Leading axis P under `vmap`.

    Attributes:
      bar: `[]` int32, bar of the first decision.
      seen: `[S, K]` observations.
      action: `[S, K, A]` as stored by the distribution.
      log_prob: `[S, K]` joint log-probability when taken.
      value: `[S, K]` value of the state acted in.
      final_value: `[K]` value of the state after the last decision, before any reset.
      reward: `[S, K]` log return of the equity.
      terminated: `[S, K]` bool, liquidated.
      turnover: `[S, K]` traded notional as a fraction of equity.
      costs: `[S, K]` costs and financing as a fraction of equity.
    """

    bar: jax.Array
    seen: Observation
    action: jax.Array
    log_prob: jax.Array
    value: jax.Array
    final_value: jax.Array
    reward: jax.Array
    terminated: jax.Array
    turnover: jax.Array
    costs: jax.Array


def start_paths(env: TradingEnv, params: EnvParams, n_portfolios: int, path: jax.Array, key: jax.Array) -> PathState:
    """A fresh episode of one path. Consumes `key`."""
    key_start, key_portfolio = jax.random.split(key)
    bar = env.draw_start(key_start, params)
    price, tradable = params.market.close[bar], params.market.tradable[bar]
    keys = jax.random.split(key_portfolio, n_portfolios)
    portfolio = jax.vmap(env.start_portfolio, in_axes=(0, None, None, None))(keys, price, tradable, params)
    return PathState(path=path, bar=bar, time=jnp.zeros((), jnp.int32), portfolio=portfolio)


def chunk_features(params: EnvParams, bar: jax.Array, context: int, length: int) -> tuple[jax.Array, jax.Array]:
    """Features and listing of the bars `bar - context + 1 .. bar + length - 1`: what `length` memories depend on."""
    start, n_bars = bar - context + 1, context - 1 + length
    features = jax.lax.dynamic_slice_in_dim(params.features, start, n_bars)
    return features, jax.lax.dynamic_slice_in_dim(params.listed, start, n_bars)


def encode_paths(
    policy: Policy, net: Params, params: EnvParams, bar: jax.Array, length: int, micro_batch: int | None
) -> jax.Array:
    """One encoder pass per path: what the head needs at the bars `bar .. bar + length - 1`.

    Args:
      policy: the policy.
      net: its parameters.
      params: the market.
      bar: `[P]` int32.
      length: bars per path.
      micro_batch: paths at a time; None takes all at once.

    Returns:
      `[P, length, A, 2 D]` float32.
    """

    def encode(bars: jax.Array) -> jax.Array:
        features, listed = jax.vmap(lambda b: chunk_features(params, b, policy.context, length))(bars)
        return policy.encode(net, features, listed)

    if micro_batch is None or micro_batch >= bar.shape[0]:
        return encode(bar)
    prepared = jax.lax.map(encode, bar.reshape(-1, micro_batch))
    return prepared.reshape(-1, *prepared.shape[2:])


def collect_path(
    policy: Policy,
    env: TradingEnv,
    net: Params,
    params: EnvParams,
    state: PathState,
    prepared: jax.Array,
    key: jax.Array,
    chunk: int,
) -> tuple[PathState, Rollout]:
    """Steps the K portfolios of one path through a chunk. Consumes `key`.

    A liquidated portfolio restarts flat at the same bar, so the K stay aligned.

    Args:
      policy: the policy.
      env: the environment.
      net: the policy's parameters.
      params: the market and its costs.
      state: where the path stands.
      prepared: `[chunk + 1, A, 2 D]` from `encode_paths`.
      key: randomness of this path in this iteration.
      chunk: S.
    """
    n_portfolios, n_assets = state.portfolio.shares.shape
    uniform = jax.random.uniform(key, (chunk, n_portfolios, n_assets))
    rows = jax.lax.dynamic_slice_in_dim(params.table, state.bar + 1, chunk)
    tradable = jax.lax.dynamic_slice_in_dim(params.market.tradable, state.bar, chunk + 1)
    see = jax.vmap(env.observe_portfolio, in_axes=(None, 0, None))
    settle = jax.vmap(env.settle, in_axes=(0, 0, 0, None, None))

    def one_bar(portfolio: Portfolio, xs: Any) -> tuple[Portfolio, Any]:
        offset, ready, tradable_now, row, u = xs
        seen = see(state.bar + offset, portfolio, tradable_now)
        distribution, value = policy.act(net, ready[None], seen)
        action = distribution.sample(u)
        weights, hold = jax.vmap(env.decode)(distribution.squash(action))
        after, fills, reward = settle(portfolio, weights, hold, row, params.costs)
        equity = jnp.maximum(portfolio.equity, 1.0)
        restarted = _restart(after, fills.liquidated, params.initial_cash, env.fill_rule)
        out = {
            "seen": seen,
            "action": action,
            "log_prob": distribution.log_prob(action),
            "value": value,
            "reward": reward,
            "terminated": fills.liquidated,
            "turnover": jnp.sum(jnp.abs(fills.quantity) * fills.price, axis=-1) / equity,
            "costs": (jnp.sum(fills.costs.total(), axis=-1) + fills.financing) / equity,
        }
        return restarted, out

    xs = (jnp.arange(chunk), prepared[:-1], tradable[:-1], rows, uniform)
    portfolio, out = jax.lax.scan(one_bar, state.portfolio, xs)
    last = see(state.bar + chunk, portfolio, tradable[-1])
    _, final_value = policy.act(net, prepared[-1][None], last)
    moved = state.replace(bar=state.bar + chunk, time=state.time + chunk, portfolio=portfolio)
    return moved, Rollout(bar=state.bar, final_value=final_value, **out)


def _restart(portfolio: Portfolio, liquidated: jax.Array, cash: jax.Array, rule: FillRule) -> Portfolio:
    """Flat accounts in place of the liquidated ones, `[K]`."""

    def one(old: Portfolio, gone: jax.Array) -> Portfolio:
        fresh = open_portfolio(old.price, cash, rule)
        return jax.tree.map(lambda new, kept: jnp.where(gone, new, kept), fresh, old)

    return jax.vmap(one)(portfolio, liquidated)
