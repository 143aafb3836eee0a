"""Prices of a run are found from wherever it is opened."""

import json

import pytest

from jaxppo.config import load_config
from jaxppo.errors import ConfigError, DataError
from jaxppo.run.data import load_data, recorded_path

PRICES = "date,open,high,low,close\n" + "".join(
    f"2021-{month:02}-{day:02},10,11,9,10\n" for month in range(1, 5) for day in range(1, 28)
)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run that was started beside its prices; tests are elsewhere."""
    (tmp_path / "prices.csv").write_text(PRICES)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    config = load_config(overrides=["--data.path", "prices.csv"])
    (tmp_path / "metadata.json").write_text(json.dumps({"data": {"path": recorded_path(config)}}))
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path, config


def test_relative_paths_are_found_where_the_run_was_started(run):
    folder, config = run
    assert load_data(config, folder).n_bars == 108
    (folder / "elsewhere" / "prices.csv").write_text(PRICES[: len(PRICES) // 2].rpartition("\n")[0] + "\n")
    assert load_data(config, folder).n_bars < 108, "what is here goes first"


def test_the_message_says_where_it_looked(run):
    folder, config = run
    (folder / "prices.csv").unlink()
    with pytest.raises(
        DataError, match=rf"looked for in {folder}/elsewhere and at {folder}/prices\.csv; give --data\.path"
    ):
        load_data(config, folder)
    (folder / "metadata.json").write_text("junk")
    with pytest.raises(DataError, match=r"prices\.csv: no such file or folder"):
        load_data(config, folder)


def test_what_is_no_file_is_not_recorded():
    for path in ("simulated", "us5_1d", "absent.csv"):
        assert recorded_path(load_config(overrides=["--data.path", path])) is None


def test_a_path_without_end_is_not_printed():
    config = load_config(overrides=["--data.path", "x" * 1_000_000])
    with pytest.raises(ConfigError, match="which cannot be read: File name too long") as error:
        load_data(config)
    assert len(str(error.value)) < 300
