"""Indicators and rolling primitives against TA-Lib, pandas and float64 NumPy, on real prices."""

import math

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import talib
from folders import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxppo.envs.market import indicators, windows
from jaxppo.envs.market.normalisation import CLIP, minimum_observations, zscore

REPOSITORY = ROOT
HOURLY = REPOSITORY.parent / "shared" / "data" / "us_equity_1h.parquet"


def daily_bars() -> dict[str, np.ndarray]:
    """Split- and dividend-adjusted daily bars of AAPL from the shipped data set, float32."""
    frame = pd.read_csv(REPOSITORY / "envs" / "datasets" / "us5_1d.csv.gz")
    frame = frame[frame["Ticker"] == "AAPL"]
    factor = frame["Adj Close"] / frame["Close"]
    bars = {name: (frame[name.title()] * factor).to_numpy(np.float32) for name in ("open", "high", "low", "close")}
    return bars | {"volume": frame["Volume"].to_numpy(np.float32)}


def hourly_bars() -> dict[str, np.ndarray]:
    """40,802 hourly bars of SPY, float32."""
    if not HOURLY.exists():
        pytest.skip(f"external price file {HOURLY.name} is not there")
    frame = pd.read_parquet(HOURLY)
    frame = frame[frame["symbol"] == "SPY"]
    bars = {name: (frame[name] * frame["adj_factor"]).to_numpy(np.float32) for name in ("open", "high", "low", "close")}
    return bars | {"volume": frame["volume"].to_numpy(np.float32)}


@pytest.fixture(scope="module", params=[daily_bars, hourly_bars], ids=["daily", "hourly"])
def bars(request):
    return request.param()


def assert_equal_once_formed(actual, expected, *, first: int, atol: float):
    """Equal to the reference at every bar that it defines; the first such bar is `first`."""
    formed = np.isfinite(expected)
    assert np.argmax(formed) == first
    assert formed[first:].all()
    np.testing.assert_allclose(np.asarray(actual, np.float64)[first:], expected[first:], rtol=0, atol=atol)


def test_technical_indicators_equal_talib(bars):
    """Float32 against TA-Lib's float64 on the same prices, from TA-Lib's first bar on, in the feature's unit."""
    exact = {name: values.astype(np.float64) for name, values in bars.items()}
    high, low, close = exact["high"], exact["low"], exact["close"]
    line, signal, histogram = talib.MACD(close)
    upper, middle, _ = talib.BBANDS(close, 20, 2, 2)
    top, bottom = talib.MAX(high, 21), talib.MIN(low, 21)
    with np.errstate(invalid="ignore"):
        bollinger = np.where(upper > middle, (close - middle) / (upper - middle), 0 * middle)

    h, l, c = (jnp.asarray(bars[name]) for name in ("high", "low", "close"))  # noqa: E741
    our_line, our_signal = indicators.macd(c)
    assert_equal_once_formed(indicators.rsi(c), talib.RSI(close, 14), first=14, atol=1e-4)
    assert_equal_once_formed(indicators.atr(h, l, c) / c, talib.ATR(high, low, close, 14) / close, first=14, atol=1e-6)
    assert_equal_once_formed(our_line / c, line / close, first=33, atol=3e-6)
    assert_equal_once_formed(our_signal / c, signal / close, first=33, atol=3e-6)
    assert_equal_once_formed((our_line - our_signal) / c, histogram / close, first=33, atol=3e-6)
    assert_equal_once_formed(indicators.bollinger_position(c), bollinger, first=19, atol=3e-4)
    assert_equal_once_formed(indicators.average_distance(c, 63), close / talib.SMA(close, 63) - 1, first=62, atol=1e-6)
    assert_equal_once_formed(
        indicators.channel_position(h, l, c, 21), (2 * close - top - bottom) / (top - bottom), first=20, atol=1e-6
    )
    assert_equal_once_formed(indicators.ema(c, 26) / c, talib.EMA(close, 26) / close, first=25, atol=2e-6)


def test_volatility_estimators_equal_float64(bars):
    window = 21
    logs = pd.DataFrame({name: np.log(bars[name].astype(np.float64)) for name in ("open", "high", "low", "close")})
    o, h, l, c = (logs[name] for name in ("open", "high", "low", "close"))  # noqa: E741
    overnight = o - c.shift(1)
    rogers_satchell = ((h - c) * (h - o) + (l - c) * (l - o)).rolling(window).mean()
    weight = 0.34 / (1.34 + 22 / 20)
    expected = {
        "parkinson": ((h - l) ** 2 / (4 * math.log(2))).rolling(window).mean(),
        "garman_klass": (0.5 * (h - l) ** 2 - (2 * math.log(2) - 1) * (c - o) ** 2).rolling(window).mean(),
        "yang_zhang": overnight.rolling(window).var()
        + weight * (c - o).rolling(window).var()
        + (1 - weight) * rogers_satchell,
    }
    O, H, L, C = (jnp.asarray(bars[name]) for name in ("open", "high", "low", "close"))  # noqa: E741
    actual = {
        "parkinson": indicators.parkinson(H, L, window),
        "garman_klass": indicators.garman_klass(O, H, L, C, window),
        "yang_zhang": indicators.yang_zhang(O, H, L, C, window),
    }
    for name, variance in expected.items():
        formed = variance.notna().to_numpy()
        assert np.argmax(formed) == (window if name == "yang_zhang" else window - 1)
        np.testing.assert_allclose(np.asarray(actual[name])[formed], np.sqrt(variance[formed]), rtol=2e-3, atol=2e-6)


def test_ewma_equals_pandas(bars):
    close = pd.Series(bars["close"].astype(np.float64))
    expected = np.sqrt((np.log(close).diff() ** 2).ewm(alpha=1 - 0.94).mean())
    actual = indicators.ewma_deviation(jnp.asarray(bars["close"]), 2 / 0.06 - 1)
    np.testing.assert_allclose(np.asarray(actual)[1:], expected[1:], rtol=1e-3, atol=1e-7)


def test_hand_computed_numbers():
    """Worked on paper: an RSI of window 2, an Amihud with an empty bar, a close location, a Yang-Zhang of two gaps."""
    close = jnp.array([10.0, 11.0, 10.0, 12.0])
    # changes 1, -1, 2; seed at bar 2: gain 1/2, loss 1/2; then gain (1/2 + 2) / 2, loss 1/4.
    np.testing.assert_allclose(indicators.rsi(close, 2)[2:], [50.0, 100 * 1.25 / 1.5], rtol=1e-6)
    volume = jnp.array([5.0, 100.0, 0.0, 50.0])
    expected = (math.log(11 / 10) / 1100 + math.log(12 / 10) / 600) / 2
    np.testing.assert_allclose(indicators.amihud(close, volume, 3)[3], expected, rtol=1e-6)
    location = indicators.close_location(jnp.array([4.0, 2.0]), jnp.array([2.0, 2.0]), jnp.array([3.5, 2.0]))
    np.testing.assert_allclose(location, [0.5, 0.0])
    # Two bars that differ in the gap alone: Yang-Zhang is the sample deviation of the gaps, (ln 1.2 - ln 1) / sqrt(2).
    price = jnp.array([1.0, 1.0, 1.2])
    np.testing.assert_allclose(
        indicators.yang_zhang(price, price, price, price, 2)[2], math.log(1.2) / math.sqrt(2), rtol=1e-5
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), window=st.integers(1, 40), level=st.sampled_from([0.0, 1.0, 1e5]))
def test_rolling_windows_equal_pandas(seed, window, level):
    """Sum, extremes and variance, also where the level is ten thousand times the deviation."""
    x = (level + 10 * np.random.default_rng(seed).normal(size=64)).astype(np.float32)
    rolling = pd.Series(x.astype(np.float64)).rolling(window)
    formed = slice(window - 1, None)
    scale = np.abs(x).max()
    np.testing.assert_allclose(windows.rolling_mean(x, window)[formed], rolling.mean()[formed], atol=1e-6 * scale)
    np.testing.assert_array_equal(windows.rolling_max(x, window)[formed], rolling.max()[formed])
    np.testing.assert_array_equal(windows.rolling_min(x, window)[formed], rolling.min()[formed])
    _, squares = windows.rolling_moments(jnp.asarray(x), window)
    np.testing.assert_allclose(squares[formed] / window, rolling.var(ddof=0)[formed], rtol=2e-2, atol=1e-4)


def test_a_window_longer_than_the_table_extends_the_first_value():
    x = jnp.array([2.0, 5.0, 1.0])
    np.testing.assert_allclose(windows.rolling_sum(x, 8), [16.0, 19.0, 18.0])
    np.testing.assert_allclose(windows.shift(x, 5), [2.0, 2.0, 2.0])
    with pytest.raises(ValueError, match="at least 1 bar"):
        windows.rolling_sum(x, 0)


@pytest.mark.parametrize("n_bars", [1, 2, 3, 100, 40_801])
def test_linear_recurrence_equals_the_loop(n_bars):
    rng = np.random.default_rng(n_bars)
    decay = rng.uniform(0, 1, n_bars).astype(np.float32) ** 0.01
    drive = rng.normal(size=n_bars).astype(np.float32)
    expected, value = np.empty(n_bars), 0.0
    for t in range(n_bars):
        value = float(decay[t]) * value + float(drive[t])
        expected[t] = value
    np.testing.assert_allclose(windows.linear_recurrence(jnp.asarray(decay), jnp.asarray(drive)), expected, atol=2e-4)


@pytest.mark.parametrize("level", [0.0, 20.0])
def test_zscore_equals_pandas_on_a_long_table(level):
    """40,000 bars in float32 against pandas' float64 mean and deviation, with missing values; flat is exactly 0."""
    rng = np.random.default_rng(1)
    window, n_bars = 252, 40_000
    x = (level + 0.02 * np.cumsum(rng.normal(size=n_bars)) + rng.normal(size=n_bars)).astype(np.float32)
    valid = rng.uniform(size=n_bars) < 0.9
    series = pd.Series(np.where(valid, x.astype(np.float64), np.nan))
    average = series.ewm(span=window, ignore_na=True)
    expected = ((series - average.mean()) / average.std(bias=True)).clip(-CLIP, CLIP)
    expected[np.cumsum(valid) < minimum_observations(window)] = np.nan
    actual = np.asarray(zscore(jnp.asarray(np.where(valid, x, np.nan)), jnp.asarray(valid), window))
    np.testing.assert_allclose(actual, expected, atol=2e-4)
    flat = zscore(jnp.full(500, 9.21034, jnp.float32), jnp.ones(500, bool), window)
    np.testing.assert_array_equal(flat[minimum_observations(window) - 1 :], 0.0)
    assert np.isnan(flat[: minimum_observations(window) - 1]).all()
