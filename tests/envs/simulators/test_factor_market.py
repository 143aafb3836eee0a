"""The market with a known factor: what predicts what, and the best Sharpe ratio against simulation."""

import math

import jax
import numpy as np
import pytest
from moments import ERRORS, assert_mean
from scipy import signal

from jaxppo.envs import simulators
from jaxppo.envs.market import features
from jaxppo.envs.market.market_data import MarketData, slice_bars
from jaxppo.envs.simulators.bars import Levels
from jaxppo.envs.simulators.factor_market import _Model, _with_factor, filter_variance

FACTOR_BARS = 200_000


def factor_market(**parameters: float) -> tuple[MarketData, np.ndarray]:
    """One asset of `predictable_factor` with the factor that it hides."""
    defaults = {"strength": 0.2, "persistence": 0.9, "signal_noise": 0.0, "volatility": 0.01, "gap_share": 0.2}
    model, levels = _Model(**(defaults | parameters)), Levels(0.0, 1e6, 0.5)
    market, factor = _with_factor(jax.random.key(15), FACTOR_BARS, 1, model, 100.0, levels)
    return market, np.asarray(factor, np.float64)[:, 0]


def test_the_factor_predicts_the_body_and_only_the_body():
    market, factor = factor_market()
    open_, close = (np.asarray(x, np.float64)[:, 0] for x in (market.open, market.close))
    body, gap = close[1:] / open_[1:] - 1, open_[1:] / close[:-1] - 1
    f = factor[:-1]
    assert_mean(f * (body - 0.2 * 0.01 * f), 0.0)
    assert_mean(f * body, 0.2 * 0.01 * np.mean(f**2))
    assert_mean(f * gap, 0.0)
    assert_mean((open_[2:] / open_[1:-1] - 1 - 0.002 * f[:-1]) ** 2, 0.01**2)
    innovations = factor[1:] - 0.9 * factor[:-1]
    assert_mean(innovations**2, 1 - 0.81)
    np.testing.assert_allclose(np.log(np.asarray(market.volume)[:, 0] / 1e6), 0.5 * factor, atol=1e-4)
    np.testing.assert_allclose(simulators.revealed_factor(market)[:, 0], factor, atol=2e-4)
    public = simulators.predictable_factor(jax.random.key(15), FACTOR_BARS, strength=0.2)
    np.testing.assert_array_equal(public.close, market.close)


@pytest.mark.parametrize("noise", [0.0, 0.7])
def test_sharpe_formula_against_simulation(noise):
    """Decide at the close on the filtered volume, hold from the next open to the one after."""
    strength, persistence, n_bars = 0.3, 0.9, FACTOR_BARS
    market, _ = factor_market(strength=strength, signal_noise=noise, volatility=0.02)
    open_ = np.asarray(market.open, np.float64)[:, 0]
    earned = open_[2:] / open_[1:-1] - 1
    observed = np.log(np.asarray(market.volume, np.float64)[:, 0] / 1e6) / 0.5
    unknown = 1.0
    for _ in range(500):
        predicted = persistence**2 * unknown + 1 - persistence**2
        gain = predicted / (predicted + noise**2)
        unknown = (1 - gain) * predicted
    assert filter_variance(persistence, noise) == pytest.approx(unknown, abs=1e-12)
    filtered = signal.lfilter([gain], [1, -(1 - gain) * persistence], observed)[:-2]
    second_moment = math.expm1(0.02**2) + (strength * 0.02) ** 2 * (filtered**2 + unknown)
    positions = {"linear": filtered, "sign": np.sign(filtered), "optimal": filtered / second_moment}
    ratios = {}
    for policy, position in positions.items():
        profit = position * earned
        ratios[policy] = simulators.predictable_factor_sharpe(
            strength, persistence, noise, volatility=0.02, policy=policy
        )
        assert profit.mean() / profit.std() == pytest.approx(ratios[policy], abs=ERRORS / math.sqrt(n_bars))
    assert ratios["optimal"] > ratios["linear"] > ratios["sign"] > 0.15


def test_sharpe_formula_limits():
    """Small strength: s without noise, s sqrt(2 / pi) for the sign; a memoryless factor: s / sqrt(1 + noise^2)."""
    sharpe = simulators.predictable_factor_sharpe
    assert sharpe(0.01, volatility=1e-3) == pytest.approx(0.01, rel=2e-4)
    assert sharpe(0.01, volatility=1e-3, policy="sign") == pytest.approx(0.01 * math.sqrt(2 / math.pi), rel=2e-4)
    assert sharpe(0.01, 0.0, 1.5, volatility=1e-3) == pytest.approx(0.01 / math.sqrt(1 + 1.5**2), rel=2e-4)
    assert sharpe(0.3, volatility=1e-4) == pytest.approx(0.3 / math.sqrt(1 + 2 * 0.3**2), rel=1e-5)
    assert sharpe(0.1, n_assets=4) == pytest.approx(2 * sharpe(0.1))
    assert sharpe(-0.1, policy="optimal") == pytest.approx(-sharpe(0.1, policy="optimal"), rel=2e-3)
    assert filter_variance(0.9, 0.0) == 0
    with pytest.raises(ValueError, match="best"):
        sharpe(0.1, policy="best")
    with pytest.raises(ValueError, match="persistence"):
        sharpe(0.1, persistence=1.0)


def test_the_features_reveal_the_factor():
    """Persistence 0.9, window 252: the normalised volume keeps a correlation of about 0.956 with the factor."""
    market, factor = factor_market()
    market, factor = slice_bars(market, 0, 20_000), factor[:20_000]
    table = features.compute_features(market, groups=("volume",), normalisation_window=252)
    column = features.feature_names(("volume",)).index("relative_volume")
    formed = slice(features.warmup(("volume",), 252) + 252, None)
    assert np.corrcoef(np.asarray(table)[formed, 0, column], factor[formed])[0, 1] > 0.95
