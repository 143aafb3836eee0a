"""`jaxppo doctor`: each check on machines and installations that are described, and whole calls on this one."""

import importlib.metadata
import os
import re

import pytest
from tiny_run import write_config, write_prices

from jaxppo.cli.checks import machine, training
from jaxppo.cli.checks.finding import Finding
from jaxppo.cli.checks.installation import check_installation, check_jax, check_packages, check_python
from jaxppo.cli.checks.machine import Hardware, available_memory, check_output, compare_devices
from jaxppo.cli.main import main
from jaxppo.config import load_config
from jaxppo.run.data import load_data
from jaxppo.training.check import check_training

CPU, GPU = [("cpu", "cpu")], [("gpu", "NVIDIA H200")] * 2
CUDA12 = {"jax-cuda12-plugin": "0.10.2", "jax-cuda12-pjrt": "0.10.2"}
CUDA = {"jax-cuda13-plugin": "0.10.2", "jax-cuda13-pjrt": "0.10.2"}
H200 = Hardware(gpus=("NVIDIA H200",), driver="580.65.06")


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty working directory with `prices.csv` and `tiny.yaml`."""
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("version", "level", "needle"),
    [
        ((3, 10, 14), "fix", ">=3.11"),
        ((3, 11, 0), "ok", "3.11.0"),
        ((3, 13, 2), "ok", "3.13.2"),
        ((3, 14, 0), "warn", "3.11 to 3.13"),
        ((4, 0, 0), "warn", "3.11 to 3.13"),
    ],
)
def test_python(version, level, needle):
    found = check_python(version, ">=3.11", ["3.11", "3.12", "3.13"])
    assert (found.level, needle in found.text) == (level, True), found


@pytest.mark.parametrize(
    ("installed", "level", "needles"),
    [
        ({"numpy": "2.1.0", "jax": "0.10.2"}, "ok", ["all 2"]),
        ({"numpy": "1.26.4", "jax": "0.10.2"}, "fix", ["numpy<3,>=2.0 is needed, 1.26.4 is installed", "pip install"]),
        ({"numpy": "2.1.0", "jax": "0.12.0"}, "fix", ["jax<0.12,>=0.10 is needed, 0.12.0"]),
        ({"numpy": "2.1.0"}, "fix", ["jax<0.12,>=0.10 is not installed"]),
        ({"numpy": "2.1.0", "jax": "0.11.0.dev1"}, "ok", ["all 2"]),
    ],
)
def test_packages(installed, level, needles):
    requirements = ["numpy<3,>=2.0", "jax<0.12,>=0.10", 'wandb>=0.31; extra == "wandb"']
    found = check_packages(requirements, installed.get)
    assert found.level == level
    assert all(needle in found.text for needle in needles), found


@pytest.mark.parametrize(
    ("versions", "plugins", "level", "needles"),
    [
        (("0.10.2", "0.10.2"), {}, "ok", ["jax 0.10.2, jaxlib 0.10.2"]),
        (("0.10.2", "0.10.1"), {}, "ok", ["jaxlib 0.10.1"]),
        (("0.10.2", "0.9.2"), {}, "fix", ["needs another jaxlib", "pip install --upgrade jax==0.10.2 jaxlib"]),
        (("0.10.2", "0.10.2"), CUDA, "ok", ["jax-cuda13-plugin 0.10.2"]),
        (("0.10.2", "0.10.1"), CUDA, "fix", ["must be 0.10.1", "pip install jax-cuda13-plugin==0.10.1"]),
        (("0.10.2", None), {}, "fix", ["jaxlib is not installed"]),
        ((None, "0.10.2"), {}, "fix", ["jax is not installed"]),
    ],
)
def test_jax_and_its_parts(versions, plugins, level, needles):
    installed = dict(zip(("jax", "jaxlib"), versions, strict=True))
    found = check_jax(installed.get, lambda name: ["jaxlib<=0.10.2,>=0.10.1", "numpy>=2.0"], plugins)
    assert found.level == level
    assert all(needle in found.text for needle in needles), found


def test_the_ranges_are_those_of_the_package():
    """Of this installation, in which everything is right."""
    found = list(check_installation())
    assert [finding.about for finding in found] == ["jaxppo", "Python", "packages", "jax"]
    assert {finding.level for finding in found} <= {"ok", "warn"}
    assert importlib.metadata.version("jaxlib") in found[-1].text


@pytest.mark.parametrize(
    ("found", "hardware", "plugins", "environment", "level", "needles"),
    [
        (CPU, Hardware(), {}, {}, "ok", ["1 x cpu"]),
        (GPU, H200, CUDA, {}, "ok", ["2 x gpu (NVIDIA H200)"]),
        (CPU, H200, {}, {}, "warn", ["NVIDIA H200", "pip install 'jaxppo[cuda13]'"]),
        (CPU, Hardware(gpus=("/dev/nvidia0",)), {}, {}, "warn", ["/dev/nvidia0", "jaxppo[cuda13]"]),
        (CPU, Hardware(tpus=4), {}, {}, "warn", ["4 TPU chips", "jaxppo[tpu]"]),
        (CPU, H200, CUDA, {"JAX_PLATFORMS": "cpu"}, "warn", ["JAX_PLATFORMS is cpu; unset it"]),
        (CPU, H200, CUDA, {"CUDA_VISIBLE_DEVICES": ""}, "warn", ["CUDA_VISIBLE_DEVICES is ''; unset it"]),
        (CPU, Hardware(("NVIDIA A100",), "550.54.15"), {}, {}, "warn", ["550.54.15", "needs 580", "jaxppo[cuda12]"]),
        (CPU, Hardware(("NVIDIA A100",), "550.54.15"), CUDA, {}, "warn", ["needs 580", "jaxppo[cuda12]"]),
        (CPU, Hardware(("NVIDIA A100",), "550.54.15"), CUDA12, {}, "warn", ["jax-cuda12-plugin", "does not start"]),
        (CPU, Hardware(("NVIDIA A100",), "470.82.01"), {}, {}, "warn", ["470.82.01", "CUDA 12 needs 525"]),
        (CPU, H200, CUDA, {"JAX_PLATFORMS": "cuda,cpu"}, "warn", ["jax-cuda13-plugin 0.10.2", "does not start"]),
    ],
)
def test_devices(found, hardware, plugins, environment, level, needles):
    finding = compare_devices(found, hardware, plugins, environment)
    assert finding.level == level
    assert all(needle in finding.text for needle in needles), finding


def test_hardware_is_asked_of_nvidia_smi(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H200, 580.65.06'\necho 'NVIDIA H200, 580.65.06'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert machine.seen_hardware() == Hardware(("NVIDIA H200", "NVIDIA H200"), "580.65.06", 0)
    program.write_text("#!/bin/sh\nexit 9\n")
    monkeypatch.setattr(machine.glob, "glob", lambda pattern: ["/dev/nvidia0"] if "nvidia" in pattern else [])
    assert machine.seen_hardware() == Hardware(("/dev/nvidia0",), None, 0)


def test_a_broken_jax_is_to_be_fixed(monkeypatch):
    def broken(name):
        raise RuntimeError("Unable to initialize backend\n'cuda'")

    monkeypatch.setattr(machine.importlib, "import_module", broken)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    found = machine.check_devices()
    assert found.level == "fix"
    assert "RuntimeError Unable to initialize backend 'cuda'; JAX_PLATFORMS is cuda: unset it" in found.text


def test_free_memory():
    assert available_memory("MemTotal:  16000 kB\nMemFree:  10 kB\nMemAvailable:   2048 kB\n") == 2 * 2**20
    assert available_memory("") is None


def test_output(tmp_path, monkeypatch):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "config.yaml").write_text("seed: 0")
    assert "is the folder of a run" in check_output(str(tmp_path / "used")).text
    found = check_output(str(tmp_path / "new" / "runs"))
    assert found.level == "ok"
    assert not (tmp_path / "new").exists(), "checking makes nothing"
    (tmp_path / "file").write_text("")
    assert "is a file" in check_output(str(tmp_path / "file" / "runs")).text
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2**20}))
    assert check_output(str(tmp_path)).level == "warn"

    def read_only(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(machine.tempfile, "TemporaryFile", read_only)
    found = check_output(str(tmp_path))
    assert (found.level, "Permission denied" in found.text) == ("fix", True)


def lines_of(capsys):
    """Level and subject of each line, and what stands on stderr."""
    out, err = capsys.readouterr()
    return re.findall(r"^(ok|warn|fix) +(\S+)", out, re.M), out, err


def test_a_whole_call(workplace, capsys):
    assert main(["doctor", "--config", "tiny.yaml"]) == 0
    found, out, err = lines_of(capsys)
    assert [about for _, about in found if about != "memory"][:6] == [
        *("jaxppo", "Python", "packages", "jax", "output", "device")
    ]
    assert found[-1] == ("ok", "config")
    assert "prices.csv: 2 asset(s) x 420 bars, 2015-01-01 to 2016-08-10" in out
    assert re.search(r"tiny\.yaml: [\d,]+ parameters on \d x cpu; an iteration takes about \d+ MiB of memory", out)
    assert out.endswith("nothing has to be fixed\n")
    assert "error" not in err
    assert sorted(path.name for path in workplace.iterdir()) == ["prices.csv", "tiny.yaml"], "nothing is written"


@pytest.mark.parametrize(
    ("arguments", "about", "needles"),
    [
        (["--config", "nowhere.yaml"], "config", ["nowhere.yaml: no such config file"]),
        (["--config", "tiny.yaml", "--ppo.clip", "0"], "config", ["--ppo.clip is 0"]),
        (["--config", "tiny.yaml", "--data", "nowhere.csv"], "data", ["nowhere.csv"]),
        (["--data", "bad.csv"], "data", ["bad.csv", "close"]),
        (["--data", "few.csv"], "config", ["with --config quickstart: ", "data.train is 0.6", "120 bars"]),
        (["--data", "prices.csv", "--data.train", "7"], "config", ["--data.train"]),
        (["--config", "tiny.yaml", "--ppo.chunk", "400"], "config", ["data.train is 0.6", "420 bars"]),
        (["--config", "cartpole", "--data", "prices.csv"], "data", ["CartPole-v1", "no prices"]),
        (["--output", "tiny.yaml/runs"], "output", ["is a file"]),
    ],
)
def test_what_must_be_fixed(arguments, about, needles, workplace, capsys):
    text = (workplace / "prices.csv").read_text()
    (workplace / "bad.csv").write_text(text.replace(",close,", ",klose,"))
    write_prices(workplace / "few.csv", n_bars=120)
    assert main(["doctor", *arguments]) == 2
    found, out, err = lines_of(capsys)
    assert [about for level, about in found if level == "fix"] == [about]
    line = next(line for line in out.splitlines() if line.startswith("fix"))
    assert all(needle in line for needle in needles), line
    assert err.splitlines()[-1] == f"error: 1 to fix: {about}"


@pytest.mark.parametrize("option", ["--data", "--output"])
def test_an_empty_option_is_one_line(option, capsys):
    assert main(["doctor", option, ""]) == 2
    assert capsys.readouterr() == ("", f"error: {option} is empty; see jaxppo doctor --help\n")


def test_keys_need_a_configuration_or_prices(capsys):
    assert main(["doctor", "--ppo.clip", "0.1"]) == 2
    assert capsys.readouterr().err == "error: --ppo.clip: keys need --config or --data; see jaxppo doctor --help\n"
    for run in (["--run", "runs/my"], ["--run=runs/my"]):
        assert main(["doctor", *run]) == 2
        assert capsys.readouterr().err.startswith("error: doctor has no --run: it checks what a training needs")


def test_warnings_of_the_data_are_lines(workplace):
    write_prices(workplace / "short.csv", n_bars=60)
    market, found = training.check_data(load_config({"data": {"path": "short.csv"}, "training": {"steps": 1}}))
    assert market.n_bars == 60
    assert found[0].level == "ok"
    assert found[1:] == [Finding("warn", "data", line) for line in market.info.report["warnings"]]
    assert len(found) > 1, "60 days are too few to say how many bars a year has"


def test_the_memory_that_is_named_is_that_of_the_program(workplace):
    """More portfolios are more memory; parameters are those that are trained."""
    config = load_config("tiny.yaml")
    market = load_data(config)
    found = check_training(config, market)
    more = check_training(load_config("tiny.yaml", ["--ppo.portfolios", "64"]), market)
    assert more.memory > 2 * found.memory > 0
    assert more.n_parameters == found.n_parameters > 16 * 16
