"""Slippage by the state of the market: each factor by hand or against pandas, causal, and absent by default."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from jaxppo.envs import simulators
from jaxppo.envs.execution.bars import BAR_FIELDS, pack_bars, unpack_bar
from jaxppo.envs.execution.costs import basic_costs, trade_costs
from jaxppo.envs.execution.slippage import USUAL_SPAN
from jaxppo.envs.market.market_data import MarketData, slice_bars

N_BARS, PER_SESSION = 240, 6


@pytest.fixture(scope="module")
def market() -> MarketData:
    """Sessions of six bars; volatility, volume and spread move a lot."""
    bar = np.arange(N_BARS)
    generator = np.random.default_rng(0)
    source = simulators.stochastic_volatility_jumps(jax.random.key(0), N_BARS, 2, volume_deviation=1.0)
    spread = 1e-4 * np.exp(np.cumsum(0.2 * generator.standard_normal((N_BARS, 2)), axis=0))
    return source.replace(
        session=jnp.asarray(bar // PER_SESSION, jnp.int32), half_spread=jnp.asarray(spread, jnp.float32)
    )


def scale_of(market: MarketData, regimes=None, **conditions) -> np.ndarray:
    """`[T, A]` factor of slippage in the table."""
    table = pack_bars(market, conditions=basic_costs(**conditions).conditions, regimes=regimes)
    assert table.shape == (market.n_bars, len(BAR_FIELDS) + 1, 2)
    np.testing.assert_array_equal(table[:, : len(BAR_FIELDS)], pack_bars(market))
    return np.asarray(table[:, -1])


def before(x: np.ndarray) -> np.ndarray:
    return np.concatenate([x[:1], x[:-1]])


def usual(x: np.ndarray, span: float = USUAL_SPAN) -> np.ndarray:
    return pd.DataFrame(x).ewm(span=span).mean().to_numpy()


def test_first_and_last_bar_of_a_session(market):
    factor = scale_of(market, slippage_open=3.0, slippage_close=2.0)
    within = np.arange(N_BARS) % PER_SESSION
    expected = np.where(within == 0, 3.0, np.where(within == PER_SESSION - 1, 2.0, 1.0))
    expected[-1] = 1.0  # nobody knows what follows the last bar
    np.testing.assert_array_equal(factor, np.tile(expected[:, None], (1, 2)))


@pytest.mark.slow
def test_sessions_of_one_bar_have_no_open_or_close():
    daily = simulators.stochastic_volatility_jumps(jax.random.key(0), 8, 2)
    daily = daily.replace(session=jnp.arange(8, dtype=jnp.int32))
    for n_bars in (2, 7, 8):
        start = slice_bars(daily, 0, n_bars)
        np.testing.assert_array_equal(scale_of(start, slippage_open=3.0, slippage_close=2.0), 1.0)
    two = daily.replace(session=jnp.asarray([0, 0, 1, 1, 2, 2, 3, 3], jnp.int32))
    found = scale_of(slice_bars(two, 0, 7), slippage_open=3.0, slippage_close=2.0)[:, 0]
    np.testing.assert_array_equal(found, [3, 2, 3, 2, 3, 2, 3], "a last bar after sessions of several opens another")


def test_spread_and_volume_relative_to_what_is_usual(market):
    spread, volume = np.asarray(market.half_spread, np.float64), np.asarray(market.volume, np.float64)
    expected = np.clip(before(spread / usual(spread)), 0.1, 10) ** 0.5
    np.testing.assert_allclose(scale_of(market, slippage_spread=0.5), expected, rtol=1e-4)
    expected = np.clip(before(usual(volume) / usual(volume, 21)), 0.1, 10)
    np.testing.assert_allclose(scale_of(market, slippage_volume=1.0), expected, rtol=1e-4)
    assert scale_of(market, slippage_spread=4.0).max() == pytest.approx(10.0)
    unknown = market.replace(volume_known=jnp.zeros(2, bool))
    np.testing.assert_array_equal(scale_of(unknown, slippage_volume=1.0), 1.0)


def test_volatility_relative_to_what_is_usual(market):
    table = np.asarray(pack_bars(market))
    slow = np.asarray(pack_bars(market, volatility_span=USUAL_SPAN))
    column = BAR_FIELDS.index("volatility")
    expected = (table[:, column] / slow[:, column]) ** 2
    np.testing.assert_allclose(scale_of(market, slippage_volatility=2.0), expected, rtol=1e-4)


def test_regimes_count_by_their_probabilities_of_the_bar_before(market):
    generator = np.random.default_rng(1)
    regimes = generator.dirichlet(np.ones(4), size=(N_BARS, 2)).astype(np.float32)
    regimes[:5] = np.nan
    factors = [1.0, 2.0, 0.5, 4.0]
    expected = before(np.nan_to_num(regimes @ np.array(factors), nan=1.0))
    found = scale_of(market, jnp.asarray(regimes), slippage_regimes=factors)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    with pytest.raises(ValueError, match="needs the probabilities"):
        scale_of(market, slippage_regimes=factors)
    with pytest.raises(ValueError, match="slippage_regimes is"):
        basic_costs(slippage_regimes=[1.0, 2.0])


EVERY = {
    "slippage_open": 2.0,
    "slippage_close": 0.5,
    "slippage_volatility": 1.0,
    "slippage_volume": 0.7,
    "slippage_spread": 0.3,
}


def test_nothing_of_the_future_is_in_it(market):
    t = 100
    later = jnp.arange(N_BARS)[:, None] >= t
    shocked = market.replace(
        close=jnp.where(later, 2.0 * market.close, market.close),
        high=jnp.where(later, 2.5 * market.high, market.high),
        volume=jnp.where(later, 0.1 * market.volume, market.volume),
        half_spread=jnp.where(later, 5.0 * market.half_spread, market.half_spread),
    )
    was, became = scale_of(market, **EVERY), scale_of(shocked, **EVERY)
    np.testing.assert_array_equal(was[: t + 1], became[: t + 1])
    assert (was[t + 1] != became[t + 1]).all()


def test_slippage_and_only_slippage_is_multiplied(market):
    plain = basic_costs(slippage=0.1, impact=0.5, commission_bps=1.0)
    costs = basic_costs(slippage=0.1, impact=0.5, commission_bps=1.0, **EVERY)
    row = pack_bars(market, conditions=costs.conditions)[77]
    quantity, price = jnp.array([100.0, -50.0]), market.open[77]
    scaled = trade_costs(quantity, price, unpack_bar(row), costs)
    usually = trade_costs(quantity, price, unpack_bar(row[: len(BAR_FIELDS)]), plain)
    np.testing.assert_allclose(scaled.slippage, usually.slippage * row[-1], rtol=1e-6)
    assert abs(float(row[-1, 0]) - 1) > 0.01
    for kind in ("commission", "spread", "impact"):
        np.testing.assert_array_equal(getattr(scaled, kind), getattr(usually, kind))


def test_without_conditions_the_table_has_no_factor(market):
    assert basic_costs(slippage=0.3).conditions == ()
    assert pack_bars(market).shape[1] == len(BAR_FIELDS)
    assert unpack_bar(pack_bars(market)[3]).slippage_scale == ()
