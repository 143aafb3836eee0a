"""`jaxppo init`: the file that it writes says what the schema says, loads, and trains; nothing is overwritten."""

import errno
import pathlib
import re

import jax
import pytest
from tiny_run import write_prices

from jaxppo.cli import keys
from jaxppo.cli.first_config import as_text, as_tree, first_values
from jaxppo.cli.main import main
from jaxppo.config import load_config


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty working directory with `prices.csv`."""
    monkeypatch.chdir(tmp_path)
    write_prices(tmp_path / "prices.csv")
    return tmp_path


def test_the_file_has_the_ten_keys_with_what_the_schema_says(workplace, capsys):
    assert main(["init"]) == 0
    assert capsys.readouterr().out == (
        "wrote my.yaml; next: jaxppo doctor --config my.yaml, then jaxppo train --config my.yaml\n"
    )
    text = pathlib.Path("my.yaml").read_text()
    comments = " ".join(line.strip(" #") for line in text.splitlines() if line.lstrip().startswith("#"))
    for name in keys.MATTER:
        key = keys.all_keys()[name]
        assert " ".join(key.meaning.split()) in comments
        assert f"Accepts {key.accepts}" in comments
    written = re.findall(r"^ *([a-z_]+): ?\S", text, re.M)
    assert written == [name.rpartition(".")[2] for name in keys.MATTER]
    assert max(map(len, text.splitlines())) <= 110


def test_a_folder_that_cannot_be_written_is_named_with_the_remedy(workplace, monkeypatch, capsys):
    opened = pathlib.Path.open

    def refused(self, mode="r", *arguments, **options):
        if mode == "x":
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return opened(self, mode, *arguments, **options)

    monkeypatch.setattr(pathlib.Path, "open", refused)
    assert main(["init"]) == 2
    said = capsys.readouterr().err
    assert f"{workplace} cannot be written: Permission denied; give --output another folder" in said
    assert "intact" not in said


def test_the_file_is_the_quick_start_where_that_says_so(workplace):
    assert main(["init"]) == 0
    config, quick, default = (load_config(source) for source in ("my.yaml", "quickstart", None))
    for name in keys.MATTER:
        assert _of(config, name) == _of(quick, name), name
    assert (config.ppo, config.features, config.walk_forward) == (default.ppo, default.features, default.walk_forward)


def test_a_gpu_takes_more_paths_in_as_many_iterations(workplace, monkeypatch):
    assert main(["init"]) == 0
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert main(["init", "--output", "gpu.yaml"]) == 0
    here, there = (load_config(source) for source in ("my.yaml", "gpu.yaml"))
    ratios = there.ppo.paths / here.ppo.paths, there.training.steps / here.training.steps
    assert ratios == (2.0, 2.0)
    changed = here.ppo.model_copy(update={"paths": there.ppo.paths})
    assert there.ppo == changed, "all other keys are those of every device"


def _of(config, name):
    for part in name.split("."):
        config = getattr(config, part)
    return config


@pytest.mark.parametrize(
    "name", ["a: b.csv", "#x.csv", "2010", "null", "yes", "it's.csv", 'a"b.csv', "é 中\u2028.csv", "1e5"]
)
def test_every_name_of_a_file_is_kept(name, workplace):
    values = first_values(name)
    (workplace / "x.yaml").write_text(as_text(values, pathlib.Path("x.yaml")), encoding="utf-8")
    assert load_config("x.yaml") == load_config(as_tree(values))
    assert load_config("x.yaml").data.path == name


def test_a_training_of_it_would_begin_on_prices_of_ones_own(workplace, capsys):
    """`tests/test_packaging.py` trains one."""
    assert main(["init", "--data", "prices.csv", "--output", "own.yaml"]) == 0
    assert "2 asset(s) x 420 bars" in capsys.readouterr().out
    small = {"policy.kind": "mlp", "features.normalisation_window": 20, "features.groups": "price", "ppo.chunk": 8}
    assert main(["doctor", "--config", "own.yaml", *(f"--{key}={value}" for key, value in small.items())]) == 0
    assert "prices.csv: 2 asset(s)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "needles"),
    [
        (["--output", "there.yaml"], ["--output is there.yaml", "not overwritten"]),
        (["--output", "link.yaml"], ["--output is link.yaml", "not overwritten"]),
        (["--output", "no/where.yaml"], ["no folder no"]),
        (["--output", ""], ["--output is ."]),
        (["--output", "a\nseed: 1.yaml"], ["--output is", "printable"]),
        (["--output", "\udcff.yaml"], ["--output is", "printable"]),
        (["--data", "\udcff.csv"], ["surrogate"]),
        (["--data", "nowhere.csv"], ["nowhere.csv: no such file"]),
        (["--data", "there.yaml"], ["there.yaml"]),
        (["--data", ""], ["data.path"]),
        (["--ppo.clip", "1"], ["--ppo.clip"]),
    ],
)
def test_what_is_refused_writes_nothing(arguments, needles, workplace, capsys):
    (workplace / "there.yaml").write_text("seed: 1\n")
    (workplace / "link.yaml").symlink_to("nowhere")
    assert main(["init", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert all(needle in err for needle in needles), err
    assert sorted(path.name for path in workplace.iterdir()) == ["link.yaml", "prices.csv", "there.yaml"]
    assert (workplace / "there.yaml").read_text() == "seed: 1\n"
