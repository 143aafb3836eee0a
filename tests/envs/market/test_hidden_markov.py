"""Hidden Markov models against hmmlearn: filter, likelihood, expectation maximisation; what was simulated is found."""

import functools

import hmmlearn.hmm
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hmmlearn import _hmmc

from jaxppo.envs.market.hidden_markov import (
    HiddenMarkovModel,
    expectation_maximisation,
    fit,
    forward_filter,
    sort_states,
)


def random_model(key, n_states, n_dimensions=1):
    keys = jax.random.split(key, 4)
    stay = 6.0 * jnp.eye(n_states)
    return HiddenMarkovModel(
        initial=jax.nn.softmax(jax.random.normal(keys[0], (n_states,))),
        transition=jax.nn.softmax(stay + jax.random.normal(keys[1], (n_states, n_states)), axis=-1),
        mean=jax.random.normal(keys[2], (n_states, n_dimensions)),
        variance=jnp.exp(jax.random.normal(keys[3], (n_states, n_dimensions))),
    )


def theirs(model, **settings):
    """hmmlearn's model with the same parameters and no priors."""
    settings = {"covars_prior": 0.0, "covars_weight": 0.0, "min_covar": 0.0, **settings}
    other = hmmlearn.hmm.GaussianHMM(model.n_states, "diag", init_params="", **settings)
    other.startprob_, other.transmat_ = (_rows(x) for x in (model.initial, model.transition))
    other.means_, other.covars_ = np.asarray(model.mean, np.float64), np.asarray(model.variance, np.float64)
    other.n_features = model.mean.shape[-1]
    return other


def _rows(x):
    x = np.asarray(x, np.float64)
    return x / x.sum(axis=-1, keepdims=True)


@functools.partial(jax.jit, static_argnames="n_bars")
def simulate(key, model, n_bars):
    """States `[T]` and observations `[T, D]`."""
    key_state, key_noise = jax.random.split(key)

    def step(state, uniform):
        after = jnp.argmax(jnp.cumsum(model.transition[state]) > uniform)
        return after, state

    first = jnp.argmax(jnp.cumsum(model.initial) > 0.5)
    _, states = jax.lax.scan(step, first, jax.random.uniform(key_state, (n_bars,)))
    noise = jax.random.normal(key_noise, (n_bars, model.mean.shape[-1]))
    return states, model.mean[states] + jnp.sqrt(model.variance[states]) * noise


@pytest.mark.parametrize(("seed", "n_states", "n_dimensions"), [(0, 2, 1), (1, 3, 2), (2, 4, 1), (3, 6, 3)])
def test_the_filter_is_the_normalised_forward_pass_of_hmmlearn(seed, n_states, n_dimensions):
    model = random_model(jax.random.key(seed), n_states, n_dimensions)
    _, x = simulate(jax.random.key(100 + seed), model, 2_000)
    found = jax.jit(forward_filter)(model, x, jnp.ones(2_000, bool))
    other = theirs(model)
    density = other._compute_log_likelihood(np.asarray(x, np.float64))
    total, lattice = _hmmc.forward_log(other.startprob_, other.transmat_, density)
    expected = np.exp(lattice - lattice.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)
    assert float(found.log_likelihood.sum()) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize(("seed", "n_states"), [(7, 2), (8, 6)])
def test_the_filter_is_that_of_dynamax_where_installed(seed, n_states):
    dynamax = pytest.importorskip("dynamax.hidden_markov_model.inference")
    model = random_model(jax.random.key(seed), n_states, 2)
    _, x = simulate(jax.random.key(100 + seed), model, 1_000)
    found = jax.jit(forward_filter)(model, x, jnp.ones(1_000, bool))
    spread = jnp.sqrt(model.variance)
    density = jax.scipy.stats.norm.logpdf(x[:, None], model.mean[None], spread[None]).sum(axis=-1)
    with jax.numpy_rank_promotion("allow"):
        theirs = dynamax.hmm_filter(model.initial, model.transition, density)
    np.testing.assert_allclose(found.probabilities, theirs.filtered_probs, atol=1e-6)
    assert float(found.log_likelihood.sum()) == pytest.approx(float(theirs.marginal_loglik), rel=1e-5)


def test_in_double_precision_the_filter_is_theirs_to_rounding():
    with jax.enable_x64(True):
        single = random_model(jax.random.key(5), 4)
        model = jax.tree.map(lambda x: x.astype(jnp.float64), single)
        model = model.replace(
            transition=jnp.asarray(_rows(model.transition)), initial=jnp.asarray(_rows(model.initial))
        )
        x = jax.random.normal(jax.random.key(6), (500, 1), jnp.float64) * 2
        found = forward_filter(model, x, jnp.ones(500, bool))
        other = theirs(model)
        total, lattice = _hmmc.forward_log(
            other.startprob_, other.transmat_, other._compute_log_likelihood(np.asarray(x))
        )
        expected = np.exp(lattice - lattice.max(axis=1, keepdims=True))
        np.testing.assert_allclose(found.probabilities, expected / expected.sum(axis=1, keepdims=True), atol=1e-12)
        assert float(found.log_likelihood.sum()) == pytest.approx(total, rel=1e-12)


def test_a_bar_without_an_observation_moves_the_state_on():
    model = random_model(jax.random.key(0), 3)
    x = jax.random.normal(jax.random.key(1), (40, 1))
    valid = jnp.arange(40) % 4 != 2
    found = forward_filter(model, x.at[2::4].set(jnp.nan), valid)
    assert np.all(np.isfinite(found.probabilities))
    before = np.asarray(found.probabilities)
    np.testing.assert_allclose(before[2], before[1] @ np.asarray(model.transition), atol=1e-6)
    assert float(found.log_likelihood[2]) == pytest.approx(0.0, abs=1e-6)


def test_impossible_observations_leave_probabilities():
    """Values so far out that every density underflows, and a state that can never be left."""
    model = random_model(jax.random.key(0), 3).replace(transition=jnp.eye(3))
    found = forward_filter(model, jnp.asarray([[0.0], [1e6], [-1e6], [0.0]]), jnp.ones(4, bool))
    assert np.all(np.isfinite(found.probabilities))
    assert np.all(np.isfinite(found.log_likelihood))


def test_a_step_of_expectation_maximisation_is_that_of_hmmlearn():
    truth = random_model(jax.random.key(3), 3, 2)
    sequences = [simulate(jax.random.key(i), truth, 300)[1] for i in range(2)]
    start = random_model(jax.random.key(9), 3, 2)
    for n_iterations in (1, 10):
        ours = expectation_maximisation(
            start, jnp.stack(sequences), jnp.ones((2, 300), bool), max_iterations=n_iterations, tolerance=-1.0
        ).model  # fmt: skip
        other = theirs(start, n_iter=n_iterations, tol=-1e30)
        other.fit(np.concatenate(sequences).astype(np.float64), lengths=[300, 300])
        np.testing.assert_allclose(ours.mean, other.means_, atol=1e-4)
        np.testing.assert_allclose(ours.variance, [np.diag(c) for c in other.covars_], atol=1e-4)
        np.testing.assert_allclose(ours.transition, other.transmat_, atol=1e-4)
        np.testing.assert_allclose(ours.initial, other.startprob_, atol=1e-4)


def test_the_likelihood_never_falls_and_missing_values_do_not_count():
    truth = random_model(jax.random.key(3), 3)
    _, x = simulate(jax.random.key(4), truth, 500)
    start = random_model(jax.random.key(9), 3)
    valid = jax.random.uniform(jax.random.key(5), (1, 500)) < 0.9
    last = -np.inf
    for n in (1, 2, 4, 8, 16):
        found = expectation_maximisation(start, x[None], valid, max_iterations=n, tolerance=-1.0)
        assert float(found.log_likelihood) >= last - 1e-2
        last = float(found.log_likelihood)
    poisoned = jnp.where(valid[..., None], x[None], jnp.nan)
    again = expectation_maximisation(start, poisoned, valid, max_iterations=16, tolerance=-1.0)
    np.testing.assert_allclose(again.model.mean, found.model.mean, rtol=1e-6)


REGIMES = HiddenMarkovModel(
    initial=jnp.asarray([0.1, 0.2, 0.7]),
    transition=jnp.asarray([[0.97, 0.02, 0.01], [0.01, 0.98, 0.01], [0.005, 0.01, 0.985]]),
    mean=jnp.asarray([[-0.6], [0.0], [0.5]]),
    variance=jnp.asarray([[4.0], [0.3], [0.8]]),
)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_fit_recovers_what_was_simulated(seed):
    """Accuracy of the filtered state, out of sample, within a hundredth of that of the true parameters."""
    _, x = simulate(jax.random.key(seed), REGIMES, 8_000)
    found = fit(jax.random.key(50 + seed), x[None], jnp.ones((1, 8_000), bool), 3, n_restarts=6)
    states, fresh = simulate(jax.random.key(10 + seed), REGIMES, 20_000)
    valid = jnp.ones(20_000, bool)
    hits = [
        float(jnp.mean(jnp.argmax(forward_filter(model, fresh, valid).probabilities, axis=-1) == states))
        for model in (REGIMES, found.model)
    ]
    assert hits[1] > hits[0] - 0.01
    assert hits[0] > 0.8
    np.testing.assert_allclose(found.model.mean, REGIMES.mean, atol=0.2)
    np.testing.assert_allclose(found.model.variance, REGIMES.variance, rtol=0.2)


def test_a_fit_is_batched_over_folds_by_vmap():
    _, x = simulate(jax.random.key(0), REGIMES, 800)
    folds = jnp.stack([jnp.arange(800) < 500, jnp.arange(800) >= 300])[:, None]
    keys = jax.random.split(jax.random.key(1), 2)
    both = jax.vmap(lambda key, valid: fit(key, x[None], valid, 2, n_restarts=2))(keys, folds)
    one = fit(jax.random.split(jax.random.key(1), 2)[1], x[None], folds[1], 2, n_restarts=2)
    np.testing.assert_allclose(both.model.mean[1], one.model.mean, atol=1e-3)
    # What lies outside a fold cannot matter.
    later = fit(jax.random.split(jax.random.key(1), 2)[1], x[None].at[:, :300].set(99.0), folds[1], 2, n_restarts=2)
    np.testing.assert_array_equal(later.model.mean, one.model.mean)


def test_states_come_in_order_of_mean():
    model = random_model(jax.random.key(2), 5)
    found = sort_states(model)
    assert np.all(np.diff(np.asarray(found.mean[:, 0])) >= 0)
    order = np.argsort(np.asarray(model.mean[:, 0]))
    np.testing.assert_array_equal(found.transition, np.asarray(model.transition)[np.ix_(order, order)])


@pytest.mark.parametrize("n_states", [1, 7])
def test_an_odd_number_of_states_is_refused(n_states):
    with pytest.raises(ValueError, match=f"n_states is {n_states}; it must be from 2 to 6"):
        fit(jax.random.key(0), jnp.zeros((1, 10, 1)), jnp.ones((1, 10), bool), n_states)


def test_a_state_that_is_impossible_takes_nothing_from_the_others():
    """An observation that only an impossible state explains leaves probabilities that sum to one."""
    model = HiddenMarkovModel(
        initial=jnp.asarray([1.0, 0.0]), transition=jnp.eye(2), mean=jnp.asarray([[-1.0], [1.0]]),
        variance=jnp.asarray([[1e-4], [1e-4]]),
    )  # fmt: skip
    found = forward_filter(model, jnp.asarray([[1.0], [-1.0], [1.0]]), jnp.ones(3, bool))
    np.testing.assert_allclose(found.probabilities, [[1.0, 0.0]] * 3)
    assert np.all(np.isfinite(found.log_likelihood))
