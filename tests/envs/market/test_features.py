"""The feature table: causal, finite, dimensionless, right on ragged panels, compiled once."""

import inspect
import math
import time

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from causality import assert_causal
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxppo.envs.market import features, raw_features
from jaxppo.envs.market.market_data import MarketData

WINDOW = 48
N_BARS, N_ASSETS = 200, 3
FIRST = features.warmup(normalisation_window=WINDOW)
NAMES = features.feature_names()
PER_ASSET = ("open", "high", "low", "close", "volume", "half_spread", "tradable")


def market_of(n_bars: int = N_BARS, n_assets: int = N_ASSETS, seed: int = 0) -> MarketData:
    """A full panel of random hourly bars, seven a day, every field moving."""
    rng = np.random.default_rng(seed)
    shape = (n_bars, n_assets)
    close = np.log(50) + np.cumsum(rng.normal(0, 0.01, shape), axis=0)
    open_ = np.vstack([close[:1], close[:-1]]) + rng.normal(0, 0.004, shape)
    high = np.maximum(open_, close) + rng.exponential(0.003, shape)
    low = np.minimum(open_, close) - rng.exponential(0.003, shape)
    bar = np.arange(n_bars)
    array = lambda x: jnp.asarray(x, jnp.float32)  # noqa: E731
    return MarketData(
        open=array(np.exp(open_)),
        high=array(np.exp(high)),
        low=array(np.exp(low)),
        close=array(np.exp(close)),
        volume=array(rng.lognormal(12, 0.5, shape)),
        half_spread=array(1e-4 * rng.lognormal(0, 0.3, shape)),
        tradable=jnp.ones(shape, bool),
        volume_known=jnp.ones(n_assets, bool),
        minute_of_day=jnp.asarray(570 + 60 * (bar % 7), jnp.int32),
        session=jnp.asarray(bar // 7, jnp.int32),
        day_of_week=jnp.asarray(bar // 7 % 5, jnp.int32),
        seconds_since_previous=array(np.where(bar == 0, 0, np.where(bar % 7 == 0, 18 * 3600 + 60 * bar, 3600))),
    )


def with_missing_bars(market: MarketData, tradable: np.ndarray) -> MarketData:
    """The panel with bars removed as `MarketData` prescribes: stale prices, 1.0 before the first bar, no volume."""
    latest = np.maximum.accumulate(np.where(tradable, np.arange(len(tradable))[:, None], -1), axis=0)
    close = np.take_along_axis(np.asarray(market.close), np.maximum(latest, 0), axis=0)
    stale = np.where(latest < 0, 1.0, close)
    price = lambda x: jnp.asarray(np.where(tradable, x, stale))  # noqa: E731
    return market.replace(
        open=price(market.open),
        high=price(market.high),
        low=price(market.low),
        close=price(market.close),
        volume=jnp.where(tradable, market.volume, 0),
        tradable=jnp.asarray(tradable),
    )


def ragged_market() -> MarketData:
    """Asset 0 lists at bar 30 and delists at 180, asset 1 misses a third of its bars, asset 2 has all."""
    tradable = np.ones((N_BARS, N_ASSETS), bool)
    tradable[:30, 0] = tradable[180:, 0] = False
    tradable[:, 1] = np.random.default_rng(5).uniform(size=N_BARS) < 0.66
    return with_missing_bars(market_of(), tradable)


def table_of(market: MarketData) -> jax.Array:
    return features.compute_features(market, normalisation_window=WINDOW)


def column(table: jax.Array, name: str) -> np.ndarray:
    return np.asarray(table[..., NAMES.index(name)])


def test_names_slices_and_warmup():
    assert features.GROUPS == ("price", "trend", "volume", "technical", "volatility", "cross_section", "calendar")
    assert len(set(NAMES)) == len(NAMES)
    slices = features.group_slices(("calendar", "price"))
    assert list(slices) == ["calendar", "price"]
    names = features.feature_names(("calendar", "price"))
    assert names[slices["price"]] == features.feature_names(("price",))
    assert slices["price"].stop == len(names)
    # The longest look-back is the 63-bar return; a z-score needs 252 // 4 = 63 values, its own bar among them.
    assert features.warmup(("price",), 252) == 63 + 62
    assert features.warmup(("technical",), 252) == 62 + 62
    assert features.warmup(("calendar",), 252) == 1 + 62
    assert features.warmup(("trend", "cross_section"), 252) == 63, "nothing of them is normalised"
    assert features.warmup(("price",), 252, {"price": "none"}) == 63
    assert features.warmup(("price",), 252, {"price": "scale"}) == 63 + 62


def test_groups_are_the_columns_of_the_whole_table():
    market, slices = market_of(), features.group_slices()
    whole = np.asarray(table_of(market))
    assert whole.shape == (N_BARS, N_ASSETS, len(NAMES))
    assert whole.dtype == np.float32
    some = features.compute_features(market, groups=["calendar", "volume"], normalisation_window=WINDOW)
    expected = np.concatenate([whole[..., slices["calendar"]], whole[..., slices["volume"]]], axis=-1)
    np.testing.assert_allclose(some, expected, rtol=1e-3, atol=1e-4)  # two programs, each rounded its own way


@pytest.mark.parametrize("groups", [("prices",), ("price", "price"), ()])
def test_bad_groups_are_named(groups):
    with pytest.raises(ValueError, match="group"):
        features.compute_features(market_of(), groups=groups)
    with pytest.raises(ValueError, match="normalisation_window"):
        features.compute_features(market_of(), normalisation_window=1)


def test_everything_is_formed_after_the_warmup_and_not_before():
    table = np.asarray(table_of(market_of()))
    normalised = [
        i for i, f in enumerate(f for group in features.GROUPS for f in features.FEATURES[group]) if f.normalised
    ]
    assert (table[FIRST:, :, normalised] != 0).mean() > 0.999
    assert (table[FIRST - 1, :, NAMES.index("return_63")] == 0).all()
    assert (table[:11, :, normalised] == 0).all()
    # standardised: mean about 0 and deviation about 1 once formed
    returns = column(table, "return_1")[FIRST:]
    assert abs(returns.mean()) < 0.3
    assert 0.8 < returns.std() < 1.2


@pytest.mark.parametrize("t", [3, 100, N_BARS - 2])
@pytest.mark.parametrize("market", [market_of(), ragged_market()], ids=["full", "ragged"])
def test_no_feature_looks_ahead(market, t):
    key = jax.random.key(t)

    def everything(market):
        table = table_of(market)
        forecasts = {
            "volatility": features.ewma_volatility(market, 20.0),
            "volume": features.average_volume(market, 20.0),
        }
        return {name: table[..., i] for i, name in enumerate(NAMES)} | forecasts

    assert_causal(everything, market, t, key)


def centred_mean(market):
    return (market.close + jnp.roll(market.close, 1, axis=0) + jnp.roll(market.close, -1, axis=0)) / 3


def normalised_over_the_whole_table(market):
    returns = jnp.diff(jnp.log(market.close), axis=0, prepend=jnp.log(market.close[:1]))
    return returns / returns.std(axis=0, keepdims=True)


def next_bar_is_tradable(market):
    return jnp.roll(market.tradable, -1, axis=0)


def clock_of_the_next_bar(market):
    return {"causal": market.close, "leak": jnp.roll(market.seconds_since_previous, -1)}


@pytest.mark.parametrize(
    "leak", [centred_mean, normalised_over_the_whole_table, next_bar_is_tradable, clock_of_the_next_bar]
)
def test_a_planted_leak_is_caught(leak):
    with pytest.raises(AssertionError, match="looks ahead"):
        assert_causal(leak, market_of(), 101, jax.random.key(0))


def test_a_check_that_proves_nothing_is_refused():
    with pytest.raises(AssertionError, match="shows nothing"):
        assert_causal(lambda market: jnp.zeros(market.n_bars), market_of(), 100, jax.random.key(0))


@settings(max_examples=15, deadline=None)
@given(price=st.floats(1e-3, 1e3), volume=st.floats(1e-3, 1e3), asset=st.integers(0, N_ASSETS - 1))
def test_features_are_dimensionless(price, volume, asset):
    """Another currency or another share count for one asset changes nothing, for any asset."""
    market = market_of()
    factor = jnp.ones((1, N_ASSETS)).at[0, asset].set(price)
    shares = jnp.ones((1, N_ASSETS)).at[0, asset].set(volume)
    scaled = {name: getattr(market, name) * factor for name in ("open", "high", "low", "close")}
    table = table_of(market.replace(**scaled, volume=market.volume * shares))
    np.testing.assert_allclose(table, table_of(market), atol=2e-3)


def test_missing_bars_leave_the_features_of_the_own_bars_alone():
    """On a ragged panel an asset's rows are those of the panel of its own bars, held in between, 0 before the first."""
    market = ragged_market()
    table = np.asarray(table_of(market))
    own_groups = np.r_[0 : features.group_slices()["cross_section"].start]
    own_groups = own_groups[own_groups != NAMES.index("staleness")]
    for asset in range(N_ASSETS):
        rows = np.flatnonzero(np.asarray(market.tradable[:, asset]))
        dense = market_of()
        padded = np.concatenate([rows, np.full(N_BARS - len(rows), rows[-1])])
        dense = dense.replace(**{name: getattr(market, name)[padded] for name in PER_ASSET})
        expected = np.asarray(table_of(dense))[: len(rows), asset]
        np.testing.assert_allclose(table[rows, asset][:, own_groups], expected[:, own_groups], atol=1e-5)
        held = np.searchsorted(rows, np.arange(N_BARS), side="right") - 1
        between = table[rows[np.maximum(held, 0)], asset] * (held >= 0)[:, None]
        np.testing.assert_array_equal(table[:, asset][:, own_groups], between[:, own_groups])
        assert not table[: rows[0], asset].any()


def test_the_listing_is_no_return_from_the_placeholder():
    """The first bar at about 50 after a placeholder at 1.0: no raw feature is anywhere near log 50."""
    market = ragged_market()
    bars = features.own_bars(market.tradable)
    raw = raw_features.price(
        market.replace(**{name: bars.pack(getattr(market, name)) for name in raw_features.COLUMNS})
    )
    first = {name: float(raw[name][0, 0]) for name in ("return_1", "return_63", "gap")}
    assert first["return_1"] == first["return_63"] == 0
    assert abs(first["gap"]) < 0.1
    assert np.abs(np.asarray(raw["return_63"])[:150, 0]).max() < 1.0


def test_staleness_counts_the_wait():
    market = with_missing_bars(market_of(), np.arange(N_BARS)[:, None] * np.ones((1, N_ASSETS)) % 10 < 7)
    stale = column(table_of(market), "staleness")
    np.testing.assert_allclose(stale[16:20, 0] * math.log(64), np.log([1, 2, 3, 4]), rtol=1e-5)


@pytest.mark.parametrize("price", [0.005, 100_000.0])
def test_extreme_prices_and_volumes_stay_finite(price):
    """Penny and six-digit prices, empty and enormous bars, unknown volume, prices that never move."""
    market = market_of()
    scaled = {name: getattr(market, name) * (price / 50) for name in ("open", "high", "low", "close")}
    scaled = {name: values.at[:, 2].set(price) for name, values in scaled.items()}
    volume = jnp.where(jnp.arange(N_BARS)[:, None] % 3 == 0, 0.0, 1e10) * jnp.ones((1, N_ASSETS))
    unknown = jnp.array([True, False, True])
    table = table_of(market.replace(**scaled, volume=volume, volume_known=unknown))
    assert jnp.isfinite(table).all()
    assert jnp.abs(table).max() <= 5
    assert jnp.isfinite(table.astype(jnp.bfloat16)).all()
    group = features.group_slices()
    assert not table[:, 1, group["volume"]].any()
    assert table[FIRST:, 0, group["volume"]].any()
    np.testing.assert_array_equal(table[:, 2, group["technical"]], 0)


def test_an_empty_market_is_all_zero():
    market = with_missing_bars(market_of(), np.zeros((N_BARS, N_ASSETS), bool))
    np.testing.assert_array_equal(table_of(market), 0)


def test_calendar_numbers():
    """09:30 on a Monday: angle 2 pi 570 / 1440; the night stands out of a day of hourly bars."""
    market = market_of()
    table = table_of(market)
    angle = 2 * math.pi * 570 / 1440
    np.testing.assert_allclose(column(table, "minute_sin")[70], math.sin(angle), atol=1e-6)
    np.testing.assert_allclose(column(table, "minute_cos")[70], math.cos(angle), atol=1e-6)
    np.testing.assert_allclose(column(table, "weekday_cos")[7], math.cos(2 * math.pi / 7), atol=1e-6)
    elapsed = column(table, "elapsed")
    assert (elapsed[105:196:7] > 1.5).all()
    assert (elapsed[106:112] < 0).all()


def test_the_session_so_far_and_what_is_left_of_it():
    """Seven hourly bars a session, but four in session 2: what is left is expected from the session before."""
    market = market_of(60)
    session = np.repeat(np.arange(9), [7, 7, 4, 7, 7, 7, 7, 7, 7])
    opens = np.flatnonzero(np.diff(session, prepend=-1))
    seconds = np.full(60, 3600.0, np.float32)
    seconds[opens] = 64_800.0
    seconds[5] = 7200.0  # a missing bar
    market = market.replace(session=jnp.asarray(session, jnp.int32), seconds_since_previous=jnp.asarray(seconds))
    table = features.compute_features(market, groups=("calendar",), normalisation_window=WINDOW, unknown=jnp.nan)
    names = features.feature_names(("calendar",))
    since_open, to_close = (np.asarray(table[:, 0, names.index(name)]) for name in ("since_open", "to_close"))
    hours = np.concatenate([[0, 1, 2, 3, 4, 6, 7], np.arange(7), np.arange(4), np.arange(7)])
    np.testing.assert_allclose(since_open[:25], hours / 6, atol=1e-6)
    assert np.isnan(to_close[:7]).all()
    np.testing.assert_allclose(to_close[7:14], np.arange(6, -1, -1) / 7, atol=1e-6)
    np.testing.assert_allclose(to_close[14:18], np.arange(6, 2, -1) / 7, atol=1e-6)
    np.testing.assert_allclose(to_close[18:25], [0.75, 0.5, 0.25, 0, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(to_close[25:32], np.arange(6, -1, -1) / 7, atol=1e-6)


def test_unknown_values_can_be_told_from_average_ones():
    market = ragged_market().replace(volume_known=jnp.asarray([True, True, False]))
    marked = np.asarray(features.compute_features(market, normalisation_window=WINDOW, unknown=jnp.nan))
    unknown = np.isnan(marked)
    np.testing.assert_array_equal(np.where(unknown, 0, marked), table_of(market))
    assert unknown[:30, 0].all()
    assert not unknown[29 + FIRST + 1 :, 0].any()
    volume = features.group_slices()["volume"]
    assert unknown[:, 2, volume].all()
    assert not unknown[FIRST:, 2, : volume.start].any()
    returns = NAMES.index("return_63")
    first = np.flatnonzero(~unknown[:, 2, returns])[0]
    assert first == 63 + WINDOW // 4 - 1


@pytest.mark.slow
def test_compiles_once_for_new_data_and_maps_over_markets():
    calls = []

    @jax.jit
    def counted(market):
        calls.append(1)
        return table_of(market)

    first, second = market_of(seed=1), market_of(seed=2)
    alone = [counted(first), counted(second)]
    assert len(calls) == 1
    assert not np.array_equal(*alone)
    jitted = inspect.getclosurevars(features._feature_table).nonlocals["jitted"]
    before = jitted._cache_size()
    for market in (first, second):
        table_of(market)
    assert jitted._cache_size() <= before + 1
    stacked = jax.tree.map(lambda *x: jnp.stack(x), first, second)
    np.testing.assert_allclose(jax.vmap(table_of)(stacked), jnp.stack(alone), atol=1e-4)


def test_ewma_volatility_equals_pandas_and_starts_at_the_range():
    market, span = market_of(), 20.0
    close = np.log(np.asarray(market.close, np.float64))
    start = np.log(np.asarray(market.high, np.float64) / np.asarray(market.low))[:1] ** 2 / (4 * math.log(2))
    squares = np.vstack([start, np.diff(close, axis=0) ** 2])
    expected = np.sqrt(pd.DataFrame(squares).ewm(span=span).mean())
    actual = features.ewma_volatility(market, span)
    np.testing.assert_allclose(actual, expected, rtol=1e-3)
    np.testing.assert_allclose(
        features.average_volume(market, span), pd.DataFrame(np.asarray(market.volume)).ewm(span=span).mean(), rtol=1e-5
    )


def test_forecasts_on_halts_and_before_the_listing():
    """A reopening 4 bars after the last one spreads its squared return over 4 bars; empty rows change nothing."""
    tradable = np.ones((N_BARS, N_ASSETS), bool)
    tradable[:2, 0] = tradable[3:6, 0] = False
    market = with_missing_bars(market_of(), tradable)
    market = market.replace(volume_known=jnp.array([True, True, False]))
    volatility, volume = features.ewma_volatility(market, 3.0), features.average_volume(market, 3.0)
    high, low, close, traded = (
        np.asarray(x, np.float64)[:, 0] for x in (market.high, market.low, market.close, market.volume)
    )
    start = math.log(high[2] / low[2]) ** 2 / (4 * math.log(2))
    jump = math.log(close[6] / close[2]) ** 2 / 4
    np.testing.assert_array_equal(volatility[:2, 0], np.float32(features.UNKNOWN_VOLATILITY))
    np.testing.assert_allclose(volatility[2:6, 0], math.sqrt(start), rtol=1e-5)
    # span 3: the older of two observations weighs half as much as the newer
    np.testing.assert_allclose(volatility[6, 0], math.sqrt((jump + 0.5 * start) / 1.5), rtol=1e-4)
    np.testing.assert_array_equal(volume[:2, 0], np.float32(features.MINIMUM_VOLUME))
    np.testing.assert_allclose(volume[2:7, 0], [traded[2]] * 4 + [(traded[6] + 0.5 * traded[2]) / 1.5], rtol=1e-5)
    np.testing.assert_array_equal(volume[:, 2], np.float32(features.MINIMUM_VOLUME))
    assert (volatility > 0).all()
    pegged = market.replace(**dict.fromkeys(("open", "high", "low", "close"), jnp.ones_like(market.close)))
    np.testing.assert_array_equal(features.ewma_volatility(pegged, 3.0), np.float32(features.UNKNOWN_VOLATILITY))


def test_a_long_table_costs_seconds_at_most():
    market = market_of(40_801, 6)
    features.compute_features(market, groups=("price",)).block_until_ready()
    began = time.perf_counter()
    table = features.compute_features(market, groups=("price",)).block_until_ready()
    assert time.perf_counter() - began < 5
    assert jnp.isfinite(table).all()
