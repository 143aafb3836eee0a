"""Positions in assets that end are settled, named with their size, and counted as closed."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from jaxppo import envs, rules
from jaxppo.backtest import capacity, simulate
from jaxppo.backtest.conditions import plain_conditions
from jaxppo.backtest.ended import ended_sentences
from jaxppo.policy import from_array

N_BARS, LAST = 120, 80


def prices(gap=0):
    """Two symbols; DEL ends at bar 80, and misses `gap` bars before."""
    rng = np.random.default_rng(0)
    days, frames = pd.bdate_range("2021-01-04", periods=N_BARS), []
    for name in ("AAA", "DEL"):
        close = 50 * np.exp(np.cumsum(0.01 * rng.standard_normal(N_BARS)))
        table = {"date": days, "open": close, "high": close * 1.01, "low": close * 0.99, "close": close}
        frame = pd.DataFrame({**table, "volume": 1e7, "symbol": name})
        frames.append(frame if name == "AAA" else frame[: LAST + 1].drop(range(20, 20 + gap)))
    return pd.concat(frames)


@pytest.fixture(scope="module")
def market():
    return envs.load_market(prices())


def test_an_asset_that_ends_is_found(market):
    np.testing.assert_array_equal(market.ended, np.arange(N_BARS)[:, None] > np.asarray([N_BARS, LAST]))
    assert any("DEL ends on 2021-04-26, 39 bars before the last" in line for line in market.info.report["warnings"])
    assert envs.slice_bars(market, 90, 100).ended.shape == (10, 2)
    seasonal = envs.load_market(prices(gap=45))
    assert seasonal.ended == (), "it has missed more bars than these before"


@pytest.mark.parametrize("delisting", ["last_close", -0.4, "freeze"])
def test_the_position_is_settled_and_named(market, delisting, tmp_path):
    rule = envs.FillRule(delisting=delisting)
    result = simulate(rules.buy_and_hold(), market, costs=envs.basic_costs(), fill_rule=rule)
    (found,) = result.summary(n_resamples=50)["ended_positions"]
    positions = result.positions["DEL"]
    row = LAST - result.first - 1
    assert found == {
        "symbol": "DEL",
        "ended": "2021-04-26T00:00:00",
        "bars_after": N_BARS - 1 - LAST,
        "weight": pytest.approx(positions.iloc[row]),
        "weight_at_end": pytest.approx(positions.iloc[-1]),
        "settled": delisting,
    }
    assert 0.4 < found["weight"] < 0.6
    step = result.equity["equity"].iloc[row + 1 : row + 3]
    other = result.positions["AAA"].iloc[row] * (
        prices().close.to_numpy()[LAST + 1] / prices().close.to_numpy()[LAST] - 1
    )
    expected = other + found["weight"] * (delisting if isinstance(delisting, float) else 0.0)
    assert step.iloc[1] / step.iloc[0] - 1 == pytest.approx(expected, abs=1e-6)
    assert (positions.iloc[row + 1 :] == 0).all() == (delisting != "freeze")
    assert result.ledger.turnover[row + 1] == 0, "nobody traded"
    (sentence,) = ended_sentences([found])
    assert f"a position of {found['weight']:.1%} of equity" in sentence
    assert f"env.delisting: {delisting}" in sentence
    page = result.report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "DEL ended on 2021-04-26" in page
    trips = result.summary(n_resamples=50)["trades"]
    assert trips == (0 if delisting == "freeze" else 1)


def test_a_position_that_was_closed_before_is_not_named(market):
    result = simulate(rules.flat(), market)
    assert "ended_positions" not in result.summary(n_resamples=50)


def test_a_settlement_fills_no_order(market):
    """Four in ten of the only order fill in its bar, the rest is dropped; the settlement later was nobody's order."""
    targets = np.full((N_BARS, 2), np.nan)
    targets[5] = 0.0, 0.5
    policy, rule = from_array(targets), envs.FillRule(unfilled="drop")
    asked = 0.5 * 1e6 / float(market.close[5, 1])
    costs = envs.basic_costs(participation_limit=0.4 * asked / float(market.volume[6, 1]))
    conditions = plain_conditions(2, periods=252.0, costs=costs, fill_rule=rule)
    params = conditions.prepare(costs, market)
    one = jnp.ones(1)
    found = capacity._traded(
        policy.without_params(), conditions.rules, N_BARS - 6, policy.params, params, jnp.int32(5), one, 1e6 * one
    )
    assert float(found["unfilled"][0]) == pytest.approx(0.6, abs=1e-3)
    assert float(found["turnover"][0]) * (N_BARS - 6) / 252.0 == pytest.approx(0.2, rel=0.05)
