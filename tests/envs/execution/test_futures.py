"""Futures: settled in cash, not financed, with margin by volatility; alone and beside stocks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from random_accounts import as_float64, costs_as_floats, random_bars, random_decisions, run_account
from reference_ledger import run_ledger

from jaxppo.envs import TradingEnv, simulators, slice_bars
from jaxppo.envs.execution.bars import BAR_FIELDS, pack_bars, unpack_bar
from jaxppo.envs.execution.costs import basic_costs, make_costs
from jaxppo.envs.execution.fill_rule import FillRule
from jaxppo.envs.execution.margin import leverage_use_at
from jaxppo.envs.execution.portfolio import open_portfolio, orders_to_target, step
from jaxppo.envs.market.check import check_market
from jaxppo.envs.simulators.bootstrap import block_bootstrap
from jaxppo.envs.simulators.generators import GENERATORS
from jaxppo.errors import DataError

CASH, RULE = 1e6, FillRule()
VOLATILITY, USUAL = BAR_FIELDS.index("volatility"), 0.01
CHARGED = {"commission_bps": 0.5, "commission_minimum": 1.0, "slippage": 0.01, "impact": 0.02, "borrow_rate": 0.05,
           "margin_rate": 0.06, "participation_limit": 0.3}  # fmt: skip


def with_futures(bars, futures):
    """The bars `[T, 10, A]` of assets of which some are futures."""
    flags = np.broadcast_to(futures, bars[:, 0].shape)
    more = np.stack([np.ones(flags.shape), np.zeros(flags.shape), flags], axis=1)
    return np.concatenate([bars, more], axis=1).astype(np.float32)


def run(bars, weights, hold, costs, rule=RULE):
    """Portfolios and fills in float64."""
    with jax.enable_x64(True):
        double = [jnp.asarray(x, jnp.float64) for x in (bars, weights)]
        cash = jnp.asarray(CASH, jnp.float64)
        portfolios, fills, _ = run_account(*double, jnp.asarray(hold), costs, cash, rule)
        return as_float64(portfolios), as_float64(fills)


@pytest.mark.parametrize("futures", [(1, 1, 1), (1, 0, 1), (0, 1, 0), (0, 0, 0)])
@pytest.mark.parametrize("margin", [None, 6.0])
@pytest.mark.parametrize(
    "rule", [RULE, FillRule(latency_bars=3, unfilled="drop"), FillRule(fill_price="decision_close")]
)
def test_a_mix_is_that_of_a_ledger_with_variation_margin(rule, margin, futures):
    """In float64, through holds, halts, partial fills, limits that bind and liquidations."""
    bars = with_futures(random_bars(2, 1200, 3, volatility=0.015), futures)
    weights, hold = random_decisions(2, 1200, 3)
    maintenance = 0.46 if margin is None else 0.48
    costs = basic_costs(**CHARGED, cash_rate=0.03, max_leverage=2.0, maintenance_margin=maintenance,
                        margin_volatility=margin)  # fmt: skip
    scale = 2.5 if margin is None else 8.0
    portfolios, fills = run(bars, scale * weights, hold, costs, rule)
    ledger = run_ledger(
        bars,
        np.asarray(scale * weights, np.float64),
        hold,
        costs=costs_as_floats(costs),
        cash=CASH,
        latency_bars=rule.latency_bars,
        carry=rule.unfilled == "carry",
        fill_at_decision_close=rule.fill_price == "decision_close",
    )
    assert 0 < np.sum(fills.liquidated) < 200
    assert portfolios.equity.min() > 0
    np.testing.assert_array_equal(fills.liquidated, ledger["liquidated"])
    largest = np.max(np.abs(ledger["equity"]))
    np.testing.assert_allclose(portfolios.equity, ledger["equity"], rtol=1e-10, atol=1e-11 * largest)
    np.testing.assert_allclose(fills.financing, ledger["financing"], rtol=1e-8, atol=1e-11 * largest)
    np.testing.assert_allclose(fills.quantity, ledger["quantity"], rtol=1e-8, atol=1e-6)
    np.testing.assert_allclose(portfolios.shares, ledger["shares"], rtol=1e-8, atol=1e-6)


def test_returns_of_futures_are_excess_returns():
    """Rates of borrowing do not touch them: they earn what shares earn that nobody has to finance."""
    bars, (weights, hold) = random_bars(3, 500, 3), random_decisions(3, 500, 3)
    limits = {"max_leverage": 4.0, "maintenance_margin": 0.1}
    future = run(with_futures(bars, 1), 2 * weights, hold, basic_costs(borrow_rate=0.5, margin_rate=0.5, **limits))
    share = run(bars, 2 * weights, hold, basic_costs(**limits))
    np.testing.assert_allclose(future[0].equity, share[0].equity, rtol=1e-12)
    assert not future[1].financing.any()


def test_collateral_earns_cash_interest_and_a_share_costs_its_financing():
    """Of equal positions the future's account is ahead by the interest on the value of the share."""
    bars = random_bars(4, 3, 1)
    bars[:, 6] = 1 / 252
    weights, hold = np.full((2, 1), 0.8), np.asarray([[False], [True]])
    costs = basic_costs(spread_multiplier=0.0, cash_rate=0.05)
    (share, _), (future, fills) = run(bars, weights, hold, costs), run(with_futures(bars, 1), weights, hold, costs)
    rate = float(np.float32(0.05)) * float(np.float32(1 / 252))
    np.testing.assert_allclose(-fills.financing, rate * np.asarray([CASH, future.equity[0]]), rtol=1e-9)
    value = future.shares[0, 0] * float(bars[1, 1, 0])
    assert share.shares[0, 0] == future.shares[0, 0]
    assert future.equity[1] - share.equity[1] == pytest.approx(rate * value, rel=1e-7)


def bar_of(volatility, futures, close=(100.0, 100.0), before=(100.0, 100.0)):
    """One bar of two assets in which everything fills at the last close."""
    columns = [before, close, (np.inf, np.inf), (0, 0), volatility, (np.inf, np.inf), (0, 0), (1, 1), (0, 0), futures]
    return jnp.asarray(columns, jnp.float32)


@pytest.mark.parametrize(
    ("weights", "volatility", "futures", "hold", "expected"),
    [
        ((10.0, 0.0), (0.01, 0.02), (1, 1), (0, 0), (10.0, 0.0)),  # a margin of 50 %
        ((30.0, 0.0), (0.01, 0.02), (1, 1), (0, 0), (20.0, 0.0)),  # 150 %: two thirds
        ((-20.0, 10.0), (0.01, 0.02), (1, 1), (0, 0), (-10.0, 5.0)),  # 100 % each
        ((0.5, 10.0), (0.01, 0.01), (0, 1), (0, 0), (0.5, 10.0)),  # half for shares, half for margin
        ((1.0, 20.0), (0.01, 0.01), (0, 1), (0, 0), (0.5, 10.0)),
        ((10.0, 20.0), (0.01, 0.01), (1, 1), (1, 0), (10.0, 10.0)),  # what is held keeps its margin
        ((3.0, 0.0), (0.2, 0.02), (1, 1), (0, 0), (1.0, 0.0)),  # wild days: less than the equity
    ],
)
def test_margins_are_deviations_of_the_profit_of_a_bar(weights, volatility, futures, hold, expected):
    """Five deviations: at 1 % a bar a future may be 20 times the equity."""
    costs = basic_costs(margin_volatility=5.0)
    row = bar_of(volatility, futures)
    held = jnp.where(jnp.asarray(hold, bool), jnp.asarray(weights), 0.0) * CASH / 100.0
    portfolio = open_portfolio(jnp.full(2, 100.0), CASH, RULE).replace(shares=held)
    order = orders_to_target(
        portfolio, jnp.asarray(weights), jnp.asarray(hold, bool), costs, leverage_use_at(row, costs)
    )
    after, fills = step(portfolio, order, unpack_bar(row), costs, RULE)
    np.testing.assert_allclose(after.shares * 100.0 / CASH, expected, rtol=1e-5)
    assert not fills.liquidated
    margin = sum(5 * s * abs(w) if f else abs(w) for s, f, w in zip(volatility, futures, expected, strict=True))
    assert margin <= 1 + 1e-5


@pytest.mark.parametrize(("loss", "liquidated"), [(0.0269, False), (0.0272, True)])
def test_equity_below_the_maintenance_share_of_the_margin_is_liquidated(loss, liquidated):
    """Ten times the equity at 1 % and ten deviations: the margin is the equity, and a loss of 2.7 % a quarter of it."""
    costs = basic_costs(margin_volatility=10.0, maintenance_margin=0.75, spread_multiplier=0.0)
    row = bar_of((0.01, 0.01), (1, 1), close=(100.0 * (1 - loss), 100.0))
    portfolio = open_portfolio(jnp.full(2, 100.0), CASH, RULE).replace(shares=jnp.asarray([CASH / 10, 0.0]))
    after, fills = step(portfolio, jnp.zeros(2), unpack_bar(row), costs, RULE)
    requirement = 0.75 * 10 * 0.01 * (1 - loss) * 10
    assert (1 - 10 * loss < requirement) == liquidated
    assert bool(fills.liquidated) == liquidated
    assert bool(after.shares[0] == 0) == liquidated


@functools.partial(jax.jit, static_argnames="rule")
def gradient(weights, bars, hold, costs, rule):
    return jax.grad(growth)(weights, bars, hold, costs, rule)


def growth(weights, bars, hold, costs, rule):
    """Log growth of an account over the bars."""
    portfolios, _, _ = run_account(bars, weights, hold, costs, jnp.asarray(CASH, weights.dtype), rule)
    equity = portfolios.equity[-1] / CASH
    return jnp.log(jnp.where(equity > 1e-3, equity, 1.0))


@pytest.mark.parametrize("latency", [1, 3])
def test_gradients_are_finite_whatever_binds(latency):
    costs = make_costs(cash_rate=0.03, margin_volatility=6.0, maintenance_margin=0.7)
    for seed in range(3):
        bars = with_futures(random_bars(seed, 40, 3), (1, 0, 1))
        bars[:, [2, 5], 0] = np.inf
        weights, hold = random_decisions(seed, 40, 3, hold=0.3)
        for targets in (weights, np.zeros_like(weights), 60.0 * weights):
            rule = FillRule(latency_bars=latency)
            found = gradient(jnp.asarray(targets), jnp.asarray(bars), jnp.asarray(hold), costs, rule)
            assert np.isfinite(found).all()


@pytest.mark.parametrize("scale", [1.0, 60.0])
def test_they_are_those_of_finite_differences(scale):
    """Below the margin, and where it scales the targets down."""
    with jax.enable_x64(True):
        costs = make_costs(cash_rate=0.03, margin_volatility=6.0, maintenance_margin=0.0)
        costs = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), costs)
        bars = random_bars(5, 12, 3)
        bars[:, 2] = np.maximum(bars[:, 2], 1e3)
        bars = jnp.asarray(with_futures(bars, (1, 0, 1)), jnp.float64)
        weights = scale * np.random.default_rng(6).uniform(0.1, 0.3, (11, 3))
        hold = jnp.zeros((11, 3), bool)
        check_grads(
            lambda x: growth(x, bars, hold, costs, RULE),
            (jnp.asarray(weights),),
            order=1,
            modes=["rev"],
            eps=1e-5,
            atol=2e-4,
            rtol=2e-3,
        )


def market(seed=0, n_bars=80, futures=(True, False)):
    found = simulators.gbm(jax.random.key(seed), n_bars, 2, volatility=0.02)
    return found.replace(futures=jnp.asarray(futures))


@pytest.mark.parametrize("t", [1, 30, 77])
def test_margins_of_a_decision_do_not_see_later_bars(t):
    costs = basic_costs(margin_volatility=5.0)
    prices = market()
    later = (np.arange(80) > t)[:, None]
    moved = {name: jnp.where(later, getattr(prices, name) * 1.7, getattr(prices, name)) for name in
             ("open", "high", "low", "close")}  # fmt: skip
    one, two = (pack_bars(x) for x in (prices, prices.replace(**moved)))
    uses = [np.asarray([leverage_use_at(row, costs) for row in table[1 : t + 2]]) for table in (one, two)]
    np.testing.assert_array_equal(*uses)
    assert t == 77 or leverage_use_at(one[t + 2], costs)[0] != leverage_use_at(two[t + 2], costs)[0]


def test_an_environment_keeps_the_margin_at_every_decision():
    """The account always aims at ten times its equity; what it may hold is what the forecast at the decision allows."""
    env = TradingEnv(n_assets=2, actions="continuous", levels=(-1.0, 1.0), position_limit=10.0, start="random")
    prices = market(3, 400, (True, True))
    costs = basic_costs(spread_multiplier=0.0, margin_volatility=8.0, maintenance_margin=0.0)
    params = env.make_params(prices, costs)
    _, state = env.reset(jax.random.key(1), params)
    forecast = np.asarray(params.table[:, VOLATILITY])
    first = np.abs(state.portfolio.shares) * np.asarray(params.market.close[state.bar])
    assert np.sum(first * 8.0 * forecast[int(state.bar) + 1]) <= CASH * 1.0001, "a random start keeps it too"
    margins = []
    for number in range(30):
        bar, before = int(state.bar), state.portfolio
        _, state, _, terminated, truncated, _ = env.step(jax.random.key(number), state, jnp.ones(2), params)
        if terminated or truncated or int(state.bar) != bar + 1:
            break
        value = np.abs(state.portfolio.shares) * np.asarray(before.price)
        margins.append(np.sum(value * 8.0 * forecast[bar + 1]) / float(before.equity))
    assert len(margins) > 10
    np.testing.assert_allclose(margins, 1.0, rtol=1e-4)


def test_markets_keep_their_futures():
    prices = market()
    assert check_market(prices) is prices
    np.testing.assert_array_equal(slice_bars(prices, 10, 20).futures, [True, False])
    np.testing.assert_array_equal(block_bootstrap(jax.random.key(1), prices, 30, 5.0).futures, [True, False])
    fitted = GENERATORS["garch"](market(1, 300), 20)
    np.testing.assert_array_equal(fitted.draw(fitted.data, jax.random.key(2)).futures, [True, False])
    table = pack_bars(prices)
    assert table.shape[1] == len(BAR_FIELDS) + 3
    np.testing.assert_array_equal(jax.vmap(unpack_bar)(table).futures, np.tile([1.0, 0.0], (80, 1)))
    plain = prices.replace(futures=())
    np.testing.assert_array_equal(table[:, : len(BAR_FIELDS)], pack_bars(plain))
    assert unpack_bar(pack_bars(plain)[3]).futures == ()
    ended = np.arange(80)[:, None] > np.asarray([30, 99])
    ending = prices.replace(ended=ended, tradable=~ended)
    np.testing.assert_array_equal(jax.vmap(unpack_bar)(pack_bars(ending)).ended, ended)
    np.testing.assert_array_equal(jax.vmap(unpack_bar)(pack_bars(ending)).futures, np.tile([1.0, 0.0], (80, 1)))


@pytest.mark.parametrize("futures", [np.ones(3, bool), np.ones(2), np.ones((80, 2), bool)])
def test_futures_that_cannot_be_are_named(futures):
    with pytest.raises(DataError, match=r"the market's futures is .*; bool \(2,\) is expected, or \(\)"):
        check_market(market().replace(futures=futures))


def test_a_margin_outside_its_range_is_named():
    with pytest.raises(ValueError, match=r"margin_volatility is 0.0; allowed: number in \[1e-06, 1000.*\] or None"):
        make_costs(margin_volatility=0.0)
