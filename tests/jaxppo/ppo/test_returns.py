"""Advantages and returns against rlax, episode by episode, and against their definitions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxppo.ppo.returns import discounted_future, generalised_advantage_estimation, lambda_returns, n_step_returns

LENGTH = 7
LAMBDAS = (0.0, 0.3, 0.95, 1.0)
STEPS = (1, 2, 3, LENGTH - 1, LENGTH, LENGTH + 1, 50)

gae = jax.jit(generalised_advantage_estimation)
returns_of_lambda = jax.jit(lambda_returns)
returns_of_n = jax.jit(n_step_returns, static_argnums=4)
rlax_gae = jax.jit(rlax.truncated_generalized_advantage_estimation)
rlax_lambda = jax.jit(rlax.lambda_returns)
rlax_n = jax.jit(rlax.n_step_bootstrapped_returns, static_argnums=3)


@pytest.fixture(autouse=True)
def in_float64():
    """rlax is compared to the last digits."""
    with jax.enable_x64(True):
        yield


def trajectory(seed: int, terminated=None, truncated=None, gamma: float = 0.9) -> dict[str, np.ndarray]:
    """Random rewards and values `[LENGTH]`; a value is carried over unless an episode ends, as in a rollout."""
    rng = np.random.default_rng(seed)
    nothing = np.zeros(LENGTH, bool)
    terminated = nothing if terminated is None else np.asarray(terminated, bool)
    truncated = (nothing if truncated is None else np.asarray(truncated, bool)) & ~terminated
    ended = terminated | truncated
    value = rng.normal(size=LENGTH + 1)
    return {
        "r_t": rng.normal(size=LENGTH),
        "discount_t": np.where(terminated, 0.0, gamma),
        "v_tm1": value[:-1],
        "v_t": np.where(ended, rng.normal(size=LENGTH), value[1:]),
        "trace_t": np.where(ended, 0.0, 1.0),
    }


def episodes(data: dict[str, np.ndarray]) -> list[slice]:
    """The episodes of a trajectory, the last one possibly unfinished."""
    ends = sorted({*(np.flatnonzero(data["trace_t"] == 0) + 1).tolist(), LENGTH})
    return [slice(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True)]


def estimates(data: dict[str, np.ndarray], lambda_: float, n: int) -> dict[str, np.ndarray]:
    """All three estimators on a whole trajectory."""
    whole = (data["r_t"], data["discount_t"], data["v_tm1"], data["v_t"], data["trace_t"])
    return {
        "gae": np.asarray(gae(*whole, lambda_)),
        "lambda": np.asarray(returns_of_lambda(*whole, lambda_)),
        "n": np.asarray(returns_of_n(data["r_t"], data["discount_t"], data["v_t"], data["trace_t"], n)),
    }


def by_rlax(data: dict[str, np.ndarray], lambda_: float, n: int) -> dict[str, np.ndarray]:
    """rlax on every episode alone: what follows an episode cannot reach it."""
    parts = []
    for rows in episodes(data):
        reward, discount, after = (data[name][rows] for name in ("r_t", "discount_t", "v_t"))
        values = np.append(data["v_tm1"][rows], after[-1])
        parts.append(
            {
                "gae": rlax_gae(reward, discount, lambda_, values),
                "lambda": rlax_lambda(reward, discount, after, lambda_),
                "n": rlax_n(reward, discount, after, n),
            }
        )
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def assert_equal(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize(("lambda_", "n"), [*((lambda_, 2) for lambda_ in LAMBDAS), *((0.5, n) for n in STEPS)])
def test_equal_to_rlax_with_terminations(lambda_, n):
    """rlax takes a terminated trajectory whole: the discount of 0 is all it needs to know."""
    rng = np.random.default_rng(3)
    for seed in range(20):
        data = trajectory(seed, terminated=rng.random(LENGTH) < 0.2, gamma=rng.uniform(0.1, 1.0))
        ours = estimates(data, lambda_, n)
        reward, discount, after = (jnp.asarray(data[name]) for name in ("r_t", "discount_t", "v_t"))
        values = np.append(data["v_tm1"], data["v_t"][-1])
        theirs = {
            "gae": rlax_gae(reward, discount, lambda_, values),
            "lambda": rlax_lambda(reward, discount, after, lambda_),
            "n": rlax_n(reward, discount, after, n),
        }
        assert_equal(ours, theirs)


def test_in_float32_equal_to_rlax_to_one_in_a_million():
    with jax.enable_x64(False):
        data = {
            name: jnp.asarray(x, jnp.float32) for name, x in trajectory(5, terminated=[0, 0, 1, 0, 0, 0, 0]).items()
        }
        ours = estimates(data, 0.95, 3)
        values = jnp.append(data["v_tm1"], data["v_t"][-1])
        theirs = {
            "gae": rlax_gae(data["r_t"], data["discount_t"], 0.95, values),
            "lambda": rlax_lambda(data["r_t"], data["discount_t"], data["v_t"], 0.95),
            "n": rlax_n(data["r_t"], data["discount_t"], data["v_t"], 3),
        }
    assert ours["gae"].dtype == np.float32
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6, atol=1e-6, err_msg=name)


flags = st.lists(st.sampled_from(["goes on", "goes on", "terminated", "truncated"]), min_size=LENGTH, max_size=LENGTH)


@settings(max_examples=60, deadline=None)
@given(flags, st.integers(0, 2**31 - 1), st.sampled_from(LAMBDAS), st.sampled_from(STEPS), st.floats(0.1, 1.0))
def test_a_trajectory_with_resets_is_its_episodes_one_by_one(ends, seed, lambda_, n, gamma):
    terminated, truncated = ([end == name for end in ends] for name in ("terminated", "truncated"))
    data = trajectory(seed, terminated, truncated, gamma)
    assert_equal(estimates(data, lambda_, n), by_rlax(data, lambda_, n))


@settings(max_examples=30, deadline=None)
@given(flags, st.integers(0, 2**31 - 1), st.sampled_from(LAMBDAS), st.sampled_from(STEPS))
def test_no_estimate_depends_on_what_came_before_or_on_other_episodes(ends, seed, lambda_, n):
    terminated, truncated = ([end == name for end in ends] for name in ("terminated", "truncated"))
    data, other = trajectory(seed, terminated, truncated), trajectory(seed + 1, terminated, truncated)
    before = estimates(data, lambda_, n)
    for rows in episodes(data):
        mixed = {name: np.where(np.isin(np.arange(LENGTH), np.r_[rows]), data[name], other[name]) for name in data}
        after = estimates(mixed, lambda_, n)
        for name in before:
            np.testing.assert_array_equal(after[name][rows], before[name][rows], err_msg=name)


@settings(max_examples=30, deadline=None)
@given(flags, st.integers(0, 2**31 - 1), st.sampled_from(LAMBDAS), st.sampled_from(STEPS))
def test_where_the_values_are_exact_every_return_is_the_value_and_every_advantage_is_zero(ends, seed, lambda_, n):
    terminated, truncated = ([end == name for end in ends] for name in ("terminated", "truncated"))
    data = trajectory(seed, terminated, truncated)
    data["r_t"] = data["v_tm1"] - data["discount_t"] * data["v_t"]
    found = estimates(data, lambda_, n)
    np.testing.assert_allclose(found["gae"], 0.0, atol=1e-12)
    np.testing.assert_allclose(found["lambda"], data["v_tm1"], atol=1e-12)
    np.testing.assert_allclose(found["n"], data["v_tm1"], atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(flags, st.integers(0, 2**31 - 1), st.floats(0.0, 1.0))
def test_a_lambda_return_is_the_geometric_mixture_of_the_n_step_returns(ends, seed, lambda_):
    terminated, truncated = ([end == name for end in ends] for name in ("terminated", "truncated"))
    data = trajectory(seed, terminated, truncated)
    n_step = [estimates(data, lambda_, n)["n"] for n in range(1, LENGTH + 1)]
    weights = (1 - lambda_) * lambda_ ** np.arange(LENGTH - 1)
    mixture = sum(weight * returns for weight, returns in zip(weights, n_step, strict=False))
    mixture = mixture + lambda_ ** (LENGTH - 1) * n_step[-1]
    np.testing.assert_allclose(estimates(data, lambda_, 1)["lambda"], mixture, rtol=1e-10, atol=1e-10)


def test_a_truncation_bootstraps_from_the_final_observation_and_cuts_the_trace():
    """Three steps, gamma = lambda = 1/2; the second is truncated in a state worth 8, the next episode starts at 1.

    deltas: 1 + 3/2 - 1 = 1.5, 2 + 8/2 - 1 = 5, 4 + 2/2 - 1 = 4; advantages: 1.5 + 5/4 = 2.75, 5, 4. Two steps:
    1 + (2 + 8/2)/2 = 4, 2 + 8/2 = 6, 4 + 2/2 = 5.
    """
    reward, discount, after = np.array([1.0, 2.0, 4.0]), np.full(3, 0.5), np.array([3.0, 8.0, 2.0])
    trace = np.array([1.0, 0.0, 1.0])
    np.testing.assert_allclose(gae(reward, discount, np.ones(3), after, trace, 0.5), [2.75, 5.0, 4.0])
    np.testing.assert_allclose(returns_of_n(reward, discount, after, trace, 2), [4.0, 6.0, 5.0])


def test_a_termination_ignores_the_value_after_it():
    """Same steps, the second terminated: its delta is 2 - 1 = 1; advantages: 1.5 + 1/4, 1, 4; two steps: 2, 2, 5."""
    reward, going, after = np.array([1.0, 2.0, 4.0]), np.array([1.0, 0.0, 1.0]), np.array([3.0, 1e6, 2.0])
    np.testing.assert_allclose(gae(reward, 0.5 * going, np.ones(3), after, going, 0.5), [1.75, 1.0, 4.0])
    np.testing.assert_allclose(returns_of_n(reward, 0.5 * going, after, going, 2), [2.0, 2.0, 5.0])


def test_fewer_than_one_transition_is_refused():
    data = trajectory(0)
    with pytest.raises(ValueError, match="n is 0; it must be >= 1"):
        n_step_returns(*(jnp.asarray(data[name]) for name in ("r_t", "discount_t", "v_t", "trace_t")), 0)


def test_the_discounted_future_by_hand():
    """1 + 4/2 + 2/4 + 8/8 = 4.5, and with an end after the second: 1 + 4/2 = 3."""
    x = np.array([[1.0, 0.0], [4.0, 2.0], [2.0, 0.0], [8.0, -4.0]])
    whole = discounted_future(jnp.asarray(x), jnp.ones((1, 1)), 0.5)
    np.testing.assert_allclose(whole, [[4.5, 0.5], [7.0, 1.0], [6.0, -2.0], [8.0, -4.0]])
    cut = discounted_future(jnp.asarray(x), jnp.asarray([[1.0], [0.0], [1.0], [1.0]]), 0.5)
    np.testing.assert_allclose(cut, [[3.0, 1.0], [4.0, 2.0], [6.0, -2.0], [8.0, -4.0]])


@settings(max_examples=30, deadline=None)
@given(flags, st.integers(0, 2**31 - 1), st.floats(0.0, 1.0))
def test_the_discounted_future_of_every_episode_is_that_of_rlax(ends, seed, discount):
    data = trajectory(seed, [end != "goes on" for end in ends])
    ours = _future(jnp.asarray(data["r_t"]), jnp.asarray(data["trace_t"]), discount)
    for rows in episodes(data):
        theirs = _rlax_future(data["r_t"][rows], np.full(rows.stop - rows.start, discount))
        np.testing.assert_allclose(ours[rows], theirs, rtol=1e-12, atol=1e-12)


_future = jax.jit(discounted_future)
_rlax_future = jax.jit(functools.partial(rlax.discounted_returns, v_t=np.zeros(())))
