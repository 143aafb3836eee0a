"""What a command leaves to the shell: one line and an exit code."""

import errno
import signal

import pytest

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
