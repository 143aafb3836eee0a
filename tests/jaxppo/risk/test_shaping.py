"""Objectives and constraints between rollout and targets: what telescopes, what is measured, and how a run goes on."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skfolio.measures
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxppo import risk
from jaxppo.config import validate_config
from jaxppo.errors import ConfigError
from jaxppo.policy.rollout import DATA_AXIS, Rollout
from jaxppo.ppo.learner import data_mesh, make_learner
from jaxppo.risk import batch, objectives
from jaxppo.risk.lagrangian import Gains

P, S, K = 8, 5, 3
UTILITIES = {
    "expected": objectives.expected(),
    "cvar": objectives.cvar(0.8, 0.7),
    "mean_variance": objectives.mean_variance(3.0),
    "exponential": objectives.exponential(2.0),
}


def alone(function):
    """A function of arrays that runs under `shard_map`, on one device."""
    mapped = jax.jit(jax.vmap(function, axis_name=DATA_AXIS, axis_size=1))
    return lambda *xs: jax.tree.map(lambda x: x[0], mapped(*jax.tree.map(lambda x: jnp.asarray(x)[None], xs)))


def rollout_of(seed: int, end: float = 0.25) -> Rollout:
    """Random bars of trading; episodes end at random."""
    rng = np.random.default_rng(seed)
    growth = jnp.asarray(rng.normal(0.001, 0.02, (P, S, K)), jnp.float32)
    gone = rng.random((P, S, K))
    info = {"log_growth": growth, "drawdown": jnp.asarray(rng.uniform(0, 0.3, (P, S, K)), jnp.float32)}
    info |= {name: jnp.asarray(rng.uniform(0, 1.5, (P, S, K)), jnp.float32) for name in ("leverage", "turnover")}
    return Rollout(
        inputs=None,
        hindsight=None,
        action=None,
        behaviour=None,
        log_prob=None,
        value=None,
        value_after=None,
        reward=growth,
        terminated=jnp.asarray(gone < 0.5 * end),
        truncated=jnp.asarray(gone > 1.0 - 0.5 * end),
        info=info,
    )


def episodes_of(rollouts):
    """Per episode of an account, over consecutive rollouts, the (rollout, path, bar, portfolio) of its bars."""
    running, finished = {}, []
    for number, rollout in enumerate(rollouts):
        ended = np.asarray(rollout.terminated | rollout.truncated)
        for p, s, k in np.ndindex(P, S, K):
            running.setdefault((p, k), []).append((number, p, s, k))
            if ended[p, s, k]:
                finished.append(running.pop((p, k)))
    return finished


@pytest.mark.parametrize("name", UTILITIES)
def test_what_is_paid_over_an_episode_is_the_utility_of_its_return(name):
    """Over three rollouts with a threshold that does not move: `U(D_T) - U(0)`, D by hand."""
    utility = UTILITIES[name]
    fixed = utility._replace(learn=None if utility.learn is None else lambda *_: jnp.float32(-0.03))
    stage = risk.shape_rewards(fixed, outcome="simple", rate=1.0)
    apply, (state, accounts) = alone(stage.apply), stage.start(P, K)
    rollouts, paid = [rollout_of(seed) for seed in range(3)], []
    for rollout in rollouts:
        shaped, state, accounts, _ = apply(state, accounts, rollout)
        np.testing.assert_array_equal(shaped.terminated, rollout.terminated | rollout.truncated)
        assert not shaped.truncated.any()
        paid.append(np.asarray(shaped.reward, np.float64))
    threshold = -0.03 if utility.learn is not None else 0.0
    finished = episodes_of(rollouts)
    assert len(finished) > 40
    assert max(len({bar[0] for bar in bars}) for bars in finished) > 1
    for bars in finished:
        growth = sum(float(rollouts[n].info["log_growth"][p, s, k]) for n, p, s, k in bars)
        worth = {
            "expected": lambda d: d,
            "cvar": lambda d: 0.3 * d + 0.7 * (threshold - max(threshold - d, 0.0) / 0.2),
            "mean_variance": lambda d: d - 1.5 * (d - threshold) ** 2,
            "exponential": lambda d: (1.0 - np.exp(-2.0 * d)) / 2.0,
        }[name]
        assert sum(paid[n][p, s, k] for n, p, s, k in bars) == pytest.approx(
            worth(np.expm1(growth)) - worth(0.0), abs=2e-6
        )


@given(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=40), st.sampled_from([0.01, 0.05, 0.1, 0.5, 0.9]))
@settings(max_examples=60, deadline=None)
def test_the_threshold_is_the_quantile_of_the_sample(values, share):
    padded = np.zeros(40, np.float32)
    padded[: len(values)] = values
    found = quantile_of(share)(padded, np.arange(40) < len(values))
    expected = np.quantile(np.float32(values), share, method="inverted_cdf")
    assert float(found) == pytest.approx(expected, abs=1e-6)


@functools.cache
def quantile_of(share):
    return alone(lambda x, counted: batch.quantile(x, counted, share))


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_the_tail_is_that_of_skfolio_and_the_objective_is_its_mean(level):
    x = np.random.default_rng(3).standard_t(3, 333).astype(np.float32)
    _, tail = alone(lambda x: batch.tail_mean(x, jnp.ones_like(x, bool), level))(x)
    expected = -skfolio.measures.cvar(x.astype(np.float64), beta=level)
    assert float(tail) == pytest.approx(expected, rel=1e-5)
    utility = objectives.cvar(level)
    threshold = alone(utility.learn)(x, np.ones(333, bool))
    assert float(utility.utility(x, threshold).mean()) == pytest.approx(expected, rel=1e-5)
    others = [float(utility.utility(x, threshold + shift).mean()) for shift in (-0.2, 0.2)]
    assert max(others) < expected, "the threshold maximises"


def test_accounts_that_end_early_do_not_stand_for_all():
    """One account's episode ends: it and the last finished one of every other account count; running ones never do."""
    stage = risk.shape_rewards(objectives.expected(), outcome="reward")
    apply, (state, accounts) = alone(stage.apply), stage.start(P, K)
    first = rollout_of(0).replace(terminated=jnp.zeros((P, S, K), bool), truncated=jnp.zeros((P, S, K), bool))
    _, state, accounts, metrics = apply(state, accounts, first)
    assert float(metrics["objective_return"]) == pytest.approx(float(first.reward.sum(axis=1).mean()), rel=1e-5)
    second = first.replace(truncated=first.truncated.at[:, -1].set(True))
    _, state, accounts, metrics = apply(state, accounts, second)
    everyone = 2.0 * first.reward.sum(axis=1)
    assert float(metrics["objective_return"]) == pytest.approx(float(everyone.mean()), rel=1e-5)
    third = first.replace(terminated=first.terminated.at[0, 0, 0].set(True))
    _, state, accounts, metrics = apply(state, accounts, third)
    expected = everyone.at[0, 0].set(first.reward[0, 0, 0])
    assert float(metrics["objective_return"]) == pytest.approx(float(expected.mean()), rel=1e-5)


@pytest.mark.parametrize("name", UTILITIES)
def test_extreme_returns_stay_finite_and_utilities_rise(name):
    returns = jnp.asarray([-1e4, -50.0, -1.0, -0.1, 0.0, 0.1, 0.3, 0.4, 1e3], jnp.float32)
    worth = UTILITIES[name].utility(returns, jnp.float32(0.1))
    slope = jax.vmap(jax.grad(UTILITIES[name].utility), in_axes=(0, None))(returns, jnp.float32(0.1))
    assert np.isfinite(worth).all()
    assert np.isfinite(slope).all()
    rising = worth[:-1] if name == "mean_variance" else worth
    assert np.all(np.diff(rising) > 0)


def limits(**gains):
    """Every constraint, with limits that the tiny account can break."""
    made = risk.constraints
    each = [made.leverage(0.3), made.turnover(20.0, 252.0), made.volatility(0.05, 252.0), made.cvar(0.004, 0.9)]
    return [risk.PenalisedConstraint(one, Gains(**gains)) for one in (*each, made.max_drawdown(0.01))]


@functools.cache
def learner(n_devices: int):
    """The tiny trader that maximises the worst fifth of its episodes under every constraint."""
    stage = risk.shape_rewards(objectives.cvar(0.8, 0.5), limits(), outcome="simple")
    return make_learner(tiny.task(), tiny.PPO, data_mesh(jax.devices()[:n_devices]), stage)


def trained(n_devices: int, iterations: int = 4):
    """Last state and metrics of a run from scratch."""
    placed = learner(n_devices).replicate(tiny.shared_params())
    state, history = learner(n_devices).init(tiny.policy()[1], 0, placed), []
    for _ in range(iterations):
        state, metrics = learner(n_devices).iterate(state, placed, jnp.float32(0))
        history.append(metrics)
    return state, tiny.stacked(history)


@pytest.mark.slow
def test_devices_do_not_show():
    (state, many), (alone_state, one) = trained(4), trained(1)
    names = [name for name in one if name.split("_")[0] in ("objective", "constraint", "multiplier")]
    assert len(names) == 3 + 3 * 5
    for name in names:
        np.testing.assert_allclose(many[name], one[name], rtol=1e-3, atol=1e-6, err_msg=name)
    assert tiny.relative_distance(state.params, alone_state.params) < 1e-3
    assert np.all(one["multiplier_leverage"] > 0)
    np.testing.assert_allclose(state.accounts.running.gain, alone_state.accounts.running.gain, atol=1e-5)


@pytest.mark.slow
def test_it_is_compiled_once_and_goes_on_from_a_copy_to_the_same_bits(caplog):
    state, placed = trained(1, 2)[0], learner(1).replicate(tiny.shared_params())
    copy = jax.tree.map(np.asarray, state)
    caplog.clear()
    with jax.log_compiles(), caplog.at_level(logging.DEBUG):
        state, _ = learner(1).iterate(state, placed, jnp.float32(0))
        state, _ = learner(1).iterate(state, placed, jnp.float32(0))
        assert not [record for record in caplog.records if "Finished XLA compilation" in record.getMessage()]
    again = learner(1).place(copy)
    for _ in range(2):
        again, _ = learner(1).iterate(again, placed, jnp.float32(0))
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, again), jax.tree.map(np.asarray, state))


def test_without_objective_and_constraints_nothing_is_carried():
    assert tiny.learner(1).init(tiny.policy()[1], 0, tiny.shared_params()).risk == ()


@pytest.mark.slow
def test_episodes_that_begin_anew_leave_nothing_running():
    state, _ = trained(1, 1)
    assert np.any(np.asarray(state.accounts.running.bars) > 0)
    anew = learner(1).restart(state, tiny.shared_params(), jax.random.key(9))
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(anew.accounts.running))
    jax.tree.map(np.testing.assert_array_equal, anew.accounts.last, state.accounts.last)


def test_a_rollout_of_no_objective_and_no_multiplier_is_left_alone():
    stage = risk.shape_rewards(None, limits(proportional=0.0, integral=1e-6, derivative=0.0))
    rollout, start = rollout_of(1), stage.start(P, K)
    shaped, *_ = alone(stage.apply)(*start, rollout)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), shaped, rollout)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: objectives.cvar(1.0), "level is 1.0"),
        (lambda: objectives.cvar(0.9, 1.5), "weight is 1.5"),
        (lambda: objectives.mean_variance(0.0), "aversion is 0.0"),
        (lambda: risk.constraints.leverage(0.0), "limit is 0.0"),
        (lambda: risk.shape_rewards(None, [*limits(), limits()[0]]), "each can be given once"),
        (lambda: risk.shape_rewards(objectives.cvar(), rate=0.0), "rate is 0.0"),
        (lambda: risk.shape_rewards(None, limits(maximum=0.0)), "maximum"),
        (lambda: risk.shape_rewards(None, limits(integral=-1.0)), "integral is -1.0"),
        (lambda: risk.shape_rewards(None, limits(smoothing=1.0)), "smoothing is 1.0"),
    ],
)
def test_arguments_out_of_range(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"objective": {"level": 0.99}}, "objective.level is 0.99, but objective.kind expected does not read it"),
        (
            {"objective": {"kind": "exponential", "rate": 0.5}},
            "objective.rate is 0.5, but objective.kind exponential does not read it",
        ),
        (
            {"constraints": [{"leverage": {"limit": 0.5, "method": "lagrangian", "proportional": 5.0}}]},
            "constraints[0].leverage.proportional is 5, but method lagrangian does not read it",
        ),
        ({"constraints": [{"leverage": {"limit": 0.5, "integral": 0.0}}]}, "integral"),
    ],
)
def test_keys_that_nothing_reads_are_refused(given, message):
    with pytest.raises(ConfigError) as caught:
        validate_config({"training": {"steps": 1}, **given})
    assert message in str(caught.value)
