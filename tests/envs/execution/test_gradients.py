"""The market is exogenous and the accounting differentiable: gradients of an account through its decisions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from random_accounts import random_bars, random_decisions, run_account

from jaxppo.envs.execution.costs import basic_costs, make_costs
from jaxppo.envs.execution.fill_rule import FillRule
from jaxppo.envs.execution.limits import NetBudget, QuadraticBudget
from jaxppo.envs.market import safe

N_BARS, A = 40, 3
ALL_COSTS = {"commission_bps": 2.0, "commission_per_share": 0.005, "slippage": 0.1, "impact": 0.5, "borrow_rate": 0.02,
             "margin_rate": 0.04}  # fmt: skip
COSTS = {
    "none": lambda: basic_costs(),
    "all": lambda: make_costs(**ALL_COSTS),
    "minimum": lambda: basic_costs(commission_minimum=1.0, impact=0.5),
    "volume binds": lambda: basic_costs(participation_limit=0.001, impact=0.5),
    "leverage binds": lambda: basic_costs(max_leverage=0.4, impact=0.5),
    "liquidated": lambda: basic_costs(max_leverage=20.0, maintenance_margin=0.0499),
    "cash earns": lambda: make_costs(**ALL_COSTS, cash_rate=0.05),
    "impact that stays": lambda: basic_costs(transient_impact=0.3, permanent_impact=0.1),
}


def growth(weights, bars, hold, costs, rule, cash=1e6):
    """Log growth of an account over the bars."""
    portfolios, _, _ = run_account(bars, weights, hold, costs, jnp.asarray(cash, weights.dtype), rule)
    equity = portfolios.equity[-1] / cash
    return jnp.log(jnp.where(equity > 1e-3, equity, 1.0))


@functools.partial(jax.jit, static_argnames="rule")
def gradient(weights, bars, hold, costs, rule):
    return jax.grad(growth)(weights, bars, hold, costs, rule)


@pytest.mark.parametrize("latency", [1, 3])
@pytest.mark.parametrize("kind", COSTS)
def test_gradients_are_finite_whatever_binds(kind, latency):
    """With halts, targets of exactly 0, held positions, unknown volume and an account that never trades."""
    costs = COSTS[kind]()
    rule = FillRule(latency_bars=latency, displacement=kind == "impact that stays")
    for seed in range(3):
        bars = random_bars(seed, N_BARS, A)
        bars[:, [2, 5], 0] = np.inf  # volume that nobody reports
        weights, hold = random_decisions(seed, N_BARS, A, hold=0.3)
        for targets in (weights, np.zeros_like(weights), 5.0 * weights):
            found = gradient(jnp.asarray(targets), jnp.asarray(bars), jnp.asarray(hold), costs, rule)
            assert np.isfinite(found).all()
            assert (np.asarray(found)[hold] == 0).all(), "what is held is not decided"
    assert np.abs(np.asarray(found)).max() > 0 or kind == "liquidated"


@pytest.mark.parametrize("kind", ["none", "all", "cash earns", "volume binds", "leverage binds", "impact that stays"])
def test_they_are_those_of_finite_differences(kind):
    """In float64, at targets at which nothing has a kink."""
    rule = FillRule(displacement=kind == "impact that stays")
    with jax.enable_x64(True):
        costs = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), COSTS[kind]())
        bars = random_bars(5, 12, A)
        bars[:, 2] = np.maximum(bars[:, 2], 1e3)  # no halts, at which finite differences see the rounding of dust
        bars = jnp.asarray(bars, jnp.float64)
        weights = np.random.default_rng(6).uniform(0.1, 0.5, (11, A))
        hold = jnp.zeros((11, A), bool)

        def of(weights):
            return growth(weights, bars, hold, costs, rule)

        check_grads(of, (jnp.asarray(weights),), order=1, modes=["rev"], eps=1e-5, atol=2e-4, rtol=2e-3)


def test_a_trade_that_is_not_made_has_the_derivative_of_no_trade():
    """Proportional costs have a kink at no trade; its subgradient 0 is what keeps an account from trading."""
    bars = jnp.asarray(random_bars(1, 3, 1))
    costs, rule = basic_costs(impact=1.0), FillRule()
    found = gradient(jnp.zeros((2, 1)), bars, jnp.zeros((2, 1), bool), costs, rule)
    before = bars[1, 0] / bars[0, 1]
    earned = (bars[1, 1] / bars[1, 0] - 1.0) * before
    overnight = (bars[2, 0] / bars[1, 1] - 1.0) * bars[1, 1] / bars[0, 1]
    np.testing.assert_allclose(found[0], earned + overnight, rtol=1e-4)


@pytest.mark.parametrize(
    "function", [safe.root, lambda x: safe.ratio(x, x, 0.0), lambda x: safe.ratio(1.0 + x, x, 2.0)]
)
def test_safe_functions_have_finite_derivatives(function):
    x = jnp.asarray([-1.0, 0.0, 1e-30, 0.5, 4.0])
    assert np.isfinite(function(x)).all()
    assert np.isfinite(jax.vmap(jax.grad(function))(x[jnp.asarray([0, 1, 3, 4])])).all()


def test_budgets_have_finite_gradients_at_their_bounds():
    matrix = jnp.asarray([[0.04, 0.01], [0.01, 0.09]])
    quadratic = QuadraticBudget(matrix, jnp.asarray(0.01), jnp.asarray(0.02))
    net = NetBudget(*map(jnp.asarray, (-0.5, 0.5, -1.0, 1.0)))

    def allowed(weights):
        return sum(jnp.sum(jnp.stack(budget.room(weights, 0))) for budget in (quadratic, net)) + sum(
            jnp.sum(budget.share(jnp.zeros(2), weights, forced)) for budget in (quadratic, net) for forced in (0, 1)
        )

    for weights in ([0.0, 0.0], [0.5, 0.0], [0.0, 1 / 3], [1.0, 1.0], [-0.5, 0.0]):
        assert np.isfinite(jax.grad(allowed)(jnp.asarray(weights))).all(), weights
