"""Advantages, value targets and their scale: against rlax, numpy, and a value that the critic must reach."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxppo.policy.networks.actor_critic import ActorCritic
from jaxppo.policy.rollout import DATA_AXIS, Rollout
from jaxppo.ppo.targets import ValueStatistics, leave_one_out, make_targets, no_statistics, preserve_outputs

PATHS, LENGTH, PORTFOLIOS = 8, 6, 3
PLAIN = tiny.PPO.model_copy(update={"control_variate": False, "reward_scale": 7.0})


def random_rollout(seed: int = 1) -> Rollout:
    """Rewards that differ between paths, values, terminations and truncations; the rest is not read."""
    rng = np.random.default_rng(seed)
    shape = (PATHS, LENGTH, PORTFOLIOS)
    terminated = rng.random(shape) < 0.15
    truncated = (rng.random(shape) < 0.15) & ~terminated
    value = rng.normal(size=(PATHS, LENGTH + 1, PORTFOLIOS))
    after = np.where(terminated | truncated, rng.normal(size=shape), value[:, 1:])
    reward = rng.normal(size=shape) + rng.normal(size=(PATHS, LENGTH, 1)) + np.arange(PATHS)[:, None, None] / 10
    unread = dict.fromkeys(("inputs", "hindsight", "action", "behaviour", "log_prob", "info"))
    return Rollout(
        reward=jnp.asarray(reward, jnp.float32),
        terminated=jnp.asarray(terminated),
        truncated=jnp.asarray(truncated),
        value=jnp.asarray(value[:, :-1], jnp.float32),
        value_after=jnp.asarray(after, jnp.float32),
        **unread,
    )


def targets_of(config, rollout: Rollout, before: ValueStatistics | None = None, n_devices: int = 1):
    """`make_targets` with the paths spread over devices: targets of all paths, and what the first device says."""
    before = no_statistics() if before is None else before
    split = jax.tree.map(lambda x: x.reshape(n_devices, -1, *x.shape[1:]), rollout)
    targets, *rest = _compiled(config)(split, before)
    joined = jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), targets)
    return joined, *jax.tree.map(lambda x: np.asarray(x[0]), tuple(rest))


@functools.cache
def _compiled(config):
    each = jax.vmap(lambda rollout, before: make_targets(rollout, config, before), (0, None), axis_name=DATA_AXIS)
    return jax.jit(each)


def by_rlax(rollout: Rollout, estimate) -> np.ndarray:
    """`estimate(rewards, discounts, values)` of every episode of every portfolio alone, `[P, S, K]`."""
    out = np.zeros((PATHS, LENGTH, PORTFOLIOS))
    ended = np.asarray(rollout.terminated | rollout.truncated)
    for path, portfolio in np.ndindex(PATHS, PORTFOLIOS):
        own = jax.tree.map(lambda x, p=path, k=portfolio: np.asarray(x[p, :, k]), rollout)
        stops = sorted({*(np.flatnonzero(ended[path, :, portfolio]) + 1).tolist(), LENGTH})
        for start, stop in zip([0, *stops[:-1]], stops, strict=True):
            values = np.append(own.value[start:stop], own.value_after[stop - 1])
            discount = np.where(own.terminated[start:stop], 0.0, PLAIN.gamma).astype(np.float32)
            reward = np.float32(PLAIN.reward_scale) * own.reward[start:stop]
            out[path, start:stop, portfolio] = estimate(reward, discount, values)
    return out


_gae = jax.jit(rlax.truncated_generalized_advantage_estimation)
_lambda = jax.jit(rlax.lambda_returns)
_n_step = jax.jit(rlax.n_step_bootstrapped_returns, static_argnums=3)


def normalised(x: np.ndarray) -> np.ndarray:
    return (x - x.mean()) / x.std()


@pytest.mark.parametrize("n_devices", [1, 4])
def test_targets_are_those_of_rlax_and_normalised_over_all_devices(n_devices):
    rollout = random_rollout()
    targets, statistics, metrics = targets_of(PLAIN, rollout, n_devices=n_devices)
    expected = by_rlax(rollout, lambda r, g, v: _gae(r, g, PLAIN.gae_lambda, v))
    returns = expected + np.asarray(rollout.value)
    np.testing.assert_allclose(targets.value, returns, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(targets.advantage, normalised(expected), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(targets.old_value, rollout.value)
    assert float(statistics.weight) == 0
    assert float(metrics["advantage_std"]) == pytest.approx(expected.std(), rel=1e-4)
    assert float(metrics["value_target"]) == pytest.approx(returns.mean(), rel=1e-4)
    explained = 1 - np.mean(expected**2) / returns.var()
    assert float(metrics["explained_variance"]) == pytest.approx(explained, abs=1e-4)
    assert float(metrics["control_variate_ratio"]) == pytest.approx(1.0)


@pytest.mark.parametrize("n_steps", [1, 3, 50])
@pytest.mark.parametrize(("advantage_n_step", "target_n_step", "target_lambda"), [(0.25, 0.0, 0.5), (1.0, 0.7, None)])
def test_mixtures_of_the_configuration(n_steps, advantage_n_step, target_n_step, target_lambda):
    changes = {
        "n_steps": n_steps,
        "advantage_n_step": advantage_n_step,
        "target_n_step": target_n_step,
        "target_lambda": target_lambda,
    }
    rollout = random_rollout(2)
    targets, _, _ = targets_of(PLAIN.model_copy(update=changes), rollout)
    gae = by_rlax(rollout, lambda r, g, v: _gae(r, g, PLAIN.gae_lambda, v))
    n_step = by_rlax(rollout, lambda r, g, v: _n_step(r, g, v[1:], n_steps))
    trace = PLAIN.gae_lambda if target_lambda is None else target_lambda
    lambda_return = by_rlax(rollout, lambda r, g, v: _lambda(r, g, v[1:], trace))
    value = np.asarray(rollout.value)
    advantage = (1 - advantage_n_step) * gae + advantage_n_step * (n_step - value)
    returns = (1 - target_n_step) * lambda_return + target_n_step * n_step
    np.testing.assert_allclose(targets.advantage, normalised(advantage), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(targets.value, returns, rtol=1e-4, atol=1e-4)


def test_the_control_variate_subtracts_the_mean_of_the_others():
    rollout = random_rollout(3)
    config = PLAIN.model_copy(update={"control_variate": True})
    targets, _, metrics = targets_of(config, rollout)
    gae = by_rlax(rollout, lambda r, g, v: _gae(r, g, PLAIN.gae_lambda, v))
    expected = np.zeros_like(gae)
    for k in range(PORTFOLIOS):
        others = [j for j in range(PORTFOLIOS) if j != k]
        expected[..., k] = gae[..., k] - gae[..., others].mean(axis=-1)
    np.testing.assert_allclose(leave_one_out(jnp.asarray(gae, jnp.float32)), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(targets.advantage, normalised(expected), rtol=1e-4, atol=1e-4)
    assert float(metrics["control_variate_ratio"]) == pytest.approx(expected.var() / gae.var(), rel=1e-4)
    np.testing.assert_allclose(targets.value, gae + np.asarray(rollout.value), rtol=1e-4, atol=1e-4)


def test_one_portfolio_has_no_control_variate():
    advantage = jnp.arange(6.0).reshape(3, 2, 1)
    np.testing.assert_array_equal(leave_one_out(advantage), advantage)


# The scale of values.


def included(batches: list[np.ndarray], rate: float, n_devices: int = 1) -> ValueStatistics:
    """The statistics of several batches, one after the other, each spread over devices."""
    statistics = no_statistics()
    for batch in batches:
        split = jnp.asarray(batch, jnp.float32).reshape(n_devices, -1)
        spread = jax.vmap(lambda b, s=statistics: s.include(b, rate), axis_name=DATA_AXIS)(split)
        statistics = jax.tree.map(lambda x: x[0], spread)
    return statistics


@pytest.mark.parametrize("n_devices", [1, 4])
@pytest.mark.parametrize("rate", [0.05, 0.3, 1.0])
def test_statistics_are_exponentially_weighted_moments(rate, n_devices):
    rng = np.random.default_rng(0)
    batches = [rng.normal(3.0 * i, 1.0 + i, 40) for i in range(5)]
    found = included(batches, rate, n_devices)
    samples = np.concatenate(batches)
    weights = np.repeat((1 - rate) ** np.arange(4, -1, -1), 40)
    mean = np.average(samples, weights=weights)
    assert float(found.mean) == pytest.approx(mean, rel=1e-5)
    assert float(found.spread) == pytest.approx(np.average((samples - mean) ** 2, weights=weights) ** 0.5, rel=1e-4)


@pytest.mark.parametrize("mean", [1e3, 1e6, -1e7])
def test_a_spread_far_smaller_than_the_mean_is_not_lost(mean):
    """A sum of squares has seven digits in float32; these spreads are below the eighth of it."""
    noise = np.random.default_rng(1).normal(size=(5, 400))
    batches = [mean + 1e-4 * abs(mean) * x for x in noise]
    found = included(batches, 0.3)
    assert float(found.mean) == pytest.approx(mean, rel=1e-4)
    assert float(found.spread) == pytest.approx(1e-4 * abs(mean), rel=0.1)


def test_before_the_first_targets_values_are_what_the_network_says_and_equal_targets_have_a_small_spread():
    first = no_statistics()
    assert (float(first.mean), float(first.spread)) == (0.0, 1.0)
    np.testing.assert_array_equal(first.denormalise(jnp.arange(3.0)), np.arange(3.0))
    assert 0 < float(included([np.zeros(8)], 0.1).spread) < 1e-3


moments = st.tuples(st.floats(-1e4, 1e4), st.floats(0.1, 1e3))


def statistics_of(mean: float, spread: float) -> ValueStatistics:
    return ValueStatistics(*(jnp.float32(x) for x in (mean, spread**2, 0.5)))


@settings(max_examples=25, deadline=None)
@given(moments, moments, st.integers(0, 2**31 - 1))
def test_a_rescaled_last_layer_says_the_same_values(one, two, seed):
    """Of the trading policy, in values of the market: `mean + spread * network`."""
    before, after = statistics_of(*one), statistics_of(*two)
    net, rescaled = tiny.policy()[1], _rescale(tiny.policy()[1], before, after)
    others = [path for path, _ in jax.tree.leaves_with_path(net) if _names(path)[:2] != tiny.policy()[0].value_layer]
    old, new = dict(jax.tree.leaves_with_path(net)), dict(jax.tree.leaves_with_path(rescaled))
    assert old.keys() == new.keys()
    assert len(others) == len(old) - 2
    for path in others:
        np.testing.assert_array_equal(new[path], old[path])
    value = before.denormalise(_values(net, seed))
    scale = max(abs(one[0]), abs(two[0]), one[1], two[1])
    np.testing.assert_allclose(after.denormalise(_values(rescaled, seed)), value, atol=3e-6 * scale, rtol=1e-5)


_rescale = jax.jit(lambda net, before, after: preserve_outputs(net, tiny.policy()[0].value_layer, before, after))


def _names(path) -> tuple[str, ...]:
    return tuple(entry.key for entry in path)


@jax.jit
def _head_values(net, prepared, seen):
    policy: ActorCritic = tiny.policy()[0]
    return policy.act(net, prepared, seen)[1]


def _values(net, seed: int) -> jax.Array:
    """Values of five random memories and portfolios."""
    prepared = np.random.default_rng(seed).normal(size=(5, tiny.N_ASSETS, 2 * tiny.encoder_config().width))
    return _head_values(net, jnp.asarray(prepared, jnp.float32), tiny.observation(seed, 5))


def test_targets_are_in_the_units_of_the_statistics_that_come_back():
    """Rollout values are read in the old units, everything is compared in the new ones."""
    config = PLAIN.model_copy(update={"value_normalisation": "running", "value_statistics_rate": 0.3})
    rollout, before = random_rollout(4), statistics_of(5.0, 3.0)
    targets, after, metrics = targets_of(config, rollout, before)
    real = rollout.replace(value=5.0 + 3.0 * rollout.value, value_after=5.0 + 3.0 * rollout.value_after)
    gae = by_rlax(real, lambda r, g, v: _gae(r, g, PLAIN.gae_lambda, v))
    returns = gae + np.asarray(real.value)
    mean = np.average([5.0, returns.mean()], weights=[0.7 * 0.5, 0.3])
    square = np.average([25.0 + 9.0, np.mean(returns**2)], weights=[0.7 * 0.5, 0.3])
    spread = (square - mean**2) ** 0.5
    assert float(metrics["value_target"]) == pytest.approx(returns.mean(), rel=1e-4)
    np.testing.assert_allclose(targets.value, (returns - mean) / spread, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(targets.old_value, (np.asarray(real.value) - mean) / spread, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(targets.advantage, normalised(gae), rtol=1e-3, atol=1e-4)
    assert float(after.weight) == pytest.approx(0.7 * 0.5 + 0.3)


@functools.cache
def explained(normalisation: str) -> np.ndarray:
    """Explained variance over 60 iterations where returns are 1000 with a spread of 50, mostly predictable."""
    learner = tiny.learner_of("bandit", value_normalisation=normalisation)
    params = learner.replicate(tiny.bandit_params(mean=1000.0, spread=50.0, noise=0.1))
    state, history = learner.init(tiny.bandit_policy()[1], 0, params), []
    for _ in range(60):
        state, metrics = learner.iterate(state, params, jnp.float32(0))
        history.append(metrics)
    return tiny.stacked(history)["explained_variance"]


@pytest.mark.parametrize("normalisation", ["running", "popart"])
def test_with_a_scale_the_critic_learns_targets_of_1000_with_a_spread_of_50(normalisation):
    assert explained(normalisation)[0] < -100
    assert explained(normalisation)[-10:].mean() > 0.5


def test_and_without_one_it_does_not():
    assert explained("none")[-1] < -100


@pytest.mark.parametrize("spread", [1e-3, 50.0])
def test_outputs_are_preserved_once_there_are_statistics(spread):
    """Rescaling the first, meaningless outputs to rewards of a thousandth would blow them up a thousandfold."""
    learner = tiny.learner_of("bandit", value_normalisation="popart", learning_rate=1e-12)
    params, (_, net) = tiny.bandit_params(spread=spread), tiny.bandit_policy()
    state = learner.init(net, 0, params)
    state, _ = learner.iterate(state, params, jnp.float32(0))
    kernel, first = (np.asarray(x["critic"]["out"]["kernel"]) for x in (state.params, net))
    before = float(state.values.spread)
    assert 0.1 * spread < before < 10 * spread
    np.testing.assert_allclose(kernel, first / max(before, 1.0), rtol=1e-4)
    state, _ = learner.iterate(state, params, jnp.float32(0))
    expected = kernel * before / float(state.values.spread)
    np.testing.assert_allclose(state.params["critic"]["out"]["kernel"], expected, rtol=1e-4)
