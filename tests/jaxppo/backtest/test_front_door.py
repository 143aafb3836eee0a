"""The front door: tables that agree with each other, a report, and one line for what cannot be done."""

import dataclasses

import empyrical
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxppo
from jaxppo import envs, masks, rules
from jaxppo.backtest import simulate
from jaxppo.backtest.performance import contributions, performance_figures, performance_of, trip_table
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
    changed = "commission_rate 0.0005, slippage 0.05, impact 0 and 3 more"
    assert f"<h1>trend on AAA, BBB, {changed}</h1>" in page
    assert len(repr(result).splitlines()) == 1
    assert "149 bars" in repr(result)


def test_contributions_add_up_to_the_profit_and_months_to_the_return(result, market):
    ledger, names, n = result.ledger, ("AAA", "BBB"), len(result.returns)
    times = market.info.timestamps[result.first : result.first + n + 1]
    found = performance_of(ledger, names, times, periods=result.periods, level=0.9)
    equity = np.asarray(ledger.equity, np.float64)
    # By marks: what was held to the open, what is held from there to the close, less what was paid.
    opens, closes, shares, paid = (
        np.asarray(x, np.float64) for x in (market.open, market.close, ledger.shares, ledger.paid)
    )
    bars = result.first + 1 + np.arange(n)
    before = np.vstack([np.zeros(2), shares[:-1]])
    by_marks = before * (opens[bars] - closes[bars - 1]) + shares * (closes[bars] - opens[bars]) - paid
    np.testing.assert_allclose(found.contribution["profit"], by_marks.sum(axis=0), atol=1.0)
    np.testing.assert_allclose(found.contribution["costs"], paid.sum(axis=0), rtol=1e-6)
    total = found.contribution["profit"].sum() - found.financing + found.other
    assert total == pytest.approx(equity[-1] - equity[0], rel=1e-12)
    assert abs(found.other) < 1.0, "of a million"
    figures, row = performance_figures(found, 1e6), result.summary(n_resamples=100)
    shares_of_it = [*figures["contribution"]["assets"].values(), *list(figures["contribution"].values())[1:]]
    assert sum(shares_of_it) == pytest.approx(row["total_return"], abs=1e-6)
    assert np.prod([1.0 + change for change in figures["monthly"].values()]) - 1.0 == pytest.approx(
        row["total_return"], abs=1e-6
    )
    assert found.window == n // 4
    assert (found.ends[0], found.ends[-1]) == (n // 4, n)
    last = ledger.returns[-(n // 4) :]
    assert found.rolling[-1] == pytest.approx(empyrical.sharpe_ratio(last, annualization=result.periods), rel=1e-3)
    assert (found.rolling_ci[0] < found.rolling).all()
    assert (found.rolling < found.rolling_ci[1]).all()


def test_round_trips_are_listed_as_they_are_counted(result, market):
    trips, row = trip_table(result.ledger, ("AAA", "BBB")), result.summary(n_resamples=100)
    still_open = trips["closed"] < 0
    assert (len(trips) - still_open.sum(), still_open.sum()) == (row["trades"], row["open_trades"])
    assert row["trades"] > 3
    assert (trips["profit"][~still_open] > 0).mean() == pytest.approx(row["trade_win_rate"])
    contribution, _, _ = contributions(result.ledger, ("AAA", "BBB"))
    of_assets = trips.groupby("symbol")["profit"].sum()
    np.testing.assert_allclose(of_assets.reindex(["AAA", "BBB"]), contribution["profit"], atol=1.0)
    assert (trips["closed"] - trips["opened"] == trips["bars"])[~still_open].all()
    held = np.asarray(result.ledger.shares)
    for trip in trips.itertuples():
        end = len(held) if trip.closed < 0 else trip.closed - 1
        own = held[trip.opened - 1 : end, ("AAA", "BBB").index(trip.symbol)]
        assert (np.sign(own) == (1 if trip.side == "long" else -1)).all()
    bought = simulate(rules.buy_and_hold(), market).summary(n_resamples=100)
    assert (bought["trades"], bought["open_trades"], bought["trade_win_rate"]) == (0, 2, None)


def test_costs_are_on_unless_they_are_given(market):
    found = simulate(rules.trend(lookback=10, span=10), market)
    assert (found.costs[["commission", "spread", "slippage", "impact"]].sum() > 0).all()


def test_a_policy_of_three_lines(market):
    def half(params, state, observed: Observed):
        return Targets(jnp.full_like(observed.portfolio.shares, 0.25), jnp.zeros(2, bool)), state

    found = simulate(Policy("half", half), market, n_bars=20)
    np.testing.assert_allclose(found.positions.iloc[-1], 0.25, atol=0.02)


traced: list[int] = []


def ahead(bars: int):
    """A factory of rules: holds what rises over the bars to come, none, one or two."""

    def targets(view):
        traced.append(view.market.n_bars)
        return jnp.where(jnp.roll(view.market.close, -bars, axis=0) > view.market.open, 0.5, 0.0)

    return rules.rule("rises tomorrow", targets, warmup=2)


def test_a_policy_that_looks_ahead_is_refused(market):
    traced.clear()
    with pytest.raises(jaxppo.ConfigError, match=r"rises tomorrow.* looks ahead: at bar .* check=False trades it"):
        simulate(ahead(1), market)
    assert len(traced) == 1, "refused before it is compiled to be traded"
    knowing = simulate(ahead(1), market, check=False).equity["equity"].iloc[-1]
    assert knowing > simulate(ahead(0), market).equity["equity"].iloc[-1]
    n_traced = len(traced)
    simulate(ahead(0), market)
    assert len(traced) == n_traced + 1, "traded, and not tried again: the same code with the same options"
    with pytest.raises(jaxppo.ConfigError, match=r"rises tomorrow.* looks ahead"):
        simulate(ahead(2), market)


def test_a_column_that_was_not_loaded_is_named(market):
    with_mood = market.replace(columns={"mood": market.close})
    for name, prices, has in (("mood", market, "none"), ("news", with_mood, "mood")):
        by_key = rules.rule("news", lambda view, name=name: view.market.columns[name])
        with pytest.raises(jaxppo.ConfigError, match=f"news: .* is read, and the market has {has}; name it in data.co"):
            simulate(by_key, prices)
        by_name = rules.rule("news", lambda view, name=name: view.market.column(name))
        with pytest.raises(jaxppo.DataError, match=f"the column '{name}' is read, and the market has {has}; name it"):
            simulate(by_name, prices)
    np.testing.assert_array_equal(with_mood.column("mood"), market.close)


def test_a_table_of_one_market_is_tried_on_it(market):
    """Rows that were computed elsewhere fit no part of the market."""
    known = jnp.zeros((2000, 2)).at[::2].set(0.5)
    longer = simulators.gbm(jax.random.key(1), 2000, 2)
    for future, refused in ((0.0, False), (1.0, True)):
        own = rules.rule("rows", lambda view, f=future: known + f * jnp.where(view.market.close[-1:] > 1, 0.1, 0.2))
        if refused:
            with pytest.raises(jaxppo.ConfigError, match=r"rows.* looks ahead: at bar 0"):
                simulate(own, longer, n_bars=5)
        else:
            assert simulate(own, longer, n_bars=5).name == "rows"


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


def test_targets_in_an_array_are_a_policy(market):
    targets = np.random.default_rng(0).uniform(0, 1 / market.n_assets, (market.n_bars, market.n_assets))
    targets[::3] = np.nan
    found, expected = simulate(targets, market), simulate(from_array(targets), market)
    pd.testing.assert_frame_equal(found.equity, expected.equity)
    with pytest.raises(ValueError, match=r"expected \[bars, assets\]"):
        simulate(targets[:, 0], market)
