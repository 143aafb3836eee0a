"""The front door: tables that agree with each other, a report, and one line for what cannot be done."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxppo
from jaxppo import envs, masks, rules
from jaxppo.backtest import simulate
from jaxppo.envs import simulators
from jaxppo.policy import Observed, Policy, Targets, from_array


@pytest.fixture(scope="module")
def market():
    times = np.datetime64("2020-01-01", "ns") + np.arange(160) * np.timedelta64(1, "D")
    prices = simulators.gbm(jax.random.key(0), 160, 2, volatility=0.02)
    return prices.replace(info=dataclasses.replace(prices.info, symbols=("AAA", "BBB"), timestamps=times))


@pytest.fixture(scope="module")
def result(market):
    costs = envs.basic_costs(commission_bps=5.0, slippage=0.05)
    return simulate(rules.trend(lookback=10, span=10), market, costs=costs)


def test_the_tables_are_those_of_one_account(result, market):
    assert result.first == 10, "decides as soon as its warm-up is over"
    assert list(result.equity.index) == list(market.info.timestamps[10:])
    paid = result.costs.sum(axis=1)
    assert (result.costs["commission"] > 0).any()
    np.testing.assert_allclose(result.returns["returns"], result.equity["equity"].pct_change().iloc[1:], atol=1e-7)
    filled = result.trades.groupby("time").paid.sum().reindex(result.costs.index, fill_value=0.0)
    np.testing.assert_allclose(filled + result.costs["financing"], paid, rtol=1e-4, atol=1e-3)
    assert list(result.positions.columns) == ["AAA", "BBB"]
    assert isinstance(result.equity, pd.DataFrame)


def test_summary_and_report_agree(result, tmp_path):
    row = result.summary(n_resamples=200)
    assert row["total_return"] == pytest.approx(result.equity["equity"].iloc[-1] / 1e6 - 1.0, abs=1e-6)
    assert row["sharpe_ci"][0] < row["sharpe"] < row["sharpe_ci"][1]
    page = result.report(tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    assert "trend" in page
    assert len(repr(result).splitlines()) == 1
    assert "149 bars" in repr(result)


def test_costs_are_on_unless_they_are_given(market):
    found = simulate(rules.trend(lookback=10, span=10), market)
    assert (found.costs[["commission", "spread", "slippage", "impact"]].sum() > 0).all()


def test_a_policy_of_three_lines(market):
    def half(params, state, observed: Observed):
        return Targets(jnp.full_like(observed.portfolio.shares, 0.25), jnp.zeros(2, bool)), state

    found = simulate(Policy("half", half), market, n_bars=20)
    np.testing.assert_allclose(found.positions.iloc[-1], 0.25, atol=0.02)


def test_what_cannot_be_done_is_a_line(market):
    with pytest.raises(ValueError, match="array decides from bar 0 on, and the market has 160 bars"):
        simulate(from_array(np.zeros((160, 2))), market, n_bars=160)
    with pytest.raises(ValueError, match="needs a market, or an opened run"):
        simulate(rules.flat())


@pytest.mark.parametrize("transform", [masks.no_short(), masks.chain(masks.no_short(), masks.volatility_cap(0.1))])
def test_masks_of_an_environment_need_nothing_but_the_market(transform, market):
    env = envs.TradingEnv(n_assets=2, masks=transform)
    params = env.make_params(simulators.gbm(jax.random.key(1), 400, 2))
    _, state = env.reset(jax.random.key(0), params)
    short = jnp.ones(2, jnp.int32)
    for number in range(3):
        _, state, *_ = env.step(jax.random.key(number), state, short, params)
    assert (np.asarray(state.portfolio.shares) >= 0).all()


def test_what_is_exported_can_be_seen():
    assert jaxppo.__version__
    assert {"train", "simulate", "load_config", "envs", "rules"} <= set(dir(jaxppo))
    for name in jaxppo.__all__:
        assert getattr(jaxppo, name) is not None
