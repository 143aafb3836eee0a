"""Compute dtypes of a head: hidden layers in that of the encoder, what losses read in float32."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import tiny

from jaxppo.policy.networks.actor_critic import make_actor_critic

BATCH = 7


def equations(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(inner, "eqns"):
                yield from equations(getattr(inner, "jaxpr", inner))


@functools.cache
def products(dtype: str, portfolio: str) -> tuple[list[Any], Any]:
    """Matrix products of a loss of the head and its gradient, and what the head gives."""
    config = tiny.encoder_config(dtype=jnp.dtype(dtype), portfolio=portfolio)
    network, net = make_actor_critic(config, tiny.ACTION, jax.random.key(0))
    width = 4 * config.width + 1 if portfolio == "cross_attention" else 2 * config.width
    prepared, observation = jnp.zeros((BATCH, tiny.N_ASSETS, width), dtype), tiny.observation(0, BATCH)

    def loss(net: Any, prepared: jax.Array) -> jax.Array:
        distribution, value = network.act(net, prepared, observation)
        return distribution.log_prob(jnp.zeros((BATCH, tiny.N_ASSETS), jnp.int32)).sum() + jnp.square(value).sum()

    jaxpr = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(net, prepared).jaxpr
    found = [one for one in equations(jaxpr) if one.primitive.name == "dot_general"]
    return found, jax.eval_shape(network.act, net, prepared, observation)


@pytest.mark.parametrize("portfolio", ["add", "film"])
def test_hidden_layers_of_the_head_have_the_compute_dtype(portfolio):
    """Those of every portfolio are the largest arrays of an update; float32 is only what is as wide as the outputs."""
    found, (distribution, value) = products("bfloat16", portfolio)
    assert distribution.logits.dtype == value.dtype == jnp.float32
    hidden = BATCH * tiny.N_ASSETS * tiny.encoder_config().width
    largest = [one.outvars[0].aval for one in found if one.outvars[0].aval.size >= hidden]
    assert largest
    assert {str(aval.dtype) for aval in largest} == {"bfloat16"}


@pytest.mark.parametrize("portfolio", ["add", "film", "cross_attention"])
def test_in_float32_nothing_is_rounded(portfolio):
    found, _ = products("float32", portfolio)
    assert {str(x.aval.dtype) for one in found for x in (*one.invars, *one.outvars)} == {"float32"}
