"""What the tests of sweeps share: each compiles a program for a number of agents once, and stops without a signal."""

import contextlib

import pytest

from jaxppo.sweep import training as sweeping


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """Sweeps of as many agents share a program: they differ in their folder and their values alone."""
    make, known = sweeping.compile_job, {}

    def compile_job(job, *arguments, **options):
        if len(job.agents) not in known:
            known[len(job.agents)] = make(job, *arguments, **options)
        return known[len(job.agents)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeping, "compile_job", compile_job)
        yield


@pytest.fixture
def stops(monkeypatch):
    """A list in the place of the signals that a sweep has received."""
    received = []

    @contextlib.contextmanager
    def stop_requested(saying):
        yield received

    monkeypatch.setattr(sweeping, "stop_requested", stop_requested)
    return received
