"""Bars and phases on stderr: what is shown, in which order, and nothing where stderr is no terminal."""

import contextlib
import io
import re
import sys

import pytest

from jaxppo.run import progress
from jaxppo.run.progress import Progress, announce, phases


class Terminal(io.StringIO):
    """A stderr that is a terminal."""

    def isatty(self):
        return True


def terminal_in(monkeypatch):
    """What is written to it; within a test, as pytest has a stderr of its own between fixtures and test."""
    found = Terminal()
    monkeypatch.setattr(sys, "stderr", found)
    return found


def test_phases_are_named_in_a_line_that_goes(monkeypatch):
    terminal = terminal_in(monkeypatch)
    with phases(True):
        announce("reading prices")
        announce("building")
    announce("after")
    written = terminal.getvalue()
    assert re.findall(r"\r\x1b\[K([a-z ]+)  0:00\r", written) == ["reading prices", "building"]
    assert written.endswith("\r\x1b[K"), "the line is cleared"
    assert "\n" not in written
    assert "after" not in written


def test_the_time_of_a_phase_goes_on(monkeypatch):
    terminal = terminal_in(monkeypatch)
    clock = iter(range(0, 1000, 70))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(progress, "TICK", 1000.0)
    with phases(True):
        announce("compiling")
    assert "compiling  1:10" in terminal.getvalue()


def test_a_bar_takes_the_place_of_a_phase_and_gives_it_back(monkeypatch):
    terminal = terminal_in(monkeypatch)
    with phases(True):
        announce("building")
        with contextlib.closing(Progress(100, None, True, unit="path")) as bar:
            announce("trading")
            bar.update(50, 0.0)
        announce("report")
    written = terminal.getvalue()
    places = [written.index(text) for text in ("building  0:00", "trading:", "report  0:00")]
    assert places == sorted(places)
    assert "50.0/100" in written
    assert "path/s" in written
    assert "report:" not in written, "the bar is closed"


def test_the_log_of_a_batch_job_gets_few_drawings(monkeypatch):
    drawn = {}
    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
        with contextlib.closing(Progress(100, None, True)) as bar:
            announce("training")
            for done in range(1, 101):
                bar.update(done, 0.0, sharpe=f"{done}")
        written = stream.getvalue()
        assert "100/100" in written, "the last state stays"
        assert "sharpe=100" in written
        drawn[type(stream)] = written.count("\r")
    assert drawn[Terminal] > 100
    assert drawn[io.StringIO] < 6


@pytest.mark.parametrize("enabled", [False, True])
def test_nothing_is_shown_in_a_file(enabled, monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    with phases(enabled):
        announce("building")
    assert file.getvalue() == ""


def test_nothing_is_shown_where_it_is_not_wanted(monkeypatch):
    terminal = terminal_in(monkeypatch)
    with phases(False):
        announce("building")
    assert terminal.getvalue() == ""


def test_an_error_leaves_no_display(monkeypatch):
    terminal = terminal_in(monkeypatch)
    with contextlib.suppress(ZeroDivisionError), phases(True):
        announce("building")
        raise ZeroDivisionError
    assert terminal.getvalue().endswith("\r\x1b[K")
    length = len(terminal.getvalue())
    announce("more")
    assert len(terminal.getvalue()) == length
