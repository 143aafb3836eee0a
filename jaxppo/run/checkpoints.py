"""Checkpoints of a run's state with Orbax, independent of the number of devices."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxppo.errors import ConfigError
from jaxppo.run.files import digest_of, read_sealed, write_sealed

FILES = "files.json"
"""SHA-256 of every file of a checkpoint: bytes that were changed are not given to a decoder."""
METADATA = "_CHECKPOINT_METADATA"
"""File that every checkpoint of Orbax has."""


def _digest(step: int, arrays: Any, host: dict[str, Any]) -> str:
    """SHA-256 of a checkpoint: its number, the dict, and names, types, shapes and bytes of all arrays of a pytree."""
    digest = hashlib.sha256(f"{step} {digest_of(host)}\n".encode())
    for path, array in jax.tree.leaves_with_path(arrays):
        array = np.ascontiguousarray(array)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


class Checkpoints:
    """Saves and restores checkpoints in one folder, and keeps the newest ones.

    Args:
      folder: of the checkpoints; made when the first one is saved.
      keep: how many to keep.

    Raises:
      ConfigError: the folder, or one of its checkpoints, is a link to another place, or a file.
    """

    def __init__(self, folder: pathlib.Path, keep: int):
        for path in (folder.parent, folder, *(folder.iterdir() if folder.is_dir() else ())):
            _refuse_link(path)
            if path.exists() and not path.is_dir() and path in (folder.parent, folder):
                raise ConfigError(f"{path}: is a file; a folder of checkpoints is expected")
        # Of several processes, one saves what it has gathered, and any may read alone: Orbax must wait for no other.
        own = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(own, {own}, f"process-{own}")
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=False, create=False, multiprocessing_options=alone
        )
        self._folder = folder.absolute()
        with _quietly():
            self._manager = ocp.CheckpointManager(self._folder, options=options)

    @property
    def latest(self) -> int | None:
        """Number of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def holds(self, step: int) -> bool:
        """Whether there is a checkpoint of that number."""
        return step in self._manager.all_steps()

    def save(self, step: int, state: Any, host: dict[str, Any]) -> None:
        """Saves a checkpoint, and deletes later ones first.

        Args:
          step: number of the checkpoint.
          state: pytree of arrays.
          host: what else to keep, JSON-serialisable.

        Raises:
          ConfigError: something that is no checkpoint lies where it would be.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self.discard_after(step - 1)
        place = self._folder / str(step)
        if place.exists():
            raise ConfigError(f"{place}: is in the way of a checkpoint, and is none; move it away")
        arrays = jax.tree.map(np.asarray, jax.device_get(state))
        kept = {"host": host, "sha256": _digest(step, arrays, host)}
        items = ocp.args.Composite(state=ocp.args.StandardSave(arrays), host=ocp.args.JsonSave(kept))
        self._manager.save(step, args=items, force=True)
        self._manager.wait_until_finished()
        write_sealed(place / FILES, _sums(place))

    def discard_after(self, step: int) -> None:
        """Deletes checkpoints after `step`: what an interrupted run did, its continuation does again."""
        for later in self._manager.all_steps():
            # A folder that is only named like a checkpoint is not ours.
            if later > step and (self._folder / str(later) / METADATA).exists():
                self._manager.delete(later)

    def restore_newest(self, like: Any) -> tuple[Any, dict[str, Any]]:
        """Restores the newest checkpoint that is whole; says on stderr which ones are not.

        Args:
          like: see `restore`.

        Returns:
          See `restore`.

        Raises:
          ConfigError: none is whole.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps[:-1]:
            try:
                return self.restore(like, step)
            except ConfigError as error:
                print(f"{error}; the checkpoint before it is tried", file=sys.stderr)
        return self.restore(like, steps[-1] if steps else None)

    def restore(self, like: Any, step: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Restores a checkpoint.

        Args:
          like: pytree of arrays or of their shapes and dtypes.
          step: number of the checkpoint; default the newest.

        Returns:
          NumPy arrays in the structure of `like`, and the dict of the checkpoint.

        Raises:
          ConfigError: there is none, it is damaged, or it holds a network or batch of another shape.
        """
        known = self._manager.all_steps()
        step = self.latest if step is None else step
        if step is None or step not in known:
            raise ConfigError(f"{self._folder}: no checkpoint found{'' if step is None else f' with number {step}'}")
        place = self._folder / str(step)
        _check_files(place)
        target = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(target), host=ocp.args.JsonRestore())
        try:
            with _quietly():
                restored = self._manager.restore(step, args=items)
        except Exception as error:  # whatever a decoder makes of bytes that anybody may have written
            first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise ConfigError(f"{place}: damaged, or saved by a run of another shape: {first}") from None
        kept = restored["host"]
        if not isinstance(kept, dict):
            raise ConfigError(f"{place}: damaged: its host metadata is no mapping")
        shapes = jax.tree.map(lambda have, want: have.shape == want.shape, restored["state"], target)
        if not jax.tree.all(shapes):
            raise ConfigError(f"{place}: holds arrays of other shapes than this run")
        if "sha256" not in kept:  # saved by an earlier version
            return restored["state"], kept
        host = kept.get("host")
        if not isinstance(host, dict) or kept["sha256"] != _digest(step, restored["state"], host):
            raise ConfigError(f"{place}: damaged: it does not hold what was saved in it")
        return restored["state"], host

    def close(self) -> None:
        """Releases the folder."""
        self._manager.close()


def _sums(place: pathlib.Path) -> dict[str, str]:
    """SHA-256 of every file of a checkpoint, by its path within."""
    files = sorted(path for path in _inside(place) if path.is_file() and path != place / FILES)
    return {path.relative_to(place).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _check_files(place: pathlib.Path) -> None:
    """Refuses a checkpoint with links in it, or with files that are not those that were saved.

    One of an earlier version has no list of its files, nor has one that was killed before it was written: their arrays
    are compared after they were read.

    Raises:
      ConfigError: names the first file that differs.
    """
    for path in _inside(place):
        _refuse_link(path)
    if not (place / FILES).exists():
        return
    saved, found = read_sealed(place / FILES), _sums(place)
    different = next((name for name in sorted({*saved, *found}) if saved.get(name) != found.get(name)), None)
    if different is not None:
        raise ConfigError(f"{place}: damaged: {different} is not what was saved")


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Silences the log of Orbax: a checkpoint that is damaged is named in one line."""
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def _refuse_link(path: pathlib.Path) -> None:
    """A ConfigError for what leads out of the folder, or is neither a file nor a folder."""
    if path.is_symlink():
        raise ConfigError(f"{path}: is a link to another place; the checkpoints of a run lie in its folder")
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ConfigError(f"{path}: is neither a file nor a folder")


def _inside(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Everything under a folder; links are not followed."""
    for path in folder.iterdir() if folder.is_dir() and not folder.is_symlink() else ():
        yield path
        if not path.is_symlink():
            yield from _inside(path)
