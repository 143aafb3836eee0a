"""Constraints: what they measure, what they charge, how multipliers follow, and limits that cannot be held."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skfolio.measures
from hypothesis import given, settings
from hypothesis import strategies as st
from test_shaping import K, P, S, alone, limits, rollout_of

from jaxppo import risk
from jaxppo.risk import lagrangian, metrics
from jaxppo.risk.constraints import Traded
from jaxppo.risk.episodes import follow, open_account, sample_of
from jaxppo.risk.lagrangian import Gains

SHAPE = (P, S, K)


def traded(rollout) -> tuple[Traded, jax.Array]:
    """What constraints see of a first rollout in which all episodes end with the last bar, and its simple returns."""
    ended = jnp.zeros(SHAPE, bool).at[:, -1].set(True)
    account = jax.tree.map(lambda x: jnp.broadcast_to(x, (P, K)), open_account())
    over = jax.vmap(jax.vmap(follow, in_axes=(0, 1, 1, 1), out_axes=(0, 1, 1)))
    account, before, after = over(account, ended, rollout.reward, rollout.info["drawdown"])
    finished = alone(sample_of)(account, ended, after)
    returns = jnp.expm1(rollout.info["log_growth"])
    columns = (returns, rollout.info["leverage"], rollout.info["turnover"])
    return Traded(*columns, before, after, finished), returns


MEASURED = {
    "leverage": lambda rollout, returns: np.asarray(rollout.info["leverage"]).mean(),
    "turnover": lambda rollout, returns: 252.0 * np.asarray(rollout.info["turnover"]).mean(),
    "volatility": lambda rollout, returns: returns.std() * 252.0**0.5,
    "cvar": lambda rollout, returns: skfolio.measures.cvar(returns.ravel(), beta=0.9),
    "max_drawdown": lambda rollout, returns: np.asarray(rollout.info["drawdown"]).max(axis=1).mean(),
}


@pytest.mark.parametrize("constraint", [charged.constraint for charged in limits()], ids=lambda one: one.name)
def test_the_measurement_is_the_users_figure_and_bars_are_charged_its_violation(constraint):
    rollout = rollout_of(4)
    seen, returns = traded(rollout)
    returns = np.asarray(returns, np.float64)
    measured, excess = alone(lambda seen: (constraint.measure(seen), constraint.excess(seen)))(seen)
    assert float(measured) == pytest.approx(MEASURED[constraint.name](rollout, returns), rel=1e-5)
    assert float(excess.mean()) == pytest.approx(float(measured) / constraint.limit - 1.0, rel=1e-4)


def test_charges_are_as_steep_as_what_they_charge_for():
    """A little more of every position: the mean charge at a fixed minimiser moves as the measurement does."""
    rollout = rollout_of(5)
    for charged in limits():
        constraint = charged.constraint

        def scaled(factor, constraint=constraint):
            seen, _ = traded(rollout)
            seen = seen.replace(returns=factor * seen.returns, leverage=factor * seen.leverage)
            return constraint.measure(seen) / constraint.limit, constraint.excess(seen).mean()

        less, more = (np.asarray(alone(scaled)(jnp.float32(factor))) for factor in (0.9, 1.1))
        measured, charge = more - less
        assert charge == pytest.approx(measured, rel=1e-3, abs=1e-6), constraint.name


@given(st.lists(st.floats(-0.25, 0.25, width=32), min_size=S, max_size=S))
@settings(max_examples=30, deadline=None)
def test_rises_of_the_drawdown_add_up_to_the_maximum_drawdown(returns):
    path = np.asarray(metrics.drawdown_path(jnp.asarray(returns, jnp.float32)))[1:]
    none = jnp.zeros(S, bool)
    account, before, after = jax.jit(follow)(open_account(), none, jnp.asarray(returns, jnp.float32), path)
    rises = np.asarray(after.drawdown) - np.asarray(before.drawdown)
    assert np.all(rises >= 0)
    deepest = float(metrics.max_drawdown(jnp.asarray(returns, jnp.float32)))
    assert rises.sum() == pytest.approx(deepest, abs=1e-6)
    assert float(account.running.drawdown) == pytest.approx(deepest, abs=1e-6)


def test_a_multiplier_by_hand():
    """Gains of one half; violations 1, 0.5, 5 (counts as 1), -1, -1: smoothed 1, 0.75, 0.875, -0.0625, -0.53125."""
    gains = Gains(proportional=0.5, integral=0.5, derivative=0.5, smoothing=0.5, delay=1, maximum=1.75)
    state, values, integrals = lagrangian.start(gains), [], []
    for violation in (1.0, 0.5, 5.0, -1.0, -1.0):
        state = lagrangian.follow(gains, state, jnp.float32(violation))
        values.append(float(state.value))
        integrals.append(float(state.integral))
    assert integrals == [0.5, 0.75, 1.25, 0.75, 0.25]
    third = 0.5 * 0.875 + 1.25 + 0.5 * 0.125
    assert values == [1.0, 0.5 * 0.75 + 0.75, third, 0.5 * -0.0625 + 0.75, 0.0]
    assert third == 1.75


def omnisafe(violations, gains, delay):
    """OmniSafe's `PIDLagrangian.pid_update` in numpy, its averages started at the first measurement instead of at 0."""
    integral, smoothed, past, found = 0.0, violations[0], [violations[0]] * delay, []
    for number, delta in enumerate(violations):
        integral = max(0.0, integral + delta * gains.integral)
        if number:
            smoothed = gains.smoothing * smoothed + (1.0 - gains.smoothing) * delta
        rise = max(0.0, smoothed - past[0])
        found.append(min(max(0.0, gains.proportional * smoothed + integral + gains.derivative * rise), gains.maximum))
        past = [*past[1:], smoothed]
    return found


def test_multipliers_are_those_of_omnisafes_recurrence():
    gains = Gains(proportional=0.1, integral=0.01, derivative=0.5, smoothing=0.95, delay=10, maximum=100.0)
    noise = np.random.default_rng(0)
    violations = np.clip(0.9 * np.sin(np.arange(300) / 25.0) + 0.1 * noise.normal(size=300), -1.0, 1.0)

    def one(state, violation):
        state = lagrangian.follow(gains, state, violation)
        return state, state.value

    _, values = jax.jit(lambda xs: jax.lax.scan(one, lagrangian.start(gains), xs))(jnp.asarray(violations, jnp.float32))
    np.testing.assert_allclose(values, omnisafe(violations, gains, 10), rtol=1e-4, atol=1e-5)
    assert float(values[0]) < 0.2, "no rise before the second measurement"


def test_multipliers_are_bounded_and_never_negative():
    for _ in range(1):
        gains = Gains(integral=0.5, maximum=2.0)
        state = lagrangian.start(gains)
        for violation in [1e9] * 20 + [-1.0] * 3:
            state = lagrangian.follow(gains, state, jnp.float32(violation))
            assert 0.0 <= float(state.value) <= 2.0
        assert float(state.value) < 2.0, "nothing has wound up beyond the maximum"


def test_a_limit_that_cannot_be_held_is_reported_and_does_not_drown_the_reward():
    charged = [risk.PenalisedConstraint(risk.constraints.leverage(1e-4), Gains(integral=1.0, maximum=3.0), patience=4)]
    charged.append(risk.PenalisedConstraint(risk.constraints.turnover(1e3, 252.0)))
    stage = risk.shape_rewards(None, charged)
    apply, (state, accounts) = alone(stage.apply), stage.start(P, K)
    flags = []
    for seed in range(9):
        shaped, state, accounts, found = apply(state, accounts, rollout_of(seed))
        flags.append(float(found["constraint_leverage_infeasible"]))
        assert float(found["constraint_turnover_infeasible"]) == 0.0
        assert float(jnp.abs(shaped.reward).max()) < 1.0
    assert float(found["multiplier_leverage"]) == 3.0
    # At its maximum from the third measurement on.
    assert flags == [0.0] * 5 + [1.0] * 4


def test_a_drawdown_is_measured_when_episodes_end():
    """Rollouts in which none ends do not move the multiplier."""
    stage = risk.shape_rewards(None, [limits()[-1]])
    apply, (state, accounts) = alone(stage.apply), stage.start(P, K)
    going = rollout_of(0).replace(terminated=jnp.zeros(SHAPE, bool), truncated=jnp.zeros(SHAPE, bool))
    _, state, accounts, found = apply(state, accounts, going)
    assert float(found["multiplier_max_drawdown"]) == 0.0
    assert float(found["constraint_max_drawdown"]) > 0.0
    ended = going.replace(truncated=going.truncated.at[:, -1].set(True))
    _, state, accounts, found = apply(state, accounts, ended)
    value = float(found["multiplier_max_drawdown"])
    assert value > 0.0
    _, state, accounts, found = apply(state, accounts, going)
    assert float(found["multiplier_max_drawdown"]) == value


def test_charges_are_combined():
    """`(r - s lambda g) / (1 + lambda)`, with r, s and g by numpy."""
    gains = Gains(proportional=0.0, integral=0.5, derivative=0.0)
    stage = risk.shape_rewards(None, [risk.PenalisedConstraint(risk.constraints.leverage(0.5), gains)])
    rollout = rollout_of(7)
    shaped, *_ = alone(stage.apply)(*stage.start(P, K), rollout)
    reward, leverage = (np.asarray(x, np.float64) for x in (rollout.reward, rollout.info["leverage"]))
    violation = leverage.mean() / 0.5 - 1.0
    multiplier = 0.5 * violation
    scale = reward.mean(axis=1).std()
    excess = (leverage / 0.5 - 1.0) / max(leverage.mean() / 0.5, 1.0)
    np.testing.assert_allclose(shaped.reward, (reward - scale * multiplier * excess) / (1 + multiplier), atol=1e-6)
