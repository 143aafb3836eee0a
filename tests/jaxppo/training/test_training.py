"""Whole runs: the folder they leave, budgets, selection, stopping and resuming, seeds, devices."""

import dataclasses
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c
from tiny_run import (
    N_BARS,
    ROOT,
    STEPS_PER_ITERATION,
    TINY,
    assert_trees_equal,
    command,
    load,
    shared_builds,  # noqa: F401
    snapshot,
    tiny_config,
    write_config,
)

import jaxppo
from benchmarks.damage import resumed
from benchmarks.mutations import flip_bit, outcome_of
from jaxppo.backtest.evaluation import quick_score
from jaxppo.cli.commands.train import next_attempts, next_commands
from jaxppo.cli.main import main
from jaxppo.config import load_config
from jaxppo.envs import simulators
from jaxppo.errors import ConfigError
from jaxppo.policy.networks.actor_critic import make_actor_critic
from jaxppo.ppo.learner import data_mesh, make_learner
from jaxppo.ppo.trading_task import trading_task
from jaxppo.report.inspection import TITLES
from jaxppo.run import folder as run_folder
from jaxppo.run import memory, progress
from jaxppo.run.build import best_policy, build
from jaxppo.run.checkpoints import Checkpoints
from jaxppo.run.data import load_data
from jaxppo.run.regimes import find_regimes
from jaxppo.run.setup import as_started
from jaxppo.sweep import members as sweep_members
from jaxppo.training import Evaluator, check, loop, run_state, trainer
from jaxppo.training.evaluator import backtest_evaluator
from jaxppo.training.loggers import MetricsLog
from jaxppo.training.run_state import Done

pytestmark = pytest.mark.usefixtures("shared_builds")
OUT_OF_SAMPLE = {
    "sharpe", "sharpe_ci", "sortino", "calmar", "max_drawdown", "cvar_95", "win_rate", "turnover", "total_return",
    "trade_win_rate", "trades", "costs", "n_bars", "baseline",
}  # fmt: skip


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with prices and a configuration."""
    folder = tmp_path_factory.mktemp("runs")
    write_config(folder)
    return folder


@pytest.fixture(scope="module")
def config(workplace):
    """Six iterations, two checkpoints, three evaluations."""
    return load_config(workplace / "tiny.yaml")


@pytest.fixture(scope="module")
def whole(workplace, config):
    """The run that nothing interrupts."""
    return jaxppo.train(config, output=workplace / "whole", progress=False)


def with_steps(config, iterations):
    training = config.training.model_copy(update={"steps": iterations * STEPS_PER_ITERATION})
    return config.model_copy(update={"training": training})


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def state_of(folder, config):
    """The last checkpoint of a run: arrays and progress."""
    setup = build(config, load_data(config))
    policy, net = make_actor_critic(setup.encoder, setup.action, jax.random.key(0))
    learner = make_learner(trading_task(policy, setup.env, setup.ppo), setup.ppo, data_mesh(setup.devices))
    opened = Checkpoints(folder / "checkpoints" / "last", 2)
    return opened.restore(jax.eval_shape(lambda: learner.init(net, 0, setup.period_params("train"))))


def without_times(row):
    return {name: value for name, value in row.items() if name != "steps_per_second"}


def test_the_folder_is_complete(whole, workplace, config):
    folder = whole.folder
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml", "metadata.json", "metrics.jsonl", "tensorboard", "checkpoints", "summary.json", "report.html"
    }  # fmt: skip
    saved = load_config(folder / "config.yaml")
    assert saved == as_started(config, saved)
    assert (config.policy.bar_seconds, saved.policy.bar_seconds) == (None, 86_400.0)
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["versions"]["jax"] == jax.__version__
    assert metadata["seed"] == 7
    assert metadata["devices"] == ["cpu"]
    assert re.fullmatch("[0-9a-f]{64}", metadata["data"]["fingerprint"])
    assert metadata["data"]["symbols"]["AAA"]["bars"] == 420
    assert re.fullmatch("[0-9a-f]{40}(-dirty)?", metadata["commit"] or "0" * 40)
    assert metadata["wall_seconds"] > 0
    report = (folder / "report.html").read_text()
    assert "normalisation_window: 20" in report
    assert "buy_and_hold" in report or "Buy and hold" in report


def test_the_summary_has_what_it_promises(whole):
    summary = json.loads((whole.folder / "summary.json").read_text())
    assert summary == whole.summary
    assert set(summary) == {"train", "validation", "out_of_sample", "selection"}
    train = summary["train"]
    assert {"env_steps", "seconds", "steps_per_second", "compile_seconds"} <= set(train)
    assert train["env_steps"] == 6 * STEPS_PER_ITERATION
    assert train["market_bars"] == 6 * 8 * 8
    assert train["steps_per_second"] == pytest.approx(train["env_steps"] / train["seconds"])
    assert train["compile_seconds"] > 0
    out = summary["out_of_sample"]
    assert set(out) >= OUT_OF_SAMPLE
    assert set(out["baseline"]) == {"buy_and_hold", "flat", "volatility_target", "untrained"}
    for row in out["baseline"].values():
        assert set(row) >= OUT_OF_SAMPLE - {"baseline"}
    assert out["n_bars"] == 420 - 1 - (round(420 * 0.6) + round(420 * 0.15) + 5)
    holding = out["baseline"]["buy_and_hold"]
    assert holding["sharpe_ci"][0] < holding["sharpe"] < holding["sharpe_ci"][1]


def test_every_iteration_is_logged_once_also_on_tensorboard(whole):
    rows = rows_of(whole.folder)
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["env_steps"] for row in rows] == [STEPS_PER_ITERATION * n for n in range(1, 7)]
    assert [row["iteration"] for row in rows if "validation_sharpe" in row] == [2, 4, 6]
    assert {"reward", "entropy", "loss", "gradient_norm", "learning_rate", "turnover", "sharpe"} <= set(rows[0])
    board = tensorboard_scalars(whole.folder / "tensorboard")
    assert board["loss"] == pytest.approx({row["iteration"]: row["loss"] for row in rows})
    assert set(board["validation_sharpe"]) == {2, 4, 6}


def tensorboard_scalars(folder):
    """name -> {step: value} of event files by TensorBoard's rules: a later file replaces the steps it restarts."""
    scalars = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        content, at = path.read_bytes(), 0
        while at < len(content):
            length = int.from_bytes(content[at : at + 8], "little")
            body = content[at + 12 : at + 12 + length]
            assert int.from_bytes(content[at + 12 + length : at + 16 + length], "little") == masked_crc32c(body)
            at += 16 + length
            event = event_pb2.Event.FromString(body)
            if event.HasField("session_log") and event.session_log.status == event_pb2.SessionLog.START:
                for points in scalars.values():
                    for step in [step for step in points if step >= event.step]:
                        del points[step]
            for value in event.summary.value:
                scalars.setdefault(value.tag, {})[event.step] = value.simple_value
    return scalars


def test_the_logged_scores_are_those_of_the_networks(whole, config):
    scores = {row["iteration"]: row["validation_sharpe"] for row in rows_of(whole.folder) if "validation_sharpe" in row}
    best = max(scores, key=scores.get)
    assert whole.summary["validation"] == {"best_iteration": best, "best_sharpe": scores[best], "evaluations": 3}
    setup = build(config, load_data(config))
    policy, net = make_actor_critic(setup.encoder, setup.action, jax.random.key(0))
    saved = Checkpoints(whole.folder / "checkpoints" / "best", 1).restore({"params": net})[0]["params"]
    assert_trees_equal(saved, whole.params)
    assert quick_score(setup, policy, saved, "validation")["sharpe"] == scores[best]
    last = jax.device_get(whole.last_params)
    assert quick_score(setup, policy, last, "validation")["sharpe"] == scores[6]


def backtests_with(**functions):
    """Makes the usual evaluator with some of its functions replaced."""
    return lambda setup, network: backtest_evaluator(setup, network)._replace(**functions)


unreported = backtests_with(finish=lambda net, summary, rows, folder: {}, describe=lambda summary: "")
"""The usual evaluator without its backtest and its report at the end."""


def test_validation_selects_the_checkpoint(config, tmp_path):
    """Whatever the scores, the network that had the highest is the one that is saved, evaluated and returned."""
    scores = iter([0.1, 0.9, 0.5])
    four = jaxppo.train(with_steps(config, 4), output=tmp_path / "four", progress=False, evaluator=unreported)
    given = backtests_with(score=lambda *of: {"sharpe": next(scores)})
    six = jaxppo.train(config, output=tmp_path / "six", progress=False, evaluator=given)
    assert six.summary["validation"] == {"best_iteration": 4, "best_sharpe": 0.9, "evaluations": 3}
    assert_trees_equal(six.params, jax.device_get(four.last_params))
    with pytest.raises(AssertionError):
        assert_trees_equal(six.params, jax.device_get(six.last_params))
    assert jaxppo.backtest.run(six.folder) == six.summary["out_of_sample"]


def test_an_evaluator_of_another_kind(config, tmp_path):
    """Training knows of its evaluator only what it selects by, and what it finishes with."""
    luck = Evaluator(
        criterion="luck",
        score=lambda net, folder, iteration: {"luck": -float(iteration)},
        finish=lambda net, summary, rows, folder: {"lucky": len(rows)},
        describe=lambda summary: f"lucky {summary['lucky']} times",
    )
    run = {"output": tmp_path / "run", "progress": False, "evaluator": lambda setup, network: luck}
    result = jaxppo.train(with_steps(config, 4), **run)
    assert result.summary["validation"] == {"best_iteration": 2, "best_luck": -2.0, "evaluations": 2}
    assert (result.summary["lucky"], result.text.splitlines()[0]) == (4, "lucky 4 times")
    assert [row.get("validation_luck") for row in rows_of(result.folder)] == [None, -2.0, None, -4.0]
    assert not (result.folder / "report.html").exists()


def test_a_result_fits_a_screen(whole):
    first, *lines = repr(whole).splitlines()
    assert first == f"TrainResult({str(whole.folder)!r})"
    assert "buy_and_hold" in repr(whole)
    assert len(lines) < 20
    assert max(map(len, lines)) <= 120
    assert "stopped early" in repr(dataclasses.replace(whole, summary=None, text=""))


def test_a_checkpoint_of_an_older_version_is_read():
    assert Done.restored({"iteration": 3, "looks": 2}) == Done(iteration=3, evaluations=2)


def test_the_test_period_is_not_looked_at_before_the_end(whole, config, tmp_path):
    """Other prices in the test period: the same training, the same evaluations, the same network; another result."""
    market = load_data(config)
    setup = build(config, market)
    scramble = load("tests/causality.py").randomise_after
    end = setup.periods["validation"].last
    other = scramble(market, end, jax.random.key(1))
    result = jaxppo.train(config, output=tmp_path / "run", market=other, progress=False)
    assert_trees_equal(result.params, whole.params)
    assert_trees_equal(result.last_params, whole.last_params)
    assert [*map(without_times, rows_of(result.folder))] == [*map(without_times, rows_of(whole.folder))]
    assert result.summary["out_of_sample"] != whole.summary["out_of_sample"]
    earlier = scramble(market, end - 1, jax.random.key(1))
    policy, _ = make_actor_critic(setup.encoder, setup.action, jax.random.key(0))
    always_long = [
        quick_score(build(config, m), policy, long_only(whole.params), "validation") for m in (market, earlier)
    ]
    assert always_long[0] != always_long[1], "the last bar of the period counts, or this test could not fail"


def long_only(net):
    """The network with its action logits replaced by a wish for the largest position."""
    actor = {"kernel": np.zeros_like(net["head"]["actor"]["kernel"]), "bias": np.arange(5.0, dtype=np.float32)}
    return {**net, "head": {**net["head"], "actor": actor}}


@pytest.mark.parametrize(
    ("budget", "iterations"),
    [
        ({"steps": 1}, 1),
        ({"steps": 2 * STEPS_PER_ITERATION}, 2),
        ({"steps": 2 * STEPS_PER_ITERATION + 1}, 3),
        ({"episodes": 24}, 3),
        ({"minutes": 1e-6}, 1),
        ({"episodes": 24, "minutes": 1e6}, 3),
        ({"episodes": 24, "minutes": 1e-6}, 1),
    ],
)
def test_budgets(budget, iterations, config, tmp_path):
    """24 episodes of 2 chunks of 8 bars are 384 steps, three iterations of 128. Of two budgets the first one counts."""
    training = {**TINY["training"], **dict.fromkeys(("steps", "episodes", "minutes")), **budget}
    chosen = config.model_copy(update={"training": config.training.model_copy(update=training)})
    result = jaxppo.train(chosen, output=tmp_path / "run", progress=False, evaluator=unreported)
    rows = rows_of(result.folder)
    assert len(rows) == iterations == result.summary["train"]["iterations"]
    assert "validation_sharpe" in rows[-1], "the last network is always a candidate"


def test_minutes_count_training(config, tmp_path, monkeypatch):
    """On a clock that only moves by 25 s when compiling and 10 s an iteration, half a minute is three iterations."""
    clock = types.SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    compile_ = loop._compile

    def slow_compile(*arguments):
        iterate = compile_(*arguments)
        clock.now += 25.0

        def slow(state, params, progress, n):
            clock.now += 10.0 * n
            return iterate(state, params, progress, n)

        return slow

    for module in (trainer, loop, run_state):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(loop, "_compile", slow_compile)
    training = config.training.model_copy(update={"steps": None, "minutes": 0.5})
    monkeypatch.setattr(
        trainer, "_finish", lambda run, net, done: {"elapsed": done.elapsed, "out_of_sample": None, "selection": None}
    )
    silent = backtests_with(describe=lambda summary: "")
    given = config.model_copy(update={"training": training})
    result = jaxppo.train(given, output=tmp_path / "run", progress=False, evaluator=silent)
    rows = rows_of(result.folder)
    assert [row["iteration"] for row in rows] == [1, 2, 3]
    assert "validation_sharpe" in rows[-1]
    assert result.summary["elapsed"] == 55.0


def test_the_bar_names_its_phase_and_a_short_run_is_called_hardly_trained(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "HEARTBEAT", 0.05)
    monkeypatch.setattr(progress, "IN_A_FILE", 0.0)
    short = config.training.model_copy(update={"steps": STEPS_PER_ITERATION - 1})
    result = jaxppo.train(config.model_copy(update={"training": short}), output=tmp_path / "run", progress=True)
    said = capsys.readouterr().err
    assert "127 steps are rounded up to 128, whole iterations of 128 each" in said
    places = [said.index(f"{phase}:") for phase in ("compiling", "training", "evaluating", "report")]
    assert places == sorted(places)
    assert said.count("report:") > 2, "drawn again while nothing moves it"
    after = said[said.index("report: ") :]
    assert re.search(r"evaluating[a-z :]*: \d+ s", said)
    assert "step" not in after, "no rate of steps once there are none"
    assert "Hardly trained (1 iteration):" in result.text
    assert result.summary["train"]["hardly_trained"]
    assert "Hardly trained" in result.text
    assert "Hardly trained" in (result.folder / "report.html").read_text()


def test_what_cannot_fit_the_device_is_refused_before_compiling(config, tmp_path, monkeypatch):
    setup = build(config, load_data(config))
    network = 4 * memory.size_of(make_actor_critic(setup.encoder, setup.action, jax.random.key(0))[1])
    monkeypatch.setattr(memory, "memory_of", lambda devices: 1.5 * network)
    monkeypatch.setattr(loop, "memory_needed", None)
    with pytest.raises(ConfigError, match=r"the state of training needs about .* smaller: ppo.micro_batch"):
        jaxppo.train(config, output=tmp_path / "run", progress=False)
    monkeypatch.setattr(check, "size_of", lambda tree: 0)
    with pytest.raises(ConfigError, match=r"an iteration needs about .* GiB, and cpu has 0.0; smaller: ppo.micro_b"):
        jaxppo.train(config, output=tmp_path / "run", progress=False)
    monkeypatch.setattr(memory, "memory_of", lambda devices: 1e3)
    with pytest.raises(ConfigError, match=r"the network needs about .* smaller: policy.width"):
        jaxppo.train(config, output=tmp_path / "run", progress=False)


def test_a_run_of_enough_iterations_is_not_called_hardly_trained(config):
    experiment = types.SimpleNamespace(config=config)
    run = run_state.Run(experiment, None, None, None, None, 0.0)
    few = [n for n in range(1, 60) if run.hardly_trained(Done(iteration=n))]
    assert few == list(range(1, max(run_state.FEWEST_ITERATIONS, 2 * config.training.evaluate_every)))


def stop_in(monkeypatch, iteration, action):
    """Calls `action` in the middle of an iteration, before its row is written."""
    write = MetricsLog.write

    def interrupted(self, row):
        if row["iteration"] == iteration:
            action()
        write(self, row)

    monkeypatch.setattr(MetricsLog, "write", interrupted)


class Killed(Exception):
    """Stands for the process dying."""


def kill():
    raise Killed


@pytest.mark.parametrize("iteration", [1, 3, 6, *(pytest.param(i, marks=pytest.mark.slow) for i in (2, 4, 5))])
def test_a_killed_run_resumes_to_the_same_bits(iteration, whole, config, tmp_path, monkeypatch):
    """Wherever it dies: network, optimiser, paths, selection and log are those of the run that nothing interrupted."""
    with monkeypatch.context() as patch:
        stop_in(patch, iteration, kill)
        with pytest.raises(Killed):
            jaxppo.train(config, output=tmp_path / "run", progress=False)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 9, "los')
    resumed = jaxppo.train(config, output=tmp_path / "run", resume=True, progress=False)
    check_same_run(resumed, whole, config)


@pytest.mark.slow
def test_a_run_with_every_part_is_trained_resumed_and_evaluated(tmp_path, monkeypatch, capfd):
    """Levels, dropout, quantiles, hierarchical actions, regimes, masks, risk: a killed run ends as a whole one does."""
    parts = {
        "kind": "transformer",
        "width": 8,
        "coarse_pools": [3],
        "coarse_window": 3,
        "portfolio": "film",
        "dropout": 0.2,
        "dropout_schedule": "linear",
        "rematerialise": "minimal",
        "quantiles": 4,
    }
    limits = [
        {"regime": {"crisis": [0.0, 0.0], "bear": [-0.2, 0.4]}},
        {"volatility_cap": {"target": 0.02, "span": 10}},
        {"risk_budget": {"gross": 0.3, "net": [-0.1, 0.3], "force": 1.05}},
        "no_short",
    ]
    changes = {"masks": limits, "regimes": {"kind": "hmm", "restarts": 2, "usual_volatility_span": 50}}
    changes["features"] = {"groups": ["price", "regime"], "normalisation_window": 20}
    changes["env"] = {"actions": "hierarchical", "gross_buckets": [0.5, 1.0]}
    changes["objective"] = {"kind": "cvar", "level": 0.8, "weight": 0.5}
    impossible = {"volatility": {"limit": 1e-6, "integral": 100.0, "patience": 1}}
    changes["constraints"] = [{"max_drawdown": {"limit": 0.5}}, impossible]
    changes["ppo"] = {"distortion": "cvar", "distortion_level": 0.5, "value_normalisation": "popart"}
    (tmp_path / "settings").mkdir()
    budget = {"steps": 3 * STEPS_PER_ITERATION, "checkpoint_every": 1}
    path = write_config(tmp_path / "settings", policy=parts, training=budget, **changes)
    config, learners = load_config(path), []

    def one_learner(*given):
        learners.extend([] if learners else [make_learner(*given)])
        return learners[0]

    monkeypatch.setattr(trainer, "make_learner", one_learner)
    whole = jaxppo.train(config, output=tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch:
        stop_in(patch, 3, kill)
        with pytest.raises(Killed):
            jaxppo.train(config, output=tmp_path / "run", progress=False)
    resumed = jaxppo.train(config, output=tmp_path / "run", resume=True, progress=False)
    assert_trees_equal(resumed.last_params, whole.last_params)
    out = whole.summary["out_of_sample"]
    assert jaxppo.backtest.run(resumed.folder) == out
    rows = [json.loads(line) for line in (whole.folder / "metrics.jsonl").read_text().splitlines()]
    assert 0 < rows[-1]["validation_attention_entropy_block1"] <= 1
    limits = whole.summary["constraints"]
    assert limits == resumed.summary["constraints"]
    assert limits["max_drawdown"]["held"]
    assert not limits["max_drawdown"]["infeasible"]
    assert limits["volatility"] == {
        "limit": 1e-6,
        "measured": rows[-1]["constraint_volatility"],
        "multiplier": 10.0,
        "held": False,
        "infeasible": True,
    }
    assert "constraint volatility" in whole.text
    assert "INFEASIBLE" in whole.text
    assert capfd.readouterr().err.count("constraint volatility is infeasible") >= 1
    page = (whole.folder / "report.html").read_text()
    assert "infeasible" in page
    assert all(TITLES[name] in page for name in ("importance", "features", "gradients", "lag", "levels", "rollout"))
    saved = jaxppo.backtest.load_run(whole.folder)
    assert_trees_equal(saved.params, whole.params)
    assert saved.network.quantiles == len(whole.params["head"]["value"]["bias"]) == 4
    assert np.isfinite(rows[-1]["distorted_value"])
    assert 0 <= rows[-1]["quantile_error"] <= 0.5

    assert list(out["masks"]) == ["regime", "volatility_cap", "risk_budget", "no_short"]
    assert out["masks"]["volatility_cap"]["bound"] > 0.1
    assert set(out["masks"]["volatility_cap"]["by_regime"]) <= {"bull", "bear", "sideways", "crisis"}
    assert 0 <= rows[-1]["validation_mask_bound_volatility_cap"] <= 1
    assert "volatility_cap" in page
    looser = jaxppo.backtest.run(whole.folder, overrides=["--masks", "[]"])
    assert "masks" not in looser
    assert looser["turnover"] != out["turnover"]
    with pytest.raises(jaxppo.ConfigError, match=r"regimes\.states is 4, but the run was trained with 3"):
        jaxppo.backtest.run(whole.folder, overrides=["--regimes.states", "4", "--regimes.model", "null"])

    model = load_config(whole.folder / "config.yaml").regimes.model
    assert len(model) == 3 + 9 + 3 + 3
    market, until = saved.setup.market, saved.setup.periods["train"].last
    later = {name: getattr(market, name).at[until + 1 :].mul(3.0) for name in ("open", "high", "low", "close")}
    assert find_regimes(config.regimes, market.replace(**later), until, 0)[1].model == model


def test_a_kernel_that_is_not_there_is_replaced_and_said_so(workplace, caplog):
    config = load_config(workplace / "tiny.yaml", ["--policy.kind", "transformer", "--policy.attention", "cudnn"])
    setup = build(config, load_data(config))
    assert setup.encoder.attention == "xla"
    assert "cuDNN's kernel needs a GPU, not a cpu" in caplog.text
    caplog.clear()
    config = load_config(workplace / "tiny.yaml", ["--policy.kind", "transformer"])
    assert build(config, load_data(config)).encoder.attention == "xla"
    assert not caplog.text


def check_same_run(resumed, whole, config):
    assert_trees_equal(resumed.params, whole.params)
    assert_trees_equal(resumed.last_params, whole.last_params)
    (arrays, done), (expected, expected_done) = state_of(resumed.folder, config), state_of(whole.folder, config)
    assert_trees_equal(arrays, expected)
    clocks = {"seconds", "compile_seconds", "elapsed"}
    assert {k: v for k, v in done.items() if k not in clocks} == {
        k: v for k, v in expected_done.items() if k not in clocks
    }
    assert [*map(without_times, rows_of(resumed.folder))] == [*map(without_times, rows_of(whole.folder))]
    assert resumed.summary["out_of_sample"] == whole.summary["out_of_sample"]
    assert resumed.summary["validation"] == whole.summary["validation"]
    assert set(tensorboard_scalars(resumed.folder / "tensorboard")["loss"]) == {1, 2, 3, 4, 5, 6}


def newest_host(run):
    return run / "checkpoints" / "last" / "6" / "host" / "metadata"


def without_a_row(run):
    rows = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(rows[:3] + rows[4:]))


def with_another_row(run):
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(
        text.replace('"iteration": 2, "env_steps": 256', '"iteration": 2, "env_steps": 257')
    )


def with_a_file(*place):
    def damage(run):
        shutil.rmtree(run.joinpath(*place))
        run.joinpath(*place).write_text("a file")

    return damage


def with_a_folder(name):
    def damage(run):
        (run / name).unlink(missing_ok=True)
        (run / name).mkdir()

    return damage


DAMAGES = {
    "a row is missing": (without_a_row, "metrics.jsonl: damaged: row 4 is of iteration 5; 4 is expected"),
    "a row was changed": (with_another_row, "metrics.jsonl: damaged: a row was changed"),
    "no rows": (lambda run: (run / "metrics.jsonl").unlink(), "metrics.jsonl: damaged: it has 0 iterations of 6"),
    "no best": (lambda run: next((run / "checkpoints" / "best").rglob("manifest.ocdbt")).write_text(""), "damaged"),
    "checkpoints a file": (with_a_file("checkpoints"), "checkpoints: is a file"),
    "last a file": (with_a_file("checkpoints", "last"), "last: is a file"),
    "tensorboard a file": (with_a_file("tensorboard"), "tensorboard"),
    "a draft a folder": (with_a_folder("metrics.jsonl.part"), "metrics.jsonl.part"),
    "another draft a folder": (with_a_folder("metadata.json.part"), "metadata.json.part"),
    "the report a folder": (with_a_folder("report.html"), "report.html"),
    "metadata a folder": (with_a_folder("metadata.json"), "metadata.json: is not a regular file"),
    "a newer version": (
        lambda run: (run / "metadata.json").write_text('{"format": 2, "new": 1}'), "made by a newer version",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_run_is_not_resumed(case, whole, tmp_path, capfd):
    damage, said = DAMAGES[case]
    shutil.copytree(whole.folder, tmp_path / "run")
    damage(tmp_path / "run")
    kept = snapshot(tmp_path / "run" / "checkpoints")
    assert command("train", "--resume", "--output", tmp_path / "run") in (2, 74)
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert said in errors[0]
    assert snapshot(tmp_path / "run" / "checkpoints") == kept


@pytest.mark.parametrize(
    "host",
    [
        {},
        {"iteration": -5},
        {"iteration": "a"},
        {"iteration": 3, "elapsed": "a"},
        {"iteration": 3, "elapsed": float("nan")},
        {"iteration": 3, "best_score": "a"},
        {"iteration": 3, "best_iteration": 4},
        {"iteration": 3, "stopped": {"limit": "net"}},
        {"iteration": 3, "stopped": 5},
        {"iteration": 3, "invented": 1},
    ],
)
def test_a_state_that_no_run_has_saved_is_damaged(host):
    with pytest.raises(ConfigError, match="the state of the last checkpoint is damaged"):
        Done.restored(host)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_goes_on_to_the_same_bits(whole, config, tmp_path, capfd):
    shutil.copytree(whole.folder, tmp_path / "run")
    newest_host(tmp_path / "run").write_text("{}")
    resumed = jaxppo.train(config, output=tmp_path / "run", resume=True, progress=False)
    assert "last/6: damaged" in capfd.readouterr().err
    check_same_run(resumed, whole, config)


def test_every_flipped_bit_of_a_run_is_found_or_changes_nothing(whole, tmp_path, capfd):
    expected, found = resumed(whole.folder), []
    for seed in range(12):
        shutil.copytree(whole.folder, tmp_path / "run")
        flip_bit(np.random.default_rng(seed), tmp_path / "run")
        outcome = outcome_of(lambda: found.append(resumed(tmp_path / "run")))
        assert outcome.kind != "fault", outcome.text
        shutil.rmtree(tmp_path / "run")
    earlier = [texts for _, texts in found if texts != expected[1]]
    assert all("Done(iteration=3," in texts[1] for texts in earlier), "the checkpoint before the damaged one"
    for arrays, texts in found:
        if texts == expected[1]:
            assert_trees_equal(arrays, expected[0])


def test_two_shorter_runs_are_one_long_run(whole, config, tmp_path):
    """2 + 4 iterations; the budget may be raised because the step size does not depend on it here."""
    first = jaxppo.train(with_steps(config, 2), output=tmp_path / "run", progress=False)
    assert first.summary["train"]["iterations"] == 2
    check_same_run(jaxppo.train(config, output=tmp_path / "run", resume=True, progress=False), whole, config)


def test_a_schedule_goes_on_where_it_was(config, tmp_path, monkeypatch):
    """The share of the budget that is spent, which sets the step size: 0/6, 1/6, ... 5/6 across an interruption."""
    given, compile_ = [], loop._compile

    def recording(*arguments):
        iterate = compile_(*arguments)
        return lambda state, params, spent, n: given.extend(spent[:n]) or iterate(state, params, spent, n)

    monkeypatch.setattr(loop, "_compile", recording)
    with monkeypatch.context() as patch:
        stop_in(patch, 4, lambda: os.kill(os.getpid(), signal.SIGINT))
        assert jaxppo.train(config, output=tmp_path / "run", progress=False).summary is None
    assert len(given) == 4
    jaxppo.train(config, output=tmp_path / "run", resume=True, progress=False, evaluator=unreported)
    assert given == pytest.approx([n / 6 for n in range(6)], rel=1e-6)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_first(number, whole, workplace, tmp_path, monkeypatch, capfd):
    before = signal.getsignal(number)
    arguments = ("train", "--config", workplace / "tiny.yaml", "--output", tmp_path / "run")
    with monkeypatch.context() as patch:
        stop_in(patch, 4, lambda: os.kill(os.getpid(), number))
        assert command(*arguments) == 128 + number
    assert "stopped after iteration 4; continue with jaxppo train --resume --output" in capfd.readouterr().err
    assert signal.getsignal(number) == before
    assert not (tmp_path / "run" / "summary.json").exists()
    saved = load_config(tmp_path / "run" / "config.yaml")
    best_policy(tmp_path / "run", trainer.build(saved, trainer.load_data(saved)))
    assert f"{tmp_path / 'run'}: is not finished" in capfd.readouterr().err
    assert json.loads((tmp_path / "run" / "metadata.json").read_text())["wall_seconds"] > 0
    assert Checkpoints(tmp_path / "run" / "checkpoints" / "last", 2).latest == 4
    assert command("train", "--resume", "--output", tmp_path / "run") == 0
    result = dataclasses.replace(whole, folder=tmp_path / "run")
    assert [*map(without_times, rows_of(result.folder))] == [*map(without_times, rows_of(whole.folder))]
    assert json.loads((result.folder / "summary.json").read_text())["out_of_sample"] == whole.summary["out_of_sample"]


def test_a_profile_says_where_the_time_went_and_changes_no_figure(whole, workplace, tmp_path, capsys):
    config, folder = workplace / "tiny.yaml", tmp_path / "run"
    assert command("train", "--config", config, "--output", folder, "--quiet", "--profile") == 0
    printed = capsys.readouterr().out
    for part in ("compiling", "training", "evaluating", "report"):
        assert re.search(rf"\n  {part} +\d+\.\d s +\d+\.\d%\n", printed), part
    for part in ("rollout: bars", "update: heads and losses, backward", "update: optimiser"):
        assert re.search(rf"\n  {part} +\d+\.\d%\n", printed), part
    assert list((folder / "profile").glob("**/*.xplane.pb"))
    assert [*map(without_times, rows_of(folder))] == [*map(without_times, rows_of(whole.folder))]


def test_the_next_commands_work_as_written(config, whole, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(whole.folder, tmp_path / "my runs" / "first one")
    for line in next_commands(pathlib.Path("my runs/first one"), config):
        program, *arguments = shlex.split(line)
        assert program == "jaxppo"
        assert main(arguments) == 0, capsys.readouterr().err
    assert (tmp_path / "policies" / "first one" / "manifest.json").exists()


@pytest.mark.parametrize(
    "section",
    [{"exits": {"take_profit": 0.1}}, {"limit_orders": {"offset": 0.0}}, {"data": {"dividends": "paid"}}],
    ids=str,
)
def test_what_cannot_be_live_is_not_exported_next(section):
    lines = next_commands(pathlib.Path("run"), tiny_config(**section))
    assert [line.split()[1] for line in lines] == ["backtest", "monte-carlo"]


def test_what_to_try_after_nothing_was_learned_works_as_written(config, whole, tmp_path, monkeypatch, capsys):
    """Longer, with other rates in a sweep, or help on columns; the trainings themselves are left out."""
    monkeypatch.chdir(tmp_path)
    folder = pathlib.Path("my runs/first one")
    shutil.copytree(whole.folder, folder)
    wide = config.model_copy(update={"env": config.env.model_copy(update={"position_limit": 0.3})})
    lines, given = next_attempts(folder, wide, 768), {}
    assert len(lines) == 3

    def left_out(name):
        def start(config, **options):
            if options["resume"]:
                run_folder.check_same_run(run_folder.open_folder(folder)[1], config)
            given[name] = config
            return types.SimpleNamespace(summary=None, signal=None)

        return start

    monkeypatch.setattr(jaxppo, "train", left_out("train"))
    monkeypatch.setattr(jaxppo.sweep, "sweep", left_out("sweep"))
    for line in lines:
        program, *arguments = shlex.split(line)
        assert (program, main(arguments)) == ("jaxppo", 0), capsys.readouterr().err
    assert given["train"].training.steps == 4 * 768
    assert given["sweep"].env.position_limit == 0.6
    assert list(given["sweep"].sweep.parameters) == ["ppo.learning_rate"]
    sweep_members.check(given["sweep"])
    assert "features.columns" in capsys.readouterr().out


@pytest.mark.slow
def test_programs_from_the_disk_train_to_the_same_figures(whole, workplace, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trainer, "make_learner", make_learner)  # one for each run, which must be compiled
    for name in ("compiled", "found"):
        given = ("--output", tmp_path / name, "--quiet", "--compilation-cache", tmp_path / "programs")
        assert command("train", "--config", workplace / "tiny.yaml", *given) == 0
    first, second = re.findall(r"compilation cache \S+: (\d+) programs found, (\d+) added", capsys.readouterr().err)
    assert int(first[1]) > 0
    assert int(second[0]) > 0
    folder = tmp_path / "found"
    assert [*map(without_times, rows_of(folder))] == [*map(without_times, rows_of(whole.folder))]


def test_a_second_signal_stops_at_once(workplace, tmp_path, monkeypatch, capfd):
    def twice():
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)

    stop_in(monkeypatch, 4, twice)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts without it
    try:
        assert command("train", "--config", workplace / "tiny.yaml", "--output", tmp_path / "run") == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capfd.readouterr().err.endswith("interrupted\n")
    assert [row["iteration"] for row in rows_of(tmp_path / "run")] == [1, 2, 3]


def test_resuming_a_finished_run_only_evaluates_again(whole, config, tmp_path):
    shutil.copytree(whole.folder, tmp_path / "run")
    before = snapshot(tmp_path / "run")
    again = jaxppo.train(config, output=tmp_path / "run", resume=True, progress=False)
    assert_trees_equal(again.params, whole.params)
    same = ("train", "validation", "out_of_sample")
    assert [again.summary[part] for part in same] == [whole.summary[part] for part in same], (
        "not even a clock has moved"
    )
    after = snapshot(tmp_path / "run")
    for name in ("metrics.jsonl", "config.yaml"):
        assert after[name] == before[name]
    assert {name for name in after if "checkpoints" in name} == {name for name in before if "checkpoints" in name}
    more_intervals = config.evaluation.model_copy(update={"level": 0.6})
    changed = config.model_copy(update={"evaluation": more_intervals})
    wide, narrow = (
        result.summary["out_of_sample"]["baseline"]["buy_and_hold"]["sharpe_ci"]
        for result in (whole, jaxppo.train(changed, output=tmp_path / "run", resume=True, progress=False))
    )
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_a_smaller_budget_than_was_spent_still_has_a_result(config, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_in(patch, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert jaxppo.train(config, output=tmp_path / "run", progress=False).summary is None
    result = jaxppo.train(with_steps(config, 1), output=tmp_path / "run", resume=True, progress=False)
    assert result.summary["validation"]["evaluations"] == 1
    assert result.summary["train"]["iterations"] == 2, "nothing had been evaluated yet"


def test_seeds(whole, config, tmp_path):
    short, quiet = with_steps(config, 1), {"progress": False, "evaluator": unreported}
    results = [
        jaxppo.train(short.model_copy(update={"seed": seed}), output=tmp_path / str(n), **quiet)
        for n, seed in enumerate((7, 7, 8))
    ]
    assert_trees_equal(results[0].params, results[1].params)
    with pytest.raises(AssertionError):
        assert_trees_equal(results[0].params, results[2].params)
    assert rows_of(results[0].folder)[0]["loss"] == rows_of(whole.folder)[0]["loss"]


@pytest.mark.slow
def test_a_market_given_in_python_needs_no_times(config, tmp_path):
    market = simulators.gbm(jax.random.key(3), N_BARS, 2)
    result = jaxppo.train(with_steps(config, 1), output=tmp_path / "run", market=market, progress=False)
    out = result.summary["out_of_sample"]
    assert (out["first_bar"], out["last_bar"]) == (252 + 63 + 5, N_BARS - 1)
    again = jaxppo.backtest.run(tmp_path / "run", market=market)
    assert again == out
    assert "320 to 419" in jaxppo.backtest.describe(again)
    with pytest.raises(ConfigError, match="the prices of this run were given in Python; give them again"):
        jaxppo.backtest.run(tmp_path / "run")
    other = simulators.gbm(jax.random.key(4), N_BARS, 2)
    with pytest.raises(ConfigError, match="prices are not those"):
        jaxppo.backtest.run(tmp_path / "run", market=other)
    assert "a market given in Python" in (tmp_path / "run" / "report.html").read_text()


def test_a_run_without_a_name_overwrites_nothing(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"name": "quick", "progress": False, "evaluator": unreported}
    folders = [jaxppo.train(with_steps(config, 1), **given).folder for _ in range(2)]
    assert [str(folder) for folder in folders] == ["runs/quick", "runs/quick-2"]


def breaking(what, at=4, times=99):
    """`_compile` whose iteration `at` is lost the first `times` it is trained."""
    compile_, seen = loop._compile, []

    def compiled(run, done):
        iterate = compile_(run, done)

        def broken(state, params, spent, n):
            before = int(state.iteration)
            state, rows, number = iterate(state, params, spent, n)
            if before < at <= int(state.iteration) and len(seen) < times:
                seen.append(at)
                if what == "network":
                    state = state.replace(params=jax.tree.map(lambda x: x * jnp.nan, state.params))
                else:
                    lost = 2.0 if what == "skipped_updates" else jnp.inf
                    rows = rows.at[at - 1 - before, run.metrics.index(what)].set(lost)
            return state, rows, number

        return broken

    return compiled


@pytest.mark.parametrize(
    "what",
    ["value_loss", *(pytest.param(name, marks=pytest.mark.slow) for name in ("network", "skipped_updates"))],
)
def test_a_lost_iteration_is_trained_again_with_half_the_step(what, whole, config, tmp_path, monkeypatch, capsys):
    """From the last checkpoint; what came before is the run that nothing interrupts."""
    monkeypatch.setattr(loop, "_compile", breaking(what, times=1))
    result = jaxppo.train(config, output=tmp_path / "run", progress=False)
    found = {
        "value_loss": "value_loss is inf",
        "network": "validation_sharpe is nan",
        "skipped_updates": "2 of 2 updates",
    }
    said = capsys.readouterr().err
    assert re.search(
        f"iteration 4 is lost, .*{found[what]}.*: back to iteration [123] with a learning rate of 0.005", said
    )
    ours, plain = rows_of(tmp_path / "run"), rows_of(whole.folder)
    assert [row["iteration"] for row in ours] == [1, 2, 3, 4, 5, 6]
    back = int(re.search("back to iteration ([123])", said)[1])
    assert list(map(without_times, ours[:back])) == list(map(without_times, plain[:back]))
    for mine, theirs in zip(ours[back:], plain[back:], strict=True):
        assert mine["learning_rate"] == pytest.approx(0.5 * theirs["learning_rate"])
    assert result.summary["train"]["halvings"] == 1
    assert result.summary["train"].get("skipped_updates", 0) == (2 if what == "skipped_updates" else 0)
    monkeypatch.undo()
    again = jaxppo.train(with_steps(config, 7), output=tmp_path / "run", resume=True, progress=False)
    assert rows_of(again.folder)[-1]["learning_rate"] < 0.006, "a continued run keeps its smaller step"


@pytest.mark.slow
def test_a_run_that_is_lost_again_and_again_says_so(config, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_compile", breaking("value_loss"))
    with pytest.raises(
        ConfigError, match=r"diverged in iteration 4: value_loss is inf.*0.01, and halved 3 times: 0.00125"
    ):
        jaxppo.train(config, output=tmp_path / "run", progress=False)
    assert None in rows_of(tmp_path / "run")[-1].values()
    assert rows_of(tmp_path / "run")[-1]["iteration"] == 4
    monkeypatch.setattr(loop, "_compile", breaking("reward", at=1))
    with pytest.raises(
        ConfigError, match="iteration 1: reward is inf before anything was learned; the environment made it"
    ):
        jaxppo.train(config, output=tmp_path / "other", progress=False)


def test_all_devices_give_the_same_run_as_one(whole, config, tmp_path):
    devices = config.training.model_copy(update={"devices": 4})
    many = jaxppo.train(config.model_copy(update={"training": devices}), output=tmp_path / "run", progress=False)
    assert json.loads((many.folder / "metadata.json").read_text())["devices"] == ["cpu"] * 4
    for one, other in zip(rows_of(whole.folder), rows_of(many.folder), strict=True):
        assert without_times(one) == pytest.approx(without_times(other), rel=1e-3, abs=1e-5)
    pairs = zip(jax.tree.leaves(many.params), jax.tree.leaves(whole.params), strict=True)
    assert max(np.abs(one - other).max() for one, other in pairs) < 1e-4
    expected = numbers_of(whole.summary["out_of_sample"])
    assert numbers_of(many.summary["out_of_sample"]) == pytest.approx(expected, rel=1e-3, abs=1e-4)


def numbers_of(tree):
    """The numbers of a summary, flat."""
    return {f"{path}": leaf for path, leaf in jax.tree.leaves_with_path(tree) if isinstance(leaf, float)}


@pytest.mark.slow
def test_the_real_command(workplace, config, tmp_path, capfd):
    """In processes of their own: SIGTERM while training, then resume; the state is that of a run in one piece."""
    output = tmp_path / "run"
    train = [sys.executable, str(ROOT / "scripts" / "train.py")]
    environment = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_PLATFORMS": "cpu"}

    def start(*arguments):
        return subprocess.Popen(
            [*train, *(str(argument) for argument in arguments)],
            cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    first = start("--config", workplace / "tiny.yaml", "--output", output, "--minutes", 5)
    deadline = time.monotonic() + 120
    while not (output / "metrics.jsonl").exists() or len(rows_of(output)) < 3:
        assert first.poll() is None, first.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    first.send_signal(signal.SIGTERM)
    _, err = first.communicate(timeout=120)
    assert first.returncode == 128 + signal.SIGTERM, err
    done = len(rows_of(output))
    assert f"stopped after iteration {done}; continue with jaxppo train --resume" in err
    second = start("--resume", "--output", output, "--steps", (done + 2) * STEPS_PER_ITERATION)
    out, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
    assert "data: prices.csv" in err
    assert "buy_and_hold" in out
    assert f"report: {output / 'report.html'}" in out
    whole = jaxppo.train(with_steps(config, done + 2), output=tmp_path / "whole", progress=False)
    assert_trees_equal(state_of(output, config)[0], state_of(whole.folder, config)[0])
    assert [row["iteration"] for row in rows_of(output)] == list(range(1, done + 3))
    capfd.readouterr()
    assert command("backtest", "--run", output) == 0
    again = capfd.readouterr().out.splitlines()
    assert again == out.splitlines()[: len(again)]
    assert {"agent", "buy_and_hold"} <= {line.split()[0] for line in again}


@pytest.mark.slow
def test_nothing_is_earned_on_a_market_without_structure():
    """Sharpe ratios before costs of agents trained on driftless random walks: z-scores that pool to noise.

    Under the null `mean / deviation * sqrt(n)` of the returns is standard normal whatever the position, so the sum over
    independent markets, divided by the root of their number, is too. A rule that knows the next bar is caught at once.
    """
    free = {"commission_bps": 0.0, "spread_multiplier": 0.0, "slippage": 0.0, "impact": 0.0, "borrow_rate": 0.0}
    config = tiny_config(costs={**free, "margin_rate": 0.0, "participation_limit": None})
    markets = [simulators.gbm(jax.random.key(seed), N_BARS, 2) for seed in range(16)]
    setup = build(config, markets[0])
    learner, scores, cheats = None, [], []
    for seed, market in enumerate(markets):
        params = setup.env.make_params(market, setup.params.costs, episode_bars=16)
        setup = dataclasses.replace(setup, market=market, params=params)
        policy, net = make_actor_critic(setup.encoder, setup.action, jax.random.key(seed))
        learner = learner or make_learner(
            trading_task(policy, setup.env, setup.ppo), setup.ppo, data_mesh(setup.devices)
        )
        state = learner.init(net, seed, setup.period_params("train"))
        for _ in range(15):
            state, _ = learner.iterate(state, learner.replicate(setup.period_params("train")), jnp.float32(0.0))
        test = setup.periods["test"]
        score = quick_score(setup, policy, jax.device_get(state.params), "test")
        scores.append(score["sharpe"] * (test.n_bars / setup.periods_per_year) ** 0.5)
        assert score["turnover"] > 0 or score["sharpe"] == 0
        knows = jnp.sign(market.close[test.first + 1 : test.last + 1] - market.open[test.first + 1 : test.last + 1])
        ledger = tiny.run_rule(
            lambda portfolio, seen, next_move, _: (next_move / 2, jnp.zeros(2, bool)),
            knows, setup.env, params, jnp.int32(test.first), test.n_bars,
        )  # fmt: skip
        cheats.append(ledger.returns.mean() / ledger.returns.std() * test.n_bars**0.5)
    assert sum(score != 0 for score in scores) >= 5, "agents that never trade prove nothing"
    assert abs(sum(scores)) / len(scores) ** 0.5 < 3.0
    assert sum(cheats) / len(cheats) ** 0.5 > 20.0
