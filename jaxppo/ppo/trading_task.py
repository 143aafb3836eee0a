"""PPO's view of a `TradingEnv`: P market paths with K portfolios each, the market encoded once per chunk."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.config import PPOConfig
from jaxppo.envs.execution.fill_rule import FillRule
from jaxppo.envs.execution.portfolio import Portfolio, open_portfolio
from jaxppo.envs.market.packing import packed_scan
from jaxppo.envs.market.rows import rows_from
from jaxppo.envs.trading.account import Account, BarRow, Decide
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.types import EnvParams, Observation
from jaxppo.policy.encoding import encode_paths
from jaxppo.policy.networks.actor_critic import ActorCritic, Params
from jaxppo.policy.networks.head import ActionConfig
from jaxppo.policy.rollout import DATA_AXIS, Rollout
from jaxppo.ppo.decisions import decision
from jaxppo.ppo.returns import discounted_future
from jaxppo.ppo.task import Task
from jaxppo.risk.monitor import NO_MONITOR, Monitor


class Seen(struct.PyTreeNode):
    """What the network reads of a rollout.

    Attributes:
      bar: `[P]` int32, bar of the first decision.
      portfolio: `[P, S, K]` observations.
      masks: `[P, ...]` of dropout, the same at every look at the rollout; None for no dropout.
    """

    bar: jax.Array
    portfolio: Observation
    masks: jax.Array | None


class PathState(struct.PyTreeNode):
    """Where a path and its portfolios stand between two iterations. Leading axis P under `vmap`.

    Attributes:
      bar: `[]` int32, next decision bar, shared by the portfolios.
      time: `[]` int32, bars since the episode began.
      portfolio: `[K]` accounts.
      masks: `[K]` states of the environment's mask transform.
      sizing: `[K]` states of its sizing transform.
      rewards: `[K]` states of its reward transform.
      monitor: `[K]` states of the monitor.
    """

    bar: jax.Array
    time: jax.Array
    portfolio: Portfolio
    masks: Any = ()
    sizing: Any = ()
    rewards: Any = ()
    monitor: Any = ()


def trading_task(
    policy: ActorCritic,
    env: TradingEnv,
    config: PPOConfig,
    dropout: Callable[[jax.Array], jax.Array] | None = None,
    monitor: Monitor = NO_MONITOR,
) -> Task:
    """Trading as a `Task`.

    Args:
      policy: the policy.
      env: the environment, `observation="index"`, `window` at least the policy's context.
      config: hyper-parameters.
      dropout: rate `[]` after a share `[]` of the budget; None for no dropout.
      monitor: limits monitored in every step of every account; metrics count what is beyond them.

    Raises:
      ValueError: the environment keeps too little history, or the policy's critic and `config.hindsight_critic` differ.
    """
    _check(policy, env, config)
    size = config.micro_batch or max(config.paths // config.minibatches, 1)

    def start(params: EnvParams, keys: jax.Array) -> PathState:
        return jax.vmap(lambda key: start_path(env, params, config.portfolios, key, monitor))(keys)

    def rolled(
        net: Params,
        params: EnvParams,
        states: PathState,
        keys: jax.Array,
        progress: jax.Array,
        explore: bool = True,
        through: bool = False,
    ) -> tuple[PathState, Rollout]:
        """A rollout; `through` makes it differentiable in `net`, but for the parameters of the values."""
        key_act, key_start, key_drop = jax.vmap(lambda key: tuple(jax.random.split(key, 3)))(keys)
        drawn = jax.vmap(policy.draw_masks, in_axes=(0, None))
        masks = None if dropout is None else drawn(key_drop, dropout(progress))
        prepared = encode_paths(policy, net, params, states.bar, config.chunk + 1, config.micro_batch, masks)
        decide = decision(policy, net, env, explore=explore, expected=through)
        moved, seen, out = jax.vmap(
            lambda state, ready, key: collect_path(decide, env, params, state, ready, key, config.chunk, monitor)
        )(states, prepared, key_act)
        hindsight = market_ahead(params, states.bar, config) if config.hindsight_critic else None
        value = after = _values(policy, net, prepared, seen, hindsight, size)
        if through:
            # Only what follows the chunk is part of an objective, and only as far as it depends on the account.
            value = jax.lax.stop_gradient(value)
            fixed, ready, ahead = jax.lax.stop_gradient((net, prepared[:, -1:], _at_end(hindsight)))
            ends = policy.act(fixed, ready[:, :, None], jax.tree.map(lambda x: x[:, -1:], seen), ahead)[1]
            after = jnp.concatenate([value[:, :-1], ends], axis=1)
        states, cut = jax.vmap(lambda path, key: _restarted(env, params, config, path, key, monitor))(moved, key_start)
        seen = jax.tree.map(lambda x: x[:, :-1], seen)
        hindsight = None if hindsight is None else hindsight[:, :-1]
        rollout = Rollout(
            inputs=Seen(moved.bar - config.chunk, seen, masks),
            hindsight=hindsight,
            value=value[:, :-1],
            value_after=after[:, 1:],
            truncated=jnp.zeros_like(out["terminated"]).at[:, -1].set(cut[:, None]),
            **out,
        )
        return states, rollout

    def encode(net: Params, params: EnvParams, rollout: Rollout, micro_batch: int | None) -> jax.Array:
        seen = rollout.inputs
        return encode_paths(policy, net, params, seen.bar, config.chunk, micro_batch, seen.masks)

    def act(net: Params, prepared: jax.Array, rollout: Rollout) -> tuple[Any, jax.Array]:
        return policy.act(net, prepared[:, :, None], rollout.inputs.portfolio, rollout.hindsight)

    def predict(net: Params, params: EnvParams, rollout: Rollout) -> tuple[Any, jax.Array]:
        return act(net, encode(net, params, rollout, None), rollout)

    def metrics(rollout: Rollout) -> dict[str, jax.Array]:
        shaped = {} if env.rewards is None else {"shaped_reward": jax.lax.pmean(rollout.reward.mean(), DATA_AXIS)}
        return _metrics(rollout) | shaped | _beyond(monitor, rollout)

    layers = policy.value_layer, config.chunk, partial(rolled, through=True), policy.critic_layers
    return Task(start, rolled, predict, metrics, *layers, encode, act)


def _check(policy: ActorCritic, env: TradingEnv, config: PPOConfig) -> None:
    """Raises ValueError where they do not fit each other."""
    if env.window < policy.context:
        raise ValueError(f"env.window {env.window} is shorter than the policy's context of {policy.context} bars")
    if policy.hindsight != config.hindsight_critic:
        raise ValueError(f"ppo.hindsight_critic is {config.hindsight_critic}, the policy was built with the opposite")


def action_config(env: TradingEnv, std: float, distribution: str = "squashed_gaussian") -> ActionConfig:
    """What the network's head must parameterise for the actions of an environment.

    Args:
      env: the environment.
      std: first standard deviation of continuous actions, see `ActionConfig`.
      distribution: of continuous actions, see `ActionConfig`.
    """
    low, high, at_zero = env.levels[0], env.levels[-1], env.base is not None
    if env.actions == "discrete":
        return ActionConfig("discrete", env.num_actions, low, high, at_zero=at_zero)
    if env.actions == "hierarchical":
        # Hold, short, flat, long: in the order of the levels.
        directions = (1, sum(x < 0 for x in env.levels), 1, sum(x > 0 for x in env.levels))
        sizes = tuple(size for size in directions if size)
        action = ActionConfig("hierarchical", env.num_actions, low, high, n_buckets=env.num_buckets, sizes=sizes)
        return dataclasses.replace(action, at_zero=at_zero)
    n_components = env.num_actions // env.n_assets
    return ActionConfig("continuous", 1, low, high, std, n_components, distribution, at_zero=at_zero)


def start_path(
    env: TradingEnv, params: EnvParams, n_portfolios: int, key: jax.Array, monitor: Monitor = NO_MONITOR
) -> PathState:
    """Starts an episode of one path.

    Args:
      env: the environment.
      params: the market and its costs.
      n_portfolios: K.
      key: consumed.
      monitor: monitored limits.
    """
    key_start, key_portfolio = jax.random.split(key)
    bar = env.draw_start(key_start, params)
    price, tradable = params.market.mark(bar), params.market.tradable[bar]
    keys = jax.random.split(key_portfolio, n_portfolios)
    start = jax.vmap(env.start_portfolio, in_axes=(0, None, None, None, None))
    portfolio = start(keys, price, tradable, params, params.table[bar + 1])
    fresh = (env.mask_start(), env.sizing_start(), env.rewards_start(), monitor.init())
    states = jax.tree.map(lambda x: jnp.broadcast_to(x, (n_portfolios, *x.shape)), fresh)
    return PathState(bar, jnp.zeros((), jnp.int32), portfolio, *states)


def market_ahead(params: EnvParams, bar: jax.Array, config: PPOConfig) -> jax.Array:
    """What the hindsight critic reads at the S + 1 bars of a chunk: the market's future inside it.

    `h_t = sum_{j >= t} gamma^{j - t} log(close_{j+1} / close_j)` per asset, in scaled reward, and the share of the
    chunk that is left. At its last bar, whose value is the bootstrap, nothing is left of either.

    Args:
      params: the market.
      bar: `[P]` int32, first bars.
      config: chunk, discount, reward scale.

    Returns:
      `[P, S + 1, 1, A, 2]`.

    References:
      Mao et al. (2018), section 4. https://arxiv.org/abs/1807.02264
    """
    left = jnp.arange(config.chunk, -1, -1) / config.chunk

    def one(bar: jax.Array) -> jax.Array:
        close = rows_from(params.market.close, bar, config.chunk + 1)
        change = config.reward_scale * jnp.diff(jnp.log(close), axis=0)
        ahead = discounted_future(change, jnp.ones((1, 1)), config.gamma)
        ahead = jnp.concatenate([ahead, jnp.zeros_like(ahead[:1])])
        return jnp.stack([ahead, jnp.broadcast_to(left[:, None], ahead.shape)], axis=-1)[:, None]

    return jax.vmap(one)(bar)


def collect_path(
    decide: Decide,
    env: TradingEnv,
    params: EnvParams,
    state: PathState,
    prepared: jax.Array,
    key: jax.Array,
    chunk: int,
    monitor: Monitor = NO_MONITOR,
) -> tuple[PathState, Observation, dict[str, Any]]:
    """Steps the K portfolios of one path through a chunk. Consumes `key`.

    A liquidated portfolio restarts flat at the same bar, so the K stay aligned.

    Args:
      decide: from `jaxppo.ppo.decisions`.
      env: the environment.
      params: the market and its costs.
      state: where the path stands.
      prepared: `[chunk + 1, A, 2 D]` from `encode_paths`.
      key: randomness of this path in this iteration.
      chunk: S.
      monitor: limits whose levels are reported.

    Returns:
      The path after the chunk, what its portfolios saw `[S + 1, K]`, and the `[S, K]` fields of `Rollout` that need no
      value.
    """
    n_portfolios, n_assets = state.portfolio.shares.shape
    n_components = {"discrete": n_assets, "hierarchical": 1 + n_assets}.get(env.actions, env.num_actions)
    uniform = jax.random.uniform(key, (chunk, n_portfolios, n_components))
    rows = rows_from(params.table, state.bar + 1, chunk)
    tradable = rows_from(params.market.tradable, state.bar, chunk + 1)
    mask_rows, sizing_rows = rows_from((params.masks, params.sizing), state.bar, chunk)
    fresh = (env.mask_start(), env.sizing_start(), env.rewards_start(), monitor.init())

    def one_bar(carry: tuple[Account, Any], row: BarRow) -> tuple[tuple[Account, Any], Any]:
        account, monitored = carry
        row = row.replace(bar=state.bar + row.bar)
        account, result, (seen, distribution, action) = env.step_bar(
            decide, account, row, params.costs, params.risk_aversion, batched=True
        )
        levels, monitored = jax.vmap(monitor.apply)(monitored, result.outcome)
        ended = jax.vmap(env.ruined, in_axes=(0, 0, None))(account.portfolio, result.fills, params)
        portfolio = _replaced(account.portfolio, ended, params.initial_cash, env.fill_rule)
        carried = (account.masks, account.sizing, account.rewards, monitored)
        *transforms, monitored = jax.vmap(partial(_where, new=fresh))(ended, carried)
        info = {name: value for name, value in vars(result.outcome).items() if not isinstance(value, tuple)}
        info["exposure"] = seen.account[..., 0]
        info |= {f"monitor_{name}": level for name, level in levels.items()}
        out = {
            "action": action,
            "behaviour": distribution,
            "log_prob": distribution.log_prob(action),
            "reward": result.reward,
            "terminated": ended,
            "info": info,
        }
        return (Account(portfolio, *transforms), monitored), (seen, out)

    rows = BarRow(jnp.arange(chunk), rows, tradable[:-1], mask_rows, sizing_rows, (prepared[:-1], uniform))
    start = (Account(state.portfolio, state.masks, state.sizing, state.rewards), state.monitor)
    (account, monitored), (seen, out) = packed_scan(one_bar, start, rows)
    # Of the last bar only the value is read, and masks do not reach it.
    origin = None if env.base is None else jax.vmap(env.base.weights)(account.sizing, account.portfolio)
    see = jax.vmap(lambda one, origin: env.observe_portfolio(state.bar + chunk, one, tradable[-1], None, origin))
    last = see(account.portfolio, jnp.zeros(n_portfolios) if origin is None else origin)
    seen = jax.tree.map(lambda x, y: jnp.concatenate([x, y[None]]), seen, last)
    moved = PathState(
        bar=state.bar + chunk,
        time=state.time + chunk,
        portfolio=account.portfolio,
        masks=account.masks,
        sizing=account.sizing,
        rewards=account.rewards,
        monitor=monitored,
    )
    return moved, seen, out


def _at_end(hindsight: jax.Array | None) -> jax.Array | None:
    """What the hindsight critic reads at the last bar of a chunk."""
    return None if hindsight is None else hindsight[:, -1:]


def _where(replace: jax.Array, old: Any, *, new: Any) -> Any:
    """`new` where `replace` `[]`, else `old`."""
    return jax.tree.map(lambda a, b: jnp.where(replace, a, b), new, old)


def _values(
    policy: ActorCritic,
    net: Params,
    prepared: jax.Array,
    seen: Observation,
    hindsight: jax.Array | None,
    size: int,
) -> jax.Array:
    """Values `[P, S + 1, K]` or `[P, S + 1, K, N]`, of `size` paths at a time.

    The head's hidden layer of a whole rollout is large.
    """

    def some(xs: tuple[jax.Array, Observation, jax.Array | None]) -> jax.Array:
        ready, seen, ahead = xs
        return policy.act(net, ready[:, :, None], seen, ahead)[1]

    n_paths = prepared.shape[0]
    if n_paths <= size or n_paths % size:
        return some((prepared, seen, hindsight))
    pieces = jax.tree.map(lambda x: x.reshape(n_paths // size, size, *x.shape[1:]), (prepared, seen, hindsight))
    found = jax.lax.map(some, pieces)
    return found.reshape(n_paths, *found.shape[2:])


def _replaced(portfolio: Portfolio, gone: jax.Array, cash: jax.Array, rule: FillRule) -> Portfolio:
    """Flat accounts in place of those that are gone, `[K]`."""

    def one(old: Portfolio, gone: jax.Array) -> Portfolio:
        fresh = open_portfolio(old.price, cash, rule)
        return jax.tree.map(lambda new, kept: jnp.where(gone, new, kept), fresh, old)

    return jax.vmap(one)(portfolio, gone)


def _restarted(
    env: TradingEnv, params: EnvParams, config: PPOConfig, path: PathState, key: jax.Array, monitor: Monitor
) -> tuple[PathState, jax.Array]:
    """A new episode if that of the path is truncated or its period has no room for another chunk, and if so `[]`.

    Consumes `key`.
    """
    ended = (path.time >= params.max_steps_in_episode) | (path.bar + config.chunk > params.period_end(path.bar))
    fresh = start_path(env, params, config.portfolios, key, monitor)
    return jax.tree.map(lambda new, old: jnp.where(ended, new, old), fresh, path), ended


def _metrics(rollout: Rollout) -> dict[str, jax.Array]:
    """Over all portfolios and devices.

    Mean and spread of the log return per bar, means of turnover, costs, and the share of the largest possible exposure,
    number of liquidations.
    """
    growth = rollout.info["log_growth"]
    mean = jax.lax.pmean(growth.mean(), DATA_AXIS)
    variance = jax.lax.pmean(jnp.square(growth - mean).mean(), DATA_AXIS)
    means = jax.lax.pmean({name: rollout.info[name].mean() for name in ("turnover", "costs", "exposure")}, DATA_AXIS)
    ended = jax.lax.psum(rollout.terminated.astype(jnp.float32).sum(), DATA_AXIS)
    return {"reward": mean, "reward_std": jnp.sqrt(variance), **means, "liquidations": ended}


def _beyond(monitor: Monitor, rollout: Rollout) -> dict[str, jax.Array]:
    """Steps beyond each monitored limit and its warning, and its largest level, over all portfolios and devices."""
    found = {}
    for limit in monitor.limits:
        level, name = rollout.info[f"monitor_{limit.name}"], f"monitor_{limit.name}"
        for what, beyond in (("warned", limit.warned(level)), ("breached", limit.breached(level))):
            found[f"{name}_{what}"] = jax.lax.psum(beyond.astype(jnp.float32).sum(), DATA_AXIS)
        found[f"{name}_worst"] = jax.lax.pmax(level.max(), DATA_AXIS)
    return found
