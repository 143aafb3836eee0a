"""Micro-batches that fit: chosen on accelerators, named where a training does not fit."""

import dataclasses
import functools
import types

import jax
import pytest
import tiny_run

from jaxppo.envs import simulators
from jaxppo.errors import ConfigError
from jaxppo.ppo.learner import data_mesh, make_learner
from jaxppo.run import memory
from jaxppo.run.build import build
from jaxppo.training import fitting
from jaxppo.training.evaluator import backtest_evaluator
from jaxppo.training.experiment import trading_experiment

GPU = types.SimpleNamespace(platform="gpu", device_kind="H100")


@pytest.fixture(scope="module")
def whole():
    """An experiment on a GPU that is not there, whose activations are most of its memory: 4 paths in a minibatch."""
    policy = {"kind": "transformer", "layers": 2, "width": 32}
    config = tiny_run.tiny_config(policy=policy, ppo={"chunk": 32, "portfolios": 1})
    setup = build(config, simulators.gbm(jax.random.key(0), 800, 2), devices=jax.devices()[:1])
    setup = dataclasses.replace(setup, config=config, ppo=config.ppo)
    found = trading_experiment(setup, backtest_evaluator)
    return dataclasses.replace(found, devices=[GPU], smaller=functools.cache(found.smaller))


@pytest.fixture(scope="module")
def needed(whole):
    """Estimates by micro-batch and rematerialisation."""

    def memory_of(micro_batch, rematerialise):
        one = whole.smaller(micro_batch, rematerialise)
        return fitting._traced(one, learner_of(one), state_shapes_of(whole)).memory

    kinds = [(4, "none"), (2, "none"), (1, "none"), (1, "full")]
    return {kind: memory_of(*kind) for kind in kinds}


def learner_of(experiment):
    """A program that was traced once is not traced again."""
    return _learner(experiment.task, experiment.ppo)


@functools.cache
def _learner(task, ppo):
    return make_learner(task, ppo, data_mesh(jax.devices()[:1]))


def state_shapes_of(experiment):
    return jax.eval_shape(learner_of(experiment).fresh, experiment.net, 0, experiment.params)


def fitted(experiment, there, monkeypatch):
    """What is trained on a GPU of some bytes, all of which can be used."""
    for name in ("memory_of", "memory_usable"):
        monkeypatch.setattr(fitting, name, lambda devices: there)
    monkeypatch.setattr(memory, "memory_of", lambda devices: there)
    return fitting.fitting_iteration(experiment, learner_of(experiment), state_shapes_of(experiment), learner_of)


@pytest.mark.slow
def test_less_at_a_time_and_stored_is_less_memory(needed):
    assert needed[4, "none"] > 1.3 * needed[2, "none"] > 1.5 * needed[1, "none"]
    assert needed[1, "none"] > 1.1 * needed[1, "full"]


@pytest.mark.slow
def test_the_largest_micro_batch_that_fits_is_chosen(whole, needed, monkeypatch, caplog):
    found = fitted(whole, needed[4, "none"], monkeypatch)
    assert (found.experiment, caplog.text) == (whole, "")
    for micro_batch in (2, 1):
        found = fitted(whole, needed[micro_batch, "none"], monkeypatch)
        assert found.experiment.ppo.micro_batch == micro_batch
        assert found.memory == needed[micro_batch, "none"]
        assert f"ppo.micro_batch {micro_batch}: all paths" in caplog.text


@pytest.mark.slow
def test_what_would_fit_is_named(whole, needed, monkeypatch):
    asked = whole.config.model_copy(update={"ppo": whole.config.ppo.model_copy(update={"micro_batch": 4})})
    with pytest.raises(ConfigError, match=r"H100 has 0\.0; it would fit with ppo.micro_batch 2$"):
        fitted(dataclasses.replace(whole, config=asked), needed[2, "none"], monkeypatch)
    with pytest.raises(
        ConfigError, match=r"it would fit with ppo.micro_batch 1 and policy.rematerialise (minimal|full)$"
    ):
        fitted(whole, needed[1, "full"], monkeypatch)
    with pytest.raises(ConfigError, match=r"smaller: ppo.micro_batch, ppo.paths"):
        fitted(whole, 0.5 * needed[1, "full"], monkeypatch)
