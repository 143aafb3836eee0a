"""Mask transforms: what each limits, by hand; causality of their tables; chains."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from causality import assert_causal

from jaxppo import envs, masks
from jaxppo.envs import simulators
from jaxppo.envs.execution.fill_rule import FillRule
from jaxppo.envs.execution.limits import allowed_box, constrain
from jaxppo.envs.execution.portfolio import open_portfolio
from jaxppo.envs.market import regimes
from jaxppo.envs.market.covariance import ewma_covariance
from jaxppo.envs.market.features import average_volume, ewma_volatility
from jaxppo.envs.trading.view import MarketView
from jaxppo.masks.hours import trading_hours

A, N = 3, 400
NAMES = ("AAA", "BBB", "CCC")
FREE = np.inf


def market(seed=0, n_bars=N):
    """A random panel with missing bars."""
    base = simulators.gbm(jax.random.key(seed), n_bars, A, half_spread=2e-4)
    there = jax.random.uniform(jax.random.key(seed + 1), (n_bars, A)) < 0.95
    return base.replace(tradable=there)


def view(prices, **changes):
    return MarketView(**{"market": prices, "periods": 252.0, "position_limit": 0.5, **changes})


def account(weights, *, equity=1e6, price=100.0, outstanding=0.0, peak=None):
    """An account with these weights, and outstanding orders `[A]` in weights."""
    prices = jnp.full(A, price)
    empty = open_portfolio(prices, equity, FillRule())
    shares = jnp.asarray(weights) * equity / prices
    unfilled = jnp.broadcast_to(jnp.asarray(outstanding), (A,)) * equity / prices
    return empty.replace(shares=shares, unfilled=unfilled, peak_equity=jnp.asarray(peak or equity))


def box_of(transform, row, portfolio, state=None):
    """Smallest and largest target weight of each asset while the others hold, and the next state."""
    state = transform.init(A) if state is None else state
    limits, state = transform.apply(state, row, portfolio)
    constraint = constrain(limits, portfolio, jnp.ones(A, bool), jnp.int32(0))
    return *(np.asarray(x) for x in allowed_box(constraint)), np.asarray(constraint.feasible_hold), state


def row_at(transform, seen, t):
    return jax.tree.map(lambda x: x[t], transform.table(seen))


def same(found, *expected):
    for one, other in zip(found[: len(expected)], expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_no_short():
    transform = masks.no_short()
    row = row_at(transform, view(market()), 5)
    same(box_of(transform, row, account([0.2, -0.3, 0.0])), [0, -0.3, 0], [FREE] * A, [0.2, -0.3, 0])


def test_a_regime_allows_sides_and_sizes_in_units_of_the_position_limit():
    found = jax.nn.one_hot(jnp.asarray([[regimes.BULL, regimes.BEAR, regimes.CRISIS]] * N), 4)
    sides = {"bull": (0.0, 1.0), "bear": (-1.0, 0.5), "crisis": (0.0, 0.0)}
    for force, kept in ((False, [0.1, 0.3, 0.2]), (True, [0.1, 0.25, 0.0])):
        transform = masks.regime(sides, force=force)
        row = row_at(transform, view(market(), regimes=found), 9)
        low, high, keep, _ = box_of(transform, row, account([0.1, 0.3, 0.2]))
        np.testing.assert_allclose(low, [0, -0.5, 0])
        np.testing.assert_allclose(high, [0.5, 0.3 if not force else 0.25, 0.2 if not force else 0.0], rtol=1e-6)
        np.testing.assert_allclose(keep, kept, rtol=1e-6)
    sideways = view(market(), regimes=jnp.zeros((N, A, 4)).at[..., regimes.SIDEWAYS].set(1.0))
    same(box_of(transform, row_at(transform, sideways, 9), account([0.0] * A)), [-FREE] * A, [FREE] * A)
    with pytest.raises(ValueError, match="needs regimes"):
        transform.table(view(market()))


def test_a_volatility_cap_is_inverse_to_the_forecast():
    prices = market()
    transform = masks.volatility_cap(0.1, span=10, hysteresis=0.0)
    expected = 0.1 / (np.asarray(ewma_volatility(prices, 10))[50] * 252**0.5)
    same(box_of(transform, row_at(transform, view(prices), 50), account([0.0] * A)), -expected, expected)
    forced = masks.volatility_cap(0.1, span=10, hysteresis=0.0, force=1.5)
    start = np.asarray([2.0, 1.2, -3.0]) * expected
    same(box_of(forced, row_at(forced, view(prices), 50), account(start))[2:], np.asarray([1.5, 1.2, -1.5]) * expected)


def test_a_cap_falls_at_once_and_rises_by_steps():
    prices = market()
    wanted = 0.1 / (np.asarray(ewma_volatility(prices, 10)) * 252**0.5)
    caps = np.asarray(masks.volatility_cap(0.1, span=10, hysteresis=0.2).table(view(prices)))
    expected, cap = [], wanted[0]
    for now in wanted:
        cap = np.where((now < cap) | (now > 1.2 * cap), now, cap)
        expected.append(cap)
    np.testing.assert_allclose(caps, expected, rtol=1e-5)
    assert np.all(caps <= wanted * (1 + 1e-6)), "never more than the target"
    rises = np.diff(caps, axis=0) > 0
    assert 0 < rises.mean() < 0.2


def test_budgets_of_risk():
    portfolio = account([0.3, -0.2, 0.1])
    groups = {"tech": (["AAA", "CCC"], 0.5)}
    cases = {
        "asset": ({"asset": 0.25}, [-0.25] * A, [0.3, 0.25, 0.25]),
        "gross": ({"gross": 0.8}, [-0.5, -0.4, -0.3], [0.5, 0.4, 0.3]),
        "net": ({"net": (-0.1, 0.4)}, [0, -0.5, -0.2], [0.5, 0.0, 0.3]),
        "groups": ({"groups": groups}, [-0.4, -FREE, -0.2], [0.4, FREE, 0.2]),
        "concentration": ({"concentration": 0.2}, -np.sqrt([0.15, 0.1, 0.07]), np.sqrt([0.15, 0.1, 0.07])),
    }
    for name, (given, low, high) in cases.items():
        transform = masks.risk_budget(names=NAMES, **given)
        row = row_at(transform, view(market()), 9)
        found = box_of(transform, row, portfolio)
        np.testing.assert_allclose(found[0], low, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(found[1], high, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(found[2], [0.3, -0.2, 0.1], atol=1e-6)


def test_forced_budgets_scale_positions_down():
    portfolio = account([0.6, -0.4, 0.2])
    groups = {"tech": (["AAA", "CCC"], 0.4)}
    cases = [
        ({"gross": 0.6, "force": 1.0}, np.asarray([0.6, -0.4, 0.2]) / 2),
        ({"gross": 1.1, "force": 1.1}, [0.6, -0.4, 0.2]),
        ({"net": (-1.0, 0.2), "force": 1.0}, np.asarray([0.6, -0.4, 0.2]) / 2),
        ({"groups": groups, "force": 1.0}, [0.3, -0.4, 0.1]),
        ({"concentration": 0.14, "force": 1.0}, np.asarray([0.6, -0.4, 0.2]) / 2),
        ({"asset": 0.3, "force": 1.5}, [0.45, -0.4, 0.2]),
    ]
    for given, keep in cases:
        transform = masks.risk_budget(names=NAMES, **given)
        same(box_of(transform, row_at(transform, view(market()), 9), portfolio)[2:], keep)


def test_the_drawdown_budget_shrinks_the_gross_budget():
    transform = masks.risk_budget(gross=1.0, drawdown_budget=0.2)
    row = row_at(transform, view(market()), 9)
    for equity, gross in ((1e6, 1.0), (0.95e6, 0.75), (0.8e6, 0.0), (0.5e6, 0.0)):
        same(box_of(transform, row, account([0.0] * A, equity=equity, peak=1e6))[1:], [gross] * A)


def test_the_volatility_budget_is_that_of_the_portfolio():
    prices = market()
    transform = masks.risk_budget(volatility=0.1, span=30)
    covariance = np.asarray(ewma_covariance(prices, 30), np.float64)[200] * 252
    weights = np.asarray([0.3, -0.2, 0.1])
    low, high, *_ = box_of(transform, row_at(transform, view(prices), 200), account(weights))
    for asset, ends in enumerate(zip(low, high, strict=True)):
        for end in ends:
            there = weights.copy()
            there[asset] = end
            inside = min(weights[asset], 0) < end < max(weights[asset], 0)
            assert (
                inside
                or (there @ covariance @ there) ** 0.5 == pytest.approx(0.1, rel=1e-3)
                or end in (0, weights[asset])
            )


def test_the_covariance_has_the_correlations_of_pandas():
    """Of returns between own bars, whatever prices are quoted in between, per square root of the bars they took."""
    prices = market(3)
    there = np.asarray(prices.tradable)
    standard = np.zeros(there.shape)
    for i in range(A):
        rows = np.flatnonzero(there[:, i])
        standard[rows[1:], i] = np.diff(np.log(np.asarray(prices.close, np.float64)[rows, i])) / np.sqrt(np.diff(rows))
    average = lambda x: pd.Series(x).ewm(span=20, adjust=True).mean().to_numpy()  # noqa: E731
    found, volatility = np.asarray(ewma_covariance(prices, 20)), np.asarray(ewma_volatility(prices, 20))
    squares = [average(standard[:, i] ** 2) for i in range(A)]
    for i, j in itertools.product(range(A), range(A)):
        correlation = average(standard[:, i] * standard[:, j]) / np.sqrt(squares[i] * squares[j])
        expected = correlation * volatility[:, i] * volatility[:, j]
        np.testing.assert_allclose(found[5:, i, j], expected[5:], rtol=2e-3, atol=1e-8)


def test_a_covariance_of_ragged_assets_is_positive_semidefinite():
    """Half the bars missing: no portfolio has a negative variance. Volatilities are those of single bars."""
    base = simulators.gbm(jax.random.key(0), 200, 20, volatility=0.01)
    prices = base.replace(tradable=jax.random.uniform(jax.random.key(1), (200, 20)) < 0.5)
    smallest = np.linalg.eigvalsh(np.asarray(ewma_covariance(prices, 21), np.float64)).min(axis=-1)
    assert smallest[30:].min() > -1e-9
    scale = np.sqrt(np.einsum("taa->ta", np.asarray(ewma_covariance(prices, 21))))
    np.testing.assert_allclose(scale, np.asarray(ewma_volatility(prices, 21)), rtol=1e-5)


def test_liquidity_limits_increases_by_volume_and_spread():
    prices = market()
    transform = masks.liquidity(participation=0.02, span=21)
    usual = np.asarray(average_volume(prices, 21))[60] * 0.02
    room = usual * 100.0 / 1e8
    weights = np.asarray([0.2, -0.1, 0.0])
    low, high, *_ = box_of(transform, row_at(transform, view(prices), 60), account(weights, equity=1e8))
    np.testing.assert_allclose(low, np.minimum(weights - room, 0), rtol=1e-4)
    np.testing.assert_allclose(high, np.maximum(weights + room, 0), rtol=1e-4)
    unknown = prices.replace(volume_known=jnp.zeros(A, bool))
    assert np.all(np.isinf(box_of(transform, row_at(transform, view(unknown), 60), account(weights))[1]))
    spreads = prices.replace(half_spread=prices.half_spread.at[:, 1].set(0.01))
    wide = masks.liquidity(spread=0.001)
    same(box_of(wide, row_at(wide, view(spreads), 9), account(weights)), [-FREE, -0.1, -FREE], [FREE, 0.0, FREE])


def test_halts_by_name_and_after_a_move():
    prices = market()
    close = prices.close.at[100:, 1].mul(1.3)
    prices = prices.replace(close=close, tradable=jnp.ones((N, A), bool))
    transform = masks.halt(symbols=("CCC",), move=0.2, bars=3, names=NAMES)
    held = account([0.1, 0.1, 0.1])
    for t, high in (
        (99, [FREE, FREE, 0.1]),
        (100, [FREE, 0.1, 0.1]),
        (102, [FREE, 0.1, 0.1]),
        (103, [FREE, FREE, 0.1]),
    ):
        same(box_of(transform, row_at(transform, view(prices), t), held)[1:], high, [0.1] * A)


def test_turnover_is_used_up_and_comes_back():
    transform = masks.turnover(0.5, window=5)
    row, state = row_at(transform, view(market()), 0), transform.init(A)
    low, high, _, state = box_of(transform, row, account([0.1, 0.0, 0.0]), state)
    same((low, high), [-0.4, -0.5, -0.5], [0.6, 0.5, 0.5])
    used = 0.0
    for weights, traded in (([0.3, 0.1, 0.0], 0.3), ([0.3, -0.1, 0.0], 0.2), ([0.3, -0.1, 0.0], 0.0)):
        low, high, keep, state = box_of(transform, row, account(weights), state)
        used = 0.8 * used + traded
        left = 0.5 - 0.8 * used
        weights = np.asarray(weights)
        same((low, high, keep), np.minimum(weights - left, 0), np.maximum(weights + left, 0), weights)


def test_holding_periods_limit_openings_and_end_positions():
    transform = masks.holding_period(minimum=2, maximum=4)
    row, state = row_at(transform, view(market()), 0), transform.init(A)
    seen = []
    for weight in (0.0, 0.2, 0.2, 0.2, 0.2, 0.2, 0.0, -0.1, -0.2):
        low, high, keep, state = box_of(transform, row, account([weight, 0.0, 0.0]), state)
        seen.append((float(low[0]), float(high[0]), float(keep[0])))
    opened, waiting = seen[1], seen[2]
    assert seen[0] == (-FREE, FREE, 0.0)
    np.testing.assert_allclose([opened, waiting], [(0, 0.2, 0.2)] * 2)
    assert seen[3][:2] == (-FREE, FREE)
    assert seen[4] == seen[5] == (0.0, 0.0, 0.0), "there at four closes: it must go"
    assert seen[6] == (-FREE, FREE, 0.0)
    np.testing.assert_allclose(seen[7:], [(-0.1, 0, -0.1), (-0.2, 0, -0.2)], atol=1e-6)


def test_orders_count_when_they_are_placed():
    """What is on order uses up the turnover budget, and begins the time to wait for the next increase."""
    row = row_at(masks.turnover(0.5), view(market()), 0)
    low, high, *_ = box_of(masks.turnover(0.5), row, account([0.1, 0.0, 0.0], outstanding=[0.2, 0.0, -0.1]))
    same((low, high), [0.0, -0.2, -0.3], [0.5, 0.2, 0.1])
    transform, state = masks.holding_period(minimum=3), None
    for wanted in ([0.0, 0.0, 0.0], [0.2, 0.0, 0.0], [0.2, 0.0, 0.0]):
        low, high, _, state = box_of(transform, row, account([0.0] * A, outstanding=wanted), state)
    same((low, high), [0.0, -FREE, -FREE], [0.2, FREE, FREE])


def test_holding_does_not_add_to_a_budget_that_is_used_up():
    """Orders are cut to what budgets leave, from where positions are; those that reduce a position are not."""
    cases = (
        (masks.risk_budget(gross=0.5), [0.2, -0.2, 0.0], [0.3, 0.0, 0.0], [0.3, -0.2, 0.0]),
        (masks.risk_budget(gross=0.3), [0.2, -0.2, 0.0], [0.3, 0.1, 0.0], [0.2, -0.1, 0.0]),
        (masks.risk_budget(net=(-0.1, 0.3)), [0.2, 0.0, 0.0], [0.0, 0.2, 0.2], [0.2, 0.05, 0.05]),
        (masks.risk_budget(gross=1.0), [0.2, 0.0, 0.0], [0.3, 0.1, 0.0], [0.5, 0.1, 0.0]),
        (masks.risk_budget(concentration=0.05), [0.1, 0.0, 0.0], [0.0, 0.4, 0.0], [0.1, 0.2, 0.0]),
    )
    for transform, weights, on_order, expected in cases:
        row = row_at(transform, view(market()), 50)
        same(box_of(transform, row, account(weights, outstanding=on_order))[2:], expected)


def test_forced_budgets_hold_together():
    """What brings one budget back takes hedges away: the others are brought back after it."""
    groups = {"pair": (("AAA", "BBB"), 0.2)}
    transform = masks.risk_budget(groups=groups, net=(-0.1, 0.1), force=1.0, names=NAMES)
    keep = box_of(transform, row_at(transform, view(market()), 50), account([0.3, 0.3, -0.6]))[2]
    same((keep,), [0.025, 0.025, -0.15])
    # Concentration is forced at a multiple of itself, not of its root.
    transform = masks.risk_budget(concentration=0.2, force=1.1)
    for weight, kept in ((0.46, 0.46), (0.48, 0.22**0.5)):
        same(box_of(transform, row_at(transform, view(market()), 5), account([weight, 0.0, 0.0]))[2:], [kept, 0.0, 0.0])


def hourly(first="2019-11-25", days=6):
    """Bars of an hour on New York's clock, 09:00 to 15:00, around Thanksgiving 2019: a holiday and a half day."""
    hours = pd.date_range(first, periods=days * 24, freq="h", tz="America/New_York")
    hours = hours[(hours.hour >= 8) & (hours.hour <= 16) & (hours.day_of_week < 5)]
    frame = pd.DataFrame({"timestamp": hours.tz_convert("UTC"), "symbol": "AAA"})
    for name in ("open", "high", "low", "close"):
        frame[name] = 100.0
    return envs.load_market(frame.assign(volume=1e6), calendar="XNYS"), hours


def test_trading_hours_know_half_days_and_holidays():
    prices, hours = hourly()
    since_open, to_close = trading_hours(prices, "XNYS")
    table = dict(zip(hours.strftime("%d %H"), zip(since_open, to_close, strict=True), strict=True))
    assert table["25 09"] == (30, 360)
    assert table["25 15"] == (390, 0)
    assert table["25 08"] == table["25 16"] == table["28 12"] == (-1, -1)
    assert table["29 11"] == (150, 60)
    assert table["29 12"] == (210, 0)
    assert table["29 13"] == (-1, -1)


def test_markets_that_never_close_have_no_close():
    prices, _ = hourly()
    since_open, to_close = trading_hours(prices, "24/7")
    assert np.all(np.isinf(to_close))
    assert np.all(since_open > 0)
    _, friday = trading_hours(prices, "24/5")
    assert friday.max() == pytest.approx(5 * 1440 - 14 * 60, abs=60)
    daily = simulators.gbm(jax.random.key(0), 50, 1)
    with pytest.raises(ValueError, match="market with times"):
        trading_hours(daily, "XNYS")
    days = np.arange(50) * np.timedelta64(1, "D") + np.datetime64("2019-01-01", "ns")
    with pytest.raises(ValueError, match="shorter than a day"):
        trading_hours(daily.replace(info=dataclasses.replace(daily.info, timestamps=days)), "XNYS")
    with pytest.raises(envs.DataError, match="'XNYX' is no exchange_calendars name"):
        trading_hours(prices, "XNYX")


def test_a_session_ends_positions_before_the_close():
    prices, hours = hourly()
    names = list(hours.strftime("%d %H"))
    transform = masks.session("XNYS", open_minutes=60, close_minutes=120, flat_minutes=60)
    table = transform.table(view(prices))
    state = transform.init(1)
    held = open_portfolio(jnp.full(1, 100.0), 1e6, FillRule()).replace(shares=jnp.asarray([1e3]))

    def seen(name):
        limits, _ = transform.apply(state, jax.tree.map(lambda x: x[names.index(name)], table), held)
        constraint = constrain(limits, held, jnp.ones(1, bool), jnp.int32(0))
        return float(allowed_box(constraint)[1][0]), float(constraint.feasible_hold[0])

    hold = pytest.approx(0.1)
    assert seen("25 09") == (hold, hold), "too early for new positions"
    assert seen("25 10") == (FREE, hold)
    assert seen("25 13") == (hold, hold), "too late for new positions"
    assert seen("25 14") == seen("25 15") == seen("25 16") == (0.0, 0.0), "none over night"
    assert seen("29 10") == (hold, hold), "a half day ends at one"
    assert seen("29 11") == (0.0, 0.0)


def test_no_mask_looks_ahead():
    prices = market(5)
    everything = {
        "volatility_cap": masks.volatility_cap(0.1, span=10),
        "volatility_budget": masks.risk_budget(volatility=0.1, span=10),
        "liquidity": masks.liquidity(spread=2e-4, participation=0.1),
        "halt": masks.halt(move=0.02, bars=2),
        "regime": masks.regime({"bull": (0.0, 1.0), "bear": (-1.0, 0.0)}),
    }
    for name, transform in everything.items():

        def table(prices, transform=transform):
            found = regimes.rule_regimes(prices, trend_window=10, volatility_window=20, drawdown_window=20)
            return transform.table(view(prices, regimes=found))

        assert_causal(table, prices, 200, jax.random.key(len(name)))


def test_a_chain_allows_what_all_allow_in_any_order():
    prices = market()
    parts = [
        masks.no_short(),
        masks.volatility_cap(0.1, span=10, force=1.2),
        masks.risk_budget(gross=0.7, net=(-0.2, 0.5), force=1.1),
        masks.turnover(0.3, window=5),
        masks.holding_period(minimum=3),
    ]
    boxes = []
    for order in ((0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (2, 0, 4, 1, 3)):
        chained = masks.chain(*(parts[i] for i in order))
        row, state = row_at(chained, view(prices), 100), chained.init(A)
        for weights in ([0.2, 0.1, 0.0], [0.5, 0.1, -0.2]):
            *found, state = box_of(chained, row, account(weights), state)
        boxes.append(np.asarray(found))
    for found in boxes[1:]:
        np.testing.assert_allclose(found, boxes[0], atol=1e-6)
    assert chained.parts == tuple(parts[i] for i in order)
    nothing = masks.chain()
    same(box_of(nothing, nothing.table(view(prices)), account([0.1] * A)), [-FREE] * A, [FREE] * A)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: masks.regime({"bul": (0, 1)}), "regime 'bul' is unknown"),
        (lambda: masks.regime({"bull": (0.1, 1)}), "must contain 0"),
        (lambda: masks.volatility_cap(0.0), "target"),
        (lambda: masks.volatility_cap(0.1, force=0.5), "force is 0.5"),
        (lambda: masks.risk_budget(), "must limit something"),
        (lambda: masks.risk_budget(gross=-1.0), "gross is -1.0"),
        (lambda: masks.risk_budget(net=(0.1, 0.2)), "net is"),
        (lambda: masks.risk_budget(groups={"x": (["ZZZ"], 1.0)}, names=NAMES), "'ZZZ' is not in the market"),
        (lambda: masks.liquidity(), "must limit something"),
        (lambda: masks.turnover(0.0), "limit"),
        (lambda: masks.holding_period(), "minimum or a maximum"),
        (lambda: masks.holding_period(minimum=0), "minimum is 0"),
        (lambda: masks.halt(symbols=("ZZZ",), names=NAMES), "'ZZZ' is not in the market"),
        (lambda: masks.halt(move=0.0), "move"),
        (lambda: masks.session("XNYS", open_minutes=-1), "open_minutes is -1"),
    ],
)
def test_mistakes_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
