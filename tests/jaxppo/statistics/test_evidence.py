"""Evidence over a base: the t-statistic against statsmodels, the utility by hand, chance and skill."""

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxppo.statistics.evidence import base_risk_aversion, evidence_share, mean_t_statistic, utility_over_base


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(5, 400), lags=st.integers(0, 12), memory=st.floats(-0.8, 0.8))
def test_the_t_statistic_is_that_of_newey_and_west(seed, n, lags, memory):
    noise = np.random.default_rng(seed).normal(0.02, 1.0, n)
    series = np.array([noise[0]] * n)
    for t in range(1, n):
        series[t] = memory * series[t - 1] + noise[t]
    lags = min(lags, n - 1)
    fitted = sm.OLS(series, np.ones(n)).fit(
        cov_type="HAC", cov_kwds={"maxlags": lags, "use_correction": False}, use_t=False
    )
    assert mean_t_statistic(series, lags) == pytest.approx(float(fitted.tvalues[0]), rel=1e-6)


def test_lags_grow_with_the_sample_and_what_never_changes_is_no_evidence():
    series = np.random.default_rng(0).normal(0.1, 1.0, 300)
    assert mean_t_statistic(series) == mean_t_statistic(series, int(4 * 3.0 ** (2 / 9)))
    assert mean_t_statistic(np.zeros(100)) == mean_t_statistic(np.full(100, 0.1)) == mean_t_statistic(series[:2]) == 0.0


def test_an_optimally_levered_base_earns_nothing_by_leverage():
    base = np.random.default_rng(1).normal(0.001, 0.01, 5000)
    risk_aversion = base_risk_aversion(base)
    assert risk_aversion == pytest.approx(base.mean() / base.var())
    mean = {scale: utility_over_base(scale * base, base, risk_aversion).mean() for scale in (0.8, 1.0, 1.2)}
    assert mean[1.0] == 0.0
    assert max(mean[0.8], mean[1.2]) < 0.0
    assert mean[0.8] == pytest.approx(mean[1.2])


def test_utilities_by_hand():
    r, b = np.array([0.1, -0.1, 0.3]), np.array([0.0, 0.1, 0.2])
    expected = (r - b) - 1.5 * ((r - 0.1) ** 2 - (b - 0.1) ** 2)
    np.testing.assert_allclose(utility_over_base(r, b, 3.0), expected)
    assert base_risk_aversion(np.zeros(9)) == base_risk_aversion(-b) == 1.0


def test_luck_closes_the_gate_and_skill_opens_it():
    rng, threshold = np.random.default_rng(2), 1.65
    luck = [mean_t_statistic(utility_over_base(rng.normal(0, 0.01, 250), np.zeros(250), 1.0)) for _ in range(1000)]
    assert np.mean(np.array(luck) > threshold) == pytest.approx(0.05, abs=0.03)
    skill = [mean_t_statistic(utility_over_base(rng.normal(3e-3, 0.01, 250), np.zeros(250), 1.0)) for _ in range(200)]
    assert np.mean(np.array(skill) > threshold) > 0.95


def test_the_share_of_the_evidence():
    assert evidence_share(1.65, 1.65, False) == evidence_share(-3.0, 0.0, True) == 0.0
    assert evidence_share(1.66, 1.65, False) == 1.0
    assert evidence_share(2.0, 1.65, True) == 0.75
    assert evidence_share(0.5, 0.1, True) == 0.0
    assert evidence_share(float("nan"), 0.0, False) == 0.0
