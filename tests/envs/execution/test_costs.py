"""Costs by hand, against `bt`'s cost models, and as properties; what a bar can absorb; the packed table."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxppo.envs.execution.bars import BAR_FIELDS, Bar, pack_bars, unpack_bar
from jaxppo.envs.execution.costs import basic_costs, fillable, trade_costs
from jaxppo.envs.market.market_data import SECONDS_PER_YEAR, MarketData

KINDS = ("commission", "spread", "slippage", "impact")


def make_bar(*, half_spread=0.0, volatility=0.0, average_volume=math.inf, available_volume=math.inf) -> Bar:
    """A bar of one asset at a price of 100."""
    return Bar(
        open=jnp.array([100.0]),
        close=jnp.array([100.0]),
        available_volume=jnp.array([available_volume]),
        half_spread=jnp.array([half_spread]),
        volatility=jnp.array([volatility]),
        average_volume=jnp.array([average_volume]),
        year_fraction=jnp.zeros(1),
    )


@jax.jit
def price_trade(quantity, price, bar, costs):
    """`trade_costs`, compiled."""
    return trade_costs(quantity, price, bar, costs)


def costs_by_kind(quantity: float, price: float, bar: Bar, **parameters) -> dict[str, float]:
    """Currency paid for one fill of one asset."""
    paid = price_trade(jnp.array([quantity]), jnp.array([price]), bar, basic_costs(**parameters))
    return {kind: float(getattr(paid, kind)[0]) for kind in KINDS}


@pytest.mark.parametrize("side", [1.0, -1.0])
@pytest.mark.parametrize(
    ("parameters", "commission"),
    [
        ({"commission_bps": 10.0}, 5.0),
        ({"commission_per_share": 0.01}, 1.0),
        ({"commission_bps": 10.0, "commission_per_share": 0.01}, 6.0),
        ({"commission_bps": 10.0, "commission_minimum": 10.0}, 10.0),
        ({"commission_bps": 10.0, "commission_minimum": 4.0}, 5.0),
    ],
)
def test_commission_of_100_shares_at_50(side, parameters, commission):
    paid = costs_by_kind(side * 100.0, 50.0, make_bar(), **parameters)
    assert paid == {"commission": pytest.approx(commission, rel=1e-6), "spread": 0, "slippage": 0, "impact": 0}


def test_the_minimum_commission_is_for_fills_only():
    assert costs_by_kind(0.0, 50.0, make_bar(), commission_minimum=10.0) == dict.fromkeys(KINDS, 0.0)


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_spread_and_slippage_are_adverse_whatever_the_side(side):
    bar = make_bar(half_spread=5e-4, volatility=0.02)
    paid = costs_by_kind(side * 100.0, 50.0, bar, spread_multiplier=2.0, slippage=0.5)
    assert paid["spread"] == pytest.approx(5000 * 5e-4 * 2, rel=1e-6)
    assert paid["slippage"] == pytest.approx(5000 * 0.02 * 0.5, rel=1e-6)


@pytest.mark.parametrize(("quantity", "cost"), [(1e4, 800.0), (1e5, 25298.2213), (-1e5, 25298.2213), (1e3, 25.2982)])
def test_square_root_impact_golden(quantity, cost):
    bar = make_bar(volatility=0.02, average_volume=1e6)
    assert costs_by_kind(quantity, 100.0, bar, impact=0.6)["impact"] == pytest.approx(cost, rel=2e-6)


def test_impact_is_zero_where_volume_is_not_reported():
    paid = costs_by_kind(1e6, 100.0, make_bar(volatility=0.02), impact=0.6)
    assert paid["impact"] == 0.0


def test_impact_equals_bt():
    core = pytest.importorskip("bt").core
    generator = np.random.default_rng(0)
    n = 500
    quantity = generator.normal(size=n) * 10.0 ** generator.uniform(0, 6, n)
    price, volume = 10.0 ** generator.uniform(-2, 4, n), 10.0 ** generator.uniform(2, 9, n)
    volatility, scale = generator.uniform(1e-4, 0.1, n), np.float32(0.75)
    arrays = [np.asarray(x, np.float32) for x in (quantity, price, volume, volatility)]
    quantity, price, volume, volatility = map(jnp.asarray, arrays)
    bar = Bar(price, price, volume, jnp.zeros(n), volatility, volume, jnp.zeros(n))
    ours = price_trade(quantity, price, bar, basic_costs(impact=float(scale))).impact
    model = core.SqrtCostModel(Y=float(scale))
    theirs = [model.cost(*map(float, row)) for row in zip(*arrays, strict=True)]
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize(("per_share", "per_order", "rate"), [(0.005, 1.0, 0.0), (0.0, 0.0, 5e-4)])
def test_commission_and_spread_equal_the_linear_part_of_bt(per_share, per_order, rate):
    """`bt` takes commission as a function of (quantity, price); its Almgren-Chriss model is linear without impact."""
    core = pytest.importorskip("bt").core
    linear = core.AlmgrenChrissCostModel(alpha=0.0, beta=0.0, epsilon=rate)
    generator = np.random.default_rng(1)
    for quantity, price in zip(generator.normal(size=20) * 1e4, generator.uniform(1, 500, 20), strict=True):
        bar = make_bar(half_spread=rate)
        paid = costs_by_kind(quantity, price, bar, commission_per_share=per_share, commission_minimum=per_order)
        assert paid["spread"] == pytest.approx(linear.cost(quantity, price, 1e6, 0.01), rel=1e-6)
        assert paid["commission"] == pytest.approx(max(per_order, per_share * abs(quantity)), rel=1e-6)


amounts = st.floats(0, 1e4, width=32, allow_subnormal=False)
rates = st.floats(0, 0.125, width=32, allow_subnormal=False)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    quantity=st.floats(-1e8, 1e8, width=32, allow_subnormal=False),
    price=st.floats(2.0**-13, 1e6, width=32),
    volumes=st.tuples(st.sampled_from([1.0, 1e3, 1e9, math.inf]), st.sampled_from([0.0, 1e-3, 1e6, math.inf])),
    conditions=st.tuples(rates, rates),
    parameters=st.tuples(
        rates, amounts, amounts, st.sampled_from([0.0, 1.0, 10.0]), rates, st.sampled_from([0.0, 0.6, 2.0])
    ),
)
def test_costs_are_finite_never_negative_and_the_same_for_both_sides(quantity, price, volumes, conditions, parameters):
    names = ("commission_bps", "commission_per_share", "commission_minimum", "spread_multiplier", "slippage", "impact")
    half_spread, volatility = conditions
    bar = make_bar(half_spread=half_spread, volatility=volatility, average_volume=volumes[0])
    buy = costs_by_kind(quantity, price, bar, **dict(zip(names, parameters, strict=True)))
    sell = costs_by_kind(-quantity, price, bar, **dict(zip(names, parameters, strict=True)))
    assert buy == sell
    assert all(0 <= paid < math.inf for paid in buy.values())


@pytest.mark.parametrize("wanted", [30.0, 80.0, -30.0, -80.0])
@pytest.mark.parametrize(
    ("limit", "volume", "most"),
    [(0.1, 500.0, 50.0), (0.1, 0.0, 0.0), (0.1, math.inf, math.inf), (None, 0.0, 0.0), (None, 500.0, math.inf)],
)
def test_a_fill_is_capped_by_participation_and_zero_on_a_halt(wanted, limit, volume, most):
    costs = basic_costs(participation_limit=limit)
    fill = fillable(jnp.array([wanted]), make_bar(available_volume=volume), costs)
    assert float(fill[0]) == pytest.approx(math.copysign(min(abs(wanted), most), wanted), rel=1e-6)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"commission_bps": -1.0}, "commission_bps is -1.0"),
        ({"impact": math.nan}, "impact is nan"),
        ({"slippage": math.inf}, "slippage is inf"),
        ({"participation_limit": 0.0}, "participation_limit is 0.0"),
        ({"participation_limit": math.nan}, "participation_limit is nan"),
        ({"max_leverage": 0.0}, "max_leverage is 0.0"),
        ({"maintenance_margin": 0.5, "max_leverage": 2.0}, "product must be < 1"),
    ],
)
def test_bad_costs_are_refused_by_name(parameters, message):
    with pytest.raises(ValueError, match=message):
        basic_costs(**parameters)


def make_market(seed: int = 0, n_bars: int = 40, n_assets: int = 3) -> MarketData:
    """Random bars; asset 0 is listed late and halts, the last asset does not report its volume."""
    generator = np.random.default_rng(seed)
    shape = (n_bars, n_assets)
    tradable = generator.random(shape) > 0.1
    tradable[:5, 0] = False
    tradable[5, 0] = True
    close = 100 * np.exp(np.cumsum(0.01 * generator.standard_normal(shape), axis=0))
    open_ = close * np.exp(0.003 * generator.standard_normal(shape))
    volume = np.where(tradable, 1e5 * np.exp(generator.standard_normal(shape)), 0.0)
    volume[:, -1] = 0.0
    prices = [open_, np.maximum(open_, close) * 1.002, np.minimum(open_, close) * 0.998, close]
    source = np.maximum.accumulate(np.where(tradable, np.arange(n_bars)[:, None], 0), axis=0)
    last = np.take_along_axis(close, source, axis=0)
    prices = [np.where(tradable, price, last) for price in prices]
    return MarketData(
        *(jnp.asarray(price, jnp.float32) for price in (*prices, volume)),
        half_spread=jnp.asarray(generator.uniform(1e-4, 5e-4, shape), jnp.float32),
        tradable=jnp.asarray(tradable),
        volume_known=jnp.arange(n_assets) < n_assets - 1,
        minute_of_day=jnp.zeros(n_bars, jnp.int32),
        session=jnp.arange(n_bars, dtype=jnp.int32),
        day_of_week=jnp.arange(n_bars, dtype=jnp.int32) % 5,
        seconds_since_previous=jnp.asarray(np.r_[0.0, generator.choice([86400.0, 259200.0], n_bars - 1)], jnp.float32),
    )


def column(table: jax.Array, name: str) -> np.ndarray:
    """One field of a packed table, `[T, A]`."""
    return np.asarray(table[:, BAR_FIELDS.index(name)])


def test_pack_bars_takes_prices_and_volume_of_the_bar():
    market = make_market()
    table = pack_bars(market)
    assert table.shape == (40, len(BAR_FIELDS), 3)
    assert table.dtype == jnp.float32
    np.testing.assert_array_equal(column(table, "open"), market.open)
    np.testing.assert_array_equal(column(table, "close"), market.close)
    available = column(table, "available_volume")
    np.testing.assert_array_equal(available[:, :2], np.where(market.tradable, market.volume, 0.0)[:, :2])
    np.testing.assert_array_equal(available[:, 2], np.where(market.tradable[:, 2], np.inf, 0.0))
    years = np.asarray(market.seconds_since_previous)[:, None] / SECONDS_PER_YEAR
    np.testing.assert_allclose(column(table, "year_fraction"), np.broadcast_to(years, (40, 3)), rtol=1e-6)
    bar = unpack_bar(table[7])
    np.testing.assert_array_equal(bar.year_fraction, column(table, "year_fraction")[7])


def test_fill_conditions_are_those_of_the_previous_close():
    market = make_market()
    np.testing.assert_array_equal(column(pack_bars(market), "half_spread")[1:], market.half_spread[:-1])
    shocked = market.replace(
        close=market.close.at[20].multiply(1.5), high=market.high.at[20].multiply(1.6), volume=market.volume * 1.0
    )
    shocked = shocked.replace(volume=market.volume.at[20].multiply(50.0))
    before, after = pack_bars(market), pack_bars(shocked)
    for name in ("volatility", "average_volume"):
        np.testing.assert_array_equal(column(before, name)[:21], column(after, name)[:21])
        assert np.all(column(after, name)[21, 1] > column(before, name)[21, 1])


def test_average_volume_is_a_number_of_shares_from_the_first_bar_on():
    market = make_market()
    average = column(pack_bars(market), "average_volume")
    assert np.all(np.isinf(average[:, 2]))
    assert np.all(average > 0)
    first = 5  # the bar on which asset 0 is listed: nothing is known of it before
    assert average[first, 0] == market.volume[first, 0]
    assert average[first + 1, 0] == pytest.approx(float(market.volume[first, 0]), rel=1e-6)


def test_average_volume_scales_with_the_unit_of_volume():
    """A market quoted in coins of which a hundredth trades per bar is as liquid as the same one quoted in cents."""
    market = make_market()
    coins = market.replace(volume=market.volume * 1e-7)
    ratio = column(pack_bars(coins), "average_volume")[:, :2] / column(pack_bars(market), "average_volume")[:, :2]
    traded = np.cumsum(np.asarray(market.volume[:, :2]), axis=0) > 0
    np.testing.assert_allclose(ratio[traded], 1e-7, rtol=1e-4)
