"""What a run's policy looks at over a period: `jaxppo.policy.networks.inspect`, averaged over decisions spread across it."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.backtest.simulate import equal_weight_volatility
from jaxppo.envs.execution.limits import Constraint
from jaxppo.envs.execution.portfolio import Portfolio, open_portfolio
from jaxppo.envs.market.features import feature_names, group_slices
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.types import EnvParams, Observation
from jaxppo.policy.networks import inspect
from jaxppo.policy.networks.actor_critic import Params, Policy
from jaxppo.policy.networks.encoder import Bars
from jaxppo.ppo.trading_task import chunk_bars
from jaxppo.run.setup import Setup

REGIMES = ("calm", "usual", "turbulent")
AT_ONCE = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Inspection:
    """Means over decisions of an account without positions. L blocks, H heads, W lags, A assets, N bars, G groups.

    What a perceptron or a policy without coarser levels or asset attention does not have is None.

    Attributes:
      bars: `[n]` decision bars.
      lag: `[L, H, W]` attention by how many bars ago.
      levels: `[L, H, 1 + levels]` shares of the window and of each coarser level.
      pools: bars that each coarser level pools.
      assets: `[A, A]` attention that an asset (first axis) gives to each, mean of blocks and heads.
      regimes: name -> `[L, H, W]` attention by lag when the volatility is in the lowest, middle and highest third.
      hours: hour of the day, exchange time -> `[L, H, W]`; empty for bars of a day.
      rollout: `[2, N]` share of the memory by bars ago, of the asset itself and of all others.
      entropy: `[L, H]` of the attention, in shares of the largest possible.
      redundancy: `[L]` similarity of the heads of a block.
      importance: group -> KL of decisions with all features against those without the group, nats.
      gradients: `[G, N]` mean absolute integrated gradient of the sum of target weights, by bars ago.
      features: name -> mean absolute integrated gradient, summed over bars.
      gates: group -> learned weight of its embedding; 1 at the start.
    """

    bars: np.ndarray
    lag: np.ndarray | None
    levels: np.ndarray | None
    pools: tuple[int, ...]
    assets: np.ndarray | None
    regimes: dict[str, np.ndarray]
    hours: dict[int, np.ndarray]
    rollout: np.ndarray | None
    entropy: np.ndarray | None
    redundancy: np.ndarray | None
    importance: dict[str, float]
    gradients: np.ndarray
    features: dict[str, float]
    gates: dict[str, float]


def inspect_policy(
    setup: Setup, policy: Policy, net: Params, period: str = "test", *, n_decisions: int = 256, n_gradients: int = 32
) -> Inspection:
    """Looks at decisions evenly spread over a period.

    Args:
      setup: the run.
      policy: its policy.
      net: parameters.
      period: of `setup.periods`.
      n_decisions: decisions to look at, at most.
      n_gradients: those whose integrated gradients are computed, at most.
    """
    where = setup.periods[period]
    chosen = _spread_out(where.first, where.last - 1, n_decisions)
    params, env = setup.params, setup.env
    groups = group_slices(setup.config.features.groups)
    importance = _importance(policy, env, net, params, jnp.asarray(chosen))
    few = _spread_out(where.first, where.last - 1, n_gradients)
    # [n, N, F], earliest bar first.
    gradients = np.asarray(_gradients(policy, env, net, params, jnp.asarray(few)))
    by_group = np.stack([gradients[..., columns].sum(axis=-1) for columns in groups.values()], axis=1)
    gates = 2.0 / (1.0 + np.exp(-np.asarray(net["encoder"]["embedding"]["gates"], np.float64)))
    seen: dict[str, np.ndarray] = {}
    regimes, hours = {}, {}
    if setup.encoder.kind == "transformer":
        seen = jax.device_get(_attention(policy, net, params, jnp.asarray(chosen)))
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
        features=dict(zip(feature_names(tuple(groups)), gradients.mean(axis=0).sum(axis=0).tolist(), strict=True)),
        gates=dict(zip(groups, gates.tolist(), strict=True)),
    )


def attention_figures(
    setup: Setup, policy: Policy, net: Params, period: str, n_decisions: int = 32
) -> dict[str, float]:
    """Entropy of the attention and redundancy of the heads of each block, to be followed through training."""
    if setup.encoder.kind != "transformer":
        return {}
    where = setup.periods[period]
    chosen = jnp.asarray(_spread_out(where.first, where.last - 1, n_decisions))
    found = jax.device_get(_entropy_and_redundancy(policy, net, setup.params, chosen))
    return {
        f"{name}_block{i + 1}": float(value)
        for name, values in found.items()
        for i, value in enumerate(np.atleast_1d(_mean(values)))
    }


def _spread_out(first: int, last: int, n: int) -> np.ndarray:
    """At most `n` bars from `first` to `last`, int32; whole batches, if there is more than one."""
    n = min(n, last - first + 1)
    return np.linspace(first, last, n if n < AT_ONCE else n - n % AT_ONCE).round().astype(np.int32)


def _mean(x: np.ndarray) -> np.ndarray:
    """Over the first axis, without the NaN of assets that were not listed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(np.asarray(x, np.float64), axis=0)


def _at_each(look: Callable[[Bars, jax.Array], Any], policy: Policy, params: EnvParams, bars: jax.Array) -> Any:
    """`look` at each decision bar by itself, `[n, ...]`; it gets what one memory depends on, P = 1."""

    def one(bar: jax.Array) -> Any:
        window = chunk_bars(params, bar, policy.context, 1)
        return look(jax.tree.map(lambda x: x[None], window), bar)

    return jax.lax.map(one, bars, batch_size=AT_ONCE)


def _account(env: TradingEnv, params: EnvParams, bar: jax.Array) -> tuple[Portfolio, Observation, Constraint | None]:
    """An account without positions, what the policy sees of it, and what the masks allow it in their first state."""
    portfolio = open_portfolio(params.market.close[bar], params.initial_cash, env.fill_rule)
    row, tradable = jax.tree.map(lambda x: x[bar], params.masks), params.market.tradable[bar]
    constraint, _ = env.limit(env.mask_start(), row, bar, portfolio, tradable, env.sizing_start())
    return portfolio, env.observe_portfolio(bar, portfolio, tradable, constraint), constraint


@partial(jax.jit, static_argnums=0)
def _attention(policy: Policy, net: Params, params: EnvParams, bars: jax.Array) -> dict[str, jax.Array]:
    def look(window: Bars, bar: jax.Array) -> dict[str, jax.Array]:
        found = inspect.attention(policy, net, window)
        rolled = inspect.rollout(found)[0]
        n_listed = jnp.maximum(window.listed[0, -1].sum(), 1)
        listed = window.listed[0, -1][:, None]
        own = jnp.sum(jnp.where(listed, jnp.einsum("ana->an", rolled), 0.0), axis=0) / n_listed
        every = jnp.sum(jnp.where(listed, rolled.sum(axis=-1), 0.0), axis=0) / n_listed
        summary = {
            "lag": inspect.by_lag(found),
            "levels": inspect.by_level(found),
            "entropy": inspect.entropy(found),
            "redundancy": inspect.head_redundancy(found),
            "rollout": jnp.stack([own, every - own]),
        }
        if found.assets[0] is not None:
            summary["assets"] = inspect.by_asset(found).mean(axis=(0, 1))
        return summary

    return _at_each(look, policy, params, bars)


@partial(jax.jit, static_argnums=0)
def _entropy_and_redundancy(policy: Policy, net: Params, params: EnvParams, bars: jax.Array) -> dict[str, jax.Array]:
    def look(window: Bars, bar: jax.Array) -> dict[str, jax.Array]:
        found = inspect.attention(policy, net, window)
        return {
            "attention_entropy": inspect.entropy(found).mean(axis=-1),
            "head_redundancy": inspect.head_redundancy(found),
        }

    return _at_each(look, policy, params, bars)


@partial(jax.jit, static_argnums=(0, 1))
def _importance(
    policy: Policy, env: TradingEnv, net: Params, params: EnvParams, bars: jax.Array
) -> dict[str, jax.Array]:
    """`[n]` of each group."""

    def look(window: Bars, bar: jax.Array) -> dict[str, jax.Array]:
        seen = jax.tree.map(lambda x: x[None, None], _account(env, params, bar)[1])
        return inspect.group_importance(policy, net, window, seen, group_slices(env.groups))

    return _at_each(look, policy, params, bars)


@partial(jax.jit, static_argnums=(0, 1))
def _gradients(policy: Policy, env: TradingEnv, net: Params, params: EnvParams, bars: jax.Array) -> jax.Array:
    """`[n, N, F]` absolute attributions of the sum of target weights, summed over assets; earliest bar first."""

    def look(window: Bars, bar: jax.Array) -> jax.Array:
        portfolio, seen, constraint = _account(env, params, bar)

        def decide(distribution: Any) -> jax.Array:
            if env.actions in ("discrete", "hierarchical"):
                weights, _ = env.expected_target(distribution.probabilities()[0], portfolio, constraint)
            else:
                weights, _ = env.decode(distribution.squash(distribution.mode())[0], portfolio, constraint)
            return weights.sum()[None]

        seen = jax.tree.map(lambda x: x[None], seen)
        found, _ = inspect.integrated_gradients(policy, net, window, seen, decide, n_nodes=16)
        return jnp.abs(found[0]).sum(axis=1)

    return _at_each(look, policy, params, bars)
