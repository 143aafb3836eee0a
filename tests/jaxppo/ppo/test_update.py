"""An iteration's update on a contextual bandit: its figures by hand, early stopping, schedules, and the KL penalty."""

import functools
import math

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
import tiny
from jax.flatten_util import ravel_pytree

from jaxppo.policy.rollout import DATA_AXIS
from jaxppo.ppo.targets import Targets
from jaxppo.ppo.update import Batch, Coefficients, Objective, policy_loss, update, value_loss

WATCHED = {
    *("loss", "policy_loss", "value_loss", "entropy", "kl", "kl_k3", "kl_after", "clip_fraction"),
    *("ratio_max", "ratio_min", "effective_sample_size", "gradient_norm", "update_norm", "explained_variance"),
    *("line_search_step", "minibatch_steps", "value_target", "advantage_std", "control_variate_ratio"),
    *("kl_coefficient", "learning_rate", "entropy_coefficient", "reward", "skipped_updates"),
}


def run(n_iterations: int = 1, params=None, progress: float = 0.0, **changes):
    """Trains the bandit's agent: its last state and the metrics of every iteration."""
    learner = tiny.learner_of("bandit", **changes)
    placed = learner.replicate(params or tiny.bandit_params())
    state, history = learner.init(tiny.bandit_policy()[1], 0, placed), []
    for _ in range(n_iterations):
        state, metrics = learner.iterate(state, placed, jnp.float32(progress))
        history.append(metrics)
    return jax.device_get(state), tiny.stacked(history)


def distance_moved(state) -> float:
    return float(np.linalg.norm(ravel_pytree(state.params)[0] - ravel_pytree(tiny.bandit_policy()[1])[0]))


# Figures to watch.


def test_every_figure_is_there_and_finite():
    everything = {"kl_limit": 0.01, "kl_penalty": "integral", "kl_stop": 0.05, "value_normalisation": "popart"}
    _, metrics = run(3, **everything)
    assert set(metrics) == WATCHED
    assert all(np.all(np.isfinite(row)) for row in metrics.values())
    _, plain = run(1)
    unasked = {"line_search_step", "minibatch_steps", "kl_after", "kl_coefficient"}
    assert set(plain) == WATCHED - unasked


def test_figures_before_the_first_step_and_the_size_of_that_step():
    """One minibatch, one epoch: all is measured at the old parameters."""
    state = tiny.learner_of("bandit").init(tiny.bandit_policy()[1], 0, tiny.bandit_params())
    rollout = tiny.next_rollout("bandit", state, tiny.bandit_params())
    new, metrics = run(1, epochs=1, minibatches=1)
    figures = {name: float(row[0]) for name, row in metrics.items()}
    assert figures["effective_sample_size"] == pytest.approx(1, abs=1e-6)
    assert (figures["ratio_max"], figures["ratio_min"]) == (pytest.approx(1, abs=1e-5), pytest.approx(1, abs=1e-5))
    assert figures["kl"] == pytest.approx(0, abs=1e-7)
    assert figures["clip_fraction"] == 0
    assert figures["policy_loss"] == pytest.approx(0, abs=1e-6)
    old = distrax.Softmax(rollout.behaviour.logits[..., 0, :])
    assert figures["entropy"] == pytest.approx(float(old.entropy().mean()), rel=1e-5)
    error = np.asarray(rollout.reward - rollout.value, np.float64)
    assert figures["value_loss"] == pytest.approx(0.5 * np.mean(error**2), rel=1e-4)
    explained = 1 - np.mean(error**2) / np.var(np.asarray(rollout.reward, np.float64))
    assert figures["explained_variance"] == pytest.approx(explained, abs=1e-4)
    config = tiny.BANDIT_PPO
    expected = config.value_coefficient * figures["value_loss"] - config.entropy_coefficient * figures["entropy"]
    assert figures["loss"] == pytest.approx(expected, rel=1e-4)
    assert figures["update_norm"] == pytest.approx(distance_moved(new), rel=1e-5)
    first = sum(x.size for x in jax.tree.leaves(new.params)) ** 0.5 * config.learning_rate
    assert 0.3 * first < figures["update_norm"] <= first


@functools.cache
def moved_batch():
    """16,384 decisions of the first policy, the distributions of one a little away, and its figures."""
    config = tiny.BANDIT_PPO.model_copy(update={"paths": 2048})
    policy, net = tiny.bandit_policy()
    state = tiny.learner_of("bandit", paths=2048).init(net, 1, tiny.bandit_params())
    rollout = tiny.next_rollout("bandit", state, tiny.bandit_params(), config)
    rng = np.random.default_rng(0)
    moved = jax.tree.map(lambda x: x + jnp.asarray(rng.normal(0, 0.15, x.shape), x.dtype), net)
    advantage = jnp.asarray(rng.normal(size=rollout.log_prob.shape), jnp.float32)
    batch = Batch(rollout, Targets(advantage, rollout.value, rollout.value))
    now = policy.distribution(moved, rollout.inputs)
    return batch, now


def figures_of(config, kl_coefficient: float = 0.0):
    """Loss and figures of `moved_batch`."""
    weights = Coefficients(jnp.float32(0), jnp.float32(0.03), jnp.float32(kl_coefficient))
    batch, now = jax.tree.map(lambda x: x[None], moved_batch())
    objective = Objective(tiny.bandit_task(), tiny.bandit_params(), weights, config)
    loss, figures = jax.vmap(lambda b, d: policy_loss(d, b, objective), axis_name=DATA_AXIS)(batch, now)
    return float(loss[0]), {name: float(x[0]) for name, x in figures.items()}


def test_figures_at_other_parameters_by_hand():
    batch, now = moved_batch()
    old, new = (distrax.Softmax(d.logits[..., 0, :]) for d in (batch.rollout.behaviour, now))
    action, advantage = batch.rollout.action[..., 0], np.asarray(batch.targets.advantage, np.float64)
    ratio = np.exp(np.asarray(new.log_prob(action), np.float64) - np.asarray(old.log_prob(action), np.float64))
    kl = float(old.kl_divergence(new).mean())
    loss, figures = figures_of(tiny.BANDIT_PPO.model_copy(update={"kl_penalty": "doubling"}), 2.5)
    assert 0.005 < kl < 0.5
    assert figures["kl"] == pytest.approx(kl, rel=1e-4)
    assert figures["kl_k3"] == pytest.approx(np.mean(ratio - 1 - np.log(ratio)), rel=1e-3)
    assert figures["ratio_max"] == pytest.approx(ratio.max(), rel=1e-4)
    assert figures["ratio_min"] == pytest.approx(ratio.min(), rel=1e-4)
    assert figures["clip_fraction"] == pytest.approx(np.mean(np.abs(ratio - 1) > 0.2), abs=1e-3)
    assert figures["ratio_mean"] ** 2 / figures["ratio_square"] == pytest.approx(
        ratio.mean() ** 2 / np.mean(ratio**2), rel=1e-5
    )
    surrogate = -np.mean(np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage))
    assert figures["policy_loss"] == pytest.approx(surrogate, abs=1e-5)
    entropy = float(new.entropy().mean())
    assert loss == pytest.approx(surrogate - 0.03 * entropy + 2.5 * kl, rel=1e-3)
    unpenalised, _ = figures_of(tiny.BANDIT_PPO, 2.5)
    assert unpenalised == pytest.approx(surrogate - 0.03 * entropy, abs=1e-5)


def test_on_many_decisions_the_estimated_divergence_is_the_exact_one():
    batch, now = moved_batch()
    log_ratio = np.asarray(now.log_prob(batch.rollout.action) - batch.rollout.log_prob, np.float64)
    error = scipy.stats.sem((np.exp(log_ratio) - 1 - log_ratio).ravel())
    _, figures = figures_of(tiny.BANDIT_PPO)
    assert error < 0.05 * figures["kl"]
    assert abs(figures["kl_k3"] - figures["kl"]) < 4 * error


def test_the_value_loss_is_the_one_of_the_configuration():
    """Errors 0.1, 0.5, 3 from a target of 0 with an old value of 1; clip 0.2 and delta 1."""
    value = jnp.asarray([0.1, 0.5, 3.0])
    targets = Targets(jnp.zeros(3), jnp.zeros(3), jnp.ones(3))
    expected = {
        "squared": (0.005 + 0.125 + 4.5) / 3,
        "clipped": (0.32 + 0.32 + 4.5) / 3,
        "huber": (0.005 + 0.125 + 2.5) / 3,
    }
    for kind, mean in expected.items():
        config = tiny.PPO.model_copy(update={"value_loss": kind, "value_clip": 0.2, "huber_delta": 1.0})
        assert float(value_loss(value, targets, config)) == pytest.approx(mean, rel=1e-6)


# Schedules and early stopping.


LEFT = {"constant": (1.0, 1.0, 1.0, 1.0), "linear": (1.0, 0.75, 0.5, 0.0), "cosine": (1.0, 0.853553, 0.5, 0.0)}


@pytest.mark.parametrize(("entropy", "step"), [("linear", "cosine"), ("cosine", "constant"), ("constant", "linear")])
def test_the_weight_of_the_entropy_and_the_step_size_follow_their_schedules(entropy, step):
    """Entropy from 0.02 to 0.004; a cosine leaves (1 + cos(pi/4)) / 2 = 0.853553 after a quarter."""
    changes = {"entropy_coefficient": 0.02, "entropy_final": 0.004, "entropy_schedule": entropy, "schedule": step}
    for progress, weight, size in zip((0.0, 0.25, 0.5, 1.0), LEFT[entropy], LEFT[step], strict=True):
        _, metrics = run(1, progress=progress, epochs=1, minibatches=1, **changes)
        assert float(metrics["entropy_coefficient"][0]) == pytest.approx(0.004 + 0.016 * weight, rel=1e-5)
        assert float(metrics["learning_rate"][0]) == pytest.approx(size * tiny.PPO.learning_rate, rel=1e-5)


@pytest.mark.slow
def test_after_the_stop_no_step_is_taken():
    """One minibatch an epoch: stopping after n steps is having n epochs."""
    whole, metrics = run(1, epochs=6, minibatches=1)
    stop = 0.4 * float(metrics["kl"][0])
    stopped, found = run(1, epochs=6, minibatches=1, kl_stop=stop)
    n_steps = int(found["minibatch_steps"][0])
    assert 1 < n_steps < 6
    fewer, _ = run(1, epochs=n_steps, minibatches=1)
    assert tiny.relative_distance(stopped.params, fewer.params) < 1e-6
    assert tiny.relative_distance(stopped.opt_state, fewer.opt_state) < 1e-6
    assert distance_moved(stopped) < 0.9 * distance_moved(whole)
    assert float(found["update_norm"][0]) == pytest.approx(distance_moved(stopped), rel=1e-5)
    assert float(found["kl"][0]) > stop


@pytest.mark.slow
def test_a_stop_that_is_never_reached_changes_nothing():
    (plain, metrics), (guarded, found) = run(2), run(2, kl_stop=1e3)
    np.testing.assert_array_equal(found["minibatch_steps"], tiny.BANDIT_PPO.epochs * tiny.BANDIT_PPO.minibatches)
    assert tiny.relative_distance(guarded.params, plain.params) < 1e-6
    for name in metrics:
        np.testing.assert_allclose(found[name], metrics[name], rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("kl_stop", [None, 1e3])
def test_an_update_that_is_not_finite_is_left_out_and_counted(kl_stop):
    """What is bad in one of four minibatches costs that minibatch alone, in each epoch."""
    config = tiny.BANDIT_PPO.model_copy(update={"paths": 2048, "epochs": 2, "minibatches": 4, "kl_stop": kl_stop})
    objective = Objective(
        tiny.bandit_task(), tiny.bandit_params(), Coefficients(*map(jnp.float32, (1e-3, 0.0, 0.0))), config
    )
    optimiser = optax.chain(optax.clip_by_global_norm(0.5), optax.scale_by_adam(eps=1e-5))
    batch, net = moved_batch()[0], tiny.bandit_policy()[1]

    @jax.jit
    def updated(batch):
        def one(batch):
            groups = jnp.arange(1)
            return update(net, optimiser.init(net), optimiser, batch, objective, jax.random.key(3), groups)

        return jax.vmap(one, axis_name=DATA_AXIS)(jax.tree.map(lambda x: x[None], batch))

    def with_advantage(values):
        targets = batch.targets
        return batch.replace(targets=Targets(values, targets.value, targets.old_value))

    advantage = batch.targets.advantage
    bad = updated(with_advantage(advantage.at[7].set(jnp.nan)))
    assert float(bad[2]["skipped_updates"][0]) == 2
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(bad))
    assert int(bad[1][1].count[0]) == 6
    good = updated(batch)
    assert float(good[2]["skipped_updates"][0]) == 0
    assert float(bad[2]["entropy"][0]) == pytest.approx(float(good[2]["entropy"][0]), abs=1e-2)
    assert tiny.relative_distance(bad[0], good[0]) > 1e-4
    none = updated(with_advantage(advantage * jnp.nan))
    assert float(none[2]["skipped_updates"][0]) == 8
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[0], y), none[0], net)
    assert not np.isfinite(none[2]["loss"]).any()


# The adaptive penalty.

PURE_NOISE = {"payoff": (0.0, 0.0, 0.0), "noise": 1.0}
STEADY = {"learning_rate": 3e-3, "epochs": 8}
TARGET = 0.002


@functools.cache
def penalised(rule: str, coefficient: float):
    """Measured KL and coefficient of 160 iterations where rewards are noise: the push on the policy never ends."""
    changes = {"kl_penalty": rule, "kl_target": TARGET, "kl_coefficient": coefficient, **STEADY}
    _, metrics = run(160, tiny.bandit_params(**PURE_NOISE), **changes)
    return metrics["kl_after"], metrics["kl_coefficient"]


@pytest.mark.slow
@pytest.mark.parametrize("coefficient", [0.05, 20.0])
@pytest.mark.parametrize("rule", ["doubling", "integral"])
def test_the_adaptive_penalty_holds_the_divergence_near_its_target(rule, coefficient):
    """Whatever coefficient it starts from; without a penalty the divergence is twice the target."""
    _, free = run(40, tiny.bandit_params(**PURE_NOISE), **STEADY)
    assert free["kl"].mean() > 1.6 * TARGET
    kl, followed = penalised(rule, coefficient)
    assert TARGET / 1.5 < kl[80:].mean() < 1.5 * TARGET
    assert math.isclose(followed[0], coefficient, rel_tol=1e-5)
    assert abs(math.log(followed[80:].mean() / coefficient)) > 1.0
