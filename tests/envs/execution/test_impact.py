"""Transient and permanent impact: by hand, Almgren and Chriss' expected cost, and that nothing is gained from it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_accounts import random_bars, random_decisions, run_account

from jaxppo.envs import TradingEnv, simulators
from jaxppo.envs.execution.bars import Bar
from jaxppo.envs.execution.costs import basic_costs
from jaxppo.envs.execution.fill_rule import FillRule
from jaxppo.envs.execution.impact import Impact, displace, displacement, relax, undisplaced
from jaxppo.envs.execution.portfolio import open_portfolio, step

DISPLACED = FillRule(displacement=True)


def impact_of(transient: float, half_life: float, permanent: float) -> Impact:
    return Impact(*(jnp.asarray(x) for x in (transient, half_life, permanent)))


def bar_of(price: float, volatility: float, volume: float, half_spread: float = 0.0, close: float | None = None) -> Bar:
    """One asset."""
    fields = (price, price if close is None else close, np.inf, half_spread, volatility, volume, 0.0)
    return Bar(*(jnp.asarray([value]) for value in fields))


def test_the_propagator_by_hand():
    """Depth 2 and 1, a half-life of one bar: buy 3, wait, buy 1, sell 4."""
    impact, unit = impact_of(2.0, 1.0, 1.0), jnp.ones(1)
    state, costs, left = undisplaced(unit), [], []
    for quantity in (3.0, 0.0, 1.0, -4.0):
        state = relax(state, impact)
        cost, state = displace(state, jnp.array([quantity]), unit, impact)
        costs.append(float(cost[0]))
        left.append(float(displacement(state, unit, impact)[0]))
    # transient 6, 3, 1.5 + 2, 1.75 - 8; permanent 3, 3, 4, 0
    np.testing.assert_allclose(left, [9.0, 6.0, 7.5, -6.25], rtol=1e-6)
    bought = [3 * (3 + 1.5), 0.0, 1 * (1.5 + 1 + 3 + 0.5)]
    np.testing.assert_allclose(costs, [*bought, -4 * (1.75 - 4 + 4 - 2)], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("holdings", "cost"),
    [
        ([1e6, 541955.6, 289854.2, 147897.5, 62141.8, 0.0], 911226.99),
        ([1e6, 428598.8, 182932.8, 76295.7, 27643.4, 0.0], 1140715.17),
        ([1e6, 8e5, 6e5, 4e5, 2e5, 0.0], 662500.0),
    ],
)
def test_expected_cost_of_almgren_and_chriss(holdings, cost):
    """Their linear temporary impact is transient impact without memory, their fixed cost a half-spread.

    S = 50, tau = 1, eps = .0625, gamma = 2.5e-7, eta - gamma tau / 2 = 2.375e-6; a coefficient of 1 is a depth of
    0.01 * 50 / 1e6 = 5e-7.
    """
    decaying = {"transient_impact": 2 * 2.375e-6 / 5e-7, "transient_half_life": 0.0}
    costs = basic_costs(permanent_impact=0.5, **decaying, max_leverage=1e3, maintenance_margin=0.0)
    bar = bar_of(50.0, 0.01, 1e6, half_spread=0.0625 / 50)
    account = open_portfolio(jnp.array([50.0]), 1e8, DISPLACED).replace(shares=jnp.array([1e6]))
    live = jax.jit(functools.partial(step, rule=DISPLACED))
    paid = 0.0
    for sold in -np.diff(holdings):
        account, fills = live(account, jnp.array([-sold]), bar, costs)
        paid += float(fills.costs.total()[0])
    assert abs(float(account.shares[0])) < 1
    assert paid == pytest.approx(cost, rel=2e-6)
    assert 1e8 - float(account.equity) == pytest.approx(cost, rel=1e-4)


numbers = st.floats(-1e4, 1e4).filter(lambda x: x == 0 or abs(x) > 1e-3)
positive = st.floats(1e-2, 1e2)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    fills=st.lists(st.tuples(numbers, positive), min_size=1, max_size=12),
    parameters=st.tuples(st.floats(0, 10), st.sampled_from([0.0, 0.3, 1.0, 50.0]), st.floats(0, 10)),
)
def test_whatever_is_traded_impact_has_never_paid(fills, parameters):
    """At every moment, so for every round trip, however depth changes between fills."""
    with jax.enable_x64(True):
        impact = impact_of(*parameters)
        state, total, scale = undisplaced(jnp.zeros(1)), 0.0, 0.0
        for quantity, unit in fills:
            state = relax(state, impact)
            cost, state = displace(state, jnp.array([quantity]), jnp.array([unit]), impact)
            total += float(cost[0])
            scale += abs(float(cost[0]))
            energy = float((state.transient**2 + state.permanent**2)[0]) / 2
            assert total >= energy - 1e-12 * scale
            assert energy >= 0


@pytest.mark.parametrize("seed", range(3))
def test_an_account_is_never_better_off_for_its_own_impact(seed):
    """The same orders on wild bars, with and without displacement: equity at every close, in float64."""
    n_bars = 300
    bars = random_bars(seed, n_bars, 3, volatility=0.03)
    orders = 300.0 * np.random.default_rng(seed).standard_normal((n_bars - 1, 3))
    # Closing everything in the last bars makes it a round trip.
    orders[-1] = -orders[:-1].sum(axis=0)
    plain = basic_costs(max_leverage=1000.0, maintenance_margin=0.0)
    displaced = basic_costs(
        max_leverage=1000.0,
        maintenance_margin=0.0,
        transient_impact=3.0,
        transient_half_life=4.0,
        permanent_impact=2.0,
    )

    @functools.partial(jax.jit, static_argnames="rule")
    def equities(bars, orders, costs, rule):
        def live(account, now):
            row, order = now
            account, fills = step(account, order, Bar(*row), costs, rule)
            return account, (account.equity, jnp.sum(fills.costs.impact))

        return jax.lax.scan(live, open_portfolio(bars[0, 1], 1e9, rule), (bars[1:], orders))[1]

    with jax.enable_x64(True):
        arguments = jnp.asarray(bars, jnp.float64), jnp.asarray(orders)
        without, none = equities(*arguments, plain, FillRule(unfilled="carry"))
        with_it, paid = equities(*arguments, displaced, FillRule(unfilled="carry", displacement=True))
        difference, none, paid = (np.asarray(x) for x in (without - with_it, none, paid))
    np.testing.assert_allclose(difference, np.cumsum(paid), rtol=1e-6, atol=1e-5)
    assert np.all(none == 0)
    assert difference.min() >= -1e-6
    assert difference[-1] > 1e3
    assert paid.min() < 0 < paid.max()  # some fills are paid for what others left


def test_a_liquidation_moves_the_price_against_itself():
    costs = basic_costs(transient_impact=1.0, maintenance_margin=0.5)
    account = open_portfolio(jnp.array([100.0]), 1000.0, DISPLACED).replace(shares=jnp.array([18.0]))
    bar = bar_of(100.0, 0.01, 100.0, close=60.0)
    after, fills = jax.jit(functools.partial(step, rule=DISPLACED))(account, jnp.zeros(1), bar, costs)
    assert fills.liquidated
    depth = 0.01 * 60 / 100
    assert float(fills.costs.impact[0]) == pytest.approx(0.5 * depth * 18**2, rel=1e-5)
    assert float(after.equity) == pytest.approx(1000 - 18 * 40 - 0.5 * depth * 18**2, rel=1e-6)


def test_without_it_there_is_no_state_and_nothing_to_compute():
    assert basic_costs(transient_half_life=7.0).displacement == ()
    account = open_portfolio(jnp.ones(2), 1.0, FillRule())
    assert account.displaced == ()
    bars = random_bars(0, 30, 2)
    weights, hold = random_decisions(0, 30, 2)
    costs = (
        basic_costs(impact=0.5),
        basic_costs(impact=0.5, transient_impact=1.0),
    )
    off, on = (
        run_account.lower(bars, weights, hold, own, 1e6, rule).as_text().count("sqrt")
        for own, rule in zip(costs, (FillRule(), DISPLACED), strict=True)
    )
    assert 0 < off < on


def test_costs_and_rule_must_agree():
    bars, (weights, hold) = random_bars(0, 10, 1), random_decisions(0, 10, 1)
    with pytest.raises(ValueError, match="displacement=False"):
        run_account(bars, weights, hold, basic_costs(permanent_impact=1.0), 1e6, FillRule())
    with pytest.raises(ValueError, match="have none"):
        run_account(bars, weights, hold, basic_costs(), 1e6, DISPLACED)
    env = TradingEnv(start="flat", window=2, groups=("calendar",), normalisation_window=4)
    market = simulators.gbm(jax.random.key(0), 60)
    with pytest.raises(ValueError, match="displacement=False"):
        env.make_params(market, basic_costs(transient_impact=1.0))


def test_an_environment_pays_for_what_its_earlier_trades_left():
    """Buying in two halves: the second half costs more than the first, and costs grow with the half-life."""
    market = simulators.gbm(jax.random.key(1), 80, volatility=1e-4)
    seen = {"window": 2, "groups": ("calendar",), "normalisation_window": 4}
    env = TradingEnv(start="flat", levels=(0.0, 0.5, 1.0), fill_rule=DISPLACED, **seen)
    paid = {}
    for half_life in (0.0, 5.0):
        costs = basic_costs(spread_multiplier=0.0, transient_impact=1.0, transient_half_life=half_life)
        params = env.make_params(market, costs, initial_cash=1e8, episode_bars=20)
        _, state = env.reset(jax.random.key(2), params)
        bills = []
        for action in (2, 3):
            _, state, *_, info = env.step(jax.random.key(3), state, jnp.asarray(action), params)
            bills.append(float(info["costs"]))
        paid[half_life] = bills
    assert paid[0.0][1] == pytest.approx(paid[0.0][0], rel=0.3)
    # The displacement left after a bar, of twice the half's own mean one, is paid on top.
    expected = 1 + 2 * 2 ** (-1 / 5.0)
    assert paid[5.0][1] / paid[5.0][0] == pytest.approx(expected, rel=0.3)
