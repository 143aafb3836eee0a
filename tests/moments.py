"""Whether a sample moment is within the error of its expected value."""

import math

import numpy as np

ERRORS = 4.5
"""Standard errors that a moment may be off; the keys are fixed, so a pass stays a pass."""


def assert_mean(sample: np.ndarray, expected: float):
    """The mean of independent draws lies within `ERRORS` standard errors of the expected one."""
    sample = np.asarray(sample, np.float64).ravel()
    score = (sample.mean() - expected) / (sample.std(ddof=1) / math.sqrt(sample.size))
    assert abs(score) < ERRORS, f"mean {sample.mean():.6g} is {score:.1f} standard errors from {expected:.6g}"
