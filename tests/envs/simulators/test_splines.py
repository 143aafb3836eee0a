"""Natural cubic splines against SciPy's."""

import numpy as np
from scipy.interpolate import CubicSpline

from jaxppo.envs.simulators.splines import CubicSplines

KNOTS = np.linspace(-2.0, 3.0, 11)


def test_values_and_slopes_are_scipys():
    values = np.random.default_rng(0).normal(size=(3, 11))
    ours, theirs = CubicSplines(KNOTS), CubicSpline(KNOTS, values, axis=1, bc_type="natural")
    x = np.random.default_rng(1).uniform(-2.0, 3.0, (3, 7))
    expected = np.stack([theirs(row)[i] for i, row in enumerate(x)])
    np.testing.assert_allclose(ours.reader(x)(values), expected, atol=1e-12)
    np.testing.assert_allclose(np.einsum("fxn,fn->fx", ours.matrix(x), values), expected, atol=1e-12)
    np.testing.assert_allclose(ours.slope(values, 4), theirs(np.linspace(-2.0, 3.0, 41), 1), atol=1e-11)


def test_both_ends_are_knots():
    values = np.random.default_rng(2).normal(size=(1, 11))
    np.testing.assert_allclose(CubicSplines(KNOTS).reader(KNOTS[None])(values), values, atol=1e-12)
