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
from jaxppo.config.own import own_names
from jaxppo.config.types import keys
from jaxppo.envs.data.report import fingerprint
from jaxppo.envs.market.market_data import MarketData
from jaxppo.errors import ConfigError
from jaxppo.run import files, lock
from jaxppo.run.mirror import refuse_url
from jaxppo.run.own_record import OF_LIBRARY, keep, record, restore
from jaxppo.run.resuming import resume_command

LIBRARIES = ("jaxppo", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "gymnax", "numpy", "pandas")
MAY_CHANGE = (
    "training",
    "device",
    "monitor",
    "walk_forward",
    "sweep",
    "tracking",
    "evaluation.bootstrap_resamples",
    "evaluation.level",
    "evaluation.target_volatility",
    "evaluation.baselines",
)
"""Keys and sections that a resumed run may change: they do not shape its parameters."""


def check_output(output: str | pathlib.Path | None) -> None:
    """Refuses an output folder that cannot be used, before there is anything to write; touches nothing.

    Raises:
      ConfigError: `output` is not empty, is not a local folder, or cannot be made.
    """
    if output is None:
        return
    if not str(output):
        raise ConfigError("--output is empty; give a folder such as runs/first")
    refuse_url(output, "--output")
    folder = pathlib.Path(output)
    try:
        if folder.is_dir() and not lock.is_unused(folder):
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


METADATA = "metadata.json"
RUN, WALK_FORWARD, SWEEP = "run", "walk_forward", "sweep"
"""Kinds of folders, `kind` in metadata.json; without one it is a run, as that of a finished sweep is."""
KINDS = (RUN, WALK_FORWARD, SWEEP)


def open_folder(folder: str | pathlib.Path, kind: str = RUN) -> tuple[pathlib.Path, Config]:
    """Opens the folder of an existing run, walk-forward or unfinished sweep, and loads its configuration.

    Args:
      folder: as given.
      kind: one of `KINDS`.

    Raises:
      ConfigError: there is none there, one of the other kind, one of a newer version, a file of it is damaged, or its
        own code is not there as it was.
    """
    folder = pathlib.Path(folder)
    try:
        there = (folder / "config.yaml").is_file()
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be read: {error.strerror}") from None
    if not there:
        raise ConfigError(f"{folder}: not a run folder (it has no config.yaml)")
    found = read_metadata(folder).get("kind", kind if just_begun(folder) else RUN)
    if found not in KINDS:
        raise ConfigError(f"{folder / METADATA}: damaged; its kind is {str(found)[:100]!r}: {' or '.join(KINDS)}")
    if found != kind:
        hint = f"give that of {'an unfinished sweep' if kind == SWEEP else 'a walk-forward'}"
        if kind == RUN and found == WALK_FORWARD:
            hint = "open its agents with jaxppo.walk_forward.load_fold"
        if kind == RUN and found == SWEEP:
            hint = f"finish it with {resume_command(folder, SWEEP)}"
        raise ConfigError(f"{folder}: the folder of a {found.replace('_', '-')}; {hint}")
    files.check_text(folder / "config.yaml")
    config = load_config(folder / "config.yaml", saved=True)
    restore_own_code(folder, config)
    return folder, config


def read_metadata(folder: pathlib.Path) -> dict[str, Any]:
    """Reads `metadata.json` of a run or walk-forward; empty where there is none.

    Raises:
      ConfigError: it is damaged, or made by a newer version.
    """
    try:
        return files.read_sealed(folder / METADATA)
    except FileNotFoundError:
        return {}


def write_metadata(folder: pathlib.Path, content: dict[str, Any], *, finished: bool) -> None:
    """Writes `metadata.json`.

    Args:
      folder: of the run or walk-forward.
      content: where its results come from.
      finished: whether it is trained and evaluated.
    """
    files.write_sealed(folder / METADATA, {**content, "finished": finished})


def is_finished(folder: pathlib.Path) -> bool:
    """Whether a run or walk-forward is trained and evaluated; older ones do not say so, but have a summary."""
    finished = read_metadata(folder).get("finished")
    return finished if isinstance(finished, bool) else (folder / "summary.json").exists()


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
        before, after = old, new
        for part in key.split("."):
            before, after = before[part], after[part]
        if before != after and not {key.partition(".")[0], key} & {*MAY_CHANGE}:
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
    started_with, found = read_data(folder)["fingerprint"], data["fingerprint"]
    if found != started_with:
        raise ConfigError(
            f"{folder}: the prices are not those that the run was started with (fingerprint {found[:12]}, expected "
            f"{started_with[:12]})"
        )


def just_begun(folder: pathlib.Path) -> bool:
    """Whether a run or walk-forward was interrupted before it had written what it is and anything to go on from."""
    return not (folder / METADATA).exists() and not (folder / "checkpoints").exists()


def read_data(folder: pathlib.Path) -> dict[str, Any]:
    """Reads the report on the data that a run was started with, from `metadata.json`.

    Returns:
      The report; has a `fingerprint`, and if it has `learned_from`, its `symbols` and `last` are sound.

    Raises:
      ConfigError: it is not there, or damaged.
    """
    path, data = folder / METADATA, read_metadata(folder).get("data")
    if not isinstance(data, dict) or not isinstance(data.get("fingerprint"), str):
        raise ConfigError(f"{path}: missing or damaged; the fingerprint of the run's prices was expected in it")
    seen = data.get("learned_from")
    if seen is not None and not _is_learned_from(seen):
        raise ConfigError(
            f"{path}: damaged; learned_from is {str(seen)[:100]!r}; symbols and the time of the last bar are expected"
        )
    return data


def _is_learned_from(seen: Any) -> bool:
    """Whether it has a list of symbols, and the time of a bar or None."""
    if not isinstance(seen, dict) or not isinstance(seen.get("symbols"), list):
        return False
    last = seen.get("last")
    try:
        known = last is None or (isinstance(last, str) and not np.isnat(np.datetime64(last)))
    except ValueError:
        return False
    return known and all(isinstance(symbol, str) for symbol in seen["symbols"])


def write_config(folder: pathlib.Path, config: Config) -> None:
    """Writes `config.yaml`, every key resolved, in one move; leaves it alone where it says the same already.

    The sources of own code that it names are kept beside it.

    Args:
      folder: of the run.
      config: of the run.
    """
    path, text = folder / "config.yaml", files.sealed_text(dump_config(config))
    if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
        files.write_text(path, text)
    keep(folder, _own_names(config))


def restore_own_code(folder: pathlib.Path, config: Config) -> None:
    """Finds the own code again that a run or walk-forward was trained with, see `jaxppo.run.own_record.restore`.

    Args:
      folder: of the run.
      config: of the run; nothing where it names none.

    Raises:
      ConfigError: it is not there as it was, the run does not say what it was, or what it says of it is damaged.
    """
    found = read_metadata(folder).get("own_code", {})
    if not isinstance(found, dict) or not all(map(_is_record, found.values())):
        raise ConfigError(f"{folder / METADATA}: damaged; own_code is {str(found)[:100]!r}; a mapping is expected")
    names = [name for name in _own_names(config) if name.partition(".")[0] != OF_LIBRARY]
    unknown = next((name for name in names if name not in found), None)
    if unknown is not None:
        raise ConfigError(f"{folder}: config.yaml names {unknown}, but {METADATA} does not say what that was")
    restore(folder, {name: found[name] for name in names})


def _is_record(about: Any) -> bool:
    """Whether it may be what `jaxppo.run.own_record.record` says of a function."""
    if not isinstance(about, dict) or not isinstance(about.get("file"), str | None):
        return False
    return all(isinstance(about.get(name), str) for name in ("sha256", "kept"))


def _own_names(config: Config) -> list[str]:
    return [name for _, name in own_names(config)]


def provenance(config: Config, data: dict[str, Any], devices: list[jax.Device]) -> dict[str, Any]:
    """Collects where a result comes from: versions, commit, data, devices, seed, own code.

    Args:
      config: of the run.
      data: report on its data.
      devices: that it runs on.
    """
    own_code = record(_own_names(config))
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}},
        "commit": _commit(),
        "data": data,
        "devices": [str(device.device_kind) for device in devices],
        "platform": devices[0].platform,
        "seed": config.seed,
        **({"own_code": own_code} if own_code else {}),
    }


def data_report(market: MarketData) -> dict[str, Any]:
    """Report of the loader on a market; its fingerprint alone if no loader has read it."""
    if market.info.report:
        return market.info.report
    arrays = {
        field.name: np.asarray(getattr(market, field.name))
        for field in dataclasses.fields(market)
        if field.name not in ("info", "columns") and not isinstance(getattr(market, field.name), tuple)
    }
    arrays |= {f"column {name}": np.asarray(x) for name, x in dict(market.columns).items()}
    times = market.info.timestamps.astype("datetime64[ns]").astype(np.int64)
    return {"fingerprint": fingerprint(market.info.symbols, times, arrays)}


def read_metrics(folder: pathlib.Path, least: int = 0) -> list[dict[str, Any]]:
    """Reads the rows of `metrics.jsonl`; none if there is no such file. An unfinished last row is left out.

    Args:
      folder: of the run.
      least: iterations that must be there.

    Raises:
      ConfigError: another row cannot be read, an iteration is missing, or the rows are out of order.
    """
    path = folder / "metrics.jsonl"
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path}: is not a regular file")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        rows = [json.loads(line) for line in lines]
        iterations = [row["iteration"] for row in rows]
    except FileNotFoundError:
        rows, iterations = [], []
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ConfigError(f"{path}: damaged: a row is no JSON object with an iteration ({error!r:.100})") from None
    for number, iteration in enumerate(iterations, 1):
        if type(iteration) is not int or iteration != number:
            found = str(iteration)[:20]
            raise ConfigError(f"{path}: damaged: row {number} is of iteration {found}; {number} is expected")
        if not all(isinstance(value, (int, float)) or value is None for value in rows[number - 1].values()):
            raise ConfigError(f"{path}: damaged: row {number} holds something else than numbers")
    if len(rows) < least:
        raise ConfigError(f"{path}: damaged: it has {len(rows)} iterations of {least}; restore it from a copy")
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
