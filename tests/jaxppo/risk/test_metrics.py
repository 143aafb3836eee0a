"""Metrics against empyrical, ffn, hand-computed numbers and the identities that must hold between them."""

import functools

import empyrical
import ffn
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.integrate
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy
from metric_oracles import PAIRS, SERIES, Pair, values

from jaxppo.risk import metrics


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair.metric}-{pair.library}")
def test_equals_its_owner(pair: Pair) -> None:
    """On random, short, flat, constant, winning and losing series, infinite and undefined values included."""
    for name in pair.series:
        ours, theirs = values(pair, name, np.float64)
        assert ours == pytest.approx(theirs, rel=1e-11, abs=1e-14, nan_ok=True), name
        ours, theirs = values(pair, name, np.float32)
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-6 + 1e-6 * abs(theirs), nan_ok=True), name


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


ARRAYS = ("drawdown_path", "exposure", "information_ratio", "round_trip_bars", "round_trips", "turnover")
"""What takes or returns something else than one array of returns and a number."""
PUBLIC = [name for name in metrics.__all__ if name.islower() and name not in ARRAYS]


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
    assert value == 0.0 if name in ("total_return", "max_drawdown", "max_drawdown_duration") else np.isnan(value)


def test_wrong_convention_is_named() -> None:
    with pytest.raises(ValueError, match=r"level is 95"):
        metrics.value_at_risk(jnp.zeros(3), level=95)
    with pytest.raises(ValueError, match=r"'historical'; allowed: empirical, linear, gaussian, cornish_fisher"):
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


def test_cornish_fisher_tail_is_the_integral_of_the_edgeworth_density() -> None:
    """Mean of `z phi(z) (1 + S/6 He3 + K/24 He4 + S^2/72 He6)` below the corrected quantile, by quadrature."""
    for name in ("heavy tails", "random 1", "random 4"):
        returns = SERIES[name]
        skew, excess = scipy.stats.skew(returns), scipy.stats.kurtosis(returns)
        hermite = np.polynomial.hermite_e.HermiteE([1, 0, 0, skew / 6, excess / 24, 0, skew**2 / 72])
        for level in (0.9, 0.95, 0.99):
            with jax.enable_x64(True):
                array, choice = jnp.asarray(returns), {"level": level, "method": "cornish_fisher"}
                var, cvar = metrics.value_at_risk(array, **choice), metrics.conditional_value_at_risk(array, **choice)
            edge = (-float(var) - returns.mean()) / returns.std()
            z = scipy.stats.norm.ppf(1 - level)
            assert edge == pytest.approx(
                z + (z**2 - 1) * skew / 6 + (z**3 - 3 * z) * excess / 24 - (2 * z**3 - 5 * z) * skew**2 / 36, rel=1e-12
            )
            mean, _ = scipy.integrate.quad(lambda x: x * scipy.stats.norm.pdf(x) * hermite(x), -np.inf, edge)  # noqa: B023
            assert float(cvar) == pytest.approx(-returns.mean() - returns.std() * mean / (1 - level), rel=1e-8)
    normal = jnp.asarray(np.random.default_rng(0).normal(0.001, 0.02, 200_000), jnp.float32)
    for metric in (metrics.value_at_risk, metrics.conditional_value_at_risk):
        assert float(metric(normal, method="cornish_fisher")) == pytest.approx(float(metric(normal)), rel=0.01)


def test_the_longest_drawdown_by_hand() -> None:
    """Recovered after three bars; then four that never are. Bars without a return begin none."""
    recovered = jnp.asarray([0.1, -0.5, 0.5, 0.5, 0.0, 0.0])
    assert float(metrics.max_drawdown_duration(recovered)) == 3
    assert float(metrics.max_drawdown_duration(jnp.concatenate([recovered, -0.01 * jnp.ones(4)]))) == 4
    sitting_out = (
        jnp.zeros(5_000).at[::50].set(jnp.asarray(np.random.default_rng(0).uniform(0, 0.01, 100), jnp.float32))
    )
    assert float(metrics.max_drawdown_duration(sitting_out)) == 0
    assert float(metrics.max_drawdown_duration(jnp.asarray([0.1, -1.0, 0.5, 0.5]))) == 3, "ruin is not recovered from"


def test_positions_and_trades_by_hand() -> None:
    weights = jnp.asarray([[0.5, -0.25], [0.0, 0.0], [-0.5, 0.0], [1.0, 0.25]])
    found = [float(metrics.exposure(weights, kind=kind)) for kind in ("gross", "net", "time")]
    assert found == pytest.approx([2.5 / 4, 1.0 / 4, 3 / 4])
    bought, sold, equity = jnp.asarray([10.0, 0.0, 5.0]), jnp.asarray([0.0, 4.0, 6.0]), jnp.asarray([100.0, 50.0, 50.0])
    assert float(metrics.turnover(bought, sold, equity, periods=3)) == pytest.approx(0.1 + 0.08 + 0.22)
    assert float(metrics.turnover(bought, sold, equity, periods=3, sides="smaller")) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="time axis must be another"):
        metrics.exposure(weights, axis=1)
    with pytest.raises(ValueError, match=r"has shape \(3,\); it must be that of the returns, \(4,\)"):
        metrics.information_ratio(jnp.zeros(4), jnp.zeros(3))

    # Long 10 in two steps and out in two: +20 less 4 of costs. Through zero: long 5 loses 5 and its half of the costs,
    # the short of 5 that follows is covered at a gain of 10 less the other half and 1. The last one stays open.
    quantity = jnp.asarray([4.0, 6.0, -5.0, 0.0, -5.0, 5.0, -10.0, 5.0, 3.0])
    price = jnp.asarray([10.0, 10.0, 12.0, 9.0, 12.0, 10.0, 9.0, 7.0, 8.0])
    costs = jnp.where(quantity == 0, 0.0, 1.0)
    trips = metrics.round_trips(quantity[:, None], price[:, None], costs[:, None])
    assert (int(trips.closed[0]), int(trips.won[0]), int(trips.open[0])) == (3, 2, 1)
    assert float(trips.profit[0]) == pytest.approx((20 - 4) + (10 - 0.5 - 1))
    assert float(trips.loss[0]) == pytest.approx(5 + 1 + 0.5)
    assert float(trips.win_rate()) == pytest.approx(2 / 3)
    assert float(trips.profit_factor()) == pytest.approx((16 + 8.5) / 6.5)
    bars = metrics.round_trip_bars(quantity[:, None], price[:, None], costs[:, None])
    assert list(np.flatnonzero(bars.ended[:, 0])) == [4, 6, 7]
    np.testing.assert_allclose(bars.result[[4, 6, 7], 0], [16.0, -6.5, 8.5], rtol=1e-6)
    np.testing.assert_array_equal(bars.held[:, 0], [4, 10, 5, 5, 0, 5, -5, 0, 3])
    np.testing.assert_allclose(bars.cash[[1, 5, 8], 0], [-102.0, -51.0, -25.0], rtol=1e-6)


def orders_in_parts():
    """Prices and orders `[400, 3]`: from flat to flat, adding and selling in parts, never through zero in one order."""
    rng = np.random.default_rng(3)
    n, n_assets = 400, 3
    price = 50 * np.exp(np.cumsum(rng.normal(0, 0.02, (n, n_assets)), axis=0))
    size, held = np.zeros((n, n_assets)), np.zeros(n_assets)
    for t in range(n):
        opened, more = rng.choice([-10.0, -5.0, 5.0, 10.0], n_assets), rng.choice([-1.0, -1.0, -0.5, 0.5], n_assets)
        size[t] = np.where(rng.random(n_assets) < 0.3, np.where(held == 0, opened, more * held), 0.0)
        held += size[t]
    return size, price, np.abs(size) * price * 0.001


def check_round_trips(trips, asset, results, n_open):
    """The trips of an asset have these results, and so many are open."""
    assert int(trips.closed[asset]) == len(results) > 10
    assert int(trips.open[asset]) == n_open
    assert int(trips.won[asset]) == int((results > 0).sum())
    assert float(trips.profit[asset]) == pytest.approx(results[results > 0].sum(), rel=1e-10)
    assert float(trips.loss[asset]) == pytest.approx(-results[results < 0].sum(), rel=1e-10)


def test_round_trips_earn_the_cash_between_flat_bars() -> None:
    size, price, costs = orders_in_parts()
    with jax.enable_x64(True):
        trips = metrics.round_trips(*map(jnp.asarray, (size, price, costs)))
        for asset in range(size.shape[1]):
            cash = -np.cumsum(size[:, asset] * price[:, asset] + costs[:, asset])
            flat = (np.cumsum(size[:, asset]) == 0) & (size[:, asset] != 0)
            check_round_trips(trips, asset, np.diff(cash[flat], prepend=0.0), int(size[:, asset].sum() != 0))
    assert int(trips.open.sum()) > 0


@pytest.mark.slow
def test_round_trips_equal_vectorbts_positions() -> None:
    vectorbt = pytest.importorskip("vectorbt")
    size, price, costs = orders_in_parts()
    portfolio = vectorbt.Portfolio.from_orders(price, size=size, fees=0.001, init_cash=1e6, group_by=False)
    positions = portfolio.positions.records_readable
    closed = positions[positions["Status"] == "Closed"]
    with jax.enable_x64(True):
        trips = metrics.round_trips(*map(jnp.asarray, (size, price, costs)))
        for asset in range(size.shape[1]):
            results = closed[closed["Column"] == asset]["PnL"].to_numpy()
            of_asset = positions[positions["Column"] == asset]
            check_round_trips(trips, asset, results, int((of_asset["Status"] == "Open").sum()))
        weights = portfolio.asset_value() / portfolio.value()
        gross = metrics.exposure(jnp.asarray(weights.to_numpy()[:, :, None]), axis=0)
    assert int(trips.open.sum()) > 0
    np.testing.assert_allclose(gross, weights.abs().mean(), rtol=1e-12)


@pytest.mark.parametrize("n", [1, 11, 21, 31, 101])
def test_the_lowest_returns_of_whole_shares_are_counted_as_by_empyrical(n):
    """1 - 0.9 is a little less than 0.1, which must not cost a bar."""
    returns = np.random.default_rng(n).normal(size=n) * 0.01
    ours = metrics.conditional_value_at_risk(jnp.asarray(returns), level=0.9, method="lowest")
    np.testing.assert_allclose(ours, -empyrical.conditional_value_at_risk(returns, cutoff=0.1), rtol=1e-5)
