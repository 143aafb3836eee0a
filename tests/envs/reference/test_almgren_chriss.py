"""Almgren-Chriss: the published schedule, the optimum against linear algebra, gradients, Riccati and simulation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from finite_episodes import check_environment
from hypothesis import given, settings
from hypothesis import strategies as st
from stationary_problem import gains, value_error

from jaxppo.envs.reference.almgren_chriss import AlmgrenChriss, held_ratios

DEFAULT = {}
# A thousand shares in a quarter of a day, strong permanent impact, hurried.
SMALL = {"shares": 1e3, "maturity": 0.25, "n_slices": 12, "volatility": 3.0, "half_spread": 0.02} | {
    "permanent_impact": 4e-4,
    "temporary_impact": 1e-4,
    "risk_aversion": 3e-4,
}
NEUTRAL = {"risk_aversion": 0.0, "n_slices": 8, "maturity": 2.0, "volatility": 0.2, "half_spread": 0.0}
LARGE = {"shares": 4e8, "maturity": 20.0, "n_slices": 30, "volatility": 0.4, "permanent_impact": 0.0} | {
    "temporary_impact": 3e-8,
    "risk_aversion": 2e-9,
}
SETS = [DEFAULT, SMALL, NEUTRAL, LARGE]
IDS = ["default", "small", "neutral", "large"]


pytestmark = pytest.mark.slow


@functools.cache
def build(index):
    return AlmgrenChriss(**SETS[index])


def parameters(n_slices):
    """Strategy: parameters of very different sizes, with a temporary impact above its bound."""

    def made(shares, maturity, volatility, half_spread, permanent, ratio, hurry):
        slice_length = maturity / n_slices
        temporary = ratio * permanent * slice_length / 2
        effective = temporary - permanent * slice_length / 2
        risk_aversion = hurry**2 * effective / (volatility * slice_length) ** 2
        return {"shares": shares, "maturity": maturity, "n_slices": n_slices, "volatility": volatility} | {
            "half_spread": half_spread,
            "permanent_impact": permanent,
            "temporary_impact": temporary,
            "risk_aversion": risk_aversion,
        }

    sizes = st.floats(1e-3, 1e3)
    return st.builds(made, st.floats(1, 1e7), sizes, sizes, st.floats(0, 1), sizes, st.floats(1.1, 50), st.floats(0, 5))


@pytest.mark.parametrize(
    ("risk_aversion", "urgency", "schedule", "expected", "deviation", "objective"),
    [
        (0.0, 0.0, [1e6, 8e5, 6e5, 4e5, 2e5, 0], 662_500, 1_040_673, 662_500),
        (1e-6, 0.607076, [1e6, 541955.6, 289854.2, 147897.5, 62141.8, 0], 911_226.99, 603_430.67, 1_275_356),
        (2e-6, 0.846297, [1e6, 428598.8, 182932.8, 76295.7, 27643.4, 0], 1_140_715.17, 449_367.65, 1_544_578),
    ],
)
def test_the_published_example(risk_aversion, urgency, schedule, expected, deviation, objective):
    problem = AlmgrenChriss(risk_aversion=risk_aversion)
    assert problem.urgency == pytest.approx(urgency, abs=1e-6)
    np.testing.assert_allclose(problem.schedule(), schedule, atol=0.06)
    assert problem.expected_shortfall == pytest.approx(expected, abs=0.5)
    assert problem.variance**0.5 == pytest.approx(deviation, abs=0.5)
    assert problem.objective(problem.optimal_value()) == pytest.approx(objective, abs=0.5)


def least_cost_schedule(shares, maturity, n_slices, volatility, permanent_impact, temporary_impact, risk_aversion, **_):
    """Holdings that minimise the quadratic form of the costs, written as matrices of the trades."""
    tau = maturity / n_slices
    held = np.triu(np.ones((n_slices, n_slices)), 1)  # x_k = sum of the later trades
    form = temporary_impact / tau * np.eye(n_slices) + permanent_impact * (held + held.T) / 2
    form = form + risk_aversion * volatility**2 * tau * held.T @ held
    system = np.block([[2 * form, np.ones((n_slices, 1))], [np.ones((1, n_slices)), np.zeros((1, 1))]])
    trades = np.linalg.solve(system / np.abs(form).max(), np.r_[np.zeros(n_slices), 1.0 / np.abs(form).max()])[:-1]
    return shares * np.r_[1.0, 1.0 - np.cumsum(trades)], shares**2 * trades @ form @ trades


@settings(max_examples=60, deadline=None)
@given(parameters(7))
def test_linear_algebra_finds_the_same_schedule(chosen):
    problem = AlmgrenChriss(**chosen)
    holdings, cost = least_cost_schedule(**chosen)
    np.testing.assert_allclose(problem.schedule() / chosen["shares"], holdings / chosen["shares"], atol=1e-8)
    total = cost + chosen["half_spread"] * chosen["shares"]
    assert problem.objective(problem.optimal_value()) == pytest.approx(total, rel=1e-7)


@functools.cache
def slopes(n_slices):
    """Gradient and curvature of the environment's own noiseless return in the actions, `[n_slices - 1]`."""
    env = build(0).env

    def episode(fractions, params):
        _, state = env.reset_env(jax.random.key(0), params)
        total = 0.0
        for fraction in [*fractions, jnp.zeros(())]:
            _, state, reward, _, _ = env.step_env(jax.random.key(0), state, fraction[None], params)
            total += reward
        return total

    return jax.jit(
        lambda x, params: (episode(x, params), jax.grad(episode)(x, params), jax.hessian(episode)(x, params))
    )


@settings(max_examples=60, deadline=None)
@given(parameters(5))
def test_the_environments_own_return_is_stationary_at_the_optimum(chosen):
    problem = AlmgrenChriss(**chosen)
    _, state = problem.env.reset_env(jax.random.key(0), problem.params)
    actions = [problem.optimal_action(state.replace(time=jnp.asarray(k)))[0] for k in range(5)]
    assert float(actions[-1]) == 1.0
    noiseless = problem.params.replace(price_noise=jnp.zeros(()))
    value, gradient, curvature = slopes(5)(jnp.stack(actions[:-1]), noiseless)
    assert float(value) == pytest.approx(problem.optimal_value(), rel=1e-4)
    assert np.all(np.abs(gradient) < 2e-4 * abs(float(value)))
    size = np.sqrt(np.maximum(-np.diag(curvature), 1e-30))
    assert np.max(np.linalg.eigvalsh(np.asarray(curvature) / size / size[:, None])) < 1e-3


def test_the_rate_is_that_of_the_riccati_equation():
    """Without a deadline in sight the same share is kept in every slice."""
    chosen = {"maturity": 60.0, "n_slices": 60, "permanent_impact": 1e-6}
    problem = AlmgrenChriss(**chosen)
    penalty = problem.risk_aversion * problem.volatility**2
    effective = problem.temporary_impact - problem.permanent_impact / 2
    one = np.ones((1, 1))
    value = scipy.linalg.solve_discrete_are(one, -one, penalty * one, (effective + penalty) * one, s=-penalty * one)
    kept = 1.0 - (penalty + value[0, 0]) / (effective + penalty + value[0, 0])
    schedule = problem.schedule()
    np.testing.assert_allclose(schedule[1:20] / schedule[:19], kept, rtol=1e-9)


def test_many_slices_tend_to_the_continuous_schedule():
    problem = AlmgrenChriss(n_slices=4000)
    rate = np.sqrt(1e-6 * 0.95**2 / 2.5e-6)
    left = 5.0 - np.linspace(0.0, 5.0, 4001)
    np.testing.assert_allclose(problem.schedule() / 1e6, np.sinh(rate * left) / np.sinh(rate * 5.0), atol=1e-4)


def test_extreme_rates_stay_finite():
    np.testing.assert_allclose(held_ratios(1e-12, 4), [0.75, 2 / 3, 0.5, 0.0], rtol=1e-9)
    np.testing.assert_allclose(held_ratios(500.0, 4), [np.exp(-500.0)] * 3 + [0.0])
    hurried = AlmgrenChriss(risk_aversion=1e6)
    assert hurried.schedule()[1] < 1.0
    assert AlmgrenChriss(n_slices=1).schedule().tolist() == [1e6, 0.0]
    assert hurried.objective(hurried.optimal_value()) == pytest.approx(62_500 + 2.5e-6 * 1e12, rel=1e-6)


@pytest.mark.parametrize("index", range(4), ids=IDS)
def test_the_simulated_value_is_the_exact_one(index):
    error, deviation = value_error(build(index), jax.random.key(index), 120_000)
    assert abs(error) < 3.5 * abs(deviation)
    assert abs(deviation) < 0.004


def perturbed(problem):
    """Policy with a setting: scale and shift of the fraction, slices of delay, reaction to the price."""

    def act(state, setting):
        scale, shift, lag, reaction = setting
        time = jnp.maximum(state.time - lag.astype(jnp.int32), 0)
        fraction = problem.optimal_action(state.replace(time=time))
        return scale * fraction + shift + reaction * state.price / problem.params.price_scale

    return act


@pytest.mark.parametrize("index", range(4), ids=IDS)
def test_no_perturbed_policy_is_better(index):
    problem = build(index)
    mean = float(np.mean(1.0 - problem.schedule()[1:-1] / problem.schedule()[:-2]))
    small = [(0.9, 0, 0, 0), (1.1, 0, 0, 0), (1, 0, 1, 0), (1, 0, 0, 0.1 * mean), (1, 0, 0, -0.1 * mean)]
    clear = [(0.4, 0, 0, 0), (1.8, 0, 0, 0), (1, 0.6 * mean, 0, 0), (1, -0.6 * mean, 0, 0), (1, 0, 0, mean)]
    values = gains(problem, perturbed(problem), [(1, 0, 0, 0), *small, *clear], jax.random.key(7), 40_000)
    assert np.all(values < 3.0), values
    assert np.all(values[len(small) :] < -3.0), values


@pytest.mark.parametrize("index", range(4), ids=IDS)
def test_the_environment(index):
    check_environment(build(index), 1, 3, 1)


def test_a_step_by_hand():
    """Half of 1,000 shares sold: spread 10, temporary impact 25, and the rest falls with the permanent impact."""
    chosen = {"shares": 1e3, "maturity": 2.0, "n_slices": 2, "volatility": 0.1, "half_spread": 0.02}
    impact = {"permanent_impact": 5e-5, "temporary_impact": 1e-4, "risk_aversion": 1e-3}
    problem = AlmgrenChriss(**chosen, **impact)
    _, state = problem.env.reset(jax.random.key(0), problem.params)
    _, state, reward, _, info = problem.env.step_env(jax.random.key(1), state, jnp.array([0.5]), problem.params)
    shock = float(info["market"][0])
    by_hand = -(500 * 0.02 + 500**2 * 1e-4) - 500 * (5e-5 * 500 - 0.1 * shock) - 1e-3 * 0.01 * 500**2
    assert float(reward) == pytest.approx(problem.reward_scale * by_hand, rel=1e-5)
    assert float(state.inventory) == 500.0
    assert float(state.price) == pytest.approx(0.1 * shock - 0.025, rel=1e-5)
    _, state, reward, terminated, _ = problem.env.step_env(jax.random.key(2), state, jnp.array([0.0]), problem.params)
    assert float(reward) == pytest.approx(-problem.reward_scale * (500 * 0.02 + 500**2 * 1e-4), rel=1e-5)
    assert float(state.inventory) == 0.0
    assert bool(terminated)


def test_percent_of_optimum_compares_costs():
    problem = build(0)
    assert problem.percent_of_optimum(problem.optimal_value()) == pytest.approx(100.0)
    assert problem.percent_of_optimum(1.25 * problem.optimal_value()) == pytest.approx(80.0)
    with pytest.raises(ValueError, match=r"value is 0\.5; it must be < 0"):
        problem.percent_of_optimum(0.5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("shares", 0.0),
        ("maturity", -1.0),
        ("n_slices", 2.5),
        ("n_slices", 0),
        ("volatility", 0.0),
        ("half_spread", -0.1),
        ("permanent_impact", float("nan")),
        ("temporary_impact", 1e-7),
        ("risk_aversion", -1e-6),
        ("risk_aversion", float("inf")),
    ],
)
def test_bad_parameters_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}; it must be "):
        AlmgrenChriss(**{name: value})
