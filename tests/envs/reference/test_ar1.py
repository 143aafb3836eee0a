"""The AR(1) problems: exact optimum and value, against Riccati, dynamic programming, simulation and perturbation."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from slowly import slow_after
from stationary_problem import check_environment, gains, value_error

from jaxppo.envs.reference.ar1 import AR1State, ProportionalCostAR1, QuadraticCostAR1

QUADRATIC = [
    {"max_steps_in_episode": 100},
    {"reversion": 0.03, "innovation": 0.002, "risk_penalty": 7.0, "trading_cost": 90.0, "discount": 1.0}
    | {"max_steps_in_episode": 60},
    {"reversion": 0.6, "innovation": 30.0, "risk_penalty": 0.01, "trading_cost": 0.05, "discount": 0.9}
    | {"max_steps_in_episode": 40},
]
PROPORTIONAL = [
    {"max_steps_in_episode": 100},
    {"reversion": 0.03, "innovation": 0.002, "risk_penalty": 7.0, "trading_cost": 0.01, "discount": 1.0}
    | {"max_steps_in_episode": 60},
    {"reversion": 0.6, "innovation": 30.0, "risk_penalty": 0.01, "trading_cost": 12.0, "discount": 0.9}
    | {"max_steps_in_episode": 40},
]
ALL = [(QuadraticCostAR1, case) for case in QUADRATIC] + [(ProportionalCostAR1, case) for case in PROPORTIONAL]


def regulator(problem):
    """Gains of position and signal, and the discounted value without end, by scipy's Riccati solver."""
    penalty, cost, discount = problem.risk_penalty, problem.trading_cost, problem.discount
    motion, control = np.diag([0.0, problem.decay]), np.array([[1.0], [0.0]])
    state_cost, cross = np.diag([cost, 0.0]), np.array([[-cost], [-0.5]])
    root = math.sqrt(discount)
    value = scipy.linalg.solve_discrete_are(root * motion, root * control, state_cost, [[penalty + cost]], s=cross)
    divisor = penalty + cost + discount * value[0, 0]
    gain = -(discount * control.T @ value @ motion + cross.T) / divisor
    start = problem.signal_deviation**2 + problem.innovation**2 * discount / max(1 - discount, 1e-12)
    return gain[0], -value[1, 1] * start


def test_the_published_quadratic_problem():
    problem = QuadraticCostAR1(discount=1.0, max_steps_in_episode=5000)
    assert problem.position_gain == pytest.approx(0.58211, abs=1e-5)
    assert problem.signal_gain == pytest.approx(0.61133, abs=1e-5)
    assert problem.average_reward == pytest.approx(0.67580, abs=1e-5)
    assert problem.optimal_value() / problem.reward_scale / 5000 == pytest.approx(0.67580, rel=1e-3)


@settings(max_examples=60, deadline=None)
@given(
    reversion=st.floats(0.002, 1.0),
    innovation=st.floats(1e-3, 1e3),
    risk_penalty=st.floats(1e-3, 1e3),
    relative_cost=st.floats(1e-2, 1e2),
    discount=st.floats(0.5, 1.0),
)
def test_the_quadratic_policy_solves_the_riccati_equation(reversion, innovation, risk_penalty, relative_cost, discount):
    problem = QuadraticCostAR1(
        reversion=reversion,
        innovation=innovation,
        risk_penalty=risk_penalty,
        trading_cost=relative_cost * risk_penalty,
        discount=discount,
    )
    (position_gain, signal_gain), _ = regulator(problem)
    assert problem.position_gain == pytest.approx(position_gain, rel=1e-6)
    assert problem.signal_gain == pytest.approx(signal_gain, rel=1e-6)


@pytest.mark.parametrize("case", QUADRATIC[::2])
def test_the_quadratic_value_is_that_of_the_riccati_equation(case):
    problem = QuadraticCostAR1(**case | {"max_steps_in_episode": 4000})
    assert problem.optimal_value() == pytest.approx(problem.reward_scale * regulator(problem)[1], rel=1e-7)


def test_frequent_trading_tends_to_the_continuous_optimum():
    """In continuous time the position moves at the rate `(sqrt(rho^2 + 4 lambda / psi) - rho) / 2` to its aim."""
    rho, penalty, cost, errors = 0.3, 2.0, 5.0, []
    limit = (math.sqrt(rho**2 + 4 * penalty / cost) - rho) / 2
    for dt in (0.1, 0.01, 0.001):
        problem = QuadraticCostAR1(
            reversion=0.2 * dt, risk_penalty=penalty * dt, trading_cost=cost / dt, discount=math.exp(-rho * dt)
        )
        errors.append(abs((1 - problem.position_gain) / dt / limit - 1))
    assert errors[2] < 1e-3
    assert errors[2] < errors[1] / 5 < errors[0] / 25


@pytest.mark.parametrize(("kind", "case"), slow_after(2, ALL))
def test_simulation_gives_the_value(kind, case):
    problem = kind(**case)
    error, standard_error = value_error(problem, jax.random.key(11), 50_000)
    assert standard_error < 0.01
    assert abs(error) < 3.5 * standard_error


@pytest.mark.parametrize("case", QUADRATIC)
def test_no_perturbed_policy_beats_the_quadratic_optimum(case):
    problem = QuadraticCostAR1(**case)
    limit, cost = problem.params.position_limit, problem.trading_cost

    def perturbed(state, setting):
        scale, shift, slower, myopic = setting
        now, best = state.position / limit, problem.optimal_action(state)
        greedy = (state.signal + 2 * cost * state.position) / (2 * (problem.risk_penalty + cost)) / limit
        mixed = (1 - slower - myopic) * best + slower * now + myopic * greedy
        return scale * mixed + shift

    small = [(0.9, 0, 0, 0), (1.1, 0, 0, 0), (1, 0.01, 0, 0), (1, 0, 0.05, 0), (1, 0, -0.05, 0)]
    large = [(0.7, 0, 0, 0), (1.3, 0, 0, 0), (1, 0.1, 0, 0), (1, 0, 0.4, 0), (1, 0, -0.4, 0), (1, 0, 0, 1)]
    statistic = gains(problem, perturbed, [(1, 0, 0, 0), *small, *large], jax.random.key(5), 4000)
    assert np.all(statistic < 3.0), statistic
    assert np.all(statistic[len(small) :] < -4.0), statistic


@pytest.mark.parametrize("case", PROPORTIONAL)
def test_no_perturbed_band_beats_the_proportional_optimum(case):
    problem = ProportionalCostAR1(**case)
    limit = problem.params.position_limit

    def perturbed(state, setting):
        scale, shift, width = setting
        low, high = problem.band(state.signal)
        middle, half = scale * (low + high) / 2 + shift * limit, width * (high - low) / 2
        return jnp.stack([middle - half, middle + half]) / limit

    small = [(0.9, 0, 1), (1.1, 0, 1), (1, 0.02, 1), (1, 0, 0.9), (1, 0, 1.1)]
    large = [(0.6, 0, 1), (1.4, 0, 1), (1, 0.2, 1), (1, 0, 0.5), (1, 0, 1.6), (1, 0, 0.02)]
    statistic = gains(problem, perturbed, [(1, 0, 1), *small, *large], jax.random.key(6), 8000)
    assert np.all(statistic < 3.0), statistic
    assert np.all(statistic[len(small) :] < -4.0), statistic


def test_the_optimal_action_leads_to_the_nearest_edge():
    problem = ProportionalCostAR1()
    limit = float(problem.params.position_limit)
    low, high = (float(edge) for edge in problem.band(jnp.asarray(0.8)))
    mirror = [-float(edge) for edge in problem.band(jnp.asarray(-0.8))]
    assert low < 0.8 / 0.6 < high
    np.testing.assert_allclose([low, high], mirror[::-1], rtol=1e-6)
    inside = (low + high) / 2
    for position, target in ((low - 1, low), (inside, inside), (high + 1, high)):
        state = AR1State(time=jnp.asarray(3), signal=jnp.asarray(0.8), position=jnp.asarray(position))
        edges = problem.optimal_action(state)
        np.testing.assert_allclose(edges, [low / limit, high / limit], rtol=1e-5)
        for action in (edges, edges[::-1]):
            _, after, *_ = problem.env.step_env(jax.random.key(0), state, action, problem.params)
            assert float(after.position) == pytest.approx(target, rel=1e-5)


def test_the_problem_scales():
    """Signals s times larger and a cost s times larger give positions s times larger and the same actions."""
    one, other = ProportionalCostAR1(), ProportionalCostAR1(innovation=math.sqrt(0.2) * 50, trading_cost=200.0)
    assert other.optimal_value() == pytest.approx(one.optimal_value(), rel=1e-9)
    np.testing.assert_allclose(other.band(jnp.asarray(40.0)), 50 * np.asarray(one.band(jnp.asarray(0.8))), rtol=1e-5)
    assert other.average_reward == pytest.approx(2500 * one.average_reward, rel=1e-9)


def test_a_step_by_hand():
    """p 2, from 1 to 3 units: 2 * 3 - 0.3 * 9 - cost of 2 units."""
    for kind, cost in ((QuadraticCostAR1, 0.5 * 2**2), (ProportionalCostAR1, 0.5 * 2)):
        problem = kind(trading_cost=0.5)
        state = AR1State(time=jnp.asarray(0), signal=jnp.asarray(2.0), position=jnp.asarray(1.0))
        key, action = jax.random.key(0), jnp.full(problem.env.num_actions, 3.0) / problem.params.position_limit
        _, after, reward, _, info = problem.env.step_env(key, state, action, problem.params)
        assert float(reward) == pytest.approx(problem.reward_scale * (6 - 2.7 - cost), rel=1e-5)
        assert float(after.signal) == pytest.approx(0.9 * 2 + math.sqrt(0.2) * float(info["market"][0]), rel=1e-5)
        assert float(after.position) == pytest.approx(3.0, rel=1e-6)


@pytest.mark.parametrize("index", [0, 2, 3, 5])
def test_the_environment(index):
    kind, case = ALL[index]
    check_environment(kind(**case), n_actions=1 if kind is QuadraticCostAR1 else 2, n_observed=2, n_market=1)


@pytest.mark.parametrize("kind", [QuadraticCostAR1, ProportionalCostAR1])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("reversion", 0.0),
        ("reversion", 1.5),
        ("innovation", 0.0),
        ("innovation", float("nan")),
        ("risk_penalty", 0.0),
        ("trading_cost", -1.0),
        ("trading_cost", float("inf")),
        ("discount", 0.0),
        ("discount", 1.01),
        ("max_steps_in_episode", 0),
        ("max_steps_in_episode", 2.5),
    ],
)
def test_a_bad_parameter_is_named(kind, name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}; it must be"):
        kind(**{name: value})


def test_a_cost_at_which_nobody_trades_is_refused():
    with pytest.raises(ValueError, match=r"trading_cost is 40\.0; it must be lower"):
        ProportionalCostAR1(trading_cost=40.0)
