"""TensorBoard: hyper-parameters beside final figures, figures of the test, and no point twice."""

import pytest
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData
from tiny_run import tiny_config
from tracked import tensorboard_values

from jaxppo import tracking
from jaxppo.tracking.tensorboard import HEADLINES

SUMMARY = {"train": {"env_steps": 384}, "out_of_sample": {"sharpe": 0.5, "calmar": None}}


def logged(folder, **progress):
    return tracking.LoggedRun(folder, tiny_config(), {}, **progress)


def row(iteration, loss):
    return {"iteration": iteration, "env_steps": 128 * iteration, "loss": loss, "kl": float("inf")}


def points(folder, tag):
    return {step: value.simple_value for step, value in tensorboard_values(folder / "tensorboard").get(tag, {}).items()}


@pytest.fixture
def run(tmp_path):
    """Three iterations, evaluated."""
    board = tracking.TensorBoard()
    board.start(logged(tmp_path))
    for iteration in (1, 2, 3):
        board.write(row(iteration, float(iteration)))
    board.finish(tracking.Results(SUMMARY, None, {"equity": b"\x89PNG of equity"}))
    board.close("finished")
    return tmp_path


def test_hyper_parameters_are_listed_beside_final_figures(run):
    values = tensorboard_values(run / "tensorboard")
    said = {}
    for tag in ("experiment", "session_start_info", "session_end_info"):
        (value,) = values[f"_hparams_/{tag}"].values()
        assert value.metadata.plugin_data.plugin_name == "hparams"
        said[tag] = HParamsPluginData.FromString(value.metadata.plugin_data.content)
    begun = said["session_start_info"].session_start_info.hparams
    assert begun["ppo.learning_rate"].number_value == 0.01
    assert begun["policy.kind"].string_value == "mlp"
    assert begun["ppo.control_variate"].bool_value
    assert begun["env.levels"].string_value == "[-0.5, 0.0, 0.5, 1.0]"
    assert not any(name.startswith("tracking") for name in begun)
    columns = {info.name for info in said["experiment"].experiment.hparam_infos}
    assert columns == set(begun)
    assert tuple(info.name.tag for info in said["experiment"].experiment.metric_infos) == HEADLINES
    assert said["session_end_info"].session_end_info.status == 1, "success"
    assert points(run, "out_of_sample/sharpe") == {4: 0.5}


def test_figures_of_the_test_are_images(run):
    (value,) = tensorboard_values(run / "tensorboard")["test/equity"].values()
    assert value.image.encoded_image_string == b"\x89PNG of equity"
    assert (value.image.width, value.image.height) == (900, 420)


def test_rows_are_curves_without_what_is_not_finite(run):
    assert points(run, "loss") == {1: 1.0, 2: 2.0, 3: 3.0}
    assert points(run, "env_steps") == {1: 128.0, 2: 256.0, 3: 384.0}
    assert not points(run, "kl")
    assert not points(run, "iteration")


def test_a_resumed_run_takes_the_place_of_the_points_that_it_repeats(run):
    """It goes on after iteration 2: of the first run the points of 3 are gone, and so are its final figures."""
    board = tracking.TensorBoard()
    board.start(logged(run, iteration=2, written=3))
    for iteration in (3, 4):
        board.write(row(iteration, 10.0 * iteration))
    board.finish(tracking.Results({"out_of_sample": {"sharpe": 0.7}}, None, {"equity": b"\x89PNG"}))
    board.close("finished")
    assert points(run, "loss") == {1: 1.0, 2: 2.0, 3: 30.0, 4: 40.0}
    assert points(run, "out_of_sample/sharpe") == {5: pytest.approx(0.7)}
    assert list(tensorboard_values(run / "tensorboard")["test/equity"]) == [5]


def test_an_evaluation_that_is_repeated_replaces_the_figures(run):
    board = tracking.TensorBoard()
    board.start(logged(run, iteration=3, written=3))
    board.finish(tracking.Results({"out_of_sample": {"sharpe": 0.6}}, None))
    board.close("finished")
    assert points(run, "loss") == {1: 1.0, 2: 2.0, 3: 3.0}
    assert points(run, "out_of_sample/sharpe") == {4: pytest.approx(0.6)}


def test_a_training_that_goes_back_replaces_the_points_after_its_checkpoint(tmp_path):
    board = tracking.TensorBoard()
    board.start(logged(tmp_path))
    for iteration, loss in ((1, 1.0), (2, 2.0), (3, 3.0), (2, 20.0)):
        board.write(row(iteration, loss))
    board.close("stopped")
    assert points(tmp_path, "loss") == {1: 1.0, 2: 20.0}
