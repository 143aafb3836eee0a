"""What crosses devices in an update: gradients in float32, once a minibatch; metrics once an iteration."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import tiny

from jaxppo.policy.networks.actor_critic import make_actor_critic
from jaxppo.ppo.learner import data_mesh, make_learner
from jaxppo.ppo.trading_task import trading_task

REDUCTIONS = ("psum", "psum_invariant", "pmax", "pmin")


def equations(jaxpr: Any, loops: int = 0) -> Iterator[tuple[int, Any]]:
    """All equations of a jaxpr, with the number of loops around each."""
    for equation in jaxpr.eqns:
        yield loops, equation
        within = loops + (equation.primitive.name in ("scan", "while"))
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(inner, "eqns"):
                yield from equations(getattr(inner, "jaxpr", inner), within)


@functools.cache
def reductions(**changes: Any) -> list[tuple[int, Any]]:
    """Reductions over devices of an iteration in bfloat16 on two devices, with the number of loops around each."""
    network, net = make_actor_critic(tiny.encoder_config(dtype=jnp.dtype("bfloat16")), tiny.ACTION, jax.random.key(0))
    config = tiny.PPO.model_copy(update=changes)
    task = trading_task(network, tiny.env(), config)
    learner = make_learner(task, config, data_mesh(jax.devices()[:2]))
    params = learner.replicate(tiny.shared_params())
    state = jax.eval_shape(lambda net: learner.fresh(net, 0, params), net)
    jaxpr = jax.make_jaxpr(learner.iterate)(state, params, jnp.float32(0.0)).jaxpr
    return [(loops, one) for loops, one in equations(jaxpr) if one.primitive.name in REDUCTIONS]


def test_gradients_cross_devices_in_float32():
    for changes in ({}, {"direction": "natural", "kl_limit": 0.01, "epochs": 1}):
        crossing = [x.aval for _, one in reductions(**changes) for x in one.invars]
        n_parameters = sum(x.size for x in jax.tree.leaves(tiny.policy()[1]))
        assert sum(aval.size for aval in crossing) > n_parameters
        assert {str(aval.dtype) for aval in crossing} <= {"float32", "int32"}


def test_a_minibatch_crosses_devices_once():
    """Gradient in one vector, loss and KL; also in micro-batches, and nothing of it is an extreme of a metric."""
    for changes in ({}, {"micro_batch": 2}):
        inside = [one for loops, one in reductions(**changes) if loops]
        assert {one.primitive.name for one in inside} == {"psum_invariant"}
        assert max(loops for loops, _ in reductions(**changes)) == 1
        n_parameters = sum(x.size for x in jax.tree.leaves(tiny.policy()[1]))
        assert sorted(x.aval.size for one in inside for x in one.invars) == [1, 1, n_parameters]
