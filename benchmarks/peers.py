"""Raw steps per second of other trading environments, as their documentation runs them: one process, random actions."""

from __future__ import annotations

import importlib.util
import pathlib
import sys
import time
import types
from typing import Any

import gymnasium
import numpy as np
import pandas as pd

N_BARS = 4000


def measure(seconds: float) -> dict[str, float]:
    """Steps per second of every peer that is installed, over `seconds` each."""
    rates = {}
    for name, build in (
        ("gym-trading-env, 1 asset", _gym_trading_env),
        ("gym-anytrading, 1 asset, no costs", _gym_anytrading),
        ("FinRL NumPy env, 30 stocks", _finrl),
    ):
        try:
            env = build()
        except ImportError as error:
            print(f"{name}: not measured ({error})")
            continue
        rates[name] = _rate(env, seconds)
    return rates


def _rate(env: Any, seconds: float) -> float:
    """Steps per second under random actions drawn beforehand, resets included."""
    rng = np.random.default_rng(0)
    actions = [_random_action(env.action_space, rng) for _ in range(10_000)]
    env.reset()
    steps, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        for action in actions[:1000]:
            *_, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
        steps += 1000
    return steps / (time.perf_counter() - started)


def _random_action(space: gymnasium.Space, rng: np.random.Generator) -> Any:
    if isinstance(space, gymnasium.spaces.Discrete):
        return int(rng.integers(space.n))
    return rng.uniform(-1.0, 1.0, space.shape).astype(np.float32)


def _prices(n_assets: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    return 100.0 * np.exp(np.cumsum(rng.normal(0.0, 0.01, (N_BARS, n_assets)), axis=0))


def _frame() -> pd.DataFrame:
    close = _prices(1)[:, 0]
    frame = pd.DataFrame({"open": close, "high": close * 1.01, "low": close * 0.99, "close": close, "volume": 1e6})
    frame.index = pd.date_range("2000-01-01", periods=N_BARS, freq="D")
    frame["feature_close"] = frame["close"].pct_change().fillna(0.0)
    return frame


def _gym_trading_env() -> Any:
    from gym_trading_env.environments import TradingEnv

    options = {"trading_fees": 1e-4, "borrow_interest_rate": 1e-6, "verbose": 0}
    return TradingEnv(df=_frame(), positions=[-1, -0.5, 0, 0.5, 1], **options)


def _gym_anytrading() -> Any:
    from gym_anytrading.envs import StocksEnv

    frame = _frame().rename(columns=str.capitalize)
    return StocksEnv(df=frame, window_size=10, frame_bound=(10, N_BARS))


def _finrl() -> Any:
    """FinRL's NumPy environment, loaded by file: importing the package needs brokers and downloaders."""
    spec = importlib.util.find_spec("finrl")
    if spec is None:
        raise ImportError("finrl is not installed; pip install --no-deps finrl")
    source = pathlib.Path(spec.submodule_search_locations[0]) / "meta/env_stock_trading/env_stocktrading_np.py"
    module = types.ModuleType("finrl_env_stocktrading_np")
    sys.modules[module.__name__] = module
    exec(compile(source.read_text(encoding="utf-8"), str(source), "exec"), module.__dict__)
    prices = _prices(30).astype(np.float32)
    arrays = {
        "price_array": prices,
        "tech_array": np.zeros((N_BARS, 30 * 8), np.float32),
        "turbulence_array": np.zeros(N_BARS, np.float32),
        "if_train": True,
    }
    return _FinRL(module.StockTradingEnv(arrays))


class _FinRL:
    """FinRL's environment under the five-value step."""

    def __init__(self, env: Any):
        self._env = env
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (30,), np.float32)

    def reset(self) -> Any:
        return self._env.reset()

    def step(self, action: np.ndarray) -> tuple[Any, ...]:
        return self._env.step(action)
