"""What decides or accounts multiplies in full float32: the default of GPUs and TPUs rounds the inputs of products."""

import jax
import jax.numpy as jnp
import pytest

from jaxppo import masks
from jaxppo.book import AGENT, AllocationRule, book
from jaxppo.envs import TradingEnv, basic_costs, regimes, simulators
from jaxppo.envs.execution.fill_rule import FillRule
from jaxppo.envs.execution.portfolio import open_portfolio
from jaxppo.envs.market.hidden_markov import HiddenMarkovModel
from jaxppo.policy import rules
from jaxppo.risk import sizing

MARKET = simulators.gbm(jax.random.key(0), 200, 3, correlation=0.3)
SMALL = {"n_assets": 3, "groups": ("price",), "window": 2, "normalisation_window": 10}
MODEL = HiddenMarkovModel(jnp.ones(2) / 2, jnp.full((2, 2), 0.5), jnp.array([[-1.0], [1.0]]), jnp.ones((2, 1)))


def products(jaxpr):
    """Every product of matrices in a program, nested ones included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(inner, "eqns"):
                yield from products(getattr(inner, "jaxpr", inner))


def a_step(**parts):
    env = TradingEnv(**SMALL, **parts)
    params = env.make_params(MARKET, basic_costs())
    _, state = env.reset(jax.random.key(0), params)
    action = jnp.zeros(env.action_space(params).shape, env.action_space(params).dtype)
    return jax.make_jaxpr(lambda state: env.step_env(jax.random.key(1), state, action, params))(state)


COSTS = basic_costs()
BOOK = book(
    [AGENT, rules.trend(lookback=5), rules.buy_and_hold()], AllocationRule(), env=TradingEnv(**SMALL), costs=COSTS
)
PROGRAMS = {
    "risk budget": lambda: a_step(masks=masks.chain(masks.risk_budget(volatility=0.1, span=10, force=1.5))),
    "volatility target": lambda: a_step(sizing=sizing.chain(sizing.volatility_target(0.1, span=10))),
    "book": lambda: a_step(sizing=BOOK),
    "expected targets": lambda: jax.make_jaxpr(
        lambda probabilities: TradingEnv(**SMALL).expected_target(
            probabilities, open_portfolio(jnp.ones(3), 1e6, FillRule())
        )
    )(jnp.ones((3, 6)) / 6),
    "hidden regimes": lambda: jax.make_jaxpr(lambda market: regimes.hidden_regimes(MODEL, market))(MARKET),
    "risk parity": lambda: jax.make_jaxpr(lambda c: sizing.risk_parity(c, jnp.ones(3)))(jnp.eye(3)),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_products_are_in_full_precision(name):
    found = list(products(PROGRAMS[name]().jaxpr))
    assert found
    highest = jax.lax.Precision.HIGHEST
    rounded = [str(equation) for equation in found if equation.params["precision"] != (highest, highest)]
    assert not rounded
