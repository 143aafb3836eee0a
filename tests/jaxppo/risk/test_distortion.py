"""Distortion risk measures: scipy's integrals, this package's tail metrics, skfolio, and what theory says of them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import skfolio.measures
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxppo.risk.distortion import cell_weights, distort, distorted_value, marginal_utility, midpoints
from jaxppo.risk.metrics import conditional_value_at_risk

KINDS = [("none", 0.0), ("cvar", 0.25), ("cvar", 0.3), ("cvar", 1.0), ("wang", 0.5), ("power", 1.5)]
SAMPLES = st.lists(st.floats(-50.0, 50.0, width=32), min_size=2, max_size=40)


def density(kind, level, tau):
    """`g'(tau)`, written once more."""
    if kind == "cvar":
        return (tau < level) / level
    if kind == "wang":
        z = scipy.stats.norm.ppf(tau)
        return np.exp(-level * z - 0.5 * level**2)
    return {"none": 1.0, "power": (1.0 + level) * (1.0 - tau) ** level}[kind]


@pytest.mark.parametrize(("kind", "level"), KINDS)
def test_a_cell_weighs_the_integral_of_the_density_over_it(kind, level):
    weights = cell_weights(10, kind, level)
    for i, weight in enumerate(weights):
        low, high = i / 10, (i + 1) / 10
        middle = [level] if kind == "cvar" and low < level < high else None
        expected = scipy.integrate.quad(lambda tau: density(kind, level, tau), low, high, points=middle)[0]
        assert weight == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert weights.sum() == pytest.approx(1.0, abs=1e-14)


@pytest.mark.parametrize(
    ("kind", "level", "expected"),
    [
        ("none", 0.0, [0.25, 0.25, 0.25, 0.25]),
        ("cvar", 0.5, [0.5, 0.5, 0.0, 0.0]),
        ("cvar", 0.25, [1.0, 0.0, 0.0, 0.0]),
        ("cvar", 0.4, [0.625, 0.375, 0.0, 0.0]),
        ("power", 1.0, [7 / 16, 5 / 16, 3 / 16, 1 / 16]),
    ],
)
def test_weights_by_hand(kind, level, expected):
    np.testing.assert_allclose(cell_weights(4, kind, level), expected, atol=1e-15)


@settings(max_examples=50, deadline=None)
@given(SAMPLES, st.floats(0.05, 1.0))
def test_cvar_of_equally_likely_outcomes_is_that_of_the_metrics_and_of_skfolio(sample, share):
    """Exactly, wherever the tail ends: in a cell or at its edge."""
    x = np.asarray(sample, np.float32)
    found = float(distorted_value(jnp.asarray(x), cell_weights(len(x), "cvar", share)))
    metric = -skfolio.measures.cvar(x.astype(np.float64), beta=1.0 - share)
    assert found == pytest.approx(metric, rel=1e-4, abs=1e-3)
    if share < 1.0:
        assert found == pytest.approx(-float(conditional_value_at_risk(jnp.asarray(x), level=1 - share)), abs=1e-3)


@pytest.mark.parametrize("level", [0.1, 0.5])
def test_wang_takes_standard_deviations_off_a_normal_distribution(level):
    q = jnp.asarray(3.0 + 2.0 * scipy.stats.norm.ppf(midpoints(4000)), jnp.float32)
    assert float(distorted_value(q, cell_weights(4000, "wang", level))) == pytest.approx(3.0 - 2.0 * level, abs=0.02)


@pytest.mark.parametrize("draws", [2, 3, 5])
def test_power_is_the_mean_of_the_worst_of_independent_draws(draws):
    """Of uniform draws on [0, 1] it is `1 / (draws + 1)`."""
    weights = cell_weights(1000, "power", draws - 1.0)
    assert float(distorted_value(jnp.asarray(midpoints(1000)), weights)) == pytest.approx(1 / (draws + 1), abs=1e-5)


@settings(max_examples=50, deadline=None)
@given(SAMPLES, st.floats(0.1, 5.0), st.floats(-10, 10), st.integers(0, 2**32 - 1))
def test_what_makes_a_risk_measure_of_it(sample, scale, shift, seed):
    """Law-invariant, between the worst and the mean, monotone in aversion, equivariant under scale and shift."""
    x = np.asarray(sample, np.float64)
    n, order = len(x), np.random.default_rng(seed).permutation(len(x))
    tolerance = 1e-3 * (1 + np.abs(x).max() * scale)
    for kind, levels in {"cvar": (1.0, 0.7, 0.3, 0.1), "wang": (0.1, 1.0, 3.0), "power": (0.1, 1.0, 9.0)}.items():
        found = []
        for level in levels:
            weights = cell_weights(n, kind, level)
            value = float(distorted_value(jnp.asarray(x, jnp.float32), weights))
            assert float(distorted_value(jnp.asarray(x[order], jnp.float32), weights)) == pytest.approx(value, abs=1e-4)
            moved = float(distorted_value(jnp.asarray(scale * x + shift, jnp.float32), weights))
            assert moved == pytest.approx(scale * value + shift, abs=tolerance)
            found.append(value)
        assert x.mean() + 1e-3 >= found[0]
        assert all(a >= b - 1e-3 for a, b in itertools.pairwise(found))
        assert found[-1] >= x.min() - 1e-3


def test_the_order_of_crossing_quantiles_does_not_matter_and_gradients_reach_the_ones_that_weigh():
    crossing = jnp.asarray([0.0, 3.0, 1.0, 2.0])
    weights = cell_weights(4, "cvar", 0.5)
    assert float(distorted_value(crossing, weights)) == 0.5
    slope = jax.grad(lambda q: distorted_value(q, weights))(crossing)
    np.testing.assert_allclose(slope, [0.5, 0.0, 0.5, 0.0])


# Marginal utility.


def mixture_quantiles(share, n):
    """Of N(0, 1) with probability `share`, else N(0.3, 2)."""
    grid = np.linspace(-12, 12, 200_001)
    cdf = share * scipy.stats.norm.cdf(grid) + (1 - share) * scipy.stats.norm.cdf(grid, 0.3, 2.0)
    return np.interp(midpoints(n), cdf, grid)


@pytest.mark.parametrize(("kind", "level"), KINDS)
def test_it_is_the_derivative_of_the_value_by_probability(kind, level):
    share, h = 0.6, 1e-3

    def rho(p):
        """By integration, not from quantiles."""
        n = 400_000
        return float(np.mean(mixture_quantiles(p, n) * density(kind, level, midpoints(n))))

    expected = (rho(share + h) - rho(share - h)) / (2 * h)
    n = 512
    draws = [scipy.stats.norm.ppf(midpoints(4000), *of) for of in ((0.0, 1.0), (0.3, 2.0))]
    q = jnp.asarray(mixture_quantiles(share, n), jnp.float32)
    weights = cell_weights(n, kind, level)
    one, other = (marginal_utility(jnp.asarray(x, jnp.float32), q, weights).mean() for x in draws)
    assert float(one - other) == pytest.approx(expected, abs=0.02)


def test_of_cvar_it_is_the_outcome_cut_at_the_value_at_risk():
    q = jnp.asarray([4.0, 0.0, 2.0, 6.0])
    x = jnp.linspace(-3.0, 9.0, 25)
    found = marginal_utility(x, q, cell_weights(4, "cvar", 0.5))
    expected = np.minimum(np.asarray(x), 3.0) / 0.5  # halfway between the second and the third
    np.testing.assert_allclose(found - found[0], expected - expected[0], atol=1e-5)


@pytest.mark.parametrize(("kind", "level"), KINDS)
def test_its_slope_at_each_quantile_is_that_of_the_value(kind, level):
    """Moving an atom moves `E[u]` as it moves `rho`."""
    weights = cell_weights(8, kind, level)
    q = jnp.asarray(np.random.default_rng(0).normal(size=8) * 10, jnp.float32)
    slope = jax.grad(lambda x: marginal_utility(x, q, weights).mean())(q)
    np.testing.assert_allclose(slope, jax.grad(lambda q: distorted_value(q, weights))(q), atol=1e-6)


def test_large_values_keep_small_differences():
    q = jnp.asarray(1e4 + np.arange(8.0), jnp.float32)
    found = marginal_utility(q, q, cell_weights(8, "cvar", 0.125))
    np.testing.assert_allclose(found - found[0], [0.0, *[4.0] * 7], atol=1e-3)


def test_equal_quantiles_are_no_special_case():
    q = jnp.full((3, 8), 2.0)
    for kind, level in KINDS:
        weights = cell_weights(8, kind, level)
        np.testing.assert_allclose(distorted_value(q, weights), 2.0, rtol=1e-6)
        assert np.isfinite(np.asarray(marginal_utility(q, q, weights))).all()


@pytest.mark.parametrize(("kind", "level"), [("cvar", 0.0), ("cvar", 1.1), ("wang", 0.0), ("power", -1.0)])
def test_levels_outside_their_range_are_refused(kind, level):
    with pytest.raises(ValueError, match=f"level is {level}"):
        cell_weights(4, kind, level)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'var'"):
        distort(np.zeros(1), "var", 0.5)
