"""What a command leaves to the shell: one line and an exit code."""

import errno
import signal
import subprocess
import sys

import pytest
from folders import ROOT

from jaxppo.cli import run
from jaxppo.errors import ConfigError, DataError


def failing(error):
    def main(arguments):
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("no such key"), 2, "error: no such key"),
        (DataError("no price"), 2, "error: no price"),
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), 74, "error: No space left on device: a/b; what was"),
        (
            PermissionError(errno.EACCES, "Permission denied", "run"),
            74,
            "error: Permission denied: run; what was saved",
        ),
        (OSError(errno.EROFS, "Read-only file system"), 74, "error: Read-only file system; what was saved before"),
        (ValueError("RESOURCE_EXHAUSTED: No space left on device [x]"), 74, "error: No space left on device: a check"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_mistakes_and_machines_are_one_line(error, code, line, capsys):
    assert run(failing(error), []) == code
    printed = capsys.readouterr().err
    assert printed.startswith(line)
    assert printed.count("\n") == 1


def test_other_errors_are_not_hidden():
    with pytest.raises(ValueError, match="a bug"):
        run(failing(ValueError("a bug")), [])


@pytest.mark.parametrize(("stopped", "code"), [(None, 0), (signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_command_is_not_a_finished_one(stopped, code):
    assert run(lambda arguments: stopped, []) == code


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_signal_ends_a_command_in_one_line(number, code, wrapped, capsys):
    """Also where a library makes an error of its own of it."""

    def main(arguments):
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            if wrapped:
                raise ImportError("half of a library") from None
            raise

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts without it
    try:
        assert run(main, []) == code
        assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "interrupted\n"


SWALLOWING = """
import os, pathlib, signal, sys, time
from jaxppo.cli import run

def main(arguments):
    try:
        signal.raise_signal(int(sys.argv[1]))
    except BaseException:  # as libraries do while they are imported
        pass
    time.sleep(60)

sys.exit(run(main))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_the_first_seconds_is_not_swallowed(number, code):
    arguments = [sys.executable, "-c", SWALLOWING, str(int(number))]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=30, restore_signals=True)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "interrupted\n")
