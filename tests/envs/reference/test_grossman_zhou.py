"""Grossman-Zhou: growth and policy against a Markov chain and the continuous limit, and in the environment."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from lognormal_episodes import differences, estimate, run
from slowly import slow_after

from jaxppo.envs.execution.portfolio import drawdown, open_portfolio, weights_of
from jaxppo.envs.reference.grossman_zhou import FloorEnv, GrossmanZhou, cushion_share
from jaxppo.envs.reference.merton import Merton

N_PATHS, N_BARS = 4096, 153
LADDER = 0.5826
"""Mean overshoot of a normal random walk over a distant level is this times its step: `-zeta(1/2) / sqrt(2 pi)`."""

MODELS = {
    "defaults": {},
    "tight": {"drift": 0.06, "volatility": 0.15, "floor": 0.85, "dt": 1 / 52},
    "loose": {"drift": 0.1, "volatility": 0.35, "floor": 0.2, "dt": 0.25},
}
VARIANTS = {"0.7": (0.7, 0, 0), "0.9": (0.9, 0, 0), "1.1": (1.1, 0, 0), "1.3": (1.3, 0, 0), "late": (1, 0, 1)}


pytestmark = pytest.mark.slow


@functools.cache
def problem(name: str) -> GrossmanZhou:
    return GrossmanZhou(**{"horizon": N_BARS - 3, **MODELS[name]}, n_bars=N_BARS)


@functools.cache
def episodes(name: str):
    """The optimum, four scaled ones, one that holds on to its position in a loss, and a constant weight."""
    grossman_zhou = problem(name)
    limit = grossman_zhou.position_limit
    top = float(grossman_zhou.multiple(jnp.asarray(1.0))) * (1 - grossman_zhou.floor)

    def policy(state, variant):
        scale, weight, keeps = variant
        portfolio = state.portfolio
        one = cushion_share(drawdown(portfolio), grossman_zhou.floor) * limit
        held = weights_of(portfolio) / one
        optimal = scale * grossman_zhou.optimal_action(state)
        stubborn = (keeps > 0) & (portfolio.equity < portfolio.peak_equity) & (held[0] > 0)
        return jnp.where(weight > 0, weight / one, jnp.where(stubborn, jnp.maximum(held, optimal), optimal))

    others = [*VARIANTS.values(), (0, top, 0)]
    return run(grossman_zhou, policy, [(1, 0, 0), *others], seed=3, n_paths=N_PATHS)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_simulated_value_is_the_computed_one(name):
    outcome = episodes(name)
    mean, error = estimate(outcome.total[0], outcome.luck[0])
    value = problem(name).optimal_value()
    assert abs(mean - value) < 4 * error
    assert error < 0.01 * value


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_with_its_tail_an_episode_grows_at_the_long_run_rate(name):
    grossman_zhou, outcome = problem(name), episodes(name)
    mean, error = estimate(outcome.total[0] + outcome.tail[0], outcome.luck[0])
    growth = grossman_zhou.growth_rate() * grossman_zhou.dt * grossman_zhou.horizon
    assert abs(mean - growth) < 4 * error
    assert error < 0.02 * growth


@pytest.mark.parametrize("name", slow_after(1, MODELS))
def test_no_policy_breaches_the_floor(name):
    assert not episodes(name).terminated.any()


@pytest.mark.parametrize("name", MODELS)
def test_other_policies_are_worse(name):
    outcome = episodes(name)
    for mean, error in differences(outcome):
        assert mean < -4 * error


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("scale", [0.6, 1.0, 1.2])
def test_growth_is_that_of_a_markov_chain(name, scale):
    """Cushion-proportional policies on a grid of the log cushion, with linear interpolation between its points."""
    grossman_zhou = problem(name)
    drift, volatility, floor, dt = (float(np.ravel(x)[0]) for x in model(grossman_zhou))
    multiple = scale * drift / volatility**2
    y = np.linspace(-9.0, 0.0, 901)
    edges = np.linspace(-6, 6, 402)
    shock, weight = (edges[1:] + edges[:-1]) / 2, np.diff(scipy.stats.norm.cdf(edges))
    simple = np.expm1((drift - volatility**2 / 2) * dt + volatility * math.sqrt(dt) * shock)
    cushion = (1 - floor) * np.exp(y)[:, None]
    reward = np.log1p(multiple * cushion / (floor + cushion) * simple) @ weight / weight.sum()
    position = np.clip((y[:, None] + np.log1p(multiple * simple) + 9.0) / 0.01, 0, 900 - 1e-9)
    cell = position.astype(int)
    chain = np.zeros((901, 901))
    rows = np.broadcast_to(np.arange(901)[:, None], cell.shape)
    np.add.at(chain, (rows, cell), (1 - (position - cell)) * weight / weight.sum())
    np.add.at(chain, (rows, cell + 1), (position - cell) * weight / weight.sum())
    balance = (chain.T - np.eye(901)) + 1.0
    stationary = np.linalg.solve(balance, np.ones(901))
    rate = grossman_zhou.growth_rate(lambda kept: multiple * (1 - floor / kept))
    assert rate == pytest.approx(stationary @ reward / dt, rel=0.01)


def model(grossman_zhou: GrossmanZhou):
    return grossman_zhou.drift, grossman_zhou.volatility, grossman_zhou.floor, grossman_zhou.dt


@pytest.mark.parametrize("name", MODELS)
def test_no_bend_of_the_policy_grows_faster(name):
    grossman_zhou = problem(name)
    floor, best = grossman_zhou.floor, grossman_zhou.growth_rate()

    def bent(size, centre, width):
        def weight(kept):
            depth = np.log((kept - floor) / (1 - floor))
            multiple = np.asarray(grossman_zhou.multiple(jnp.asarray(kept, jnp.float32)), np.float64)
            return multiple * (1 + size * np.exp(-(((depth - centre) / width) ** 2))) * (1 - floor / kept)

        return weight

    assert grossman_zhou.growth_rate(bent(0, 0, 1)) == pytest.approx(best, rel=1e-5)
    for centre, width in ((0.0, 0.2), (-0.3, 0.3), (-1.0, 0.7), (-3.0, 1.5)):
        for size in (-0.2, -0.05, 0.05, 0.2):
            assert grossman_zhou.growth_rate(bent(size, centre, width)) < best * (1 + 1e-6)
    assert grossman_zhou.growth_rate(bent(0.2, -0.5, 1.0)) < 0.995 * best
    assert grossman_zhou.growth_rate(bent(-0.2, -0.5, 1.0)) < 0.995 * best


def test_growth_tends_to_the_continuous_one_by_the_overshoot_of_the_maximum():
    """Each new maximum is overshot: growth exceeds `(1 - a) theta^2 / 2` by `a` times the mean overshoot."""
    for floor, steps in ((0.5, 252), (0.8, 1000), (0.2, 252)):
        grossman_zhou = GrossmanZhou(floor=floor, dt=1 / steps, horizon=1, n_bars=N_BARS)
        limit = (1 - floor) * 0.08**2 / (2 * 0.2**2)
        excess = floor * LADDER * 0.4 / math.sqrt(steps)
        fixed = grossman_zhou.growth_rate(lambda kept, floor=floor: 2.0 * (1 - floor / kept))
        assert fixed / limit - 1 == pytest.approx(excess, rel=0.08)
        assert fixed <= grossman_zhou.growth_rate() < limit * (1 + 1.2 * excess)


def test_far_below_the_maximum_the_cushion_is_kellys_account():
    for name in MODELS:
        drift, volatility, floor, dt = model(problem(name))
        kelly = Merton(drift=drift, volatility=volatility, risk_aversion=1.0, dt=dt, horizon=1, n_bars=N_BARS).weights[
            0
        ]
        assert float(problem(name).multiple(jnp.asarray(floor + (1 - floor) * 1e-3))) == pytest.approx(kelly, rel=2e-3)
        near = float(problem(name).multiple(jnp.asarray(1.0)))
        assert kelly < near < 1.6 * kelly


def test_the_growth_of_other_policies():
    grossman_zhou = problem("tight")
    kelly = 0.06 / 0.15**2
    assert grossman_zhou.growth_rate(lambda kept: 0.0 * kept) == 0.0
    assert grossman_zhou.growth_rate(lambda kept: 2.1 * kelly * (1 - 0.85 / kept)) == 0.0  # the cushion dwindles
    half = grossman_zhou.growth_rate(lambda kept: 0.5 * kelly * (1 - 0.85 / kept))
    assert half == pytest.approx(0.75 * 0.15 * 0.06**2 / (2 * 0.15**2), rel=0.02)


def test_the_environment_keeps_the_gymnax_contract():
    grossman_zhou = problem("defaults")
    env, params = grossman_zhou.env, grossman_zhou.params
    observation, state = env.reset(jax.random.key(0), params)
    assert float(observation.account[2]) == 0.0
    assert env.observation_space(params).contains(observation)
    for step in range(grossman_zhou.horizon):
        action = grossman_zhou.optimal_action(state)
        assert env.action_space(params).contains(action)
        observation, state, _, terminated, truncated, _ = env.step(jax.random.key(step), state, action, params)
        assert not terminated
        assert bool(truncated) == (step == grossman_zhou.horizon - 1)


def test_the_floor_holds_in_a_steady_fall_and_only_a_crash_breaches_it():
    grossman_zhou = problem("tight")
    market = grossman_zhou.market(jax.random.key(0))
    fall = 0.05 * jnp.arange(market.n_bars, dtype=jnp.float32) + 0.3 * (jnp.arange(market.n_bars) >= 10)
    falling = jnp.exp(-fall)[:, None]
    opened = jnp.concatenate([falling[:1], falling[:-1]])
    params = grossman_zhou.params_for(market.replace(close=falling, open=opened, low=falling, high=opened))
    _, state = grossman_zhou.env.reset_env(jax.random.key(0), params)
    state = state.replace(bar=jnp.int32(5))
    for bar in range(6, 11):
        _, state, _, terminated, info = grossman_zhou.env.step_env(None, state, jnp.ones(1), params)
        weight = float(weights_of(state.portfolio)[0])
        assert 0 < weight < 0.15 * grossman_zhou.position_limit
        assert bool(terminated) == (bar == 10)
        assert float(info["discount"]) == 1.0 - (bar == 10)
    action = jnp.ones(1)
    assert float(cushion_share(drawdown(state.portfolio), 0.85)) == 0.0
    assert float(grossman_zhou.env.decode(action, state.portfolio)[0][0]) == 0.0


def test_weights_of_several_assets_are_their_multiples_of_one_cushion():
    env = FloorEnv(0.6, n_assets=3, actions="continuous", levels=(-1.0, 1.0), position_limit=2.0, start="flat")
    portfolio = open_portfolio(jnp.ones(3), 90.0, env.fill_rule).replace(peak_equity=jnp.float32(100.0))
    weights, hold = env.decode(jnp.array([-0.5, 0.25, 3.0]), portfolio)
    np.testing.assert_allclose(weights, np.array([-1.0, 0.5, 2.0]) * 30 / 90, rtol=1e-6)
    assert not hold.any()


@pytest.mark.parametrize(
    ("floor", "change", "named"),
    [
        (0.5, {"actions": "discrete"}, "actions is 'discrete'"),
        (0.5, {"actions": "band"}, "actions is 'band'"),
        (0.5, {"start": "random"}, "start 'random'"),
        (0.0, {}, "floor is 0"),
        (1.0, {}, "floor is 1"),
        (math.nan, {}, "floor is nan"),
    ],
)
def test_what_a_floor_cannot_be_combined_with(floor, change, named):
    with pytest.raises(ValueError, match=named):
        FloorEnv(floor, **{"actions": "continuous", "start": "flat", **change})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"drift": 0.0}, "drift"),
        ({"volatility": -0.1}, "volatility"),
        ({"floor": 0.0}, "floor"),
        ({"floor": 1.0}, "floor"),
        ({"dt": math.nan}, "dt"),
        ({"dt": 1.0}, "dt"),
        ({"horizon": 0}, "horizon"),
        ({"n_bars": 100}, "n_bars"),
    ],
)
def test_bad_parameters_are_named(change, named):
    with pytest.raises(ValueError, match=f"^{named}.* must "):
        GrossmanZhou(**change)
