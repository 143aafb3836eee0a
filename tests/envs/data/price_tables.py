"""Small price tables for the tests of the loader."""

import numpy as np
import pandas as pd
import pytest

from jaxppo.envs.data.load import DataError, load_market


def panel(seed: int = 0, n: int = 40, symbols=("AAA", "BBB"), missing: float = 0.2, freq: str = "h") -> pd.DataFrame:
    """A ragged long table of clean random bars."""
    rng = np.random.default_rng(seed)
    times = pd.date_range("2024-01-02 14:00", periods=n, freq=freq, tz="UTC").as_unit("ns")
    if freq == "B":
        times = times.normalize()
    parts = []
    for symbol in symbols:
        trades = (50 * np.exp(np.cumsum(rng.normal(0, 0.002, n * 4)))).reshape(n, 4).round(4)
        frame = pd.DataFrame({"timestamp": times, "symbol": symbol, "open": trades[:, 0], "high": trades.max(axis=1)})
        frame = frame.assign(low=trades.min(axis=1), close=trades[:, 3], volume=rng.integers(1, 1000, n).astype(float))
        keep = rng.random(n) >= missing
        keep[rng.integers(n)] = True
        parts.append(frame[keep])
    return pd.concat(parts, ignore_index=True)


def single(**columns) -> pd.DataFrame:
    """Six daily bars of one asset; keyword arguments replace columns."""
    close = np.array([10.0, 10.5, 10.2, 10.4, 10.3, 10.6])
    frame = pd.DataFrame({"Date": [f"2024-01-0{d}" for d in (2, 3, 4, 5, 8, 9)], "Open": close - 0.1})
    return frame.assign(High=close + 0.2, Low=close - 0.3, Close=close, Volume=100.0).assign(**columns)


def same(one, other) -> bool:
    return one.info.report["fingerprint"] == other.info.report["fingerprint"]


def refusal(source, **options) -> str:
    with pytest.raises(DataError) as caught:
        load_market(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message
