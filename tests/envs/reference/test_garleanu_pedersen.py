"""Garleanu-Pedersen against its published closed form, scipy's Riccati solver, simulation and perturbation."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from slowly import slow_after
from stationary_problem import check_environment, gains, value_error

from jaxppo.envs.reference.garleanu_pedersen import FactorState, GarleanuPedersen, stationary_covariance

pytestmark = pytest.mark.slow


def random_parameters(seed):
    """A draw of every parameter, in units far from the defaults."""
    generator = np.random.default_rng(seed)
    n, m = generator.integers(1, 5, 2)
    mixing = generator.normal(size=(3, max(n, m), 8))
    reversion = 0.4 * np.eye(m) + 0.1 * generator.uniform(-1, 1, (m, m))
    return {
        "n_assets": int(n),
        "n_factors": int(m),
        "risk_aversion": float(generator.uniform(0.5, 3.0)),
        "trading_cost": mixing[0, :n] @ mixing[0, :n].T * generator.uniform(0.3, 3.0),
        "loadings": generator.normal(size=(n, m)),
        "factor_reversion": reversion,
        "factor_covariance": mixing[1, :m] @ mixing[1, :m].T,
        "return_covariance": mixing[2, :n] @ mixing[2, :n].T,
        "discount": float(generator.choice([0.8, 0.95, 1.0])),
        "max_steps_in_episode": 30,
    }


CASES = [
    {"max_steps_in_episode": 60},
    {"n_assets": 10, "max_steps_in_episode": 40},
    random_parameters(1),
    random_parameters(2),
]


def parameters_of(case):
    """Transition, factor covariance and Lambda that a case stands for, all given."""
    transition = np.eye(case["n_factors"]) - case["factor_reversion"]
    return transition, case["factor_covariance"], case["trading_cost"]


def regulator(case):
    """Policy `[n, n + m]` and discounted value without end, by scipy's Riccati solver."""
    n, m, discount = case["n_assets"], case["n_factors"], case["discount"]
    transition, shocks, cost = parameters_of(case)
    motion, control = scipy.linalg.block_diag(np.zeros((n, n)), transition), np.eye(n + m, n)
    state_cost = scipy.linalg.block_diag(cost, np.zeros((m, m)))
    action_cost = cost + discount * case["risk_aversion"] * case["return_covariance"]
    cross = np.concatenate([-cost, -discount * case["loadings"].T])
    root = math.sqrt(discount)
    value = scipy.linalg.solve_discrete_are(root * motion, root * control, state_cost, action_cost, s=cross)
    gain = np.linalg.solve(
        action_cost + discount * control.T @ value @ control, discount * control.T @ value @ motion + cross.T
    )
    start = scipy.linalg.solve_discrete_lyapunov(transition, shocks)
    later = discount / max(1 - discount, 1e-12) * shocks
    return -gain, -np.trace(value[n:, n:] @ (start + later)) / 2


def test_the_published_single_asset_problem():
    problem = GarleanuPedersen(discount=1.0)
    assert 1 - problem.position_gain[0, 0] == pytest.approx(0.2824, abs=5e-5)
    myopic = 1.5 * 0.002 / (1e-4 * 0.002**2)
    assert problem.factor_gain[0, 0] / 0.28238 / myopic == pytest.approx(0.9927, abs=5e-5)


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_a_cost_proportional_to_risk_gives_the_paper_s_aim_and_rate(discount):
    case = random_parameters(3) | {"n_assets": 3, "n_factors": 2, "trading_cost": 0.7, "discount": discount}
    generator = np.random.default_rng(0)
    mixing, loadings = generator.normal(size=(3, 6)), generator.normal(size=(3, 2))
    sigma, phi = mixing @ mixing.T, np.array([[0.3, 0.1], [-0.05, 0.15]])
    case |= {"loadings": loadings, "factor_reversion": phi, "factor_covariance": np.eye(2)}
    problem = GarleanuPedersen(**case | {"return_covariance": sigma})
    gamma = case["risk_aversion"]
    middle = gamma * discount + 0.7 * (1 - discount)
    a = (-middle + math.sqrt(middle**2 + 4 * gamma * 0.7 * discount**2)) / (2 * discount)
    aim = np.linalg.inv(gamma * sigma) @ loadings @ np.linalg.inv(np.eye(2) + phi * a / gamma)
    np.testing.assert_allclose(problem.position_gain, (1 - a / 0.7) * np.eye(3), atol=1e-10)
    np.testing.assert_allclose(problem.factor_gain, a / 0.7 * aim, rtol=1e-9)


@pytest.mark.parametrize("seed", range(12))
def test_the_policy_and_the_value_solve_the_riccati_equation(seed):
    case = random_parameters(seed)
    problem = GarleanuPedersen(**case | {"max_steps_in_episode": 500})
    policy, value = regulator(case)
    found = np.concatenate([problem.position_gain, problem.factor_gain], axis=1)
    np.testing.assert_allclose(found, policy, atol=1e-9 * np.max(np.abs(policy)))
    if case["discount"] < 1.0:
        assert problem.optimal_value() == pytest.approx(problem.reward_scale * value, rel=1e-8)


def test_without_a_discount_the_value_grows_by_the_average():
    values = [GarleanuPedersen(n_assets=2, discount=1.0, max_steps_in_episode=n).optimal_value() for n in (800, 900)]
    problem = GarleanuPedersen(n_assets=2, discount=1.0)
    assert (values[1] - values[0]) / 100 == pytest.approx(problem.reward_scale * problem.average_reward, rel=1e-9)


def test_frequent_trading_tends_to_the_continuous_rate():
    """With `gamma dt`, `lambda / dt`, `exp(-rho dt)`, it tends to `(sqrt(rho^2 + 4 gamma / lambda) - rho) / 2`."""
    rho, gamma, cost, errors = 0.2, 0.9, 3.0, []
    for dt in (0.1, 0.01, 0.001):
        problem = GarleanuPedersen(
            risk_aversion=gamma * dt, trading_cost=cost / dt, factor_reversion=[dt], discount=math.exp(-rho * dt)
        )
        limit = (math.sqrt(rho**2 + 4 * gamma / cost) - rho) / 2
        errors.append(abs((1 - problem.position_gain[0, 0]) / dt / limit - 1))
    assert errors[2] < 1e-3
    assert errors[2] < errors[1] / 5 < errors[0] / 25


def test_the_stationary_covariance_is_scipy_s():
    generator = np.random.default_rng(4)
    transition, mixing = generator.uniform(-0.4, 0.4, (4, 4)) + 0.2 * np.eye(4), generator.normal(size=(4, 4))
    expected = scipy.linalg.solve_discrete_lyapunov(transition, mixing @ mixing.T)
    np.testing.assert_allclose(stationary_covariance(transition, mixing @ mixing.T), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", slow_after(1, CASES))
def test_simulation_gives_the_value(case):
    error, standard_error = value_error(GarleanuPedersen(**case), jax.random.key(3), 25_000)
    assert standard_error < 0.01
    assert abs(error) < 3.5 * standard_error


@pytest.mark.parametrize("case", slow_after(1, CASES))
def test_no_perturbed_policy_beats_the_optimum(case):
    problem = GarleanuPedersen(**case)
    params = problem.params
    stiff = params.trading_cost + params.discount * params.risk_aversion * params.return_covariance

    def perturbed(state, setting):
        scale, shift, slower, myopic = setting
        now, best = state.position / params.position_limit, problem.optimal_action(state)
        wanted = params.trading_cost @ state.position + params.discount * params.loadings @ state.factors
        greedy = jnp.linalg.solve(stiff, wanted) / params.position_limit
        return scale * ((1 - slower - myopic) * best + slower * now + myopic * greedy) + shift

    small = [(0.9, 0, 0, 0), (1.1, 0, 0, 0), (1, 0.01, 0, 0), (1, 0, 0.05, 0), (1, 0, -0.05, 0), (1, 0, 0, 1)]
    large = [(0.7, 0, 0, 0), (1.3, 0, 0, 0), (1, 0.15, 0, 0), (1, 0, 0.6, 0), (1, 0, -0.6, 0)]
    statistic = gains(problem, perturbed, [(1, 0, 0, 0), *small, *large], jax.random.key(5), 3000)
    assert np.all(statistic < 3.0), statistic
    assert np.all(statistic[len(small) :] < -4.0), statistic


def test_a_step_by_hand():
    """f (1, 2), from (1, 0) to (2, 1) units: expected profit 2 * 5 + 1 * 3, risk 3 / 2 * 5, cost 4 * 2 / 2."""
    problem = GarleanuPedersen(
        n_assets=2,
        n_factors=2,
        risk_aversion=3.0,
        trading_cost=4 * np.eye(2),
        loadings=[[1.0, 2.0], [-1.0, 2.0]],
        factor_reversion=[0.5, 0.25],
        factor_covariance=np.eye(2),
        return_covariance=np.eye(2),
        discount=0.5,
    )
    state = FactorState(time=jnp.asarray(0), factors=jnp.asarray([1.0, 2.0]), position=jnp.asarray([1.0, 0.0]))
    action = jnp.asarray([2.0, 1.0]) / problem.params.position_limit
    _, after, reward, _, info = problem.env.step_env(jax.random.key(1), state, action, problem.params)
    shock = np.asarray(info["market"])
    expected = 0.5 * (13 + 2 * shock[0] + shock[1] - 7.5) - 4
    assert float(reward) == pytest.approx(problem.reward_scale * expected, rel=1e-4)
    np.testing.assert_allclose(after.factors, [0.5 + shock[2], 1.5 + shock[3]], rtol=1e-5)


@pytest.mark.parametrize("index", [1, 3])
def test_the_environment(index):
    problem = GarleanuPedersen(**CASES[index])
    n, m = problem.factor_gain.shape
    check_environment(problem, n_actions=n, n_observed=n + m, n_market=n + m)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_assets", 0),
        ("n_factors", 1.5),
        ("risk_aversion", 0.0),
        ("trading_cost", -1.0),
        ("trading_cost", [[1.0, 2.0], [2.0, 1.0]]),
        ("trading_cost", [1.0, 1.0]),
        ("loadings", [[1.0, 2.0]]),
        ("loadings", [[0.0, 0.0], [0.0, 0.0]]),
        ("factor_reversion", [0.1]),
        ("factor_reversion", [0.1, 2.5]),
        ("factor_reversion", [0.1, float("nan")]),
        ("factor_covariance", [[1.0, 0.5], [0.2, 1.0]]),
        ("return_covariance", [[1.0]]),
        ("discount", 1.5),
        ("max_steps_in_episode", 0),
    ],
)
def test_a_bad_parameter_is_named(name, value):
    with pytest.raises(ValueError, match=f"^{name} "):
        GarleanuPedersen(**{"n_assets": 2, name: value})
