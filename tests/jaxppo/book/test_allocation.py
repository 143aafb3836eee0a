"""Allocation of a book: moments and shares by independent libraries, cuts and re-admission by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.optimize
from skfolio import RiskMeasure
from skfolio.optimization import RiskBudgeting
from skfolio.prior import BasePrior, ReturnDistribution

from jaxppo.book import PARTS, AllocationRule
from jaxppo.book.allocation import kelly_weights
from jaxppo.book.moments import shrunk_covariance, start_moments, update_moments

PLAIN = {"cut": 1.0, "readmit": 0.0, "cooldown": None, "rebalance": 0.0}


class Known(BasePrior):
    """A covariance as a prior of skfolio."""

    def __init__(self, covariance=None):
        self.covariance = covariance

    def fit(self, X, y=None, **_):
        number = len(self.covariance)
        self.return_distribution_ = ReturnDistribution(np.zeros(number), self.covariance, np.asarray(X))
        return self


def follow(rule, equity, dead=None):
    """The states at every close of equity `[T, M]`."""
    equity = jnp.asarray(equity, jnp.float32)
    dead = jnp.zeros(equity.shape, bool) if dead is None else jnp.asarray(dead)

    def close(state, xs):
        state = rule.update(state, *xs)
        return state, state

    return jax.jit(lambda *xs: jax.lax.scan(close, rule.init(equity.shape[1]), xs)[1])(equity, dead)


def equity_of(returns):
    """From 100 on, `[T + 1, M]`."""
    return 100.0 * np.concatenate([np.ones((1, returns.shape[1])), np.cumprod(1.0 + returns, axis=0)])


def draws(seed, n_bars=300, mean=0.0, spread=(0.005, 0.01, 0.02), correlation=0.5):
    """Correlated returns of three strategies."""
    number = len(spread)
    matrix = np.full((number, number), correlation) + (1.0 - correlation) * np.eye(number)
    shocks = np.random.default_rng(seed).normal(size=(n_bars, number)) @ np.linalg.cholesky(matrix).T
    return mean + shocks * np.asarray(spread)


@functools.cache
def moments(seed, span, n_bars=300):
    state = start_moments(3)
    step = jax.jit(update_moments)
    for row in draws(seed, n_bars):
        state = step(state, jnp.asarray(row, jnp.float32), float(span))
    return state


def test_moments_are_those_of_pandas():
    frame = pd.DataFrame(draws(0))
    state = moments(0, 40)
    np.testing.assert_allclose(state.mean, frame.ewm(span=40).mean().iloc[-1], rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(state.covariance(), frame.ewm(span=40).cov().loc[299], rtol=1e-4)
    weights = (1 - 2 / 41) ** np.arange(300)
    assert float(state.observations) == pytest.approx(weights.sum() ** 2 / (weights**2).sum(), rel=1e-5)


def test_a_covariance_is_shrunk_by_the_oracle_approximating_formula():
    """Equation 23 of Chen et al. on the correlation matrix, written out in numpy."""
    covariance, n = np.cov(draws(1, 40).T), 40.0
    spread = np.sqrt(np.diag(covariance))
    s, p = covariance / np.outer(spread, spread), 3
    trace = np.trace(s @ s)
    rho = ((1 - 2 / p) * trace + np.trace(s) ** 2) / ((n + 1 - 2 / p) * (trace - np.trace(s) ** 2 / p))
    assert 0.0 < rho < 1.0
    expected = (1 - rho) * s + rho * np.eye(3)
    found = shrunk_covariance(jnp.asarray(covariance, jnp.float32), jnp.float32(n))
    np.testing.assert_allclose(found, expected * np.outer(spread, spread), rtol=1e-4)


def test_who_does_nothing_is_not_riskless():
    covariance = jnp.diag(jnp.asarray([0.0, 2e-4, 4e-4]))
    assert np.diagonal(shrunk_covariance(covariance, jnp.float32(50.0))) == pytest.approx([2e-6, 2e-4, 4e-4], rel=1e-5)
    np.testing.assert_array_equal(shrunk_covariance(jnp.zeros((3, 3)), jnp.float32(0.0)), np.eye(3))


def test_inverse_risk_is_equal_risk_contribution():
    rule = AllocationRule(parts=("inverse_risk",), span=40, warmup=30, **PLAIN)
    states = follow(rule, equity_of(draws(0)))
    covariance = np.asarray(shrunk_covariance(moments(0, 40).covariance(), moments(0, 40).observations), np.float64)

    model = RiskBudgeting(risk_measure=RiskMeasure.VARIANCE, prior_estimator=Known(covariance))
    np.testing.assert_allclose(states.allocation[-1], model.fit(draws(0)).weights_, atol=1e-4)
    uncorrelated = follow(rule, equity_of(draws(3, 2000, correlation=0.0)))
    inverse = 1.0 / np.asarray([0.005, 0.01, 0.02])
    np.testing.assert_allclose(uncorrelated.allocation[-1], inverse / inverse.sum(), atol=0.08)


@pytest.mark.parametrize("means", [(1.5e-3, -0.5e-3, 4e-3), (1e-3, 3e-3, -2e-3), (-1e-3, 2e-3, 1e-3)])
@pytest.mark.parametrize("left_out", [None, 1])
def test_kelly_is_jorion_kan_zhou_and_a_program_of_scipy(means, left_out):
    state, span = moments(2, 60), 60
    gain = state.replace(mean=jnp.asarray(means))
    active = np.arange(3) != left_out
    n = active.sum()
    covariance = np.asarray(state.covariance(), np.float64)
    mean, t = np.asarray(means)[active], float(state.observations)
    assert t == pytest.approx(span, rel=0.05)
    own = covariance[np.ix_(active, active)]
    theta = mean @ np.linalg.solve(own, mean) - n / t
    assert theta > 0
    apart = mean - mean.mean()
    share = (n + 2) / (n + 2 + t * apart @ np.linalg.solve(own, apart))
    shrunk, root = mean - share * apart, np.linalg.cholesky(own)
    best, _ = scipy.optimize.nnls(root.T, np.linalg.solve(root, shrunk))
    found = kelly_weights(gain, jnp.asarray(covariance, jnp.float32), jnp.asarray(active))
    np.testing.assert_allclose(found[active], theta / (theta + n / t) * best, rtol=2e-3, atol=1e-3)
    assert (np.asarray(found)[~active] == 0.0).all()


def test_kelly_gives_nothing_to_losers_and_less_than_everything_to_the_uncertain():
    rule = AllocationRule(parts=("kelly",), **PLAIN)
    states = follow(rule, equity_of(draws(4, 600, mean=np.asarray([0.002, -0.003, 0.0]))))
    assert states.allocation[-1][0] > 0.3
    assert states.allocation[-1][1] == 0.0
    nothing = follow(rule, equity_of(draws(5, 600, mean=-0.002)))
    np.testing.assert_array_equal(nothing.allocation[-1], np.zeros(3))


def test_both_shares_are_joined_by_the_root_of_their_product():
    equity = equity_of(draws(6, 500, mean=0.003))
    one, other, both = (
        np.asarray(follow(AllocationRule(parts=parts, **PLAIN), equity).allocation[-1], np.float64)
        for parts in (("inverse_risk",), ("kelly",), ("inverse_risk", "kelly"))
    )
    root = np.sqrt(one / one.sum() * other / other.sum())
    np.testing.assert_allclose(both / both.sum(), root / root.sum(), rtol=1e-3)
    assert both.sum() == pytest.approx(other.sum(), rel=1e-4)


def test_equal_capital_until_the_warm_up_is_over():
    """Four closes have three returns."""
    rule = AllocationRule(parts=("inverse_risk", "kelly"), warmup=3, **PLAIN)
    allocation = np.asarray(follow(rule, equity_of(draws(7, 10))).allocation)
    np.testing.assert_allclose(allocation[:3], 1 / 3, rtol=1e-6)
    assert np.abs(allocation[3] - 1 / 3).max() > 1e-3


def test_drawdowns_move_capital_and_then_take_it():
    """Losses of 10 and of 5 % of a limit of 20 %: half and three quarters are left, and no more of the whole."""
    rule = AllocationRule(parts=("drawdown",), drawdown_limit=0.2, **PLAIN)
    allocation = np.asarray(follow(rule, [[100.0, 100.0], [90.0, 95.0], [90.0, 100.0], [75.0, 75.0]]).allocation)
    np.testing.assert_allclose(allocation[0], [0.5, 0.5])
    np.testing.assert_allclose(allocation[1], 0.75 * np.asarray([0.5, 0.75]) / 1.25, rtol=1e-5)
    np.testing.assert_allclose(allocation[2], np.asarray([0.5, 1.0]) / 1.5, rtol=1e-5)
    np.testing.assert_allclose(allocation[3], [0.0, 0.0])


TRACE = [100, 110, 87, 95, 100, 90, 85, 80, 80, 60, 60, 80]
"""The peak is 110: 87 is 20.9 % below, 95 13.6 %, 100 9.1 %, 85 22.7 %, 80 27.3 %."""


def trace(**keys):
    rule = AllocationRule(parts=(), **{"cut": 0.2, "readmit": 0.1, "cooldown": None, "rebalance": 0.0, **keys})
    other = np.full(len(TRACE), 100.0)
    return follow(rule, np.stack([TRACE, other], axis=1))


def test_a_strategy_is_cut_and_comes_back_when_it_has_recovered():
    states = trace()
    active = np.asarray([1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0], bool)
    np.testing.assert_array_equal(states.active[:, 0], active)
    np.testing.assert_array_equal(states.cuts[:, 0], [0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2])
    np.testing.assert_array_equal(states.waited[:, 0], [0, 0, 0, 1, 0, 0, 0, 1, 2, 3, 4, 5])
    np.testing.assert_allclose(states.allocation[:, 0], np.where(active, 0.5, 0.0))
    np.testing.assert_allclose(states.allocation[:, 1], np.where(active, 0.5, 1.0))


def test_a_strategy_comes_back_after_the_cooldown_with_a_new_peak():
    """Cut again at 85, back two bars later at 80, which is the new peak: 60 is 25 % below it, and 80 is not."""
    states = trace(cooldown=2)
    np.testing.assert_array_equal(states.active[:, 0], [1, 1, 0, 0, 1, 1, 0, 0, 1, 0, 0, 1])
    np.testing.assert_array_equal(states.cuts[-1], [3, 0])
    np.testing.assert_allclose(states.peak[:, 0], [100, *[110] * 7, 80, 80, 80, 80], rtol=1e-6)


def test_a_breach_needs_more_than_the_cut():
    states = follow(AllocationRule(parts=(), cut=0.25, readmit=0.1, cooldown=None), [[100.0], [75.0], [74.9]])
    np.testing.assert_array_equal(states.active[:, 0], [True, True, False])


def test_the_liquidated_never_come_back():
    equity = [[100.0, 100.0], [40.0, 100.0], [-5.0, 100.0], [-5.0, 101.0], [200.0, 101.0]]
    dead = [[False, False], [True, False], [True, False], [True, False], [True, False]]
    states = follow(AllocationRule(cooldown=1), equity, dead)
    np.testing.assert_array_equal(states.active[:, 0], [True, False, False, False, False])
    np.testing.assert_array_equal(states.cuts[-1], [1, 0])
    np.testing.assert_allclose(states.allocation[:, 0], [0.5, 0, 0, 0, 0])
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(states))


def test_capital_is_carried_by_returns_until_it_is_off_by_the_tolerance():
    """After +10 % and -10 %, 0.5 each have become 0.55 and 0.45 of an unchanged total; then one bar more."""
    rule = AllocationRule(parts=(), cut=1.0, readmit=0.0, cooldown=None, rebalance=0.06)
    states = follow(rule, [[100.0, 100.0], [110.0, 90.0], [121.0, 90.0]])
    np.testing.assert_allclose(states.allocation[1], [0.55, 0.45], rtol=1e-5)
    np.testing.assert_allclose(states.allocation[2], [0.5, 0.5], rtol=1e-5)
    np.testing.assert_array_equal(states.moved, [True, False, True])


@pytest.mark.parametrize("seed", range(4))
def test_capital_is_never_negative_nor_more_than_the_total_and_the_tolerance(seed):
    rng = np.random.default_rng(seed)
    parts = tuple(part for part in PARTS if rng.random() < 0.6)
    most, tolerance = float(rng.uniform(0.3, 1.5)), float(rng.uniform(0.0, 0.1))
    rule = AllocationRule(
        parts=parts, max_total=most, rebalance=tolerance, warmup=20, cut=0.1, readmit=0.05, cooldown=15
    )
    states = follow(rule, equity_of(draws(seed, 300, mean=0.001, spread=(0.002, 0.02, 0.05))))
    allocation, active = np.asarray(states.allocation), np.asarray(states.active)
    assert (allocation >= 0.0).all()
    assert (allocation[~active] == 0.0).all()
    assert allocation.sum(axis=1).max() <= most + tolerance + 1e-5
    assert states.cuts[-1].sum() > 0
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(states))


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"parts": ("luck",)}, "luck"),
        ({"span": 1}, "span"),
        ({"cut": 0.1, "readmit": 0.1}, "readmit"),
        ({"cooldown": 0}, "cooldown"),
        ({"max_total": 0.0}, "max_total"),
        ({"drawdown_limit": 1.5}, "drawdown_limit"),
    ],
)
def test_a_mistake_is_named(keys, says):
    with pytest.raises(ValueError, match=says):
        AllocationRule(**keys)
