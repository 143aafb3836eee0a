"""Reward transforms: golden numbers, derivatives, quantiles, sums; state that ends with its episode."""

import dataclasses
import functools
import logging
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skfolio.measures
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxppo.config import validate_config
from jaxppo.envs.execution.costs import basic_costs
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.types import Outcome
from jaxppo.errors import ConfigError
from jaxppo.ppo import data_mesh, make_learner
from jaxppo.ppo.trading_task import trading_task
from jaxppo.risk import rewards
from jaxppo.run.transforms import make_rewards

MOODY = {"returns": (0.01, -0.005, 0.02, 0.0, -0.01), "eta": 0.1, "mean": 0.001, "square": 0.0004}
GOLDEN = (0.470513322, -0.317295119, 1.026202146, -0.087145139, -0.701264132)
ALL = {
    "log_return": rewards.log_return(),
    "differential_sharpe": rewards.differential_sharpe(volatility=0.01, periods=1.0),
    "differential_downside": rewards.differential_downside(volatility=0.01, periods=1.0),
    "drawdown_penalty": rewards.drawdown_penalty(0.5),
    "cvar_penalty": rewards.cvar_penalty(0.5, volatility=0.01, periods=1.0),
    "turnover_penalty": rewards.turnover_penalty(0.5),
    "holding_penalty": rewards.holding_penalty(0.5),
    "scale": rewards.scale(3.0),
    "clip": rewards.clip(0.01),
}


def outcome(returns, dtype=np.float32, **changes):
    """Bars with these simple returns `[n]`; the rest is 0 unless given."""
    returns = np.asarray(returns, np.float64)
    zero = np.zeros(returns.shape, dtype)
    fields = {field.name: zero for field in dataclasses.fields(Outcome)}
    fields["log_growth"] = np.log1p(returns)
    return Outcome(**{name: jnp.asarray(value, dtype) for name, value in {**fields, **changes}.items()})


def run(transform, bars, state=None, before=0.0):
    """Rewards `[n]` and the last state over bars."""
    state = transform.init() if state is None else state

    def one(state, bar):
        reward, state = transform.apply(state, jnp.asarray(before, bar.log_growth.dtype), bar)
        return state, reward

    state, found = jax.lax.scan(one, state, bars)
    return np.asarray(found), state


def in_double(state):
    return jax.tree.map(lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, state)


def moody(returns, eta, mean, square, downside=False):
    """D of Moody and Saffell as they write it, from raw moments A, B, and those moments at the end."""
    a, b, found = mean, square, []
    for r in returns:
        if downside:
            d = math.sqrt(b)
            found.append((r - a / 2) / d if r > 0 else (b * (r - a / 2) - a * r * r / 2) / d**3)
            b += eta * (min(r, 0.0) ** 2 - b)
        else:
            found.append((b * (r - a) - a * (r * r - b) / 2) / (b - a * a) ** 1.5)
            b += eta * (r * r - b)
        a += eta * (r - a)
    return np.array(found), a, b


def test_golden_numbers_of_the_differential_sharpe_ratio():
    """Constant rate 0.1, starting moments A = 0.001, B = 0.0004."""
    transform = rewards.differential_sharpe(0.1, warmup=10, volatility=0.02, periods=1.0, floor=1e-3)
    start = transform.init().replace(mean=jnp.float32(0.001), square=jnp.float32(0.0004 - 0.001**2))
    found, state = run(transform, outcome(MOODY["returns"]), start)
    expected, mean, square = moody(**MOODY)
    np.testing.assert_allclose(expected, GOLDEN, atol=5e-10)
    np.testing.assert_allclose(found, GOLDEN, rtol=2e-5)
    assert (mean, square) == (pytest.approx(0.00150209), pytest.approx(0.0002869795))
    assert float(state.mean) == pytest.approx(mean, rel=1e-5)
    assert float(state.square) == pytest.approx(square - mean**2, rel=1e-5)


@pytest.mark.parametrize("downside", [False, True])
@given(seed=st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_the_form_without_cancellation_is_that_of_the_paper(downside, seed):
    draws = np.random.default_rng(seed)
    returns = draws.standard_t(4, 60) * 0.01 + 0.0005
    eta, mean, spread = draws.uniform(0.01, 0.2), draws.normal(0.0, 0.002), draws.uniform(0.005, 0.03)
    make = rewards.differential_downside if downside else rewards.differential_sharpe
    transform = make(eta, warmup=1000, volatility=0.02, periods=1.0, floor=1e-6, clip=1e6)
    square = spread**2 + (0.0 if downside else mean**2)
    with jax.enable_x64(True):
        start = in_double(transform.init()).replace(mean=jnp.float64(mean), square=jnp.float64(spread**2))
        found, _ = run(transform, outcome(returns, np.float64), start)
    np.testing.assert_allclose(found, moody(returns, eta, mean, square, downside)[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("downside", [False, True])
def test_it_is_the_derivative_of_the_moving_ratio(downside):
    """dS / d eta at 0, by central differences in float64; and small steps add up to the change of S."""
    draws = np.random.default_rng(1)
    make = rewards.differential_downside if downside else rewards.differential_sharpe

    def ratio(a, b):
        return a / math.sqrt(b if downside else b - a * a)

    def moved(a, b, r, eta):
        return a + eta * (r - a), b + eta * ((min(r, 0.0) if downside else r) ** 2 - b)

    with jax.enable_x64(True):
        transform = make(1e-4, warmup=10**6, volatility=0.01, periods=1.0, floor=1e-6, clip=1e6)
        for r in draws.normal(0.0005, 0.01, 10):
            a, spread = draws.normal(0.0, 0.002), draws.uniform(0.005, 0.03)
            b = spread**2 + (0.0 if downside else a * a)
            start = in_double(transform.init()).replace(mean=jnp.float64(a), square=jnp.float64(spread**2))
            found, _ = run(transform, outcome([r], np.float64), start)
            h = 1e-5
            numeric = (ratio(*moved(a, b, r, h)) - ratio(*moved(a, b, r, -h))) / (2 * h)
            assert found[0] == pytest.approx(numeric, rel=1e-6, abs=1e-8)
        returns = draws.normal(0.001, 0.01, 4000)
        found, end = run(transform, outcome(returns, np.float64), in_double(transform.init()))
        assert float(end.bars) == 4000
        assert float(end.mean) > 0
        change = float(end.mean) / math.sqrt(float(end.square))
        assert 1e-4 * found.sum() == pytest.approx(change, rel=2e-3), "S is 0 at the start"


def test_the_start_counts_as_warm_up_bars_and_is_forgotten():
    """The mean after n bars is that of the start, `warmup` times, and of the n returns, until the rate is reached."""
    returns = np.random.default_rng(2).normal(0.002, 0.01, 30)
    _, state = run(rewards.differential_sharpe(0.001, warmup=20, volatility=0.01, periods=1.0), outcome(returns))
    # Steps of 1 / 20, 1 / 21, ...: the start has the weight 19 / 20 * 20 / 21 * ... = 19 / (19 + n).
    assert float(state.mean) == pytest.approx(returns.sum() / (19 + 30), rel=1e-4)
    first, _ = run(rewards.differential_sharpe(periods=1.0, volatility=0.01), outcome([0.01]))
    assert first[0] == pytest.approx(1.0, rel=1e-5), "one usual deviation"
    below, _ = run(rewards.differential_downside(periods=1.0, volatility=0.01), outcome([-0.01]))
    assert below[0] == pytest.approx(-(2.0**0.5), rel=1e-5)


def test_an_account_that_does_not_trade_is_defined():
    """Zeros for years, then a return: bounded by the clip; nothing is ever undefined, also after a total loss."""
    for make in (rewards.differential_sharpe, rewards.differential_downside):
        found, _ = run(make(), outcome([0.0] * 5000 + [0.01] + [-0.999] + [0.0, 0.01] * 20))
        assert np.isfinite(found).all()
        assert np.abs(found[:5000]).max() == 0.0
        assert found[5000] == pytest.approx(10.0), "a usual return of an account without any deviation is cut"
        assert np.abs(found).max() <= 10.0
    found, state = run(rewards.cvar_penalty(1.0), outcome([0.0] * 5000))
    assert np.isfinite(found).all()
    assert abs(found[-1]) < 1e-4, "no penalty of nothing"
    assert float(state.scale) < 1e-6


@pytest.mark.parametrize("name", ["normal", "student"])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_the_threshold_of_the_cvar_penalty_is_the_quantile(name, level):
    """Steps of 1 / n; the mean of the penalty is then the CVaR. Oracles: NumPy and skfolio."""
    draws = np.random.default_rng(3)
    returns = {"normal": draws.normal(0.0005, 0.01, 40_000), "student": 0.006 * draws.standard_t(4, 40_000)}[name]
    transform = rewards.cvar_penalty(1.0, level=level, rate=1e-6, volatility=0.02, periods=1.0)
    found, state = run(transform, outcome(returns))
    quantile = np.quantile(-returns, level)
    assert quantile == pytest.approx(skfolio.measures.value_at_risk(returns, beta=level), rel=0.01)
    assert float(state.quantile) == pytest.approx(quantile, rel=0.05)
    assert -found[10_000:].mean() == pytest.approx(skfolio.measures.cvar(returns[10_000:], beta=level), rel=0.03)


def test_the_threshold_follows_a_change():
    """At the default rate a market three times as wild is noticed, and a calm one again."""
    draws = np.random.default_rng(4)
    transform = rewards.cvar_penalty(1.0)
    _, calm = run(transform, outcome(draws.normal(0.0, 0.01, 2000)))
    _, wild = run(transform, outcome(draws.normal(0.0, 0.03, 2000)), calm)
    _, again = run(transform, outcome(draws.normal(0.0, 0.01, 2000)), wild)
    for state, usual in ((calm, 0.01), (wild, 0.03), (again, 0.01)):
        assert float(state.quantile) == pytest.approx(1.645 * usual, rel=0.4)


def test_moving_the_threshold_is_no_way_out():
    """Frozen anywhere, the mean penalty is at least that at the quantile: Rockafellar and Uryasev."""
    losses = np.random.default_rng(5).normal(0.0, 0.01, 20_000)
    at = {q: q + np.maximum(losses - q, 0.0).mean() / 0.05 for q in (0.0, 0.01, np.quantile(losses, 0.95), 0.025, 0.04)}
    transform, bars = rewards.cvar_penalty(1.0), outcome(-losses)
    for q, mean in at.items():
        start = transform.init().replace(quantile=jnp.float32(q))
        frozen = jax.vmap(lambda bar, start=start: transform.apply(start, jnp.zeros(()), bar)[0])(bars)
        assert -float(frozen.mean()) == pytest.approx(mean, rel=1e-3)
    assert min(at, key=at.get) == np.quantile(losses, 0.95)


@given(seed=st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_drawdown_penalties_add_up_to_every_fall(seed):
    """Over a monotone fall to its depth; over any path to the sum of the rises of the drawdown."""
    draws = np.random.default_rng(seed)
    equity = np.cumprod(np.r_[1.0, 1.0 + draws.normal(0.0, 0.02, 40)])
    depth = 1.0 - equity / np.maximum.accumulate(equity)
    bars = outcome(equity[1:] / equity[:-1] - 1.0, drawdown_before=depth[:-1], drawdown=depth[1:])
    found, _ = run(rewards.drawdown_penalty(0.5), bars)
    assert -found.sum() == pytest.approx(0.5 * np.maximum(np.diff(depth), 0.0).sum(), rel=1e-5, abs=1e-7)
    falling = np.cumprod(np.r_[1.0, 1.0 - draws.uniform(0.0, 0.05, 20)])
    bars = outcome(falling[1:] / falling[:-1] - 1.0, drawdown_before=1 - falling[:-1], drawdown=1 - falling[1:])
    assert -run(rewards.drawdown_penalty(2.0), bars)[0].sum() == pytest.approx(2.0 * (1 - falling[-1]), rel=1e-5)
    debt = outcome([-0.999], drawdown_before=[0.4], drawdown=[7.0])
    assert run(rewards.drawdown_penalty(1.0), debt)[0][0] == pytest.approx(-0.6), "no more than everything is lost"


def test_penalties_by_hand():
    bars = outcome([0.01], turnover=[0.3], leverage=[1.2])
    before = 0.005
    by_hand = {"log_return": math.log1p(0.01), "turnover_penalty": before - 0.15, "holding_penalty": before - 0.6}
    by_hand |= {"scale": 0.015, "drawdown_penalty": before, "clip": 0.005}
    for name, value in by_hand.items():
        assert run(ALL[name], bars, before=before)[0][0] == pytest.approx(value, rel=1e-5), name
    assert run(ALL["clip"], bars, before=-7.0)[0][0] == pytest.approx(-0.01)


def test_the_order_of_a_chain():
    """Penalties commute; what scales or cuts does so to what stands before it; nothing may be dropped."""
    bars = outcome([0.01, -0.02], turnover=[0.3, 0.1], leverage=[1.2, 0.7])
    a, b, c = rewards.turnover_penalty(0.2), rewards.holding_penalty(0.1), rewards.scale(10.0)
    one, other = (run(rewards.chain(rewards.log_return(), *order), bars)[0] for order in ((a, b), (b, a)))
    np.testing.assert_allclose(one, other, rtol=1e-6)
    inside, outside = (run(rewards.chain(rewards.log_return(), *order), bars)[0] for order in ((a, c), (c, a)))
    np.testing.assert_allclose(inside, 10 * (np.log1p([0.01, -0.02]) - 0.2 * np.array([0.3, 0.1])), rtol=1e-5)
    np.testing.assert_allclose(outside, 10 * np.log1p([0.01, -0.02]) - 0.2 * np.array([0.3, 0.1]), rtol=1e-5)
    with pytest.raises(ValueError, match="log_return replaces the reward and must come first, not after turnover"):
        rewards.chain(a, rewards.log_return())
    with pytest.raises(ValueError, match="chain replaces the reward"):
        rewards.chain(a, rewards.chain(rewards.differential_sharpe()))


@pytest.mark.parametrize("name", ALL)
def test_state_keeps_its_type_and_no_edge_is_undefined(name):
    """Shapes and dtypes of a state never change, or a training step would compile twice."""
    transform = ALL[name]
    extremes = {"drawdown_before": [0.0, 0.5, 1.0, 0.0], "drawdown": [0.9, 0.0, 5.0, 0.0], "turnover": [0.0, 9.0, 0, 0]}
    found, state = run(transform, outcome([-0.999, 50.0, 0.0, 1e-8], **extremes), before=0.1)
    assert np.isfinite(found).all()
    start = transform.init()
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(lambda x: (x.shape, x.dtype), start)
    assert not any(x.weak_type for x in jax.tree.leaves(start))


# In the environment and in training.


def environment(**options):
    settings = {"n_assets": 2, "observation": "index", "window": tiny.encoder_config().context, "groups": tiny.GROUPS}
    settings |= {"levels": (-1.0, -0.5, 0.0, 0.5, 1.0), "start": "flat", "normalisation_window": 10}
    return TradingEnv(**{**settings, **options})


SHAPED = rewards.chain(rewards.differential_sharpe(volatility=0.02, periods=1.0), rewards.cvar_penalty(0.1))


def test_an_episode_begins_with_a_fresh_state_through_gymnax():
    env = environment(rewards=SHAPED)
    params = env.make_params(tiny.market(), basic_costs(commission_bps=1.0), episode_bars=3)
    _, state = env.reset(jax.random.key(0), params)
    bars = []
    for i in range(7):
        action = jnp.asarray([1 + i % 2 * 4, 5 - i % 2 * 4])
        _, state, reward, _, _, info = env.step(jax.random.key(i + 1), state, action, params)
        sharpe, tail = state.rewards
        bars.append((int(sharpe.bars), int(tail.bars)))
        assert np.isfinite(float(reward))
        if bars[-1] == (0, 0):
            assert bool(info["truncated"])
            jax.tree.map(np.testing.assert_array_equal, state.rewards, SHAPED.init())
    assert bars == [(n, n) for n in (1, 2, 0, 1, 2, 0, 1)]


@functools.cache
def shaped_task():
    env = environment(rewards=SHAPED, start="random")
    return env, trading_task(tiny.policy()[0], env, tiny.PPO)


@jax.jit
def two_chunks(params, key):
    """Two rollouts in a row, and the paths after each."""
    task = shaped_task()[1]
    key_start, *key_act = jax.random.split(key, 3)
    states = task.start(params, jax.random.split(key_start, tiny.PPO.paths))
    out = []
    for each in key_act:
        keys = jax.random.split(each, tiny.PPO.paths)
        states, rollout = task.collect(tiny.policy()[1], params, states, keys, jnp.float32(0))
        out.append((states, rollout))
    return out


def test_rewards_of_a_rollout_are_those_of_its_outcomes_and_end_with_an_account():
    """The loop over bars in Python, which starts anew where an account ended, gives the rewards of both chunks."""
    env, _ = shaped_task()
    params = env.make_params(
        tiny.market(volatility=0.03),
        basic_costs(),
        episode_bars=2 * tiny.PPO.chunk,
        drawdown_limit=0.05,
    )
    chunks = two_chunks(params, jax.random.key(0))
    info = {
        field.name: np.concatenate([np.asarray(rollout.info[field.name]) for _, rollout in chunks], axis=1)
        for field in dataclasses.fields(Outcome)
        if field.name != "base_log_growth"  # there is no base
    }
    reward = np.concatenate([np.asarray(rollout.reward) for _, rollout in chunks], axis=1)
    ended = np.concatenate([np.asarray(rollout.terminated) for _, rollout in chunks], axis=1)
    assert ended[:, :-1].sum() > 5, "some accounts end on the way"
    apply = jax.jit(SHAPED.apply)
    for path, account in [(p, k) for p in range(8) for k in range(tiny.PPO.portfolios)]:
        state = SHAPED.init()
        for t in range(2 * tiny.PPO.chunk):
            bar = Outcome(**{name: jnp.asarray(values[path, t, account]) for name, values in info.items()})
            expected, state = apply(state, jnp.zeros(()), bar)
            assert reward[path, t, account] == pytest.approx(float(expected), rel=1e-4, abs=1e-5)
            state = SHAPED.init() if ended[path, t, account] else state
    (between, _), (after, last) = chunks
    assert int(between.rewards[0].bars.max()) == tiny.PPO.chunk, "a state goes on between chunks of an episode"
    assert int(after.rewards[0].bars.max()) == 0, "and ends with the episode"
    assert bool(last.truncated[:, -1].all())


def trained(transform, iterations, caplog):
    """Metrics of every iteration, none of which but the first compiles anything."""
    env = environment(rewards=transform, start="random")
    params = env.make_params(tiny.market(), basic_costs(), episode_bars=16)
    config = tiny.PPO.model_copy(update={"entropy_coefficient": 0.0})
    task = trading_task(tiny.policy()[0], env, config)
    learner = make_learner(task, config, data_mesh(jax.devices()[:1]))
    placed = learner.replicate(params)
    state, history = learner.init(tiny.policy()[1], 0, placed), []
    progress = jnp.float32(0)
    for iteration in range(iterations):
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.DEBUG):
            state, metrics = learner.iterate(state, placed, progress)
        compiled = [record for record in caplog.records if "Finished XLA compilation" in record.getMessage()]
        assert bool(compiled) == (iteration == 0)
        history.append(metrics)
    return tiny.stacked(history)


@pytest.mark.slow
def test_a_turnover_penalty_lowers_turnover_and_compiles_once(caplog):
    found = trained(rewards.chain(rewards.turnover_penalty(0.05)), 15, caplog)
    assert found["turnover"][-3:].mean() < 0.6 * found["turnover"][:3].mean()
    assert found["shaped_reward"][-1] > found["shaped_reward"][0]


@pytest.mark.slow
def test_the_others_train_and_compile_once(caplog):
    transform = rewards.chain(*(ALL[name] for name in ALL if name not in ("log_return", "differential_downside")))
    found = trained(transform, 3, caplog)
    assert all(np.isfinite(values).all() for values in found.values())
    assert "shaped_reward" in found


# From a configuration.


def test_every_kind_can_be_configured():
    """Volatilities are given per year; the chain is in the order of the list."""
    listed = ["differential_sharpe", "differential_downside", "log_return"]
    for first in listed:
        config = validate_config({"rewards": [first, {"clip": {"limit": 3}}], "training": {"steps": 1}})
        assert [part.name for part in make_rewards(config.rewards, 252.0).parts] == [first, "clip"]
    penalties = {"drawdown_penalty": 1, "cvar_penalty": 2, "turnover_penalty": 3, "holding_penalty": 4}
    tree = [{name: {"weight": weight}} for name, weight in penalties.items()] + [{"scale": {"factor": 2.0}}]
    config = validate_config({"rewards": tree, "training": {"steps": 1}})
    chain = make_rewards(config.rewards, 252.0)
    assert [part.name for part in chain.parts] == [*penalties, "scale"]
    assert float(chain.init()[1].quantile) == pytest.approx(1.6449 * 0.15 / 252**0.5, rel=1e-4)
    assert {item.kind for item in config.rewards} | {*listed, "clip"} == set(ALL), "no transform without a key"
    assert make_rewards((), 252.0) is None


@pytest.mark.parametrize(
    ("tree", "needle"),
    [
        (
            {"rewards": [{"turnover_penalty": {"weight": 1}}, "differential_sharpe"]},
            r"rewards\[1\].differential_sharpe",
        ),
        ({"rewards": ["log_return"], "env": {"risk_aversion": 2.0}}, "env.risk_aversion is 2, but rewards"),
        ({"rewards": ["log_return"], "env": {"name": "CartPole-v1"}}, "rewards shape the reward of trading"),
    ],
)
def test_what_would_do_nothing_is_refused(tree, needle):
    with pytest.raises(ConfigError, match=needle):
        validate_config({**tree, "training": {"steps": 1}})
