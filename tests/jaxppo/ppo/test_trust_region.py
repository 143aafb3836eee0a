"""The line search on bowls, the natural gradient against a dense solve, and the KL that the learner's updates reach."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import tiny
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from jaxppo.policy.distributions import MaskedCategorical
from jaxppo.ppo.trust_region import line_search, natural_step

TRIALS = 6


def parameters(x: np.ndarray) -> dict:
    """Three numbers as the parameters of a network."""
    x = jnp.asarray(x, jnp.float32)
    return {"layer": {"bias": x[0], "kernel": x[1:]}}


@jax.jit
def searched(old, proposed, minimum, curvature, fisher, limit):
    """Loss `(x - minimum)' C (x - minimum) / 2`, KL `(x - old)' F (x - old) / 2`."""
    start = ravel_pytree(old)[0]

    def evaluate(net):
        x = ravel_pytree(net)[0]
        return 0.5 * (x - minimum) @ curvature @ (x - minimum), 0.5 * (x - start) @ fisher @ (x - start)

    return line_search(evaluate, old, proposed, limit, TRIALS), evaluate(old)[0]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**31 - 1), st.floats(1e-3, 1.0), st.floats(0.05, 20.0), st.booleans())
def test_on_any_bowl_the_longest_trial_within_the_limit_that_is_no_worse(seed, limit, size, saddle):
    """Judged in float64: the first of the steps 1, 0.8, ... that satisfies both conditions, or none."""
    rng = np.random.default_rng(seed)
    old, minimum = rng.normal(size=(2, 3)).astype(np.float32).astype(np.float64)
    proposed = (old + size * rng.normal(size=3)).astype(np.float32).astype(np.float64)
    roots = rng.normal(size=(2, 3, 3))
    curvature, fisher = (roots @ roots.swapaxes(1, 2)).astype(np.float32).astype(np.float64)
    if saddle:
        curvature[0] *= -1
        curvature[:, 0] *= -1

    def judge(x):
        return 0.5 * (x - minimum) @ curvature @ (x - minimum), 0.5 * (x - old) @ fisher @ (x - old)

    steps = 0.8 ** np.arange(TRIALS)
    loss, kl = np.array([judge(old + step * (proposed - old)) for step in steps]).T
    scale = 1e-5 * (1 + np.abs(loss).max())
    assume(np.all(np.abs(loss - judge(old)[0]) > scale))
    assume(np.all(np.abs(kl / limit - 1) > 1e-4))
    good = steps[(kl <= limit) & (loss <= judge(old)[0])]
    expected = good[0] if good.size else 0.0
    found, _ = searched(parameters(old), parameters(proposed), *map(jnp.float32, (minimum, curvature, fisher, limit)))
    assert float(found.step) == pytest.approx(expected, rel=1e-6)
    reached = np.asarray(ravel_pytree(found.net)[0], np.float64)
    np.testing.assert_allclose(reached, old + expected * (proposed - old), rtol=1e-5, atol=1e-6 * (1 + size))
    assert float(found.kl) == pytest.approx(judge(old + expected * (proposed - old))[1], rel=1e-3, abs=1e-6)
    assert float(found.kl) <= limit


def test_where_every_step_is_worse_nothing_moves_and_the_step_is_zero():
    old, away = parameters([1.0, 2.0, 3.0]), parameters([2.0, 2.0, 3.0])
    start = ravel_pytree(old)[0]
    found, _ = searched(old, away, start, jnp.eye(3), 1e-6 * jnp.eye(3), jnp.float32(1.0))
    assert float(found.step) == 0
    assert float(found.kl) == 0
    jax.tree.map(np.testing.assert_array_equal, found.net, old)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("read", [True, False])
def test_a_proposal_that_is_not_finite_is_rejected_even_where_the_policy_does_not_read_it(bad, read):
    """The critic's parameters reach neither the surrogate nor the divergence."""
    old = {"actor": jnp.ones(2), "critic": jnp.ones(2)}
    proposed = {"actor": jnp.full(2, 1.1), "critic": jnp.ones(2)}
    name = "actor" if read else "critic"
    proposed[name] = proposed[name].at[1].set(bad)

    def evaluate(net):
        return -net["actor"].sum(), jnp.square(net["actor"] - 1).sum()

    found = line_search(evaluate, old, proposed, 1.0, TRIALS)
    assert float(found.step) == 0
    jax.tree.map(np.testing.assert_array_equal, found.net, old)


# The natural gradient.


def softmax_problem(seed: int):
    """Linear softmax policy of 3 actions on 40 contexts: its mean KL, its Fisher matrix by hand, and a gradient."""
    rng = np.random.default_rng(seed)
    contexts, weights, gradient = rng.normal(size=(40, 2)), rng.normal(size=(2, 3)), rng.normal(size=(2, 3))
    probability = scipy.special.softmax(contexts @ weights, axis=-1)
    fisher = np.zeros((6, 6))
    for x, p in zip(contexts, probability, strict=True):
        fisher += np.kron(np.outer(x, x), np.diag(p) - np.outer(p, p)) / len(contexts)

    def policy(net):
        logits = (jnp.asarray(contexts) @ net["weights"])[:, None]
        return MaskedCategorical(logits, jnp.ones(logits.shape, bool))

    old = {"weights": jnp.asarray(weights)}
    behaviour = policy(old)
    return lambda net: behaviour.kl(policy(net)).mean(), old, fisher, {"weights": jnp.asarray(gradient)}


@pytest.mark.parametrize("damping", [1e-3, 0.1, 10.0])
def test_the_natural_step_is_the_dense_solve(damping):
    with jax.enable_x64(True):
        mean_kl, old, fisher, gradient = softmax_problem(0)

        def product(x):
            return jax.jvp(jax.grad(mean_kl), (old,), (x,))[1]

        step = natural_step(gradient, product, 0.02, damping, 50)["weights"]
    damped = fisher + damping * np.eye(6)
    direction = np.linalg.solve(damped, np.asarray(gradient["weights"]).ravel())
    expected = -np.sqrt(2 * 0.02 / (direction @ damped @ direction)) * direction
    np.testing.assert_allclose(np.asarray(step).ravel(), expected, rtol=1e-6, atol=1e-9)


def test_without_much_damping_the_step_has_the_divergence_that_was_asked_for():
    """The gradient of a softmax policy never adds the same to all logits, which the Fisher matrix does not see."""
    with jax.enable_x64(True):
        mean_kl, old, fisher, gradient = softmax_problem(1)
        gradient = {"weights": gradient["weights"] - gradient["weights"].mean(axis=1, keepdims=True)}
        step = natural_step(gradient, lambda x: jax.jvp(jax.grad(mean_kl), (old,), (x,))[1], 1e-5, 1e-9, 50)
        reached = float(mean_kl(jax.tree.map(jnp.add, old, step)))
        uphill = float(jnp.vdot(step["weights"], gradient["weights"]))
    assert reached == pytest.approx(1e-5, rel=0.02)
    assert uphill < 0
    assert np.linalg.matrix_rank(fisher) == 4


def test_where_there_is_no_gradient_there_is_no_step():
    mean_kl, old, _, gradient = softmax_problem(2)
    nothing = jax.tree.map(jnp.zeros_like, gradient)
    step = natural_step(nothing, lambda x: jax.jvp(jax.grad(mean_kl), (old,), (x,))[1], 0.01, 0.1, 10)
    np.testing.assert_array_equal(step["weights"], 0)


NATURAL = {"direction": "natural", "kl_limit": 0.01}
ADAM = {"direction": "adam", "kl_limit": 0.002}


@pytest.mark.slow
@pytest.mark.parametrize("progress", [0.0, 0.75])
def test_the_natural_step_of_a_whole_iteration_is_the_dense_solve(progress):
    """Fisher matrix from the Jacobian of the logits, gradient from the scores, advantages by hand, length linear."""
    changes = {"entropy_coefficient": 0.0, "value_coefficient": 0.0, "conjugate_gradient_steps": 100}
    learner = tiny.learner_of("bandit", **NATURAL, **changes, schedule="linear")
    params, (policy, net) = tiny.bandit_params(), tiny.bandit_policy()
    state = learner.init(net, 3, params)
    rollout = tiny.next_rollout("bandit", state, params)
    new, metrics = learner.iterate(state, params, jnp.float32(progress))
    assert float(metrics["line_search_step"]) == 1.0

    flat, unravel = ravel_pytree(net)
    context = rollout.inputs.reshape(-1, 2)
    logits_of = jax.jit(lambda x: policy.distribution(unravel(x), context).logits[:, 0])
    logits, jacobian = np.asarray(logits_of(flat), np.float64), np.asarray(jax.jacfwd(logits_of)(flat), np.float64)
    probability = scipy.special.softmax(logits, axis=-1)
    spread = probability[:, :, None] * np.eye(3) - probability[:, :, None] * probability[:, None]
    fisher = np.einsum("nai,nab,nbj->ij", jacobian, spread, jacobian) / len(context)
    gae = np.asarray(rollout.reward - rollout.value, np.float64)
    advantage = (gae - gae[..., ::-1]).ravel()
    advantage = (advantage - advantage.mean()) / advantage.std()
    score = np.eye(3)[np.asarray(rollout.action).ravel()] - probability
    gradient = -np.einsum("n,na,nai->i", advantage, score, jacobian) / len(context)
    damped = fisher + tiny.BANDIT_PPO.fisher_damping * np.eye(flat.size)
    direction = np.linalg.solve(damped, gradient)
    expected = -(1 - progress) * np.sqrt(2 * NATURAL["kl_limit"] / (direction @ damped @ direction)) * direction
    moved = np.asarray(ravel_pytree(new.params)[0], np.float64) - np.asarray(flat, np.float64)
    assert np.linalg.norm(moved - expected) < 1e-3 * np.linalg.norm(expected)


# What the learner's updates reach.


def divergence(old: MaskedCategorical, new: MaskedCategorical) -> float:
    """Mean over decisions of KL(old || new), summed over assets, in float64 from the logits."""
    mask = np.asarray(old.mask)
    log_p, log_q = (
        scipy.special.log_softmax(np.where(mask, np.asarray(d.logits, np.float64), -np.inf), axis=-1)
        for d in (old, new)
    )
    difference = np.subtract(log_p, log_q, out=np.zeros_like(log_p), where=mask)
    return float(np.sum(np.exp(log_p) * difference, axis=(-2, -1)).mean())


@functools.cache
def _predict(kind: str):
    task = tiny.task() if kind == "trading" else tiny.bandit_task()
    return jax.jit(lambda net, params, rollout: task.predict(net, params, rollout)[0])


def problem(kind: str):
    """First parameters and environment of a problem."""
    if kind == "trading":
        return tiny.policy()[1], tiny.shared_params()
    return tiny.bandit_policy()[1], tiny.bandit_params()


@functools.cache
def followed(kind: str, n_devices: int, n_iterations: int, **changes):
    """Metrics of some iterations, the KL of each recomputed from its rollout, and how far parameters moved."""
    learner = tiny.learner_of(kind, n_devices, **changes)
    net, params = problem(kind)
    state, placed = learner.init(net, 0, params), learner.replicate(params)
    history, measured, moves = [], [], []
    for _ in range(n_iterations):
        rollout = tiny.next_rollout(kind, jax.device_get(state), params)
        before = jax.device_get(state.params)
        state, metrics = learner.iterate(state, placed, jnp.float32(0))
        after = jax.device_get(state.params)
        history.append(metrics)
        measured.append(divergence(rollout.behaviour, _predict(kind)(after, params, rollout)))
        moves.append(float(np.linalg.norm(ravel_pytree(after)[0] - ravel_pytree(before)[0])))
    return tiny.stacked(history), np.array(measured), np.array(moves), after


@pytest.mark.parametrize(
    ("kind", "n_devices", "changes"),
    [
        ("bandit", 4, ADAM),
        ("bandit", 4, NATURAL),
        *(pytest.param("bandit", 1, changes, marks=pytest.mark.slow) for changes in (ADAM, NATURAL)),
        pytest.param("trading", 1, NATURAL, marks=pytest.mark.slow),
        pytest.param("trading", 4, NATURAL, marks=pytest.mark.slow),
        pytest.param("trading", 1, ADAM, marks=pytest.mark.slow),
    ],
)
def test_after_every_accepted_update_the_measured_divergence_is_within_the_limit(kind, n_devices, changes):
    metrics, measured, moves, _ = followed(kind, n_devices, 6 if kind == "bandit" else 3, **changes)
    assert np.all(measured <= changes["kl_limit"] * (1 + 1e-4))
    np.testing.assert_allclose(metrics["kl_after"], measured, rtol=2e-2, atol=2e-7)
    np.testing.assert_allclose(metrics["update_norm"], moves, rtol=1e-3)
    step = metrics["line_search_step"]
    trials = np.array([0.0, *0.8 ** np.arange(10)])
    assert np.all(np.abs(step[:, None] - trials).min(axis=1) < 1e-6)
    np.testing.assert_array_equal(moves == 0, step == 0)
    assert step.max() > 0
    assert measured.max() > 0.05 * changes["kl_limit"]


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("bandit", ADAM), ("bandit", NATURAL), pytest.param("trading", NATURAL, marks=pytest.mark.slow)],
)
def test_four_devices_take_the_steps_of_one(kind, changes):
    n_iterations = 6 if kind == "bandit" else 3
    (one, _, _, net), (four, _, _, other) = (followed(kind, n, n_iterations, **changes) for n in (1, 4))
    for name in ("kl_after", "line_search_step", "update_norm", "policy_loss", "value_loss"):
        np.testing.assert_allclose(four[name], one[name], rtol=1e-2, atol=1e-6, err_msg=name)
    assert tiny.relative_distance(other, net) < 1e-3


def test_micro_batches_change_nothing():
    (whole, _, _, net), (pieces, _, _, other) = (
        followed("bandit", 1, 6, **NATURAL, **micro) for micro in ({}, {"micro_batch": 4})
    )
    for name in ("kl_after", "line_search_step", "update_norm", "ratio_max", "ratio_min"):
        np.testing.assert_allclose(pieces[name], whole[name], rtol=1e-2, atol=1e-6, err_msg=name)
    assert tiny.relative_distance(other, net) < 1e-3


def test_the_limit_binds():
    """The same steps without a limit go much further."""
    assert np.mean(followed("bandit", 1, 6, **ADAM)[0]["line_search_step"] < 1) > 0.5
    assert followed("bandit", 1, 6, direction="adam")[1].max() > 5 * ADAM["kl_limit"]


def test_a_limit_that_no_trial_meets_leaves_the_parameters_alone():
    metrics, measured, moves, net = followed("bandit", 1, 2, direction="adam", kl_limit=1e-12, line_search_steps=3)
    np.testing.assert_array_equal(metrics["line_search_step"], 0)
    np.testing.assert_array_equal(metrics["update_norm"], 0)
    np.testing.assert_array_equal(moves, 0)
    np.testing.assert_allclose(measured, 0, atol=1e-9)
    jax.tree.map(np.testing.assert_array_equal, net, jax.device_get(tiny.bandit_policy()[1]))


def test_a_rollout_of_nan_leaves_nothing_behind():
    """Neither in the parameters nor in the optimiser's moments: the next good one is learned from."""
    learner = tiny.learner_of("bandit", **ADAM)
    _, net = tiny.bandit_policy()
    state = learner.init(net, 0, tiny.bandit_params())
    state, metrics = learner.iterate(state, tiny.bandit_params(noise=float("nan")), jnp.float32(0))
    assert float(metrics["line_search_step"]) == 0
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.params), jax.device_get(net))
    state, metrics = learner.iterate(state, tiny.bandit_params(), jnp.float32(0))
    assert float(metrics["line_search_step"]) > 0
