"""Kim-Omberg: the law of a step, the optimum against grids, differential equations and simulation, the contract."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate
from slowly import slow_after
from terminal_wealth_oracle import affine_policies, brute_force, stationary_certainty, t_statistic

from jaxppo.envs.reference import simulate
from jaxppo.envs.reference.predictable_premium import KimOmberg
from jaxppo.envs.reference.terminal_wealth import StepLaw

N_STEPS = 2_400_000
DEFAULT = {}
LOGARITHMIC = {"risk_aversion": 1.0, "correlation": -0.5, "maturity": 2.0, "dt": 0.1}
# Of the size of monthly US stock data: slow, weakly volatile, strongly anticorrelated.
CAUTIOUS = {
    "rate": 0.01,
    "volatility": 0.16,
    "mean_premium": 0.3,
    "premium_reversion": 0.3,
    "premium_volatility": 0.12,
    "correlation": -0.93,
    "risk_aversion": 6.0,
    "maturity": 10.0,
    "dt": 0.25,
}
BOLD = {"risk_aversion": 0.7, "maturity": 1.0, "dt": 0.1, "correlation": 1.0, "mean_premium": -0.6}
SETS = [DEFAULT, LOGARITHMIC, CAUTIOUS, BOLD]
IDS = ["default", "logarithmic", "cautious", "bold"]


pytestmark = pytest.mark.slow


@functools.cache
def build(index):
    return KimOmberg(**SETS[index])


def drawn(seed):
    random = np.random.default_rng(seed)
    return {
        "rate": random.uniform(-0.02, 0.06),
        "volatility": random.uniform(0.05, 0.6),
        "mean_premium": random.uniform(-0.6, 0.6),
        "premium_reversion": random.uniform(0.2, 4.0),
        "premium_volatility": random.uniform(0.1, 0.6),
        "correlation": random.uniform(-1.0, 1.0),
        "risk_aversion": random.uniform(1.0, 6.0),
        "maturity": 2.0,
        "dt": 0.2,
    }


def at(problem, premium, time=0):
    _, state = problem.env.reset(jax.random.key(0))
    return state.replace(signal=jnp.asarray(premium, jnp.float32), time=jnp.asarray(time, jnp.int32))


@pytest.mark.parametrize("dt", [1e-3, 0.3, 4.0])
def test_the_law_of_a_step_solves_the_moment_equations(dt):
    reversion, mean, volatility, correlation = 0.8, 0.4, 0.5, -0.7

    def moments(_, m):
        # Means of (Y, X) from X = 1.3, then var Y, cov, var X.
        return [
            m[1],
            reversion * (mean - m[1]),
            2 * m[3] + 1,
            m[4] - reversion * m[3] + correlation * volatility,
            volatility**2 - 2 * reversion * m[4],
        ]

    expected = integrate.solve_ivp(moments, (0, dt), [0, 1.3, 0, 0, 0], rtol=1e-11, atol=1e-13).y[:, -1]
    law = StepLaw.exact(reversion, mean, volatility, correlation, dt)
    found = [
        law.return_shift + law.return_slope * 1.3,
        law.premium_shift + law.decay * 1.3,
        law.return_variance,
        law.common_noise * law.premium_noise,
        law.premium_noise**2,
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_the_law_of_a_step_survives_a_reversion_near_zero():
    slow, none = StepLaw.exact(1e-9, 0.4, 0.5, 0.3, 0.1), 0.1 + 0.3 * 0.5 * 0.1**2 + 0.5**2 * 0.1**3 / 3
    np.testing.assert_allclose(slow.return_variance, none, rtol=1e-9)


@pytest.mark.parametrize("index", slow_after(1, range(len(SETS))), ids=IDS)
def test_simulated_value_is_the_optimal_value(index):
    problem = build(index)
    n_paths = N_STEPS // problem.horizon
    returns = simulate(problem, lambda _, state: problem.optimal_action(state), jax.random.key(1), n_paths)
    surplus = np.asarray(returns, np.float64) - problem.optimal_value()
    assert abs(t_statistic(surplus)) < 3.5
    assert surplus.std() / math.sqrt(n_paths) < 0.009 * abs(problem.optimal_value())


@pytest.mark.parametrize("seed", range(3))
def test_grid_search_finds_the_same_policy_and_value(seed):
    parameters = drawn(seed) | {"maturity": 0.8}
    problem = KimOmberg(**parameters)
    reversion, noise, mean = (parameters[k] for k in ("premium_reversion", "premium_volatility", "mean_premium"))
    volatility, dt, power = parameters["volatility"], parameters["dt"], 1.0 - parameters["risk_aversion"]
    law, deviation = (
        StepLaw.exact(reversion, mean, noise, parameters["correlation"], dt),
        noise / math.sqrt(2 * reversion),
    )

    def transition(x, z):
        driver = law.return_shift + law.return_slope * x + law.common_noise * z[0] + law.return_noise * z[1]
        return volatility * driver, law.premium_shift + law.decay * x + law.premium_noise * z[0]

    limit = float(problem.params.position_limit)
    grid, weights = mean + deviation * np.linspace(-9, 9, 61), limit * np.linspace(-1, 1, 401)
    best, value = brute_force(
        transition,
        n_shocks=2,
        grid=grid,
        positions=weights,
        power=power,
        carry=parameters["rate"] * dt,
        drag=volatility**2 * dt / 2,
        n_steps=problem.horizon,
    )
    for step in range(problem.horizon):
        found = jax.vmap(lambda x, t=step: problem.optimal_action(at(problem, x, t)))(
            jnp.asarray(grid[20:41], jnp.float32)
        )
        np.testing.assert_allclose(found[:, 0] * limit, best[step, 20:41], atol=0.6 * (weights[1] - weights[0]))
    rate = stationary_certainty(grid, value, mean, deviation, power) / problem.maturity
    assert problem.optimal_rate == pytest.approx(rate, rel=1e-4)


@pytest.mark.parametrize("parameters", [DEFAULT, drawn(7), drawn(8)], ids=["default", "drawn-7", "drawn-8"])
def test_short_steps_approach_the_continuous_solution(parameters):
    parameters = parameters | {"maturity": 2.0}
    model = {
        "risk_aversion": 2.0,
        "premium_reversion": 1.0,
        "mean_premium": 0.45,
        "premium_volatility": 0.5,
        "correlation": 0.5,
        "volatility": 0.2,
    } | parameters
    g, k, theta = model["risk_aversion"], model["premium_reversion"], model["mean_premium"]
    s, rho, volatility = model["premium_volatility"], model["correlation"], model["volatility"]

    def riccati(_, y):
        # Kim and Omberg: J = W^(1-g) / (1-g) exp(A + B x + C x^2 / 2); the slopes of B and C over the time to maturity.
        ratio = (1 - g) / g
        b = 2 * (ratio * rho * s - k)
        curvature = ratio + b * y[1] + s**2 * (1 + ratio * rho**2) * y[1] ** 2
        linear = k * theta * y[1] + b / 2 * y[0] + s**2 * (1 + ratio * rho**2) * y[0] * y[1]
        return [linear, curvature]

    intercept, slope = integrate.solve_ivp(riccati, (0, 2.0), [0.0, 0.0], rtol=1e-10, atol=1e-12).y[:, -1]
    errors = []
    for dt in (0.02, 0.01):
        problem = KimOmberg(**parameters | {"dt": dt})
        premium = jnp.asarray(theta + s, jnp.float32)
        expected = ((theta + s) + rho * s * (intercept + slope * (theta + s))) / (g * volatility)
        errors.append(float(problem.optimal_position(at(problem, premium))) / expected - 1.0)
    assert abs(errors[1]) < 0.04
    assert errors[1] == pytest.approx(errors[0] / 2, rel=0.15)


def test_curvature_is_the_closed_form_of_kim_and_omberg():
    g, k, s, rho, horizon = 4.0, 0.6, 0.3, -0.8, 3.0
    ratio = (1 - g) / g
    b, a = 2 * (ratio * rho * s - k), s**2 * (1 + ratio * rho**2)
    eta = math.sqrt(b**2 - 4 * a * ratio)
    expected = 2 * ratio * math.expm1(-eta * horizon) / -(2 * eta + (b + eta) * math.expm1(-eta * horizon))
    problem = KimOmberg(
        mean_premium=0.0,
        premium_reversion=k,
        premium_volatility=s,
        correlation=rho,
        risk_aversion=g,
        maturity=horizon,
        dt=0.0025,
    )
    # With a zero mean the hedging demand is rho s C(T) x / (g volatility).
    hedge = float(problem.hedging_demand(at(problem, 1.0))) * g * 0.2 / (rho * s)
    assert hedge == pytest.approx(expected, rel=0.01)


def test_hedging_demand():
    default, log = build(0), build(1)
    assert float(default.hedging_demand(at(default, 0.8, default.horizon - 1))) == pytest.approx(0.0, abs=1e-6)
    assert float(log.hedging_demand(at(log, 0.8))) == pytest.approx(0.0, abs=1e-6)
    # A conservative investor holds more of a stock that pays when its premium falls, less if it pays when it rises.
    assert float(default.hedging_demand(at(default, 0.8))) < -0.1
    cautious = build(2)
    assert float(cautious.hedging_demand(at(cautious, 0.3))) > 0.1
    total = cautious.myopic_weight(at(cautious, 0.3)) + cautious.hedging_demand(at(cautious, 0.3))
    action = cautious.optimal_action(at(cautious, 0.3))[0] * cautious.params.position_limit
    assert float(total) == pytest.approx(float(action), rel=1e-5)


@pytest.mark.parametrize("index", slow_after(1, range(len(SETS))), ids=IDS)
def test_no_perturbed_policy_is_better(index):
    problem = build(index)
    scales, shifts = [1.0, 0.6, 0.9, 1.1, 1.4, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0, 0.15, -0.15]
    returns = affine_policies(problem, scales, shifts, N_STEPS // 2 // problem.horizon)
    against = [t_statistic(other - returns[0]) for other in returns[1:]]
    assert max(against) < 3.0, against
    assert max(against[0], against[3], against[4], against[5]) < -3.0, against


def test_myopic_and_misread_policies_are_worse():
    problem = KimOmberg(correlation=-0.9, risk_aversion=5.0)
    policies = [
        lambda state: problem.optimal_action(state),
        lambda state: (problem.myopic_weight(state) / problem.params.position_limit)[None],
        lambda state: problem.optimal_action(state.replace(time=state.time * 0 + problem.horizon - 1)),
        lambda state: problem.optimal_action(state.replace(signal=state.signal + 0.2 * jnp.sin(97 * state.signal))),
    ]
    best, *worse = [
        np.asarray(simulate(problem, lambda _, s, p=policy: p(s), jax.random.key(3), 20_000), np.float64)
        for policy in policies
    ]
    assert all(t_statistic(other - best) < -3.0 for other in worse)


def test_values_and_certainty_equivalents():
    for index in range(len(SETS)):
        problem = build(index)
        assert problem.percent_of_optimum(problem.optimal_value()) == pytest.approx(100.0)
        assert problem.percent_of_optimum(problem.value_of_rate(problem.rate)) == pytest.approx(0.0, abs=1e-9)
        assert problem.certainty_equivalent_rate(problem.value_of_rate(0.123)) == pytest.approx(0.123)
        cash = simulate(problem, lambda *_: jnp.zeros(1), jax.random.key(0), 2)
        assert problem.percent_of_optimum(float(cash[0])) == pytest.approx(0.0, abs=0.05)
    with pytest.raises(ValueError, match="bound of utility"):
        build(0).certainty_equivalent_rate(2.0 * build(0).reward_scale)


def test_rewards_telescope_to_the_utility_of_terminal_wealth():
    problem = build(0)
    _, state = problem.env.reset(jax.random.key(4))
    total, step = 0.0, jax.jit(problem.env.step_env)
    for time in range(problem.horizon):
        key = jax.random.fold_in(jax.random.key(6), time)
        observation, state, reward, terminated, info = step(key, state, jnp.asarray([0.3]), problem.params)
        total += float(reward)
        assert bool(terminated) == (time == problem.horizon - 1)
        assert float(info["discount"]) == 1.0 - bool(terminated)
    assert float(observation[0]) == 0.0
    expected = problem.reward_scale * (1 - math.exp(-float(state.log_wealth)))
    assert total == pytest.approx(expected, rel=1e-4)


def test_one_step_by_hand():
    problem = KimOmberg(risk_aversion=1.0, dt=0.5)
    _, state = problem.env.reset(jax.random.key(0))
    _, after, reward, _, info = problem.env.step_env(jax.random.key(1), state, jnp.asarray([0.25]), problem.params)
    exposure = 0.25 * float(problem.params.position_limit) * 0.2
    law = StepLaw.exact(1.0, 0.45, 0.5, 0.5, 0.5)
    driver = float(info["market"][0]) * math.sqrt(law.return_variance)
    growth = 0.03 * 0.5 + exposure * driver - exposure**2 * 0.25
    assert float(after.log_wealth) == pytest.approx(growth, rel=1e-5)
    assert float(reward) == pytest.approx(problem.reward_scale * growth, rel=1e-5)
    shock = float(info["market"][1])
    assert float(after.signal) == pytest.approx(
        0.45 + (float(state.signal) - 0.45) * math.exp(-0.5) + law.premium_noise * shock, rel=1e-5
    )


def test_ruin_is_finite():
    problem = build(0)
    _, state = problem.env.reset(jax.random.key(0))
    state = state.replace(log_wealth=jnp.asarray(-79.9))
    for action in (1.0, -1.0):
        result = problem.env.step_env(jax.random.key(1), state, jnp.asarray([action]), problem.params)
        assert bool(jnp.isfinite(result[2]))


def test_gymnax_contract():
    problem = build(0)
    env, params = problem.env, problem.params
    keys = jax.random.split(jax.random.key(0), 16)
    observation, state = jax.vmap(env.reset, in_axes=(0, None))(keys, params)
    assert observation.shape == (16, 3)
    assert observation.dtype == jnp.float32
    assert env.action_space(params).shape == (env.num_actions,)
    actions = jnp.linspace(-3.0, 3.0, 16)[:, None]
    shared = jax.random.key(2)
    _, after, _, _, _, info = jax.vmap(env.step, in_axes=(None, 0, 0, None))(
        shared, jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[0], leaf.shape), state), actions, params
    )
    # The market does not see the action; the action is clipped.
    assert jnp.ptp(info["market"]) > 0
    assert jnp.ptp(info["market"], axis=0).max() == 0
    assert jnp.ptp(after.signal) == 0
    assert float(after.log_wealth[0]) == float(after.log_wealth[1])
    last = state.replace(time=jnp.full(16, problem.horizon - 1, jnp.int32))
    reset_observation, _, _, terminated, truncated, info = jax.vmap(env.step, in_axes=(0, 0, 0, None))(
        jax.random.split(jax.random.key(3), 16), last, actions, params
    )
    assert terminated.all()
    assert not truncated.any()
    assert (reset_observation[:, 0] == 1.0).all()
    assert (info["final_observation"][:, 0] == 0.0).all()
    assert env.observation_space(params).contains(observation[0])
    assert env.default_params is params


def test_reset_is_stationary_and_observations_are_of_order_one():
    problem = build(2)
    observation, _ = jax.vmap(problem.env.reset_env, in_axes=(0, None))(
        jax.random.split(jax.random.key(0), 20_000), problem.params
    )
    assert abs(float(observation[:, 1].mean())) < 0.03
    assert float(observation[:, 1].std()) == pytest.approx(1.0, abs=0.03)
    actions = jax.vmap(lambda x: problem.optimal_action(at(problem, x)))(0.3 + 0.155 * jnp.linspace(-3.9, 3.9, 9))
    assert (jnp.abs(actions) < 1.0).all()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"volatility": 0.0}, "volatility is 0.0"),
        ({"rate": math.nan}, "rate is nan"),
        ({"mean_premium": math.inf}, "mean_premium is inf"),
        ({"premium_reversion": -1.0}, "premium_reversion is -1.0"),
        ({"premium_volatility": 0.0}, "premium_volatility is 0.0"),
        ({"correlation": 1.1}, r"correlation is 1.1; it must be in \[-1, 1\]"),
        ({"risk_aversion": 0.0}, "risk_aversion is 0.0"),
        ({"maturity": -5.0}, "maturity is -5.0"),
        ({"dt": 0.3}, "dt is 0.3"),
        ({"dt": 0.0}, "dt is 0.0"),
        ({"risk_aversion": 0.2, "maturity": 50.0}, "risk_aversion is 0.2.*infinite"),
        ({"risk_aversion": 0.7, "rate": 3.0, "maturity": 50.0, "premium_volatility": 0.1}, "too large for float32"),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(ValueError, match=message):
        KimOmberg(**parameters)
