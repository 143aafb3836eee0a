"""The images as text: what they copy is there, they do not run as root, and what they call is installed by the wheel.

They are not built here. `tests/test_packaging.py` builds the wheel from what they copy.
"""

import re
import tomllib

import pytest
from docker_files import FILES, copied, instructions
from folders import ROOT

from jaxppo.cli.main import COMMANDS
from jaxppo.config.shipped import shipped

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IDS = [path.name for path in FILES]


def test_there_is_one_for_cpus_and_one_for_gpus():
    assert IDS == ["Dockerfile.cpu", "Dockerfile.cuda"]


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_what_is_copied_exists_and_is_sent_to_the_builder(path):
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = {source for source, _ in copied(path)}
    assert sources == sent
    assert all((ROOT / source).exists() for source in sources)


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_it_runs_the_command_of_the_wheel_and_not_as_root(path):
    found = instructions(path)
    of = dict(found)  # the last of each
    assert of["ENTRYPOINT"] == '["jaxppo"]'
    assert "jaxppo" in PROJECT["scripts"]
    assert of["USER"] == "jaxppo"
    assert any(name == "RUN" and "useradd" in rest for name, rest in found)
    python = re.fullmatch(r"python:(3\.\d+)-slim", of["FROM"])
    assert python, "a small image, of a stated version"
    assert f"Programming Language :: Python :: {python[1]}" in PROJECT["classifiers"]


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_packages_leave_no_cache_and_extras_exist(path):
    installs = [rest for name, rest in instructions(path) if name == "RUN" and re.search(r"\bpip ", rest)]
    assert len(installs) == 2
    assert all("--no-cache-dir" in rest for rest in installs)
    extras = re.findall(r"\.whl\)\[(\w+)\]", installs[1])
    assert extras == ([] if path.name.endswith("cpu") else ["cuda13"])
    assert set(extras) <= set(PROJECT["optional-dependencies"])


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_the_commands_in_the_comments_are_those_of_the_guide(path):
    guide = (ROOT / "docs" / "how-to" / "install.md").read_text()
    commands = re.findall(r"^#   (docker .*)$", path.read_text(), re.M)
    assert len(commands) == 2
    assert all(command in guide for command in commands)
    assert f"-f docker/{path.name} " in commands[0]
    name, option, config = commands[1].split()[-3:]
    assert name in {command.name for command in COMMANDS}
    assert (option, config in shipped()) == ("--config", True)


def test_both_build_the_same_wheel():
    stages = [found[: [name for name, _ in found].index("FROM", 1)] for found in map(instructions, FILES)]
    assert stages[0] == stages[1]
