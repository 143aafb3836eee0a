"""`jaxppo watch`: what it says of folders in every state; real folders are watched in the tests of what makes them."""

import json
import os
import socket
import subprocess
import sys

import pytest
import yaml
from folders import ROOT

from jaxppo.cli.commands import watch
from jaxppo.cli.main import main
from jaxppo.cli.watching import Watched, bar, curve, duration, progress_of
from jaxppo.errors import ConfigError
from jaxppo.run.lock import owned

CONFIG = {
    "training": {"steps": 10_000, "episodes": None, "minutes": None},
    "env": {"episode_chunks": 2},
    "ppo": {"paths": 8, "portfolios": 2, "chunk": 8},
}


def row(iteration, **more):
    return {"iteration": iteration, "env_steps": 128 * iteration, "steps_per_second": 64.0, "sharpe": 0.5, **more}


def write_rows(folder, rows, mode="w"):
    with (folder / "metrics.jsonl").open(mode) as file:
        file.writelines(json.dumps(each) + "\n" for each in rows)


@pytest.fixture
def folder(tmp_path):
    """A run that has begun."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    (tmp_path / "run" / "metadata.json").write_text(json.dumps({"finished": False}))
    return tmp_path / "run"


def test_states_of_a_run(folder):
    watched = Watched(folder)
    assert watched.look().state == "interrupted", "nothing owns it"
    with owned(folder):
        assert watched.look()[::2] == ("compiling", False)
        write_rows(folder, [row(1)])
        view = watched.look()
        assert view[::2] == ("training", False)
        assert view.lines[0] == f"{folder}: training, by process {os.getpid()} on {socket.gethostname()}"
        assert "  1%  iteration 1  128 of 10,000 steps  2:34 left" in view.lines[1], "9,872 steps at 64 a second"
        assert "64 steps/s  sharpe +0.5" in view.lines[2]
        write_rows(folder, [row(79)], "a")
        assert watched.look().state == "evaluating", "the budget is spent"
        (folder / "metadata.json").write_text(json.dumps({"finished": True}))
        tested = {"sharpe": 0.96, "sharpe_ci": [-0.2, 2.25], "total_return": 0.519, "max_drawdown": 0.163}
        (folder / "summary.json").write_text(json.dumps({"out_of_sample": tested}))
        (folder / "report.html").write_text("")
        view = watched.look()
    assert view[::2] == ("finished", True)
    assert view.lines[-2:] == [
        "  test        Sharpe 0.96 (-0.20 .. 2.25), return 51.9%, drawdown 16.3%",
        f"  report      {folder / 'report.html'}",
    ]


def test_a_process_that_is_gone_is_an_interruption(folder):
    (folder / ".lock").write_text(json.dumps({"pid": 2**22 + 1, "host": socket.gethostname(), "started": "0"}))
    write_rows(folder, [row(1)])
    assert Watched(folder).look()[::2] == ("interrupted", True)
    (folder / ".lock").write_text(json.dumps({"pid": 2**22 + 1, "host": "elsewhere", "started": "0"}))
    assert Watched(folder).look().state == "training", "of another machine nothing is known"


def test_only_whole_rows_are_read_and_a_resumed_run_anew(folder):
    watched = Watched(folder)
    write_rows(folder, [row(1), row(2)])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 3, "env_st')
    assert "iteration 2 " in watched.look().lines[1]
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('eps": 384, "steps_per_second": 64.0, "sharpe": null}\n')
    assert "iteration 3 " in watched.look().lines[1]
    write_rows(folder, [row(1)])
    assert "iteration 1 " in watched.look().lines[1]


def test_validations_and_the_best_of_them(folder):
    write_rows(
        folder, [row(1), row(2, validation_sharpe=0.7, validation_sharpe_error=9.0), row(3, validation_sharpe=-1)]
    )
    (folder / "checkpoints" / "best" / "2").mkdir(parents=True)
    lines = Watched(folder).look().lines
    assert "  validation  iteration 3: sharpe -1" in lines
    assert "  best so far iteration 2: sharpe +0.7" in lines


@pytest.mark.parametrize(
    ("budget", "share", "left", "words"),
    [
        ({"steps": 1024}, 0.25, 12.0, "256 of 1,024 steps"),
        ({"episodes": 100}, 0.16, 21.0, "256 of 1,600 steps"),  # of 2 chunks of 8 bars
        ({"minutes": 0.5}, 4 / 30, 26.0, "0:04 of 0.5 min"),  # 128 / 64 seconds an iteration
        ({"minutes": 0.1, "episodes": 100}, 4 / 6, 2.0, "0:04 of 0.1 min"),
        ({"steps": 128}, 1.0, 0.0, "256 of 128 steps"),
    ],
)
def test_what_is_left_of_a_budget(budget, share, left, words):
    config = {**CONFIG, "training": {"steps": None, "episodes": None, "minutes": None, **budget}}
    found = progress_of([row(1), row(2)], config)
    assert found == (pytest.approx(share), pytest.approx(left), words)


def test_text_of_bars_curves_and_durations():
    assert bar(0.5) == f"[{'#' * 15}{'.' * 15}]"
    assert (bar(0.0).count("#"), bar(1.0).count("."), bar(7.0).count("#")) == (0, 0, 30)
    assert curve([0.0, 1.0, None, 0.5]) == "▁█ ▅  +0 to +1"
    assert curve([2.0] * 100, width=10) == "▁" * 10 + "  +2 to +2"
    assert curve(range(8)) == "▁▂▃▄▅▆▇█  +0 to +7"
    assert curve([None]) == ""
    assert [duration(seconds) for seconds in (0, 59.6, 3599, 3600, 90061)] == [
        "0:00",
        "1:00",
        "59:59",
        "1:00:00",
        "25:01:01",
    ]


def test_a_monte_carlo_job(tmp_path):
    job = {"n_paths": 1000, "batch_size": 32, "part_size": 128, "shard": [1, 2]}
    (tmp_path / "job.json").write_text(json.dumps(job))
    (tmp_path / "parts").mkdir()
    for number in range(2):
        (tmp_path / "parts" / f"part_{number}.parquet").write_text("")
    with owned(tmp_path):
        view = Watched(tmp_path).look()
    assert view.state == "running"
    assert "50%  2 of 4 parts of 1,000 paths" in view.lines[1], "16 of 32 batches, 4 in a part"


def test_a_walk_forward_that_trains(folder):
    (folder / "metadata.json").write_text(json.dumps({"finished": False, "kind": "walk_forward"}))
    trials = [{"run": name, "fold": 2, "seed": 7, "iteration": 10, "sharpe": 0.4} for name in ("run", "other", "run")]
    (folder.parent / "trials.jsonl").write_text("".join(json.dumps(trial) + "\n" for trial in trials))
    with owned(folder):
        view = Watched(folder).look()
    assert view.state == "training"
    assert view.lines[1] == "  2 evaluations; the newest: fold 2, seed 7, iteration 10 of 79, Sharpe +0.40"


def test_what_cannot_be_watched(tmp_path, folder, capsys):
    for arguments, needle in (
        ([str(tmp_path / "nowhere")], "no such folder"),
        ([str(tmp_path)], "not the folder of a run"),
        ([str(folder), "--every", "0"], "--every is '0'"),
        ([str(folder), "--every", "nan"], "--every is 'nan'"),
        ([], "required"),
    ):
        assert main(["watch", *arguments]) == 2
        assert needle in capsys.readouterr().err


@pytest.mark.parametrize(
    "rows", [[{"iteration": 1}], [row("x")], [row(1, steps_per_second=0.0)], [row(1, steps_per_second=None)], [row(0)]]
)
def test_damaged_metrics_are_one_line(rows, folder):
    config = {**CONFIG, "training": {"minutes": 1}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    write_rows(folder, rows)
    with pytest.raises(ConfigError, match=r"run: damaged: "):
        Watched(folder).look()


def test_what_a_terminal_would_act_on_is_not_printed(folder):
    owner = {"pid": 1, "host": "\x1b[2Jelsewhere", "started": "0"}
    (folder / ".lock").write_text(json.dumps(owner))
    assert "on ?[2Jelsewhere" in Watched(folder).look().lines[0]


def test_a_view_takes_the_place_of_the_one_before_on_a_terminal(folder, monkeypatch, capsys):
    looks = iter([row(1), row(2)])

    def next_look(seconds):
        assert seconds == 0.5
        new = next(looks, None)
        if new is None:
            (folder / "metadata.json").write_text(json.dumps({"finished": True}))
        else:
            write_rows(folder, [new], "a")

    monkeypatch.setattr(watch.time, "sleep", next_look)
    monkeypatch.setattr(watch.sys.stdout, "isatty", lambda: True, raising=False)
    with owned(folder):
        assert main(["watch", str(folder), "--every", "0.5"]) == 0
    out = capsys.readouterr().out
    assert out.count("\x1b[J") == 3, "four looks"
    assert out.index("compiling") < out.index("training") < out.index("finished")


def test_without_a_terminal_only_changes_are_printed(folder):
    write_rows(folder, [row(1)])
    call = [sys.executable, "-m", "jaxppo", "watch", str(folder)]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{folder}: interrupted\n")
    assert done.stdout.endswith(f"continue with jaxppo train --resume --output {folder}\n")
    assert "\x1b" not in done.stdout


def test_a_sweep_has_no_figures_while_it_trains_and_ends_finished(folder, capsys):
    (folder / "metadata.json").write_text(json.dumps({"kind": "sweep"}))
    with owned(folder):
        assert main(["watch", str(folder), "--once"]) == 0
    assert ": training" in capsys.readouterr().out
    (folder / "metadata.json").write_text(json.dumps({"finished": True}))
    assert main(["watch", str(folder), "--once"]) == 0
    assert ": finished" in capsys.readouterr().out
