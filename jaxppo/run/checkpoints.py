"""Checkpoints of a run's state with Orbax, independent of the number of devices."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxppo.errors import ConfigError


class Checkpoints:
    """Saves and restores checkpoints in one folder, and keeps the newest ones.

    Args:
      folder: of the checkpoints; made when the first one is saved.
      keep: how many to keep.
    """

    def __init__(self, folder: pathlib.Path, keep: int):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False, create=False)
        self._folder = folder.absolute()
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    @property
    def latest(self) -> int | None:
        """Number of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, host: dict[str, Any]) -> None:
        """Saves a checkpoint, and deletes later ones first.

        Args:
          step: number of the checkpoint.
          state: pytree of arrays.
          host: what else to keep, JSON-serialisable.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self.discard_after(step - 1)
        arrays = jax.tree.map(np.asarray, jax.device_get(state))
        items = ocp.args.Composite(state=ocp.args.StandardSave(arrays), host=ocp.args.JsonSave(host))
        self._manager.save(step, args=items, force=True)
        self._manager.wait_until_finished()

    def discard_after(self, step: int) -> None:
        """Deletes checkpoints after `step`: what an interrupted run did, its continuation does again."""
        for later in self._manager.all_steps():
            if later > step:
                self._manager.delete(later)

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
        if step not in known:
            raise ConfigError(f"{self._folder}: no checkpoint found{'' if step is None else f' with number {step}'}")
        target = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(target), host=ocp.args.JsonRestore())
        try:
            restored = self._manager.restore(step, args=items)
        except (ValueError, OSError, KeyError, TypeError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise ConfigError(
                f"{self._folder / str(step)}: damaged, or saved by a run of another shape: {first}"
            ) from None
        shapes = jax.tree.map(lambda have, want: have.shape == want.shape, restored["state"], target)
        if not jax.tree.all(shapes):
            raise ConfigError(f"{self._folder / str(step)}: holds arrays of other shapes than this run")
        return restored["state"], restored["host"]

    def close(self) -> None:
        """Releases the folder."""
        self._manager.close()
