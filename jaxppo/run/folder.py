"""Folder of a run: configuration, provenance, metrics."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
import json
import os
import pathlib
import platform
import subprocess
from typing import Any

import jax
import numpy as np

from jaxppo.config import Config, dump_config, load_config
from jaxppo.config.types import keys
from jaxppo.envs.data.report import fingerprint
from jaxppo.envs.market.market_data import MarketData
from jaxppo.errors import ConfigError
from jaxppo.run import lock

LIBRARIES = ("jaxppo", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "gymnax", "numpy", "pandas")
MAY_CHANGE = (
    "training",
    "device",
    "monitor",
    "walk_forward",
    "evaluation.bootstrap_resamples",
    "evaluation.level",
    "evaluation.target_volatility",
)
"""Keys and sections that a resumed run may change: they do not shape its parameters."""


def check_output(output: str | pathlib.Path | None) -> None:
    """Refuses an output folder that cannot be used, before there is anything to write; touches nothing.

    Raises:
      ConfigError: `output` is not empty, is not a folder, or cannot be made.
    """
    if output is None:
        return
    if not str(output):
        raise ConfigError("--output is empty; give a folder such as runs/first")
    folder = pathlib.Path(output)
    try:
        if folder.is_dir() and any(entry.name != lock.NAME for entry in folder.iterdir()):
            raise ConfigError(
                f"--output {folder} is not empty; give another folder, or --resume to continue a run in it"
            )
        existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    except OSError as error:
        raise ConfigError(f"--output {folder} cannot be used: {error.strerror}") from None
    if not existing.is_dir():
        raise ConfigError(f"--output {folder} cannot be made: {existing} is a file; a folder is expected")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"--output {folder} cannot be made: {existing} must be writable")


def make_folder(output: str | pathlib.Path | None, name: str) -> pathlib.Path:
    """Makes the folder of a new run: `output`, or the first unused of `runs/name`, `runs/name-2`, ...

    Args:
      output: as asked for.
      name: of the run.

    Raises:
      ConfigError: it cannot be made.
    """
    numbered = (pathlib.Path("runs") / (name if number == 1 else f"{name}-{number}") for number in itertools.count(1))
    for folder in [pathlib.Path(output)] if output is not None else numbered:
        try:
            folder.mkdir(parents=True, exist_ok=output is not None)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(f"--output {folder} cannot be made: {error.strerror}") from None
        return folder
    raise ConfigError(f"--output {output} is a file; a folder is expected")


RUN, WALK_FORWARD = "run", "walk_forward"
"""Kinds of folders, `kind` in metadata.json; without one it is a run."""


def open_folder(folder: str | pathlib.Path, kind: str = RUN) -> tuple[pathlib.Path, Config]:
    """Opens the folder of an existing run or walk-forward, and loads its configuration.

    Args:
      folder: as given.
      kind: `RUN` or `WALK_FORWARD`.

    Raises:
      ConfigError: there is none there, or one of the other kind.
    """
    folder = pathlib.Path(folder)
    try:
        there = (folder / "config.yaml").is_file()
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be read: {error.strerror}") from None
    if not there:
        raise ConfigError(f"{folder}: not a run folder (it has no config.yaml)")
    found = _kind(folder)
    if found != kind:
        hint = "give that of a walk-forward"
        if found == WALK_FORWARD:
            hint = "open its agents with jaxppo.walk_forward.load_fold"
        raise ConfigError(f"{folder}: the folder of a {found.replace('_', '-')}; {hint}")
    return folder, load_config(folder / "config.yaml", saved=True)


def _kind(folder: pathlib.Path) -> str:
    """Kind of a folder; one whose metadata.json cannot be read is a run."""
    try:
        found = json.loads((folder / "metadata.json").read_text(encoding="utf-8")).get("kind", RUN)
    except (OSError, ValueError, AttributeError):
        return RUN
    return found if isinstance(found, str) else RUN


def check_same_run(saved: Config, given: Config) -> None:
    """Refuses to resume a run as another one: only what does not shape its parameters may change.

    Args:
      saved: configuration that the run was started with.
      given: configuration to go on with.

    Raises:
      ConfigError: names the first key that differs.
    """
    old, new = saved.model_dump(), given.model_dump()
    limits = [", ".join(next(iter(item)) for item in config["monitor"]) or "nothing" for config in (old, new)]
    if limits[0] != limits[1]:
        raise ConfigError(
            f"--resume: monitor watches {limits[1]} but the run was started with {limits[0]}; of its limits only the "
            "keys may change, such as stop"
        )
    for key, _ in keys():
        section, _, name = key.rpartition(".")
        before, after = (old[section][name], new[section][name]) if section else (old[name], new[name])
        if before != after and not {section, key} & {*MAY_CHANGE}:
            raise ConfigError(
                f"--resume: {key} is {after!r} but the run was started with {before!r}; only {', '.join(MAY_CHANGE)} "
                "may change"
            )


def check_same_data(folder: pathlib.Path, data: dict[str, Any]) -> None:
    """Refuses data that are not those that the run was started with.

    Args:
      folder: of the run.
      data: report on the data, see `data_report`.

    Raises:
      ConfigError: they are not, or the run does not say which it was started with.
    """
    started_with = read_data(folder).get("fingerprint")
    if not isinstance(started_with, str):
        raise ConfigError(f"{folder / 'metadata.json'}: damaged; it has no fingerprint of the run's prices")
    found = data["fingerprint"]
    if found != started_with:
        raise ConfigError(
            f"{folder}: the prices are not those that the run was started with (fingerprint {found[:12]}, expected "
            f"{started_with[:12]})"
        )


def read_data(folder: pathlib.Path) -> dict[str, Any]:
    """Reads the report on the data that a run was started with, from `metadata.json`.

    Raises:
      ConfigError: it is not there.
    """
    path = folder / "metadata.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["data"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{path}: missing or damaged; the fingerprint of the run's prices was expected in it"
        ) from None


def write_config(folder: pathlib.Path, config: Config) -> None:
    """Writes `config.yaml`, every key resolved, in one move; leaves it alone where it says the same already.

    Args:
      folder: of the run.
      config: of the run.
    """
    path, text = folder / "config.yaml", dump_config(config)
    if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
        _write(path, text)


def write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
    """Writes a JSON file in one move, so that a reader never sees half of it.

    Args:
      path: of the file.
      content: of the file.
    """
    _write(path, json.dumps(content, indent=2) + "\n")


def _write(path: pathlib.Path, text: str) -> None:
    """Writes a file beside its place, and moves it there once it is on the disk."""
    draft = path.with_name(path.name + ".part")
    with open(draft, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def provenance(config: Config, data: dict[str, Any], devices: list[jax.Device]) -> dict[str, Any]:
    """Collects where a result comes from: versions, commit, data, devices, seed.

    Args:
      config: of the run.
      data: report on its data.
      devices: that it runs on.
    """
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}},
        "commit": _commit(),
        "data": data,
        "devices": [str(device.device_kind) for device in devices],
        "platform": devices[0].platform,
        "seed": config.seed,
    }


def data_report(market: MarketData) -> dict[str, Any]:
    """Report of the loader on a market; its fingerprint alone if no loader has read it."""
    if market.info.report:
        return market.info.report
    arrays = {
        field.name: np.asarray(getattr(market, field.name))
        for field in dataclasses.fields(market)
        if field.name != "info"
    }
    times = market.info.timestamps.astype("datetime64[ns]").astype(np.int64)
    return {"fingerprint": fingerprint(market.info.symbols, times, arrays)}


def read_metrics(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Reads the rows of `metrics.jsonl`; none if there is no such file. An unfinished last row is left out.

    Raises:
      ConfigError: another row cannot be read, or the rows are out of order.
    """
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    try:
        *lines, unfinished = path.read_text(encoding="utf-8").split("\n")
        del unfinished
        rows = [json.loads(line) for line in lines]
        iterations = [row["iteration"] for row in rows]
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path}: damaged: a row is no JSON object with an iteration ({error!r})") from None
    if any(type(iteration) is not int for iteration in iterations):
        raise ConfigError(f"{path}: damaged: the iteration of a row is no whole number")
    if any(after <= before for before, after in itertools.pairwise(iterations)):
        raise ConfigError(f"{path}: damaged: its iterations do not increase from row to row")
    return rows


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Commit of the source tree that the package was imported from, `-dirty` if changed; None outside a checkout."""
    root = pathlib.Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=10).stdout.strip()

    try:
        if pathlib.Path(git("rev-parse", "--show-toplevel") or ".") != root:
            return None
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or None
    except (OSError, subprocess.TimeoutExpired):
        return None
