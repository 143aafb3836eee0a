"""Funding and dividends: who pays whom and when, against bt, a ledger and textbook adjustments, none of them ours."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_accounts import as_float64, costs_as_floats, random_bars, random_decisions, run_account
from reference_ledger import run_ledger

from jaxppo import envs, rules
from jaxppo.backtest import account_frame, simulate
from jaxppo.backtest.performance import performance_of
from jaxppo.envs.execution.bars import BAR_FIELDS, EXTRA_FIELDS, Bar, pack_bars
from jaxppo.envs.execution.costs import basic_costs
from jaxppo.envs.execution.exits import make_exits
from jaxppo.envs.execution.fill_rule import FillRule
from jaxppo.envs.execution.limit_orders import make_limit_orders
from jaxppo.envs.execution.portfolio import Portfolio, open_portfolio, step
from jaxppo.envs.market.check import check_market
from jaxppo.envs.market.dividends import with_dividends
from jaxppo.envs.market.features import compute_features
from jaxppo.envs.market.market_data import with_next_bar
from jaxppo.envs.simulators import gbm
from jaxppo.envs.simulators.bootstrap import block_bootstrap
from jaxppo.errors import DataError
from jaxppo.testing import randomise_after

CASH, RULE, FREE = 1e6, FillRule(), basic_costs(spread_multiplier=0.0, max_leverage=3.0, maintenance_margin=0.05)
CHARGED = {"commission_bps": 0.5, "slippage": 0.01, "impact": 0.02, "borrow_rate": 0.05, "margin_rate": 0.06,
           "participation_limit": 0.3, "max_leverage": 2.0, "maintenance_margin": 0.46}  # fmt: skip
WIDTH = len(BAR_FIELDS) + len(EXTRA_FIELDS)


def paid_bars(seed, n_bars, n_assets, **options):
    """`[T, 14, A]` random bars with funding in every third, and dividends of up to 3 % in one of fifty."""
    bars = random_bars(seed, n_bars, n_assets, **options)
    rng, shape = np.random.default_rng((seed, 7)), (n_bars, n_assets)
    funding = np.where(np.arange(n_bars)[:, None] % 3 == 0, rng.normal(0, 5e-4, shape), 0.0)
    dividend = np.where(rng.random(shape) < 0.02, rng.uniform(0, 0.03, shape) * bars[:, 1], 0.0)
    none = [np.full(shape, neutral) for _, neutral in EXTRA_FIELDS[:-2]]
    return np.concatenate([bars, np.stack([*none, funding, dividend], axis=1)], axis=1).astype(np.float32)


@pytest.mark.parametrize("rule", [RULE, FillRule(latency_bars=2, unfilled="drop")])
def test_in_float64_the_account_is_that_of_a_bank_statement(rule):
    bars, (weights, hold) = paid_bars(0, 1200, 3, volatility=0.015), random_decisions(0, 1200, 3)
    costs = basic_costs(**CHARGED)
    with jax.enable_x64(True):
        double = [jnp.asarray(x, jnp.float64) for x in (bars, 2.5 * weights)]
        portfolios, fills, _ = map(as_float64, run_account(*double, jnp.asarray(hold), costs, jnp.float64(CASH), rule))
    other = {"latency_bars": rule.latency_bars, "carry": rule.unfilled == "carry"}
    ledger = run_ledger(bars, 2.5 * weights, hold, costs=costs_as_floats(costs), cash=CASH, **other)
    scale = np.max(np.abs(ledger["equity"]))
    np.testing.assert_allclose(portfolios.equity, ledger["equity"], rtol=1e-11, atol=1e-12 * scale)
    np.testing.assert_allclose(portfolios.shares, ledger["shares"], rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(fills.financing, ledger["financing"], rtol=1e-9, atol=1e-12 * scale)
    assert fills.liquidated.any() or rule != RULE
    assert np.any(fills.payments.dividends < 0)
    assert np.any(fills.payments.dividends > 0)
    assert np.any(fills.payments.funding < 0)
    assert np.any(fills.payments.funding > 0)


def test_float32_stays_with_the_ledger():
    bars, (weights, hold) = paid_bars(1, 3000, 3, volatility=0.0015), random_decisions(1, 3000, 3, hold=0.93)
    costs = basic_costs(**CHARGED | {"max_leverage": 1.0, "maintenance_margin": 0.1})
    portfolios, _, _ = run_account(bars, weights, hold, costs, CASH, RULE)
    ledger = run_ledger(bars, weights, hold, costs=costs_as_floats(costs), cash=CASH)
    assert np.max(np.abs(np.asarray(portfolios.equity, np.float64) / ledger["equity"] - 1)) < 1e-5


def value_in_bt(bt, bars, quantity, cash):
    """Equity `[T - 1]` at each close in bt, where dividends and funding are coupons of a share.

    A bar is three dates: the payment, at the close before; the open, where the orders fill; the close.
    """
    opened, close, funding, dividend = (np.asarray(bars, np.float64)[:, row] for row in (0, 1, -2, -1))
    coupon = np.zeros((len(quantity), 3, close.shape[1]))
    coupon[:, 0] = dividend[1:] - funding[1:] * close[:-1]
    prices = np.stack([close[:-1], opened[1:], close[1:]], axis=1)
    dates = pd.date_range("2000-01-01", periods=3 * len(quantity))
    names = [f"S{asset}" for asset in range(close.shape[1])]
    table = {name: pd.DataFrame(x.reshape(len(dates), -1), dates, names) for name, x in
             {"prices": prices, "coupons": coupon}.items()}  # fmt: skip

    class Fill(bt.algos.Algo):
        def __call__(self, target):
            number = dates.get_loc(target.now)
            for asset, name in enumerate(names if number % 3 == 1 else ()):
                target.transact(float(quantity[number // 3, asset]), child=name)
            return True

    securities = [bt.core.CouponPayingSecurity(name, fixed_income=False) for name in names]
    strategy = bt.Strategy("given", [Fill()], securities)
    test = bt.Backtest(strategy, table["prices"], initial_capital=cash, integer_positions=False,
                       additional_data={"coupons": table["coupons"]}, progress_bar=False)  # fmt: skip
    bt.run(test)
    return test.strategy.values.loc[dates].to_numpy()[2::3]


def test_payments_are_the_coupons_of_bt():
    bt = pytest.importorskip("bt")
    bars, (weights, hold) = paid_bars(4, 250, 3), random_decisions(4, 250, 3)
    with jax.enable_x64(True):
        double = [jnp.asarray(x, jnp.float64) for x in (bars, weights)]
        free = basic_costs(spread_multiplier=0.0, max_leverage=3.0, maintenance_margin=0.05)
        portfolios, fills, _ = map(as_float64, run_account(*double, jnp.asarray(hold), free, jnp.float64(CASH), RULE))
    np.testing.assert_allclose(portfolios.equity, value_in_bt(bt, bars, fills.quantity, CASH), rtol=1e-11)
    assert np.any(fills.payments.dividends < 0)
    assert np.any(fills.payments.funding > 0)


def bar_of(opened, close, **fields):
    """A bar in which everything fills at no cost."""
    values = {"open": opened, "close": close, "available_volume": np.inf, "half_spread": 0.0, "volatility": 0.01}
    values |= {"average_volume": np.inf, "year_fraction": 1 / 365, **fields}
    shape = np.shape(close)
    return Bar(**{name: jnp.asarray(np.broadcast_to(value, shape), jnp.float32) for name, value in values.items()})


def holding(shares, price):
    return open_portfolio(jnp.asarray(price, jnp.float32), CASH, RULE).replace(shares=jnp.asarray(shares, jnp.float32))


def test_by_hand():
    """300 shares at 50 and a short of 100 at 20; 2 bp of funding, a dividend of 1 and of 0.5; all sold at the open."""
    before = holding([300.0, -100.0], [50.0, 20.0])
    bar = bar_of([49.0, 19.5], [60.0, 30.0], funding=2e-4, dividend=[1.0, 0.5])
    after, fills = step(before, jnp.asarray([-300.0, 100.0]), bar, FREE, RULE)
    np.testing.assert_allclose(fills.payments.dividends, [300.0, -50.0])
    np.testing.assert_allclose(fills.payments.funding, [300 * 50 * 2e-4, -100 * 20 * 2e-4], rtol=1e-6)
    # What is sold at the open of the ex-date is paid, what is bought there is not.
    expected = CASH + 300 * (49 - 50) - 100 * (19.5 - 20) + 300 - 50 - 3.0 + 0.4
    assert float(after.equity) == pytest.approx(expected, rel=1e-7)
    _, fills = step(holding([0.0, 0.0], [50.0, 20.0]), jnp.asarray([300.0, 100.0]), bar, FREE, RULE)
    assert not np.any(fills.payments.dividends)
    assert not np.any(fills.payments.funding)


def test_long_and_short_cancel():
    """Whatever one side is paid, the other one pays: two accounts of opposite orders end with what they began."""
    bars = jnp.asarray(paid_bars(2, 300, 2))
    orders = np.random.default_rng(2).normal(0, 300.0, (299, 2)).astype(np.float32)

    def live(sign):
        def one(portfolio, row):
            after, fills = step(portfolio, sign * row[1], envs.execution.bars.unpack_bar(row[0]), free, RULE)
            return after, (after.equity, fills.payments)

        start = open_portfolio(bars[0, 1], 1e8, RULE)
        return jax.lax.scan(one, start, (bars[1:], jnp.asarray(orders)))[1]

    free = basic_costs(spread_multiplier=0.0, max_leverage=100.0, maintenance_margin=0.001)
    (long, paid), (short, received) = live(1.0), live(-1.0)
    np.testing.assert_allclose(np.asarray(long) + np.asarray(short), 2e8, rtol=1e-6)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), -np.asarray(y)), paid, received)
    assert np.any(paid.funding)
    assert np.any(paid.dividends)


@settings(max_examples=3, deadline=None)
@given(st.integers(0, 2**30))
def test_reinvested_dividends_earn_the_return_of_adjusted_prices(seed):
    """Buy once, reinvest every dividend at the open of its ex-date; `prod O / (O + D)` adjusts backward."""
    rng, n = np.random.default_rng(seed), 60
    close = 40 * np.exp(np.cumsum(rng.normal(0, 0.02, n)))
    opened = close * np.exp(rng.normal(0, 0.01, n))
    amount = np.where(rng.random(n) < 0.15, rng.uniform(0, 0.1, n) * close, 0.0)
    amount[:2] = 0.0
    ratio = np.r_[(opened / (opened + amount))[1:], 1.0]
    adjusted = close * np.cumprod(ratio[::-1])[::-1]
    portfolio, shares = open_portfolio(jnp.full(1, 40.0), CASH, RULE), CASH / opened[1]
    for bar in range(1, n):
        order = shares if bar == 1 else float(portfolio.shares[0]) * amount[bar] / opened[bar]
        now = bar_of([opened[bar]], [close[bar]], funding=0.0, dividend=amount[bar])
        portfolio, _ = STEP(portfolio, jnp.full(1, order, jnp.float32), now)
    bought_at = opened[1] * adjusted[1] / close[1]
    assert float(portfolio.equity) == pytest.approx(CASH * adjusted[-1] / bought_at, rel=2e-5)
    # The market's own prices run forward, and have the same returns.
    flat = lambda x: jnp.asarray(x, jnp.float32)[:, None]  # noqa: E731
    top, bottom = np.maximum(opened, close), np.minimum(opened, close)
    market = gbm(jax.random.key(0), n, 1)
    market = market.replace(open=flat(opened), high=flat(top), low=flat(bottom), close=flat(close))
    market = with_dividends(market, amount[:, None])
    total = np.asarray(market.close)[:, 0]
    np.testing.assert_allclose(total[1:] / total[:-1], adjusted[1:] / adjusted[:-1], rtol=1e-5)
    np.testing.assert_allclose(market.mark(slice(None))[:, 0], close, rtol=1e-6)
    check_market(market)


STEP = jax.jit(lambda portfolio, order, bar: step(portfolio, order, bar, FREE, RULE))


def market_with_payments(seed=0, n=90):
    """Two assets: prices as traded, four dividends, funding in every third bar."""
    market = gbm(jax.random.key(seed), n, 2)
    rng = np.random.default_rng(seed)
    amount = np.zeros((n, 2))
    amount[[20, 40, 60, 80], [0, 1, 0, 1]] = 0.02 * np.asarray(market.close).mean()
    funding = np.where(np.arange(n)[:, None] % 3 == 0, rng.normal(1e-4, 1e-4, (n, 2)), 0.0)
    return market.replace(funding=jnp.asarray(funding, jnp.float32)), amount


def test_nothing_before_a_payment_knows_of_it():
    plain, amount = market_with_payments()
    later = amount.copy()
    later[50:] *= 3.0
    now, changed = with_dividends(plain, amount), with_dividends(plain, later)
    assert not np.array_equal(now.close[70:], changed.close[70:])
    of_now, of_changed = read(now), read(changed)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[:50], y[:50]), of_now, of_changed)
    # With everything after t drawn anew, what is decided and forecast at t stays as it was, the next bar included.
    drawn = randomise_after(now, 50, jax.random.key(1))
    assert np.any(drawn.funding[51:] != now.funding[51:])
    assert np.any(drawn.dividends.amount[51:] > 0)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[:51], y[:51]), of_now, read(drawn))
    assert not np.any(of_now[2][:, -2:]), "payments of the next bar are unknown"
    longer = with_next_bar(now)
    assert not np.any(longer.funding[-1])
    assert not np.any(longer.dividends.amount[-1])


@jax.jit
def read(market):
    """Features, and the tables of bars and of the bars after them."""
    features = compute_features(market, groups=("price",), normalisation_window=10)
    return features, pack_bars(market), pack_bars(market, ahead=True)


def test_a_fall_by_the_dividend_is_no_loss_to_features():
    """A price that stands still but for its dividends: returns are 0 where accounts are paid."""
    n, amount = 40, np.zeros((40, 1))
    amount[[10, 30]] = 1.0
    level = jnp.asarray(50.0 - np.cumsum(amount, axis=0), jnp.float32)
    market = gbm(jax.random.key(0), n, 1).replace(open=level, high=level, low=level, close=level)
    returns = lambda market: np.diff(np.log(np.asarray(market.close)[:, 0]))  # noqa: E731
    assert np.abs(returns(with_dividends(market, amount))).max() < 1e-6
    assert returns(market).min() < -0.019
    after, _ = step(
        holding([100.0], [50.0]), jnp.zeros(1), bar_of([49.0], [49.0], funding=0.0, dividend=1.0), FREE, RULE
    )
    assert float(after.equity) == CASH


def test_a_stop_is_not_met_by_the_dividend():
    rule, costs = FillRule(exits=True), FREE.replace(exits=make_exits(stop_loss=0.04))
    held = open_portfolio(jnp.full(1, 50.0), CASH, rule).replace(shares=jnp.full(1, 100.0))
    fields = {"high": 47.5, "low": 47.4, "funding": 0.0}
    for dividend, left in ((2.5, 100.0), (0.0, 0.0)):
        bar = bar_of([47.5], [47.5], **fields, dividend=dividend)
        assert float(step(held, jnp.zeros(1), bar, costs, rule)[0].shares[0]) == left


def test_a_limit_is_not_met_by_the_dividend():
    """Decided at 50 with a limit at 48, which is 45.6 after a dividend of 2.5; the next bar knows no dividend."""
    rule, costs = FillRule(limit_orders=True), FREE.replace(limit_orders=make_limit_orders(offset=0.04))
    account = open_portfolio(jnp.full(1, 50.0), CASH, rule)
    for dividend, filled in ((2.5, 0.0), (0.0, 100.0)):
        bar = bar_of([47.5], [47.5], high=47.5, low=47.4, funding=0.0, dividend=dividend)
        after, _ = step(account, jnp.full(1, 100.0), bar, costs, rule)
        assert float(after.shares[0]) == filled
    after, _ = step(account, jnp.full(1, 100.0), bar.replace(dividend=jnp.full(1, 2.5)), costs, rule)
    for low, filled in ((45.7, 0.0), (45.5, 100.0)):
        bar = bar_of([47.5], [47.5], high=47.5, low=low, funding=0.0, dividend=0.0)
        assert float(step(after, jnp.zeros(1), bar, costs, rule)[0].shares[0]) == filled


def test_a_market_without_payments_is_as_wide_as_before():
    market, amount = market_with_payments()
    assert pack_bars(market.replace(funding=())).shape[1] == len(BAR_FIELDS)
    assert pack_bars(market).shape[1] == WIDTH - 1
    assert pack_bars(with_dividends(market.replace(funding=()), amount)).shape[1] == WIDTH
    _, fills = step(holding([1.0], [50.0]), jnp.zeros(1), bar_of([49.0], [49.0]), FREE, RULE)
    assert fills.payments == ()


def test_resampled_bars_keep_their_funding_and_pay_no_dividends():
    market, amount = market_with_payments()
    drawn = block_bootstrap(jax.random.key(0), with_dividends(market, amount), 200, 5.0)
    assert drawn.dividends == ()
    pairs = set(map(tuple, np.asarray(market.funding).tolist()))
    assert set(map(tuple, np.asarray(drawn.funding).tolist())) <= pairs
    assert len(np.unique(drawn.funding)) > 20


def test_reports_split_profits_and_costs():
    """Buy and hold: dividends are profit of their asset, funding is financing, and together they explain the equity."""
    market, amount = market_with_payments()
    result = simulate(rules.buy_and_hold(), with_dividends(market, amount), costs=basic_costs())
    ledger, shares = result.ledger, np.asarray(result.ledger.shares, np.float64)
    frame = account_frame(ledger, market, result.first)
    held = np.r_[np.zeros((1, 2)), shares[:-1]]
    bars = slice(result.first + 1, result.first + 1 + len(shares))
    np.testing.assert_allclose(frame["dividends"], (held * amount[bars]).sum(axis=1), rtol=1e-5, atol=1e-3)
    marks = np.asarray(market.close, np.float64)[result.first : result.first + len(shares)]
    owed = (held * marks * np.asarray(market.funding)[bars]).sum(axis=1)
    np.testing.assert_allclose(frame["funding"], owed, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(frame["financing"], owed, rtol=1e-4, atol=1e-3)
    found = performance_of(ledger, ("A", "B"), np.empty(0), periods=252.0, level=0.95)
    assert found.dividends == pytest.approx(frame["dividends"].sum(), rel=1e-5)
    assert found.dividends > 0
    assert abs(found.other) < 1e-5 * CASH
    plain = simulate(rules.buy_and_hold(), market.replace(funding=()), costs=basic_costs())
    gained = float(ledger.equity[-1]) - float(plain.ledger.equity[-1])
    assert gained == pytest.approx(found.dividends - found.funding, rel=0.01)
    assert isinstance(plain.costs, pd.DataFrame)
    assert "dividends" not in account_frame(plain.ledger, market, 0)


@pytest.mark.parametrize(
    ("change", "line"),
    [(-1.0, "a dividend is -1; it must be finite and >= 0"), (np.inf, "a dividend is inf"), (np.nan, "is nan")],
)
def test_bad_arrays_are_refused(change, line):
    market, amount = market_with_payments()
    with pytest.raises(DataError, match=line):
        with_dividends(market, np.full_like(amount, change))
    rates = jnp.full_like(market.funding, np.nan)
    with pytest.raises(DataError, match="funding of asset 0 at bar 0 is nan; it must be finite"):
        check_market(market.replace(funding=rates))


def test_a_fill_at_the_decision_close_has_no_payments():
    rule = FillRule(fill_price="decision_close")
    before: Portfolio = open_portfolio(jnp.full(1, 50.0), CASH, rule)
    with pytest.raises(ValueError, match="decision_close"):
        step(before, jnp.zeros(1), bar_of([49.0], [49.0], funding=0.0), FREE, rule)
