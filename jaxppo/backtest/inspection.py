"""Attention and attributions of a run's policy, averaged over decisions spread across a period."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.envs.execution.limits import Constraint
from jaxppo.envs.execution.portfolio import Portfolio, open_portfolio
from jaxppo.envs.market.index import equal_weight_volatility
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.types import EnvParams, Observation
from jaxppo.policy.encoding import chunk_of, market_bars
from jaxppo.policy.networks import inspect
from jaxppo.policy.networks.actor_critic import ActorCritic, Params
from jaxppo.policy.networks.encoder import Bars
from jaxppo.report.results import Inspection
from jaxppo.run.progress import announce
from jaxppo.run.setup import Setup

REGIMES = ("calm", "usual", "turbulent")
"""Names of the thirds of the volatility."""
BATCH_SIZE = 16
"""Decisions that are inspected together."""
RUN = 16
"""Consecutive decisions that share an encoder pass where the importance of features is measured."""


def inspect_policy(
    setup: Setup,
    network: ActorCritic,
    net: Params,
    period: str = "test",
    *,
    n_decisions: int = 256,
    n_gradients: int = 32,
) -> Inspection:
    """Inspects decisions evenly spread over a period.

    Args:
      setup: of the run.
      network: encoder and head.
      net: their parameters.
      period: of `setup.periods`.
      n_decisions: decisions to inspect, at most; the importance of features is that in runs of `RUN` of them.
      n_gradients: decisions whose integrated gradients are computed, at most.
    """
    announce("what the policy looks at")
    where = setup.periods[period]
    chosen = _spread_out(where.first, where.last - 1, n_decisions)
    params, env = setup.params, setup.env
    groups = env.features.slices
    means = jnp.asarray(feature_means(params, where.first - network.context + 1, where.last))
    runs, length = _in_runs(where.first, where.last - 1, n_decisions)
    importance = _importance(network, env, length, net, params, jnp.asarray(runs), means)
    few = _spread_out(where.first, where.last - 1, n_gradients)
    # [n, N, F], earliest bar first.
    gradients = np.asarray(_gradients(network, env, net, params, jnp.asarray(few), means))
    by_group = np.stack([gradients[..., columns].sum(axis=-1) for columns in groups.values()], axis=1)
    embedding = net.get("encoder", {}).get("embedding")  # a linear policy has none
    gates = np.ones(len(groups)) if embedding is None else 2.0 * _sigmoid(np.asarray(embedding["gates"], np.float64))
    seen: dict[str, np.ndarray] = {}
    regimes, hours = {}, {}
    if setup.encoder.kind == "transformer":
        seen = jax.device_get(_attention(network, net, params, jnp.asarray(chosen)))
        volatility = np.asarray(equal_weight_volatility(params.market))[chosen]
        third = np.searchsorted(np.quantile(volatility, [1 / 3, 2 / 3]), volatility)
        regimes = {name: _mean(seen["lag"][third == i]) for i, name in enumerate(REGIMES) if np.any(third == i)}
        hour = np.asarray(params.market.minute_of_day)[chosen] // 60
        hours = {int(h): _mean(seen["lag"][hour == h]) for h in np.unique(hour)} if len(np.unique(hour)) > 1 else {}
    mean = {name: _mean(x) for name, x in seen.items()}
    return Inspection(
        bars=chosen,
        lag=mean.get("lag"),
        levels=mean.get("levels") if setup.encoder.coarse_pools else None,
        pools=setup.encoder.coarse_pools,
        assets=mean.get("assets"),
        regimes=regimes,
        hours=hours,
        rollout=mean.get("rollout"),
        entropy=mean.get("entropy"),
        redundancy=mean.get("redundancy"),
        importance={name: float(importance[name].mean()) for name in groups},
        gradients=by_group.mean(axis=0)[:, ::-1],
        features=dict(zip(env.features.names, gradients.mean(axis=0).sum(axis=0).tolist(), strict=True)),
        gates=dict(zip(groups, gates.tolist(), strict=True)),
    )


def attention_figures(
    setup: Setup, network: ActorCritic, net: Params, period: str, n_decisions: int = 32
) -> dict[str, float]:
    """Measures the entropy of the attention and the redundancy of the heads, to be followed through training.

    Args:
      setup: of the run.
      network: encoder and head.
      net: their parameters.
      period: of `setup.periods`.
      n_decisions: decisions to inspect, at most.

    Returns:
      `attention_entropy_block1`, ..., `head_redundancy_block1`, ...; empty without attention.
    """
    if setup.encoder.kind != "transformer":
        return {}
    where = setup.periods[period]
    chosen = jnp.asarray(_spread_out(where.first, where.last - 1, n_decisions))
    found = jax.device_get(_entropy_and_redundancy(network, net, setup.params, chosen))
    return {
        f"{name}_block{i + 1}": float(value)
        for name, values in found.items()
        for i, value in enumerate(np.atleast_1d(_mean(values)))
    }


def feature_means(params: EnvParams, first: int, last: int) -> np.ndarray:
    """Means of the features over some bars and the assets listed then, unknown values left out.

    Args:
      params: the market.
      first: first bar.
      last: the bar after the last.

    Returns:
      `[F]` float32; NaN for a feature that is never known. The mean of equal values is that value exactly.
    """
    bars = market_bars(params)
    listed = np.asarray(bars.listed[first:last])
    known = np.asarray(bars.features[first:last], np.float32)[listed]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmean(known, axis=0, dtype=np.float64), np.float32)


def _spread_out(first: int, last: int, n: int) -> np.ndarray:
    """At most `n` bars from `first` to `last`, int32: whole batches, if there is more than one."""
    n = min(n, last - first + 1)
    return np.linspace(first, last, n if n < BATCH_SIZE else n - n % BATCH_SIZE).round().astype(np.int32)


def _in_runs(first: int, last: int, n: int) -> tuple[np.ndarray, int]:
    """First bars of runs of consecutive bars from `first` to `last`, `n` bars in all at most, and length of a run."""
    length = min(RUN, n, last - first + 1)
    return _spread_out(first, last - length + 1, n // length), length


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def _mean(x: np.ndarray) -> np.ndarray:
    """Mean over the first axis, without the NaN of assets that were not listed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(np.asarray(x, np.float64), axis=0)


def _at_each(
    measure: Callable[[Bars, jax.Array], Any],
    network: ActorCritic,
    params: EnvParams,
    bars: jax.Array,
    length: int = 1,
) -> Any:
    """Applies `measure` at each bar to the window that the memories of it and the bars after depend on, P = 1.

    Args:
      measure: `(window, first bar []) -> ...`.
      network: encoder and head.
      params: the market.
      bars: `[n]` first of `length` bars with a memory.
      length: static.

    Returns:
      `[n, ...]`.
    """

    def one(bar: jax.Array) -> Any:
        window = chunk_of(market_bars(params), bar, network.context, length)
        return measure(jax.tree.map(lambda x: x[None], window), bar)

    return jax.lax.map(one, bars, batch_size=BATCH_SIZE)


def _account(env: TradingEnv, params: EnvParams, bar: jax.Array) -> tuple[Portfolio, Observation, Constraint | None]:
    """An account without positions, what the policy sees of it, and what the masks allow it in their first state."""
    portfolio = open_portfolio(params.market.mark(bar), params.initial_cash, env.fill_rule)
    row, tradable = jax.tree.map(lambda x: x[bar], params.masks), params.market.tradable[bar]
    constraint, _ = env.limit(env.mask_start(), row, bar, portfolio, tradable, env.sizing_start())
    return portfolio, env.observe_portfolio(bar, portfolio, tradable, constraint), constraint


@partial(jax.jit, static_argnums=0)
def _attention(network: ActorCritic, net: Params, params: EnvParams, bars: jax.Array) -> dict[str, jax.Array]:
    """Summaries of the attention at each decision bar `[n, ...]`."""

    def measure(window: Bars, bar: jax.Array) -> dict[str, jax.Array]:
        found = inspect.attention(network, net, window)
        rolled = inspect.rollout(found)[0]
        n_listed = jnp.maximum(window.listed[0, -1].sum(), 1)
        listed = window.listed[0, -1][:, None]
        itself = jnp.sum(jnp.where(listed, jnp.einsum("ana->an", rolled), 0.0), axis=0) / n_listed
        every = jnp.sum(jnp.where(listed, rolled.sum(axis=-1), 0.0), axis=0) / n_listed
        summary = {
            "lag": inspect.by_lag(found),
            "levels": inspect.by_level(found),
            "entropy": inspect.entropy(found),
            "redundancy": inspect.head_redundancy(found),
            "rollout": jnp.stack([itself, every - itself]),
        }
        if found.assets[0] is not None:
            summary["assets"] = inspect.by_asset(found).mean(axis=(0, 1))
        return summary

    return _at_each(measure, network, params, bars)


@partial(jax.jit, static_argnums=0)
def _entropy_and_redundancy(
    network: ActorCritic, net: Params, params: EnvParams, bars: jax.Array
) -> dict[str, jax.Array]:
    """Means over the heads of each block at each decision bar `[n, L]`."""

    def measure(window: Bars, bar: jax.Array) -> dict[str, jax.Array]:
        found = inspect.attention(network, net, window)
        return {
            "attention_entropy": inspect.entropy(found).mean(axis=-1),
            "head_redundancy": inspect.head_redundancy(found),
        }

    return _at_each(measure, network, params, bars)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _importance(
    network: ActorCritic,
    env: TradingEnv,
    length: int,
    net: Params,
    params: EnvParams,
    bars: jax.Array,
    means: jax.Array,
) -> dict[str, jax.Array]:
    """Importance `[n]` of each feature group in runs of `length` decisions from `bars` on, against `means [F]`."""

    def measure(window: Bars, bar: jax.Array) -> dict[str, jax.Array]:
        seen = jax.vmap(lambda bar: _account(env, params, bar)[1])(bar + jnp.arange(length))
        seen = jax.tree.map(lambda x: x[None], seen)
        return inspect.group_importance(network, net, window, seen, env.features.slices, means)

    return _at_each(measure, network, params, bars, length)


@partial(jax.jit, static_argnums=(0, 1))
def _gradients(
    network: ActorCritic, env: TradingEnv, net: Params, params: EnvParams, bars: jax.Array, means: jax.Array
) -> jax.Array:
    """`[n, N, F]` absolute attributions of the sum of target weights, summed over assets; earliest bar first."""

    def measure(window: Bars, bar: jax.Array) -> jax.Array:
        portfolio, seen, constraint = _account(env, params, bar)

        def decide(distribution: Any) -> jax.Array:
            if env.actions in ("discrete", "hierarchical"):
                weights, _ = env.expected_target(distribution.probabilities()[0], portfolio, constraint)
            else:
                weights, _ = env.decode(distribution.squash(distribution.mode())[0], portfolio, constraint)
            return weights.sum()[None]

        seen = jax.tree.map(lambda x: x[None], seen)
        found, _ = inspect.integrated_gradients(network, net, window, seen, decide, means, n_nodes=16)
        return jnp.abs(found[0]).sum(axis=1)

    return _at_each(measure, network, params, bars)
