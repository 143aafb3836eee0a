"""Two processes with two devices each train what one process with four does; one that is killed ends the other."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from folders import ROOT
from tiny_run import write_config

import jaxppo
from jaxppo.config import load_config
from jaxppo.run.checkpoints import Checkpoints

CARTPOLE = {
    "seed": 1,
    "env": {"name": "CartPole-v1"},
    "policy": {"kind": "mlp", "width": 16, "layers": 1},
    "ppo": {"paths": 8, "portfolios": 1, "chunk": 8, "epochs": 1, "minibatches": 2, "schedule": "constant"},
    "training": {"steps": 6 * 64, "evaluate_every": 2, "checkpoint_every": 2},
}


def started(index, config, *arguments, port, dies_at=0):
    """One of two processes with two devices each."""
    command = [sys.executable, str(ROOT / "tests" / "process_of_many.py"), "2", str(dies_at), "train"]
    command += ["--config", str(config), "--coordinator", f"localhost:{port}", "--processes", "2"]
    command += ["--process", str(index), *map(str, arguments)]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path}
    )


def both(config, *arguments, dies_at=(0, 0), configs=None):
    """Exit code, stdout and stderr of each process."""
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
    given = configs or (config, config)
    running = [started(index, given[index], *arguments, port=port, dies_at=dies_at[index]) for index in (0, 1)]
    return [(*process.communicate(timeout=300), process.returncode) for process in running]


def rows_of(folder):
    """Rows of metrics.jsonl without their speed."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "steps_per_second"} for row in rows]


def assert_same_rows(folder, expected):
    rows, wanted = rows_of(folder), rows_of(expected)
    assert len(rows) == len(wanted)
    for row, other in zip(rows, wanted, strict=True):
        assert row.keys() == other.keys()
        # Devices of one process add in another order than those of two: losses near zero are differences of others.
        np.testing.assert_allclose(list(row.values()), list(other.values()), rtol=2e-4, atol=1e-6)


def assert_same_parameters(one, other):
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(np.asarray(left), np.asarray(right), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_one_process_goes_on(tmp_path):
    config = tmp_path / "cartpole.yaml"
    config.write_text(json.dumps(CARTPOLE))
    folder = tmp_path / "two"
    (_, leader, code), (_, _, killed) = both(config, "--output", folder, dies_at=(0, 4))
    assert (code, killed) == (75, -signal.SIGKILL)
    assert leader.splitlines()[-1] == (
        f"error: process 1 of 2 on {socket.gethostname()} is gone; go on from its last checkpoint with --resume "
        f"--output {folder}"
    )
    assert not (folder / ".lock").exists()
    assert 2 <= len(rows_of(folder)) <= 3, "the call of the fourth iteration, with the third or without, is lost"
    whole = jaxppo.train(load_config(config), output=tmp_path / "one", progress=False)
    resumed = jaxppo.train(load_config(config), output=folder, resume=True, progress=False)
    assert_same_rows(folder, tmp_path / "one")
    assert_same_parameters(resumed.last_params, whole.last_params)


@pytest.mark.slow
def test_two_processes_are_one_with_as_many_devices(tmp_path):
    config = write_config(tmp_path, training={"devices": None, "steps": 6 * 128})
    whole = jaxppo.train(load_config(config), output=tmp_path / "one", progress=False)
    (out, _, code), (other_out, other, other_code) = both(config, "--output", tmp_path / "two")
    assert (code, other_code) == (0, 0)
    assert f"report: {tmp_path / 'two' / 'report.html'}" in out.splitlines()
    assert not [line for line in other_out.splitlines() if "Gloo" not in line]
    assert not other
    assert_same_rows(tmp_path / "two", tmp_path / "one")
    names = {str(path.relative_to(tmp_path / "one")) for path in (tmp_path / "one").glob("*")}
    assert names == {str(path.relative_to(tmp_path / "two")) for path in (tmp_path / "two").glob("*")}
    metadata = json.loads((tmp_path / "two" / "metadata.json").read_text())
    assert len(metadata["devices"]) == 4
    kept = Checkpoints(tmp_path / "two" / "checkpoints" / "best", 2).restore({"params": whole.params})[0]["params"]
    assert_same_parameters(kept, whole.params)
    one, two = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("one", "two"))
    assert two["out_of_sample"]["sharpe"] == pytest.approx(one["out_of_sample"]["sharpe"], abs=1e-3)


@pytest.mark.slow
def test_one_process_begins_and_two_go_on(tmp_path):
    config, longer = tmp_path / "short.yaml", tmp_path / "long.yaml"
    longer.write_text(json.dumps(CARTPOLE))
    config.write_text(json.dumps({**CARTPOLE, "training": {**CARTPOLE["training"], "steps": 4 * 64}}))
    folder = tmp_path / "run"
    jaxppo.train(load_config(config), output=folder, progress=False)
    ended = both(longer, "--output", folder, "--resume")
    assert [code for *_, code in ended] == [0, 0]
    whole = jaxppo.train(load_config(longer), output=tmp_path / "one", progress=False)
    assert_same_rows(folder, tmp_path / "one")
    again = jaxppo.train(load_config(longer), output=folder, resume=True, progress=False)  # only evaluates
    assert_same_parameters(again.last_params, whole.last_params)


@pytest.mark.slow
def test_a_signal_to_any_process_stops_both_after_an_iteration(tmp_path):
    config = tmp_path / "cartpole.yaml"
    config.write_text(json.dumps({**CARTPOLE, "training": {**CARTPOLE["training"], "steps": 10**7}}))
    folder = tmp_path / "run"
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
    running = [started(index, config, "--output", folder, port=port) for index in (0, 1)]
    deadline = time.monotonic() + 200
    while not (folder / "metrics.jsonl").exists() or len(rows_of(folder)) < 3:
        assert time.monotonic() < deadline
        assert running[0].poll() is None
        time.sleep(0.2)
    running[1].terminate()
    outputs = [process.communicate(timeout=100) for process in running]
    assert [process.returncode for process in running] == [128 + signal.SIGTERM] * 2
    assert f"continue with jaxppo train --resume --output {folder}" in outputs[0][1]
    assert (folder / "checkpoints" / "last" / str(len(rows_of(folder)))).is_dir()


@pytest.mark.slow
def test_a_configuration_that_differs_is_named_by_both(tmp_path):
    config, other = tmp_path / "one.yaml", tmp_path / "other.yaml"
    config.write_text(json.dumps(CARTPOLE))
    other.write_text(json.dumps({**CARTPOLE, "seed": 2}))
    for _, err, code in both(config, "--output", tmp_path / "run", configs=(config, other)):
        assert code == 2
        assert err.splitlines() == [
            "error: the configuration differs between processes: seed is 2 on process 1 and 1 on process 0; give all "
            "the same"
        ]
    assert not (tmp_path / "run").exists()
