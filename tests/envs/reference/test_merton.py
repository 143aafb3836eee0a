"""Merton: weights against independent quadrature and optimisers, their value and optimality in the environment."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lognormal_episodes import differences, estimate, run
from slowly import slow_after

from jaxppo.envs.reference.merton import Merton, sparse_hermite

N_PATHS, N_BARS = 2048, 23
SCALES = (0.7, 0.9, 1.1, 1.3)
CORRELATION = ((1.0, 0.4, -0.2), (0.4, 1.0, 0.1), (-0.2, 0.1, 1.0))
MODELS = {
    "defaults": {},
    "short": {"drift": -0.1, "volatility": 0.25, "risk_aversion": 0.8, "dt": 1 / 52, "discount": 0.9, "horizon": 15},
    "three": {
        "drift": (0.05, 0.08, -0.02),
        "volatility": (0.15, 0.25, 0.2),
        "correlation": CORRELATION,
        "risk_aversion": 4.0,
        "dt": 1 / 12,
        "horizon": 12,
    },
}


@functools.cache
def problem(name: str) -> Merton:
    return Merton(**{"horizon": N_BARS - 3, **MODELS[name]}, n_bars=N_BARS)


@functools.cache
def episodes(name: str):
    """The optimum, four scaled policies, one that is shifted, and one that never trades after the first bar."""
    merton = problem(name)

    def policy(state, variant):
        scale, shift, holds = variant
        portfolio = state.portfolio
        held = portfolio.shares * portfolio.price / portfolio.equity / merton.position_limit
        return jnp.where((holds > 0) & (state.time > 0), held, scale * merton.optimal_action(state) + shift)

    variants = [(scale, 0, 0) for scale in (1.0, *SCALES)]
    return run(merton, policy, [*variants, (1.0, 0.2, 0), (1.3, 0, 1)], seed=1, n_paths=N_PATHS)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_simulated_value_is_the_computed_one(name):
    outcome = episodes(name)
    mean, error = estimate(outcome.total[0], outcome.luck[0])
    value = problem(name).optimal_value()
    assert abs(mean - value) < 4 * error
    assert error < 0.0025 * value
    assert not outcome.terminated.any()


@pytest.mark.parametrize("name", slow_after(1, MODELS))
def test_other_weights_are_worse(name):
    for mean, error in differences(episodes(name)):
        assert mean < -4 * error


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_of_a_scaled_policy_is_the_computed_one(name):
    merton = problem(name)
    discounts = merton.optimal_value() / merton.expected_utility(merton.weights)
    for scale, (mean, error) in zip(SCALES, differences(episodes(name)), strict=False):
        lost = merton.expected_utility(scale * merton.weights) - merton.expected_utility(merton.weights)
        assert abs(mean - discounts * lost) < 4 * error


@given(
    drift=st.floats(-0.15, 0.15).filter(lambda x: abs(x) > 0.005),
    volatility=st.floats(0.1, 0.5),
    risk_aversion=st.floats(1.0, 8.0),
    bars_per_year=st.sampled_from([4, 12, 52, 252]),
)
@example(drift=-0.1484375, volatility=0.5, risk_aversion=5.0, bars_per_year=4)  # the outermost nodes are near ruin
@settings(max_examples=12, deadline=None)
def test_one_weight_solves_the_first_order_condition(drift, volatility, risk_aversion, bars_per_year):
    dt = 1 / bars_per_year
    exact = drift / (risk_aversion * volatility**2)
    if abs(exact) * math.expm1(8 * volatility * math.sqrt(dt)) > 0.8:
        return  # so levered that a bar can ruin it, and refused
    deviation = volatility * math.sqrt(dt)
    growth = (drift - volatility**2 / 2) * dt

    def marginal(weight):
        def integrand(shock):
            simple = math.expm1(growth + deviation * shock)
            return scipy.stats.norm.pdf(shock) * simple * (1 + weight * simple) ** -risk_aversion

        return scipy.integrate.quad(integrand, -7.5, 7.5, epsabs=1e-13, epsrel=1e-9)[0]

    best = scipy.optimize.brentq(marginal, 0.7 * exact, 1.4 * exact, xtol=1e-9)
    merton = Merton(drift=drift, volatility=volatility, risk_aversion=risk_aversion, dt=dt, n_bars=N_BARS)
    np.testing.assert_allclose(merton.weights, [best], rtol=1e-4)


def test_three_weights_maximise_utility_over_a_quasi_random_sample():
    merton = problem("three")
    shock = scipy.stats.norm.ppf(scipy.stats.qmc.Sobol(3, seed=0).random_base2(16))
    covariance = merton.correlation * np.outer(merton.volatility, merton.volatility) * merton.dt
    drift = np.asarray(MODELS["three"]["drift"]) * merton.dt
    simple = np.expm1(drift - np.diag(covariance) / 2 + shock @ np.linalg.cholesky(covariance).T)

    def loss(weights):
        return np.mean((1 + simple @ weights) ** -3.0) / 3

    best = scipy.optimize.minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-10}).x
    assert merton.weight_error(best) < 2e-3
    assert merton.quadrature_error < 1e-6


def test_the_published_case_and_the_continuous_limit():
    fine = Merton(drift=0.06, volatility=0.2, risk_aversion=2.0, dt=1e-4, horizon=1, n_bars=N_BARS)
    np.testing.assert_allclose(fine.weights, [0.75], rtol=1e-5)
    assert fine.certainty_equivalent(fine.weights) == pytest.approx(0.0225, rel=1e-4)
    other = Merton(drift=0.11, volatility=0.3, risk_aversion=2.0, dt=1e-4, horizon=1, n_bars=N_BARS)
    np.testing.assert_allclose(other.weights, [0.6111], rtol=1e-4)
    loss = other.certainty_equivalent(other.weights) - other.certainty_equivalent(1.222 * other.weights)
    assert loss == pytest.approx(16.6e-4, rel=0.01)
    assert other.weight_error(1.222 * other.weights) == pytest.approx(0.222)
    several = Merton(drift=(0.05, 0.09), volatility=(0.2, 0.3), correlation=0.5, dt=1e-4, horizon=1, n_bars=N_BARS)
    covariance = np.array([[0.04, 0.03], [0.03, 0.09]])
    np.testing.assert_allclose(several.weights, np.linalg.solve(covariance, [0.05, 0.09]) / 2, rtol=1e-4)


def test_kelly_of_a_lognormal_bar():
    """A log price without drift is symmetric, so half is held; at drift volatility^2, `E[1/G] = 1` at the weight 1."""
    for drift, exact in ((0.02, 0.5), (0.04, 1.0)):
        kelly = Merton(drift=drift, volatility=0.2, risk_aversion=1.0, dt=1.0, horizon=1, n_bars=N_BARS)
        np.testing.assert_allclose(kelly.weights, [exact], rtol=1e-8)


@pytest.mark.parametrize(("n_dimensions", "level"), [(1, 5), (2, 4), (4, 3), (7, 2)])
def test_sparse_grids_are_exact_to_their_degree(n_dimensions, level):
    nodes, weights = sparse_hermite(n_dimensions, level)
    moment = (1, 0, 1, 0, 3, 0, 15, 0, 105, 0, 945, 0)
    for powers in itertools.product(range(min(2 * level + 2, 6)), repeat=min(n_dimensions, 4)):
        if sum(powers) <= 2 * level + 1:
            exact = math.prod(moment[power] for power in powers)
            mean = weights @ np.prod(nodes[:, : len(powers)] ** np.array(powers), axis=1)
            assert mean == pytest.approx(exact, abs=1e-8)


def test_markets_open_at_the_last_close_and_grow_at_the_drift():
    merton = problem("three")
    markets = jax.jit(jax.vmap(merton.market))(jax.random.split(jax.random.key(3), 20_000))
    assert jnp.array_equal(markets.open[:, 1:], markets.close[:, :-1])
    assert jnp.all((markets.low <= markets.open) & (markets.open <= markets.high))
    returns = np.log(np.asarray(markets.close[:, 2:] / markets.close[:, 1:-1], np.float64)).reshape(-1, 3)
    np.testing.assert_allclose(returns.mean(0), merton.growth, atol=4 * 0.07 / math.sqrt(len(returns)))
    np.testing.assert_allclose(returns.std(0), merton.deviation, rtol=0.01)
    np.testing.assert_allclose(np.corrcoef(returns.T), CORRELATION, atol=0.01)
    years = markets.seconds_since_previous[0, 1:] / (365.25 * 86400)
    np.testing.assert_allclose(years, merton.dt, rtol=1e-5)


def test_the_environment_keeps_the_gymnax_contract():
    merton = problem("three")
    env = merton.env
    params = jax.jit(lambda key: merton.params_for(merton.market(key)))(jax.random.key(5))
    other = merton.on_market(merton.market(jax.random.key(5)))
    np.testing.assert_allclose(other.params.market.close, params.market.close, rtol=1e-6)
    assert not jnp.array_equal(merton.params.market.close, params.market.close)
    observation, state = env.reset(jax.random.key(0), params)
    action = merton.optimal_action(state)
    assert env.observation_space(params).contains(observation)
    assert env.action_space(params).contains(action)
    assert action.shape == (3,)
    assert float(jnp.max(jnp.abs(action))) == pytest.approx(0.5)
    for step in range(merton.horizon):
        observation, state, reward, terminated, truncated, _ = env.step(jax.random.key(step), state, action, params)
        assert reward.shape == ()
        assert not terminated
        assert bool(truncated) == (step == merton.horizon - 1)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"drift": 0.0}, "drift"),
        ({"drift": math.nan}, "drift"),
        ({"drift": (0.1, 0.2), "n_assets": 3}, "drift"),
        ({"volatility": 0.0}, "volatility"),
        ({"n_assets": 0}, "n_assets"),
        ({"n_assets": 2, "correlation": 1.0}, "correlation"),
        ({"correlation": ((1.0, 2.0), (2.0, 1.0))}, "correlation"),
        ({"risk_aversion": 0.0}, "risk_aversion"),
        ({"dt": -1.0}, "dt"),
        ({"dt": 1.0, "drift": 0.2, "risk_aversion": 1.0}, "dt"),
        ({"horizon": 0}, "horizon"),
        ({"discount": 1.5}, "discount"),
        ({"position_limit": 0.5}, "position_limit"),
        ({"n_bars": 5}, "n_bars"),
        ({"n_bars": 10**6}, "n_bars"),
    ],
)
def test_bad_parameters_are_named(change, named):
    with pytest.raises(ValueError, match=f"^{named}.* must "):
        Merton(**change)
