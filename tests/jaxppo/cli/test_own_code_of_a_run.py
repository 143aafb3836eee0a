"""The folder of a run and its own code: kept, found again from elsewhere, and one line where it is another one."""

import sys

import pytest
from tiny_run import command, merged

from jaxppo import load_config, own_code
from jaxppo.cli import parse_training
from jaxppo.run import folder as run_folder
from jaxppo.run import own_record

SOURCE = """
import jax.numpy as jnp
from jaxppo import masks


def never(*, side: float = 1.0):
    def table(view):
        return jnp.zeros(view.market.close.shape)

    return masks.market_only("never", table, lambda most: masks.box_limits(-most, most))
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run that was just begun, whose mask lies beside the configuration that it was started with."""
    monkeypatch.setattr(own_code, "_imported", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    place, folder = tmp_path / "project", tmp_path / "run"
    place.mkdir()
    folder.mkdir()
    (place / "masks_of_mine.py").write_text(SOURCE)
    (place / "mine.yaml").write_text(str(merged(masks=[{"masks_of_mine:never": {"side": 2.0}}])))
    config = load_config(place / "mine.yaml")
    run_folder.write_config(folder, config)
    content = {"own_code": own_record.record(["masks_of_mine:never"]), "data": {"fingerprint": "x"}}
    run_folder.write_metadata(folder, content, finished=False)
    _forget()
    yield place, folder, config
    _forget()


def _forget():
    sys.modules.pop("masks_of_mine", None)
    own_code._imported.clear()


def test_its_code_is_found_where_it_was(run):
    _, folder, config = run
    assert (folder / "own_code" / "masks_of_mine.py").read_text() == SOURCE
    assert run_folder.open_folder(folder)[1] == config
    _forget()
    resumed, _, _ = parse_training("train", "x", ["--resume", "--output", str(folder)], {})
    assert resumed == config


@pytest.mark.parametrize("script", ["backtest", "monte_carlo", "export", "train"])
def test_other_code_and_none_are_one_line(run, capsys, script):
    place, folder, _ = run
    arguments = ["--resume", "--output", folder] if script == "train" else ["--run", folder]
    arguments += ["--output", place / "exported"] if script == "export" else []
    (place / "masks_of_mine.py").write_text(SOURCE + "# another\n")
    assert command(script, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {folder}: was trained with masks_of_mine:never of SHA-256 ")
    _forget()
    (place / "masks_of_mine.py").unlink()
    assert command(script, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "there is no module masks_of_mine in" in line
    assert f"PYTHONPATH={folder}/own_code" in line


@pytest.mark.parametrize("script", ["backtest", "train"])
def test_what_the_run_does_not_record_is_not_called(run, capsys, script, monkeypatch):
    """Its configuration may be somebody's who would like it to be."""
    place, folder, _ = run
    monkeypatch.chdir(place)  # where the module is
    run_folder.write_metadata(folder, {"data": {"fingerprint": "x"}}, finished=False)
    arguments = ["--resume", "--output", folder] if script == "train" else ["--run", folder]
    assert command(script, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        line == f"error: {folder}: config.yaml names masks_of_mine:never, but metadata.json does not say what that was"
    )
    assert "masks_of_mine" not in sys.modules


def test_damaged_records_are_one_line(run, capsys):
    _, folder, _ = run
    run_folder.write_metadata(folder, {"own_code": ["masks_of_mine:never"]}, finished=False)
    assert command("backtest", "--run", folder) == 2
    assert "damaged; own_code is \"['masks_of_mine:never']\"; a mapping is expected" in capsys.readouterr().err
