"""One finished run for all files that only need one; no test may write into it."""

import pytest
from tiny_run import STEPS_PER_ITERATION, command, made_once, write_config


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A folder with `prices.csv`, `tiny.yaml` and in `run` a run of three iterations."""

    def make(folder):
        config = write_config(folder, training={"steps": 3 * STEPS_PER_ITERATION})
        assert command("train", "--config", config, "--output", folder / "run") == 0

    return made_once(tmp_path_factory, "finished", make)
