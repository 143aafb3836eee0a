"""The training iteration: one device or four, compiled once, aligned books, and problems with a known answer."""

import functools
import logging
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
import tiny
from jax.sharding import PartitionSpec

from jaxppo.envs.market.market_data import MarketInfo
from jaxppo.envs.market.packing import pack, unpack
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.policy.encoding import encode_paths
from jaxppo.policy.networks import Bars
from jaxppo.policy.rollout import DATA_AXIS
from jaxppo.ppo.learner import data_mesh, make_learner, shuffle_groups
from jaxppo.ppo.targets import make_targets, no_statistics
from jaxppo.ppo.trading_task import trading_task
from jaxppo.ppo.update import (
    Batch,
    Coefficients,
    Objective,
    loss_and_gradient,
    over_devices,
    ppo_loss,
    shuffled_minibatches,
)

UP = math.log(1.01)


COEFFICIENTS = Coefficients(jnp.float32(0), jnp.float32(tiny.PPO.entropy_coefficient), jnp.float32(0))


@functools.cache
def batch() -> Batch:
    """A rollout of the first policy and targets that differ from its values."""
    _, _, rollout = tiny.roll_out(tiny.policy()[1], tiny.shared_params(), jax.random.key(7))
    on_one_device = jax.vmap(lambda r: make_targets(r, tiny.PPO, no_statistics())[0], axis_name=DATA_AXIS)
    targets = on_one_device(jax.tree.map(lambda x: x[None], rollout))
    return Batch(rollout, jax.tree.map(lambda x: x[0], targets))


@functools.cache
def moved_parameters():
    """Parameters a little away from those that made the rollout, so that ratios are not one."""
    net = tiny.policy()[1]
    noise = np.random.default_rng(0)
    return jax.tree.map(lambda x: x + jnp.asarray(noise.normal(0, 0.03, x.shape), x.dtype), net)


@functools.cache
def gradient_on(n_devices: int, micro_batch: int | None):
    """Gradient and metrics of the whole rollout as one minibatch."""
    config = tiny.PPO.model_copy(update={"micro_batch": micro_batch})
    whole, split = PartitionSpec(), PartitionSpec(DATA_AXIS)

    def found(net, params, batch):
        objective = Objective(tiny.task(), params, COEFFICIENTS, config)
        gradient, metrics, own = loss_and_gradient(pack(net), batch, objective)
        return unpack(gradient), metrics | over_devices(own)

    compute = jax.shard_map(
        found,
        mesh=data_mesh(jax.devices()[:n_devices]),
        in_specs=(whole, whole, split),
        out_specs=(whole, whole),
    )
    return jax.tree.map(np.asarray, jax.jit(compute)(moved_parameters(), tiny.shared_params(), batch()))


@pytest.mark.parametrize(
    ("n_devices", "micro_batch"),
    [(4, None), *(pytest.param(*each, marks=pytest.mark.slow) for each in ((2, 2), (1, 4)))],
)
def test_the_gradient_does_not_depend_on_devices_or_micro_batches(n_devices, micro_batch):
    gradient, metrics = gradient_on(n_devices, micro_batch)
    expected, expected_metrics = gradient_on(1, None)
    assert tiny.relative_distance(gradient, expected) < 1e-5
    for name, value in expected_metrics.items():
        assert metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_the_gradient_is_that_of_the_textbook_loss():
    """Written once more with rlax's surrogate, probabilities instead of log-probabilities, and one sample at a time."""
    policy, config = tiny.policy()[0], tiny.PPO
    rollout, targets, seen = batch().rollout, batch().targets, batch().rollout.inputs

    @jax.jit
    def textbook(net):
        prepared = encode_paths(policy, net, tiny.shared_params(), seen.bar, config.chunk, None)
        distribution, value = policy.act(net, prepared[:, :, None], seen.portfolio)
        allowed = jnp.exp(distribution.logits) * seen.portfolio.mask
        probability = allowed / allowed.sum(axis=-1, keepdims=True)
        chosen = jnp.take_along_axis(probability, rollout.action[..., None], axis=-1)[..., 0].prod(axis=-1)
        ratio = chosen / jnp.exp(rollout.log_prob)
        actor = rlax.clipped_surrogate_pg_loss(ratio.ravel(), targets.advantage.ravel(), config.clip)
        critic = 0.5 * jnp.mean((value - targets.value) ** 2)
        surprise = jnp.where(probability > 0, -jnp.log(jnp.where(probability > 0, probability, 1.0)), 0.0)
        entropy = jnp.sum(probability * surprise, axis=(-2, -1)).mean()
        return actor + config.value_coefficient * critic - config.entropy_coefficient * entropy

    assert tiny.relative_distance(gradient_on(1, None)[0], jax.jit(jax.grad(textbook))(moved_parameters())) < 1e-4


def test_before_the_first_step_every_importance_ratio_is_one():
    """The update reads chunks of S bars, the rollout read S + 1: the log-ratio is round-off."""

    @functools.partial(jax.vmap, axis_name=DATA_AXIS)
    def worst(batch: Batch):
        rollout = batch.rollout
        distribution, value = tiny.task().predict(tiny.policy()[1], tiny.shared_params(), rollout)
        objective = Objective(tiny.task(), tiny.shared_params(), COEFFICIENTS, tiny.PPO)
        _, metrics = ppo_loss(tiny.policy()[1], batch, objective)
        drift = jnp.abs(distribution.log_prob(rollout.action) - rollout.log_prob).max()
        return drift, jnp.abs(value - rollout.value).max(), metrics

    drift, value_drift, metrics = jax.jit(worst)(jax.tree.map(lambda x: x[None], batch()))
    assert float(drift[0]) < 1e-5
    assert float(value_drift[0]) < 1e-5
    assert abs(float(metrics["kl"][0])) < 1e-6
    assert float(metrics["clip_fraction"][0]) == 0
    assert float(metrics["policy_loss"][0]) == pytest.approx(0, abs=1e-5)


def test_every_path_is_in_one_minibatch_of_an_epoch_whatever_the_number_of_devices():
    n_groups, group_size, n_minibatches = 8, 4, 2
    key = jax.random.key(5)
    expected = None
    for n_devices in (1, 2, 4, 8):
        local = n_groups // n_devices
        parts = []
        for device in range(n_devices):
            groups = device * local + jnp.arange(local)
            within = shuffled_minibatches(jax.random.clone(key), groups, group_size, n_minibatches)
            parts.append(np.asarray(within) + device * local * group_size)
        members = [frozenset(row.tolist()) for row in np.concatenate(parts, axis=1)]
        assert sorted(path for row in members for path in row) == list(range(n_groups * group_size))
        assert all(len(row) == n_groups * group_size // n_minibatches for row in members)
        expected = members if expected is None else expected
        assert members == expected
    other = shuffled_minibatches(jax.random.key(6), jnp.arange(n_groups), group_size, n_minibatches)
    assert frozenset(np.asarray(other)[0].tolist()) != expected[0]


@functools.cache
def curve(n_devices: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Metrics and final parameters of five iterations."""
    state, history = tiny.train(tiny.shared_params(), 5, seed=seed, n_devices=n_devices)
    return {**history, "parameters": jax.tree.map(np.asarray, state.params)}


@pytest.mark.slow
@pytest.mark.parametrize("n_devices", [2, 4])
def test_the_learning_curve_is_that_of_one_device(n_devices):
    many, one = curve(n_devices), curve(1)
    for name in ("loss", "reward", "turnover", "entropy", "value_loss", "gradient_norm", "liquidations", "reward_std"):
        np.testing.assert_allclose(many[name], one[name], rtol=1e-3, atol=1e-6, err_msg=name)
    assert tiny.relative_distance(many["parameters"], one["parameters"]) < 1e-3
    assert tiny.relative_distance(one["parameters"], tiny.policy()[1]) > 1e-2


def test_the_same_seed_repeats_a_run_to_the_bit_and_another_does_not():
    again = tiny.train(tiny.shared_params(), 5)
    jax.tree.map(np.testing.assert_array_equal, again[0].params, curve(1)["parameters"])
    np.testing.assert_array_equal(again[1]["reward"], curve(1)["reward"])
    assert np.all(curve(1, seed=1)["reward"] != curve(1)["reward"])


def compilations(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if "Finished XLA compilation" in record.getMessage()]


def test_nothing_is_compiled_again_for_later_iterations_or_other_data_of_the_same_shape(caplog):
    state, params = tiny.start(tiny.shared_params())
    state, _ = tiny.learner(1).iterate(state, params, jnp.float32(0))
    days = np.arange(tiny.N_BARS).astype("datetime64[D]").astype("datetime64[ns]")
    info = MarketInfo(("AAA", "BBB"), days, {"rows": 1})
    other = tiny.env_params(tiny.market(5, drift=0.01).replace(info=info), commission_bps=3.0, impact=0.5)
    other = tiny.learner(1).replicate(other.replace(first_bar=other.first_bar + 9, last_bar=other.last_bar - 20))
    progress = jnp.float32(0.3)
    with jax.log_compiles(), caplog.at_level(logging.DEBUG):
        jax.jit(lambda x: x * 1.25 + 3.0)(jnp.ones(3))
        assert compilations(caplog)
        caplog.clear()
        for data in (params, other, params):
            state, _ = tiny.learner(1).iterate(state, data, progress)
        assert compilations(caplog) == []


def test_the_train_state_is_donated_and_the_first_parameters_are_not():
    state, params = tiny.start(tiny.shared_params())
    new, _ = tiny.learner(1).iterate(state, params, jnp.float32(0))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((new, params, tiny.policy()[1])))


def test_no_decision_and_no_reward_depends_on_later_bars():
    """The same paths through two markets that part after bar t: what was known by then is equal."""
    t = 160
    before, other = tiny.market(), tiny.market(9, volatility=0.03)
    parted = jax.tree.map(
        lambda a, b: jnp.concatenate([a[: t + 1], b[t + 1 :]]) if a.shape[0] == tiny.N_BARS else a, before, other
    )
    (_, _, one), (_, _, two) = (
        jax.tree.map(np.asarray, tiny.roll_out(tiny.policy()[1], tiny.env_params(prices), jax.random.key(2)))
        for prices in (before, parted)
    )
    bar = one.inputs.portfolio.bar
    np.testing.assert_array_equal(bar, two.inputs.portfolio.bar)
    known = bar <= t
    assert 0.1 < known.mean() < 0.9
    for name in ("action", "log_prob", "value"):
        np.testing.assert_array_equal(getattr(one, name)[known], getattr(two, name)[known], err_msg=name)
        assert np.any(getattr(one, name)[~known] != getattr(two, name)[~known])
    paid = bar + 1 <= t
    np.testing.assert_array_equal(one.reward[paid], two.reward[paid])
    assert np.mean(one.reward[~paid] != two.reward[~paid]) > 0.9


def test_a_memory_is_that_of_the_bars_up_to_its_own():
    """The rows that `encode_paths` cuts out of the feature table: bar t and the `context - 1` before it."""
    (policy, net), params = tiny.policy(), tiny.shared_params()
    encode = jax.jit(policy.encode)
    bars = np.array([100, 137, 204])
    memory = jax.jit(lambda b: encode_paths(policy, net, params, b, 2, None))(jnp.asarray(bars))
    for offset in range(2):
        rows = (bars + offset)[:, None] + np.arange(-policy.context + 1, 1)
        bars_of = Bars(params.features[rows], params.listed[rows], params.market.seconds_since_previous[rows])
        expected = encode(net, bars_of)
        np.testing.assert_allclose(memory[:, offset], expected[:, 0], rtol=1e-4, atol=1e-5)


def jumping_market():
    """Prices go up fivefold and back by turns, every other bar: that liquidates whoever is short."""
    calm = tiny.market(3, volatility=0.001)
    level = jnp.where((jnp.arange(tiny.N_BARS) // 2) % 2 == 1, 5.0, 1.0)[:, None]
    return calm.replace(**{name: getattr(calm, name) * level for name in ("open", "high", "low", "close")})


def test_a_liquidated_portfolio_restarts_flat_in_place():
    params = tiny.env_params(jumping_market(), max_leverage=2.0)
    before, after, rollout = jax.tree.map(np.asarray, tiny.roll_out(tiny.policy()[1], params, jax.random.key(1)))
    gone = rollout.terminated
    assert 0.02 < gone.mean() < 0.5
    assert gone[:, :-1].any(axis=2).sum() > (gone[:, :-1].all(axis=2)).sum()
    bars = before.bar[:, None, None] + np.arange(tiny.PPO.chunk)[:, None]
    seen = rollout.inputs.portfolio
    np.testing.assert_array_equal(seen.bar, np.broadcast_to(bars, seen.bar.shape))
    going_on = after.time > 0
    assert going_on.all()
    np.testing.assert_array_equal(after.bar, before.bar + tiny.PPO.chunk)
    restarted, going = seen.account[:, 1:][gone[:, :-1]], seen.account[:, 1:][~gone[:, :-1]]
    assert np.all(restarted == 0)
    assert np.all(seen.asset[:, 1:][gone[:, :-1]][..., :2] == 0)
    assert np.mean(going[:, 0] > 0) > 0.9
    log_equity = np.zeros(gone.shape[::2])
    for s in range(tiny.PPO.chunk):
        log_equity = np.where(gone[:, s], 0.0, log_equity + rollout.reward[:, s])
    cash = float(params.initial_cash)
    np.testing.assert_allclose(after.portfolio.equity, cash * np.exp(log_equity), rtol=1e-4)


def test_a_truncation_hits_all_portfolios_of_a_path_and_the_next_chunk_starts_elsewhere():
    state, params = tiny.start(tiny.shared_params())
    starts = np.asarray(state.paths.bar)
    cash = float(params.initial_cash)
    assert len(np.unique(starts)) > 3
    state, _ = tiny.learner(1).iterate(state, params, jnp.float32(0))
    np.testing.assert_array_equal(state.paths.bar, starts + tiny.PPO.chunk)
    np.testing.assert_array_equal(state.paths.time, np.full(tiny.PPO.paths, tiny.PPO.chunk))
    assert np.all(np.asarray(state.paths.portfolio.equity) != cash)
    state, _ = tiny.learner(1).iterate(state, params, jnp.float32(0))
    np.testing.assert_array_equal(state.paths.time, np.zeros(tiny.PPO.paths))
    np.testing.assert_array_equal(state.paths.portfolio.equity, np.full((tiny.PPO.paths, tiny.PPO.portfolios), cash))
    fresh = np.asarray(state.paths.bar)
    assert np.mean(fresh != starts + 2 * tiny.PPO.chunk) > 0.8
    assert np.all((fresh >= params.first_bar) & (fresh + 2 * tiny.PPO.chunk <= params.last_bar))
    close = np.asarray(params.market.close)[fresh]
    np.testing.assert_allclose(state.paths.portfolio.price, close[:, None].repeat(tiny.PPO.portfolios, axis=1))


def test_a_batch_that_cannot_be_split_is_refused():
    config = tiny.PPO.model_copy(update={"paths": 12})
    with pytest.raises(ValueError, match="= 6 must be a multiple of 4 to be split over 4 devices"):
        shuffle_groups(config, 4)
    wrong = tiny.PPO.model_copy(update={"micro_batch": 3})
    with pytest.raises(ValueError, match="micro_batch 3 must divide the 8 paths"):
        make_learner(tiny.task(), wrong, data_mesh(jax.devices()[:1]))
    larger = tiny.PPO.model_copy(update={"micro_batch": 12})  # than a minibatch of 8, but no divisor of all 16 paths
    with pytest.raises(ValueError, match="micro_batch 12 must divide the 16 paths of a device"):
        make_learner(tiny.task(), larger, data_mesh(jax.devices()[:1]))
    with pytest.raises(ValueError, match="window 2 is shorter than the policy's context of 4 bars"):
        trading_task(tiny.policy()[0], TradingEnv(n_assets=2, observation="index", window=2), tiny.PPO)
    with pytest.raises(ValueError, match="hindsight_critic is True, the policy was built with the opposite"):
        trading_task(tiny.policy()[0], tiny.env(), tiny.PPO.model_copy(update={"hindsight_critic": True}))


# Problems with a known answer.


@functools.cache
def trained_on_a_rise():
    """Market, train state and history of an agent where prices rise by 1 % in every bar; it stops in mid-episode."""
    params = tiny.env_params(tiny.market(drift=UP, volatility=0.0, half_spread=0.0))
    return params, *tiny.train(params, 151)


def test_in_a_market_that_only_rises_the_agent_learns_to_be_fully_long():
    _, _, history = trained_on_a_rise()
    assert abs(history["reward"][0]) < 0.2 * UP
    assert history["reward"][-5:].mean() > 0.97 * UP
    assert history["reward"].max() < 1.001 * UP


def test_once_every_bar_pays_the_same_the_value_is_the_sum_of_its_discounts():
    """`r / (1 - gamma)`, `r = 100 log 1.01`: the ends of episodes, which are truncations, must not show."""
    params, state, _ = trained_on_a_rise()

    @jax.jit
    def value_of(net):
        policy = tiny.policy()[0]
        prepared = encode_paths(policy, net, params, state.paths.bar, 1, None)
        see = jax.vmap(jax.vmap(tiny.env().observe_portfolio, in_axes=(None, 0, None)))
        seen = see(state.paths.bar, state.paths.portfolio, params.market.tradable[state.paths.bar])
        return policy.act(net, prepared, seen)[1]

    expected = tiny.PPO.reward_scale * UP / (1 - tiny.PPO.gamma)
    value = np.asarray(value_of(state.params))
    assert value.mean() == pytest.approx(expected, rel=0.03)
    np.testing.assert_allclose(value, expected, rtol=0.06)


def test_where_trading_costs_more_than_any_price_moves_the_agent_learns_to_leave_its_money_alone():
    params = tiny.env_params(tiny.market(volatility=1e-5), commission_bps=100.0)
    _, history = tiny.train(params, 60)
    assert history["turnover"][-5:].mean() < 0.1 * history["turnover"][0]
