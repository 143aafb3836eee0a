"""The dynamic programme of the quotes against enumeration, the continuous limit and elementary probability."""

import itertools
import math

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxppo.envs.reference.quoting import QuoteLaw, certain_gain, occupancy, root_mean_squares, solve_quotes

LINEAR = QuoteLaw(4, 0.3, 1.2, 0.0, 0.05, 0.3, 2)
AVERSE = QuoteLaw(4, 0.3, 1.2, 0.8, 0.05, 0.3, 2)
# Both sides fill together often, and want to: the quotes of the two sides depend on each other.
COUPLED = QuoteLaw(3, 0.95, 0.7, 0.0, 0.4, 2.0, 2)
COUPLED_AVERSE = QuoteLaw(3, 1.0, 0.7, 0.6, 0.4, 1.5, 3)
LAWS = [LINEAR, AVERSE, COUPLED, COUPLED_AVERSE]
IDS = ["linear", "averse", "coupled", "coupled averse"]


def enumerate_quotes(law, n_depths):
    """Best value of each time and inventory over a grid of pairs of depths, by listing the four outcomes of a step."""
    grid = np.linspace(-1.0, 0.999, n_depths)
    grid = law.markup * (1 + grid) / (1 - grid)
    bid, ask = np.meshgrid(grid, grid, indexing="ij")
    value = {q: -law.terminal_penalty * q * q for q in range(-law.inventory_limit, law.inventory_limit + 1)}
    for _ in range(law.n_steps):
        new = {}
        for q in value:
            mean, utility = np.zeros_like(ask), np.zeros_like(ask)
            for sold, bought in itertools.product((0, 1), repeat=2):
                p_ask = law.arrival * np.exp(-law.fill_decay * ask) if q > -law.inventory_limit else 0.0 * ask
                p_bid = law.arrival * np.exp(-law.fill_decay * bid) if q < law.inventory_limit else 0.0 * bid
                chance = (p_ask if sold else 1 - p_ask) * (p_bid if bought else 1 - p_bid)
                after = min(max(q - sold + bought, -law.inventory_limit), law.inventory_limit)
                gain = sold * ask + bought * bid - law.running_penalty * after**2 + value[after]
                mean += chance * gain
                utility += chance * np.exp(-law.risk_aversion * gain)
            new[q] = mean.max() if law.risk_aversion == 0.0 else -np.log(utility.min()) / law.risk_aversion
        value = new
    return np.array([value[q] for q in sorted(value)])


@pytest.mark.parametrize("law", LAWS, ids=IDS)
def test_enumeration_finds_no_better_quotes(law):
    depths, values = solve_quotes(law)
    coarse, fine = (enumerate_quotes(law, n) for n in (41, 161))
    assert np.all(fine <= values[0] + 1e-12)
    assert np.max(values[0] - fine) < np.max(values[0] - coarse)
    assert np.max(values[0] - fine) < 2e-3 * law.markup
    assert depths.shape == (law.n_steps, 2, 2 * law.inventory_limit + 1)
    assert depths.min() >= 0.0
    np.testing.assert_array_equal(np.isinf(depths), np.broadcast_to(~law.quoted, depths.shape))


@settings(max_examples=25, deadline=None)
@given(
    st.floats(0.01, 1.0),
    st.floats(0.2, 5.0),
    st.sampled_from([0.0, 0.05, 1.0]),
    st.floats(0.0, 0.3),
    st.floats(0.0, 3.0),
)
def test_enumeration_finds_no_better_quotes_for_drawn_laws(arrival, decay, aversion, running, terminal):
    law = QuoteLaw(3, arrival, decay, aversion, running, terminal, 2)
    _, values = solve_quotes(law)
    found = enumerate_quotes(law, 61)
    assert np.all(found <= values[0] + 1e-10)
    assert np.all(values[0] - found <= 0.02 * law.markup)


@pytest.mark.parametrize("law", LAWS, ids=IDS)
def test_inventories_mirror_each_other(law):
    depths, values = solve_quotes(law)
    np.testing.assert_allclose(values, values[:, ::-1], atol=1e-10)
    np.testing.assert_allclose(depths[:, 0], depths[:, 1, ::-1], atol=1e-6)
    assert np.all(np.diff(depths[:, 1, 1:], axis=1) <= 1e-9)  # the longer, the cheaper the ask


def continuous(rate, decay, aversion, penalty, terminal, maturity, limit):
    """Certainty equivalents `[2 limit + 1]` in continuous time: `v = exp(k h)` solves a linear equation.

    Gueant, Lehalle, Fernandez-Tapia (2013), theorem 1; for no risk aversion Cartea, Jaimungal, Penalva (2015), 10.2.
    """
    inventory = np.arange(-limit, limit + 1.0)
    factor = math.exp(-1.0) if aversion == 0 else (1 + aversion / decay) ** -(1 + decay / aversion)
    beside = np.eye(2 * limit + 1, k=1) + np.eye(2 * limit + 1, k=-1)
    generator = rate * factor * beside - np.diag(decay * penalty * inventory**2)
    start = np.exp(-decay * terminal * inventory**2)
    return np.log(scipy.linalg.expm(generator * maturity) @ start) / decay


@pytest.mark.parametrize(
    ("rate", "decay", "aversion", "penalty", "terminal", "limit"),
    [(10.0, 1.0, 0.0, 0.05, 0.001, 6), (30.0, 2.0, 0.0, 0.1, 0.05, 3), (40.0, 1.5, 0.2, 0.08, 0.0, 5)],
)
def test_small_steps_tend_to_continuous_time(rate, decay, aversion, penalty, terminal, limit):
    def start(n_steps):
        law = QuoteLaw(n_steps, rate / n_steps, decay, aversion, penalty / n_steps, terminal, limit)
        depths, values = solve_quotes(law)
        return values[0], depths[0, 1, 1:]

    (value, depth), (finer, finer_depth) = start(200), start(400)
    exact = continuous(rate, decay, aversion, penalty, terminal, 1.0, limit)
    assert np.max(np.abs(finer - exact)) < 0.55 * np.max(np.abs(value - exact))
    np.testing.assert_allclose(2 * finer - value, exact, rtol=2e-4)
    markup = 1 / decay if aversion == 0 else math.log1p(aversion / decay) / aversion
    ask = markup + exact[1:] - exact[:-1]
    np.testing.assert_allclose(2 * finer_depth - depth, ask, atol=2e-3)


def test_the_published_continuous_solution():
    """mbt_gym's example: value 6.3806, depths 1.1957 without inventory, 1.9397 and 0.4214 with two units."""
    exact = continuous(10.0, 1.0, 0.0, 0.5, 0.001, 1.0, 10)
    (value, depth), (finer, finer_depth) = (
        (values[0], depths[0][:, 10:13])
        for depths, values in (solve_quotes(QuoteLaw(n, 10.0 / n, 1.0, 0.0, 0.5 / n, 0.001, 10)) for n in (200, 400))
    )
    assert exact[10] == pytest.approx(6.3806, abs=1e-4)
    assert 2 * finer[10] - value[10] == pytest.approx(6.3806, abs=5e-4)  # the published depths may cross the mid-price
    limit = 2 * finer_depth - depth
    np.testing.assert_allclose(limit[:, 0], 1.1957, atol=2e-3)
    np.testing.assert_allclose(limit[:, 2], [1.9397, 0.4214], atol=6e-3)


def test_without_penalties_both_sides_quote_one_over_k():
    depths, values = solve_quotes(QuoteLaw(50, 0.2, 0.8, 0.0, 0.0, 0.0, 60))
    assert values[0, 60] == pytest.approx(50 * 2 * 0.2 * math.exp(-1) / 0.8, rel=1e-12)
    np.testing.assert_allclose(depths[:, :, 60], 1.25, rtol=1e-12)


@settings(max_examples=100, deadline=None)
@given(st.floats(-30, 30), st.floats(1e-6, 1.0), st.floats(1e-3, 2.0))
def test_the_certainty_equivalent_of_a_chance(gain, probability, aversion):
    expected = -math.log(probability * math.exp(-aversion * gain) + (1 - probability)) / aversion
    found = certain_gain(np.array(gain), np.log(probability), aversion)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert min(gain, 0) - 1e-9 <= found <= probability * gain + 1e-9
    assert certain_gain(np.array(gain), np.log(probability), 0.0) == pytest.approx(probability * gain)


def test_the_certainty_equivalent_at_the_edges():
    gain = np.array([-1e4, -1.0, 0.0, 1.0, 1e4])
    np.testing.assert_allclose(certain_gain(gain, np.zeros(5), 0.7), gain, rtol=1e-12)
    np.testing.assert_array_equal(certain_gain(gain, np.full(5, -np.inf), 0.7), 0.0)
    np.testing.assert_allclose(certain_gain(gain[:1], np.log([1e-300]), 1.0), -1e4 + 300 * math.log(10), rtol=1e-12)
    np.testing.assert_allclose(certain_gain(gain, np.log(np.full(5, 0.3)), 1e-12), 0.3 * gain, rtol=1e-3)


def test_occupancy_is_that_of_a_simulation():
    law = QuoteLaw(30, 0.4, 1.0, 0.0, 0.02, 0.1, 4)
    depths, values = solve_quotes(law)
    visited = occupancy(law, depths)
    np.testing.assert_allclose(visited.sum(axis=1), 1.0, rtol=1e-12)
    generator, n = np.random.default_rng(0), 40_000
    inventory, gain, squares = np.zeros(n, int), np.zeros(n), []
    for step in range(30):
        depth = depths[step][:, inventory + 4]
        filled = generator.random((2, n)) < np.array([inventory < 4, inventory > -4]) * 0.4 * np.exp(-depth)
        inventory = inventory + filled[0] - filled[1]
        earned = np.sum(np.where(filled, depth, 0.0), axis=0) + inventory * 0.3 * generator.normal(size=n)
        gain += earned - 0.02 * inventory**2
        squares.append([np.mean(earned**2), np.mean(inventory**2)])
    gain -= 0.1 * inventory**2
    assert abs(gain.mean() - values[0, 4]) < 3.5 * gain.std() / math.sqrt(n)
    np.testing.assert_allclose(np.bincount(inventory + 4, minlength=9) / n, visited[-1], atol=0.01)
    rms = np.sqrt(np.mean(squares, axis=0))
    np.testing.assert_allclose(root_mean_squares(law, depths, 0.3), rms, rtol=0.01)


def test_ruinous_inventories_are_avoided_at_any_price():
    """A unit costs 8 in certainty to hold to the end, six units 288: the maker is better off than without quotes."""
    law = QuoteLaw(40, 0.4, 0.7, 2.0, 0.2, 0.0, 6)
    depths, values = solve_quotes(law)
    assert values[0, 6] > 0
    assert np.all(np.diff(values[:, 6]) < 0)
    assert np.isfinite(values).all()
    np.testing.assert_array_equal(depths[:, 1, 9:12], 0.0)
