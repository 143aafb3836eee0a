"""Weights & Biases offline, MLflow in a local database and TensorBoard: what they have written, read back."""

import json
import pathlib

import pytest
from tiny_run import (
    STEPS_PER_ITERATION,
    assert_trees_equal,
    shared_builds,  # noqa: F401
    write_config,
)
from tracked import tensorboard_values, wandb_files, wandb_run

import jaxppo
from jaxppo import tracking
from jaxppo.config import load_config
from jaxppo.config.tracking import MlflowConfig, WandbConfig
from jaxppo.errors import ConfigError
from jaxppo.tracking.flat import flat_config
from jaxppo.training.loggers import MetricsLog

wandb = pytest.importorskip("wandb")
mlflow = pytest.importorskip("mlflow")
pytestmark = pytest.mark.usefixtures("shared_builds", "elsewhere")
SUMMARY = {"train": {"env_steps": 384}, "out_of_sample": {"sharpe": 0.5, "baseline": {"flat": {"sharpe": None}}}}


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Nothing is read from, or left in, the home of the user."""
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT", "WANDB_DIR", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tracked")
    write_config(folder)
    return folder


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A database whose tables are made once, which takes seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").create_experiment("tests", artifact_location=str(path.parent / "files"))
    return f"sqlite:///{path}"


def options(database, *more):
    offline = ["--tracking.wandb.project", "tests", "--tracking.wandb.mode", "offline"]
    return [*offline, "--tracking.mlflow.experiment", "tests", "--tracking.mlflow.uri", database, *more]


def rows(*iterations):
    return [{"iteration": i, "env_steps": 128 * i, "loss": 1.0 / i, "sharpe": float("nan")} for i in iterations]


def mlflow_run(database, folder):
    client = mlflow.MlflowClient(database)
    found = client.get_run(json.loads((folder / "tracking" / "mlflow.json").read_text())["id"])
    return client, found


def history(client, found, name):
    return [(point.step, point.value) for point in client.get_metric_history(found.info.run_id, name)]


class Killed(Exception):
    """Stands for the process dying."""


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits_and_is_tracked_as_one(workplace, database, tmp_path, monkeypatch, capfd):
    """Everything at once: dies in iteration 5, after the checkpoint of 3; goes on as the same run at every tracker."""
    write = MetricsLog.write

    def dies(self, row):
        if row["iteration"] == 5:
            raise Killed
        write(self, row)

    plain = jaxppo.train(load_config(workplace / "tiny.yaml"), output=tmp_path / "plain", progress=False)
    tags = ["--tracking.wandb.tags", "a,b", "--tracking.mlflow.tags", "{desk: rates}", "--tracking.wandb.name", "one"]
    config = load_config(workplace / "tiny.yaml", options(database, *tags))
    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "write", dies)
        with pytest.raises(Killed):
            jaxppo.train(config, output=tmp_path / "run", progress=False)
    assert mlflow_run(database, tmp_path / "run")[1].info.status == "FAILED"
    result = jaxppo.train(config, output=tmp_path / "run", resume=True, progress=False)
    assert_trees_equal(result.params, plain.params)
    assert_trees_equal(result.last_params, plain.last_params)
    assert result.summary["out_of_sample"] == plain.summary["out_of_sample"]
    printed = capfd.readouterr()
    assert not printed.out
    assert "failed" not in printed.err

    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = {row["env_steps"]: row["loss"] for row in metrics}
    sharpe = result.summary["out_of_sample"]["sharpe"]
    first, second = map(wandb_run, wandb_files(tmp_path / "wandb"))
    _check_wandb(first, second, losses, sharpe)
    client, found = mlflow_run(database, tmp_path / "run")
    _check_mlflow(client, found, config, losses, sharpe)
    board = tensorboard_values(tmp_path / "run" / "tensorboard")
    assert {step: value.simple_value for step, value in board["loss"].items()} == pytest.approx(
        {row["iteration"]: row["loss"] for row in metrics}
    )


def _check_wandb(first, second, losses, sharpe):
    assert first["id"] == second["id"]
    assert (first["project"], first["name"], first["tags"]) == ("tests", "one", ["a", "b"])
    assert first["config"]["ppo"]["learning_rate"] == 0.01
    assert first["config"]["metadata"]["fingerprint"]
    assert "tracking" not in first["config"]
    assert first["metrics"]["*"] == "env_steps"
    assert (first["exit"], second["exit"]) == (1, 0)
    written = {step: row["loss"] for step, row in first["history"].items()}
    assert sorted(written) == [STEPS_PER_ITERATION * n for n in (1, 2, 3, 4)]
    again = {step: row["loss"] for step, row in second["history"].items() if "loss" in row}
    assert sorted(again) == [STEPS_PER_ITERATION * n for n in (5, 6)], "no point comes twice"
    assert written | again == losses
    assert second["history"][768]["env_steps"] == 768
    assert second["summary"]["out_of_sample/sharpe"] == sharpe
    shown = set().union(*second["history"].values())
    assert {"out_of_sample/_type", "drawdowns/_type", "equity/_type", "drawdown/_type"} <= shown
    files = second["artifacts"]["report", f"report-{second['id']}"]
    assert files == {"report.html", "summary.json", "config.yaml"}


def _check_mlflow(client, found, config, losses, sharpe):
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "run"
    assert found.data.tags["desk"] == "rates"
    assert found.data.tags["jaxppo.data"]
    assert found.data.params["ppo.learning_rate"] == "0.01"
    assert found.data.params["env.levels"] == "[-0.5, 0.0, 0.5, 1.0]"
    assert set(found.data.params) >= set(flat_config(config))
    assert history(client, found, "loss") == list(losses.items()), "each step once"
    assert found.data.metrics["out_of_sample/sharpe"] == sharpe
    listed = client.list_artifacts(found.info.run_id) + client.list_artifacts(found.info.run_id, "figures")
    names = {entry.path for entry in listed}
    assert names >= {"report.html", "config.yaml", "summary.json", "figures/equity.png", "figures/drawdown.png"}


def logged(folder, config, **progress):
    folder.mkdir(exist_ok=True)
    return tracking.LoggedRun(folder, config, {"commit": "abc", "data": {"fingerprint": "f"}}, **progress)


@pytest.mark.slow
def test_an_evaluation_that_is_repeated_adds_no_points_to_mlflow(workplace, database, tmp_path):
    config = load_config(workplace / "tiny.yaml", ["--data.multiplier", "{EUR^X: 2}", "--data.symbols", "x" * 7000])
    for _ in range(2):
        logger = tracking.MLflow(MlflowConfig(experiment="tests", uri=database))
        logger.start(logged(tmp_path / "run", config))
        logger.finish(tracking.Results(SUMMARY, None, {"equity": b"png"}))
        logger.close("stopped")
    client, found = mlflow_run(database, tmp_path / "run")
    assert found.info.status == "KILLED"
    assert history(client, found, "out_of_sample/sharpe") == [(384, 0.5)]
    assert "out_of_sample/flat" not in found.data.metrics
    assert found.data.params["data.multiplier.EUR_X"] == "2.0", "a character that MLflow has not is replaced"
    assert len(found.data.params["data.symbols"]) == 6000, "a text that is too long is cut"


@pytest.mark.slow
def test_a_resumed_run_keeps_its_parameters_at_mlflow_and_gets_the_new_ones(workplace, database, tmp_path):
    for steps, floor in (("768", "null"), ("1536", "1.5")):
        changes = ["--training.steps", steps, "--env.position_limit", floor]
        logger = tracking.MLflow(MlflowConfig(experiment="tests", uri=database))
        logger.start(logged(tmp_path / "run", load_config(workplace / "tiny.yaml", changes)))
        logger.close("finished")
    found = mlflow_run(database, tmp_path / "run")[1]
    assert (found.data.params["training.steps"], found.data.params["env.position_limit"]) == ("768", "1.5")


def test_an_experiment_is_made_where_there_is_none(workplace, tmp_path, database):
    logger = tracking.MLflow(MlflowConfig(experiment="another", uri=database, name="n"))
    logger.start(logged(tmp_path / "run", load_config(workplace / "tiny.yaml")))
    for row in rows(1, 2, 2, 3):
        logger.write(row)
    logger.close("finished")
    client, found = mlflow_run(database, tmp_path / "run")
    assert client.get_experiment_by_name("another").experiment_id == found.info.experiment_id
    assert found.info.run_name == "n"
    assert history(client, found, "loss") == [(128, 1.0), (256, 0.5), (384, pytest.approx(1 / 3))]
    assert "sharpe" not in found.data.metrics, "what is not finite is left out"


@pytest.mark.slow
def test_rows_that_come_again_are_left_out_at_wandb(workplace, tmp_path):
    logger = tracking.WeightsAndBiases(WandbConfig(project="p", mode="offline"))
    logger.start(logged(tmp_path / "run", load_config(workplace / "tiny.yaml"), iteration=1, written=2))
    for row in rows(2, 3, 2, 3, 4):
        logger.write(row)
    logger.close("stopped")
    (path,) = wandb_files(tmp_path / "wandb")
    said = wandb_run(path)
    assert {step: row["loss"] for step, row in said["history"].items()} == {384: 1 / 3, 512: 0.25}
    assert said["exit"] == 130
    assert not any(path.is_symlink() for path in (tmp_path / "run").rglob("*")), "a folder with links is not resumed"


@pytest.mark.slow
def test_a_damaged_id_is_reported_and_ends_nothing(workplace, tmp_path, capfd):
    config = load_config(workplace / "tiny.yaml", ["--tracking.wandb.project", "p", "--tracking.wandb.mode", "offline"])
    (tmp_path / "run" / "tracking").mkdir(parents=True)
    (tmp_path / "run" / "tracking" / "wandb.json").write_text("[1]")
    loggers = tracking.make_loggers(config)
    with loggers.opened(logged(tmp_path / "run", config)):
        loggers.write(rows(1)[0])
    error = capfd.readouterr().err
    assert "WeightsAndBiases: start failed, training goes on: ValueError" in error
    assert "wandb.json is damaged; delete it to begin another run" in error
    assert error.count("\n") == 1


def test_a_key_of_wandb_is_asked_for_before_anything_is_trained(workplace, tmp_path, monkeypatch):
    config = load_config(workplace / "tiny.yaml", ["--tracking.wandb.project", "p"])
    for known, said in (
        (lambda **_: False, "there is no key of W&B: run `wandb login`"),
        (_refuse, "has 5 characters"),
    ):
        monkeypatch.setattr(wandb, "login", known)
        with pytest.raises(ConfigError, match=said):
            jaxppo.train(config, output=tmp_path / "run")
    for mode in ("offline", "disabled"):
        monkeypatch.setenv("WANDB_MODE", mode)
        tracking.make_loggers(config)
    assert not (tmp_path / "run").exists()


def _refuse(**_):
    raise wandb.errors.AuthenticationError("has 5 characters")


def test_a_folder_is_refused_where_mlflow_keeps_no_runs_in_folders(workplace, tmp_path):
    place = pathlib.Path(tmp_path, "mlruns")
    given = ["--tracking.mlflow.experiment", "e", "--tracking.mlflow.uri", str(place)]
    with pytest.raises(ConfigError, match=r"tracking.mlflow.uri is '.*mlruns'; MLflow says: The filesystem tracking"):
        jaxppo.train(load_config(workplace / "tiny.yaml", given), output=tmp_path / "run")
    assert not place.exists()
