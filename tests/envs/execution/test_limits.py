"""Limits of positions: ranges, shared budgets, turns, what holding leaves."""

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from jaxppo.envs.execution.limits import (
    Constraint,
    GrossBudgets,
    Limits,
    NetBudget,
    QuadraticBudget,
    allowed_box,
    feasible_hold_of,
    intersection,
    no_limits,
    project,
    sequential_allocation,
)

A = 4


def box(low, high, forced_low=None, forced_high=None, budgets=()):
    far = [np.inf] * A
    forced_low = [-x for x in far] if forced_low is None else forced_low
    forced_high = far if forced_high is None else forced_high
    return Limits(*(jnp.asarray(x, jnp.float32) for x in (low, high, forced_low, forced_high)), budgets)


def constraint_of(limits, position, expected=None, tradable=(True,) * A, first=0):
    position = jnp.asarray(position, jnp.float32)
    expected = position if expected is None else jnp.asarray(expected, jnp.float32)
    tradable = jnp.asarray(tradable)
    return Constraint(limits, feasible_hold_of(limits, position, expected, tradable), tradable, jnp.int32(first))


def gross(limit, forced=np.inf, member=((True,) * A,), origin=None):
    origin = None if origin is None else jnp.asarray(origin)
    return GrossBudgets(jnp.asarray(member), jnp.full(len(member), limit), jnp.full(len(member), forced), origin)


def test_a_box_allows_what_is_inside_and_every_reduction():
    limits = box([-0.1, 0.0, -0.2, -0.1], [0.3, 0.2, 0.2, 0.1])
    low, high = allowed_box(constraint_of(limits, [0.5, -0.4, 0.1, 0.0], tradable=(True, True, True, False)))
    np.testing.assert_allclose(low, [-0.1, -0.4, -0.2, 0.0], atol=1e-7)
    np.testing.assert_allclose(high, [0.5, 0.2, 0.2, 0.0], atol=1e-7)


def test_holding_keeps_positions_and_stops_orders_that_would_go_beyond():
    """Position and outstanding order: within; order beyond the limit; position beyond it; order that reduces."""
    limits = box([-0.2] * A, [0.2] * A)
    constraint = constraint_of(limits, [0.1, 0.1, 0.3, 0.3], expected=[0.15, 0.4, 0.4, 0.05])
    np.testing.assert_allclose(constraint.feasible_hold, [0.15, 0.2, 0.3, 0.05], atol=1e-7)


def test_a_forced_limit_leaves_the_nearest_allowed_reduction():
    limits = box([0.0] * A, [0.2] * A, forced_low=[-0.1] * A, forced_high=[0.25, 0.25, 0.0, 0.0])
    constraint = constraint_of(limits, [0.3, -0.4, 0.2, 0.2], tradable=(True, True, True, False))
    np.testing.assert_allclose(constraint.feasible_hold, [0.25, -0.1, 0.0, 0.2], atol=1e-7)
    hold = project(constraint, jnp.zeros(A), jnp.ones(A, bool))
    np.testing.assert_allclose(hold, constraint.feasible_hold, atol=1e-7)


def test_an_intersection_takes_the_narrower_of_each():
    one, two = box([-1] * A, [0.2] * A, [-2] * A, [0.5] * A), box([-0.1] * A, [1] * A, [-0.3] * A, [1] * A)
    both, turned = intersection(one, two), intersection(two, one)
    for found in (both, turned):
        np.testing.assert_allclose([x[0] for x in (found.low, found.high, found.forced_low, found.forced_high)],
                                   [-0.1, 0.2, -0.3, 0.5])  # fmt: skip
    nothing = intersection(no_limits(A), one)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), nothing, one))


def test_rooms_of_budgets_by_hand():
    weights = jnp.asarray([0.3, -0.2, 0.0, 0.1])
    assert gross(1.0).room(weights, 2) == (pytest.approx(-0.4), pytest.approx(0.4))
    sector = gross(0.5, member=((True, True, False, False), (False, False, True, True)))
    np.testing.assert_allclose(sector.room(weights, 0), (-0.3, 0.3), atol=1e-7)
    np.testing.assert_allclose(sector.room(weights, 2), (-0.4, 0.4), atol=1e-7)
    trades = gross(0.15, origin=(0.25, -0.2, 0.0, 0.1))
    np.testing.assert_allclose(trades.room(weights, 3), (0.0, 0.2), atol=1e-7)
    net = NetBudget(*jnp.asarray([-0.1, 0.5, -jnp.inf, jnp.inf]))
    np.testing.assert_allclose(net.room(weights, 1), (-0.5, 0.1), atol=1e-7)
    spread = QuadraticBudget(jnp.eye(A), jnp.asarray(0.25), jnp.asarray(0.25))
    np.testing.assert_allclose(spread.room(weights, 2), (-(0.11**0.5), 0.11**0.5), rtol=1e-6)


def test_the_room_of_a_volatility_budget_ends_where_the_volatility_is_at_the_limit():
    factors = jax.random.normal(jax.random.key(0), (A, 6))
    covariance = factors @ factors.T / 6
    budget = QuadraticBudget(covariance, jnp.asarray(0.3), jnp.asarray(jnp.inf))
    weights = 0.2 * jax.random.normal(jax.random.key(1), (A,))
    for asset in range(A):
        for end in budget.room(weights, asset):
            there = np.asarray(weights.at[asset].set(end), np.float64)
            assert there @ np.asarray(covariance, np.float64) @ there == pytest.approx(0.3, rel=1e-4)


flags = st.lists(st.booleans(), min_size=A, max_size=A)
weight = st.floats(-1, 1, width=32)
numbers = st.lists(weight, min_size=A, max_size=A)
sizes = st.lists(st.floats(0, 1, width=32), min_size=A, max_size=A)


@functools.partial(jax.jit, static_argnames="forced")
def run(position, order, low, high, limit, target, hold, tradable, first, forced):
    factors = jnp.cos(jnp.arange(A * 3.0)).reshape(A, 3)
    covariance = factors @ factors.T / 3 + 0.1 * jnp.eye(A)

    def if_forced(x):
        return x if forced else jnp.sign(x + jnp.where(x == 0, 1.0, 0.0)) * jnp.inf

    both, variance = jnp.stack([limit, limit / 2]), limit**2 / 9 + 1e-4
    budgets = (
        GrossBudgets(jnp.asarray([[True] * A, [True, False, True, False]]), both, if_forced(both)),
        NetBudget(-limit / 4, limit / 2, -if_forced(limit / 4), if_forced(limit / 2)),
        QuadraticBudget(covariance, variance, if_forced(variance)),
    )
    limits = Limits(-low, high, -if_forced(low), if_forced(high), budgets)
    keep = feasible_hold_of(limits, position, position + order, tradable)
    constraint = Constraint(limits, keep, tradable, first)
    weights = project(constraint, target, hold)
    gross_used = jnp.stack([jnp.abs(keep).sum(), jnp.abs(keep)[::2].sum()])
    gross_after = jnp.stack([jnp.abs(weights).sum(), jnp.abs(weights)[::2].sum()])
    net_and_variance = [(w.sum(), w @ (covariance @ w)) for w in (position, keep)]
    bounds = (-limit / 4, limit / 2, variance)
    box = allowed_box(constraint)
    return keep, weights, gross_used, gross_after, budgets[0].limit, box, net_and_variance, bounds


@settings(max_examples=200, deadline=None)
@given(
    numbers,
    numbers,
    sizes,
    sizes,
    st.floats(0, 2, width=32),
    numbers,
    flags,
    flags,
    st.integers(0, A - 1),
    st.booleans(),
)
def test_nothing_is_ever_taken_beyond_a_limit(position, order, low, high, limit, target, hold, tradable, first, forced):
    """Boxes and gross budgets are never exceeded but by what holding leaves, and holding and closing are allowed."""
    # An order that is outstanding cannot be stopped without a bar.
    order = [x if t else 0.0 for x, t in zip(order, tradable, strict=True)]
    given_ = [jnp.asarray(x, jnp.float32) for x in (position, order, low, high, limit, target)]
    keep, weights, used, after, limit, (least, most), (before, now), (lowest, highest, variance) = run(
        *given_, jnp.asarray(hold), jnp.asarray(tradable), jnp.int32(first), forced
    )
    position, order, low, high, _, target = (np.asarray(x) for x in given_)
    assert np.all(np.isfinite(weights))
    slack = 1e-5
    assert np.all(weights <= np.maximum(high, np.maximum(keep, 0)) + slack)
    assert np.all(weights >= np.minimum(-low, np.minimum(keep, 0)) - slack)
    assert np.all(np.abs(keep) <= np.maximum(np.abs(position), np.maximum(low, high)) + slack)
    assert np.all(after <= np.maximum(limit, used) + slack)
    tradable, hold = np.asarray(tradable), np.asarray(hold)
    np.testing.assert_allclose(np.asarray(weights)[hold], np.asarray(keep)[hold], atol=slack)
    np.testing.assert_allclose(np.asarray(keep)[~tradable], position[~tradable], atol=slack)
    assert np.all((least <= slack) | ~tradable)
    assert np.all((most >= -slack) | ~tradable)
    assert np.all(least <= keep + slack)
    assert np.all(most >= keep - slack)
    if forced:
        assert np.all((keep <= high + slack) | ~tradable)
        assert np.all((keep >= -low - slack) | ~tradable)
        if tradable.all():
            assert np.all(used <= limit + slack)
            assert lowest - slack <= now[0] <= highest + slack
            assert now[1] <= variance * (1 + 1e-4) + slack
    # What is on order is cut to what budgets leave; reductions and the positions themselves are not.
    held = np.stack([np.abs(position).sum(), np.abs(position)[::2].sum()])
    assert np.all(used <= np.maximum(limit, held) + slack)
    if not forced and np.all(order * position >= 0):
        assert min(lowest, before[0]) - slack <= now[0] <= max(highest, before[0]) + slack
        assert now[1] <= max(variance, before[1]) * (1 + 1e-4) + slack
    reduced = tradable & ~hold & (np.sign(target) == np.sign(keep)) & (np.abs(target) <= np.abs(keep))
    np.testing.assert_allclose(np.asarray(weights)[reduced], target[reduced], atol=slack)


def test_every_asset_has_the_first_turn_at_some_bar_and_the_answers_are_in_the_order_of_assets():
    for first in range(A):
        constraint = constraint_of(no_limits(A).replace(budgets=(gross(0.5),)), [0.0] * A, first=first)
        weights, order = sequential_allocation(constraint, lambda asset, low, high: (jnp.minimum(high, 0.4), asset))
        np.testing.assert_array_equal(order, np.arange(A))
        expected = np.zeros(A)
        expected[first], expected[(first + 1) % A] = 0.4, 0.1
        np.testing.assert_allclose(weights, expected, atol=1e-6)


def test_what_cannot_be_sold_uses_up_forced_budgets_first():
    """Two positions of 0.3 cannot be changed: the others share what they leave."""
    tradable = jnp.asarray([True, False, True, False])
    position = jnp.asarray([0.4, 0.3, 0.2, -0.3])
    budgets = {
        "gross": (gross(0.9, 0.9), [0.2, 0.3, 0.1, -0.3]),
        "net": (NetBudget(*jnp.asarray([-0.3, 0.3, -0.3, 0.3])), [0.2, 0.3, 0.1, -0.3]),
        "none left": (gross(0.5, 0.5), [0.0, 0.3, 0.0, -0.3]),
        "enough": (gross(1.2, 1.2), position),
        "volatility": (QuadraticBudget(jnp.eye(A), *jnp.asarray([0.23, 0.23])), [0.2, 0.3, 0.1, -0.3]),
        "helpless": (NetBudget(*jnp.asarray([-0.1, 0.1, -0.1, 0.1])), [0.0625, 0.3, 0.03125, -0.3]),
    }
    for name, (budget, expected) in budgets.items():
        limits = no_limits(A).replace(budgets=(budget,))
        found = feasible_hold_of(limits, position, position, tradable)
        if name == "helpless":
            assert float(found.sum()) == pytest.approx(0.1, abs=1e-6)
            continue
        np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=name)
