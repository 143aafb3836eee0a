"""What is installed: the wheel has what the commands need, and works beside a user's own `envs` and a package `envs`.

The foreign package is made here: a wheel with a top-level `envs`, as the public index has one.
"""

import pathlib
import shutil
import subprocess
import sys
import venv
import zipfile

import pytest
from docker_files import FILES, copied
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


def new_environment(folder):
    """The Python of a new environment, without packages."""
    venv.create(folder / "venv", with_pip=True, system_site_packages=False)
    return folder / "venv" / "bin" / "python"


def add_dependencies(python):
    """Gives an environment the packages of this one, behind its own: they are not installed anew."""
    code = "import site; print(site.getsitepackages()[0])"
    site = pathlib.Path(run(python, "-c", code, cwd=python.parent).strip())
    here = [path for path in sys.path if path.endswith("site-packages")]
    (site / "zz_dependencies.pth").write_text("\n".join(here) + "\n")


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
    assert "jaxppo/config/reference.md" in names
    found = (ROOT / "configs").rglob("*")
    configs = {f"jaxppo/configs/{path.relative_to(ROOT / 'configs').as_posix()}" for path in found if path.is_file()}
    assert configs == {name for name in names if name.startswith("jaxppo/configs/")}
    assert not any(name.startswith("envs/") for name in names)
    assert len(names) == len(set(names))


@pytest.mark.slow
def test_the_wheel_of_the_source_distribution_is_the_same(built, tmp_path):
    run(sys.executable, "-m", "pip", "install", "-q", "--target", tmp_path / "tools", "hatchling", cwd=tmp_path)
    code = f"import sys; sys.path.insert(0, {str(tmp_path / 'tools')!r}); from hatchling.build import build_sdist as b"
    source = run(sys.executable, "-c", f"{code}; print(b({str(tmp_path)!r}))", cwd=ROOT).split()[-1]
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, tmp_path / source, cwd=tmp_path)
    names = [sorted(zipfile.ZipFile(path).namelist()) for path in (built, next(tmp_path.glob("jaxppo-*.whl")))]
    assert names[0] == names[1]


@pytest.mark.slow
def test_what_the_images_copy_makes_the_same_wheel(built, tmp_path):
    source = tmp_path / "source"
    for name, target in copied(FILES[0]):
        (source / target).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / target)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, source, cwd=tmp_path)
    again = next(tmp_path.glob("jaxppo-*.whl"))
    names = [sorted(zipfile.ZipFile(path).namelist()) for path in (built, again)]
    assert names[0] == names[1]


@pytest.mark.slow
@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_installs_beside_a_foreign_envs(kind, order, built, project, tmp_path):
    python = new_environment(tmp_path)
    foreign = [python, "-m", "pip", "install", "-q", "--no-deps", foreign_wheel(tmp_path)]
    ours = [python, "-m", "pip", "install", "-q", "--no-deps"]
    ours += [built] if kind == "wheel" else ["-e", ROOT]
    for command in (foreign, ours) if order == "before" else (ours, foreign):
        run(*command, cwd=tmp_path)
    add_dependencies(python)
    for folder in (project, tmp_path):
        assert "fine" in run(python, "-c", CHECK, cwd=folder)
    assert "mine" in run(python, "-c", "import jaxppo.envs, envs; print(envs.MarketData)", cwd=project)
    assert "foreign" in run(python, "-c", "import jaxppo.envs, envs; print(envs.MarketData)", cwd=tmp_path)


SMALL = {
    "policy": {"kind": "mlp", "width": 16, "layers": 1, "heads": 2},
    "features": {"groups": "price", "normalisation_window": 20},
    "ppo": {"paths": 8, "portfolios": 2, "chunk": 8, "epochs": 1, "minibatches": 2},
    "training": {"steps": 128, "devices": 1},
    "evaluation": {"bootstrap_resamples": 100},
}
"""Keys of a training of seconds."""


@pytest.mark.slow
def test_the_wheel_runs_in_a_bare_folder(built, tmp_path):
    python = new_environment(tmp_path)
    run(python, "-m", "pip", "install", "-q", "--no-deps", built, cwd=tmp_path)
    add_dependencies(python)
    (tmp_path / "bare").mkdir()
    jaxppo, bare = python.parent / "jaxppo", tmp_path / "bare"
    version = built.name.split("-")[1]
    assert run(jaxppo, "--version", cwd=bare) == f"jaxppo {version}\n"
    assert run(python, "-m", "jaxppo", "--version", cwd=bare) == f"jaxppo {version}\n"
    assert "costs.commission_bps" in run(jaxppo, "train", "--help", cwd=bare)
    assert "Commission, basis points" in run(jaxppo, "help", "costs.commission_bps", cwd=bare)
    assert "wrote my.yaml" in run(jaxppo, "init", cwd=bare)
    small = [f"--{section}.{key}={value}" for section, keys in SMALL.items() for key, value in keys.items()]
    found = run(jaxppo, "doctor", "--config", "my.yaml", *small, cwd=bare)
    assert f"{version} in {python.parents[1]}" in found, "it is the wheel that runs"
    assert found.endswith("nothing has to be fixed\n")
    for config in ("my.yaml", "quickstart"):
        run(jaxppo, "train", "--config", config, "--quiet", *small, cwd=bare)
    assert all((bare / "runs" / name / "report.html").stat().st_size > 1e5 for name in ("my", "quickstart"))


def test_a_checkout_has_one_set_of_classes():
    code = "from envs import MarketData as a; from jaxppo.envs import MarketData as b; print(a is b)"
    assert "True" in run(sys.executable, "-c", code, cwd=ROOT)
