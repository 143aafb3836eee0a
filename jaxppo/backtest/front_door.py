"""The front door: a policy on a market."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.backtest.account import AccountRules, AccountState, open_account, step_account
from jaxppo.backtest.conditions import (
    Conditions,
    conditions_of,
    plain_conditions,
    refuse_weights_as_tilts,
    tables_without_base,
)
from jaxppo.backtest.estimated_spread import estimated_spread_sentences
from jaxppo.backtest.result import BacktestResult
from jaxppo.backtest.running_statistics import RunningStatistics, start
from jaxppo.backtest.shipping import decided, ship_notes, shipped_of
from jaxppo.backtest.simulate import market_rows, policy_rows, simulate_account
from jaxppo.envs.execution.costs import Costs
from jaxppo.envs.execution.fill_rule import FillRule
from jaxppo.envs.execution.fill_time import implausible_volume, volume_sentences
from jaxppo.envs.market.check import check_market
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.market.periods import periods_per_year
from jaxppo.envs.trading.account import BarRow
from jaxppo.envs.trading.types import EnvParams
from jaxppo.policy.arrays import from_array
from jaxppo.policy.protocol import Policy
from jaxppo.run.given_code import check_given
from jaxppo.run.saved import SavedRun


def simulate(
    policy: Policy | np.ndarray | jax.Array | SavedRun,
    market: MarketData | SavedRun | None = None,
    *,
    costs: Costs | None = None,
    fill_rule: FillRule = FillRule(),
    initial_cash: float = 1e6,
    first: int | None = None,
    n_bars: int | None = None,
    conditions: Conditions | None = None,
    check: bool = True,
) -> BacktestResult:
    """Runs a policy over a market from a flat start, through the one accounting function.

    Warns where an account of this size would take unlikely long to fill the largest position: counted ticks are no
    volume, see `volume` of `load_market`.

    >>> import jaxppo
    >>> market = jaxppo.envs.load_market("us5_1d")
    >>> result = jaxppo.backtest.simulate(jaxppo.rules.buy_and_hold(), market)
    >>> result.equity.shape, list(result.costs.columns)
    ((3270, 1), ['commission', 'spread', 'slippage', 'impact', 'financing'])

    Args:
      policy: a rule, an agent, anything that is a `Policy`; target weights at each close, `[T, A]`, NaN to hold; or an
        opened run, for its agent, or with `evaluation.ship` base_unless for what its gate lets trade.
      market: prices; or an opened run, for its test period, masks, sizing, costs and monitored limits, but without its
        base or book for a rule. None takes the run that is the policy.
      costs: on a market; None takes the defaults of the configuration, which charge all costs.
      fill_rule: on a market: latency, partial fills and fill price.
      initial_cash: on a market: currency, > 0.
      first: bar of the first decision; None takes the earliest possible, or that of the run's test period.
      n_bars: number of decisions; None goes on to the last bar but one of the market or of the test period.
      conditions: in place of costs, fill rule and cash; see `conditions_of`.
      check: whether a policy of your own is tried for look-ahead before it trades, once, as `jaxppo.testing` does, and
        a rule refused whose weights the given `conditions` take for tilts around a base.

    Raises:
      ConfigError: a policy of your own that looks ahead.
      DataError: prices that cannot be right, see `check_market`.
      ValueError: a rule refused, a period that does not lie in the market, or other assets than the policy trades.
    """
    said: list[str] = []
    given, limits = policy, conditions is not None
    run = market if isinstance(market, SavedRun) else policy if market is None else None
    if isinstance(policy, np.ndarray | jax.Array):
        policy = from_array(jnp.asarray(policy))
    if isinstance(policy, SavedRun):
        conditions = conditions_of(policy) if conditions is None else conditions
        shipping = decided(policy)
        said = ship_notes(shipping)
        policy = shipped_of(shipping)._replace(name=policy.folder.resolve().name)
    if isinstance(run, SavedRun):
        prices, params, period = run.setup.market, run.setup.params, run.setup.periods["test"]
        if conditions is None:
            rule = given is policy and policy.encoding is None  # no agent, whose decisions may be tilts
            conditions = conditions_of(run, base=not rule)
            params = tables_without_base(run.setup.env, params) if rule else params
        first = period.first if first is None else first
        n_bars = period.last - first if n_bars is None else n_bars
    elif isinstance(market, MarketData):
        if conditions is None:
            periods = periods_per_year(market)
            conditions = plain_conditions(
                market.n_assets, periods=periods, costs=costs, fill_rule=fill_rule, initial_cash=initial_cash
            )
        prices, params = check_market(market), conditions.prepare(conditions.costs, market)
    else:
        raise ValueError("a policy needs a market, or an opened run, to trade on")
    first, n_bars = _period(policy, conditions, prices, first, n_bars)
    if check:
        _check(given, policy, conditions, prices, limits=limits)
    position = float(params.initial_cash) * conditions.rules.env.position_limit
    participation = float(conditions.costs.participation_limit)
    for line in implausible_volume(prices, position, participation):
        warnings.warn(line, stacklevel=2)
    ledger = jax.device_get(simulate_account(policy, conditions.rules, params, jnp.int32(first), n_bars))
    notes = (*said, *volume_sentences(prices, position, participation), *estimated_spread_sentences(ledger, prices))
    rules, delisting = conditions.rules, conditions.rules.env.fill_rule.delisting
    return BacktestResult(policy.name, ledger, prices, first, rules.periods, delisting, notes, params.costs)


def simulate_streaming(
    policy: Policy,
    market: MarketData,
    conditions: Conditions,
    *,
    first: int | None = None,
    n_bars: int | None = None,
    check: bool = True,
) -> RunningStatistics:
    """The figures of a policy over a market, without a series of anything: in memory that no bar adds to.

    Args:
      policy: who decides.
      market: prices.
      conditions: what it trades under.
      first: bar of the first decision; None takes the earliest possible.
      n_bars: number of decisions; None goes on to the last bar but one.
      check: see `simulate`.

    Raises:
      ConfigError: a policy of your own that looks ahead.
      ValueError: see `simulate`.
    """
    if check:
        _check(policy, policy, conditions, market, limits=True)
    first, n_bars = _period(policy, conditions, market, first, n_bars)
    params = conditions.prepare(conditions.costs, market)
    return _streaming(policy.without_params(), policy.params, conditions.rules, params, jnp.int32(first), n_bars)


def _check(given: Any, policy: Policy, conditions: Conditions, market: MarketData, *, limits: bool) -> None:
    """Refuses weights that would be tilts, and a policy of a user's own that looks ahead; an array cannot be asked.

    Raises:
      ConfigError: it looks ahead.
      ValueError: its weights would be tilts.
    """
    if isinstance(given, SavedRun):
        return
    refuse_weights_as_tilts(policy, conditions)
    if isinstance(given, Policy):
        check_given(policy, conditions.rules.env, market, conditions.rules.periods, limits=limits)


def _period(
    policy: Policy, conditions: Conditions, market: MarketData, first: int | None, n_bars: int | None
) -> tuple[int, int]:
    """First decision bar and number of decisions, checked."""
    env, warmup = conditions.rules.env, max(policy.warmup, conditions.warmup)
    first = warmup if first is None else first
    n_bars = market.n_bars - 1 - first if n_bars is None else n_bars
    if market.n_assets != env.n_assets:
        raise ValueError(f"the market has {market.n_assets} assets, {policy.name} trades {env.n_assets}")
    if policy.in_shares and conditions.rules.limited:
        raise ValueError(f"{policy.name} orders in shares, which masks and sizing cannot limit; use rules without them")
    if first < warmup or n_bars < 1 or first + n_bars >= market.n_bars:
        raise ValueError(
            f"{n_bars} decisions from bar {first} on: {policy.name} decides from bar {warmup} on, and the "
            f"market has {market.n_bars} bars, of which the last takes no decision"
        )
    return first, n_bars


@partial(jax.jit, static_argnames=("static", "rules", "n_bars"))
def _streaming(
    static: Policy, policy_params: Any, rules: AccountRules, params: EnvParams, first: jax.Array, n_bars: int
) -> RunningStatistics:
    policy = static._replace(params=policy_params)
    state = open_account(policy, rules, params, first)
    rows = market_rows(params, first, n_bars, policy_rows(policy, rules, params, first, n_bars))

    def one_bar(
        carry: tuple[AccountState, RunningStatistics], row: BarRow
    ) -> tuple[tuple[AccountState, RunningStatistics], None]:
        state, figures = carry
        state, step = step_account(policy, rules, params.costs, state, row)
        return (state, figures.update(step)), None

    return jax.lax.scan(one_bar, (state, start(state.account.portfolio)), rows)[0][1]
