"""What loggers are told of a training, and that none of them can end one."""

import json
import os
import signal
import sys
import threading
import time

import pytest
from tiny_run import (
    STEPS_PER_ITERATION,
    assert_trees_equal,
    command,
    shared_builds,  # noqa: F401
    write_config,
)

import jaxppo
from jaxppo import tracking
from jaxppo.config import load_config
from jaxppo.errors import ConfigError
from jaxppo.training.loggers import MetricsLog

pytestmark = pytest.mark.usefixtures("shared_builds")


class Recorder:
    """Remembers what it is told, and on which thread."""

    def __init__(self):
        self.told, self.threads, self.rows = [], set(), []

    def _note(self, method, argument):
        self.told.append((method, argument))
        self.threads.add(threading.get_ident())

    def start(self, run):
        self._note("start", run)

    def write(self, row):
        self._note("write", row)

    def finish(self, results):
        self._note("finish", results)

    def close(self, status):
        self._note("close", status)

    @property
    def methods(self):
        return [method for method, _ in self.told]

    def arguments(self, method):
        return [argument for name, argument in self.told if name == method]


class Failing:
    """Raises whatever it is told."""

    def _fail(self, argument):
        raise OSError("no space\nleft")

    start = write = finish = close = _fail


class FailingLater(Failing):
    def start(self, run):
        pass


class FailingInBackground(Failing):
    pass


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logged")
    write_config(folder)
    return folder


@pytest.fixture(scope="module")
def config(workplace):
    return load_config(workplace / "tiny.yaml")


@pytest.fixture(scope="module")
def recorder():
    return Recorder()


@pytest.fixture(scope="module")
def run(workplace, config, recorder):
    """A run with a logger and a callback of one's own."""
    parts = {"loggers": [recorder], "callbacks": [recorder.rows.append]}
    return jaxppo.train(config, output=workplace / "run", progress=False, **parts)


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_logger_of_ones_own_is_told_everything_in_order(run, recorder):
    assert recorder.methods == ["start", *["write"] * 6, "finish", "close"]
    assert recorder.threads == {threading.get_ident()}
    (begun,), (results,) = recorder.arguments("start"), recorder.arguments("finish")
    assert (begun.folder, begun.name, begun.iteration, begun.written) == (run.folder, "run", 0, 0)
    assert begun.config.ppo.learning_rate == 0.01
    assert begun.config.policy.bar_seconds == 86_400.0, "the resolved configuration"
    assert begun.metadata["data"]["fingerprint"]
    assert recorder.arguments("write") == rows_of(run.folder) == recorder.rows
    assert results.summary == run.summary
    assert results.report == run.folder / "report.html"
    assert set(results.figures) == {"equity", "drawdown"}
    assert all(png.startswith(b"\x89PNG") for png in results.figures.values())
    assert recorder.arguments("close") == ["finished"]


def test_a_logger_that_always_fails_changes_nothing_and_is_reported_once(run, config, tmp_path, capfd):
    failing = [Failing(), FailingLater(), tracking.in_background(FailingInBackground()), Recorder()]
    other = jaxppo.train(config, output=tmp_path / "run", progress=False, loggers=failing, callbacks=[hash])
    assert_trees_equal(other.last_params, run.last_params)
    assert other.summary["out_of_sample"] == run.summary["out_of_sample"]
    printed = capfd.readouterr()
    assert not printed.out
    reports = [line for line in printed.err.splitlines() if line.startswith("Failing")]
    assert [line for line in printed.err.splitlines() if line.startswith("Callback")] == [
        "Callback: write failed, training goes on: TypeError: unhashable type: 'dict'; the run folder has everything"
    ]
    assert sorted(reports) == [
        "Failing: start failed, training goes on: OSError: no space left; the run folder has everything",
        "FailingInBackground: start failed, training goes on: OSError: no space left; the run folder has everything",
        "FailingLater: write failed, training goes on: OSError: no space left; the run folder has everything",
    ]
    assert failing[3].methods[-1] == "close", "those that come after it are told all the same"


@pytest.mark.slow
def test_a_run_that_is_stopped_and_resumed_says_so(config, tmp_path, monkeypatch):
    write = MetricsLog.write

    def interrupted(self, row):
        write(self, row)
        if row["iteration"] == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    first, second = Recorder(), Recorder()
    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "write", interrupted)
        assert jaxppo.train(config, output=tmp_path / "run", progress=False, loggers=[first]).signal == signal.SIGTERM
    assert first.methods == ["start", *["write"] * 4, "close"]
    assert first.arguments("close") == ["stopped"]
    jaxppo.train(config, output=tmp_path / "run", resume=True, progress=False, loggers=[second])
    (begun,) = second.arguments("start")
    assert (begun.iteration, begun.written) == (4, 4)
    assert [row["iteration"] for row in second.arguments("write")] == [5, 6]


def test_an_error_in_training_is_said_to_the_loggers(config, tmp_path, monkeypatch):
    def broken(self, row):
        raise RuntimeError("broken")

    recorder = Recorder()
    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "write", broken)
        with pytest.raises(RuntimeError, match="broken"):
            jaxppo.train(config, output=tmp_path / "run", progress=False, loggers=[recorder])
    assert recorder.told[1:] == [("close", "failed")]


class Slow(Recorder):
    """Takes its time, as a server that is far away."""

    def write(self, row):
        time.sleep(0.2)
        super().write(row)


def test_a_slow_logger_in_the_background_keeps_nobody_waiting(config, tmp_path, capfd):
    slow = Slow()
    loggers = tracking.make_loggers(config, [tracking.in_background(slow)])
    began = time.monotonic()
    with loggers.opened(tracking.LoggedRun(tmp_path, config, {})):
        for iteration in range(1, 5):
            loggers.write({"iteration": iteration})
        assert time.monotonic() - began < 0.2
    assert slow.methods == ["start", *["write"] * 4, "close"], "the end waits for what is left"
    assert threading.get_ident() not in slow.threads
    loggers = tracking.make_loggers(config, [tracking.in_background(Slow(), patience=0.05)])
    with loggers.opened(tracking.LoggedRun(tmp_path, config, {})):
        loggers.write({"iteration": 1})
    assert "Slow: not everything is sent after 0 s; the run folder has everything" in capfd.readouterr().err


def test_what_is_no_logger_is_refused_before_anything_is_read(config, tmp_path):
    for wrong, said in ((object(), "loggers\\[0\\] is <object"), (Recorder, "the class Recorder, not an object of it")):
        with pytest.raises(ConfigError, match=f"{said}.*; allowed: objects with the methods start, write, finish"):
            jaxppo.train(config, output=tmp_path / "run", loggers=[wrong])
    with pytest.raises(ConfigError, match=r"callbacks\[0\] is 3; a function of a row of metrics is expected"):
        jaxppo.train(config, output=tmp_path / "run", callbacks=[3])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "hidden", "said"),
    [
        (["--tracking.wandb.project", "x"], "wandb", "tracking.wandb.project needs the package wandb: pip install"),
        (["--tracking.mlflow.experiment", "x"], "mlflow", "tracking.mlflow.experiment needs the package mlflow: pip"),
        (["--tracking.mlflow.experiment", "x"], "sqlalchemy", "needs the package sqlalchemy: pip install"),
    ],
)
def test_a_missing_package_ends_in_one_line(options, hidden, said, workplace, tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, hidden, None)
    if hidden == "sqlalchemy":
        pytest.importorskip("mlflow")
    arguments = ("train", "--config", workplace / "tiny.yaml", "--output", tmp_path / "run", *options)
    assert command(*arguments) == 2
    printed = capfd.readouterr().err
    assert printed.startswith("error: ")
    assert said in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_folder_that_wandb_has_left_is_no_package(config, tmp_path, monkeypatch):
    (tmp_path / "wandb_of_a_folder").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="needs the package wandb_of_a_folder"):
        tracking.configured._check_installed("wandb_of_a_folder", "tracking.wandb.project", "wandb")


def test_tracking_may_change_when_a_run_is_resumed(run, config, workplace):
    given = load_config(workplace / "tiny.yaml", ["--tracking.wandb.project", "x", "--tracking.wandb.mode", "disabled"])
    recorder = Recorder()
    again = jaxppo.train(given, output=run.folder, resume=True, progress=False, loggers=[recorder])
    assert recorder.methods == ["start", "finish", "close"], "only the evaluation is repeated"
    assert again.summary["out_of_sample"]["sharpe"] == run.summary["out_of_sample"]["sharpe"]
    assert again.summary["train"]["env_steps"] == 6 * STEPS_PER_ITERATION


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tracking.wandb.entity", "me"], "tracking.wandb.entity is given, but tracking.wandb.project is not"),
        (["--tracking.wandb.project", "a/b"], r"tracking.wandb.project is 'a/b'; allowed: up to 128 characters"),
        (["--tracking.wandb.projct", "a"], "unknown option --tracking.wandb.projct; did you mean --tracking.wandb.pro"),
        (["--tracking.wandb.mode", "on"], '--tracking.wandb.mode is "on"; allowed: one of online, offline, disabled'),
        (["--tracking.wandb", "a"], '--tracking.wandb is "a"; allowed: a section'),
        (["--tracking.mlflow.uri", "x:y", "--tracking.mlflow.experiment", "e"], "tracking.mlflow.uri is 'x:y'; allow"),
    ],
)
def test_impossible_values_are_named(options, said):
    with pytest.raises(ConfigError, match=said):
        load_config(None, options)
