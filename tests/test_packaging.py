"""The import name: wheel and editable install work beside a user's own `envs`, and beside the package of that name.

The foreign package is made here: a wheel with a top-level `envs`, as the public index has one.
"""

import pathlib
import subprocess
import sys
import venv
import zipfile

import pytest
from folders import ROOT

CHECK = """
import jaxppo, jaxppo.envs
assert jaxppo.envs.MarketData.__module__ == "jaxppo.envs.market.market_data", jaxppo.envs.MarketData.__module__
assert jaxppo.envs.datasets.path("us5_1d").exists()
import importlib.util, pathlib
assert (pathlib.Path(importlib.util.find_spec("jaxppo").origin).parent / "py.typed").exists()
print("fine")
"""


def run(*command, cwd):
    done = subprocess.run([str(x) for x in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def foreign_wheel(folder):
    """A wheel that installs a top-level `envs` with a `MarketData` of its own."""
    path = folder / "envs-1.4-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("envs/__init__.py", "MarketData = 'foreign'\n")
        wheel.writestr("envs-1.4.dist-info/METADATA", "Metadata-Version: 2.1\nName: envs\nVersion: 1.4\n")
        wheel.writestr(
            "envs-1.4.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("envs-1.4.dist-info/RECORD", "")
    return path


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A user's folder with an `envs` of its own."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "envs").mkdir()
    (folder / "envs" / "__init__.py").write_text("MarketData = 'mine'\n")
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT, cwd=folder)
    return next(folder.glob("jaxppo-*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_the_market_side_once(built):
    names = zipfile.ZipFile(built).namelist()
    assert "jaxppo/envs/market/market_data.py" in names
    assert "jaxppo/envs/datasets/us5_1d.csv.gz" in names
    assert "jaxppo/report/report.css" in names
    assert "jaxppo/__init__.pyi" in names
    assert not any(name.startswith("envs/") for name in names)
    assert len(names) == len(set(names))


@pytest.mark.slow
@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_installs_beside_a_foreign_envs(kind, order, built, project, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True, system_site_packages=False)
    python = tmp_path / "venv" / "bin" / "python"
    # The dependencies are those of this environment: only the two packages are installed anew.
    site = pathlib.Path(run(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=tmp_path).strip())
    here = [path for path in sys.path if path.endswith("site-packages")]
    foreign = [python, "-m", "pip", "install", "-q", "--no-deps", foreign_wheel(tmp_path)]
    ours = [python, "-m", "pip", "install", "-q", "--no-deps"]
    ours += [built] if kind == "wheel" else ["-e", ROOT]
    for command in (foreign, ours) if order == "before" else (ours, foreign):
        run(*command, cwd=tmp_path)
    (site / "zz_dependencies.pth").write_text("\n".join(here) + "\n")
    for folder in (project, tmp_path):
        assert "fine" in run(python, "-c", CHECK, cwd=folder)
    assert "mine" in run(python, "-c", "import jaxppo.envs, envs; print(envs.MarketData)", cwd=project)
    assert "foreign" in run(python, "-c", "import jaxppo.envs, envs; print(envs.MarketData)", cwd=tmp_path)


def test_a_checkout_has_one_set_of_classes():
    code = "from envs import MarketData as a; from jaxppo.envs import MarketData as b; print(a is b)"
    assert "True" in run(sys.executable, "-c", code, cwd=ROOT)
