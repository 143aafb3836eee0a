"""An exported policy decides as the run does, loads without a trainer, and is refused once a byte of it is another."""

import json
import pathlib
import shutil
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from folders import ROOT
from tiny_run import command, tiny_config

from jaxppo.deploy import live_policy, load_batch_step, load_policy
from jaxppo.deploy.manifest import read_manifest
from jaxppo.deploy.streams import check_streams
from jaxppo.errors import ConfigError


@pytest.fixture(scope="module")
def exported(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("export") / "policy"
    assert command("export", "--run", folder, "--output", output) == 0
    return output


@pytest.fixture
def copy(exported, tmp_path):
    return pathlib.Path(shutil.copytree(exported, tmp_path / "policy"))


def test_it_decides_as_the_run(folder, records, exported, tmp_path):
    one, other = live_policy(folder), load_policy(exported)
    for number, record in enumerate(records[:120]):
        ours, theirs = one.step(record), other.step(record)
        assert ours.status == theirs.status
        for name, value in ours.values.items():  # the compiler sees constants where an export has arguments
            np.testing.assert_allclose(value, theirs.values[name], rtol=1e-5, atol=4e-6, err_msg=f"{name} at {number}")
    assert ours.status == "decided"
    one.save(tmp_path / "state")
    other.restore(tmp_path / "state")  # the policy is the same


@pytest.mark.slow
@pytest.mark.parametrize("accounts", [1, 3])
def test_many_accounts_side_by_side_are_each_alone(records, exported, accounts):
    policy, many = load_policy(exported), load_batch_step(exported)
    step, state = jax.jit(many.step), [np.stack([x] * accounts) for x in many.state]
    for number, record in enumerate(records[:90]):
        told = policy._bar(policy.feed.read(record), None)
        policy._state, alone = policy._step(policy._weights, policy._state, told)
        state, said = step(many.weights, state, [np.stack([x] * accounts) for x in told])
        for name, ours, theirs in zip(many.output, alone, said, strict=True):
            for one in np.asarray(theirs):
                np.testing.assert_allclose(one, ours, rtol=1e-5, atol=4e-6, err_msg=f"{name} at {number}")


LOADS = """
import sys, json
import jaxppo.deploy
policy = jaxppo.deploy.load_policy(sys.argv[1])
print(json.dumps(sorted(sys.modules)))
"""


def test_it_loads_nothing_of_a_trainer(exported):
    done = subprocess.run([sys.executable, "-c", LOADS, str(exported)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout)) - {"gymnax", "gymnax.environments"}  # not run yet: deferred
    trainers = {"optax", "orbax", "flax", "chex", "gymnax", "tensorboardX", "plotly", "pydantic", "torch"}
    assert not {name.partition(".")[0] for name in loaded} & trainers


def test_any_changed_byte_is_found(copy):
    draws = np.random.default_rng(0)
    files = sorted(copy.iterdir())
    for number in range(100):
        path = files[number % len(files)]
        content = path.read_bytes()
        changed = bytearray(content)
        changed[draws.integers(len(content))] ^= 1 << int(draws.integers(8))
        path.write_bytes(bytes(changed))
        with pytest.raises(ConfigError):
            load_policy(copy)
        path.write_bytes(content)
    read_manifest(copy)


def test_a_missing_a_surplus_or_a_linked_file_is_found(copy, tmp_path):
    (copy / "more.txt").write_text("x")
    with pytest.raises(ConfigError, match="is no file of the exported policy"):
        load_policy(copy)
    (copy / "more.txt").unlink()
    (copy / "config.yaml").rename(tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match="is missing"):
        load_policy(copy)
    (copy / "config.yaml").symlink_to(tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match="no plain file"):
        load_policy(copy)
    (copy / "manifest.json").unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        load_policy(copy)


def test_the_card_says_what_it_is(exported):
    card = (exported / "model_card.md").read_text()
    assert all(word in card for word in ("Fingerprint", "train:", "Sharpe", "volatility_cap", "Intended use"))


def test_a_folder_with_something_in_it_is_refused(folder, exported, capsys):
    assert command("export", "--run", folder, "--output", exported) == 2
    assert "not empty" in capsys.readouterr().err


def test_onnx_without_its_extra_is_a_mistake_and_nothing_is_written(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    assert command("export", "--run", folder, "--output", tmp_path / "policy", "--onnx") == 2
    assert "pip install 'jaxppo[onnx]'" in capsys.readouterr().err
    assert not (tmp_path / "policy").exists()


STREAMS = {
    "a base": {"policy": {"kind": "mlp", "base": {"feature_portfolios": {}}}},
    "a book": {"sizing": [{"book": {"strategies": ["agent", {"feature_portfolios": {}}]}}]},
}


@pytest.mark.parametrize("sections", STREAMS.values(), ids=STREAMS)
def test_what_learns_from_all_prices_is_refused(sections):
    setup = types.SimpleNamespace(config=tiny_config(**sections))
    with pytest.raises(ConfigError, match="is feature_portfolios, which is fitted on all prices so far"):
        check_streams(setup)


def test_prices_that_are_converted_are_refused():
    setup = types.SimpleNamespace(config=tiny_config(data={"rate_column": "fx"}))
    with pytest.raises(ConfigError, match=r"data.rate_column"):
        check_streams(setup)
