"""One run that trades under many limits, trained once for all files; no test may write into it."""

import pytest
from shipped_run import make_run, records_of
from tiny_run import made_once


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return made_once(tmp_path_factory, "limited", make_run) / "run"


@pytest.fixture(scope="session")
def records(folder):
    return records_of(folder.parent / "prices.csv")
