"""Regimes: rules by hand, the market index, causality, ragged panels, states and their names."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from causality import assert_causal

from jaxppo.envs import simulators
from jaxppo.envs.market.features import ewma_volatility
from jaxppo.envs.market.hidden_markov import HiddenMarkovModel
from jaxppo.envs.market.index import market_index, own_returns
from jaxppo.envs.market.regimes import (
    BEAR,
    BULL,
    CRISIS,
    NAMES,
    SIDEWAYS,
    fit_regimes,
    hidden_regimes,
    regime_of_states,
    rule_regimes,
    standardised_returns,
)
from jaxppo.envs.market.windows import rolling_rank

N = 700
SHORT = {"trend_window": 20, "volatility_window": 100, "drawdown_window": 60}


def market_of(log_return, tradable=None):
    """One market whose closes follow log returns `[T, A]`."""
    log_return = jnp.asarray(log_return, jnp.float32)
    close = 100.0 * jnp.exp(jnp.cumsum(log_return, axis=0))
    base = simulators.gbm(jax.random.key(0), close.shape[0], close.shape[1])
    tradable = jnp.ones(close.shape, bool) if tradable is None else tradable
    return base.replace(open=close, high=close, low=close, close=close, tradable=tradable)


def ragged(seed=0, n_bars=N, n_assets=3):
    """A random panel with missing bars; the last asset lists late."""
    key_return, key_gone = jax.random.split(jax.random.key(seed))
    change = 0.01 * jax.random.normal(key_return, (n_bars, n_assets))
    there = jax.random.uniform(key_gone, (n_bars, n_assets)) < 0.9
    there = there.at[:300, -1].set(False)
    return market_of(jnp.where(there, change, 0.0), there)


def names_of(regimes):
    return np.asarray(NAMES)[np.argmax(np.asarray(regimes), axis=-1)]


def test_rules_by_hand():
    """A calm rise, a calm fall, noise around nothing, then a crash: each is told from the bars that show it."""
    noise = 0.002 * np.random.default_rng(0).choice([1.0, -1.0], 150)
    noise -= noise.mean()
    crash = -0.04 + 0.05 * np.resize([1.0, -1.0], 30)
    path = np.concatenate([noise + 0.002, noise - 0.002, noise, crash])[:, None]
    found = names_of(rule_regimes(market_of(path), **SHORT))[:, 0]
    assert set(found[:20]) == {"sideways"}
    assert set(found[25:150]) == {"bull"}
    assert set(found[185:300]) <= {"bear", "crisis"}
    assert np.mean(found[330:450] == "sideways") > 0.6
    assert set(found[456:480]) == {"crisis"}


def test_the_trend_is_a_t_statistic():
    path = 0.01 * np.random.default_rng(0).standard_normal((300, 1)) + 0.0015
    market = market_of(path)
    change = pd.Series(np.log(np.asarray(market.close, np.float64))[:, 0]).diff()
    t = (change.rolling(40).mean() / change.rolling(40).std() * 40**0.5).to_numpy()
    found = rule_regimes(market, trend_window=40, trend_threshold=1.5, crisis_drawdown=0.99)[:, 0]
    expected = np.where(t > 1.5, BULL, np.where(t < -1.5, BEAR, SIDEWAYS))
    sure = np.abs(np.abs(np.nan_to_num(t)) - 1.5) > 1e-2
    np.testing.assert_array_equal(np.argmax(found, axis=-1)[sure], expected[sure])


def test_crisis_needs_a_high_volatility_and_a_fall():
    path = 0.01 * np.random.default_rng(1).standard_normal((600, 1)) * np.repeat([1.0, 4.0, 1.0], 200)[:, None]
    market = market_of(path)
    close = pd.Series(np.asarray(market.close)[:, 0])
    volatility = pd.Series(np.asarray(ewma_volatility(market, 21))[:, 0])
    rank = volatility.rolling(100, min_periods=1).apply(lambda x: (x <= x.iloc[-1]).mean())
    fallen = 1 - close / close.rolling(60, min_periods=1).max()
    expected = (rank > 0.8) & (fallen > 0.1)
    found = rule_regimes(market, volatility_quantile=0.8, crisis_drawdown=0.1, **SHORT)[:, 0, CRISIS] > 0
    assert expected.sum() > 10
    assert np.mean(found == expected.to_numpy()) > 0.99


def test_the_rolling_rank_is_that_of_pandas():
    x = np.random.default_rng(0).normal(size=(200, 2)).round(1).astype(np.float32)
    expected = pd.DataFrame(x).rolling(30, min_periods=1).apply(lambda w: (w <= w.iloc[-1]).mean())
    np.testing.assert_allclose(rolling_rank(jnp.asarray(x), 30), expected, rtol=1e-6)


def test_the_index_is_the_mean_return_of_what_traded():
    market = ragged()
    change, known = (np.asarray(x, np.float64) for x in own_returns(market))
    count = known.sum(axis=1)
    mean = np.where(count > 0, (change * known).sum(axis=1) / np.maximum(count, 1), 0.0)
    index = market_index(market)
    np.testing.assert_allclose(np.asarray(index.close)[:, 0], np.cumprod(1 + mean), rtol=1e-4)
    np.testing.assert_array_equal(np.asarray(index.tradable)[:, 0], np.asarray(market.tradable).any(axis=1))
    assert index.close.shape == (N, 1)


def test_regimes_look_at_nothing_later():
    market = ragged(1)
    model = fit_regimes(jax.random.key(0), market, 4, usual_volatility_span=100, restarts=2)
    for found in (
        lambda m: rule_regimes(m, **SHORT),
        lambda m: hidden_regimes(model, m, 100),
        lambda m: rule_regimes(market_index(m), **SHORT),
        lambda m: hidden_regimes(model, market_index(m), 100),
    ):
        assert_causal(found, market, 450, jax.random.key(3))


def test_regimes_of_a_ragged_panel_are_probabilities():
    market = ragged(2)
    model = fit_regimes(jax.random.key(0), market, 3, usual_volatility_span=100, restarts=2)
    for found in (rule_regimes(market, **SHORT), hidden_regimes(model, market, 100)):
        assert found.shape == (N, 3, 4)
        np.testing.assert_allclose(found.sum(axis=-1), 1.0, atol=1e-5)
        assert np.all(np.asarray(found) >= 0)
    rules = rule_regimes(market, **SHORT)
    assert np.all(np.argmax(rules[:300, 2], axis=-1) == SIDEWAYS)
    gone = np.flatnonzero(~np.asarray(market.tradable)[:, 0])
    np.testing.assert_array_equal(rules[gone[1:], 0], rules[gone[1:] - 1, 0])


def test_observations_are_returns_in_units_of_the_volatility_before():
    market = ragged(3)
    x, known = (np.asarray(a) for a in standardised_returns(market, 50))
    usual = np.asarray(ewma_volatility(market, 50), np.float64)[:, 0]
    there = np.flatnonzero(np.asarray(market.tradable)[:, 0])
    close = np.log(np.asarray(market.close, np.float64))[:, 0]
    for before, now in itertools.pairwise(there[20:80]):
        expected = (close[now] - close[before]) / (usual[now - 1] * (now - before) ** 0.5)
        assert known[now, 0]
        assert x[now, 0, 0] == pytest.approx(np.clip(expected, -3, 3), rel=1e-3, abs=1e-4)
    assert known[:, 0].sum() == len(there) - 21
    scaled = market.replace(**{name: 7.0 * getattr(market, name) for name in ("open", "high", "low", "close")})
    np.testing.assert_allclose(standardised_returns(scaled, 50)[0], x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("mean", "variance", "names"),
    [
        ([-1, 1], [3, 1], ["bear", "bull"]),
        ([-1, 0, 1], [3, 1, 1], ["crisis", "bear", "bull"]),
        ([-1, 0, 1], [1, 1, 9], ["bear", "bull", "crisis"]),
        ([-2, -1, 0, 1], [9, 1, 1, 1], ["crisis", "bear", "sideways", "bull"]),
        ([-2, -1, 0, 1, 2, 3], [1, 9, 1, 1, 1, 1], ["bear", "crisis", "sideways", "sideways", "sideways", "bull"]),
    ],
)
def test_names_of_states(mean, variance, names):
    n = len(mean)
    column = lambda values: jnp.asarray(values, jnp.float32)[:, None]  # noqa: E731
    model = HiddenMarkovModel(jnp.ones(n) / n, jnp.ones((n, n)) / n, column(mean), column(variance))
    assert [NAMES[i] for i in np.argmax(regime_of_states(model), axis=-1)] == names


@pytest.mark.slow
def test_a_simulated_switch_between_calm_and_turbulent_is_found():
    """The filter knows the state of a market that switches its volatility fivefold almost always."""
    key_state, key_noise = jax.random.split(jax.random.key(0))
    switch = jax.random.uniform(key_state, (4_000, 1)) < 0.01
    turbulent = jnp.cumsum(switch, axis=0) % 2 == 1
    change = jnp.where(turbulent, 0.03, 0.006) * jax.random.normal(key_noise, (4_000, 1))
    market = market_of(change)
    model = fit_regimes(jax.random.key(1), market, 3, restarts=4)
    found = hidden_regimes(model, market)[:, 0, CRISIS] > 0.5
    assert np.mean((np.asarray(found) == np.asarray(turbulent)[:, 0])[500:]) > 0.9
