"""OU spread: golden numbers, the optimum against grids and simulation, the contract."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from terminal_wealth_oracle import affine_policies, brute_force, stationary_certainty, t_statistic

from jaxppo.envs.reference import simulate
from jaxppo.envs.reference.spread import OUSpread

N_STEPS = 2_400_000
DEFAULT = {}
CAUTIOUS = {"risk_aversion": 2.0, "maturity": 0.2, "dt": 0.01}
COARSE = {"reversion": 3.0, "volatility": 40.0, "risk_aversion": 3.0, "maturity": 1.0, "dt": 0.25}
BOLD = {"risk_aversion": 0.7, "reversion": 1.5, "volatility": 1e-3, "maturity": 1.0, "dt": 0.1}
SETS = [DEFAULT, CAUTIOUS, COARSE, BOLD]
IDS = ["default", "cautious", "coarse", "bold"]


@functools.cache
def build(index):
    return OUSpread(**SETS[index])


def at(problem, spread, time=0):
    _, state = problem.env.reset(jax.random.key(0))
    return state.replace(signal=jnp.asarray(spread, jnp.float32), time=jnp.asarray(time, jnp.int32))


@pytest.mark.parametrize(
    ("risk_aversion", "elapsed", "golden"),
    [(2.0, 1e-4, 0.5), (2.0, 1.0, 0.6505), (2.0, 5.0, 0.7069), (1.0, 3.0, 1.0), (0.5, 6.0, math.sqrt(2.0))],
)
def test_short_steps_approach_the_continuous_position(risk_aversion, elapsed, golden):
    # units = -(k / sigma^2) X D(tau) of Boguslavsky and Boguslavskaya; tau in units of 1 / k.
    problem = OUSpread(
        reversion=4.0, volatility=0.3, risk_aversion=risk_aversion, maturity=elapsed / 4, dt=elapsed / 4 / 4000
    )
    units = float(problem.optimal_position(at(problem, 0.05)))
    assert units * 0.3**2 / (-4.0 * 0.05) == pytest.approx(golden, rel=2e-3)


@settings(max_examples=8, deadline=None)
@given(
    risk_aversion=st.floats(0.4, 8.0),
    elapsed=st.floats(0.1, 8.0),
    reversion=st.floats(0.2, 30.0),
    volatility=st.floats(1e-3, 50.0),
)
def test_the_position_of_any_power_utility(risk_aversion, elapsed, reversion, volatility):
    problem = OUSpread(
        reversion=reversion,
        volatility=volatility,
        risk_aversion=risk_aversion,
        maturity=elapsed / reversion,
        dt=elapsed / reversion / 2000,
    )
    nu = 1 / math.sqrt(risk_aversion)
    up, down = math.cosh(nu * elapsed), math.sinh(nu * elapsed)
    golden = (nu * down + nu**2 * up) / (up + nu * down)
    spread = 0.7 * volatility / math.sqrt(2 * reversion)
    units = float(problem.optimal_position(at(problem, spread)))
    assert -units * volatility**2 / (reversion * spread) == pytest.approx(golden, rel=0.02)


def test_log_growth_tends_to_a_quarter_of_the_reversion():
    rates = [OUSpread(maturity=0.1, dt=dt, volatility=0.7).optimal_rate for dt in (1e-2, 1e-3, 1e-4)]
    assert rates[2] == pytest.approx(2.5, rel=2e-3)
    assert rates[0] < rates[1] < rates[2] < 2.5
    # By hand for k dt = 0.1: (1 - e^-0.1)^2 / (4 * 10 * 1e-4).
    assert rates[0] == pytest.approx(0.09516258196**2 / 4e-3, rel=1e-9)


@pytest.mark.parametrize("index", range(len(SETS)), ids=IDS)
def test_simulated_value_is_the_optimal_value(index):
    problem = build(index)
    n_paths = N_STEPS // problem.horizon
    returns = simulate(problem, lambda _, state: problem.optimal_action(state), jax.random.key(1), n_paths)
    surplus = np.asarray(returns, np.float64) - problem.optimal_value()
    assert abs(t_statistic(surplus)) < 3.5
    assert surplus.std() / math.sqrt(n_paths) < 0.009 * abs(problem.optimal_value())


@pytest.mark.parametrize(
    "parameters",
    [
        {"risk_aversion": 1.0, "reversion": 2.0, "volatility": 0.5, "dt": 0.25},
        {"risk_aversion": 3.5, "reversion": 5.0, "volatility": 8.0, "dt": 0.05},
        {"risk_aversion": 0.6, "reversion": 0.8, "volatility": 0.02, "dt": 0.3},
    ],
    ids=["logarithmic", "cautious", "bold"],
)
def test_grid_search_finds_the_same_policy_and_value(parameters):
    problem = OUSpread(**parameters, maturity=5 * parameters["dt"])
    decay = math.exp(-parameters["reversion"] * parameters["dt"])
    deviation = parameters["volatility"] / math.sqrt(2 * parameters["reversion"])

    def transition(x, z):
        following = decay * x + deviation * math.sqrt(1 - decay**2) * z[0]
        return following - x, following

    limit = float(problem.params.position_limit)
    grid, units = deviation * np.linspace(-9, 9, 61), limit * np.linspace(-1, 1, 801)
    best, value = brute_force(
        transition,
        n_shocks=1,
        grid=grid,
        positions=units,
        power=1.0 - parameters["risk_aversion"],
        carry=0.0,
        drag=parameters["volatility"] ** 2 * parameters["dt"] / 2,
        n_steps=5,
    )
    for step in range(5):
        inner = jnp.asarray(grid[20:41], jnp.float32)
        found = jax.vmap(lambda x, t=step: problem.optimal_action(at(problem, x, t)))(inner)
        np.testing.assert_allclose(found[:, 0] * limit, best[step, 20:41], atol=0.6 * (units[1] - units[0]))
    growth = stationary_certainty(grid, value, 0.0, deviation, 1.0 - parameters["risk_aversion"])
    assert problem.optimal_rate * problem.maturity == pytest.approx(growth, rel=2e-4)


@pytest.mark.parametrize("index", range(len(SETS)), ids=IDS)
def test_no_perturbed_policy_is_better(index):
    problem = build(index)
    scales, shifts = [1.0, 0.6, 0.9, 1.1, 1.4, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0, 0.15, -0.15]
    returns = affine_policies(problem, scales, shifts, N_STEPS // 2 // problem.horizon)
    against = [t_statistic(other - returns[0]) for other in returns[1:]]
    assert max(against) < 3.0, against
    assert max(against[0], against[3], against[4], against[5]) < -3.0, against


def test_myopic_and_misread_policies_are_worse():
    problem = OUSpread(risk_aversion=3.0, maturity=0.4, dt=0.01)
    policies = [
        lambda state: problem.optimal_action(state),
        lambda state: problem.optimal_action(state.replace(time=state.time * 0 + problem.horizon - 1)),
        lambda state: problem.optimal_action(
            state.replace(signal=state.signal + 0.3 * problem.params.signal_deviation * jnp.sin(5e3 * state.signal))
        ),
    ]
    best, *worse = [
        np.asarray(simulate(problem, lambda _, s, p=policy: p(s), jax.random.key(3), 20_000), np.float64)
        for policy in policies
    ]
    assert all(t_statistic(other - best) < -3.0 for other in worse)


def test_one_step_by_hand():
    problem = OUSpread(reversion=2.0, volatility=0.5, dt=0.5)
    state = at(problem, 0.2)
    _, after, reward, terminated, info = problem.env.step_env(
        jax.random.key(1), state, jnp.asarray([-0.3]), problem.params
    )
    noise = 0.5 * math.sqrt((1 - math.exp(-2.0)) / 4.0)
    change = float(info["market"][0]) * noise
    units = -0.3 * float(problem.params.position_limit)
    assert float(after.signal) == pytest.approx(0.2 + change, rel=1e-5)
    growth = units * change - units**2 * 0.25 * 0.5 / 2
    assert float(after.log_wealth) == pytest.approx(growth, rel=1e-5)
    assert float(reward) == pytest.approx(problem.reward_scale * growth, rel=1e-5)
    assert not terminated


def test_the_spread_is_an_exact_autoregression():
    problem = build(2)
    keys = jax.random.split(jax.random.key(0), 50_000)
    state = at(problem, 30.0)
    _, after, *_ = jax.vmap(problem.env.step_env, in_axes=(0, None, None, None))(
        keys, state, jnp.zeros(1), problem.params
    )
    deviation = 40.0 * math.sqrt((1 - math.exp(-1.5)) / 6.0)
    assert float(after.signal.mean()) == pytest.approx(30.0 * math.exp(-0.75), abs=4 * deviation / math.sqrt(50_000))
    assert float(after.signal.std()) == pytest.approx(deviation, rel=0.015)
    _, starts = jax.vmap(problem.env.reset_env, in_axes=(0, None))(
        jax.random.split(jax.random.key(1), 50_000), problem.params
    )
    assert float(starts.signal.std()) == pytest.approx(40.0 / math.sqrt(6.0), rel=0.015)


def test_gymnax_contract():
    problem = build(0)
    env, params = problem.env, problem.params
    observation, state = jax.vmap(env.reset, in_axes=(0, None))(jax.random.split(jax.random.key(0), 16), params)
    assert observation.shape == (16, 3)
    assert observation.dtype == jnp.float32
    assert env.action_space(params).shape == (env.num_actions,)
    actions = jnp.linspace(-3.0, 3.0, 16)[:, None]
    same = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[0], leaf.shape), state)
    _, after, _, _, _, info = jax.vmap(env.step, in_axes=(None, 0, 0, None))(jax.random.key(2), same, actions, params)
    assert info["market"].shape == (16, 1)
    assert jnp.ptp(info["market"]) == 0
    assert jnp.ptp(after.signal) == 0
    assert float(after.log_wealth[0]) == float(after.log_wealth[1])
    assert float(after.log_wealth[0]) != float(after.log_wealth[-1])
    last = state.replace(time=jnp.full(16, problem.horizon - 1, jnp.int32))
    reset_observation, _, _, terminated, truncated, info = jax.vmap(env.step, in_axes=(0, 0, 0, None))(
        jax.random.split(jax.random.key(3), 16), last, actions, params
    )
    assert terminated.all()
    assert not truncated.any()
    assert (info["discount"] == 0.0).all()
    assert (reset_observation[:, 0] == 1.0).all()
    assert (info["final_observation"][:, 0] == 0.0).all()
    assert env.observation_space(params).contains(observation[0])
    assert env.default_params is params


def test_optimum_lies_within_the_box():
    for index in range(len(SETS)):
        problem = build(index)
        for time in (0, problem.horizon - 1):
            inside = problem.optimal_action(at(problem, 3.9 * problem.params.signal_deviation, time))
            assert -1.0 < float(inside[0]) < 0.0
        assert problem.percent_of_optimum(problem.optimal_value()) == pytest.approx(100.0)
        assert problem.percent_of_optimum(0.0) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"reversion": 0.0}, "reversion is 0.0"),
        ({"volatility": -0.1}, "volatility is -0.1"),
        ({"risk_aversion": math.inf}, "risk_aversion is inf"),
        ({"maturity": 0.0}, "maturity is 0.0"),
        ({"maturity": 1.0, "dt": 0.7}, "dt is 0.7"),
        ({"risk_aversion": 0.5, "reversion": 1000.0, "dt": 1e-3}, "too large for float32"),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(ValueError, match=message):
        OUSpread(**parameters)
