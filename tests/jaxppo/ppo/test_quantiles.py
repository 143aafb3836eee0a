"""A quantile critic: loss, targets and advantages beside independent ones, and problems with a known distribution."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
import scipy.stats
import tiny
from sklearn.metrics import mean_pinball_loss
from test_gymnax_task import KEY, built, cartpole
from test_targets import random_rollout, targets_of
from tiny_run import assert_trees_equal, tiny_config

import jaxppo
from jaxppo.policy.networks.actor_critic import make_actor_critic
from jaxppo.policy.networks.mlp import MLPConfig, make_mlp_actor_critic
from jaxppo.ppo import losses, returns
from jaxppo.ppo.gymnax_task import action_config, flat, gymnax_task, n_inputs
from jaxppo.ppo.learner import data_mesh, make_learner
from jaxppo.ppo.trading_task import trading_task
from jaxppo.risk.distortion import cell_weights, distorted_value, midpoints

pytestmark = pytest.mark.slow

N = 16
SLOW = pytest.mark.slow
CVAR = {"distortion": "cvar", "distortion_level": 0.25}


def random_quantiles(seed: int, *shape: int):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


# The loss.


def test_without_kappa_the_loss_is_sklearns_pinball_loss():
    quantiles, target = random_quantiles(0, 5), random_quantiles(1, 40)
    expected = sum(
        mean_pinball_loss(np.asarray(target), np.full(40, float(q)), alpha=tau)
        for q, tau in zip(quantiles, midpoints(5), strict=True)
    )
    assert float(losses.quantile_value_error(quantiles, target, 0.0)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kappa", [0.0, 0.1, 1.0, 3.0])
def test_the_loss_and_its_gradient_are_those_of_rlax(kappa):
    quantiles, targets = random_quantiles(0, 3, 2, 8), random_quantiles(1, 3, 2, 6)
    tau = jnp.asarray(midpoints(8), jnp.float32)

    def theirs(q):
        one = lambda q, t: rlax.quantile_regression_loss(q, tau, t, kappa)  # noqa: E731
        return jax.vmap(jax.vmap(one))(q, targets) / (kappa or 1.0)

    ours = lambda q: losses.quantile_value_error(q, targets, kappa)  # noqa: E731
    np.testing.assert_allclose(ours(quantiles), theirs(quantiles), rtol=1e-5)
    slopes = [jax.grad(lambda q, f=f: f(q).sum())(quantiles) for f in (ours, theirs)]
    np.testing.assert_allclose(*slopes, rtol=1e-5, atol=1e-7)


def test_the_loss_is_least_at_the_quantiles_of_the_targets():
    target = np.sort(np.random.default_rng(3).gumbel(size=64)).astype(np.float32)
    ours = target.reshape(8, 8)[:, 3:5].mean(axis=1)  # between the fourth and the fifth of eight: tau is met exactly
    slope = jax.grad(lambda q: losses.quantile_value_error(q, jnp.asarray(target), 0.0))(jnp.asarray(ours))
    np.testing.assert_allclose(slope, 0.0, atol=1e-6)


# Targets and advantages.


@functools.cache
def distributional(quantiles: int = 5, seed: int = 0):
    """The rollout of `test_targets` with quantiles for values."""
    rollout = random_rollout()
    value = random_quantiles(seed, *rollout.value.shape, quantiles)
    after = random_quantiles(seed + 1, *rollout.value.shape, quantiles)
    follows = ~(rollout.terminated | rollout.truncated)[:, :-1, :, None]
    after = after.at[:, :-1].set(jnp.where(follows, value[:, 1:], after[:, :-1]))
    return rollout.replace(value=value, value_after=after)


def by_hand(rollout, config, path, step, portfolio):
    """Atoms of the return `[N]` of one decision, reward by reward."""
    earned, discount = 0.0, 1.0
    for t in range(step, rollout.reward.shape[1]):
        at = (path, t, portfolio)
        earned += discount * config.reward_scale * float(rollout.reward[at])
        if rollout.terminated[at]:
            return np.full(rollout.value.shape[-1], earned)
        discount *= config.gamma
        if rollout.truncated[at] or t == rollout.reward.shape[1] - 1:
            return earned + discount * np.asarray(rollout.value_after[at], np.float64)
    raise AssertionError


def test_targets_are_the_rewards_to_the_end_of_the_chunk_or_episode_and_the_quantiles_there():
    rollout = distributional()
    found = np.asarray(targets_of(tiny.PPO, rollout)[0].value)
    assert rollout.terminated.any()
    assert rollout.truncated.any()
    for place in np.ndindex(*rollout.reward.shape):
        np.testing.assert_allclose(found[place], by_hand(rollout, tiny.PPO, *place), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"advantage_n_step": 0.4, "n_steps": 3}, {"gae_lambda": 0.0}])
def test_without_a_distortion_advantages_are_those_of_a_critic_that_says_the_means(changes):
    config = tiny.PPO.model_copy(update=changes)
    rollout = distributional()
    means = rollout.replace(value=rollout.value.mean(axis=-1), value_after=rollout.value_after.mean(axis=-1))
    (targets, _, metrics), (expected, _, others) = targets_of(config, rollout), targets_of(config, means)
    np.testing.assert_allclose(targets.advantage, expected.advantage, rtol=1e-4, atol=1e-5)
    assert metrics["advantage_std"] == pytest.approx(float(others["advantage_std"]), rel=1e-5)


@pytest.mark.parametrize(("lambda_", "n", "share"), [(0.9, 1, 0.0), (0.0, 1, 0.0), (1.0, 1, 0.0), (0.7, 3, 0.4)])
def test_equal_weights_make_distorted_advantages_those_of_the_means(lambda_, n, share):
    rollout = jax.tree.map(lambda x: x[1, :, 0], distributional())
    ends = [x.astype(jnp.float32) for x in (rollout.terminated, rollout.truncated)]
    discount, trace = 0.9 * (1.0 - ends[0]), (1.0 - ends[0]) * (1.0 - ends[1])
    q, after = rollout.value, rollout.value_after
    found = returns.distorted_advantages(
        rollout.reward, discount, q, after, trace, cell_weights(5, "none"), returns.StepMixture(lambda_, n, share)
    )
    means = q.mean(axis=-1), after.mean(axis=-1)
    gae = returns.generalised_advantage_estimation(rollout.reward, discount, *means, trace, lambda_)
    n_step = returns.n_step_returns(rollout.reward, discount, means[1], trace, n) - means[0]
    np.testing.assert_allclose(found, (1.0 - share) * gae + share * n_step, rtol=1e-4, atol=1e-5)


def test_an_advantage_under_cvar_by_hand():
    """Quantiles 0, 1, 2, 3; the worst half ends at 1.5, so `u(x) = 2 min(x, 1.5)`; it is 1.5 on average."""
    q = jnp.asarray([[3.0, 0.0, 2.0, 1.0]] * 2)
    weights = cell_weights(4, "cvar", 0.5)
    found = returns.distorted_advantages(
        jnp.asarray([1.0, 7.0]),
        jnp.asarray([0.5, 0.0]),
        q,
        q,
        jnp.asarray([1.0, 0.0]),
        weights,
        returns.StepMixture(0.25),
    )
    one_step = 2.0 * np.mean([1.0, 1.5, 1.5, 1.5])  # 1 + 0.5 * (0, 1, 2, 3)
    both = 2.0 * 1.5  # 1 + 0.5 * 7 = 4.5, all of it
    mean = 2.0 * np.mean([0.0, 1.0, 1.5, 1.5])
    np.testing.assert_allclose(found, [0.75 * one_step + 0.25 * both - mean, 3.0 - mean], rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "level", "lambda_"), [("cvar", 0.3, 1.0), ("cvar", 0.3, 0.8), ("wang", 0.7, 0.0), ("power", 1.5, 0.8)]
)
def test_advantages_are_the_gradient_of_the_distorted_value(kind, level, lambda_):
    """Two steps of known distributions: moving probability from one first action to the other moves rho by as much."""
    rng, n, share, gamma, h = np.random.default_rng(0), 256, 0.4, 0.9, 1e-3
    arms = [(0.3, 1.0), (0.0, 0.2)]  # mean and spread of the last reward
    first = [0.1, 0.15]
    levels = scipy.stats.norm.ppf(midpoints(n))

    def start(p):
        """`n` quantiles from the first state, where arm 0 has probability p."""
        grid = np.linspace(-4, 4, 100_001)
        cdf = sum(
            w * scipy.stats.norm.cdf(grid, f + gamma * m, gamma * s)
            for w, f, (m, s) in zip((p, 1 - p), first, arms, strict=True)
        )
        return np.interp(midpoints(n), cdf, grid)

    weights = cell_weights(n, kind, level)
    slope = (start(share + h) - start(share - h)) @ weights / (2 * h)
    means = []
    for f, (m, s) in zip(first, arms, strict=True):
        last = m + s * rng.permutation(scipy.stats.norm.ppf(midpoints(2000)))
        q = jnp.asarray(np.stack([start(share), m + s * levels]), jnp.float32)
        q_t = jnp.stack([q[1], jnp.zeros(n)])
        advantage = jax.vmap(
            lambda r, f=f, q=q, q_t=q_t: returns.distorted_advantages(
                jnp.stack([jnp.float32(f), r]), jnp.asarray([gamma, 0.0]), q, q_t, jnp.asarray([1.0, 0.0]), weights,
                returns.StepMixture(lambda_),
            )[0]
        )(jnp.asarray(last, jnp.float32))  # fmt: skip
        means.append(float(advantage.mean()))
    assert means[0] - means[1] == pytest.approx(slope, rel=0.02, abs=3e-3)
    assert share * means[0] + (1 - share) * means[1] == pytest.approx(0.0, abs=5e-3)


def test_statistics_are_those_of_mean_returns_and_so_is_the_explained_variance():
    config = tiny.PPO.model_copy(update={"value_normalisation": "running"})
    targets, after, metrics = targets_of(config, distributional())
    _, _, plain = targets_of(tiny.PPO, distributional())
    atoms = after.denormalise(targets.value)
    expected = np.asarray(atoms).mean(axis=-1)
    assert float(after.mean) == pytest.approx(expected.mean(), rel=1e-4)
    assert float(after.variance) == pytest.approx(expected.var(), rel=1e-3)
    error = np.square(expected - np.asarray(distributional().value).mean(axis=-1)).mean()
    assert float(metrics["explained_variance"]) == pytest.approx(1.0 - error / expected.var(), abs=1e-4)
    assert float(plain["explained_variance"]) == pytest.approx(float(metrics["explained_variance"]), abs=1e-5)


def test_the_figures_of_a_critic_that_is_right():
    """All states alike: what the critic says are the quantiles of its own targets."""
    rollout = distributional(8)
    quantiles = jnp.asarray(scipy.stats.norm.ppf(midpoints(8)), jnp.float32)
    right = jnp.broadcast_to(quantiles, rollout.value.shape)
    step = rollout.replace(value=right, value_after=right, reward=jnp.zeros_like(rollout.reward))
    config = tiny.PPO.model_copy(update={"gamma": 1.0, **CVAR})
    step = step.replace(terminated=jnp.zeros_like(step.terminated))
    metrics = targets_of(config, step)[2]
    assert float(metrics["quantile_error"]) == pytest.approx(0.5 / 8, abs=1e-6)  # atoms below q_i: (i - 1) / 8
    assert float(metrics["distorted_value"]) == pytest.approx(float(quantiles[:2].mean()), rel=1e-5)


# Learning.


@functools.cache
def bandit_learner(quantiles: int = N, n_devices: int = 1, **changes):
    config = tiny.BANDIT_PPO.model_copy(update=changes)
    return make_learner(tiny.bandit_task(config, quantiles), config, data_mesh(jax.devices()[:n_devices]))


def train(learner, quantiles, params, iterations, *, decay=True, seed=0):
    params = learner.replicate(params)
    state, history = learner.init(tiny.bandit_policy(quantiles)[1], seed, params), []
    for i in range(iterations):
        state, metrics = learner.iterate(state, params, jnp.float32(i / iterations if decay else 0))
        history.append(metrics)
    return state, tiny.stacked(history)


@pytest.mark.slow
@pytest.mark.parametrize("normalisation", ["popart", *(pytest.param(x, marks=SLOW) for x in ("none", "running"))])
def test_learned_quantiles_are_those_of_the_known_distribution(normalisation):
    """Rewards that no action changes: `mean + spread (x_0 + noise z)` of a context x."""
    scale = {"mean": 0.2, "spread": 1.0} if normalisation == "none" else {"mean": 30.0, "spread": 5.0}
    params = tiny.bandit_params(payoff=(0.0, 0.0, 0.0), noise=0.5, **scale)
    learner = bandit_learner(
        paths=256, epochs=2, learning_rate=2e-2, schedule="linear", value_normalisation=normalisation,
        value_statistics_rate=0.1,
    )  # fmt: skip
    state, metrics = train(learner, N, params, 150)
    x = jnp.asarray([[-1.0, 0.5], [0.0, 0.0], [1.0, -0.5]])
    found = state.values.denormalise(tiny.bandit_policy(N)[0].value(state.params, x))
    expected = np.asarray(x[:, :1]) + 0.5 * scipy.stats.norm.ppf(midpoints(N))[None]
    np.testing.assert_allclose((found - scale["mean"]) / scale["spread"], expected, atol=0.08)
    assert metrics["quantile_error"][-30:].mean() < 0.02


@functools.cache
def arms(config, quantiles):
    """Action 0 pays almost surely nothing; 2 pays 0.1 on average and sometimes loses a lot; 1 loses.

    The loss of action 2 is lognormal, `e^z`, and the mean of its worst quarter about 1.9 below its own.
    """
    base = tiny.bandit_task(config, quantiles)

    def collect(net, params, states, keys, progress):
        states, rollout = base.collect(net, params, states, keys, progress)
        z, action = rollout.reward - rollout.inputs[..., 0], rollout.action[..., 0]
        reward = jnp.stack([0.05 * z, 0.05 * z - 1.0, 0.1 + np.exp(0.5) - jnp.exp(z)], axis=-1)
        return states, rollout.replace(reward=jnp.take_along_axis(reward, action[..., None], axis=-1)[..., 0])

    return base._replace(collect=collect)


@pytest.mark.parametrize(
    ("distortion", "level", "chosen"),
    [
        ("none", None, 2),
        ("cvar", 0.25, 0),
        pytest.param("wang", 1.0, 0, marks=SLOW),
        pytest.param("power", 2.0, 0, marks=SLOW),
        pytest.param("wang", 0.01, 2, marks=SLOW),
    ],
)
def test_the_safer_arm_is_chosen_under_a_distortion_and_the_better_one_without(distortion, level, chosen):
    config = tiny.BANDIT_PPO.model_copy(
        update={"paths": 128, "distortion": distortion, "distortion_level": level, "entropy_coefficient": 0.0}
    )
    learner = make_learner(arms(config, N), config, data_mesh(jax.devices()[:1]))
    state, _ = train(learner, N, tiny.bandit_params(payoff=(0.0, 0.0, 0.0), noise=1.0), 60)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(50, 2)), jnp.float32)
    probability = jax.nn.softmax(tiny.bandit_policy(N)[0].distribution(state.params, x).logits[:, 0])
    assert float(probability[:, chosen].mean()) > 0.9


@pytest.mark.slow
def test_devices_make_no_difference_and_nothing_is_compiled_again(caplog):
    params, changes = tiny.bandit_params(), {"value_normalisation": "popart", **CVAR}
    one, metrics = train(bandit_learner(**changes), N, params, 3)
    four, others = train(bandit_learner(n_devices=4, **changes), N, params, 3)
    assert tiny.relative_distance(four.params, one.params) < 1e-4
    for name, value in metrics.items():
        np.testing.assert_allclose(others[name], value, rtol=2e-3, atol=1e-5, err_msg=name)
    with jax.log_compiles(), caplog.at_level(logging.DEBUG):
        train(bandit_learner(**changes), N, tiny.bandit_params(mean=1.0), 2)
    assert not [r for r in caplog.records if "iterate" in r.getMessage() and "Compiling" in r.getMessage()]


def test_one_quantile_is_the_scalar_critic_to_the_bit():
    shapes = jax.tree.map(jnp.shape, tiny.policy()[1])
    for n in (1, 3):
        policy, net = make_actor_critic(tiny.encoder_config(), tiny.ACTION, jax.random.key(0), quantiles=n)
        assert net["head"]["value"]["kernel"].shape == (8, n)
        if n == 1:
            assert_trees_equal(net, tiny.policy()[1])
            assert jax.tree.map(jnp.shape, net) == shapes
            assert policy == tiny.policy()[0]
    assert tiny.bandit_policy()[0].value(tiny.bandit_policy()[1], jnp.zeros((4, 2))).shape == (4,)
    assert tiny.bandit_policy(3)[0].value(tiny.bandit_policy(3)[1], jnp.zeros((4, 2))).shape == (4, 3)


def test_decisions_do_not_depend_on_the_number_of_quantiles():
    prepared, seen = random_quantiles(0, 4, tiny.N_ASSETS, 16), tiny.observation(0, 4)
    (policy, net), (other, more) = (
        make_actor_critic(tiny.encoder_config(), tiny.ACTION, jax.random.key(0), quantiles=n) for n in (1, 6)
    )
    more["head"] |= {name: x for name, x in net["head"].items() if name != "value"}
    distribution, value = policy.act(net, prepared, seen)
    same, quantiles = other.act(more, prepared, seen)
    assert value.shape == (4,)
    assert quantiles.shape == (4, 6)
    assert_trees_equal(distribution, same)


def test_a_rollout_of_the_market_has_quantiles_whatever_is_computed_at_once():
    policy, net = make_actor_critic(tiny.encoder_config(), tiny.ACTION, jax.random.key(0), quantiles=4)
    task = trading_task(policy, tiny.env(), tiny.PPO.model_copy(update={"micro_batch": 4, **CVAR}))
    keys = jax.random.split(jax.random.key(1), (2, tiny.PPO.paths))
    states, params = task.start(tiny.shared_params(), keys[0]), tiny.shared_params()
    _, rollout = jax.jit(task.collect)(net, params, states, keys[1], jnp.float32(0))
    assert rollout.value.shape == (16, 8, 3, 4)
    np.testing.assert_array_equal(rollout.value[:, 1:], rollout.value_after[:, :-1])
    _, value = jax.jit(task.predict)(net, params, rollout)
    np.testing.assert_allclose(value, rollout.value, atol=1e-5)


def test_a_distortion_without_quantiles_is_refused_by_the_learner_too():
    config = tiny.BANDIT_PPO.model_copy(update=CVAR)
    learner = make_learner(tiny.bandit_task(config), config, data_mesh(jax.devices()[:1]))
    with pytest.raises(ValueError, match=r"policy\.quantiles must be at least 2"):
        train(learner, 1, tiny.bandit_params(), 1)


def test_the_configuration_allows_what_goes_together():
    config = tiny_config(policy={"quantiles": 8}, ppo={**CVAR, "advantage_n_step": 0.5})
    assert (config.policy.quantiles, config.ppo.distortion_level) == (8, 0.25)
    assert float(distorted_value(jnp.arange(8.0), cell_weights(8, "cvar", 0.25))) == 0.5


# Runs.


def test_a_truncated_episode_of_an_environment_has_the_quantiles_of_its_final_observation():
    env, params, _, _, _, config = built("CartPole-v1")
    policy, net = make_mlp_actor_critic(
        MLPConfig(n_inputs(env, params), 0, 8, 1, 4), action_config(env, params, 0.5), KEY
    )
    task = gymnax_task(policy, env, params, config)
    keys = jax.random.split(jax.random.key(1), (2, config.paths))
    _, rollout = jax.jit(task.collect)(net, params, task.start(params, keys[0]), keys[1], jnp.float32(0))
    assert rollout.value.shape == (*rollout.reward.shape, 4)
    inside = ~(rollout.terminated | rollout.truncated)[:, :-1]
    np.testing.assert_allclose(rollout.value_after[:, :-1][inside], rollout.value[:, 1:][inside], rtol=1e-5, atol=1e-6)
    path, step, portfolio = next(zip(*np.nonzero(rollout.truncated), strict=True))
    _, state = env.reset(KEY, params)
    x = rollout.inputs[path, step, portfolio]
    state = state.replace(x=x[0], x_dot=x[1], theta=x[2], theta_dot=x[3], time=jnp.int32(0))
    final, *_ = env.step_env(KEY, state, int(rollout.action[path, step, portfolio, 0]), params)
    expected = policy.value(net, flat(final))
    np.testing.assert_allclose(rollout.value_after[path, step, portfolio], expected, atol=1e-5)


@pytest.mark.slow
def test_a_run_on_an_environment(tmp_path):
    config = cartpole(policy={"kind": "mlp", "width": 16, "heads": 1, "layers": 1, "quantiles": 4})
    run = jaxppo.train(config, output=tmp_path / "run", progress=False)
    assert run.params["critic"]["out"]["kernel"].shape[1] == 4
    assert run.summary["evaluation"]["mean_return"] > 5
