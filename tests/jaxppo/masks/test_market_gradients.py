"""Gradients of whole accounts through the environment, its masks and its sizing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slowly import slow_after
from test_masks_in_use import CHAINS, build

from jaxppo import masks
from jaxppo.risk import sizing

SIZES = {
    "volatility target": sizing.chain(sizing.volatility_target(0.15, span=10)),
    "drawdown control": sizing.chain(sizing.drawdown_control(0.2, move=0.1, cost=0.003)),
    "kelly": sizing.chain(sizing.kelly(window=40)),
    "parity": sizing.chain(sizing.equal_risk_contribution()),
}


def gradients(env, params):
    """Of the sum of rewards: function of the actions `[T, ...]`."""

    def earned(actions):
        def step(state, action):
            _, state, reward, _, _ = env.step_env(jax.random.key(0), state, action, params)
            return state, reward

        _, state = env.reset_env(jax.random.key(1), params)
        return jnp.sum(jax.lax.scan(step, state, actions)[1])

    return jax.jit(jax.value_and_grad(earned))


OTHERS = (None, *(name for name in CHAINS if name != "everything"))


@pytest.mark.parametrize("limits", ["everything", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_through_masks(limits):
    env, params = build(None if limits is None else CHAINS[limits], actions="continuous")
    drawn = jax.random.uniform(jax.random.key(2), (12, env.n_assets), minval=-1.0, maxval=1.0)
    of = gradients(env, params)
    for actions in (drawn, jnp.zeros_like(drawn), 3.0 * drawn):
        value, found = of(actions)
        assert np.isfinite(value)
        assert np.isfinite(found).all()


@pytest.mark.parametrize("kind", slow_after(2, SIZES))
def test_through_sizing(kind):
    env, params = build(masks.no_short(), actions="continuous", sizing=SIZES[kind])
    drawn = jax.random.uniform(jax.random.key(2), (12, env.n_assets), minval=0.0, maxval=1.0)
    of = gradients(env, params)
    for actions in (drawn, jnp.zeros_like(drawn)):
        value, found = of(actions)
        assert np.isfinite(value)
        assert np.isfinite(found).all()
