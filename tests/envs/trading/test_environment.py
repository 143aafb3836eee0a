"""The environment: gymnax's contract, what is seen, how actions are read, what is traced, and no look at the future."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from causality import assert_causal, randomise_after

from jaxppo.envs import simulators
from jaxppo.envs.execution.costs import basic_costs, make_costs
from jaxppo.envs.execution.fill_rule import FillRule
from jaxppo.envs.execution.limits import Constraint, no_limits
from jaxppo.envs.execution.portfolio import weights_of
from jaxppo.envs.market.market_data import MarketData, slice_bars
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.spaces import MultiDiscrete
from jaxppo.envs.trading.types import EnvParams, EnvState

N_BARS, N_ASSETS, WINDOW = 160, 2, 3
EPISODE = 10
LEVELS = (-1.0, 0.0, 0.5, 1.0)
SMALL = {"start": "flat", "groups": ("price",), "normalisation_window": 10, "window": WINDOW, "levels": LEVELS}


@functools.cache
def environment(**changes) -> TradingEnv:
    return TradingEnv(**{"n_assets": N_ASSETS, **SMALL, **changes})


@functools.cache
def market(seed: int = 0) -> MarketData:
    return simulators.gbm(jax.random.key(seed), N_BARS, N_ASSETS)


@functools.cache
def parameters(env: TradingEnv, seed: int = 0) -> EnvParams:
    """Costless."""
    return env.make_params(market(seed), basic_costs(spread_multiplier=0.0), episode_bars=EPISODE)


@functools.partial(jax.jit, static_argnums=0)
def reset(env: TradingEnv, key, params):
    return env.reset(key, params)


@functools.partial(jax.jit, static_argnums=0)
def step(env: TradingEnv, key, state, action, params):
    return env.step(key, state, action, params)


@functools.partial(jax.jit, static_argnums=0)
def step_env(env: TradingEnv, key, state, action, params):
    return env.step_env(key, state, action, params)


def begin(env: TradingEnv, seed: int = 0, params: EnvParams | None = None):
    params = parameters(env) if params is None else params
    return (*reset(env, jax.random.key(seed), params), params)


LONG = jnp.asarray([4, 4], jnp.int32)


# gymnax's contract.


def test_a_step_returns_gymnax_six_values():
    env = environment()
    observation, state, params = begin(env)
    size = WINDOW * N_ASSETS * 8 + 3 * N_ASSETS + 3
    assert observation.shape == env.observation_space(params).shape == (size,)
    result = step(env, jax.random.key(1), state, LONG, params)
    assert len(result) == 6
    observation, after, reward, terminated, truncated, info = result
    assert (observation.shape, observation.dtype) == ((size,), jnp.float32)
    assert isinstance(after, EnvState)
    assert (int(after.time), int(after.bar)) == (1, int(state.bar) + 1)
    assert (reward.shape, terminated.shape, truncated.shape) == ((), (), ())
    assert terminated.dtype == truncated.dtype == bool
    assert float(info["discount"]) == 1.0
    np.testing.assert_array_equal(info["final_observation"], observation)
    assert bool(info["terminated"]) == bool(terminated)


def test_an_episode_is_truncated_at_its_length_and_starts_again_elsewhere():
    env = environment()
    _, state, params = begin(env)
    for i in range(EPISODE):
        before = state
        observation, state, _, terminated, truncated, info = step(env, jax.random.key(100 + i), state, LONG, params)
        assert (bool(terminated), bool(truncated)) == (False, i == EPISODE - 1)
    final, last, *_ = step_env(env, jax.random.key(0), before, LONG, params)
    np.testing.assert_array_equal(info["final_observation"], final)
    assert int(last.time) == EPISODE
    assert int(state.time) == 0
    assert float(state.portfolio.equity) == float(params.initial_cash)
    assert np.all(state.portfolio.shares == 0)
    np.testing.assert_array_equal(observation, env.observe(jax.random.key(0), state, None, params))
    assert np.any(observation != final)


def test_the_last_bar_of_the_period_truncates_too():
    env = environment()
    _, state, params = begin(env, params=parameters(env).replace(first_bar=jnp.int32(N_BARS - 3)))
    assert int(state.bar) == N_BARS - 3
    *_, truncated, _ = step(env, jax.random.key(0), state, LONG, params)
    assert not truncated
    state = state.replace(bar=state.bar + 1)
    *_, terminated, truncated, _ = step(env, jax.random.key(0), state, LONG, params)
    assert (bool(terminated), bool(truncated)) == (False, True)


def test_a_liquidation_terminates_and_is_no_truncation():
    env = environment()
    _, state, params = begin(env)
    jump = jnp.where(jnp.arange(N_BARS) > state.bar + 1, 3.0, 1.0)[:, None]
    prices = {name: getattr(params.market, name) * jump for name in ("open", "high", "low", "close")}
    params = env.make_params(params.market.replace(**prices), basic_costs(), episode_bars=EPISODE)
    short = jnp.asarray([1, 1], jnp.int32)
    _, state, _, terminated, _, _ = step(env, jax.random.key(0), state, short, params)
    assert not terminated
    _, state, reward, terminated, truncated, info = step(env, jax.random.key(1), state, short, params)
    assert (bool(terminated), bool(truncated), float(info["discount"])) == (True, False, 0.0)
    assert float(reward) == pytest.approx(np.log(0.001), rel=1e-3)
    assert int(state.time) == 0
    assert float(state.portfolio.equity) == float(params.initial_cash)


def test_default_parameters_run():
    env = environment(n_assets=1)
    observation, state = reset(env, jax.random.key(0), env.default_params)
    assert env.observation_space().contains(observation)
    assert float(state.portfolio.equity) == 1e6


def test_the_spaces_describe_what_goes_in_and_comes_out():
    for changes in (
        {},
        {"actions": "continuous"},
        {"actions": "band"},
        {"actions": "hierarchical"},
        {"observation": "index"},
    ):
        env = environment(**changes)
        observation, state, params = begin(env)
        action = env.action_space(params).sample(jax.random.key(1))
        assert env.action_space(params).contains(action)
        assert env.observation_space(params).contains(observation)
        observation, _, reward, *_ = step(env, jax.random.key(2), state, action, params)
        assert env.observation_space(params).contains(observation)
        assert np.isfinite(reward)


def test_the_space_of_indexed_observations_names_every_field():
    for changes, n_masked in (({}, 5), ({"actions": "continuous"}, 2)):
        env = environment(observation="index", **changes)
        observation, _, params = begin(env)
        described = env.observation_space(params).spaces
        fields = vars(observation)
        assert set(described) == set(fields)
        for name, space in described.items():
            assert (space.shape, jnp.dtype(space.dtype)) == (fields[name].shape, fields[name].dtype), name
        assert described["mask"].shape == (N_ASSETS, n_masked)


def test_the_space_of_several_discrete_actions():
    space = MultiDiscrete((2, 5))
    drawn = np.asarray(jax.vmap(space.sample)(jax.random.split(jax.random.key(0), 200)))
    assert drawn.min() == 0
    assert drawn.max(axis=0).tolist() == [1, 4]
    assert space.contains(jnp.asarray([1, 4]))
    assert not space.contains(jnp.asarray([2, 0]))
    assert not space.contains(jnp.asarray([0, -1]))
    with pytest.raises(ValueError, match="counts >= 1"):
        MultiDiscrete(())


# Starts.


def test_starts_are_uniform_over_the_bars_that_leave_room_for_an_episode():
    env = environment()
    params = parameters(env)
    draw = jax.jit(jax.vmap(env.draw_start, in_axes=(0, None)))
    bars = np.asarray(draw(jax.random.split(jax.random.key(0), 20_000), params))
    first, last = int(params.first_bar), int(params.last_bar) - EPISODE
    assert first == env.first_decision
    counts = np.bincount(bars - first, minlength=last - first + 1)
    assert len(counts) == last - first + 1
    assert scipy.stats.chisquare(counts).pvalue > 1e-4
    short = params.replace(max_steps_in_episode=jnp.int32(10_000))
    assert np.all(np.asarray(draw(jax.random.split(jax.random.key(1), 50), short)) == first)


def test_random_starts_hold_positions_within_the_limits_and_only_in_tradable_assets():
    env = environment(start="random", position_limit=0.9)
    params = parameters(env)
    params = params.replace(market=params.market.replace(tradable=params.market.tradable.at[:, 1].set(False)))
    keys = jax.random.split(jax.random.key(0), 500)
    many = jax.jit(jax.vmap(env.reset, in_axes=(0, None)))
    _, states = many(keys, params)
    weight = np.asarray(states.portfolio.shares * states.portfolio.price / states.portfolio.equity[:, None])
    assert np.all(weight[:, 1] == 0)
    assert -0.9 <= weight[:, 0].min() < -0.8
    assert 0.8 < weight[:, 0].max() <= 0.9
    keys = jax.random.split(jax.random.key(1), 500)
    both = many(keys, parameters(env))[1].portfolio
    assert float(jnp.max(jnp.sum(jnp.abs(both.shares * both.price), axis=1) / both.equity)) < 1.0 + 1e-6


# What is seen.


def test_a_window_is_its_rows_of_the_feature_table_then_the_portfolio():
    env = environment()
    _, state, params = begin(env)
    observation, state, *_ = step(env, jax.random.key(3), state, jnp.asarray([4, 3], jnp.int32), params)
    bar = int(state.bar)
    rows = np.asarray(params.features)[bar - WINDOW + 1 : bar + 1]
    np.testing.assert_array_equal(observation[: rows.size], rows.ravel())
    account = state.portfolio
    weight = np.asarray(account.shares * account.price) / float(account.equity) / env.position_limit
    assert weight == pytest.approx([1.0, 0.5], abs=0.05)
    asset = np.asarray(observation[rows.size : rows.size + 3 * N_ASSETS]).reshape(N_ASSETS, 3)
    np.testing.assert_allclose(asset[:, 0], weight, rtol=1e-5)
    np.testing.assert_array_equal(asset[:, 1:], [[0, 1], [0, 1]])
    lost = 1 - float(account.equity) / float(account.peak_equity)
    np.testing.assert_allclose(observation[-3:], [weight.mean(), weight.mean(), lost], rtol=1e-5, atol=1e-6)


def test_an_indexed_observation_says_the_same_as_a_window():
    windowed, indexed = environment(), environment(observation="index")
    _, state, params = begin(windowed)
    mixed = jnp.asarray([1, 3], jnp.int32)
    for seed in range(3):
        flat, after, *_ = step(windowed, jax.random.key(seed), state, mixed, params)
        seen, state, *_ = step(indexed, jax.random.key(seed), state, mixed, params)
        jax.tree.map(np.testing.assert_array_equal, state, after)
        own = jnp.concatenate([seen.asset.ravel(), seen.account])
        np.testing.assert_array_equal(flat[-own.size :], own)
        assert int(seen.bar) == int(state.bar)
        assert seen.mask.all()


def test_orders_on_their_way_are_seen():
    env = environment(observation="index", fill_rule=FillRule(latency_bars=2))
    params = env.make_params(market(), basic_costs(spread_multiplier=0.0), episode_bars=EPISODE)
    _, state, _ = begin(env, params=params)
    seen, state, *_ = step(env, jax.random.key(0), state, jnp.asarray([4, 0], jnp.int32), params)
    assert np.asarray(seen.asset[:, 0]).tolist() == [0, 0]
    assert np.asarray(seen.asset[:, 1]) == pytest.approx([1.0, 0.0], abs=0.05)
    seen, *_ = step(env, jax.random.key(0), state, jnp.zeros(2, jnp.int32), params)
    assert np.asarray(seen.asset[:, 0]) == pytest.approx([1.0, 0.0], abs=0.05)
    assert np.asarray(seen.asset[:, 1]).tolist() == [0, 0]


def test_an_asset_without_a_bar_can_only_be_held():
    env = environment(observation="index")
    params = parameters(env)
    halted = params.market.tradable.at[:, 0].set(False)
    seen, *_ = begin(env, params=params.replace(market=params.market.replace(tradable=halted)))
    assert np.asarray(seen.mask).tolist() == [[True] + [False] * 4, [True] * 5]
    assert np.asarray(seen.asset[:, 2]).tolist() == [0, 1]


def test_the_mask_in_the_info_is_that_of_the_next_decision_after_a_reset_too():
    env = environment()
    _, state, params = begin(env)
    ends = state.bar + EPISODE
    market_ = params.market.replace(tradable=params.market.tradable.at[ends, 1].set(False))
    params = params.replace(market=market_)
    state = state.replace(bar=ends - 1, time=jnp.int32(EPISODE - 1))
    *_, info = step_env(env, jax.random.key(5), state, LONG, params)
    assert not info["action_mask"][1, 1:].any()
    _, fresh, _, _, truncated, info = step(env, jax.random.key(5), state, LONG, params)
    assert truncated
    assert int(fresh.bar) != int(ends)
    assert info["action_mask"].all()


# How actions are read and paid.


def test_discrete_actions_are_hold_then_one_per_level():
    env = environment(position_limit=0.4)
    flat = begin(env)[1].portfolio
    weights, hold = env.decode(jnp.asarray([0, 1], jnp.int32), flat)
    assert (weights.tolist(), hold.tolist()) == ([0.0, pytest.approx(-0.4)], [True, False])
    weights, hold = env.decode(jnp.asarray([2, 3], jnp.int32), flat)
    assert (weights.tolist(), hold.tolist()) == ([0.0, pytest.approx(0.2)], [False, False])
    single = environment(n_assets=1)
    weights, hold = single.decode(jnp.int32(4), flat)
    assert (weights.tolist(), hold.tolist(), single.num_actions) == ([1.0], [False], 5)


def test_continuous_actions_are_weights_within_the_levels():
    env = environment(actions="continuous", levels=(-0.5, 1.0))
    weights, hold = env.decode(jnp.asarray([-3.0, 0.8]), begin(env)[1].portfolio)
    assert weights.tolist() == pytest.approx([-0.25, 0.4])
    assert not hold.any()
    space = env.action_space()
    assert (space.low, space.high, space.shape, env.num_actions) == (-0.5, 1.0, (2,), 2)


def test_masks_do_not_lift_the_levels():
    """Beyond them only what is held may stay; a band holds what the masks leave of a position."""
    free = no_limits(2)
    for actions, action, expected in (
        ("continuous", [5.0, -5.0], [0.5, -0.3]),
        ("band", [[3.0, 4.0], [-5.0, -4.0]], [0.5, -0.3]),
        ("band", [[0.0, 0.7], [-0.8, 0.0]], [0.2, -0.3]),
    ):
        env = environment(actions=actions, levels=(-0.5, 1.0))
        constraint = Constraint(free, jnp.asarray([0.2, -0.3]), jnp.ones(2, bool), jnp.int32(0))
        weights, hold = env.decode(jnp.asarray(action), begin(env)[1].portfolio, constraint)
        np.testing.assert_allclose(weights, expected, rtol=1e-6)
        assert hold.tolist() == [actions == "band" and held == w for held, w in zip([0.2, -0.3], expected, strict=True)]


def test_band_actions_trade_to_the_nearest_edge_or_not_at_all():
    """Positions of 10 % and -30 %, half of it on order: edges in either order, flat or per asset, beyond the levels."""
    env = environment(actions="band", levels=(-0.5, 1.0), position_limit=1.0)
    account = begin(env)[1].portfolio
    share = account.equity / account.price
    account = account.replace(shares=jnp.array([0.1, -0.15]) * share, unfilled=jnp.array([0.0, -0.15]) * share)
    for edges, target, held in (
        ([[0.0, 0.2], [-0.4, 0.0]], [0.1, -0.3], [True, True]),
        ([[0.2, 0.5], [0.0, -0.2]], [0.2, -0.2], [False, False]),
        ([[-0.2, 0.05], [-3.0, -0.4]], [0.05, -0.4], [False, False]),
        ([[0.3, 0.3], [2.0, -2.0]], [0.3, -0.3], [False, True]),
    ):
        for action in (jnp.asarray(edges), jnp.asarray(edges).ravel(), jnp.asarray(edges)[:, ::-1]):
            weights, hold = env.decode(action, account)
            np.testing.assert_allclose(weights, target, rtol=1e-5)
            assert hold.tolist() == held
    space = env.action_space()
    assert (space.low, space.high, space.shape, env.num_actions) == (-0.5, 1.0, (2, 2), 4)


def test_hierarchical_actions_are_a_bucket_then_levels_within_it():
    """Positions of 10 % and -30 %, half of it on order, at most 40 % each: risk off, at most 20 %, and all."""
    settings = {"actions": "hierarchical", "levels": (-1.0, 0.0, 0.5, 1.0), "position_limit": 0.4}
    env = environment(**settings, gross_buckets=(0.5, 1.0))
    account = begin(env)[1].portfolio
    share = account.equity / account.price
    account = account.replace(shares=jnp.array([0.1, -0.15]) * share, unfilled=jnp.array([0.0, -0.15]) * share)
    for action, target, held in (
        ([0, 0, 0], [0.0, 0.0], [False, False]),
        ([0, 4, 1], [0.0, 0.0], [False, False]),
        ([1, 0, 0], [0.1, -0.2], [False, False]),
        ([1, 4, 1], [0.2, -0.2], [False, False]),
        ([2, 0, 0], [0.1, -0.3], [True, True]),
        ([2, 3, 2], [0.2, 0.0], [False, False]),
    ):
        weights, hold = env.decode(jnp.asarray(action, jnp.int32), account)
        np.testing.assert_allclose(weights, target, rtol=1e-5)
        assert hold.tolist() == held
    mask = np.asarray(env.action_mask(jnp.asarray([True, False])))
    assert mask.shape == (2, 3, 5)
    assert mask[0].tolist() == [[True] + [False] * 4, [True] * 5, [True] * 5]
    assert mask[1].tolist() == [[True] + [False] * 4] * 3
    assert env.action_space().categories == (3, 5, 5)
    # Half the time in each of the last two buckets, and there half long and half holding.
    chances = jnp.zeros((2, 3, 5)).at[:, 1:, 0].set(0.25).at[:, 1:, 4].set(0.25)
    mean, hold = env.expected_target(chances, account)
    np.testing.assert_allclose(mean, [0.25 * (0.1 + 0.2 + 0.1 + 0.4), 0.25 * (-0.2 + 0.2 - 0.3 + 0.4)], rtol=1e-5)
    assert not hold.any()
    assert env.expected_target(jnp.zeros((2, 3, 5)).at[:, 2, 0].set(1.0), account)[1].all()


def test_risk_off_closes_what_can_be_closed():
    """The second asset has no bar at the decision: it stays; the first one is sold, or cut to its bucket."""
    env = environment(actions="hierarchical", levels=(-1.0, 0.0, 1.0), position_limit=0.5, gross_buckets=(0.5, 1.0))
    _, state, params = begin(env)
    _, state, *_ = step(env, jax.random.key(0), state, jnp.asarray([2, 3, 3], jnp.int32), params)
    assert np.asarray(weights_of(state.portfolio)) == pytest.approx([0.5, 0.5], abs=0.02)
    halted = params.market.tradable.at[state.bar, 1].set(False)
    params = params.replace(market=params.market.replace(tradable=halted))
    _, half, *_ = step(env, jax.random.key(0), state, jnp.asarray([1, 0, 0], jnp.int32), params)
    assert np.asarray(weights_of(half.portfolio)) == pytest.approx([0.25, 0.5], abs=0.02)
    _, off, *_ = step(env, jax.random.key(0), state, jnp.asarray([0, 0, 0], jnp.int32), params)
    assert np.asarray(off.portfolio.shares[0]) == 0.0
    assert np.asarray(off.portfolio.shares[1]) == np.asarray(state.portfolio.shares[1])


def test_the_reward_is_the_log_return_of_an_account_filled_at_the_next_open():
    """Half of the money goes into the first asset, the other half stays cash."""
    env = environment()
    _, state, params = begin(env)
    open_, close = (np.asarray(x, np.float64)[:, 0] for x in (params.market.open, params.market.close))
    t = int(state.bar)
    _, state, reward, *_ = step(env, jax.random.key(0), state, jnp.asarray([4, 0], jnp.int32), params)
    first = 1 + 0.5 * (close[t + 1] - open_[t + 1]) / close[t]
    assert float(reward) == pytest.approx(np.log(first), rel=1e-4)
    _, state, reward, *_ = step(env, jax.random.key(0), state, jnp.zeros(2, jnp.int32), params)
    second = first + 0.5 * (close[t + 2] - close[t + 1]) / close[t]
    assert float(reward) == pytest.approx(np.log(second / first), rel=1e-4)
    assert float(state.portfolio.equity) == pytest.approx(1e6 * second, rel=1e-6)


def test_holding_keeps_the_shares():
    env = environment()
    _, state, params = begin(env)
    _, state, *_ = step(env, jax.random.key(0), state, jnp.asarray([4, 1], jnp.int32), params)
    _, after, *_ = step(env, jax.random.key(0), state, jnp.zeros(2, jnp.int32), params)
    np.testing.assert_array_equal(after.portfolio.shares, state.portfolio.shares)


# What is traced.


def test_other_costs_markets_and_periods_do_not_recompile():
    env = environment()
    run = jax.jit(env.step)
    _, state, params = begin(env)
    other = env.make_params(market(9), basic_costs(commission_bps=7.0, impact=0.3), episode_bars=3, first_bar=90)
    rewards = [float(run(jax.random.key(0), state, LONG, p)[2]) for p in (params, other, params)]
    assert run._cache_size() == 1
    assert rewards[0] == rewards[2] != rewards[1]


def test_costs_can_be_mapped_over():
    env = environment()
    _, state, params = begin(env)
    bps = jnp.asarray([0.0, 10.0, 100.0])
    costs = jax.vmap(lambda b: params.costs.replace(commission_rate=b / 1e4))(bps)
    axes = jax.tree.map(lambda _: None, params).replace(costs=jax.tree.map(lambda _: 0, costs))
    many = jax.jit(jax.vmap(env.step, in_axes=(None, None, None, axes)))
    equity = many(jax.random.key(0), state, LONG, params.replace(costs=costs))[1].portfolio.equity
    lost = np.asarray(equity[0] - equity)
    traded = np.sum(params.market.open[state.bar + 1] / params.market.close[state.bar]) * 0.5e6
    np.testing.assert_allclose(lost, traded * np.asarray(bps) / 1e4, rtol=1e-3)


# The future.


@functools.cache
def history_of(latency: int):
    """A function of a market: what an agent with fixed actions sees and earns, filed under the bar it knows it at."""
    env = environment(start="random", fill_rule=FillRule(latency_bars=latency))
    first, n_steps = env.first_decision, N_BARS - 1 - env.first_decision
    actions = jax.random.randint(jax.random.key(1), (n_steps, N_ASSETS), 0, env.num_actions)

    @jax.jit
    def run(params: EnvParams):
        observation, state = env.reset_env(jax.random.key(0), params)

        def one(state, action):
            observation, state, reward, terminated, info = env.step_env(jax.random.key(0), state, action, params)
            return state, (observation, reward, terminated, info)

        _, (observations, *rest) = jax.lax.scan(one, state, actions)
        observations = jnp.concatenate([observation[None], observations])
        pad = lambda x, n: jnp.pad(x, ((n, 0),) + ((0, 0),) * (x.ndim - 1))  # noqa: E731
        return pad(observations, first), *jax.tree.map(lambda x: pad(x, first + 1), rest)

    costs = make_costs(
        commission_bps=2.0, slippage=0.05, impact=0.5, participation_limit=0.05, borrow_rate=0.02, margin_rate=0.05
    )
    return env, lambda prices: run(env.make_params(prices, costs, episode_bars=n_steps))


@pytest.mark.parametrize("latency", [1, 2])
def test_nothing_seen_or_earned_by_bar_t_depends_on_later_bars(latency):
    env, history = history_of(latency)
    assert_causal(history, market(), env.first_decision + 30, jax.random.key(2))


def test_a_planted_leak_is_caught():
    env, _ = history_of(1)

    def leaking(prices: MarketData):
        table = env.make_params(prices).features
        return jnp.concatenate([table[1:], table[-1:]])

    with pytest.raises(AssertionError, match="looks ahead"):
        assert_causal(leaking, market(), env.first_decision + 30, jax.random.key(2))


def test_the_start_of_an_episode_does_not_depend_on_the_prices():
    env = environment(start="random")
    other = env.make_params(randomise_after(market(), 40, jax.random.key(8)), episode_bars=EPISODE)
    bars = [int(reset(env, jax.random.key(4), params)[1].bar) for params in (parameters(env), other)]
    assert bars[0] == bars[1]


# Mistakes.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"actions": "both"},
            "actions is 'both'; allowed: one of discrete, continuous, band, hierarchical",
        ),
        ({"observation": "image"}, "observation is 'image'; allowed: one of window, index"),
        ({"start": "long"}, "start is 'long'; allowed: one of flat, random"),
        ({"n_assets": 0}, "n_assets is 0; allowed: whole number in [1, 1048576]"),
        ({"window": 0}, "window is 0; allowed: whole number in [1, 1048576]"),
        ({"levels": ()}, "levels is (); allowed: non-empty list of number"),
        ({"levels": (1.0, 0.0)}, "levels (1.0, 0.0) must be increasing"),
        ({"levels": (0.0, 0.0)}, "levels (0.0, 0.0) must be increasing, distinct"),
        ({"levels": (0.0, 1.5)}, "levels (0.0, 1.5) must be increasing, distinct and within [-1, 1]"),
        ({"levels": (float("nan"),)}, "levels (nan,) must be increasing, distinct and within [-1, 1]"),
        ({"position_limit": 0.0}, "position_limit is 0.0; allowed: number in [0.0001, 1000] or None"),
        ({"groups": ("prices",)}, "groups is ('prices',); allowed: non-empty list of price, trend, volume"),
        ({"normalisation_window": 1}, "normalisation_window is 1; allowed: whole number in [2, 1048576]"),
        ({"actions": "continuous", "levels": (1.0,)}, "levels (1.0,) must span a range for continuous actions"),
        ({"actions": "band", "levels": (1.0,)}, "levels (1.0,) must span a range for band actions"),
        ({"actions": "hierarchical", "levels": (0.5, 1.0)}, "levels (0.5, 1.0) must hold 0 and another for hier"),
        ({"actions": "hierarchical", "levels": (0.0,)}, "levels (0.0,) must"),
        ({"gross_buckets": ()}, "gross_buckets is (); allowed: non-empty list of number"),
        ({"gross_buckets": (1.0, 0.5)}, "gross_buckets (1.0, 0.5) must be increasing"),
        ({"gross_buckets": (0.0, 0.5)}, "gross_buckets (0.0, 0.5) must be increasing, distinct and within (0, 1]"),
    ],
)
def test_a_wrong_argument_is_named_in_one_line(changes, message):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        TradingEnv(**{"n_assets": N_ASSETS, **SMALL, **changes})
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"first_bar": 10}, "first_bar is 10; features and window need"),
        ({"last_bar": N_BARS}, f"must hold a step and end before bar {N_BARS}"),
        ({"first_bar": 100, "last_bar": 100}, "the period [100, 100] must hold a step"),
        ({"episode_bars": 0}, "episode_bars is 0; allowed: whole number in [1,"),
        ({"initial_cash": 0.0}, "initial_cash is 0.0; allowed: number in [0.0001,"),
        ({"initial_cash": float("nan")}, "initial_cash is nan; allowed: number in [0.0001,"),
    ],
)
def test_wrong_parameters_are_named_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        environment().make_params(market(), **arguments)
    assert message in str(error.value)


def test_a_market_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="the market has 1 assets, the environment 2"):
        environment().make_params(market().replace(close=market().close[:, :1]))
    with pytest.raises(ValueError, match=r"the period \[\d+, 39\] must hold a step"):
        environment().make_params(slice_bars(market(), 0, 40))


@pytest.mark.parametrize("actions", ["discrete", "continuous", "band", "hierarchical"])
def test_no_action_orders_an_asset_that_has_no_price_yet(actions):
    """Prices before a listing are placeholders: sized at 1, a share of 100 would be a hundredfold position."""
    env = environment(actions=actions, position_limit=0.5)
    listing = env.first_decision + 5
    listed = jnp.arange(N_BARS)[:, None] >= jnp.array([[0, listing]])
    prices = {name: jnp.where(listed, getattr(market(), name), 1.0) for name in ("open", "high", "low", "close")}
    ragged = market().replace(tradable=listed, **prices)
    params = env.make_params(ragged, basic_costs(spread_multiplier=0.0), first_bar=env.first_decision, episode_bars=50)
    params = params.replace(last_bar=params.first_bar + 50)
    _, state, _ = begin(env, params=params)
    most = jnp.ones(env.num_actions)
    if actions in ("discrete", "hierarchical"):
        most = jnp.asarray(env.action_space().categories) - 1
    while int(state.bar) < listing + 3:
        before = int(state.bar)
        _, state, _, terminated, info = step_env(env, jax.random.key(0), state, most, params)
        assert not terminated
        gross = float(jnp.sum(jnp.abs(state.portfolio.shares) * state.portfolio.price)) / float(info["equity"])
        assert gross < 1.1
        assert (float(state.portfolio.shares[1]) > 0) == (before >= listing)


def test_a_policy_that_nearly_holds_leaves_its_working_orders_alone():
    """The mean target of holding with probability p tends to holding as p tends to 1, orders on the way included."""
    env = environment()
    _, state, _ = begin(env)
    working = jnp.array([3000.0, 0.0])
    portfolio = state.portfolio.replace(shares=jnp.array([100.0, 50.0]), unfilled=working)
    nearly = jnp.zeros((N_ASSETS, env.num_actions)).at[:, 0].set(1 - 1e-6).at[:, 2].set(1e-6)
    weights, hold = env.expected_target(nearly, portfolio)
    expected = (portfolio.shares + working) * portfolio.price / portfolio.equity
    assert not hold.any()
    np.testing.assert_allclose(weights, expected, rtol=1e-4, atol=1e-6)


def test_risk_aversion_and_the_drawdown_limit_of_an_episode():
    env = environment()
    params = env.make_params(market(), basic_costs(), risk_aversion=3.0, drawdown_limit=0.1)
    growth = jnp.log(jnp.array([0.9, 1.0, 1.2]))
    np.testing.assert_allclose(
        env.utility(growth, params.risk_aversion), (np.array([0.9, 1.0, 1.2]) ** -2 - 1) / -2, rtol=1e-5
    )
    log_utility = params.replace(risk_aversion=jnp.float32(1.0))
    np.testing.assert_array_equal(env.utility(growth, log_utility.risk_aversion), growth)
    _, state, _ = begin(env, params=params)
    for peak, ended in ((1.05, False), (1.5, True)):
        high = state.replace(portfolio=state.portfolio.replace(peak_equity=state.portfolio.equity * peak))
        _, _, _, terminated, info = step_env(env, jax.random.key(0), high, jnp.zeros(N_ASSETS, jnp.int32), params)
        assert (bool(terminated), float(info["discount"])) == (ended, 0.0 if ended else 1.0)
        assert bool(env.is_terminated(high, params)) == ended
    for name, value in (("risk_aversion", -1.0), ("drawdown_limit", 1.0)):
        with pytest.raises(ValueError, match=f"{name} is {value}"):
            env.make_params(market(), **{name: value})


def test_without_costs_of_its_own_an_environment_charges_all_of_them():
    env = environment()
    params = env.make_params(market(), episode_bars=EPISODE)
    for price in ("commission_rate", "spread_multiplier", "slippage", "impact", "borrow_rate", "margin_rate"):
        assert float(getattr(params.costs, price)) > 0, price
    assert float(params.costs.participation_limit) == pytest.approx(0.1)
    _, state = reset(env, jax.random.key(0), params)
    dear = step_env(env, jax.random.key(1), state, LONG, params)[-1]["costs"]
    cheap = step_env(env, jax.random.key(1), state, LONG, params.replace(costs=basic_costs()))[-1]["costs"]
    assert float(dear) > float(cheap) > 0
