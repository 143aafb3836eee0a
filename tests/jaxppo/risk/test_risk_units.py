"""Positions in units of risk: the formula, the volatility that comes out, and every kind of action."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from causality import assert_causal
from slowly import slow_after

from jaxppo import envs, rules
from jaxppo.backtest import simulate
from jaxppo.backtest.account import AccountRules
from jaxppo.backtest.conditions import Conditions
from jaxppo.config import ConfigError, load_config
from jaxppo.envs import simulators
from jaxppo.envs.execution.costs import basic_costs
from jaxppo.envs.market.features import ewma_volatility
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.view import MarketView
from jaxppo.policy import from_array
from jaxppo.risk import sizing

PERIODS = 252.0


def ragged_market():
    """Three assets: one is listed at bar 30 and has no bar from 120 on, one misses a third of its bars."""
    market = simulators.gbm(jax.random.key(7), 200, 3, volatility=0.02)
    there = np.asarray(jax.random.uniform(jax.random.key(8), (200, 3))) < [1.0, 0.66, 1.0]
    there[:30, 0] = there[120:, 0] = False
    latest = np.maximum.accumulate(np.where(there, np.arange(200)[:, None], -1), axis=0)
    held = np.take_along_axis(np.asarray(market.close), np.maximum(latest, 0), axis=0)
    stale = np.where(latest < 0, 1.0, held)
    prices = {name: jnp.where(there, getattr(market, name), stale) for name in ("open", "high", "low", "close")}
    return market.replace(tradable=jnp.asarray(there), **prices)


def test_a_part_is_the_budget_over_forecast_and_breadth():
    market = ragged_market()
    found = sizing.risk_units(0.2, span=20, largest=3.0).table(MarketView(market, PERIODS, 0.5))
    annual = np.asarray(ewma_volatility(market, 20)) * PERIODS**0.5
    seen = pd.DataFrame(np.asarray(market.tradable)).replace(False, np.nan)
    present = seen.ffill(limit=20).notna().to_numpy()
    parts = np.minimum(0.2 / annual, 3.0) / np.sqrt(np.maximum(present.sum(axis=1, keepdims=True), 1))
    np.testing.assert_allclose(found, np.where(present, parts, 0.0) / 0.5, rtol=1e-5)


@pytest.mark.parametrize("t", [40, 150])
def test_nothing_of_it_looks_ahead(t):
    table = sizing.risk_units(0.2, span=20).table
    assert_causal(lambda market: table(MarketView(market, PERIODS, 1.0)), ragged_market(), t, jax.random.key(t))


@pytest.mark.parametrize("n_assets", slow_after(1, [4, 1, 9]))
def test_parts_of_independent_assets_have_the_volatility_of_the_budget(n_assets):
    """Volatilities from 5 to 60 %, one part of each asset: 12 % a year in the end."""
    each = np.geomspace(0.05, 0.6, n_assets) / PERIODS**0.5
    paths = [simulators.gbm(jax.random.key(i), 2500, 1, volatility=float(x), drift=0.0) for i, x in enumerate(each)]
    market = jax.tree.map(lambda *x: jnp.concatenate(x, axis=-1) if x[0].ndim == 2 else x[0], *paths)
    market = market.replace(volume_known=jnp.zeros(n_assets, bool))
    env = TradingEnv(
        n_assets=n_assets, actions="continuous", levels=(-1.0, 1.0), position_limit=1.0, observation="index",
        groups=("calendar",), normalisation_window=2, window=1, sizing=sizing.chain(sizing.risk_units(0.12, span=40)),
    )  # fmt: skip
    costs = basic_costs(spread_multiplier=0.0, max_leverage=50.0, maintenance_margin=0.0)
    conditions = Conditions(
        AccountRules(env, PERIODS),
        costs,
        lambda costs, market: env.make_params(market, costs, periods=PERIODS),
        warmup=41,
        history=41,
        identity="parts of independent assets",
    )
    result = simulate(from_array(jnp.ones((2500, n_assets))), market, conditions=conditions, first=100)
    found = result.returns["returns"].std() * PERIODS**0.5
    assert found == pytest.approx(0.12, rel=0.08)


@pytest.mark.parametrize("actions", ["discrete", "continuous", "band", "hierarchical"])
def test_every_kind_of_action_is_a_share_of_a_part(actions):
    """From a flat start, the order of a decision is its target times the unit of the bar."""
    market = simulators.gbm(jax.random.key(0), 200, 2, volatility=0.02)
    settings = {"n_assets": 2, "actions": actions, "levels": (-1.0, -0.5, 0.0, 0.5, 1.0), "position_limit": 0.5}
    settings |= {"observation": "index", "start": "flat", "groups": ("price",), "normalisation_window": 10}
    units = sizing.risk_units(0.1, span=20, tolerance=0.0)
    costs = basic_costs(spread_multiplier=0.0, max_leverage=20.0, maintenance_margin=0.0)
    executed = {}
    for name, chosen in (("shares", None), ("units", sizing.chain(units))):
        env = TradingEnv(**settings, sizing=chosen)
        params = env.make_params(market, costs, periods=PERIODS)
        _, state = env.reset_env(jax.random.key(3), params)
        action = env.action_space(params).sample(jax.random.key(4)) if actions != "discrete" else jnp.asarray([3, 5])
        _, after, *_ = env.step_env(jax.random.key(0), state, action, params)
        executed[name] = np.asarray(after.portfolio.shares * params.market.close[state.bar] / 1e6)
        bar = int(state.bar)
    unit = np.asarray(units.table(MarketView(market, PERIODS, 0.5)))[bar]
    np.testing.assert_allclose(executed["units"], executed["shares"] * unit, rtol=1e-3, atol=1e-6)


def test_it_is_a_key_of_sizing_and_excludes_kelly():
    config = load_config(overrides=["--sizing", "[{risk_units: {target: 0.15}}, {volatility_target: {target: 0.1}}]"])
    assert config.sizing[0].risk_units.target == 0.15
    for items, words in (
        ("[{volatility_target: {target: 0.1}}, {risk_units: {}}]", "takes targets as shares; put it before"),
        ("[{kelly: {}}, {risk_units: {}}]", "targets are shares of one of them"),
        ("[{risk_units: {target: -1}}]", "risk_units.target is -1"),
    ):
        with pytest.raises(ConfigError, match=words):
            load_config(overrides=["--sizing", items])


def test_trend_in_units_of_risk_by_a_rule():
    """A rule trades in the same units through `inverse_volatility`; the transform makes them of equal targets."""
    market = envs.load_market("us5_1d", symbols=["IBM", "MSFT", "AAPL"])
    table = np.asarray(sizing.risk_units(0.1).table(MarketView(market, PERIODS, 1.0)))
    shares = table[500] / table[500].sum()
    weights = simulate(rules.inverse_volatility(), market, costs=envs.basic_costs(), first=499, n_bars=3).positions
    np.testing.assert_allclose(weights.iloc[0] / weights.iloc[0].sum(), shares, rtol=0.05)
