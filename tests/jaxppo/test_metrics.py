"""Metrics against empyrical, ffn, hand-computed numbers and the identities that must hold between them."""

import functools

import empyrical
import ffn
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from jaxppo.risk import metrics

ORACLES = {
    "total_return": empyrical.cum_returns_final,
    "annual_return": empyrical.annual_return,
    "volatility": empyrical.annual_volatility,
    "downside_deviation": empyrical.downside_risk,
    "sharpe": empyrical.sharpe_ratio,
    "sortino": empyrical.sortino_ratio,
    "calmar": empyrical.calmar_ratio,
    "max_drawdown": lambda returns: -empyrical.max_drawdown(returns),
}


def heavy_tailed_series() -> np.ndarray:
    """756 daily returns with fat tails, a loss in the first bar and a crash of 30 bars."""
    rng = np.random.default_rng(7)
    returns = rng.standard_t(5, 756) * 0.008 + 0.0005
    returns[0] = -0.03
    returns[400:430] -= 0.006
    return returns


SERIES = {
    "heavy tails": heavy_tailed_series(),
    "two bars": np.array([0.01, -0.02]),
    "one bar": np.array([0.013]),
    "one losing bar": np.array([-0.013]),
    "flat": np.zeros(20),
    "constant gain": np.full(20, 0.001),
    "constant loss": np.full(20, -0.1),
    "only gains": np.array([0.01, 0.02, 0.005, 0.001]),
    "only losses": np.array([-0.01, -0.02, -0.005, -0.001]),
    "ruin": np.array([0.01, -1.0, 0.5, 0.1]),
}


@pytest.mark.parametrize("series", SERIES)
@pytest.mark.parametrize("name", ORACLES)
def test_equals_empyrical(name: str, series: str) -> None:
    returns = SERIES[series]
    # Of one bar, empyrical has a downside risk but no Sortino ratio; here neither is defined.
    undefined = name == "downside_deviation" and len(returns) < 2
    expected = np.nan if undefined else ORACLES[name](returns)
    with jax.enable_x64(True):
        np.testing.assert_allclose(getattr(metrics, name)(jnp.asarray(returns)), expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(
        getattr(metrics, name)(jnp.asarray(returns, jnp.float32)), expected, rtol=3e-6, atol=1e-7
    )


def test_conventions_of_other_libraries() -> None:
    """Values computed once with quantstats, skfolio, riskfolio and vectorbt on the same series."""
    with jax.enable_x64(True):
        returns = jnp.asarray(SERIES["heavy tails"])
        daily_two_percent = 1.02 ** (1 / 252) - 1
        values = {
            -0.6248756: metrics.sharpe(returns, risk_free=daily_two_percent),
            -0.70196488: metrics.sortino(returns, about="mean", ddof=1),
            0.5882972: metrics.max_drawdown(returns, compounded=False),
            0.4399315: metrics.max_drawdown(returns[1:]),
            0.0170008586: metrics.value_at_risk(returns),
            0.0169975122: metrics.value_at_risk(returns, method="linear"),
            0.0162835311: metrics.value_at_risk(returns, method="gaussian"),
            0.0219297015: metrics.conditional_value_at_risk(returns),
            0.0219037602: metrics.conditional_value_at_risk(returns, method="lowest"),
            0.0203430199: metrics.conditional_value_at_risk(returns, method="gaussian"),
        }
        np.testing.assert_allclose(list(values.values()), list(values), rtol=1e-6)


def test_tail_methods_equal_empyrical() -> None:
    for series in ("heavy tails", "only losses", "one bar", "constant gain"):
        returns = SERIES[series]
        with jax.enable_x64(True):
            linear = metrics.value_at_risk(jnp.asarray(returns), method="linear")
            lowest = metrics.conditional_value_at_risk(jnp.asarray(returns), method="lowest")
        np.testing.assert_allclose(linear, -empyrical.value_at_risk(returns), rtol=1e-12)
        np.testing.assert_allclose(lowest, -empyrical.conditional_value_at_risk(returns), rtol=1e-12)


def test_equals_ffn_with_its_calendar_year() -> None:
    returns = SERIES["heavy tails"]
    index = pd.bdate_range("2021-01-04", periods=len(returns) + 1)
    prices = pd.Series(100.0 * np.cumprod(np.r_[1.0, 1.0 + returns]), index=index)
    periods = len(returns) / ffn.year_frac(index[0], index[-1])
    with jax.enable_x64(True):
        array = jnp.asarray(returns)
        np.testing.assert_allclose(metrics.annual_return(array, periods=periods), ffn.calc_cagr(prices), rtol=1e-12)
        np.testing.assert_allclose(metrics.calmar(array, periods=periods), ffn.calc_calmar_ratio(prices), rtol=1e-12)
        np.testing.assert_allclose(metrics.max_drawdown(array), -ffn.calc_max_drawdown(prices), rtol=1e-12)
        path = -ffn.to_drawdown_series(prices).to_numpy()
        np.testing.assert_allclose(metrics.drawdown_path(array), path, atol=1e-14)
        sortino = ffn.calc_sortino_ratio(pd.Series(returns), nperiods=252)
        np.testing.assert_allclose(metrics.sortino(array), sortino, rtol=1e-12)


def test_hand_computed_tail() -> None:
    """Eleven returns: the 5 % tail holds 0.55 of one bar, the 25 % tail two bars and three quarters of a third."""
    returns = jnp.array([0.03, -0.05, 0.0, -0.03, 0.01, -0.02, 0.02, -0.01, 0.04, 0.06, 0.05])
    tail = [float(metrics.conditional_value_at_risk(returns, level=level)) for level in (0.95, 0.90, 0.75)]
    np.testing.assert_allclose(tail, [0.05, (0.05 + 0.1 * 0.03) / 1.1, (0.08 + 0.75 * 0.02) / 2.75], rtol=1e-5)
    assert float(metrics.value_at_risk(returns, level=0.90)) == pytest.approx(0.03)
    # Exactly five of a hundred bars are worse than the value at risk.
    ladder = -jnp.arange(1, 101, dtype=jnp.float32) / 1000
    assert float(metrics.value_at_risk(ladder)) == pytest.approx(0.095)
    assert float(metrics.conditional_value_at_risk(ladder)) == pytest.approx(0.098)


def test_hand_computed_win_rate_and_drawdown() -> None:
    returns = jnp.array([-0.5, 1.0, 0.0, -0.25])
    assert float(metrics.win_rate(returns)) == pytest.approx(1 / 3)
    assert float(metrics.win_rate(returns, count_flat=True)) == pytest.approx(1 / 4)
    assert bool(jnp.isnan(metrics.win_rate(jnp.zeros(3))))
    np.testing.assert_allclose(metrics.drawdown_path(returns), [0.0, 0.5, 0.0, 0.0, 0.25], rtol=1e-6)
    assert not bool(jnp.any(jnp.signbit(metrics.drawdown_path(jnp.full(4, 0.01)))))
    assert float(metrics.total_return(jnp.array([0.5, -1.5, 3.0]))) == -1.0, "ruin is final"


PUBLIC = [*ORACLES, "value_at_risk", "conditional_value_at_risk", "win_rate"]


@pytest.mark.parametrize("name", PUBLIC)
def test_any_axis_compiled_equals_one_series_at_a_time(name: str) -> None:
    metric = getattr(metrics, name)
    returns = jnp.asarray(np.random.default_rng(0).normal(0.001, 0.02, (3, 40, 2)), jnp.float32)
    together = jax.jit(functools.partial(metric, axis=1))(returns)
    assert together.shape == (3, 2)
    np.testing.assert_allclose(together, metric(jnp.moveaxis(returns, 1, -1)), rtol=1e-5)
    np.testing.assert_allclose(together[2, 1], metric(returns[2, :, 1]), rtol=1e-5)
    with_gap = returns.at[0, 7, 0].set(jnp.nan)
    np.testing.assert_array_equal(np.isnan(metric(with_gap, axis=1)), np.isnan(with_gap).any(axis=1))


@pytest.mark.parametrize("name", PUBLIC)
def test_empty_series_is_defined(name: str) -> None:
    value = float(getattr(metrics, name)(jnp.zeros(0)))
    assert value == 0.0 if name in ("total_return", "max_drawdown") else np.isnan(value)


def test_wrong_convention_is_named() -> None:
    with pytest.raises(ValueError, match=r"level is 95"):
        metrics.value_at_risk(jnp.zeros(3), level=95)
    with pytest.raises(ValueError, match=r"'historical'; allowed: empirical, linear, gaussian"):
        metrics.value_at_risk(jnp.zeros(3), method="historical")
    with pytest.raises(ValueError, match=r"allowed: target, mean"):
        metrics.sortino(jnp.zeros(3), about="median")


def test_float32_keeps_the_tiny_returns_of_short_bars() -> None:
    """100,000 bars of +5e-8: `1 + r` rounds each of them to nothing, or to twice as much."""
    returns = jnp.full(100_000, 5e-8, jnp.float32)
    assert float(metrics.total_return(returns)) == pytest.approx(np.expm1(100_000 * np.log1p(5e-8)), rel=1e-4)
    noise = np.random.default_rng(1).standard_t(5, 100_000) * 5e-4
    path = metrics.drawdown_path(jnp.asarray(noise, jnp.float32))
    np.testing.assert_allclose(path[1:], -empyrical.stats.drawdown_series(noise), atol=1e-5)


RETURNS = hypothesis_numpy.arrays(np.float64, 24, elements=st.floats(-0.3, 0.3, allow_subnormal=False))


@settings(max_examples=60, deadline=None)
@given(returns=RETURNS, level=st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.99]))
def test_tail_is_the_rockafellar_uryasev_minimum(returns: np.ndarray, level: float) -> None:
    """The objective is convex and piecewise linear with kinks at the losses, so its minimum is at one of them."""
    losses = -returns
    objective = losses + np.maximum(losses[None, :] - losses[:, None], 0.0).mean(axis=1) / (1 - level)
    with jax.enable_x64(True):
        tail = float(metrics.conditional_value_at_risk(jnp.asarray(returns), level=level))
        quantile = float(metrics.value_at_risk(jnp.asarray(returns), level=level))
    assert tail == pytest.approx(objective.min(), abs=1e-12)
    at_quantile = quantile + np.maximum(losses - quantile, 0.0).mean() / (1 - level)
    assert at_quantile == pytest.approx(tail, abs=1e-12), "the value at risk is a minimiser"
    assert np.mean(losses <= quantile) >= level - 1e-12
    assert tail >= quantile - 1e-12


@settings(max_examples=60, deadline=None)
@given(returns=RETURNS, scale=st.floats(0.1, 3.0))
def test_scaling_and_bounds(returns: np.ndarray, scale: float) -> None:
    with jax.enable_x64(True):
        array = jnp.asarray(returns)
        if np.ptp(returns) > 1e-6:
            ratio = float(metrics.sharpe(array))
            assert float(metrics.sharpe(scale * array)) == pytest.approx(ratio, rel=1e-9)
            assert float(metrics.sharpe(-array)) == pytest.approx(-ratio, rel=1e-9)
            assert float(metrics.sharpe(array, periods=1.0)) * np.sqrt(252) == pytest.approx(ratio, rel=1e-9)
        drawdown = float(metrics.max_drawdown(array))
        assert 0.0 <= drawdown <= 1.0
        assert drawdown >= -float(metrics.total_return(array)) - 1e-12, "the start of the equity is a peak too"
