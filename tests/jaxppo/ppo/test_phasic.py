"""Epochs that train the head alone: the same as steps of the whole network of which the encoder's are left out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from jax.sharding import PartitionSpec

from jaxppo.config import load_config
from jaxppo.errors import ConfigError
from jaxppo.policy.rollout import DATA_AXIS
from jaxppo.ppo.learner import data_mesh, make_learner
from jaxppo.ppo.phasic import HEAD, first_moments, is_phasic
from jaxppo.ppo.targets import make_targets, no_statistics
from jaxppo.ppo.update import Batch, Coefficients, Objective, ppo_loss, shuffled_minibatches, update

PHASIC = tiny.PPO.model_copy(update={"epochs": 3, "encoder_epochs": 1})
RATE, GROUPS = 1e-2, 8
WEIGHTS = Coefficients(jnp.float32(RATE), jnp.float32(PHASIC.entropy_coefficient), jnp.float32(0))
OPTIMISER = optax.chain(optax.clip_by_global_norm(PHASIC.max_grad_norm), optax.scale_by_adam(eps=1e-5))
KEY = 3


@functools.cache
def batch() -> Batch:
    """A rollout of the first policy, and its targets."""
    _, _, rollout = tiny.roll_out(tiny.policy()[1], tiny.shared_params(), jax.random.key(7))
    on_one_device = jax.vmap(lambda r: make_targets(r, PHASIC, no_statistics())[0], axis_name=DATA_AXIS)
    targets = on_one_device(jax.tree.map(lambda x: x[None], rollout))
    return Batch(rollout, jax.tree.map(lambda x: x[0], targets))


def updated(n_devices: int, config):
    """Parameters and metrics after `update` on some devices."""
    net, whole = tiny.policy()[1], PartitionSpec()
    moments = first_moments(OPTIMISER, net, config)

    def one(net, moments, params, batch, groups):
        objective = Objective(tiny.task(), params, WEIGHTS, config)
        return update(net, moments, OPTIMISER, batch, objective, jax.random.key(KEY), groups)

    split = PartitionSpec(DATA_AXIS)
    specs = {"in_specs": (whole, whole, whole, split, split), "out_specs": whole}
    run = jax.jit(jax.shard_map(one, mesh=data_mesh(jax.devices()[:n_devices]), **specs))
    found = run(net, moments, tiny.shared_params(), batch(), jnp.arange(GROUPS))
    return jax.device_get((found[0], found[2]))


@functools.cache
def by_hand():
    """Parameters after each minibatch: gradients of the whole network, steps of the head from the second epoch on."""

    @jax.jit
    def gradient(net, index):
        objective = Objective(tiny.task(), tiny.shared_params(), WEIGHTS, PHASIC)
        piece = jax.tree.map(lambda x: x[index], batch())
        return jax.grad(lambda net: ppo_loss(net, piece, objective)[0])(net)

    def moved(part, moments, slope):
        step, moments = OPTIMISER.update(slope, moments)
        return jax.tree.map(lambda p, s: p - RATE * s, part, step), moments

    net, found = tiny.policy()[1], []
    of_whole, of_head = OPTIMISER.init(net), OPTIMISER.init(net[HEAD])
    size = PHASIC.paths // GROUPS
    for epoch, key in enumerate(jax.random.split(jax.random.key(KEY), PHASIC.epochs)):
        for index in shuffled_minibatches(key, jnp.arange(GROUPS), size, PHASIC.minibatches):
            slope = gradient(net, index)
            if epoch < PHASIC.encoder_epochs:
                net, of_whole = moved(net, of_whole, slope)
            else:
                head, of_head = moved(net[HEAD], of_head, {**slope[HEAD], "memory": zero(slope[HEAD]["memory"])})
                net = {**net, HEAD: head}
            found.append(net)
    return found


def zero(tree):
    """What the head makes of the memory alone belongs to the encoding."""
    return jax.tree.map(jnp.zeros_like, tree)


def test_the_last_epochs_move_the_head_alone():
    net, metrics = updated(4, PHASIC)
    expected = by_hand()
    assert tiny.relative_distance(net, expected[-1]) < 1e-5
    assert tiny.relative_distance(net["encoder"], expected[PHASIC.minibatches - 1]["encoder"]) < 1e-6
    assert tiny.relative_distance(net[HEAD], expected[PHASIC.minibatches - 1][HEAD]) > 1e-3
    assert all(np.all(np.isfinite(row)) for row in metrics.values())


@pytest.mark.slow
def test_what_stops_the_first_epochs_stops_the_last_ones():
    net, metrics = updated(1, PHASIC.model_copy(update={"kl_stop": 1e-12}))
    assert metrics["minibatch_steps"] == 1
    assert tiny.relative_distance(net, by_hand()[0]) < 1e-6


def test_as_many_epochs_of_the_encoder_as_there_are_change_nothing():
    net, every = tiny.policy()[1], PHASIC.model_copy(update={"encoder_epochs": PHASIC.epochs})
    plain = first_moments(OPTIMISER, net, tiny.PPO)
    assert jax.tree.structure(first_moments(OPTIMISER, net, every)) == jax.tree.structure(plain)
    assert (is_phasic(tiny.PPO), is_phasic(every), is_phasic(PHASIC)) == (False, False, True)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["--ppo.encoder_epochs", "5"], "ppo.encoder_epochs is 5; allowed: 1 to ppo.epochs, which is 4"),
        (["--ppo.encoder_epochs", "0"], "ppo.encoder_epochs is 0"),
        (["--env.name", "CartPole-v1", "--ppo.encoder_epochs", "1"], "whose network has no encoder; leave it out"),
        (["--policy.kind", "linear", "--ppo.encoder_epochs", "1"], "policy.kind is linear, which has no encoder"),
        (["--training.learner", "pathwise", "--ppo.encoder_epochs", "1"], "training.learner is pathwise"),
    ],
)
def test_epochs_that_do_not_fit_are_named(given, line):
    with pytest.raises(ConfigError, match=line):
        load_config(overrides=given)


def test_a_task_without_an_encoder_is_refused():
    config = tiny.BANDIT_PPO.model_copy(update={"encoder_epochs": 1})
    with pytest.raises(ValueError, match="the network has no encoder"):
        make_learner(tiny.bandit_task(), config, data_mesh(jax.devices()[:1]))
    with pytest.raises(ValueError, match="allows 2 at most"):
        make_learner(tiny.task(), tiny.PPO.model_copy(update={"encoder_epochs": 3}), data_mesh(jax.devices()[:1]))
