"""What the chosen devices decide: how many train, and which programs are traced, whatever JAX would take by itself."""

import logging
import types

import jax
import jax.numpy as jnp
import pytest
import tiny
from folders import ROOT

from jaxppo.config import load_config
from jaxppo.envs.market.kernels import platform, traced_for
from jaxppo.envs.market.windows import linear_recurrence
from jaxppo.errors import ConfigError
from jaxppo.policy.agent import paths_side_by_side
from jaxppo.policy.networks.actor_critic import make_actor_critic
from jaxppo.run import devices
from jaxppo.run.devices import shared_devices, training_devices


@pytest.mark.parametrize(
    ("there", "taken", "paths"), [(1, 1, 0), (3, 2, 36), (6, 4, 48), (8, 8, 0), (16, 8, 64), (32, 8, 128)]
)
def test_training_takes_the_devices_that_divide_its_paths(there, taken, paths, monkeypatch, caplog):
    """Any number of devices trains the quick start, and it says what would use all of them."""
    monkeypatch.setattr(devices, "select_devices", lambda config: list(range(there)))
    config = load_config(ROOT / "configs" / "quickstart.yaml")
    with caplog.at_level(logging.WARNING):
        assert training_devices(config) == list(range(taken))
    assert (f"training on {taken} of {there} devices" in caplog.text) == (taken < there)
    if taken < there:
        assert f"ppo.paths {paths} would use all" in caplog.text
        enough = load_config(ROOT / "configs" / "quickstart.yaml", ["--ppo.paths", str(paths)])
        assert training_devices(enough) == list(range(there))


def test_a_number_of_devices_that_is_asked_for_is_taken_or_refused(monkeypatch):
    monkeypatch.setattr(devices, "select_devices", lambda config: list(range(config.training.devices)))
    config = load_config(ROOT / "configs" / "quickstart.yaml", ["--training.devices", "3"])
    assert training_devices(config) == [0, 1, 2]


def test_several_processes_take_as_many_devices_each(monkeypatch):
    def taken(n_processes, each, *options):
        # Process 1 has a device more, and JAX may list the processes in any order.
        there = [
            types.SimpleNamespace(process_index=process, number=number)
            for process in reversed(range(n_processes))
            for number in range(each + (process == 1))
        ]
        monkeypatch.setattr(devices, "_of_kind", lambda config: there)
        found = shared_devices(load_config(ROOT / "configs" / "quickstart.yaml", options))
        return [(device.process_index, device.number) for device in found]

    assert taken(2, 3) == [(0, 0), (0, 1), (1, 0), (1, 1)], "six do not divide its paths"
    assert taken(2, 3, "--ppo.paths", "48") == [(process, number) for process in range(2) for number in range(3)]
    assert taken(2, 3, "--training.devices", "2") == [(0, 0), (1, 0)]
    for wanted in ("3", "8"):
        with pytest.raises(
            ConfigError, match=f"training.devices is {wanted}; 2 processes need a multiple of 2 up to 6"
        ):
            taken(2, 3, "--training.devices", wanted)
    with pytest.raises(ConfigError, match=r"ppo.paths / ppo.minibatches = 8 cannot be split evenly over 16 processes"):
        taken(16, 1)


def test_programs_are_those_of_the_chosen_device(monkeypatch):
    """On a machine with an accelerator, `device: cpu` gets the programs of a CPU."""

    def program():
        return str(jax.make_jaxpr(lambda x: linear_recurrence(0.5, x))(jnp.ones(9)))

    of_cpu = program()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert platform() == "gpu"
    assert program() != of_cpu
    with jax.default_device(jax.devices("cpu")[0]):
        assert platform() == "cpu"
        assert program() == of_cpu
    assert traced_for(jax.devices("cpu")[0], program)() == of_cpu
    assert traced_for(types.SimpleNamespace(platform="gpu"), program)() != of_cpu


def test_nothing_else_asks_for_the_default_backend():
    asking = {
        path.relative_to(ROOT)
        for folder in ("jaxppo", "envs")
        for path in (ROOT / folder).rglob("*.py")
        if "default_backend(" in path.read_text() and not path.is_relative_to(ROOT / "jaxppo" / "envs")
    }
    assert asking == {(ROOT / "envs" / "market" / "kernels.py").relative_to(ROOT)}


def test_an_agent_trades_as_many_paths_as_its_device_holds():
    """The quick start's network on its five assets, and a wide one on thirty."""
    quick, _ = make_actor_critic(tiny.encoder_config(width=64, layers=2, window=32), tiny.ACTION, jax.random.key(0))
    wide, _ = make_actor_critic(tiny.encoder_config(width=256, layers=1, window=32), tiny.ACTION, jax.random.key(0))
    assert [paths_side_by_side(quick, 5, of) for of in ("cpu", "gpu", "tpu")] == [64, 1024, 128]
    assert [paths_side_by_side(wide, 30, of) for of in ("cpu", "gpu", "tpu")] == [64, 64, 8]
