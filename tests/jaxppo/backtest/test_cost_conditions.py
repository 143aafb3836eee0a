"""Costs that depend on the market's state and on earlier trades, from the configuration to a trained run's account."""

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny_run import prices, tiny_config

from jaxppo import envs
from jaxppo.envs.execution.bars import BAR_FIELDS
from jaxppo.errors import ConfigError
from jaxppo.run.build import build

CONDITIONS = {
    "slippage": 0.1,
    "slippage_volume": 0.5,
    "slippage_regimes": [1.0, 3.0, 1.0, 1.0],
    "transient_impact": 0.5,
    "transient_half_life": 3.0,
    "permanent_impact": 0.1,
}
RULES = {"kind": "rules", "trend_window": 10, "volatility_window": 60, "drawdown_window": 40}
BOOK = [{"book": {"strategies": ["agent", "trend", "buy_and_hold"], "warmup": 5}}]


@pytest.fixture(scope="module")
def market():
    return envs.load_market(prices())


def traded(setup, limited=False):
    """Ledger of an account that goes in and out of the first asset for 60 bars, with or without masks and sizing."""
    n_bars = 60
    weights = jnp.asarray(np.where(np.arange(n_bars)[:, None] % 6 < 3, [[0.5, 0.0]], 0.0), jnp.float32)

    def decide(portfolio, seen, target, constraint):
        return target, jnp.zeros(2, bool)

    first = jnp.asarray(setup.periods["train"].first, jnp.int32)
    return tiny.run_rule(decide, weights, setup.env, setup.params, first, n_bars, limited=limited)


def test_every_key_reaches_the_account(market):
    plain = build(tiny_config(costs={"slippage": 0.1}, regimes=RULES), market)
    setup = build(tiny_config(costs=CONDITIONS, regimes=RULES), market)
    assert plain.params.table.shape[1] == len(BAR_FIELDS)
    assert setup.params.table.shape[1] == len(BAR_FIELDS) + 1
    assert setup.env.fill_rule.displacement
    assert not plain.env.fill_rule.displacement
    impact = setup.params.costs.displacement
    assert [float(x) for x in (impact.transient, impact.half_life, impact.permanent)] == pytest.approx([0.5, 3.0, 0.1])
    scale = np.asarray(setup.params.table[:, -1])
    bear = np.asarray(setup.regimes)[:-1, :, 1] == 1
    assert scale[1:][bear].mean() > 2.0 * scale[1:][~bear].mean()
    usual, dearer = traded(plain), traded(setup)
    np.testing.assert_allclose(usual.costs.commission, dearer.costs.commission, rtol=1e-3, atol=0.05)
    assert float(dearer.costs.slippage.sum()) != pytest.approx(float(usual.costs.slippage.sum()), rel=0.01)
    extra = np.cumsum(np.asarray(dearer.costs.impact - usual.costs.impact, np.float64))
    assert extra.min() > -1.0
    assert extra[-1] > 10.0


def test_shadow_accounts_of_a_book_trade_at_the_same_costs(market):
    setup = build(tiny_config(costs=CONDITIONS, regimes=RULES, sizing=BOOK), market)
    row = setup.params.sizing[0]
    np.testing.assert_array_equal(row.bar, setup.params.table)
    ledger = traded(setup, limited=True)
    assert np.isfinite(np.asarray(ledger.equity)).all()
    assert np.abs(np.asarray(ledger.quantity)).sum() > 0


def test_regime_factors_without_regimes_are_refused():
    with pytest.raises(ConfigError, match=r"costs\.slippage_regimes is given, but regimes\.kind is none"):
        tiny_config(costs={"slippage_regimes": [1.0, 1.0, 1.0, 2.0]})
    with pytest.raises(ConfigError, match="slippage_open"):
        tiny_config(costs={"slippage_open": 20.0})
