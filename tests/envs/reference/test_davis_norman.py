"""Davis-Norman: the band against brute force and published asymptotics, its value and optimality in the environment."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lognormal_episodes import differences, estimate, run

from jaxppo.envs.reference.davis_norman import DavisNorman, _BandProgram
from jaxppo.envs.reference.merton import Merton

N_PATHS, N_BARS = 2048, 63
MODELS = {
    "defaults": {},
    "levered": {"drift": 0.12, "volatility": 0.2, "risk_aversion": 2.0, "cost": 0.01, "discount": 0.98, "dt": 1 / 12},
    "log": {"drift": 0.03, "volatility": 0.25, "risk_aversion": 1.0, "cost": 0.002, "discount": 0.97, "dt": 0.2},
}
MOVED_EDGES = {"narrow": (0.3, -0.3), "wide": (-0.3, 0.3), "up": (0.4, 0.4), "down": (-0.4, -0.4), "line": (0.5, -0.5)}


@functools.cache
def problem(name: str) -> DavisNorman:
    return DavisNorman(**{"horizon": N_BARS - 3, **MODELS[name]}, n_bars=N_BARS)


@functools.cache
def episodes(name: str):
    """The optimum, its edges as targets, the bands of `MOVED_EDGES`, and the optimum of a single bar: not to trade."""
    davis_norman = problem(name)
    (low, high), limit = davis_norman.band(), davis_norman.position_limit
    width = high - low

    def policy(state, variant):
        optimal, first, last = variant
        return jnp.where(optimal > 0, davis_norman.optimal_action(state), jnp.stack([first, last])[None] / limit)

    moved = [(0, low + a * width, high + b * width) for a, b in MOVED_EDGES.values()]
    return run(davis_norman, policy, [(1, 0, 0), (0, low, high), *moved, (0, 0, 9)], seed=2, n_paths=N_PATHS)


def solve(drift, volatility, risk_aversion, cost, dt, discount, program=_BandProgram) -> tuple[float, float]:
    solved = program((drift - volatility**2 / 2) * dt, volatility * math.sqrt(dt), cost, risk_aversion, discount)
    merton = drift / (risk_aversion * volatility**2)
    half = (1.5 / risk_aversion * (merton * (1 - merton)) ** 2 * cost) ** (1 / 3)
    assert solved.solve(merton - half, merton + half, (1e-3, 3.0))
    return solved.low, solved.high


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_simulated_value_is_the_computed_one(name):
    davis_norman, outcome = problem(name), episodes(name)
    weights = (np.arange(20_000) + 0.5) / 20_000 * davis_norman.position_limit
    start = outcome.start[0] - np.mean(davis_norman._program.relative_value(weights))  # of mean 0
    mean, error = estimate(outcome.total[0] - start, outcome.luck[0])
    value = davis_norman.optimal_value()
    assert abs(mean - value) < 4 * error
    assert error < 0.0025 * abs(value)
    assert not outcome.terminated.any()


@pytest.mark.parametrize("name", MODELS)
def test_other_bands_are_worse(name):
    edges, *moved, never = differences(episodes(name))
    assert abs(edges[0]) < 4 * edges[1] + 1e-5
    for mean, error in (*moved, never):
        assert mean < -4 * error


@pytest.mark.parametrize("name", MODELS)
def test_the_tail_value_continues_the_optimum(name):
    """`E[sum_{t<n} discount^t r_t + discount^n V(w_n)] = V(w_0)`, V the value of so many bars that none is missing."""
    davis_norman, outcome = problem(name), episodes(name)
    weights = np.linspace(0, davis_norman.position_limit, 50)
    offset = davis_norman._program.values(weights, 2500) - davis_norman._program.relative_value(weights)
    np.testing.assert_allclose(offset, offset[0], atol=1e-6)
    mean, error = estimate(outcome.total[0] + outcome.tail[0] - outcome.start[0], outcome.luck[0])
    expected = (1 - davis_norman.discount**davis_norman.horizon) * offset[0]
    assert abs(mean - expected) < 4 * error
    assert error < 0.0025 * expected


@pytest.mark.parametrize("risk_aversion", [1.0, 3.0, 0.7])
def test_the_band_is_that_of_brute_force(risk_aversion):
    drift, volatility, cost, dt, discount = 0.05 * risk_aversion, 0.3, 0.02, 1 / 12, 0.95
    low, high = solve(drift, volatility, risk_aversion, cost, dt, discount)
    grid = np.linspace(max(low - 0.15, 0.01), high + 0.15, 161)
    node, weight = np.polynomial.hermite_e.hermegauss(11)
    weight = weight / weight.sum()
    simple = np.expm1((drift - volatility**2 / 2) * dt + volatility * math.sqrt(dt) * node)
    held, target = grid[:, None, None], grid[None, :, None]
    growth = 1 - cost * abs(target - held) + target * simple
    power = 1 - risk_aversion
    reward = np.log(growth) if power == 0 else (growth**power - 1) / power
    reward = reward @ weight
    position = np.clip((target * (1 + simple) / growth - grid[0]) / (grid[1] - grid[0]), 0, len(grid) - 1.000001)
    cell = position.astype(int)
    share = position - cell
    value = np.zeros(len(grid))
    for _ in range(140):
        later = value[cell] * (1 - share) + value[cell + 1] * share
        choices = reward + discount * (later @ weight)
        value = choices.max(axis=1)
    best = grid[choices.argmax(axis=1)]
    idle = grid[best == grid]
    resolution = 1.5 * (grid[1] - grid[0])
    assert idle[0] == pytest.approx(low, abs=resolution)
    assert idle[-1] == pytest.approx(high, abs=resolution)
    assert high - low > 20 * resolution


@pytest.mark.parametrize(
    ("drift", "cost"),
    [(0.03, 0.005), (0.03, 0.0005), (0.02, 0.002), (0.06, 0.002)],
)
def test_log_utility_tends_to_the_published_band(drift, cost):
    """Average growth and short bars, where the sum over bars is the utility of terminal wealth."""
    low, high = solve(drift, 0.2, 1.0, cost, 1 / 2000, 1.0)
    merton = drift / 0.2**2
    half = (0.75 * merton**2 * (1 - merton) ** 2 * 2 * cost) ** (1 / 3)
    assert (high - low) / 2 == pytest.approx(half, rel=0.05)
    assert (high + low) / 2 == pytest.approx(merton, abs=0.05 * half)


class _TerminalUtility(_BandProgram):
    """The same program under the measure of `W^(1 - a)`, which turns the sum over bars into terminal power utility."""

    tilted = False

    def _cover(self, first, last):
        self.tilted = False
        super()._cover(first, last)
        self.tilted = True

    def _outcomes(self, x, low, high):
        after, log_growth, weight = super()._outcomes(x, low, high)
        if self.tilted:
            weight = weight * np.exp(self.power * log_growth)
            weight = weight / weight.sum(axis=1, keepdims=True)
        return after, log_growth, weight


@pytest.mark.parametrize(
    ("drift", "volatility", "risk_aversion", "eps", "published"),
    [
        (0.08, 0.16, 5.0, 0.01, (0.5815, 0.6685)),
        (0.06, 0.20, 2.0, 0.01, (0.6991, 0.8009)),
        (0.06, 0.20, 2.0, 0.002, (0.7202, 0.7798)),
    ],
)
def test_terminal_utility_has_the_published_band(drift, volatility, risk_aversion, eps, published):
    model = (drift, volatility, risk_aversion, eps / 2, 1 / 2000, 1.0)
    width = published[1] - published[0]
    np.testing.assert_allclose(solve(*model, program=_TerminalUtility), published, atol=0.02 * width)
    low, high = solve(*model)
    assert high - low == pytest.approx(width, rel=0.06)
    assert low < published[0]
    assert high < published[1]


def test_without_cost_the_band_closes_on_merton():
    weight = Merton(drift=0.08, volatility=0.16, risk_aversion=5.0, dt=1 / 12, horizon=1, n_bars=N_BARS).weights[0]
    low, high = solve(0.08, 0.16, 5.0, 1e-6, 1 / 12, 0.99)
    assert low < weight < high
    assert high - low == pytest.approx(2e-6 / (5 * 0.16**2 / 12), rel=0.1)  # one bar's loss against the cost


def test_the_account_pays_and_drifts_as_the_model_says():
    davis_norman = problem("defaults")
    env, params = davis_norman.env, davis_norman.params
    _, state = env.reset_env(jax.random.key(0), params)
    price = np.asarray(params.market.close[:, 0], np.float64)
    weight = float(state.portfolio.shares[0] * price[int(state.bar)] / state.portfolio.equity)
    for target in (0.2, 0.7, 0.55):
        simple = price[int(state.bar) + 1] / price[int(state.bar)] - 1
        growth = 1 - 0.005 * abs(target - weight) + target * simple
        action = jnp.full((1, 2), target / davis_norman.position_limit)
        observation, state, reward, _, _ = env.step_env(None, state, action, params)
        weight = target * (1 + simple) / growth
        assert float(reward) == pytest.approx((growth**-4 - 1) / -4, abs=2e-6)
        assert float(observation.asset[0, 0]) == pytest.approx(weight / davis_norman.position_limit, rel=1e-5)


def test_the_environment_keeps_the_gymnax_contract():
    davis_norman = problem("defaults")
    env, params = davis_norman.env, davis_norman.params
    observation, states = jax.vmap(env.reset, (0, None))(jax.random.split(jax.random.key(0), 500), params)
    starts = np.asarray(observation.asset[:, 0, 0])
    assert starts.min() < 0.02
    assert starts.max() > 0.98
    actions = np.asarray(jax.vmap(davis_norman.optimal_action)(states))
    assert actions.shape == (500, 1, 2)
    (low, high), limit = davis_norman.band(), davis_norman.position_limit
    inside = (starts * limit > low) & (starts * limit < high)
    np.testing.assert_allclose(actions[inside, 0] * limit, np.broadcast_to([low, high], (inside.sum(), 2)), rtol=1e-6)
    nearest = np.clip(starts[~inside] * limit, low, high)
    assert np.all(np.abs(actions[~inside, 0] * limit - nearest[:, None]) < 0.003)
    _, state = env.reset(jax.random.key(1), params)
    for step in range(davis_norman.horizon):
        action = davis_norman.optimal_action(state)
        assert env.action_space(params).contains(action)
        _, state, _, terminated, truncated, _ = env.step(jax.random.key(step), state, action, params)
        assert not terminated
        assert bool(truncated) == (step == davis_norman.horizon - 1)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"drift": -0.1}, "drift"),
        ({"volatility": math.inf}, "volatility"),
        ({"risk_aversion": -1.0}, "risk_aversion"),
        ({"cost": 0.0}, "cost"),
        ({"cost": 1.0}, "cost"),
        ({"cost": 0.3, "discount": 0.9}, "cost"),
        ({"discount": 0.0}, "discount"),
        ({"dt": 0.0}, "dt"),
        ({"horizon": 0}, "horizon"),
        ({"n_bars": 50}, "n_bars"),
    ],
)
def test_bad_parameters_are_named(change, named):
    with pytest.raises(ValueError, match=f"^{named}.* must "):
        DavisNorman(**change)
