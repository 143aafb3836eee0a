"""`jaxppo COMMAND`: the table of commands, quick help, shipped configurations, and the scripts as thin callers."""

import re
import subprocess
import sys
import webbrowser

import pytest
import yaml
from folders import ROOT
from tiny_run import load

from jaxppo.cli import announce_report, keys
from jaxppo.cli.main import COMMANDS, main
from jaxppo.config import ConfigError, load_config
from jaxppo.config.shipped import find_config, shipped
from jaxppo.config.types import keys as schema_keys

NAMES = [command.name for command in COMMANDS]


def line_of(capsys):
    """What one refusal says."""
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


def test_the_overview_names_every_command(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert re.findall(r"^  ([\w-]+)  +\S.*$", out, re.M) == NAMES
    assert main(["help"]) == 0
    assert capsys.readouterr().out == out


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_a_module_and_help(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    out = capsys.readouterr().out
    assert out.startswith(f"usage: jaxppo {name} ")
    assert f"jaxppo {name}" in out.partition("\n\n")[2], "its description shows how it is called"


@pytest.mark.parametrize(
    ("arguments", "needles"),
    [
        ([], ["no command is given", *NAMES, "jaxppo --help"]),
        (["trian"], ["'trian'", "did you mean train?"]),
        (["monte_carlo"], ["'monte_carlo'", "did you mean monte-carlo?"]),
        (["--verbose"], ["'--verbose'", "there is init"]),
        (["help", "ppo.lerning_rate"], ["'ppo.lerning_rate'", "did you mean ppo.learning_rate?"]),
        (["help", "qqqqqq"], ["'qqqqqq'", "jaxppo help all"]),
        (["help", "a", "b"], ["one name", "a b", "jaxppo help --help"]),
        (["train"], ["--config is required", "quickstart"]),
        (["train", "--resume"], ["--resume needs --output"]),
        (["backtest", "--run", "r", "--open"], ["--open needs --output"]),
        (["monte-carlo", "--merge", "a", "--open"], ["--open needs --output"]),
        (["models", "ad"], ["'ad'", "add"]),
    ],
)
def test_mistakes_are_one_line(arguments, needles, capsys):
    assert main(arguments) == 2
    line = line_of(capsys)
    assert all(needle in line for needle in needles), line


def test_help_imports_no_jax():
    """It would take seconds."""
    code = (
        "import contextlib, sys; from jaxppo.cli.main import main\n"
        "names = [[name, '--help'] for name in sys.argv[1:]]\n"
        "for arguments in (['--help'], ['--version'], ['help', 'costs'], *names):\n"
        "    with contextlib.suppress(SystemExit): main(arguments)\n"
        "assert not {'jax', 'numpy', 'pandas', 'pydantic'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, *NAMES], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_python_m_jaxppo():
    call = [sys.executable, "-m", "jaxppo"]
    done = subprocess.run([*call, "--version"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.fullmatch(r"jaxppo \d+\.\d+\.\d+\n", done.stdout)
    done = subprocess.run([*call, "trade"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").glob("*.py")), ids=lambda path: path.stem)
def test_scripts_call_the_command_of_their_name(path):
    script = load(f"scripts/{path.name}")
    assert script.main.__module__ == f"jaxppo.cli.commands.{path.stem}"
    assert path.stem.replace("_", "-") in NAMES
    assert f"python scripts/{path.name}" in script.__doc__


def test_the_reference_page_has_every_key_of_the_schema():
    """Help reads the page, which another test compares with the schema."""
    of_schema = dict(schema_keys())
    assert of_schema.keys() <= keys.all_keys().keys()
    for name, field in of_schema.items():
        assert keys.all_keys()[name].meaning == " ".join((field.description or "").split()), name
    assert set(keys.MATTER) <= of_schema.keys()
    assert len(keys.MATTER) == 10


def test_help_explains_keys_sections_and_items(capsys):
    assert main(["help", "--costs.commission-bps"]) == 0
    assert capsys.readouterr().out == (
        "costs.commission_bps\n    number in [0, 1000]; default: 1.0\n    Commission, basis points of notional.\n"
    )
    assert "masks.regime.bull" in keys.explain("masks")
    assert keys.explain("masks").startswith("masks\n")
    assert "masks.volatility_cap.target\n      number in" in keys.explain("masks.volatility_cap")
    assert keys.explain("learning_rate").startswith("ppo.learning_rate\n")
    assert keys.explain("no-short").startswith("masks.no_short\n  Forbids")
    everything = keys.explain("all")
    assert all(name in everything for name in keys.all_keys())


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("stop", ["exits.stop_loss:", "exits.trailing_stop:", "ppo.kl_stop:"]),
        ("cost", ["costs:", "simulation.commission_bps:"]),
        ("Sharpe", ["simulation.sharpe:", "rewards.differential_sharpe:", "pathwise.objective:"]),
    ],
)
def test_a_word_is_searched_in_names_and_meanings(word, found):
    text = keys.explain(word)
    places = [text.index(f"  {name}") for name in found]
    assert places == sorted(places), "names before meanings"
    assert "in names and meanings" not in keys.explain("exits"), "what is named in full is explained alone"


def test_lines_of_help_fit(monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    unbroken = 60  # such as a list in quotes
    for line in keys.as_options().splitlines():
        assert len(line) <= 70 or max(map(len, line.split())) > unbroken


def test_a_left_pager_is_no_mistake():
    call = f"{sys.executable} -m jaxppo help all | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", call], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.split("\n")[1] in ("141", "0")  # the whole text may fit the pipe


def test_every_shipped_configuration_is_that_of_the_repository():
    files = {path.stem: path for path in (ROOT / "configs").glob("*.yaml")}
    assert shipped().keys() == files.keys()
    for name, path in files.items():
        assert shipped()[name].read_bytes() == path.read_bytes()


def test_configurations_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config("quickstart") == load_config(ROOT / "configs" / "quickstart.yaml")
    (tmp_path / "quickstart").mkdir()
    assert find_config("quickstart") == shipped()["quickstart"], "a folder is no configuration"
    (tmp_path / "stocks").write_text(yaml.safe_dump({"seed": 5, "training": {"steps": 1}}))
    assert load_config("stocks").seed == 5, "a file of one's own comes first"


@pytest.mark.parametrize(
    ("source", "needles"),
    [
        ("quikstart", ["quikstart: no such config file, nor one that ships", "acrobot", "did you mean quickstart?"]),
        ("zzz", ["zzz", "quickstart", "target"]),
        ("configs/quickstart.yaml", ["no such config file", "--config quickstart"]),
        ("quickstart.yaml", ["no such config file", "--config quickstart"]),
        ("mine.yaml", ["mine.yaml: no such config file"]),
        ("folder", ["folder: is a folder"]),
        ("", ["empty"]),
    ],
)
def test_configurations_that_are_not_there(source, needles, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError) as raised:
        load_config(source)
    assert all(needle in str(raised.value) for needle in needles), raised.value


@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize(
    ("name", "function", "arguments"),
    [
        ("train", "train", ["--config", "quickstart"]),
        ("walk-forward", "walk_forward.walk_forward", ["--config", "quickstart"]),
        ("monte-carlo", "monte_carlo.run_monte_carlo", ["--run", "run"]),
    ],
)
def test_quiet_shows_no_progress(name, function, arguments, quiet, monkeypatch):
    given = {}

    def called(*positional, **options):
        given.update(options)
        raise ConfigError("reached")

    monkeypatch.setattr(f"jaxppo.{function}", called)
    assert main([name, *arguments, *(["--quiet"] if quiet else [])]) == 2
    assert given["progress"] is not quiet


def test_a_section_that_train_does_not_read_is_named(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    note = "note: train does not read the section sweep; jaxppo sweep tries its values"
    for config, said in ((["sweep"], [note]), (["quickstart"], []), (["quickstart", "--sweep.seeds", "4"], [note])):
        assert main(["train", "--config", *config, "--output", str(tmp_path)]) == 2
        *notes, error = capsys.readouterr().err.splitlines()
        assert notes == said
        assert error.startswith("error: ")


@pytest.mark.parametrize(("show", "found"), [(False, True), (True, True), (True, False)])
def test_a_report_is_opened_where_there_is_a_browser(show, found, tmp_path, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or found)
    monkeypatch.chdir(tmp_path)
    announce_report(tmp_path / "a run" / "report.html", show)
    out, err = capsys.readouterr()
    assert out == f"report: {tmp_path / 'a run' / 'report.html'}\n"
    assert opened == ([f"file://{tmp_path}/a%20run/report.html"] if show else [])
    assert ("no browser" in err) == (show and not found)
