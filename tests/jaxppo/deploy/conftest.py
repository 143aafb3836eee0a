"""One run that trades under many limits, trained once for all files; no test may write into it."""

import pytest
from shipped_run import make_run, records_of


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("limited"))


@pytest.fixture(scope="session")
def records(folder):
    return records_of(folder.parent / "prices.csv")
