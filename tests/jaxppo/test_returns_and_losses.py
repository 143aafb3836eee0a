"""Advantages and losses against rlax and numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxppo.ppo import losses
from jaxppo.ppo.returns import generalised_advantage_estimation
from jaxppo.ppo.rollout import Rollout
from jaxppo.ppo.update import DATA_AXIS, make_targets

LENGTH, BATCH = 12, 64


def trajectories(seed: int = 0) -> dict[str, jax.Array]:
    """Random rewards, values `[BATCH, LENGTH + 1]` and terminations."""
    rng = np.random.default_rng(seed)
    return {
        "reward": jnp.asarray(rng.normal(size=(BATCH, LENGTH)), jnp.float32),
        "going": jnp.asarray(rng.random((BATCH, LENGTH)) > 0.15, jnp.float32),
        "value": jnp.asarray(rng.normal(size=(BATCH, LENGTH + 1)), jnp.float32),
    }


@pytest.mark.parametrize(("gamma", "lambda_"), [(0.99, 0.95), (0.9, 0.0), (0.5, 1.0), (0.999, 1.0)])
def test_equal_to_rlax_with_terminations(gamma, lambda_):
    data = trajectories()
    ours = jax.vmap(generalised_advantage_estimation, in_axes=(0, 0, 0, 0, 0, None))(
        data["reward"], gamma * data["going"], data["value"][:, :-1], data["value"][:, 1:], data["going"], lambda_
    )
    theirs = jax.vmap(rlax.truncated_generalized_advantage_estimation, in_axes=(0, 0, None, 0))(
        data["reward"], gamma * data["going"], lambda_, data["value"]
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_truncation_bootstraps_from_the_final_observation_and_cuts_the_trace():
    """Three steps, gamma = lambda = 1/2; the second is truncated in a state worth 8, the next episode starts at 1.

    deltas: 1 + 3/2 - 1 = 1.5, 2 + 8/2 - 1 = 5, 4 + 2/2 - 1 = 4; advantages: 1.5 + 5/4 = 2.75, 5, 4.
    """
    advantage = generalised_advantage_estimation(
        jnp.asarray([1.0, 2.0, 4.0]),
        jnp.full(3, 0.5),
        jnp.ones(3),
        jnp.asarray([3.0, 8.0, 2.0]),
        jnp.asarray([1.0, 0.0, 1.0]),
        0.5,
    )
    np.testing.assert_allclose(advantage, [2.75, 5.0, 4.0], rtol=1e-6)


def test_a_termination_ignores_the_value_after_it():
    """Same steps, the second terminated: its delta is 2 - 1 = 1; advantages: 1.5 + 1/4, 1, 4."""
    going = jnp.asarray([1.0, 0.0, 1.0])
    advantage = generalised_advantage_estimation(
        jnp.asarray([1.0, 2.0, 4.0]), 0.5 * going, jnp.ones(3), jnp.asarray([3.0, 1e6, 2.0]), going, 0.5
    )
    np.testing.assert_allclose(advantage, [1.75, 1.0, 4.0], rtol=1e-6)


def rollout_of(data: dict[str, jax.Array], n_paths: int) -> Rollout:
    """The trajectories as the portfolios of `n_paths` paths, `[P, S, K]`; the rest of the rollout is not read."""
    by_path = {name: x.reshape(n_paths, -1, x.shape[-1]).swapaxes(1, 2) for name, x in data.items()}
    unread = dict.fromkeys(("bar", "seen", "action", "log_prob", "turnover", "costs"))
    return Rollout(
        reward=by_path["reward"],
        terminated=by_path["going"] == 0,
        value=by_path["value"][:, :-1],
        final_value=by_path["value"][:, -1],
        **unread,
    )


@pytest.mark.parametrize("n_devices", [1, 4])
def test_targets_bootstrap_each_portfolio_and_are_normalised_over_all_devices(n_devices):
    """Every chunk ends either inside an episode or at its truncation: both bootstrap from `final_value`."""
    data = trajectories(1)
    data["reward"] = data["reward"] + jnp.arange(BATCH, dtype=jnp.float32)[:, None] / 10
    rollout = jax.tree.map(lambda x: x.reshape(n_devices, -1, *x.shape[1:]), rollout_of(data, 16))
    config = tiny.PPO.model_copy(update={"reward_scale": 7.0})
    targets = jax.vmap(lambda r: make_targets(r, config), axis_name=DATA_AXIS)(rollout)
    value, advantage = (
        np.asarray(x).reshape(16, LENGTH, -1).swapaxes(1, 2).reshape(BATCH, LENGTH)
        for x in (targets.value, targets.advantage)
    )
    expected = jax.vmap(rlax.truncated_generalized_advantage_estimation, in_axes=(0, 0, None, 0))(
        7.0 * data["reward"], config.gamma * data["going"], config.gae_lambda, data["value"]
    )
    np.testing.assert_allclose(value, expected + data["value"][:, :-1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(advantage, (expected - expected.mean()) / expected.std(), rtol=1e-3, atol=1e-3)


def test_the_clipped_surrogate_and_its_gradient_equal_rlax():
    rng = np.random.default_rng(2)
    log_ratio = jnp.asarray(rng.normal(0, 0.4, 500), jnp.float32)
    advantage = jnp.asarray(rng.normal(size=500), jnp.float32)
    ours, our_slope = jax.value_and_grad(lambda x: losses.clipped_surrogate(x, advantage, 0.2).mean())(log_ratio)
    theirs, their_slope = jax.value_and_grad(lambda x: rlax.clipped_surrogate_pg_loss(jnp.exp(x), advantage, 0.2))(
        log_ratio
    )
    assert float(ours) == pytest.approx(float(theirs), rel=1e-6)
    np.testing.assert_allclose(our_slope, their_slope, rtol=1e-5, atol=1e-8)
    assert 0.05 < np.mean(np.asarray(our_slope) == 0) < 0.95


@settings(max_examples=200, deadline=None)
@given(st.floats(-20, 20, width=32))
def test_the_kl_estimate_is_never_negative(log_ratio):
    assert float(losses.kl_estimate(jnp.float32(log_ratio))) >= 0


def test_the_kl_estimate_averages_to_the_divergence():
    rng = np.random.default_rng(3)
    old, new = rng.dirichlet(np.ones(6), 2)
    expected = np.sum(old * np.log(old / new))
    average = np.sum(old * np.asarray(losses.kl_estimate(jnp.asarray(np.log(new / old), jnp.float32))))
    assert average == pytest.approx(expected, rel=1e-5)


def test_the_other_losses_by_hand():
    ratio = jnp.log(jnp.asarray([0.5, 0.79, 0.81, 1.0, 1.19, 1.21]))
    assert losses.clipped_fraction(ratio, 0.2).tolist() == [1, 1, 0, 0, 0, 1]
    assert losses.squared_value_error(jnp.asarray([3.0]), jnp.asarray([1.0])).tolist() == [2.0]
