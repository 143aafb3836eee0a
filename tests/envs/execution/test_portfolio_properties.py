"""What must hold for every account, whatever the prices, volumes, orders and costs."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from causality import assert_causal
from hypothesis import given, settings
from hypothesis import strategies as st
from random_accounts import as_float64, costs_as_floats, random_bars, random_decisions, run_account

from jaxppo.envs.execution.bars import BAR_FIELDS, pack_bars, unpack_bar
from jaxppo.envs.execution.costs import OMISSIBLE, Costs, basic_costs, without, zero_prices
from jaxppo.envs.execution.fill_rule import FillRule
from jaxppo.envs.execution.portfolio import open_portfolio, orders_to_target, outstanding, step
from jaxppo.envs.market.market_data import MarketData

N_BARS, N_ASSETS = 40, 3
RULES = [FillRule(), FillRule(latency_bars=3), FillRule(unfilled="drop"), FillRule(fill_price="decision_close")]
OPEN, CLOSE, VOLUME = (BAR_FIELDS.index(name) for name in ("open", "close", "available_volume"))

quick = settings(max_examples=40, deadline=None, derandomize=True)
seeds, rules = st.integers(0, 2**31), st.sampled_from(RULES)
costs_strategy = st.builds(
    basic_costs,
    commission_bps=st.floats(0, 20),
    commission_per_share=st.floats(0, 0.01),
    commission_minimum=st.sampled_from([0.0, 1.0]),
    spread_multiplier=st.floats(0, 3),
    slippage=st.floats(0, 0.5),
    impact=st.floats(0, 1),
    participation_limit=st.sampled_from([None, 0.01, 0.2]),
    borrow_rate=st.floats(0, 0.5),
    margin_rate=st.floats(0, 0.5),
    max_leverage=st.floats(0.2, 3),
    maintenance_margin=st.floats(0, 0.3),
)


def run_random(seed: int, costs: Costs, rule: FillRule):
    """An account through 40 volatile bars of three assets; all as float64 arrays, with the bars `[T, 7, A]`."""
    bars = random_bars(seed, N_BARS, N_ASSETS, volatility=0.02)
    weights, hold = random_decisions(seed, N_BARS, N_ASSETS, hold=0.3)
    portfolios, fills, orders = run_account(bars, 2 * weights, hold, costs, 1e5, rule)
    return as_float64(portfolios), as_float64(fills), as_float64(orders), np.asarray(bars, np.float64)


def previous(x, first):
    """The values `[T - 1, ...]` one bar earlier."""
    return np.concatenate([np.broadcast_to(first, x[:1].shape), x[:-1]])


@quick
@given(seed=seeds, costs=costs_strategy, rule=rules)
def test_equity_changes_by_price_profit_less_costs_less_financing(seed, costs, rule):
    portfolios, fills, _, bars = run_random(seed, costs, rule)
    shares, close = previous(portfolios.shares, 0.0), bars[:-1, CLOSE]
    held = shares + fills.quantity
    profit = np.sum(shares * (fills.price - close) + held * (bars[1:, CLOSE] - fills.price), axis=1)
    paid = np.sum(fills.costs.commission + fills.costs.spread + fills.costs.slippage + fills.costs.impact, axis=1)
    change = portfolios.equity - previous(portfolios.equity, 1e5)
    scale = 1e5 + np.abs(portfolios.equity) + np.sum(np.abs(held) * close, axis=1)
    np.testing.assert_array_less(np.abs(change - (profit - paid - fills.financing)), 2e-6 * scale)
    np.testing.assert_allclose(held + fills.liquidation, portfolios.shares, atol=1e-6 * np.max(np.abs(held) + 1))
    assert np.all(paid >= 0)
    assert np.all(fills.financing >= 0)
    assert np.all(portfolios.peak_equity >= portfolios.equity)


@quick
@given(seed=seeds, costs=costs_strategy, rule=rules)
def test_fills_stay_within_volume_and_within_the_order(seed, costs, rule):
    portfolios, fills, orders, bars = run_random(seed, costs, rule)
    volume, quantity = bars[1:, VOLUME], fills.quantity
    assert np.all(quantity[volume == 0] == 0)
    assert np.all(np.abs(quantity) <= costs_as_floats(costs)["participation_limit"] * volume * (1 + 1e-6))
    late = rule.latency_bars - 1
    due = np.concatenate([np.zeros((late, N_ASSETS)), orders[: len(orders) - late]])
    cancelled = previous(fills.liquidated, False)[:, None]
    for back in range(1, late + 1):  # a liquidation empties the whole queue
        cancelled = cancelled | np.concatenate([np.zeros((back, 1), bool), cancelled])[: len(cancelled)]
    due = np.where(cancelled & (late > 0), np.nan, due)
    working = np.where(previous(fills.liquidated, False)[:, None], 0.0, previous(portfolios.unfilled, 0.0))
    wanted = working + due
    known = ~np.isnan(wanted)
    rounding = 1e-5 * (np.abs(previous(portfolios.shares, 0.0)) + np.abs(working) + np.abs(due))
    assert np.all((np.abs(quantity) <= np.abs(wanted) + rounding)[known])
    assert np.all((quantity * wanted >= -rounding * np.abs(quantity))[known])
    rest = (wanted - quantity) * (rule.unfilled == "carry") * ~fills.liquidated[:, None]
    assert np.all((np.abs(portfolios.unfilled - rest) <= rounding)[known])


@quick
@given(seed=seeds, costs=costs_strategy, rule=rules)
def test_holding_a_flat_account_changes_nothing(seed, costs, rule):
    bars = random_bars(seed, N_BARS, N_ASSETS, volatility=0.02)
    weights, _ = random_decisions(seed, N_BARS, N_ASSETS)
    hold = np.ones(weights.shape, bool)
    portfolios, fills, _ = run_account(bars, weights, hold, costs, 1e5, rule)
    assert np.all(portfolios.equity == 1e5)
    assert not np.any(portfolios.shares)
    assert not np.any(fills.liquidated)
    assert not np.any(fills.costs.total())


decide = jax.jit(orders_to_target)
take = jax.jit(step, static_argnames="rule")


def random_account(seed: int, rule: FillRule):
    """Positions and orders on the way, of any size and sign."""
    generator = np.random.default_rng(seed)
    price = jnp.asarray(10.0 ** generator.uniform(-4, 6, N_ASSETS), jnp.float32)
    portfolio = open_portfolio(price, 1e5, rule)
    sizes = generator.standard_normal((2 + len(portfolio.in_flight), N_ASSETS)) * 1e5 / np.asarray(price)
    sizes[1:] *= generator.integers(0, 2, (len(sizes) - 1, 1))
    shares, unfilled, *queue = jnp.asarray(sizes, jnp.float32)
    return portfolio.replace(shares=shares, unfilled=unfilled, in_flight=tuple(queue))


@quick
@given(seed=seeds, rule=rules, leverage=st.floats(0.1, 5))
def test_orders_never_aim_above_the_leverage_limit_and_never_touch_what_is_held(seed, rule, leverage):
    portfolio, generator = random_account(seed, rule), np.random.default_rng((seed, 2))
    weights = jnp.asarray(generator.normal(size=N_ASSETS) * generator.choice([0.1, 1, 10]), jnp.float32)
    hold = generator.random(N_ASSETS) < 0.4
    order = np.asarray(decide(portfolio, weights, hold, basic_costs(max_leverage=leverage, maintenance_margin=0.0)))
    expected = np.asarray(portfolio.shares + outstanding(portfolio), np.float64)
    gross = np.abs(expected + order) * np.asarray(portfolio.price) / 1e5
    room = max(leverage - gross[hold].sum(), 0.0)
    assert np.all(order[hold] == 0)
    assert gross[~hold].sum() <= room + 1e-5 * (1 + np.abs(expected * np.asarray(portfolio.price)).sum() / 1e5)
    if np.abs(np.asarray(weights, np.float64))[~hold].sum() <= room * (1 - 1e-6):
        np.testing.assert_allclose((expected + order)[~hold] * portfolio.price[~hold] / 1e5, weights[~hold], atol=1e-5)


@quick
@given(seed=seeds, rule=st.sampled_from([FillRule(), FillRule(unfilled="drop"), FillRule(fill_price="decision_close")]))
def test_a_tradable_position_can_always_be_closed_exactly(seed, rule):
    portfolio = random_account(seed, rule)
    costs = basic_costs(commission_bps=5.0, impact=0.5)
    row = np.stack([portfolio.price, portfolio.price, [np.inf, 1e30, np.inf], *np.full((4, N_ASSETS), 1e-3)])
    order = decide(portfolio, jnp.zeros(N_ASSETS), jnp.zeros(N_ASSETS, bool), costs)
    after, _ = take(portfolio, order, unpack_bar(jnp.asarray(row, jnp.float32)), costs, rule)
    assert not np.any(after.shares)
    assert not np.any(outstanding(after))


@quick
@given(
    seed=seeds,
    costs=costs_strategy,
    rule=rules,
    level=st.tuples(*[st.floats(1e-4, 1e6)] * N_ASSETS),
    volume=st.sampled_from([0.0, 1e-6, 1.0, 1e12, math.inf]),
    cash=st.sampled_from([1e-2, 1.0, 1e5, 1e12]),
)
def test_extreme_inputs_give_finite_numbers(seed, costs, rule, level, volume, cash):
    bars = random_bars(seed, N_BARS, N_ASSETS, volatility=0.1)
    bars[:, [OPEN, CLOSE]] *= np.float32(level) / bars[0, CLOSE]
    weights, hold = random_decisions(seed, N_BARS, N_ASSETS, hold=0.3)
    bars[::2, VOLUME] = volume
    bars[::3, BAR_FIELDS.index("average_volume")] = math.inf
    portfolios, fills, orders = run_account(bars, 3 * weights, hold, costs, cash, rule)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((portfolios, fills, orders)))


def stack(costs: list[Costs]) -> Costs:
    """A batch of costs, `[N]` in every field."""
    return jax.tree.map(lambda *values: jnp.stack(values), *costs)


@pytest.mark.parametrize("rule", [FillRule(), FillRule(latency_bars=3)])
def test_a_batch_of_accounts_and_of_costs_equals_a_loop(rule):
    """A stress test is a `vmap` over costs; each account is what it is alone, and dearer trading leaves less."""
    bars = random_bars(3, N_BARS, N_ASSETS, volatility=0.01)
    weights, hold = (np.stack(x) for x in zip(*(random_decisions(s, N_BARS, N_ASSETS) for s in (0, 0, 1)), strict=True))
    base = {"commission_bps": 1.0, "slippage": 0.05, "impact": 0.3, "participation_limit": 0.2}
    costs = [basic_costs(**base, spread_multiplier=multiple) for multiple in (1.0, 30.0, 1.0)]
    together = jax.vmap(run_account, (None, 0, 0, 0, None, None))(bars, weights, hold, stack(costs), 1e5, rule)
    for index in range(3):
        alone = run_account(bars, weights[index], hold[index], costs[index], 1e5, rule)
        for ours, theirs in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(ours[index], theirs, rtol=2e-5, atol=1e-2)
    assert together[0].equity[1, -1] < together[0].equity[0, -1] - 100


def test_new_bars_and_costs_do_not_recompile():
    weights, hold = random_decisions(0, N_BARS, N_ASSETS)
    run_account(random_bars(0, N_BARS, N_ASSETS), weights, hold, basic_costs(), 1e5, FillRule())
    compiled = run_account._cache_size()
    run_account(
        random_bars(1, N_BARS, N_ASSETS),
        weights,
        hold,
        basic_costs(impact=0.5),
        2e5,
        FillRule(),
    )
    assert run_account._cache_size() == compiled


def make_market() -> MarketData:
    """Random tradable bars with halts."""
    bars = random_bars(4, N_BARS, N_ASSETS, volatility=0.01)
    open_, close, volume = (jnp.asarray(bars[:, field]) for field in (OPEN, CLOSE, VOLUME))
    return MarketData(
        open=open_,
        high=jnp.maximum(open_, close) * 1.001,
        low=jnp.minimum(open_, close) * 0.999,
        close=close,
        volume=volume,
        half_spread=jnp.full_like(close, 2e-4),
        tradable=volume > 0,
        volume_known=jnp.array([True, True, False]),
        minute_of_day=jnp.zeros(N_BARS, jnp.int32),
        session=jnp.arange(N_BARS, dtype=jnp.int32),
        day_of_week=jnp.arange(N_BARS, dtype=jnp.int32) % 5,
        seconds_since_previous=jnp.full(N_BARS, 86400.0),
    )


EVERY_COST = {"commission_bps": 1.0, "slippage": 0.05, "impact": 0.3, "participation_limit": 0.1, "borrow_rate": 0.1}


def history(market: MarketData, rule: FillRule, table=pack_bars):
    """Everything that has happened to an account up to each bar, rows 0 to T - 1."""
    weights, hold = random_decisions(5, N_BARS, N_ASSETS, hold=0.3)
    portfolios, fills, _ = run_account(table(market), weights, hold, basic_costs(**EVERY_COST), 1e5, rule)
    return jax.tree.map(lambda x: jnp.concatenate([x[:1], x]), (portfolios, fills))


@pytest.mark.parametrize("rule", RULES)
def test_nothing_that_happened_depends_on_later_bars(rule):
    assert_causal(lambda market: history(market, rule), make_market(), 20, jax.random.key(0))


def test_an_order_is_decided_before_its_bar():
    """The orders of the decision at bar t, which fill in bar t + 1, are fixed by the bars up to t."""

    def orders(market):
        weights, hold = random_decisions(5, N_BARS, N_ASSETS, hold=0.3)
        decided = run_account(pack_bars(market), weights, hold, basic_costs(**EVERY_COST), 1e5, FillRule())[2]
        return jnp.concatenate([decided, decided[-1:]])

    assert_causal(orders, make_market(), 20, jax.random.key(1))


def test_fill_conditions_are_known_before_the_bar_opens():
    """Spread, volatility and normal volume at bar t + 1 are fixed by the bars up to t."""
    known = [BAR_FIELDS.index(name) for name in ("half_spread", "volatility", "average_volume")]

    def conditions(market):
        table = pack_bars(market)[:, known]
        return jnp.concatenate([table[1:], table[-1:]])

    assert_causal(conditions, make_market(), 20, jax.random.key(2))


def test_a_planted_leak_is_caught():
    def leaking(market):
        table = pack_bars(market)
        return table.at[:-1, CLOSE].set(table[1:, CLOSE])

    with pytest.raises(AssertionError):
        assert_causal(lambda market: history(market, FillRule(), leaking), make_market(), 20, jax.random.key(3))


@pytest.mark.parametrize("charged", [(), OMISSIBLE[:3], OMISSIBLE[3:]])
def test_leaving_out_prices_of_zero_changes_nothing(charged):
    """And without any of them, what is left out is not computed."""
    costs = basic_costs(commission_bps=3.0, commission_minimum=1.0, spread_multiplier=0.0, max_leverage=2.0)
    costs = costs.replace(**{name: jnp.float32(0.02) for name in charged})
    names = zero_prices(costs)
    assert set(names) == set(OMISSIBLE) - set(charged)
    bars = random_bars(5, N_BARS, N_ASSETS, volatility=0.02)
    weights, hold = random_decisions(5, N_BARS, N_ASSETS, hold=0.3)
    run = run_account.__wrapped__

    def left_out(costs):
        return run(bars, 2 * weights, hold, without(costs, names), jnp.float32(1e5), FillRule())

    full = run_account(bars, 2 * weights, hold, costs, 1e5, FillRule())
    lowered = jax.jit(left_out).lower(costs)
    for found, expected in zip(jax.tree.leaves(lowered.compile()(costs)), jax.tree.leaves(full), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert ("sqrt" in lowered.as_text()) is ("impact" in charged)
    assert float(full[1].costs.commission.sum()) > 0
