"""Losses and penalty rules against rlax, optax and numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import rlax
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxppo.ppo import losses


def slopes(loss, *x):
    """Values and derivatives by the first argument, element by element."""
    value = loss(*x)
    return np.asarray(value), np.asarray(jax.grad(lambda first: loss(first, *x[1:]).sum())(x[0]))


def random_samples(n: int = 500):
    rng = np.random.default_rng(2)
    return jnp.asarray(rng.normal(0, 0.4, n), jnp.float32), jnp.asarray(rng.normal(size=n), jnp.float32)


def test_the_clipped_surrogate_and_its_gradient_equal_rlax():
    log_ratio, advantage = random_samples()
    ours, our_slope = jax.value_and_grad(lambda x: losses.surrogate(x, advantage, 0.2).mean())(log_ratio)
    theirs, their_slope = jax.value_and_grad(lambda x: rlax.clipped_surrogate_pg_loss(jnp.exp(x), advantage, 0.2))(
        log_ratio
    )
    assert float(ours) == pytest.approx(float(theirs), rel=1e-6)
    np.testing.assert_allclose(our_slope, their_slope, rtol=1e-5, atol=1e-8)
    assert 0.05 < np.mean(np.asarray(our_slope) == 0) < 0.95


def test_without_a_clip_the_surrogate_is_the_weighted_advantage():
    log_ratio, advantage = random_samples()
    value, slope = slopes(losses.surrogate, log_ratio, advantage)
    expected = -np.exp(np.asarray(log_ratio, np.float64)) * np.asarray(advantage)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(slope, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (0.5, 1.0, -0.5, -0.5),
        (4.0, 1.0, -1.2, 0.0),
        (0.5, -1.0, 0.8, 0.0),
        (2.0, -1.0, 2.0, 2.0),
        (2.9, -2.0, 5.8, 5.8),
        (3.1, -2.0, 6.0, 0.0),
        (1e6, -1.0, 3.0, 0.0),
        (1e6, 1.0, -1.2, 0.0),
    ],
)
def test_the_dual_clip_by_hand(ratio, advantage, loss, slope):
    """eps = 0.2, c = 3: where A < 0 the loss stops at 3 |A| and pushes no further."""
    found = slopes(
        lambda x, a: losses.surrogate(x, a, 0.2, 3.0), jnp.log(jnp.asarray([ratio])), jnp.asarray([advantage])
    )
    np.testing.assert_allclose(found, [[loss], [slope]], rtol=1e-5)


def test_the_dual_clip_alone_by_hand():
    ratio, advantage = jnp.asarray([0.5, 4.0, 4.0, 2.0]), jnp.asarray([-1.0, -1.0, 1.0, -1.0])
    value, slope = slopes(lambda x, a: losses.surrogate(x, a, None, 3.0), jnp.log(ratio), advantage)
    np.testing.assert_allclose(value, [0.5, 3.0, -4.0, 2.0], rtol=1e-5)
    np.testing.assert_allclose(slope, [0.5, 0.0, -4.0, 2.0], rtol=1e-5)


@settings(max_examples=100, deadline=None)
@given(st.floats(-3, 3, width=32), st.floats(-5, 5, width=32), st.floats(0.01, 0.9), st.floats(1.01, 10.0))
def test_every_clip_only_lowers_the_promised_gain_and_the_dual_clip_bounds_the_loss(log_ratio, advantage, clip, dual):
    x = (jnp.float32(log_ratio), jnp.float32(advantage))
    plain, clipped, both = losses.surrogate(*x), losses.surrogate(*x, clip), losses.surrogate(*x, clip, dual)
    slack = 1e-5 * (1 + abs(float(plain)))
    assert float(clipped) >= float(plain) - slack
    assert float(both) <= float(clipped) + slack
    if advantage < 0:
        assert float(both) <= dual * abs(advantage) + slack
    else:
        assert float(both) == float(clipped)


@settings(max_examples=200, deadline=None)
@given(st.floats(-20, 20, width=32))
def test_the_kl_estimate_is_never_negative(log_ratio):
    assert float(losses.kl_estimate(jnp.float32(log_ratio))) >= 0


def test_the_kl_estimate_averages_to_the_divergence():
    rng = np.random.default_rng(3)
    old, new = rng.dirichlet(np.ones(6), 2)
    expected = scipy.stats.entropy(old, new)
    average = np.sum(old * np.asarray(losses.kl_estimate(jnp.asarray(np.log(new / old), jnp.float32))))
    assert average == pytest.approx(expected, rel=1e-5)


def test_the_clipped_fraction_by_hand():
    ratio = jnp.log(jnp.asarray([0.5, 0.79, 0.81, 1.0, 1.19, 1.21]))
    assert losses.clipped_fraction(ratio, 0.2).tolist() == [1, 1, 0, 0, 0, 1]


def test_squared_and_huber_value_errors_equal_optax():
    value, target = (10 * x for x in random_samples())
    value = jnp.concatenate([value, target[:1], target[1:2] + 1.0, target[2:3] - 1.0])
    target = jnp.concatenate([target, target[:3]])
    found, expected = (slopes(f, value, target) for f in (losses.squared_value_error, optax.l2_loss))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    for delta in (0.1, 1.0, 7.5):
        found = slopes(lambda v, t, d=delta: losses.huber_value_error(v, t, d), value, target)
        expected = slopes(lambda v, t, d=delta: optax.huber_loss(v, t, delta=d), value, target)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        assert 0.01 < np.mean(np.abs(found[1]) == np.float32(delta)) < 0.999


@pytest.mark.parametrize(
    ("value", "target", "loss", "slope"),
    [
        (0.1, 1.0, 0.405, -0.9),
        (0.5, 1.0, 0.32, 0.0),
        (0.5, -1.0, 1.125, 1.5),
        (-0.5, 1.0, 1.125, -1.5),
        (-0.5, -1.0, 0.32, 0.0),
    ],
)
def test_the_clipped_value_error_by_hand(value, target, loss, slope):
    """Old value 0, clip 0.2: beyond the clip nothing is gained by coming nearer, and everything lost by going away."""
    found = slopes(
        lambda v, t: losses.clipped_value_error(v, t, jnp.zeros(1), 0.2), jnp.asarray([value]), jnp.asarray([target])
    )
    np.testing.assert_allclose(found, [[loss], [slope]], rtol=1e-5)


@pytest.mark.parametrize(
    ("kl", "factor"), [(0.0, 0.5), (0.0132, 0.5), (0.0134, 1.0), (0.02, 1.0), (0.0299, 1.0), (0.0301, 2.0), (9.0, 2.0)]
)
def test_doubled_or_halved_by_hand(kl, factor):
    """Target 0.02: halved below 0.01333, doubled above 0.03."""
    found = losses.doubled_or_halved(jnp.float32(0.8), jnp.float32(kl), 0.02)
    assert float(found) == pytest.approx(0.8 * factor)


@pytest.mark.parametrize(
    ("ratio", "factor"),
    [(1.0, 1.0), (1.5, 1.1618342), (10.0, 2.4596031), (0.5, 0.8607080), (0.0, 0.7408182)],
)
def test_the_integral_rule_by_hand(ratio, factor):
    """Gain 0.3: factors e^0, e^0.15, e^0.9 (the error is cut at 3), e^-0.15, e^-0.3."""
    found = losses.log_integral(jnp.float32(0.8), jnp.float32(0.02 * ratio), 0.02, 0.3)
    assert float(found) == pytest.approx(0.8 * factor, rel=1e-5)


def test_the_coefficient_stays_within_its_range():
    for rule in (losses.doubled_or_halved, lambda c, kl, target: losses.log_integral(c, kl, target, 0.3)):
        assert float(rule(jnp.float32(1e6), jnp.float32(1.0), 0.01)) == pytest.approx(1e6)
        assert float(rule(jnp.float32(1e-6), jnp.float32(0.0), 0.01)) == pytest.approx(1e-6)


@settings(max_examples=25, deadline=None)
@given(st.floats(1e-4, 1e4), st.floats(0.3, 2.0))
def test_both_rules_find_the_coefficient_that_gives_the_target(scale, power):
    """Where the divergence falls with the coefficient, `kl = scale c^-power`, they settle near the target."""
    target = 0.01
    integral = doubled = jnp.float32(1.0)
    for _ in range(120):
        integral = _integral(integral, scale * integral**-power, target)
        doubled = _doubled(doubled, scale * doubled**-power, target)
    if 1e-5 < (scale / target) ** (1 / power) < 1e5:
        assert float(scale * integral**-power) == pytest.approx(target, rel=1e-2)
        if power <= 1.0:
            assert target / 1.5 <= float(scale * doubled**-power) <= 1.5 * target


_integral = jax.jit(lambda c, kl, target: losses.log_integral(c, kl, target, 0.3))
_doubled = jax.jit(losses.doubled_or_halved)
