"""A live step as ONNX says in onnxruntime what it says in JAX, and is sealed with the rest."""

import jax
import jax.extend
import numpy as np
import pytest
import safetensors.numpy
from shipped_run import records_of
from tiny_run import STEPS_PER_ITERATION, command, write_config

from jaxppo.deploy import load_policy
from jaxppo.deploy.onnx import step as onnx_step
from jaxppo.errors import ConfigError

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("jax2onnx", reason="needs the extra onnx")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    training = {"steps": STEPS_PER_ITERATION, "evaluate_every": 1, "checkpoint_every": 1}
    masks = [{"holding_period": {"minimum": 2, "maximum": 15}}]
    config = write_config(folder, training=training, masks=masks, costs={"lot_size": 1.0})
    assert command("train", "--config", config, "--output", folder / "run") == 0
    return folder / "run"


@pytest.fixture(scope="module")
def exported(run):
    assert command("export", "--run", run, "--output", run.parent / "policy", "--onnx") == 0
    return run.parent / "policy"


@pytest.fixture(scope="module")
def session(exported):
    return onnxruntime.InferenceSession(exported / onnx_step.GRAPH)


def test_the_reference_bar_is_what_the_graph_says(exported, session):
    known = safetensors.numpy.load_file(exported / onnx_step.ONNX_REFERENCE)
    told = {one.name: known[one.name] for one in session.get_inputs()}
    outputs = [one.name for one in session.get_outputs()]
    assert set(known) == {*told, *outputs}
    for name, value in zip(outputs, session.run(outputs, told), strict=True):
        np.testing.assert_array_equal(value, known[name])
    assert np.any(known["decided.ordered"] != 0) or np.any(known["shares"] != 0)


def test_it_decides_bar_by_bar_as_the_policy(run, exported, session):
    policy = load_policy(exported)
    outputs = [one.name for one in session.get_outputs()]
    inputs = [one.name for one in session.get_inputs()]
    state = [np.asarray(x) for x in policy._start]
    for record in records_of(run.parent / "prices.csv")[:100]:
        told = policy._bar(policy.feed.read(record), None)
        policy._state, said = policy._step(policy._weights, policy._state, told)
        found = session.run(outputs, dict(zip(inputs, [*state, *told], strict=True)))
        state = found[: len(state)]
        ours = dict(zip(policy.rules.output, jax.device_get(said), strict=True))
        theirs = dict(zip(outputs[len(state) :], found[len(state) :], strict=True))
        np.testing.assert_allclose(theirs["decided.targets"], ours["decided.targets"], atol=1e-5)
        np.testing.assert_array_equal(theirs["decided.ordered"], ours["decided.ordered"])  # whole shares
    assert bool(ours["opened"])


def test_all_features_and_a_network_of_ones_own_can_be_converted(tmp_path):
    """Takes minutes: nearly all of them in the converter."""
    training = {"steps": STEPS_PER_ITERATION, "evaluate_every": 1, "checkpoint_every": 1}
    groups = ["price", "trend", "volume", "technical", "volatility", "cross_section", "calendar"]
    features = {"groups": groups, "normalisation_window": 60}
    config = write_config(tmp_path, training=training, features=features, policy={"kind": "own_networks:Convolution"})
    assert command("train", "--config", config, "--output", tmp_path / "run") == 0
    assert command("export", "--run", tmp_path / "run", "--output", tmp_path / "policy", "--onnx") == 0
    assert (tmp_path / "policy" / onnx_step.GRAPH).exists()


def test_it_is_sealed_with_the_rest(exported):
    path = exported / onnx_step.GRAPH
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ConfigError, match="it was changed"):
        load_policy(exported)
    path.write_bytes(content)
    load_policy(exported)


def refused(run, tmp_path, capsys):
    assert command("export", "--run", run, "--output", tmp_path / "policy", "--onnx") == 2
    assert not (tmp_path / "policy").exists()
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    return printed


def test_an_operation_that_cannot_be_converted_is_named_and_nothing_is_written(run, tmp_path, capsys, monkeypatch):
    unheard = jax.extend.core.Primitive("unheard_of")
    unheard.def_abstract_eval(lambda x: x)
    monkeypatch.setattr(onnx_step, "plain", lambda function, *like: lambda *arrays: (unheard.bind(arrays[0]),))
    assert "--onnx: unheard_of cannot be converted" in refused(run, tmp_path, capsys)


def test_numbers_that_differ_are_refused_and_nothing_is_written(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(onnx_step, "TOLERANCE", 0.0)
    assert "is off by" in refused(run, tmp_path, capsys)
