"""What a result is compared with: rules, agents of other runs, and benchmarks of prices."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.backtest.account import AccountRules
from jaxppo.backtest.ledger import Ledger
from jaxppo.backtest.simulate import simulate_account, view_of
from jaxppo.config.evaluation import BASELINE_RULES, RESERVED, BaselineConfig
from jaxppo.config.items import OWN
from jaxppo.envs.execution.portfolio import outstanding
from jaxppo.envs.trading.types import EnvParams
from jaxppo.policy import rules as policies
from jaxppo.policy.protocol import Observed, Policy, Targets
from jaxppo.run.base import base_policy
from jaxppo.run.benchmark import asset_of, benchmark_prices, rule_of
from jaxppo.run.build import open_strategy
from jaxppo.run.own import own_part
from jaxppo.run.periods import Period
from jaxppo.run.setup import Setup


def baseline_policies(target_volatility: float, max_leverage: float) -> dict[str, Policy]:
    """Name -> rule that needs no learning.

    Args:
      target_volatility: per year, fraction of equity.
      max_leverage: largest gross exposure, multiple of equity.
    """
    return {
        "buy_and_hold": policies.buy_and_hold(),
        "flat": policies.flat(),
        "volatility_target": policies.volatility_target(target_volatility, gross=max_leverage),
    }


def run_baselines(
    rules: AccountRules, params: EnvParams, first: jax.Array, n_bars: int, target_volatility: float
) -> dict[str, Ledger]:
    """Runs the baselines over a period, under the same costs and fills, without masks, exits and limit orders.

    Args:
      rules: of the account they are compared with; a baseline that breaches a monitored limit trades on.
      params: the market and its costs.
      first: `[]` int32, first decision bar.
      n_bars: number of bars.
      target_volatility: per year, fraction of equity.
    """
    unlimited, params = _plain(rules), _at_the_market(params)
    rows = baseline_policies(target_volatility, float(params.costs.max_leverage))
    return {name: simulate_account(policy, unlimited, params, first, n_bars) for name, policy in rows.items()}


def configured_baselines(setup: Setup, rules: AccountRules, where: Period) -> dict[str, Ledger]:
    """Runs the baselines of a configuration over a period; `run_baselines` where it names none.

    Rules and assets that are held trade under the costs and fills of the run, without its masks, sizing, exits and
    limit orders; an agent of another run under the masks and sizing that it was trained with. An index is its returns,
    without costs. The base of the policy, if it has one, comes first.

    Args:
      setup: of the run.
      rules: of the account they are compared with.
      where: the period.

    Raises:
      ConfigError: a baseline that does not fit the prices.
    """
    chosen, first = setup.config.evaluation, jnp.int32(where.first)
    found, unlimited, params = {}, _plain(rules), _at_the_market(setup.params)
    if setup.env.base is not None:
        found["base"] = simulate_account(base_policy(setup), rules, setup.params, first, where.n_bars)
    if not chosen.baselines:
        return found | run_baselines(rules, setup.params, first, where.n_bars, chosen.target_volatility)
    titles = _titles(chosen.baselines)
    for number, item in enumerate(chosen.baselines):
        if item.benchmark is not None and item.benchmark.path is not None:
            prices = benchmark_prices(item.benchmark, setup.config, setup.market, where)
            found[titles[number]] = _costless(setup, rules, prices)
            continue
        if item.kind in (*BASELINE_RULES, OWN):
            policy = rule_of(item, number)
        elif item.run is not None:
            policy = _precomputed(open_strategy(item.run, setup.market), rules, params)
        else:
            assert item.benchmark is not None
            policy = hold_asset(asset_of(item.benchmark, setup.market, number))
        found[titles[number]] = simulate_account(policy, unlimited, params, first, where.n_bars)
    return found


def _titles(baselines: Sequence[BaselineConfig]) -> list[str]:
    """Names of configured baselines: a rule of a user's own has the one that its policy has, where no other has it."""
    titles = [item.title for item in baselines]
    for number, item in enumerate(baselines):
        if item.kind == OWN:
            name = own_part(item.values, f"evaluation.baselines[{number}]", Policy).name
            taken = name in (*titles, *RESERVED, "base") or hasattr(policies, name)
            titles[number] = titles[number] if taken else name
    return titles


@functools.lru_cache
def _plain(rules: AccountRules) -> AccountRules:
    """The rules without masks, sizing, monitored limits that stop, exits and limit orders: what is held is held."""
    env = rules.env
    if env.fill_rule.ranges:
        env = copy.copy(env)
        env.fill_rule = dataclasses.replace(env.fill_rule, exits=False, limit_orders=False)
        env.sizing = None  # whose base, or book, would go on with exits and limit orders
    return rules._replace(env=env, limited=False)


def _at_the_market(params: EnvParams) -> EnvParams:
    """The market and its costs, for `_plain` rules."""
    return params.replace(costs=params.costs.replace(exits=(), limit_orders=()))


@functools.lru_cache
def hold_asset(asset: int) -> Policy:
    """All equity in one asset from the first decision at which it is tradable on, never touched again.

    Args:
      asset: its position among the assets.
    """

    def apply(params: Any, state: Any, observed: Observed) -> tuple[Targets, Any]:
        portfolio, tradable = observed.portfolio, observed.row
        one = jnp.arange(len(tradable)) == asset
        bought = jnp.any((portfolio.shares != 0) | (outstanding(portfolio) != 0))
        return Targets(one.astype(jnp.float32), bought | ~(one & tradable)), state

    return Policy("hold_asset", apply, table=lambda params, view: view.market.tradable)


def _precomputed(policy: Policy, rules: AccountRules, params: EnvParams) -> Policy:
    """The policy with its table as a parameter: that of a trained agent is not made within a compiled function."""
    table = policy.table(policy.params, view_of(rules, params))

    def apply(known: Any, state: Any, observed: Observed) -> tuple[Targets, Any]:
        return policy.apply(known[0], state, observed)

    return policy._replace(apply=apply, table=lambda known, view: known[1], params=(policy.params, table))


def _costless(setup: Setup, rules: AccountRules, prices: np.ndarray) -> Ledger:
    """The ledger of an account that earns the returns of prices `[n + 1]` and trades nothing."""
    n_bars, capital = len(prices) - 1, setup.params.initial_cash
    shapes = jax.eval_shape(
        lambda params: simulate_account(policies.flat(), rules, params, jnp.int32(0), n_bars), setup.params
    )
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    equity = np.asarray(float(capital) * prices / prices[0], np.float32)
    return zeros.replace(equity=equity, monitored={})
