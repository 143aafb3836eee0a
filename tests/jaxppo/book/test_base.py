"""A base: without a tilt the account is that of the base; a tilt comes on top; masks still hold."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxppo import masks
from jaxppo.backtest.account import AccountRules
from jaxppo.backtest.conditions import _without_base, tables_without_base
from jaxppo.backtest.simulate import simulate_account
from jaxppo.book.base import tilted
from jaxppo.envs import simulators
from jaxppo.envs.execution.costs import make_costs
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.transform import RewardTransform
from jaxppo.policy import rules
from jaxppo.policy.protocol import Policy, Targets
from jaxppo.risk import sizing

N_ASSETS, FIRST, N_BARS = 3, 150, 120
COSTS = make_costs(commission_bps=2.0)
BASES = {
    "flat": rules.flat(),
    "buy_and_hold": rules.buy_and_hold(),
    "volatility_target": rules.volatility_target(0.1),
    "inverse_volatility": rules.inverse_volatility(),
    "trend": rules.trend(lookback=60),
}


@functools.cache
def market():
    return simulators.gbm(jax.random.key(5), 320, N_ASSETS, half_spread=5e-4, drift=2e-4)


def env(base: Policy, *, tilt="add", mask=None, transforms=(), actions="continuous", latency=1):
    shape = {"observation": "index", "window": 1, "groups": ("price",), "normalisation_window": 10}
    one = TradingEnv(
        n_assets=N_ASSETS, actions=actions, levels=(-1.0, -0.5, 0.0, 0.5, 1.0), start="flat", masks=mask, **shape
    )
    one.sizing = tilted(base, copy.copy(one), COSTS, tilt=tilt, before=transforms)
    return one


def always(action, env):
    """The policy that takes the same action at every bar."""

    def apply(params, state, observed):
        return Targets(*env.decode(jnp.asarray(action), observed.portfolio, observed.constraint)), state

    return Policy("always", apply)


def ledger_of(policy, env, limited=True):
    params = env.make_params(market(), COSTS, periods=252.0)
    return jax.device_get(
        simulate_account(policy, AccountRules(env, 252.0, limited=limited), params, jnp.int32(FIRST), N_BARS)
    )


NO_TILT = {"continuous": np.zeros(N_ASSETS, np.float32), "discrete": np.zeros(N_ASSETS, np.int32)}
NO_TILT |= {"band": np.zeros((N_ASSETS, 2), np.float32), "hierarchical": np.zeros(1 + N_ASSETS, np.int32)}


@pytest.mark.parametrize("name", BASES)
def test_without_a_tilt_the_account_is_that_of_the_base(name):
    kinds = NO_TILT if name == "trend" else {"continuous": NO_TILT["continuous"]}
    for actions, action in kinds.items():
        one = env(BASES[name], actions=actions)
        found, base = ledger_of(always(action, one), one), ledger_of(BASES[name], one, limited=False)
        np.testing.assert_allclose(found.equity, base.equity, rtol=1e-6)
        np.testing.assert_allclose(found.weights, base.weights, atol=1e-6)
        np.testing.assert_allclose(found.turnover, base.turnover, atol=1e-6)
        assert name == "flat" or np.abs(base.weights).sum() > 1


def test_a_tilt_comes_on_top_of_the_base_and_a_scale_multiplies_it():
    base, action = rules.trend(lookback=60, tolerance=0.0, volatility=0.08), np.float32([0.5, -0.5, 0.0])
    held = ledger_of(base, env(base), limited=False)
    added, one = env(base), env(base, tilt="scale")
    of_sum, of_product = ledger_of(always(action, added), added), ledger_of(always(action, one), one)
    traded = np.asarray(held.weights)[1:]
    assert np.abs(traded).sum(axis=1).max() < 0.66, "else the leverage limit would cut"
    # Weights at the close after the fill have moved by a bar.
    np.testing.assert_allclose(of_sum.weights[1:], traded + action / N_ASSETS, atol=0.01)
    np.testing.assert_allclose(of_product.weights[1:], traded * (1.0 + action), atol=0.01)
    assert np.abs(traded).max() > 0.05


@pytest.mark.parametrize("after", [(), (sizing.projection(weight=0.2),)], ids=["", "and sized"])
def test_a_rule_beside_the_agent_is_no_tilt(after):
    """Its weights are its own, under what sizes the whole account; an agent's are tilts still."""
    rule, tilts = rules.equal_weight(), env(rules.trend(lookback=60))
    tilts.sizing = tilted(rules.trend(lookback=60), copy.copy(tilts), COSTS, after=after)
    plain = copy.copy(tilts)
    plain.sizing = sizing.chain(*after) if after else None
    _, alone = _without_base(tilts)
    params = tables_without_base(tilts, tilts.make_params(market(), COSTS, periods=252.0))
    found = jax.device_get(simulate_account(rule, AccountRules(alone, 252.0), params, jnp.int32(FIRST), N_BARS))
    expected = ledger_of(rule, plain)
    np.testing.assert_array_equal(found.weights, expected.weights)
    assert np.abs(ledger_of(rule, tilts).weights - expected.weights).max() > 0.05
    assert _without_base(alone) == (0, alone)


def test_tilts_are_sized_and_masks_limit_positions():
    base, action = rules.buy_and_hold(), np.float32([-1.0, -1.0, 1.0])
    units = env(base, transforms=(sizing.risk_units(0.05),))
    short = ledger_of(always(action, units), units)
    assert (short.weights[1:, 2] > short.weights[1:, 0]).all()
    never = env(base, mask=masks.no_short())
    np.testing.assert_array_less(-1e-6, ledger_of(always(2 * action, never), never).weights)


def test_what_a_reward_reads_of_the_base_is_its_return():
    base = rules.inverse_volatility()
    one = env(base)
    params = one.make_params(market(), COSTS, periods=252.0, first_bar=FIRST, last_bar=FIRST + N_BARS)
    expected = np.diff(np.log(ledger_of(base, one, limited=False).equity))
    one.rewards = RewardTransform("base", lambda state, reward, outcome: (outcome.base_log_growth, state))
    state = one.reset_env(jax.random.key(0), params)[1].replace(bar=jnp.int32(FIRST))
    step = jax.jit(lambda state: one.step_env(jax.random.key(1), state, jnp.full(N_ASSETS, 0.3), params))
    rewards = []
    for _ in range(10):
        _, state, reward, _, _ = step(state)
        rewards.append(float(reward))
    np.testing.assert_allclose(rewards, expected[:10], atol=2e-6)


def test_bases_that_cannot_be_one_are_refused():
    with pytest.raises(ValueError, match="scale a base are not sized"):
        env(rules.flat(), tilt="scale", transforms=(sizing.risk_units(),))
    with pytest.raises(ValueError, match="decides on shares"):
        env(rules.flat()._replace(in_shares=True))
