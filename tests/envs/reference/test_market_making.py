"""Cartea-Jaimungal and Avellaneda-Stoikov: value and optimality by simulation, published numbers, the contract."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_episodes import check_environment
from slowly import slow_after
from stationary_problem import gains, value_error

from jaxppo.envs.reference.environment import utility_increment
from jaxppo.envs.reference.market_making import AvellanedaStoikov, CarteaJaimungal, depth_of

# A volatile mid-price, wide steps with many orders, a tight limit.
CROWDED = {"volatility": 1.0, "arrival_rate": 45.0, "fill_decay": 4.0, "inventory_penalty": 0.3} | {
    "terminal_penalty": 0.2,
    "maturity": 0.5,
    "dt": 0.02,
    "inventory_limit": 3,
}
FREE = {"volatility": 0.0, "arrival_rate": 0.5, "fill_decay": 0.02, "inventory_penalty": 0.0} | {
    "terminal_penalty": 0.0,
    "maturity": 40.0,
    "dt": 1.0,
    "inventory_limit": 5,
}
CAUTIOUS = {"volatility": 0.5, "arrival_rate": 20.0, "fill_decay": 3.0, "risk_aversion": 1.5} | {
    "maturity": 2.0,
    "dt": 0.04,
    "inventory_limit": 6,
}
BOLD = {"volatility": 30.0, "arrival_rate": 0.4, "fill_decay": 0.05, "risk_aversion": 0.002} | {
    "maturity": 60.0,
    "dt": 1.5,
    "inventory_limit": 4,
}
SETS = [
    (CarteaJaimungal, {}),
    (CarteaJaimungal, CROWDED),
    (CarteaJaimungal, FREE),
    (AvellanedaStoikov, {}),
    (AvellanedaStoikov, CAUTIOUS),
    (AvellanedaStoikov, BOLD),
]
IDS = ["linear", "crowded", "free", "averse", "cautious", "bold"]
EACH = pytest.mark.parametrize("index", range(6), ids=IDS)
SOME = pytest.mark.parametrize("index", slow_after(2, range(6)), ids=IDS)


pytestmark = pytest.mark.slow


@functools.cache
def build(index):
    problem, chosen = SETS[index]
    return problem(**chosen)


@pytest.mark.slow
@EACH
def test_the_simulated_value_is_the_exact_one(index):
    error, deviation = value_error(build(index), jax.random.key(index), 40_000)
    assert abs(error) < 3.5 * deviation
    assert deviation < 0.005


def action_of(problem, depths):
    """`[..., 2]` actions that quote these depths."""
    return 1.0 - 2.0 / (1.0 + depths / problem.depth_scale)


def perturbed(problem):
    """Policy with a setting: scale and shift of the depths, multiple of the inventory that is seen, lag in time."""
    depths, limit = jnp.asarray(problem.depths, jnp.float32), problem.inventory_limit

    def act(state, setting):
        scale, shift, seen, lag = setting
        time = jnp.clip(state.time + lag.astype(jnp.int32), 0, problem.horizon - 1)
        inventory = jnp.clip(jnp.round(seen * state.inventory).astype(jnp.int32), -limit, limit)
        depth = scale * depths[time, :, inventory + limit] + shift * problem.depth_scale
        return action_of(problem, jnp.maximum(depth, 0.0))

    return act


@SOME
def test_no_perturbed_policy_is_better(index):
    problem = build(index)
    near = [(0.9, 0, 1, 0), (1.1, 0, 1, 0), (1, 0, 2, 0), (1, 0, 1, problem.horizon // 3)]
    clear = [(0.5, 0, 1, 0), (1, -0.5, 1, 0), (1, 0.5, 1, 0)] + [(1, 0, -1, 0)] * (index in (1, 5))
    values = gains(problem, perturbed(problem), [(1, 0, 1, 0), *near, *clear], jax.random.key(8), 6_000)
    assert np.all(values < 3.0), values
    assert np.all(values[len(near) :] < -3.0), values


@pytest.mark.parametrize("index", [0, 3, 4], ids=[IDS[i] for i in (0, 3, 4)])
def test_the_environment(index):
    check_environment(build(index), 2, 2 if index < 3 else 4, 3)


def test_published_depths_and_value_at_the_published_step():
    """In continuous time mbt_gym's example gives 6.3806 and 1.1957, 1.9397, 0.4214; the step of 0.01 adds 0.3 %."""
    problem = build(0)
    assert problem.optimal_gain == pytest.approx(6.3806, rel=0.004)
    assert problem.optimal_value() == pytest.approx(problem.reward_scale * problem.optimal_gain)
    np.testing.assert_allclose(problem.depths[0, :, 10], 1.1957, atol=0.015)
    np.testing.assert_allclose(problem.depths[0, :, 12], [1.9397, 0.4214], atol=0.02)
    _, state = problem.env.reset_env(jax.random.key(0), problem.params)
    action = problem.optimal_action(state.replace(inventory=jnp.asarray(2)))
    np.testing.assert_allclose(depth_of(action, problem.depth_scale), problem.depths[0, :, 12], rtol=1e-5)


@functools.cache
def published_accounts():
    """`(parameters, risk aversion) -> wealth, inventory, summed reward, mean spread` of the paper's quotes."""
    env = build(3).env

    def episode(key, params, aversion):
        _, state = env.reset_env(key, params)

        def one_step(state, step):
            risk = aversion * 4.0 * (1.0 - step / 200)
            half = risk / 2 + jnp.log1p(aversion / 1.5) / aversion
            depths = jnp.maximum(half + risk * jnp.array([1.0, -1.0]) * state.inventory, 0.0)
            key_step = jax.random.fold_in(key, step)
            action = 1.0 - 2.0 / (1.0 + depths / params.depth_scale)
            _, state, reward, _, _ = env.step_env(key_step, state, action, params)
            return state, (reward, jnp.sum(depths))

        state, (reward, spread) = jax.lax.scan(one_step, state, jnp.arange(200))
        return state.wealth, state.inventory, jnp.sum(reward), jnp.mean(spread)

    return jax.jit(jax.vmap(episode, in_axes=(0, None, None)))


@pytest.mark.parametrize(
    ("aversion", "spread", "profit", "deviation", "inventory", "percent"),
    [(0.1, 1.4918, 64.87, 6.69, 2.89, 96.3), (0.01, 1.3490, 68.75, 8.72, 5.10, 99.9)],
)
def test_the_published_approximation_earns_what_was_published(aversion, spread, profit, deviation, inventory, percent):
    """Reservation price and spread of the paper; figures of 1,000 paths in mbt_gym. The exact optimum is better."""
    problem = build(3) if aversion == 0.1 else AvellanedaStoikov(risk_aversion=aversion)
    keys = jax.random.split(jax.random.key(5), 10_000)
    outputs = published_accounts()(keys, problem.params, jnp.asarray(aversion))
    wealth, left, reward, spreads = (np.asarray(output, np.float64) for output in outputs)
    assert spreads.mean() == pytest.approx(spread, rel=0.01)
    assert abs(wealth.mean() - profit) < 3.0 * deviation / math.sqrt(1000)
    assert wealth.std() == pytest.approx(deviation, rel=3.0 / math.sqrt(2 * 1000))
    assert left.std() == pytest.approx(inventory, rel=3.0 / math.sqrt(2 * 1000))
    assert problem.percent_of_optimum(reward.mean()) == pytest.approx(percent, abs=0.5)
    equivalent = -math.log(np.mean(np.exp(-aversion * wealth))) / aversion
    assert problem.certainty_equivalent(reward.mean()) == pytest.approx(equivalent, rel=1e-3)
    best = problem.optimal_gain
    utility = best + (1 - np.exp(-aversion * (wealth - best))) / aversion
    size = problem.reward_scale * np.max(np.abs(utility))
    np.testing.assert_allclose(reward, problem.reward_scale * utility, atol=1e-4 * size)


def test_certainty_equivalents():
    problem = build(3)
    assert problem.certainty_equivalent(problem.optimal_value()) == pytest.approx(problem.optimal_gain)
    idle = problem.optimal_gain + (1 - math.exp(0.1 * problem.optimal_gain)) / 0.1
    assert problem.percent_of_optimum(problem.reward_scale * idle) == pytest.approx(0.0, abs=1e-9)
    assert problem.percent_of_optimum(problem.optimal_value()) == pytest.approx(100.0)
    with pytest.raises(ValueError, match="the bound of utility"):
        problem.certainty_equivalent(1e6)


def test_the_limit_of_no_risk_aversion_is_the_inventory_penalty():
    """Risk `a sigma^2 / 2` per squared unit and time acts like a running penalty while `a` is small."""
    shared = {"arrival_rate": 20.0, "fill_decay": 1.5, "maturity": 1.0, "dt": 0.02, "inventory_limit": 8}
    averse = AvellanedaStoikov(volatility=20.0, risk_aversion=1e-4, **shared)
    linear = CarteaJaimungal(volatility=20.0, inventory_penalty=0.02, terminal_penalty=0.0, **shared)
    assert averse.optimal_gain == pytest.approx(linear.optimal_gain, rel=1e-3)
    np.testing.assert_allclose(averse.depths[:, 1, 1:], linear.depths[:, 1, 1:], atol=2e-3)


def test_fills_follow_the_law_and_the_limit():
    problem = build(1)
    env, params, n = problem.env, problem.params, 100_000
    _, state = env.reset_env(jax.random.key(0), params)

    @jax.jit
    def inventories(inventory, action):
        keys = jax.random.split(jax.random.key(1), n)
        start = state.replace(inventory=jnp.asarray(inventory))
        _, after, _, _, info = jax.vmap(env.step_env, in_axes=(0, None, None, None))(keys, start, action, params)
        return after.inventory, info["market"]

    after, market = (np.asarray(output) for output in inventories(0, jnp.array([0.0, -0.6])))
    assert problem.depth_scale == 0.25
    bid, ask = (0.9 * math.exp(-4.0 * depth) for depth in (0.25, 0.25 * 0.4 / 1.6))
    for count, chance in ((-1, ask * (1 - bid)), (0, ask * bid + (1 - ask) * (1 - bid)), (1, bid * (1 - ask))):
        assert np.mean(after == count) == pytest.approx(chance, abs=4 * math.sqrt(chance / n))
    assert np.mean(market[:, 0] > 0) == pytest.approx(0.9, abs=0.005)
    assert np.mean(market[:, 1][market[:, 1] > 0]) == pytest.approx(1.0, abs=0.015)
    assert np.std(market[:, 2]) == pytest.approx(1.0, abs=0.015)
    assert inventories(3, -jnp.ones(2))[0].max() == 3
    assert inventories(-3, -jnp.ones(2))[0].min() == -3
    assert inventories(0, jnp.array([1.0, -1.0]))[0].max() == 0
    np.testing.assert_array_equal(inventories(2, -jnp.ones(2))[1], market)


def test_a_step_by_hand():
    """The account is marked at the mid-price after it moves, with the inventory after the fills."""
    problem = build(1)
    env, params = problem.env, problem.params
    _, state = env.reset_env(jax.random.key(0), params)
    state = state.replace(inventory=jnp.asarray(2), time=jnp.asarray(24))
    seen = set()
    for seed in range(20):
        _, after, reward, terminated, info = env.step_env(jax.random.key(seed), state, jnp.array([-0.9, -0.5]), params)
        reach, depths = np.asarray(info["market"][:2]) / 4.0, 0.25 * np.array([0.1 / 1.9, 0.5 / 1.5])
        filled = reach > depths
        inventory = 2 + int(filled[0]) - int(filled[1])
        gain = float(np.sum(filled * depths)) + inventory * math.sqrt(0.02) * float(info["market"][2])
        penalty = (0.3 * 0.02 + 0.2) * inventory**2
        assert int(after.inventory) == inventory
        assert float(after.wealth) == pytest.approx(gain, abs=1e-5)
        assert float(reward) == pytest.approx(problem.reward_scale * (gain - penalty), abs=1e-4)
        assert bool(terminated)
        seen.add(inventory)
    assert seen == {1, 2, 3}


def test_ruin_costs_a_finite_utility():
    value = utility_increment(jnp.array([-1e6, 0.0, 3.0]), jnp.array([-10.0, -1e6, 2.0]), -jnp.ones(3))
    assert np.all(np.isfinite(value))
    assert float(value[2]) == pytest.approx(math.exp(-3) - math.exp(-5), rel=1e-6)
    assert float(utility_increment(jnp.ones(()), jnp.array(0.25), jnp.zeros(()))) == 0.25


@pytest.mark.parametrize(
    ("problem", "name", "value"),
    [
        (CarteaJaimungal, "volatility", -0.1),
        (CarteaJaimungal, "arrival_rate", 101.0),
        (CarteaJaimungal, "arrival_rate", 0.0),
        (CarteaJaimungal, "fill_decay", 0.0),
        (CarteaJaimungal, "inventory_penalty", -1.0),
        (CarteaJaimungal, "terminal_penalty", float("nan")),
        (CarteaJaimungal, "maturity", 0.0),
        (CarteaJaimungal, "dt", 0.03),
        (CarteaJaimungal, "inventory_limit", 0),
        (CarteaJaimungal, "inventory_limit", 1.5),
        (AvellanedaStoikov, "volatility", 0.0),
        (AvellanedaStoikov, "arrival_rate", 201.0),
        (AvellanedaStoikov, "risk_aversion", 0.0),
        (AvellanedaStoikov, "risk_aversion", float("inf")),
        (AvellanedaStoikov, "volatility", 2000.0),
    ],
)
def test_bad_parameters_are_named(problem, name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}; it must "):
        problem(**{name: value})
