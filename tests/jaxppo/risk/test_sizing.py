"""Sizing transforms: values by hand and by independent libraries, causality of their tables, holding, chains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import sklearn.covariance
from causality import assert_causal
from skfolio import RiskMeasure
from skfolio.moments import EmpiricalCovariance, ShrunkMu, ShrunkMuMethods
from skfolio.optimization import RiskBudgeting
from skfolio.prior import BasePrior, ReturnDistribution

from jaxppo.envs import simulators
from jaxppo.envs.execution.fill_rule import FillRule
from jaxppo.envs.execution.portfolio import open_portfolio, weights_of
from jaxppo.envs.market.covariance import ewma_covariance
from jaxppo.envs.market.index import own_returns
from jaxppo.envs.trading.view import MarketView
from jaxppo.risk import sizing
from jaxppo.risk.sizing.estimation import adjusted_squared_sharpe, sample_covariance, solve

A, N, PERIODS = 3, 200, 252.0


def market(seed=0, n_bars=N, n_assets=A):
    """Random prices with missing bars."""
    volatility = jnp.linspace(0.01, 0.03, n_assets)
    key = jax.random.key(seed)
    base = simulators.gbm(key, n_bars, n_assets, volatility=volatility, correlation=0.4 * (n_assets > 1))
    return base.replace(tradable=jax.random.uniform(jax.random.key(seed + 1), base.close.shape) < 0.95)


def view(prices, limit=0.5):
    return MarketView(prices, PERIODS, limit)


def account(weights, *, equity=1e6, price=100.0, peak=None, n_assets=A):
    prices = jnp.full(n_assets, price)
    empty = open_portfolio(prices, equity, FillRule())
    return empty.replace(shares=jnp.asarray(weights) * equity / prices, peak_equity=jnp.asarray(float(peak or equity)))


def row_at(transform, prices, t, limit=0.5):
    return jax.tree.map(lambda x: x[t], jax.jit(lambda prices: transform.table(view(prices, limit)))(prices))


def sized(transform, row, targets, portfolio=None):
    """Sizes of fresh targets by a single transform."""
    portfolio = account(jnp.zeros(len(targets)), n_assets=len(targets)) if portfolio is None else portfolio
    targets = jnp.asarray(targets, jnp.float32)
    sizes, _ = jax.jit(transform.apply)(transform.init(len(targets)), row, portfolio, targets)
    return np.asarray(sizes, np.float64)


def test_a_volatility_target_is_met():
    prices = market()
    transform = sizing.volatility_target(0.1, span=30, max_leverage=5.0)
    covariance = np.asarray(ewma_covariance(prices, 30)[150], np.float64) * PERIODS
    for targets in ([0.3, -0.2, 0.1], [0.0, 0.0, 0.01], [0.5, 0.5, 0.5]):
        sizes = sized(transform, row_at(transform, prices, 150), targets)
        assert np.sqrt(sizes @ covariance @ sizes) == pytest.approx(0.1, rel=1e-5)
        np.testing.assert_allclose(sizes / np.abs(sizes).sum(), np.asarray(targets) / np.abs(targets).sum(), atol=1e-6)
    tight = sizing.volatility_target(0.1, span=30, max_leverage=0.25)
    assert np.abs(sized(tight, row_at(tight, prices, 150), [0.3, -0.2, 0.1])).sum() == pytest.approx(0.25, rel=1e-6)
    np.testing.assert_array_equal(sized(transform, row_at(transform, prices, 150), [0.0, 0.0, 0.0]), 0.0)


class Known(BasePrior):
    """A covariance that is given to skfolio instead of estimated by it."""

    def __init__(self, covariance):
        self.covariance = covariance

    def fit(self, X, y=None, **_):
        self.return_distribution_ = ReturnDistribution(
            mu=np.zeros(len(self.covariance)), covariance=self.covariance, returns=np.asarray(X)
        )
        return self


@pytest.mark.parametrize(("n_assets", "correlation"), [(2, 0.3), (5, -0.2), (8, 0.9), (88, 0.5)])
def test_risk_parity_beside_skfolio(n_assets, correlation):
    rng = np.random.default_rng(n_assets)
    deviation = rng.uniform(0.005, 0.05, n_assets)
    covariance = (np.full((n_assets, n_assets), correlation) + (1 - correlation) * np.eye(n_assets)) * np.outer(
        deviation, deviation
    )
    budgets = rng.uniform(0.2, 1.0, n_assets)
    found = np.asarray(sizing.risk_parity(jnp.asarray(covariance, jnp.float32), jnp.asarray(budgets)), np.float64)
    assert found.sum() == pytest.approx(1.0, abs=1e-5)
    contribution = found * (covariance @ found)
    np.testing.assert_allclose(contribution / contribution.sum(), budgets / budgets.sum(), rtol=2e-4)
    if n_assets <= 8:
        owner = RiskBudgeting(
            risk_measure=RiskMeasure.VARIANCE,
            risk_budget=budgets / budgets.sum(),
            prior_estimator=Known(covariance),
        ).fit(rng.normal(size=(30, n_assets)))
        np.testing.assert_allclose(found, owner.weights_, atol=1e-4)


def test_targets_are_signed_budgets_of_risk():
    prices = market()
    transform = sizing.equal_risk_contribution(span=30)
    covariance = np.asarray(ewma_covariance(prices, 30)[150], np.float64)
    for targets in ([0.3, 0.3, 0.3], [0.4, -0.2, 0.1], [0.5, 0.0, -0.1], [0.2, 0.0, 0.0]):
        sizes = sized(transform, row_at(transform, prices, 150), targets)
        contribution = sizes * (covariance @ sizes)
        expected = np.abs(targets) / np.abs(targets).sum()
        np.testing.assert_allclose(contribution / contribution.sum(), expected, atol=1e-4)
        assert np.abs(sizes).sum() == pytest.approx(np.abs(targets).sum(), rel=1e-5)
        np.testing.assert_array_equal(np.sign(sizes), np.sign(targets))
    np.testing.assert_array_equal(sized(transform, row_at(transform, prices, 150), [0.0] * 3), 0.0)


@pytest.mark.parametrize("seed", range(12))
def test_a_projection_is_the_nearest_point(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 9))
    v = rng.normal(size=n)
    v /= np.abs(v).sum() / rng.uniform(0.5, 3.0)
    limits = {"gross": rng.uniform(0.3, 1.5), "largest": rng.uniform(0.1, 0.8), "squares": rng.uniform(0.05, 0.6)}
    limits = {name: x for name, x in limits.items() if rng.random() < 0.75}
    found = np.asarray(sizing.project(jnp.asarray(v, jnp.float32), **limits), np.float64)
    infinity = dict.fromkeys(("gross", "largest", "squares"), np.inf) | limits
    size = np.abs(found)
    assert size.sum() <= infinity["gross"] * (1 + 1e-6)
    assert size.max() <= infinity["largest"] * (1 + 1e-6)
    assert np.square(found).sum() <= infinity["squares"] * (1 + 1e-6)
    constraints = [{"type": "ineq", "fun": lambda w: infinity["gross"] - w.sum()}] if "gross" in limits else []
    if "squares" in limits:
        constraints.append({"type": "ineq", "fun": lambda w: infinity["squares"] - w @ w, "jac": lambda w: -2 * w})
    best = scipy.optimize.minimize(
        lambda w: np.square(w - np.abs(v)).sum(),
        np.minimum(np.abs(v), 0.01),
        bounds=[(0, min(infinity["largest"], abs(x))) for x in v],
        constraints=constraints,
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    np.testing.assert_allclose(found, np.sign(v) * best.x, atol=2e-4)
    again = np.asarray(sizing.project(jnp.asarray(found, jnp.float32), **limits))
    np.testing.assert_array_equal(again, found.astype(np.float32))


def test_what_cannot_be_traded_takes_its_share_of_the_limits():
    transform = sizing.projection(leverage=1.0)
    held = account([0.4, 0.0, 0.0])
    row = jnp.asarray([False, True, True])
    sizes = sized(transform, row, [0.1, 0.9, -0.5], held)
    assert sizes[0] == pytest.approx(0.1), "nothing will be ordered"
    np.testing.assert_allclose(sizes[1:], [0.5, -0.1], atol=1e-6)


def test_ledoit_wolf_beside_scikit_learn():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        for n_returns, n_assets in ((60, 1), (60, 5), (40, 88), (500, 20), (3, 2)):
            returns = rng.normal(size=(n_returns, n_assets)) @ rng.normal(size=(n_assets, n_assets)) * 0.01 + 0.001
            found, share = sizing.ledoit_wolf(jnp.asarray(returns))
            covariance, shrinkage = sklearn.covariance.ledoit_wolf(returns)
            np.testing.assert_allclose(found, covariance, rtol=1e-12, atol=1e-12 * covariance.max())
            assert float(share) == pytest.approx(shrinkage, rel=1e-12, abs=1e-12)
        some = jnp.asarray([True, False, True, True, True])
        returns = jnp.asarray(rng.normal(size=(60, 5)) * np.asarray(some))
        within = np.asarray(sizing.ledoit_wolf(returns, some)[0])[np.ix_(some, some)]
        np.testing.assert_allclose(within, sklearn.covariance.ledoit_wolf(np.asarray(returns)[:, some])[0], rtol=1e-12)


def test_shrunk_means_beside_skfolio():
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        for n_assets in (2, 6, 20):
            returns = rng.normal(size=(90, n_assets)) @ rng.normal(size=(n_assets, n_assets)) * 0.01
            covariance = EmpiricalCovariance().fit(returns).covariance_
            owner = ShrunkMu(covariance_estimator=EmpiricalCovariance(), method=ShrunkMuMethods.BAYES_STEIN).fit(
                returns
            )
            found = sizing.shrunk_mean(jnp.asarray(returns.mean(axis=0)), jnp.asarray(covariance), 90)
            np.testing.assert_allclose(found, owner.mu_, rtol=1e-9)


def test_the_scale_of_kan_and_zhou():
    """By the paper's formulas in double precision, with the incomplete beta function of scipy."""
    for n_returns, n_assets, t in ((60, 2, 0.1), (120, 10, 0.3), (504, 5, 0.02), (240, 1, 0.001), (120, 25, 1.2)):
        x = t / (1 + t)
        a, b = n_assets / 2, (n_returns - n_assets) / 2
        beta = scipy.special.betainc(a, b, x) * scipy.special.beta(a, b)
        power = t ** (n_assets / 2) * (1 + t) ** (-(n_returns - 2) / 2)
        adjusted = ((n_returns - n_assets - 2) * t - n_assets) / n_returns + 2 * power / (n_returns * beta)
        assert float(adjusted_squared_sharpe(jnp.float32(t), n_returns, n_assets)) == pytest.approx(adjusted, rel=2e-3)
        factor = (n_returns - n_assets - 1) * (n_returns - n_assets - 4) / (n_returns * (n_returns - 2))
        found = sizing.kan_zhou_scale(jnp.float32(t), n_returns, n_assets, known_covariance=False)
        assert float(found) == pytest.approx(factor * adjusted / (adjusted + n_assets / n_returns), rel=2e-3)
        known = sizing.kan_zhou_scale(jnp.float32(t), n_returns, n_assets, known_covariance=True)
        left = max(t - n_assets / n_returns, 0.0)
        assert float(known) == pytest.approx(left / (left + n_assets / n_returns), rel=1e-3, abs=1e-6)
    # An annual Sharpe ratio of 1 and five assets over two years: "half Kelly" is already too much.
    estimate = jnp.float32(1 / 252 + 5 / 504)
    assert float(sizing.kan_zhou_scale(estimate, 504, 5, known_covariance=True)) == pytest.approx(0.286, abs=1e-3)
    assert float(sizing.kan_zhou_scale(jnp.float32(0.5), 60, 57, known_covariance=False)) == 0.0
    assert np.isfinite(float(sizing.kan_zhou_scale(jnp.float32(1e-6), 500, 88, known_covariance=False)))


def test_kelly_weights_of_a_window():
    prices = market()
    returns = np.asarray(own_returns(prices)[0], np.float64)
    for options in ({"shrink": "none", "scale": "none"}, {"scale": "unknown"}, {}):
        transform = sizing.kelly(0.5, window=100, max_leverage=1e3, **options)
        table = np.asarray(transform.table(view(prices, 0.4)), np.float64) * 0.4
        last = returns[51:151]
        covariance = np.cov(last.T, bias=True)
        if options.get("shrink") != "none":
            covariance = sklearn.covariance.ledoit_wolf(last)[0]
        mean = last.mean(axis=0)
        kept = mean
        if options.get("shrink") != "none":
            kept = np.asarray(sizing.shrunk_mean(jnp.asarray(mean), jnp.asarray(covariance), 100), np.float64)
        weights = 0.5 * np.linalg.solve(covariance, kept)
        if options.get("scale", "known") != "none":
            sharpe = jnp.float32(mean @ np.linalg.solve(covariance, mean))
            known = options.get("scale", "known") == "known"
            weights *= float(sizing.kan_zhou_scale(sharpe, 100, A, known_covariance=known))
        np.testing.assert_allclose(table[150], weights, rtol=2e-3, atol=1e-4)
        np.testing.assert_array_equal(table[:100], 0.0)
        shares = sized(transform, jnp.asarray(table[150] / 0.4), [0.4, 0.2, 0.0])
        np.testing.assert_allclose(shares, table[150] * [1.0, 0.5, 0.0], rtol=1e-5)
    held = np.asarray(sizing.kelly(window=100, every=7).table(view(prices)))
    every = np.asarray(sizing.kelly(window=100).table(view(prices)))
    np.testing.assert_allclose(held[100:107], np.broadcast_to(every[100], (7, A)), rtol=1e-5)
    np.testing.assert_allclose(held[107], every[107], rtol=1e-5)
    capped = np.asarray(sizing.kelly(scale="none", window=100, max_leverage=0.7).table(view(prices, 1.0)))
    assert np.abs(capped).sum(axis=-1).max() == pytest.approx(0.7, rel=1e-5)


def test_kelly_with_known_parameters():
    mean, covariance = np.asarray([1e-3, 5e-4, -2e-4]), np.diag([1e-4, 2e-4, 4e-4])
    transform = sizing.kelly(0.5, moments=(mean, covariance), max_leverage=1e3)
    np.testing.assert_allclose(
        sized(transform, row_at(transform, market(), 0), [0.5, 0.5, -0.5]), [5.0, 1.25, 0.25], rtol=1e-4
    )


def test_assets_that_are_not_listed_yet_get_nothing():
    prices = market(n_bars=260, n_assets=4)
    prices = prices.replace(tradable=prices.tradable.at[:120, 2].set(False))
    table = np.asarray(sizing.kelly(window=60).table(view(prices)))
    assert np.all(np.isfinite(table))
    first = int(np.argmax(np.asarray(prices.tradable)[:, 2]))
    np.testing.assert_array_equal(table[: first + 60, 2], 0.0)
    assert np.any(table[first + 61 :, 2] != 0)


def test_solving_survives_a_singular_covariance():
    twins = jnp.asarray(np.random.default_rng(0).normal(size=(60, 1)) * 0.01, jnp.float32) * jnp.ones((1, 3))
    assert np.all(np.isfinite(solve(sample_covariance(twins), jnp.full(3, 1e-3))))
    assert np.all(np.isfinite(solve(jnp.zeros((3, 3)), jnp.zeros(3))))


ALL = {
    "volatility_target": lambda: sizing.volatility_target(0.1, span=20),
    "equal_risk_contribution": lambda: sizing.equal_risk_contribution(span=20),
    "kelly": lambda: sizing.kelly(window=30),
    "kelly every": lambda: sizing.kelly(window=30, every=9, scale="unknown"),
    "projection": lambda: sizing.projection(leverage=1.0),
    "drawdown_control": lambda: sizing.drawdown_control(0.1, move=0.03, deviations=4.0, span=20),
}


@pytest.mark.parametrize("name", ALL)
def test_tables_never_look_ahead(name):
    transform = ALL[name]()
    assert_causal(lambda prices: transform.table(view(prices)), market(n_bars=120), 70, jax.random.key(0))


@pytest.mark.parametrize("n_assets", [1, 88])
def test_one_asset_and_many(n_assets):
    prices = market(n_bars=80, n_assets=n_assets)
    whole = sizing.chain(
        sizing.kelly(window=40, scale="unknown" if n_assets == 1 else "known"),
        sizing.volatility_target(0.1, span=20),
        sizing.equal_risk_contribution(span=20),
        sizing.projection(leverage=0.8, weight=0.5, concentration=0.3),
        sizing.drawdown_control(0.1, move=0.05),
    )
    rows = jax.jit(lambda prices: whole.table(view(prices, 1.0 / n_assets)))(prices)
    apply = jax.jit(whole.apply)
    targets = jnp.where(jnp.arange(n_assets) % 3 == 0, 1.0, -0.5) / n_assets
    for t in (0, 45, 79):
        row = jax.tree.map(lambda x, t=t: x[t], rows)
        for weights in (targets, jnp.zeros(n_assets)):
            portfolio = account(jnp.zeros(n_assets), n_assets=n_assets)
            sizes, state = apply(whole.init(n_assets), row, portfolio, weights, jnp.zeros(n_assets, bool))
            assert np.all(np.isfinite(sizes))
            assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state))
            assert np.abs(np.asarray(sizes))[np.asarray(prices.tradable)[t]].sum() <= 0.8 + 1e-5


def constant(factor, **options):
    """A scaling by rows `[A]`."""
    return sizing.scaling("constant", lambda view: (), lambda state, row, p, targets: (row, state), **options)


def test_holding_keeps_the_target_behind_a_position():
    """Two factors of 0.5 and 0.4 at first; then one doubles: so do positions that are held, whatever prices do."""
    whole = sizing.chain(constant("first"), constant("second"))
    half = jnp.full(A, 0.5)
    weights, hold = jnp.asarray([0.5, -0.4, 0.0]), jnp.zeros(A, bool)
    portfolio = account([0.0] * A)
    sizes, state = whole.apply(whole.init(A), (half, jnp.full(A, 0.4)), portfolio, weights, hold)
    np.testing.assert_allclose(sizes, [0.1, -0.08, 0.0], rtol=1e-6)
    # Filled; then the first asset's price rises by a tenth and the equity by a hundredth.
    moved = portfolio.replace(shares=sizes * 1e4, price=portfolio.price.at[0].mul(1.1), equity=portfolio.equity * 1.01)
    present = weights_of(moved)
    np.testing.assert_allclose(whole.pre_sizing_targets(state, moved), [0.5 * 1.1 / 1.01, -0.4 / 1.01, 0.0], rtol=1e-6)
    same, _ = whole.apply(state, (half, jnp.full(A, 0.4)), moved, present, ~hold)
    np.testing.assert_array_equal(same, present)
    more, after = whole.apply(state, (half, jnp.full(A, 0.8)), moved, present, ~hold)
    np.testing.assert_allclose(more, 2 * np.asarray(present), rtol=1e-6)
    np.testing.assert_allclose(after.target, [0.5 * 1.1 / 1.01, -0.4 / 1.01, 0.0], rtol=1e-6)
    new, _ = whole.apply(state, (half, jnp.full(A, 0.8)), moved, jnp.asarray([0.2, 0.0, 0.1]), hold)
    np.testing.assert_allclose(new, [0.08, 0.0, 0.04], rtol=1e-6)


def test_what_was_not_filled_has_no_target_behind_it():
    whole = sizing.chain(constant("only"))
    rows, hold = (jnp.full(A, 0.5),), jnp.zeros(A, bool)
    portfolio = account([0.2, 0.0, -0.3])
    _, state = whole.apply(whole.init(A), rows, portfolio, jnp.asarray([-0.4, 0.4, -0.8]), hold)
    # The first order was refused, the second too, of the third three quarters are there.
    np.testing.assert_allclose(whole.pre_sizing_targets(state, portfolio), [0.2, 0.0, -0.6], rtol=1e-6)
    # A factor of 0 leaves no position, and holding that keeps the target.
    _, state = whole.apply(whole.init(A), (jnp.zeros(A),), account([0.0] * A), jnp.asarray([0.4, 0.2, 0.0]), hold)
    back, _ = whole.apply(state, rows, account([0.0] * A), jnp.zeros(A), ~hold)
    np.testing.assert_allclose(back, [0.2, 0.1, 0.0])
    # At the start of an episode a position is its own target.
    np.testing.assert_allclose(whole.pre_sizing_targets(whole.init(A), portfolio), [0.2, 0.0, -0.3], rtol=1e-6)


def test_a_factor_is_not_kept_beyond_the_largest_exposure():
    """Calm prices: the cap alone decides, and 1.1 times the targets leaves the factor within the tolerance."""
    transform = sizing.volatility_target(10.0, max_leverage=1.0, tolerance=0.1)
    row, state = row_at(transform, market(), 150), transform.init(A)
    for gross in (1.0, 1.1, 0.9, 0.99, 1.05):
        targets = jnp.full(A, gross / A)
        sizes, state = transform.apply(state, row, account(jnp.zeros(A)), targets)
        assert float(jnp.sum(jnp.abs(sizes))) <= 1.0 + 1e-4


def test_small_moves_of_a_factor_are_not_traded():
    whole = sizing.chain(constant("only", tolerance=0.1))
    hold = jnp.zeros(A, bool)
    portfolio = account([0.0] * A)
    sizes, state = whole.apply(whole.init(A), (jnp.full(A, 0.5),), portfolio, jnp.full(A, 0.2), hold)
    there = account(sizes)
    for factor, expected in ((0.54, 0.1), (0.46, 0.1), (0.56, 0.112)):
        found, state_after = whole.apply(state, (jnp.full(A, factor),), there, weights_of(there), ~hold)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert float(state_after.parts[0].factor[0]) == pytest.approx(expected / 0.2, rel=1e-5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: sizing.volatility_target(0.0), "target"),
        (lambda: sizing.volatility_target(0.1, span=0), "span"),
        (lambda: sizing.equal_risk_contribution(cycles=0), "cycles"),
        (lambda: sizing.kelly(0.0), "fraction"),
        (lambda: sizing.kelly(window=1), "window"),
        (lambda: sizing.kelly(scale="half"), "scale is 'half'"),
        (lambda: sizing.kelly(moments=([0.1], [[1.0]])).table(view(market())), "3 assets"),
        (lambda: sizing.kelly(window=300).table(view(market())), "window is 300 bars; the market has 200"),
        (lambda: sizing.projection(), "must limit something"),
        (lambda: sizing.projection(weight=-1.0), "weight is -1.0"),
        (lambda: sizing.drawdown_control(1.0, move=0.1), "limit is 1.0"),
        (lambda: sizing.drawdown_control(0.1, move=0.0), "move"),
        (lambda: sizing.drawdown_control(0.1, move=0.1, cost=-1.0), "cost"),
        (lambda: constant("x", tolerance=-1.0), "tolerance is -1.0"),
    ],
)
def test_mistakes_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
