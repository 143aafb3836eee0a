"""Running a decision rule over consecutive bars through the one accounting function."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxppo.backtest.account import Account, BarRow, StepResult, live, open_account
from jaxppo.envs.execution.costs import TradeCosts
from jaxppo.envs.execution.limits import Constraint
from jaxppo.envs.execution.portfolio import Portfolio, outstanding, weights_of
from jaxppo.envs.market.features import ewma_volatility
from jaxppo.envs.market.index import market_index
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.types import EnvParams, Observation
from jaxppo.policy.choose import choose
from jaxppo.policy.networks.actor_critic import Params, Policy
from jaxppo.ppo.trading_task import encode_paths
from jaxppo.risk.monitor import UNWATCHED, Monitor

Decide = Callable[[Portfolio, Observation, Any, Constraint | None], tuple[jax.Array, jax.Array]]
BLOCK = 256


@struct.dataclass
class Ledger:
    """What a rule did over n bars.

    Attributes:
      equity: `[n + 1]` currency at the close of each bar, the starting capital first.
      ordered: `[n, A]` shares ordered at the decision before each bar.
      shares: `[n, A]` positions at the close of each bar.
      weights: `[n, A]` position weights at the close of each bar.
      quantity: `[n, A]` shares filled in each bar, forced liquidations included.
      price: `[n, A]` mid price of the fills; of a fill and a liquidation in one bar their mean, weighted by shares.
      costs: `[n]` currency by kind.
      paid: `[n, A]` currency, costs of all kinds by asset.
      financing: `[n]` currency, borrow fee and margin interest.
      turnover: `[n]` traded notional as a fraction of the equity before the bar.
      liquidated: `[]` bool: the account was liquidated; it stays out of the market from then on.
      levels: watched limit -> `[n]` level after each bar.
      watched: `[n]` pytree: what `simulate`'s `watch` saw.
    """

    equity: jax.Array
    ordered: jax.Array
    shares: jax.Array
    weights: jax.Array
    quantity: jax.Array
    price: jax.Array
    costs: TradeCosts
    paid: jax.Array
    financing: jax.Array
    turnover: jax.Array
    liquidated: jax.Array
    levels: dict[str, jax.Array] = struct.field(default_factory=dict)
    watched: Any = ()

    @property
    def returns(self) -> np.ndarray:
        """Simple returns per bar, `[n]` float64, host-side; 0 once nothing is left (a debt does not earn)."""
        return returns_of(self.equity)

    @property
    def expenses(self) -> np.ndarray:
        """Costs of trading of all kinds and financing per bar, `[n]` currency, float64, host-side."""
        kinds = (self.costs.commission, self.costs.spread, self.costs.slippage, self.costs.impact, self.financing)
        return sum(np.asarray(kind, np.float64) for kind in kinds)


def returns_of(equity: jax.Array | np.ndarray) -> np.ndarray:
    """Simple returns per bar `[..., n]` of `[..., n + 1]` equity; see `Ledger.returns`."""
    equity = np.asarray(equity, np.float64)
    before, after = equity[..., :-1], equity[..., 1:]
    alive = before > 0
    return np.where(alive, after / np.where(alive, before, 1.0) - 1.0, 0.0)


def simulate(
    decide: Decide,
    inputs: Any,
    env: TradingEnv,
    params: EnvParams,
    first: jax.Array,
    n_bars: int,
    *,
    limited: bool = True,
    monitor: Monitor = UNWATCHED,
    watch: Callable[[Any], Any] = lambda sizing: (),
) -> Ledger:
    """Runs a rule from a flat start: decisions at the closes of bars `first .. first + n_bars - 1`.

    Args:
      decide: `(portfolio, observation, input of this bar, what the masks allow) -> (target weights [A], hold [A])`; the
        nearest targets that the masks of the environment allow are executed.
      inputs: pytree with leading axis `n_bars`.
      env: the environment (fill rule and action space).
      params: the market and its costs.
      first: `[]` int32, first decision bar.
      n_bars: static number of bars; `first + n_bars` must be a bar of the market.
      limited: False leaves the masks and the sizing of the environment out, and what the monitor stops goes on.
      monitor: limits watched after every bar. Once one that says `stop` is breached, what is left of orders is
        cancelled, all positions are closed from the next fill on, as fast as the market takes them, and the account
        stays out of the market from then on.
      watch: what to keep of the state of the sizing after each decision.
    """
    start = open_account(env, params, first, monitor)
    account, lines = carry_on(
        decide, inputs, env, params, start, first, n_bars, limited=limited, monitor=monitor, watch=watch
    )
    return whole_ledger(start.portfolio.equity, lines, account.dead)


def carry_on(
    decide: Decide,
    inputs: Any,
    env: TradingEnv,
    params: EnvParams,
    account: Account,
    first: jax.Array,
    n_bars: int,
    *,
    limited: bool = True,
    monitor: Monitor = UNWATCHED,
    watch: Callable[[Any], Any] = lambda sizing: (),
) -> tuple[Account, Ledger]:
    """`simulate` with an account at the close of bar `first` that has a past: the account after it, and its lines."""
    rows = market_rows(params, first, n_bars, inputs)

    def rule(
        state: tuple[()], portfolio: Portfolio, seen: Observation, own: Any, constraint: Constraint | None
    ) -> tuple[jax.Array, jax.Array, tuple[()]]:
        return *decide(portfolio, seen, own, constraint), state

    def one_bar(account: Account, row: BarRow) -> tuple[Account, Ledger]:
        account, lived = live(rule, env, params.costs, account, row, limited=limited, monitor=monitor)
        return account, ledger_line(lived, watch(account.sizing))

    return jax.lax.scan(one_bar, account, rows)


def market_rows(params: EnvParams, first: jax.Array, n_bars: int, own: Any) -> BarRow:
    """What `n_bars` decisions from bar `first` on need of a market, leading axis `n_bars`; `own` is theirs already."""

    def rows(x: Any, start: jax.Array) -> Any:
        return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, n_bars), x)

    tradable, masks, sizing = rows((params.market.tradable, params.masks, params.sizing), first)
    return BarRow(first + jnp.arange(n_bars), rows(params.table, first + 1), tradable, masks, sizing, own)


def ledger_line(lived: StepResult, watched: Any = ()) -> Ledger:
    """The line of a `Ledger` of one bar."""
    fills, after = lived.fills, lived.after
    quantity = fills.quantity + fills.liquidation
    spent = fills.quantity * fills.price + fills.liquidation * after.price
    mixed = (fills.liquidation != 0) & (quantity != 0)
    return Ledger(
        equity=after.equity,
        ordered=lived.ordered,
        shares=after.shares,
        weights=weights_of(after),
        quantity=quantity,
        price=jnp.where(mixed, spent / jnp.where(mixed, quantity, 1.0), fills.price),
        costs=jax.tree.map(jnp.sum, fills.costs),
        paid=fills.costs.total(),
        financing=fills.financing,
        turnover=lived.outcome.turnover,
        liquidated=lived.dead,
        levels=lived.levels,
        watched=watched,
    )


def whole_ledger(capital: jax.Array, lines: Ledger, liquidated: jax.Array) -> Ledger:
    """The ledger of consecutive lines (leading axis) that began with `capital` `[]`."""
    return lines.replace(equity=jnp.concatenate([capital[None], lines.equity]), liquidated=liquidated)


def prepare_bars(policy: Policy, net: Params, params: EnvParams, first: jax.Array, n_bars: int) -> jax.Array:
    """`Policy.encode` of `n_bars` consecutive bars, `[n_bars, A, 2 D]`; in blocks, so that its memory is bounded."""
    block = min(BLOCK, n_bars)
    n_blocks = -(-n_bars // block)
    starts = np.minimum(np.arange(n_blocks) * block, n_bars - block)
    prepared = encode_paths(policy, net, params, first + jnp.asarray(starts, jnp.int32), block, 1)
    full = prepared[:-1].reshape(-1, *prepared.shape[2:])
    return jnp.concatenate([full, prepared[-1, n_blocks * block - n_bars :]])


@partial(jax.jit, static_argnames=("policy", "env", "n_bars", "decision", "monitor"))
def run_policy(
    policy: Policy,
    env: TradingEnv,
    net: Params,
    params: EnvParams,
    first: jax.Array,
    n_bars: int,
    decision: Literal["mode", "mean"] = "mode",
    monitor: Monitor = UNWATCHED,
) -> Ledger:
    """The policy without its randomness over `n_bars` bars from `first`; compiled once per `n_bars`.

    Args:
      policy: the policy.
      env: the environment.
      net: the policy's parameters.
      params: the market and its costs.
      first: `[]` int32, first decision bar.
      n_bars: number of decisions.
      decision: "mode" takes the most probable action; "mean" the probability-weighted mean of the targets of discrete
        and hierarchical ones, see `TradingEnv.expected_target`. Continuous actions are the same either way: the median
        of a squashed Gaussian, the mean of a Beta distribution.
      monitor: see `simulate`.
    """

    start = open_account(env, params, first, monitor)
    account, lines = carry_policy_on(policy, env, net, params, start, first, n_bars, decision, monitor)
    return whole_ledger(start.portfolio.equity, lines, account.dead)


@partial(jax.jit, static_argnames=("policy", "env", "n_bars", "decision", "monitor"))
def carry_policy_on(
    policy: Policy,
    env: TradingEnv,
    net: Params,
    params: EnvParams,
    account: Account,
    first: jax.Array,
    n_bars: int,
    decision: Literal["mode", "mean"] = "mode",
    monitor: Monitor = UNWATCHED,
) -> tuple[Account, Ledger]:
    """`run_policy` with an account at the close of bar `first` that has a past; see `carry_on`."""

    def decide(
        portfolio: Portfolio, seen: Observation, prepared: jax.Array, constraint: Constraint | None
    ) -> tuple[jax.Array, jax.Array]:
        return decide_without_randomness(policy, env, net, portfolio, seen, prepared, constraint, decision)

    prepared = prepare_bars(policy, net, params, first, n_bars)
    return carry_on(decide, prepared, env, params, account, first, n_bars, monitor=monitor)


def decide_without_randomness(
    policy: Policy,
    env: TradingEnv,
    net: Params,
    portfolio: Portfolio,
    seen: Observation,
    prepared: jax.Array,
    constraint: Constraint | None,
    decision: Literal["mode", "mean"],
) -> tuple[jax.Array, jax.Array]:
    """Target weights `[A]` and hold flags `[A]` of one account at one bar; see `run_policy`."""
    distribution, _ = policy.act(net, prepared, seen)
    if decision == "mean" and env.actions in ("discrete", "hierarchical"):
        return env.expected_target(distribution.probabilities(), portfolio, constraint)
    action, mask = choose(env, distribution, seen.mask, constraint, lambda own, _: own.mode())
    return env.decode(distribution.restricted(mask).squash(action), portfolio, constraint)


@partial(jax.jit, static_argnames=("env", "n_bars", "periods", "monitor"))
def run_baselines(
    env: TradingEnv,
    params: EnvParams,
    first: jax.Array,
    n_bars: int,
    periods: float,
    target_volatility: jax.Array,
    monitor: Monitor = UNWATCHED,
) -> dict[str, Ledger]:
    """Rules that need no learning, under the same costs and fills, without masks.

    - `buy_and_hold`: equal weights in the assets that are tradable at the first decision (or, if none is, at the first
      one with any), never touched again.
    - `flat`: no position.
    - `volatility_target`: equal weights, scaled so that the forecast volatility of the equal-weight portfolio is the
      target, within the leverage limit; an asset is traded when it is off its target by a tenth or more.

    Args:
      env: the environment.
      params: the market and its costs.
      first: `[]` int32, first decision bar.
      n_bars: number of bars.
      periods: bars per year.
      target_volatility: `[]` per year.
      monitor: limits that are watched; a baseline that breaches one trades on.
    """

    def buy_and_hold(portfolio: Portfolio, seen: Observation, own: None, _: None) -> tuple[jax.Array, jax.Array]:
        tradable = seen.asset[:, 2]
        weights = tradable / jnp.maximum(tradable.sum(), 1.0)
        bought = jnp.any((portfolio.shares != 0) | (outstanding(portfolio) != 0))
        return weights, bought | (tradable == 0)

    def flat(portfolio: Portfolio, seen: Observation, own: None, _: None) -> tuple[jax.Array, jax.Array]:
        return jnp.zeros_like(portfolio.shares), jnp.ones(portfolio.shares.shape, bool)

    def volatility_target(
        portfolio: Portfolio, seen: Observation, volatility: jax.Array, _: None
    ) -> tuple[jax.Array, jax.Array]:
        tradable = seen.asset[:, 2]
        gross = jnp.minimum(target_volatility / (volatility * periods**0.5), params.costs.max_leverage)
        weights = gross * tradable / jnp.maximum(tradable.sum(), 1.0)
        close_enough = jnp.abs(weights - weights_of(portfolio)) < 0.1 * weights
        return weights, close_enough | (tradable == 0)

    forecast = jax.lax.dynamic_slice_in_dim(equal_weight_volatility(params.market), first, n_bars)
    rules = {"buy_and_hold": (buy_and_hold, None), "flat": (flat, None)}
    rules["volatility_target"] = (volatility_target, forecast)
    return {
        name: simulate(rule, own, env, params, first, n_bars, limited=False, monitor=monitor)
        for name, (rule, own) in rules.items()
    }


def equal_weight_volatility(market: MarketData, span: int = 63) -> jax.Array:
    """Per-bar EWMA volatility `[T]` of the equal-weight portfolio of the tradable assets, known at each close."""
    index = market_index(market)
    index = index.replace(tradable=jnp.ones_like(index.tradable))
    return ewma_volatility(index, span)[:, 0]
