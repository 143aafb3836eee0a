"""The folder of a run: configuration, provenance, metrics."""

from __future__ import annotations

import importlib.metadata
import json
import pathlib
import platform
import subprocess
from typing import Any

import jax
import yaml

from jaxppo.config import Config, ConfigError, dump_config, load_config

LIBRARIES = ("jaxppo", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "gymnax", "numpy", "pandas")


def choose_folder(output: str | pathlib.Path | None, name: str) -> pathlib.Path:
    """The folder of a new run: `output`, or the first unused of `runs/name`, `runs/name-2`, ...

    Raises:
      ConfigError: `output` holds a run already, or cannot be made.
    """
    if output is None:
        number = 1
        while (folder := pathlib.Path("runs") / (name if number == 1 else f"{name}-{number}")).exists():
            number += 1
    else:
        folder = pathlib.Path(output)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"--output {folder} exists and is not empty; use --resume to continue it, or another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output {folder} cannot be made: {error.strerror}") from None
    return folder


def open_folder(folder: str | pathlib.Path) -> tuple[pathlib.Path, Config]:
    """An existing run and its configuration.

    Raises:
      ConfigError: there is no run there.
    """
    folder = pathlib.Path(folder)
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"{folder}: not a run folder (it has no config.yaml)")
    return folder, load_config(folder / "config.yaml")


def check_same_run(saved: Config, given: Config) -> None:
    """A resumed run must be the same run: only `training` (its budget and cadence) may change.

    Raises:
      ConfigError: names the first key that differs.
    """
    for section, value in saved.model_dump().items():
        new = given.model_dump()[section]
        if section == "training" or value == new:
            continue
        key = next((k for k in value if value[k] != new[k]), None) if isinstance(value, dict) else None
        name, old, new = (f"{section}.{key}", value[key], new[key]) if key else (section, value, new)
        raise ConfigError(f"--resume: {name} is {new!r} but the run was started with {old!r}; only training.* may change")


def write_config(folder: pathlib.Path, config: Config) -> None:
    """`config.yaml`, every key resolved."""
    (folder / "config.yaml").write_text(dump_config(config), encoding="utf-8")


def write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
    """Writes a file in one move, so that a reader never sees half of it."""
    draft = path.with_name(path.name + ".part")
    draft.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    draft.replace(path)


def provenance(config: Config, report: dict[str, Any], devices: list[jax.Device]) -> dict[str, Any]:
    """What is needed to say where a result came from: versions, commit, data, devices, seed."""
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}},
        "commit": _commit(),
        "data": report,
        "devices": [str(device.device_kind) for device in devices],
        "platform": devices[0].platform,
        "seed": config.seed,
    }


def read_metrics(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Rows of `metrics.jsonl`; none if there is no such file."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def read_yaml_text(folder: pathlib.Path) -> str:
    """The run's configuration as text, for the report."""
    return yaml.safe_dump(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")), sort_keys=False)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Commit of the source tree the package was imported from; None outside a checkout."""
    here = pathlib.Path(__file__).resolve().parent
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
