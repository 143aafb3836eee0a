"""The no-trade band against brute-force dynamic programming, a simulation and the limit of small steps."""

import math

import numpy as np
import pytest

from jaxppo.envs.reference.no_trade_band import Band, BandValue, normal_tail, solve_band, stationary_deviation


def brute_force(decay, cost, discount, n_signals, n_positions, largest, n_sweeps):
    """Value iteration on a grid of signal and position: mean value at position 0 a step, signals, and edges."""
    deviation = stationary_deviation(decay)
    p, x = np.linspace(-5 * deviation, 5 * deviation, n_signals), np.linspace(-largest, largest, n_positions)
    transition = np.exp(-((p[None] - decay * p[:, None]) ** 2) / 2)
    transition /= transition.sum(axis=1, keepdims=True)
    weight = np.exp(-((p / deviation) ** 2) / 2)
    weight /= weight.sum()
    profit, middle = p[:, None] * x - x**2 / 2, n_positions // 2
    value = np.zeros((n_signals, n_positions))
    for _ in range(n_sweeps):
        held = profit + discount * transition @ value
        bought = np.maximum.accumulate((held - cost * x)[:, ::-1], axis=1)[:, ::-1] + cost * x
        sold = np.maximum.accumulate(held + cost * x, axis=1) - cost * x
        new = np.maximum(bought, sold)
        growth = weight @ (new - value)[:, middle]
        value = new - (weight @ new[:, middle] if discount == 1.0 else 0.0)
    low, high = x[np.argmax(held - cost * x, axis=1)], x[np.argmax(held + cost * x, axis=1)]
    return (growth if discount == 1.0 else weight @ value[:, middle]), p, low, high


@pytest.mark.parametrize(
    ("decay", "cost", "discount", "largest", "n_sweeps"),
    [(0.9, 4 / math.sqrt(0.2), 1.0, 8.0, 250), (0.5, 1.5, 0.9, 5.0, 120), (0.8, 0.3, 1.0, 8.0, 120)],
)
def test_brute_force_finds_the_same_band_and_value(decay, cost, discount, largest, n_sweeps):
    band = solve_band(decay, cost, discount)
    exact = BandValue(band, decay)
    value, signals, low, high = brute_force(decay, cost, discount, 101, 321, largest, n_sweeps)
    if discount == 1.0:
        assert exact.average_reward(cost) == pytest.approx(value, rel=2e-3)
    else:
        assert exact.discounted_reward(cost, discount, 2000) == pytest.approx(value, rel=2e-3)
    edges, levels = np.concatenate([-band.sell[::-1], band.buy]), np.concatenate([-band.level[::-1], band.level])
    near = np.abs(signals) < 2.5 * stationary_deviation(decay)
    step = largest / 160
    np.testing.assert_allclose(np.interp(signals, edges, levels)[near], low[near], atol=1.5 * step)
    np.testing.assert_allclose(-np.interp(-signals, edges, levels)[near], high[near], atol=1.5 * step)


def test_the_published_band_earns_a_little_less_than_the_optimum():
    """Band `(p -+ 0.93) / 0.94` for a risk penalty of 0.3 and a cost of 4, found by grid search in the paper."""
    noise, cost = math.sqrt(0.2), 4 / math.sqrt(0.2)
    best, unit = solve_band(0.9, cost, 1.0), noise / 0.6
    edges = (0.94 * best.level * unit + np.array([[-0.93], [0.93]])) / noise
    value = BandValue(Band(best.level, best.weight, *edges), 0.9)
    published, optimum = (noise * unit * v.average_reward(cost) for v in (value, BandValue(best, 0.9)))
    assert optimum == pytest.approx(0.24655, abs=1e-4)
    assert 0.995 < published / optimum < 1.0

    generator, total, squares = np.random.default_rng(3), np.zeros(2000), []
    p, x = generator.normal(size=2000) / math.sqrt(0.95), np.zeros(2000)
    for step in range(1300):
        target = np.clip(x, (p - 0.93) / 0.94, (p + 0.93) / 0.94)
        if step >= 100:
            total += p * target - 0.3 * target**2 - 4 * np.abs(target - x)
            squares.append(np.mean(target**2))
        x, p = target, 0.9 * p + noise * generator.normal(size=2000)
    assert abs(total.mean() / 1200 - published) < 3.5 * total.std() / 1200 / math.sqrt(2000)
    assert np.mean(squares) == pytest.approx(unit**2 * value.mean_square(), rel=0.02)


@pytest.mark.parametrize("change", [(0.9, 1.0), (1.1, 1.0), (1.0, 0.95), (1.0, 1.05)])
def test_no_other_band_earns_more(change):
    decay, cost = 0.95, 6.0
    best = solve_band(decay, cost, 1.0)
    middle, half = (best.buy + best.sell) / 2 * change[1], (best.buy - best.sell) / 2 * change[0]
    other = BandValue(Band(best.level, best.weight, middle - half, middle + half), decay)
    optimum = BandValue(best, decay).average_reward(cost)
    assert 0 < 1 - other.average_reward(cost) / optimum < 0.02


def test_rare_noise_gives_the_cube_root_law():
    """A slow signal in small steps: half-width `(3 cost / 2)^(1/3)`, less 0.5826, the overshoot of a random walk."""
    for cost in (200.0, 1000.0):
        band = solve_band(1 - 1e-5, cost, 1.0)
        half_width = (band.buy[0] - band.sell[0]) / 2
        assert half_width == pytest.approx((1.5 * cost) ** (1 / 3) - 0.5826, rel=0.01)


def test_white_noise_is_traded_by_the_myopic_rule():
    """Without autocorrelation and without a future, the band is `p -+ cost`."""
    band = solve_band(0.0, 0.7, 1e-9)
    np.testing.assert_allclose(band.buy, band.level + 0.7, atol=1e-7)
    np.testing.assert_allclose(band.sell, band.level - 0.7, atol=1e-7)


def test_the_finite_horizon_tends_to_the_average():
    decay, cost = 0.8, 3.0
    value = BandValue(solve_band(decay, cost, 1.0), decay)
    one, two = (value.discounted_reward(cost, 1.0, n) for n in (500, 1500))
    assert (two - one) / 1000 == pytest.approx(value.average_reward(cost), rel=1e-9)
    assert value.discounted_reward(cost, 0.5, 1) == pytest.approx(value.discounted_reward(cost, 1.0, 1))


def test_the_normal_tail():
    np.testing.assert_allclose(normal_tail(np.array([[0.0, 1.959963985]])), [[0.5, 0.025]], rtol=1e-8)


def test_a_prohibitive_cost_has_no_band():
    assert solve_band(0.5, 100.0, 0.9) is None
