"""The notebooks: their form, that Colab's packages fit, and (slow) that each runs from top to bottom.

Slow tests need `pip install 'jaxppo[notebooks]'`; that of Stable-Baselines3 needs it as well.
"""

import ast
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import tomllib

import pytest
from folders import ROOT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from jaxppo.config import load_config

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGE = ROOT / "docs" / "how-to" / "notebooks.md"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
COLAB = json.loads((ROOT / "tests" / "colab_pins.json").read_text(encoding="utf-8"))
KINDS = ("cpu", "gpu", "tpu")
"""Colab's machines; the pins of our dependencies on each."""
WIDTH, MOST_LINES, MOST_SECONDS = 100, 25, 300
CODE = {"cell_type", "execution_count", "id", "metadata", "outputs", "source"}
EXTRAS = {"06_stable_baselines3": "stable_baselines3"}
"""What a notebook imports beside the package and its dependencies."""

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path, kind=None):
    """Cells of a notebook, of one kind: `code` or `markdown`."""
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if kind in (None, cell["cell_type"])]


def source(cell):
    return "".join(cell["source"])


def test_there_are_eight_and_the_page_lists_them():
    assert [path.stem[:2] for path in NOTEBOOKS] == [f"{number:02}" for number in range(1, 9)]
    listed = re.findall(r"\.\./\.\./notebooks/(\w+\.ipynb)", PAGE.read_text(encoding="utf-8"))
    assert listed == [path.name for path in NOTEBOOKS]


@every_notebook
def test_the_form_is_nbformat_without_outputs(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert set(notebook) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}, "what an editor left behind"
    names = [cell["id"] for cell in notebook["cells"]]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9-]{1,64}", name) for name in names)
    for cell in notebook["cells"]:
        assert set(cell) == (CODE if cell["cell_type"] == "code" else CODE - {"execution_count", "outputs"})
        assert cell["metadata"] == {}
        assert cell["cell_type"] in ("code", "markdown")
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
        assert source(cell).strip() == source(cell) != ""
        assert all(line.endswith("\n") for line in cell["source"][:-1])


@every_notebook
def test_the_install_cell_is_the_same_and_comes_before_what_it_installs(path):
    code = cells(path, "code")
    place = next(i for i, cell in enumerate(code) if cell["id"] == "install")
    assert source(code[place]) == source(next(cell for cell in cells(NOTEBOOKS[0], "code") if cell["id"] == "install"))
    assert not any(re.search(r"import (jax|numpy|pandas)", source(cell)) for cell in code[:place])
    assert "colab-badge.svg" in source(cells(path)[0])


@every_notebook
def test_prose_is_short_and_types_no_number(path):
    for cell in cells(path, "markdown"):
        text = re.sub(r"^```.*?^```", "", source(cell), flags=re.M | re.S)
        for line in text.splitlines():
            assert len(line) <= WIDTH or "](" in line or line.startswith("|"), line
        said = re.sub(r"`[^`]*`|\]\([^)]*\)", "", text)
        assert not re.findall(r"(?<![\w-])\d", said), f"a number that no cell computes: {said}"
    assert max(len(source(cell).splitlines()) for cell in cells(path)) <= MOST_LINES


def test_ruff_sees_and_accepts_them():
    shown = subprocess.run(["ruff", "check", "--show-files", "."], cwd=ROOT, capture_output=True, text=True).stdout
    assert {path.name for path in NOTEBOOKS} <= {pathlib.Path(line).name for line in shown.splitlines()}
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(["ruff", *command, "notebooks"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@every_notebook
def test_budgets_are_keys_of_the_configuration(path):
    """Those of users as well, which the slow tests do not train with."""
    steps = []
    for smoke in (True, False):
        known = {"SMOKE_TEST": smoke}
        for cell in cells(path, "code"):
            if "BUDGET" in source(cell) and cell["id"] != "install":
                parts = [part for part in ast.parse(source(cell)).body if "BUDGET" in targets(part)]
                exec(compile(ast.Module(parts, []), path.name, "exec"), known)
        steps.append(load_config("quickstart", known["BUDGET"].split()).training.steps)
    assert steps[0] < 1000 < steps[1]


def targets(statement):
    """Names that a statement assigns, also in its branches."""
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def dependencies():
    """Name -> range."""
    found = [Requirement(text) for text in PROJECT["dependencies"]]
    return {canonicalize_name(one.name): one.specifier for one in found}


@pytest.mark.parametrize("kind", KINDS)
def test_colab_keeps_its_packages_but_for_those_that_the_page_names(kind):
    pins, page = COLAB[kind], PAGE.read_text(encoding="utf-8")
    assert SpecifierSet(PROJECT["requires-python"]).contains(COLAB["python"])
    assert f"Programming Language :: Python :: {COLAB['python'].rpartition('.')[0]}" in PROJECT["classifiers"]
    replaced = {name for name, allowed in dependencies().items() if name in pins and not allowed.contains(pins[name])}
    named = dict(re.findall(r"^\| `([\w-]+)` \| (\S+) \|", page, re.M))
    assert replaced == {name for name in named if name in pins}
    assert all(named[name] == pins[name] for name in replaced)
    assert COLAB["date"] in page
    assert {"numpy", "pandas", "scipy", "matplotlib", "pyarrow", "optax"} <= set(pins) - replaced


def test_the_extras_of_accelerators_allow_the_same_jax():
    extras = PROJECT["optional-dependencies"]
    for name in ("cuda12", "cuda13", "tpu"):
        (only,) = (Requirement(text) for text in extras[name])
        assert only.name == "jax"
        assert only.extras == {name}
        assert only.specifier == dependencies()["jax"]


@pytest.mark.slow
@every_notebook
def test_it_runs(path, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="pip install 'jaxppo[notebooks]'")
    nbclient = pytest.importorskip("nbclient", reason="pip install 'jaxppo[notebooks]'")
    pytest.importorskip("ipykernel", reason="pip install 'jaxppo[notebooks]'")
    needed = EXTRAS.get(path.stem)
    if needed is not None and importlib.util.find_spec(needed) is None:
        pytest.skip(f"needs {needed}")
    devices = re.compile(r"--xla_force_host_platform_device_count=\d+")
    for name, value in {
        "CI": "1",  # budgets of seconds
        "XLA_FLAGS": devices.sub("", os.environ["XLA_FLAGS"]),  # one device, as users have it
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_TRACEBACK_IN_LOCATIONS_LIMIT": "0",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    client = nbclient.NotebookClient(notebook, timeout=MOST_SECONDS, resources={"metadata": {"path": str(tmp_path)}})
    # As in conftest.py: much of the time of importing everything is the collector's.
    client.extra_arguments = ["--IPKernelApp.exec_lines=import gc; gc.disable()"]
    client.execute()
    assert any(cell.get("outputs") for cell in notebook.cells[-4:]), "the last cells show nothing"
