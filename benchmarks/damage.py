"""What becomes of a run, a walk-forward and a Monte Carlo job that are damaged or killed?

    python -m benchmarks.damage flips|damages|kills|all [--number N] [--seed 0]

`flips`: one bit of one file of a finished run is flipped (300 times); the run is opened for a resume and for a
backtest. `damages`: a file is cut, deleted, emptied, swapped with another, replaced by a folder, a link or junk, or
said to be of a newer version (60 times, over a run, a walk-forward and a job); resume, backtest and job are done for
real. `kills`: commands in processes of their own get SIGKILL, SIGTERM or SIGINT at a random moment (40 times) and are
continued. Each must be refused in one line, be harmless, or go on to the same bits; nothing outside may change.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import importlib
import io
import json
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import jax
import numpy as np
import yaml
from jax._src import xla_bridge

from benchmarks.fuzz import TREE, script
from benchmarks.mutations import DAMAGES, Outcome, damage, flip_bit, outcome_of, prices
from benchmarks.recording import record
from jaxppo.cli import run
from jaxppo.run import saved as saved_run
from jaxppo.run.build import build
from jaxppo.run.data import load_data
from jaxppo.run.lock import NAME
from jaxppo.training import experiment, trainer

BARS = 300
FOLDS = ("--walk_forward.train_bars", "120", "--walk_forward.test_bars", "60")
NUMBERS = {"flips": 300, "damages": 60, "kills": 40}
CLOCKS = ("seconds", "steps_per_second", "compile_seconds", "elapsed", "wall_seconds")


def command(name: str, *arguments: str) -> int:
    """Exit code of a script, run in this process."""
    return run(script(name), list(arguments))


JOBS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "run": (
        ("train", "--config", "tiny.yaml", "--output", "run"),
        ("train", "--resume", "--output", "run"),
    ),
    "walk": (
        ("walk_forward", "--config", "tiny.yaml", *FOLDS, "--output", "walk"),
        ("walk_forward", "--resume", "--output", "walk"),
    ),
    "paths": (
        ("monte_carlo", "--run", "source", "--paths", "96", "--batch", "16", "--bars", "30", "--output", "paths"),
        ("monte_carlo", "--run", "source", "--paths", "96", "--batch", "16", "--bars", "30", "--output", "paths"),
    ),
}
"""Folder -> the command that fills it, and the one that goes on with it."""


def prepare(folder: pathlib.Path) -> None:
    """Writes prices and a configuration of six iterations, two checkpoints and three evaluations."""
    prices(BARS).to_csv(folder / "prices.csv", index=False)
    training = {"steps": 6 * 128, "devices": 1, "evaluate_every": 2, "checkpoint_every": 3}
    tree = {**TREE, "training": training, "evaluation": {"bootstrap_resamples": 100}}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")


def results_of(folder: pathlib.Path) -> Any:
    """The figures that a folder ends with, without those of a clock."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(one) for key, one in value.items() if key not in CLOCKS}
        return [plain(one) for one in value] if isinstance(value, list) else value

    summary = plain(json.loads((folder / "summary.json").read_text(encoding="utf-8")))
    summary.pop("selection", None)  # depends on what else the register has seen
    rows = (folder / "metrics.jsonl").read_text(encoding="utf-8") if (folder / "metrics.jsonl").exists() else ""
    return summary, [plain(json.loads(line)) for line in rows.splitlines()]


def outside(place: pathlib.Path) -> dict[str, int]:
    """What lies where links lead to, and when it was written."""
    return {str(path): path.lstat().st_mtime_ns for path in place.rglob("*")}


NAMED = "the checkpoint before it is tried"
"""What a resume says of a damaged checkpoint."""


# Flips: what is opened, without trading it.


@contextlib.contextmanager
def shared_parts() -> Iterator[None]:
    """Lets all openings of one configuration share prices, tables and compiled functions."""
    cached: dict[str, Any] = {}

    def once(function: Callable[..., Any], config: Any, *rest: Any, **options: Any) -> Any:
        key = f"{function.__name__} {config.model_dump_json()} {sorted(options.items())}"
        if key not in cached:
            cached[key] = function(config, *rest, **options)
        return cached[key]

    learner = functools.cache(trainer.make_learner)
    task = functools.cache(experiment.trading_task)
    with contextlib.ExitStack() as patches:
        for module in (trainer, saved_run):
            patches.enter_context(mock.patch.object(module, "load_data", functools.partial(once, load_data)))
            patches.enter_context(mock.patch.object(module, "build", functools.partial(once, build)))
        patches.enter_context(mock.patch.object(trainer, "make_learner", learner))
        patches.enter_context(mock.patch.object(experiment, "trading_task", task))
        yield


class _Opened(Exception):
    """Carries what a resume would go on with."""


def opened(folder: pathlib.Path) -> tuple[Any, Any]:
    """What a resume and a backtest of a run begin with: arrays, and everything else as text.

    Args:
      folder: of the run.

    Raises:
      jaxppo.ConfigError: it is refused.
    """
    state, texts = resumed(folder)
    tested = saved_run.load_run(folder)
    return (state, tested.params), (*texts, str(tested.setup.config))


def resumed(folder: pathlib.Path) -> tuple[Any, tuple[str, ...]]:
    """What a resume of a run begins with, see `opened`."""

    def stop(run: Any, state: Any, done: Any, *_: Any) -> None:
        raise _Opened(jax.device_get(state), done, trainer.run_folder.read_metrics(folder))

    config = trainer.run_folder.open_folder(folder)[1]
    with mock.patch.object(trainer, "_train", stop):
        try:
            trainer.train(config, output=folder, resume=True, progress=False)
        except _Opened as found:
            state, done, rows = found.args
    rows = [{name: value for name, value in row.items() if name not in CLOCKS} for row in rows]
    return state, (str(config), str(done), str(rows))


def flips(number: int, seed: int, place: pathlib.Path) -> dict[str, Any]:
    """Flips bits of a finished run, one at a time."""
    assert command(*JOBS["run"][0]) == 0
    counted: collections.Counter[str] = collections.Counter()
    faults: dict[str, str] = {}
    with shared_parts():
        newest = opened(place / "run")
        shutil.copytree(place / "run", place / "copy" / "run")
        shutil.rmtree(place / "copy" / "run" / "checkpoints" / "last" / "6")
        before = opened(place / "copy" / "run")
        shutil.rmtree(place / "copy")
        for turn in range(number):
            copy = place / "copy" / "run"
            shutil.copytree(place / "run", copy)
            where = flip_bit(np.random.default_rng(seed + turn), copy)

            errors = io.StringIO()

            def check(copy: pathlib.Path = copy, errors: io.StringIO = errors) -> None:
                with contextlib.redirect_stderr(errors):
                    (found, said) = opened(copy)
                arrays, texts = before if NAMED in errors.getvalue() else newest
                same = jax.tree.map(lambda x, y: np.array_equal(x, y, equal_nan=False), found, arrays)
                if not jax.tree.all(same) or said != texts:
                    raise AssertionError("opened as something else, without a word")

            found = outcome_of(check)
            named = "checkpoint before it" if NAMED in errors.getvalue() else "harmless"
            counted[named if found.kind == "accepted" else found.kind] += 1
            if found.kind == "fault":
                faults[where] = found.text
                print(f"flip {where}: {found.text}", flush=True)
            shutil.rmtree(place / "copy")
    return {"tried": number, **counted, "faults": faults}


# Damages: everything is done for real.


def damages(number: int, seed: int, place: pathlib.Path) -> dict[str, Any]:
    """Damages files of a finished run, a walk-forward and a job."""
    assert command(*JOBS["run"][0]) == 0
    shutil.copytree(place / "run", place / "source")
    for name in ("walk", "paths"):
        assert command(*JOBS[name][0]) == 0
    whole = {name: results_of(place / name) for name in JOBS}
    counted: collections.Counter[str] = collections.Counter()
    faults: dict[str, str] = {}
    for turn in range(number):
        generator = np.random.default_rng(seed + turn)
        name = ("run", "run", "paths", "walk", "paths", "run")[turn % 6]
        elsewhere = place / "elsewhere"
        elsewhere.mkdir()
        kept = place / "kept"
        shutil.copytree(place / name, kept)
        where = f"{name}: {damage(generator, place / name, DAMAGES[turn % len(DAMAGES)], elsewhere)}"
        before, found = outside(elsewhere), outcome_of(functools.partial(command, *JOBS[name][1]))
        if found.kind == "accepted" and results_of(place / name) != whole[name]:
            found = found._replace(kind="fault", text="other results")
        if found.kind != "fault" and name == "run" and turn % 12 == 0:
            tested = outcome_of(functools.partial(command, "backtest", "--run", "run"))
            found = tested if tested.kind == "fault" else found
        if outside(elsewhere) != before:
            found = found._replace(kind="fault", text="wrote outside of the folder")
        counted["harmless" if found.kind == "accepted" else found.kind] += 1
        if found.kind == "fault":
            faults[where] = found.text
        print(f"{where}: {found.kind} {found.text[:150]}", flush=True)
        for path in (place / name, elsewhere):
            shutil.rmtree(path)
        kept.rename(place / name)
    return {"tried": number, **counted, "faults": faults}


# Kills: in processes of their own.


def forked(arguments: tuple[str, ...], log: pathlib.Path, kill: tuple[int, float] | None = None) -> tuple[int, float]:
    """Exit code of a script in a forked process, negative where a signal ended it, and its seconds of the processor.

    Args:
      arguments: name of the script and its arguments.
      log: for its stderr.
      kill: signal, and the seconds of the processor after which it is sent: other load does not move the moment.
    """
    assert not xla_bridge._backends, "a process that has started JAX's backend cannot be forked"
    child = os.fork()
    if child == 0:
        descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(descriptor, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = [arguments[0], *arguments[1:]]
        code = 70
        try:
            code = run(script(arguments[0]))  # the arguments of the process, as of a command
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    while kill is not None and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if _processor_seconds(child) >= kill[1]:
            os.kill(child, kill[0])
            break
        time.sleep(0.01)
    _, status, used = os.wait4(child, 0)
    return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime


def _processor_seconds(process: int) -> float:
    """Seconds of the processor that a process has used."""
    fields = pathlib.Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


TURNS = ("run", "paths", "walk", "paths", "run", "paths")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def _killed(name: str, number: int, delay: float, place: pathlib.Path) -> Outcome:
    """Starts a command, kills it, and goes on with it until it is done."""
    began, log = time.monotonic(), place / "stderr"
    code, _ = forked(JOBS[name][0], log, (number, delay))
    said = log.read_text(encoding="utf-8", errors="replace")
    expected = (-signal.SIGKILL,) if number == signal.SIGKILL else (128 + number,)
    if code not in (0, *expected) or "Traceback" in said:
        return Outcome("fault", f"exit code {code}: {said[-300:]}", time.monotonic() - began)
    if code == 0:
        return Outcome("too late", "", time.monotonic() - began)
    code, _ = forked(JOBS[name][1], log)
    said = log.read_text(encoding="utf-8", errors="replace")
    if code == 2 and ("not a run folder" in said or "no such config file" in said):  # killed before there was one
        code, _ = forked(JOBS[name][0], log)
        said = log.read_text(encoding="utf-8", errors="replace")
    if code == 2 and said.count("error: ") == 1:
        return Outcome("refused", said[said.index("error: ") :].strip(), time.monotonic() - began)
    kind = "fault" if code else "continued"
    return Outcome(kind, f"exit code {code}: {said[-300:]}" if code else "", time.monotonic() - began)


def kills(number: int, seed: int, place: pathlib.Path) -> dict[str, Any]:
    """Kills commands at random moments, and continues them."""
    for package in ("backtest", "monte_carlo", "training.trainer", "walk_forward"):  # imported once, then forked
        importlib.import_module(f"jaxppo.{package}")
    lengths, whole = {}, {}
    for name, (start, _) in JOBS.items():
        for _ in range(2):  # the second time is the one with compiled programs
            shutil.rmtree(place / name, ignore_errors=True)
            code, lengths[name] = forked(start, place / "stderr")
            assert code == 0, (place / "stderr").read_text(encoding="utf-8")[-500:]
        whole[name] = results_of(place / name)
        if name == "run":
            shutil.copytree(place / "run", place / "source")
    counted: collections.Counter[str] = collections.Counter()
    faults: dict[str, str] = {}
    for turn in range(number):
        name, signal_number = TURNS[turn % len(TURNS)], SIGNALS[turn // len(TURNS) % len(SIGNALS)]
        delay = float(np.random.default_rng(seed + turn).uniform(0.02, 0.95)) * lengths[name]
        shutil.rmtree(place / name, ignore_errors=True)
        found = _killed(name, signal_number, delay, place)
        if found.kind in ("continued", "too late") and results_of(place / name) != whole[name]:
            found = found._replace(kind="fault", text="other results")
        if found.kind == "continued" and list((place / name).rglob(NAME)):
            found = found._replace(kind="fault", text="a lock was left")
        counted[found.kind] += 1
        where = f"{name}, {signal.Signals(signal_number).name} after {delay:.1f} s"
        if found.kind == "fault":
            faults[where] = found.text
        print(f"{where}: {found.kind} {found.text[:150]}", flush=True)
    return {"tried": number, **counted, "faults": faults, "seconds_of_a_command": lengths}


PARTS = {"kills": kills, "flips": flips, "damages": damages}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*PARTS, "all"])
    parser.add_argument("--number", type=int, help="of tries; default: as said above")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    root = pathlib.Path.cwd()
    # Kills first: they fork, which a process with a backend cannot.
    for name in PARTS if chosen.what == "all" else [chosen.what]:
        with tempfile.TemporaryDirectory() as folder:
            place = pathlib.Path(folder)
            os.chdir(place)
            prepare(place)
            found = PARTS[name](NUMBERS[name] if chosen.number is None else chosen.number, chosen.seed, place)
            os.chdir(root)
        print({key: value for key, value in found.items() if key != "faults"})
        print(f"wrote {record(f'damage_{name}', found)}")


if __name__ == "__main__":
    main()
