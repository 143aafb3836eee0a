"""Trends in units of risk and the cross-section against pandas, and what a z-score would make of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from causality import assert_causal
from hypothesis import given, settings
from hypothesis import strategies as st
from test_features import market_of, ragged_market, with_missing_bars

from jaxppo.envs.market import features, normalisation, trend, windows

N_BARS = 700


def closes(seed: int, drift: float = 0.0, n_assets: int = 3) -> np.ndarray:
    returns = drift + 0.01 * np.random.default_rng(seed).standard_normal((N_BARS, n_assets))
    return (80 * np.exp(np.cumsum(returns, axis=0))).astype(np.float32)


def volatility_of(log: pd.DataFrame) -> pd.DataFrame:
    return np.sqrt((log.diff() ** 2).ewm(span=63).mean())


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), horizon=st.sampled_from([1, 5, 21, 63, 126, 252]))
def test_a_trend_is_the_return_in_units_of_volatility(seed, horizon):
    close = closes(seed)
    log = np.log(pd.DataFrame(close.astype(np.float64)))
    expected = np.tanh((log - log.shift(horizon)) / (volatility_of(log) * horizon**0.5) / 1.5)
    found = np.asarray(trend.trend(jnp.asarray(close), horizon))
    np.testing.assert_allclose(found[horizon:], expected[horizon:], atol=3e-5)


def test_a_horizon_longer_than_the_history_takes_the_bars_there_are():
    close = closes(1)[:100]
    log = np.log(pd.DataFrame(close.astype(np.float64)))
    since = np.arange(1, 100)[:, None] ** 0.5
    expected = np.tanh((log - log.iloc[0])[1:] / (volatility_of(log)[1:] * since) / 1.5)
    np.testing.assert_allclose(trend.trend(jnp.asarray(close), 252)[1:], expected, atol=3e-5)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), scales=st.sampled_from([(8, 24), (16, 48), (32, 96)]))
def test_the_response_to_averages_is_that_of_pandas(seed, scales):
    close = closes(seed)
    exact = pd.DataFrame(close.astype(np.float64))
    fast, slow = (exact.ewm(halflife=np.log(0.5) / np.log(1 - 1 / n)).mean() for n in scales)
    line = (fast - slow) / exact.rolling(63, min_periods=21).std()
    score = line / line.rolling(252, min_periods=2).std()
    expected = score * np.exp(-(score**2) / 4) / 0.89
    found = np.asarray(trend.macd_response(jnp.asarray(close), *scales))
    np.testing.assert_allclose(found[63:], expected[63:], atol=2e-3)
    assert np.abs(found).max() < 1


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), window=st.integers(2, 60), share=st.floats(0.2, 1.0), level=st.floats(0, 1e4))
def test_deviations_of_the_valid_are_those_of_pandas(seed, window, share, level):
    rng = np.random.default_rng(seed)
    x, valid = (level + rng.standard_normal((150, 2))).astype(np.float32), rng.uniform(size=(150, 2)) < share
    expected = pd.DataFrame(x.astype(np.float64)).where(valid).rolling(window, min_periods=2).std().fillna(0)
    found = windows.rolling_deviation(jnp.asarray(x), jnp.asarray(valid), window)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=2e-6 * max(level, 1))


def test_the_distance_from_the_high():
    close = closes(2)
    high = close * np.float32(1.01)
    log = np.log(pd.DataFrame(close.astype(np.float64)))
    top = np.log(pd.DataFrame(high.astype(np.float64)).rolling(63).max())
    expected = np.tanh((log - top) / (volatility_of(log) * 63**0.5) / 1.5)
    found = np.asarray(trend.distance_from_high(jnp.asarray(high), jnp.asarray(close), 63))
    np.testing.assert_allclose(found[63:], expected[63:], atol=3e-5)
    assert (found[1:] < 0).all()


def test_a_lasting_trend_stays_where_a_zscore_removes_it():
    """Half a standard deviation a bar, up in one asset and down in the other, for 700 bars."""
    steady = np.concatenate([closes(3, 0.005, 1), closes(4, -0.005, 1)], axis=1)
    market = market_of(N_BARS, 2).replace(**dict.fromkeys(("open", "high", "low", "close"), jnp.asarray(steady)))
    late = np.asarray(features.compute_features(market))[400:]
    means = {name: late[..., i].mean(axis=0) for i, name in enumerate(features.feature_names())}
    assert means["trend_252"][0] > 0.9
    assert means["trend_252"][1] < -0.9
    assert means["trend_63"][0] > 0.8
    assert abs(means["return_63"]).max() < 0.3
    kept = features.compute_features(market, groups=("price",), normalise={"price": "scale"})
    kept = np.asarray(kept)[400:, :, features.feature_names(("price",)).index("return_63")].mean(axis=0)
    assert kept[0] > 0.8
    assert kept[1] < -0.8


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), share=st.floats(0.3, 1.0), mean=st.floats(-2, 2))
def test_a_scale_is_the_root_mean_square_of_pandas(seed, share, mean):
    rng = np.random.default_rng(seed)
    x, valid = rng.normal(mean, 1, (200, 2)).astype(np.float32), rng.uniform(size=(200, 2)) < share
    exact = pd.DataFrame(x.astype(np.float64)).where(valid)
    size = np.sqrt((exact**2).ewm(span=40, ignore_na=True).mean())
    expected = (exact / size).clip(-5, 5).where(valid & (valid.cumsum(axis=0) >= 10))
    found = normalisation.scaled(jnp.asarray(x), jnp.asarray(valid), 40)
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_each_group_has_its_own_normalisation():
    market, groups = market_of(), ("price", "volatility", "calendar")
    usual = features.compute_features(market, groups=groups, normalisation_window=40)
    mixed = features.compute_features(market, groups=groups, normalisation_window=40, normalise={"volatility": "none"})
    changed = features.group_slices(groups)["volatility"]
    same = np.delete(np.arange(usual.shape[-1]), np.r_[changed])
    np.testing.assert_allclose(mixed[..., same], usual[..., same], atol=1e-4)
    np.testing.assert_allclose(
        mixed[..., changed.start + 4], jnp.clip(jnp.log(market.half_spread), -5, 5), rtol=1e-5, err_msg="half_spread"
    )
    with pytest.raises(ValueError, match="normalise"):
        features.compute_features(market, normalise={"price": "rank"})
    with pytest.raises(ValueError, match="normalise"):
        features.compute_features(market, normalise={"prices": "scale"})


def test_ranks_and_means_are_those_of_pandas():
    rng = np.random.default_rng(5)
    x = rng.integers(0, 6, (200, 7)).astype(np.float32)  # with ties
    present = rng.uniform(size=x.shape) < 0.7
    frame = pd.DataFrame(x).where(present)
    others = present.sum(axis=1, keepdims=True) - 1
    expected = 2 * (frame.rank(axis=1) - 1).div(np.maximum(others, 1)[:, 0], axis=0) - 1
    expected = expected.where(present & (others > 0), 0.0)
    np.testing.assert_allclose(trend.rank_among(jnp.asarray(x), jnp.asarray(present)), expected, atol=1e-6)
    for asset in range(7):
        mean = frame.drop(columns=asset).mean(axis=1).fillna(0.0)
        found = trend.mean_of_others(jnp.asarray(x), jnp.asarray(present))[:, asset]
        np.testing.assert_allclose(found, mean, atol=1e-5)


def test_one_asset_is_among_nobody():
    table = features.compute_features(market_of(n_assets=1), groups=("cross_section",))
    np.testing.assert_array_equal(table, 0.0)


def test_an_asset_that_has_long_had_no_bar_is_not_among_the_others():
    market = market_of(n_assets=3)
    tradable = np.ones((200, 3), bool)
    tradable[100:, 2] = False
    table = features.compute_features(with_missing_bars(market, tradable), groups=("cross_section",))
    pair = jax.tree.map(lambda x: x[..., :2] if x.shape[-1:] == (3,) else x, market)
    alone = features.compute_features(pair, groups=("cross_section",))
    np.testing.assert_allclose(table[125:, :2], alone[125:], atol=1e-5)
    assert np.abs(np.asarray(table[110, :2]) - np.asarray(alone[110])).max() > 0.01
    np.testing.assert_array_equal(table[125:, 2, :4], 0.0)


@pytest.mark.parametrize("t", [40, 120])
@pytest.mark.parametrize("market", [market_of(), ragged_market()], ids=["full", "ragged"])
def test_carry_does_not_look_ahead(market, t):
    known = jnp.where(jax.random.bernoulli(jax.random.key(1), 0.8, market.close.shape), 1e-4, jnp.nan)
    carry = known * jax.random.normal(jax.random.key(2), market.close.shape)
    groups = ("carry", "cross_section", "trend")
    assert_causal(
        lambda market: features.compute_features(market, groups=groups, unknown=9.0),
        market.replace(carry=carry),
        t,
        jax.random.key(t),
    )


def test_the_listing_waits_for_its_history():
    table = np.asarray(features.compute_features(ragged_market(), groups=("cross_section",), unknown=np.nan))
    assert np.isnan(table[: 30 + 63, 0]).all()
    assert np.isfinite(table[30 + 63 :, 0]).all()
