"""The best Sharpe ratio after proportional costs: known limits, grid refinement, and play in `TradingEnv`."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxppo.envs import basic_costs, simulators
from jaxppo.envs.execution.portfolio import orders_to_target, weights_of
from jaxppo.envs.simulators import costly_factor
from jaxppo.envs.simulators.bars import Levels
from jaxppo.envs.simulators.costly_factor import BARS_PER_YEAR, solve_costly_factor, strength_for_sharpe
from jaxppo.envs.simulators.factor_market import _Model, _with_factor
from jaxppo.envs.trading.environment import TradingEnv

MARKET = {"persistence": 0.9, "volatility": 0.01}
COST = 0.002


@pytest.fixture(scope="module")
def best():
    return solve_costly_factor(0.2, cost=COST, **MARKET)


def test_without_costs_it_is_the_known_optimum():
    """Conditional moments alone (Ferson and Siegel) give the ratio; the linear rule has a closed form too."""
    free = solve_costly_factor(0.2, cost=0.0, **MARKET)
    known = {name: simulators.predictable_factor_sharpe(0.2, 0.9, policy=name) for name in ("optimal", "linear")}
    assert free.sharpe_per_bar == pytest.approx(known["optimal"], rel=1e-4)
    assert free.sharpe_of(lambda factor, _: factor) == pytest.approx(known["linear"], rel=1e-4)
    assert known["optimal"] > 1.001 * known["linear"]


def test_a_cost_that_nothing_earns():
    """What is expected over one bar, 0.2 % for a factor of 1, is never worth 10 %."""
    assert solve_costly_factor(0.2, persistence=0.0, cost=0.1).sharpe_per_bar == pytest.approx(0.0, abs=1e-4)


@pytest.mark.slow
def test_finer_grids_agree(best, monkeypatch):
    finer = {"N_POSITIONS": 121, "FACTOR_STEP": 0.4, "REFINEMENT": 32, "SHOCKS": 5, "REACH": 6.0, "RANGE": 6.0}
    for name, value in finer.items():
        monkeypatch.setattr(costly_factor, name, value)
    costly_factor._program.cache_clear()
    refined = solve_costly_factor.__wrapped__(0.2, cost=COST, **MARKET)
    costly_factor._program.cache_clear()
    assert best.sharpe_per_bar == pytest.approx(refined.sharpe_per_bar, rel=2e-4)


def test_every_other_rule_is_worse(best):
    """The policy has the ratio that it was solved for; wider and narrower bands, other sizes and myopic rules less."""
    low, high = best.bought, np.maximum(best.bought, best.sold)
    middle, half = (low + high) / 2, (high - low) / 2
    ours = best.sharpe_of(lambda _, held: np.clip(held, low, high))
    assert ours == pytest.approx(best.sharpe_per_bar, rel=1e-6)
    for width in (0.7, 1.4):
        edges = middle - width * half, middle + width * half
        assert best.sharpe_of(lambda _, held, edges=edges: np.clip(held, *edges)) < 0.998 * ours
    shifted = best.sharpe_of(
        lambda factor, held: np.clip(held, low + 0.2 * np.sign(factor), high + 0.2 * np.sign(factor))
    )
    assert shifted < 0.999 * ours
    assert best.sharpe_of(lambda factor, _: factor) < 0.85 * ours
    assert best.sharpe_of(lambda factor, _: np.sign(factor)) < 0.85 * ours


def test_the_ratio_does_not_depend_on_the_scale_of_a_rule(best):
    small, large = (best.sharpe_of(lambda f, _, k=k: k * np.clip(f, -2, 2)) for k in (0.5, 2.0))
    assert small == pytest.approx(large, rel=0.02)


@pytest.mark.slow
def test_the_policy_played_in_the_environment(best):
    """Half-spread and commission through `TradingEnv`: mean, second moment and ratio within four standard errors."""
    unit, n_bars, n_assets, blocks = 0.002, 12_000, 32, 40
    model, levels = (
        _Model(strength=0.2, signal_noise=0.0, gap_share=0.2, **MARKET),
        Levels(0.75 * COST, 1e6, 0.5),
    )
    market, factor = _with_factor(jax.random.key(4), n_bars, n_assets, model, 100.0, levels)
    env = TradingEnv(
        n_assets=n_assets,
        actions="band",
        levels=(-1.0, 1.0),
        position_limit=5 * unit,
        observation="index",
        window=1,
        groups=("calendar",),
    )
    params = env.make_params(market, basic_costs(commission_bps=0.25 * COST * 1e4))
    first = env.first_decision
    _, start = env.reset_env(jax.random.key(0), params.replace(last_bar=jnp.int32(first + 1)))

    def one_bar(state, known):
        before = state.portfolio
        edges = jnp.stack(best.edges(known, weights_of(before) / unit), axis=-1) / 5
        weights, hold = env.decode(edges, before)
        row, tradable = params.table[state.bar + 1], params.market.tradable[state.bar]
        orders = orders_to_target(before, weights, hold | ~tradable, params.costs)
        after, fills, _ = env.fill(before, orders, row, params.costs)
        marked = before.shares * (fills.price - before.price) + after.shares * (after.price - fills.price)
        profit = (marked - fills.costs.total()) / before.equity
        return state.replace(bar=state.bar + 1, portfolio=after), (profit, after.equity)

    play = jax.jit(lambda state: jax.lax.scan(one_bar, state, factor[first : n_bars - 1]))
    _, (profit, equity) = play(start)
    profit, equity = np.asarray(profit, np.float64), np.asarray(equity, np.float64)
    growth = np.diff(equity) / equity[:-1]
    np.testing.assert_allclose(profit[1:].sum(axis=1), growth, atol=1e-6)  # profits by asset are the account's
    share = best.sharpe_per_bar**2 / (1 + best.sharpe_per_bar**2)
    aversion = best.strength / best.volatility
    parts = np.array_split(profit / unit, blocks)
    figures = {
        "mean": ([part.mean() for part in parts], share / aversion),
        "second moment": ([np.mean(part**2) for part in parts], share / aversion**2),
        "ratio": ([part.mean() / part.std() for part in parts], best.sharpe_per_bar),
    }
    for name, (found, expected) in figures.items():
        error = np.std(found, ddof=1) / math.sqrt(blocks)
        assert error < 0.05 * expected, name
        assert abs(np.mean(found) - expected) < 4 * error, name


def test_the_strength_for_a_ratio():
    strength = strength_for_sharpe(4.0, n_assets=4, cost=COST, **MARKET)
    best = solve_costly_factor(strength, cost=COST, **MARKET)
    assert best.sharpe(4) == pytest.approx(4.0, rel=1e-4)
    assert best.sharpe() == pytest.approx(2.0, rel=1e-4)
    assert strength > 2.0 / math.sqrt(BARS_PER_YEAR)


def test_bad_parameters_are_refused():
    for wrong in ({"persistence": 1.0}, {"volatility": 0.0}, {"gap_share": 1.0}, {"cost": 1.0}, {"cost": -0.1}):
        with pytest.raises(ValueError, match="need 0 < strength"):
            solve_costly_factor(0.2, **{"cost": COST, **wrong})
    with pytest.raises(ValueError, match="need 0 < strength"):
        solve_costly_factor(0.0, cost=COST)
    with pytest.raises(ValueError, match="sharpe is 100"):
        strength_for_sharpe(100.0, cost=COST)
    with pytest.raises(ValueError, match=r"cost is 0\.2"):
        strength_for_sharpe(8.0, persistence=0.5, cost=0.2)
