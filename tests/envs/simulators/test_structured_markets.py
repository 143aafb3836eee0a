"""Where the predictable part of a market is, and where it is not."""

import jax
import numpy as np
import pytest
from moments import assert_mean

from jaxppo.envs.market import features
from jaxppo.envs.simulators.structured import delayed_signal, lead_lag

N_BARS = 100_000


def returns(market) -> tuple[np.ndarray, np.ndarray]:
    """Simple returns `[T - 1, A]` of gaps and bodies of bars 1 and later."""
    open_, close = np.asarray(market.open, np.float64), np.asarray(market.close, np.float64)
    return open_[1:] / close[:-1] - 1, close[1:] / open_[1:] - 1


@pytest.mark.parametrize(("delay", "span"), [(0, 1), (7, 3)])
def test_volumes_of_the_named_bars_predict_the_next_body(delay, span):
    market, signal = delayed_signal(jax.random.key(0), N_BARS, 2, delay=delay, span=span)
    gap, body = returns(market)
    x = np.log(np.asarray(market.volume, np.float64) / 1e6) / 0.5
    first = delay + span - 1
    sums = np.stack([x[first - delay - i : N_BARS - delay - i] for i in range(span)]).sum(axis=0)
    np.testing.assert_allclose(np.asarray(signal)[first:], sums / span**0.5, atol=2e-2)
    s = np.asarray(signal, np.float64)[:-1]
    for asset in range(2):
        assert_mean(s[:, asset] * (body[:, asset] - 0.002 * s[:, asset]), 0.0)
        assert_mean(s[:, asset] * gap[:, asset], 0.0)
        assert_mean(s[:, asset] * body[:, 1 - asset], 0.0)
        for off in (delay - 1, delay + span):
            if off >= 0:
                assert_mean(x[first:-1, asset][: N_BARS - first - 1 - off] * body[first + off :, asset], 0.0)
    assert_mean(s[:, 0] ** 2, 1.0)


def test_the_first_asset_leads_the_others_by_one_bar():
    market, signal = lead_lag(jax.random.key(1), N_BARS, 3)
    gap, body = returns(market)
    close = np.asarray(market.close, np.float64)
    change = np.log(close[1:] / close[:-1])
    np.testing.assert_allclose(np.asarray(signal)[1:, 1], (change[:, 0] + 0.5e-4) / 0.01, atol=2e-2)
    assert (np.asarray(signal)[:, 0] == 0.0).all()
    lead = change[:-1, 0] / 0.01
    for asset in (1, 2):
        assert_mean(lead * (body[1:, asset] - 0.002 * lead), 0.0)
        assert_mean(lead * gap[1:, asset], 0.0)
        assert_mean(change[:-1, asset] * body[1:, asset], 0.0)
        assert_mean(change[:-1, asset] * body[1:, 0], 0.0)
        assert_mean(change[:-2, 0] * body[2:, asset], 0.0)
    assert_mean(lead * body[1:, 0], 0.0)


@pytest.mark.slow
def test_the_bars_are_a_market():
    for market, signal in (delayed_signal(jax.random.key(2), 300, 2), lead_lag(jax.random.key(2), 300)):
        high, low = np.asarray(market.high), np.asarray(market.low)
        for price in (market.open, market.close):
            assert ((price <= high * (1 + 1e-6)) & (price >= low * (1 - 1e-6))).all()
        assert np.asarray(market.tradable).all()
        assert signal.shape == market.close.shape
        assert np.isfinite(features.compute_features(market)).all()
