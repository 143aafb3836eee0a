"""What masks, sizing and rewards have in common: one protocol, and an honest warm-up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxppo import masks
from jaxppo.envs import simulators, slice_bars
from jaxppo.envs.execution.fill_rule import FillRule
from jaxppo.envs.execution.portfolio import open_portfolio
from jaxppo.envs.trading.transform import Transform
from jaxppo.envs.trading.view import MarketView
from jaxppo.risk import rewards, sizing

WINDOWED = {
    "kelly": sizing.kelly(window=40),
    "halt": masks.halt(move=0.02, bars=7),
}
EXPONENTIAL = {
    21: masks.volatility_cap(0.1),
    30: masks.risk_budget(volatility=0.2, span=30),
    31: sizing.drawdown_control(0.1, move=0.05, deviations=3.0, span=30),
    20: masks.liquidity(participation=0.1, span=20),
    25: sizing.volatility_target(0.1, span=25),
    35: sizing.equal_risk_contribution(span=35),
    45: sizing.risk_units(span=45),
}
WITHOUT_HISTORY = (
    masks.no_short(),
    masks.regime({"bull": (0.0, 1.0)}),
    masks.session("XNYS"),
    masks.risk_budget(gross=1.0),
    masks.liquidity(spread=1e-3),
    masks.turnover(0.1, window=20),
    masks.holding_period(minimum=3),
    masks.halt(symbols=("A",), names=("A",)),
    sizing.kelly(moments=([0.1], [[1.0]])),
    sizing.projection(weight=0.1),
    sizing.drawdown_control(0.1, move=0.05),
    rewards.log_return(),
    rewards.differential_sharpe(),
    rewards.cvar_penalty(1.0),
)


@pytest.mark.parametrize("name", WINDOWED)
def test_after_the_warm_up_earlier_bars_do_not_count(name):
    """A row is the same, whether the market begins a warm-up before it or long before."""
    transform = WINDOWED[name]
    market = simulators.gbm(jax.random.key(0), 200, 3, volatility=0.01)
    whole = transform.table(MarketView(market, 252.0, 1.0))
    for t in (120, 199):
        short = transform.table(MarketView(slice_bars(market, t - transform.warmup, t + 1), 252.0, 1.0))
        np.testing.assert_allclose(short[-1], whole[t], rtol=2e-4, atol=1e-6)
    assert 0 < transform.warmup < 120


def test_forecasts_wait_for_their_span_and_what_needs_no_history_does_not_wait():
    assert [transform.warmup for transform in EXPONENTIAL.values()] == list(EXPONENTIAL)
    assert {transform.warmup for transform in WITHOUT_HISTORY} == {0}
    assert masks.chain(*(t for t in EXPONENTIAL.values() if t.name in masks.__all__), masks.no_short()).warmup == 30
    assert sizing.chain(sizing.kelly(window=77), sizing.volatility_target(0.1)).warmup == 77
    assert rewards.chain(rewards.log_return(), rewards.clip(1.0)).warmup == masks.chain().warmup == 0


def test_one_protocol():
    for transform in (*WINDOWED.values(), *EXPONENTIAL.values(), *WITHOUT_HISTORY, rewards.chain(), masks.chain()):
        assert isinstance(transform, Transform)
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(transform.init(2)))
    minimal = masks.MaskTransform(
        "free", lambda state, row, portfolio: (masks.chain().apply((), (), portfolio)[0], state)
    )
    chained = masks.chain(minimal)
    assert (chained.init(2), chained.warmup) == (((),), 0)
    assert chained.table(MarketView(simulators.gbm(jax.random.key(0), 5, 1), 252.0, 1.0)) == ((),)
    assert jnp.isinf(minimal.apply((), (), open_portfolio(jnp.ones(2), 1.0, FillRule()))[0].high).all()
