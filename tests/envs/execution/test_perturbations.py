"""Randomised costs, starts, latencies and fills: ranges, shares, and that nothing else changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from moments import assert_mean
from random_accounts import random_bars, random_decisions, run_account

from jaxppo.envs.execution.bars import BAR_FIELDS
from jaxppo.envs.execution.costs import basic_costs
from jaxppo.envs.execution.fill_rule import FillRule
from jaxppo.envs.execution.perturbations import check_ranges, miss_fills, random_latency, random_start, scale_costs

COSTS = basic_costs(commission_bps=2.0, slippage=0.1, impact=0.5, transient_impact=1.0, permanent_impact=0.3)


def test_factors_are_log_uniform_and_the_other_costs_stay():
    ranges = {"commission_rate": (0.5, 2.0), "slippage": (1.0, 4.0), "transient": (0.1, 10.0)}
    check_ranges(ranges)
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = jax.jit(jax.vmap(lambda key: scale_costs(key, COSTS, ranges)))(keys)
    pairs = {
        "commission_rate": (drawn.commission_rate, COSTS.commission_rate),
        "slippage": (drawn.slippage, COSTS.slippage),
        "transient": (drawn.displacement.transient, COSTS.displacement.transient),
    }
    for name, (values, whole) in pairs.items():
        low, high = np.log(ranges[name])
        share = (np.log(np.asarray(values, np.float64) / float(whole)) - low) / (high - low)
        assert -1e-5 <= share.min() < 0.01 < 0.99 < share.max() <= 1 + 1e-5
        assert_mean(share, 0.5)
        assert_mean((share - 0.5) ** 2, 1 / 12)
    for values, whole in ((drawn.impact, COSTS.impact), (drawn.displacement.permanent, COSTS.displacement.permanent)):
        np.testing.assert_array_equal(values, whole)
    alone = scale_costs(keys[0], COSTS, {"slippage": ranges["slippage"]})
    np.testing.assert_allclose(alone.slippage, drawn.slippage[0], rtol=1e-6)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="no 'max_leverage' to scale"):
        check_ranges({"max_leverage": (1.0, 2.0)})
    with pytest.raises(ValueError, match=r"slippage are \[0, 2\]"):
        check_ranges({"slippage": (0, 2)})
    with pytest.raises(ValueError, match="permanent cannot be scaled"):
        scale_costs(jax.random.key(0), basic_costs(), {"permanent": (1.0, 2.0)})


def test_starts_are_uniform_with_both_ends():
    starts = jax.vmap(lambda key: random_start(key, 5, 9))(jax.random.split(jax.random.key(1), 5000))
    counts = np.bincount(np.asarray(starts), minlength=10)
    assert set(np.flatnonzero(counts)) == {5, 6, 7, 8, 9}
    for bar in range(5, 10):
        assert_mean(np.asarray(starts) == bar, 0.2)
    assert int(random_start(jax.random.key(2), 7, 7)) == 7


def test_latencies_are_uniform_with_both_ends():
    drawn = np.asarray(jax.vmap(lambda key: random_latency(key, 2, 4))(jax.random.split(jax.random.key(4), 3000)))
    assert drawn.shape == (3000, 4)
    np.testing.assert_array_equal(drawn.sum(axis=1), 1)
    assert not drawn[:, 0].any()
    for bar in (1, 2, 3):
        assert_mean(drawn[:, bar], 1 / 3)
    np.testing.assert_array_equal(random_latency(jax.random.key(5), 1, 1), [True])


@pytest.mark.parametrize("latency", [1, 2])
def test_a_latency_of_the_costs_is_that_of_a_fill_rule(latency):
    """Bit for bit, through partial fills, halts and liquidations."""
    bars, (weights, hold) = random_bars(6, 600, 2, volatility=0.03), random_decisions(6, 600, 2, hold=0.3)
    costs = basic_costs(
        commission_bps=2.0,
        impact=0.5,
        participation_limit=0.3,
        max_leverage=2.0,
        maintenance_margin=0.48,
    )
    static, usual, orders = run_account(bars, 2 * weights, hold, costs, 1e5, FillRule(latency))
    own = costs.replace(latency=jnp.arange(3) == latency - 1)
    found, fills, ordered = run_account(bars, 2 * weights, hold, own, 1e5, FillRule(3))
    np.testing.assert_array_equal(found.equity, static.equity)
    np.testing.assert_array_equal(found.shares, static.shares)
    np.testing.assert_array_equal(ordered, orders)
    np.testing.assert_array_equal(fills.quantity, usual.quantity)
    assert np.asarray(usual.liquidated).any()
    assert (np.asarray(usual.quantity) != 0).sum() > 200
    assert (np.asarray(static.unfilled) != 0).any()
    with pytest.raises(ValueError, match=r"due within 3 bars, and FillRule says latency_bars=2"):
        run_account(bars, weights, hold, own, 1e6, FillRule(2))


def test_missed_fills_wait_for_the_next_bar():
    bars = random_bars(3, 400, 2)
    table = miss_fills(jax.random.key(3), jnp.asarray(bars), 0.25)
    volume = BAR_FIELDS.index("available_volume")
    others = [i for i in range(len(BAR_FIELDS)) if i != volume]
    np.testing.assert_array_equal(np.asarray(table)[:, others], bars[:, others])
    changed = np.asarray(table[:, volume]) != bars[:, volume]
    assert (np.asarray(table[:, volume])[changed] == 0).all()
    assert_mean(changed[bars[:, volume] > 0], 0.25)
    weights, hold = random_decisions(3, 400, 2, hold=0.5)
    _, fills, _ = run_account(table, weights, hold, basic_costs(), 1e6, FillRule())
    _, usual, _ = run_account(bars, weights, hold, basic_costs(), 1e6, FillRule())
    assert (np.asarray(fills.quantity)[changed[1:]] == 0).all()
    assert (np.asarray(usual.quantity)[changed[1:]] != 0).any()
    np.testing.assert_array_equal(miss_fills(jax.random.key(3), jnp.asarray(bars), 0.0), bars)
