"""The linear policy of feature portfolios: its gains are those of the accounting, its fits see the past alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from causality import assert_causal

import jaxppo
from jaxppo.backtest import plain_conditions
from jaxppo.envs import simulators
from jaxppo.envs.execution.costs import make_costs
from jaxppo.envs.trading.view import MarketView
from jaxppo.policy import rules
from jaxppo.policy.feature_portfolios import feature_table, mixture, portfolios, refitted

PERIODS = 252.0


def market(n_bars=900, carry=True, **options):
    found = simulators.gbm(jax.random.key(3), n_bars, 3, half_spread=5e-4, **options)
    values = np.random.default_rng(0).normal(0.0, 0.05, found.close.shape).astype(np.float32)
    return found.replace(carry=jnp.asarray(values)) if carry else found


@pytest.mark.parametrize("carry", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_targets_look_at_the_past_alone(carry):
    """Also at a bar of a fit, whose last decisions have not earned anything yet."""
    policy = rules.feature_portfolios(first_fit=400, refit=100, gross=5.0)
    prices = market(carry=carry)
    assert feature_table(prices).shape[-1] == (12 if carry else 10)
    assert_causal(lambda m: policy.table((), MarketView(m, PERIODS, 1.0))["weights"], prices, 500, jax.random.key(1))


def test_nothing_is_held_before_the_first_fit_and_fits_change_at_their_bars():
    prices = market()
    other = prices.replace(
        **{name: getattr(prices, name).at[440:].multiply(1.5) for name in ("open", "high", "low", "close")}
    )
    one, two = (
        np.asarray(refitted(portfolios(m, PERIODS, 0.1, 63, 1.0, 0.0), np.array([300, 439, 600]), PERIODS, 0.1))
        for m in (prices, other)
    )
    assert not one[:300].any()
    assert one[300:440].any()
    np.testing.assert_array_equal(one[:440], two[:440])


def test_the_gains_of_a_portfolio_are_those_of_an_account_that_holds_it():
    """Of closes, which fill at the next close: then the account earns in a bar what the portfolio gains in it."""
    prices = market(volatility=0.01)
    prices = prices.replace(open=prices.close, high=prices.close, low=prices.close)
    found = portfolios(prices, PERIODS, 0.05, 63, 1.0, 1e-4)
    costs = make_costs(commission_bps=1.0, slippage=0.0, impact=0.0, participation_limit=None, max_leverage=5.0,
                       margin_rate=0.0, borrow_rate=0.0, maintenance_margin=0.0)  # fmt: skip
    conditions = plain_conditions(3, periods=PERIODS, costs=costs, initial_cash=1e6)
    for number in (0, 5, 11):
        held = found.held[..., number]
        rule = rules.rule("one portfolio", lambda view, held=held: held, gross=5.0, tolerance=0.0)
        traded = jaxppo.simulate(rule, prices, conditions=conditions, first=300).ledger.returns
        gains = np.asarray(found.gains[300 : 300 + len(traded)], np.float64)[:, number]
        # The first trades come from a flat start, and costs are paid in the bar of the fill.
        total, paid = np.cumsum(gains[20:-1]), np.cumsum(traded[21:])
        assert np.corrcoef(gains[20:-1], traded[21:])[0, 1] > 0.995
        assert np.abs(total - paid).max() < 0.05 * gains.std() * len(gains) ** 0.5


def test_a_mixture_of_independent_portfolios_is_that_of_kelly_shrunk():
    """Many years and no correlation: weights go as mean over variance, which is what a log investor holds."""
    rng = np.random.default_rng(1)
    mean, deviation = np.array([3.0, 1.0, -2.0, 2.0]) * 1e-3, np.array([1.0, 2.0, 1.0, 0.5]) * 1e-2
    gains = jnp.asarray(rng.normal(mean, deviation, (200_000, 4)), jnp.float32)
    weights = np.asarray(mixture(gains, jnp.ones(len(gains), bool), PERIODS, 0.1), np.float64)
    kelly = np.maximum(np.asarray(gains).mean(axis=0) / np.asarray(gains).var(axis=0), 0.0)
    np.testing.assert_allclose(weights / weights[0], kelly / kelly[0], rtol=0.03, atol=1e-3)
    assert np.std(np.asarray(gains) @ weights) * PERIODS**0.5 == pytest.approx(0.1, rel=1e-3)


def test_little_evidence_is_the_mean_of_all_portfolios():
    rng = np.random.default_rng(2)
    gains = rng.normal(0.0, 0.01, (40, 3)) + np.array([2e-3, 1e-3, 1e-3])
    few, many = (mixture(jnp.asarray(np.tile(gains, (n, 1)), jnp.float32), jnp.ones(40 * n, bool), PERIODS, 0.1)
                 for n in (1, 500))  # fmt: skip
    assert np.ptp(few) < 0.5 * np.ptp(many)


def test_no_gains_are_no_weights():
    gains = jnp.full((50, 3), jnp.nan)
    np.testing.assert_array_equal(mixture(gains, jnp.zeros(50, bool), PERIODS, 0.1), 0.0)


def test_a_portfolio_that_has_held_nothing_has_no_weight():
    """Carry that begins late, or a rank of one asset alone: no gains so far say nothing of those to come."""
    rng = np.random.default_rng(3)
    gains = rng.normal(1e-3, 0.01, (500, 4))
    gains[:, 2] = 0.0
    alone = np.delete(gains, 2, axis=1)
    found, expected = (
        np.asarray(mixture(jnp.asarray(x, jnp.float32), jnp.ones(500, bool), PERIODS, 0.1)) for x in (gains, alone)
    )
    assert found[2] == 0.0
    np.testing.assert_allclose(np.delete(found, 2), expected, rtol=1e-5)
    late = market().replace(carry=market().carry.at[:700].set(jnp.nan))
    weights = refitted(portfolios(late, PERIODS, 0.1, 63, 1.0, 0.0), np.array([504]), PERIODS, 0.1)
    gross = np.abs(np.asarray(weights)).sum(axis=1)
    assert gross[750:].mean() < 2.0 * gross[504:650].mean()


@pytest.mark.slow
def test_a_market_shorter_than_the_first_fit_is_not_traded():
    short = market(450, carry=False)
    none = refitted(portfolios(short, PERIODS, 0.1, 63, 1.0, 0.0), np.arange(504, 450, 252), PERIODS, 0.1)
    assert not np.asarray(none).any()
    with pytest.raises(ValueError, match="feature_portfolios decides from bar 504 on, and the market has 450 bars"):
        jaxppo.simulate(rules.feature_portfolios(), short)
    with pytest.raises(ValueError, match="first_fit is 300; gains count from bar 252 on, so it must be 315 or more"):
        rules.feature_portfolios(first_fit=300)
