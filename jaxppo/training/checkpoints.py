"""Saving and restoring a run's state with Orbax; independent of the number of devices."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxppo.config import ConfigError


class Checkpoints:
    """Checkpoints under one folder, the newest `keep` of them.

    Args:
      folder: where to keep them.
      keep: how many.
    """

    def __init__(self, folder: pathlib.Path, keep: int):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    @property
    def latest(self) -> int | None:
        """Number of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, host: dict[str, Any]) -> None:
        """Saves a pytree of arrays and a JSON-serialisable dict as checkpoint number `step`, replacing one of that number."""
        if step in self._manager.all_steps():
            self._manager.delete(step)
        arrays = jax.tree.map(np.asarray, jax.device_get(state))
        items = ocp.args.Composite(state=ocp.args.StandardSave(arrays), host=ocp.args.JsonSave(host))
        self._manager.save(step, args=items)
        self._manager.wait_until_finished()

    def restore(self, like: Any) -> tuple[Any, dict[str, Any]]:
        """The newest checkpoint as NumPy arrays in the structure of `like`, and its dict.

        Raises:
          ConfigError: there is none, or it holds a network or batch of another shape.
        """
        step = self.latest
        if step is None:
            raise ConfigError(f"{self._manager.directory}: no checkpoint found")
        target = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(target), host=ocp.args.JsonRestore())
        try:
            restored = self._manager.restore(step, args=items)
        except ValueError as error:
            first = str(error).strip().splitlines()[0]
            raise ConfigError(f"{self._manager.directory}: checkpoint {step} does not fit this run: {first}") from None
        shapes = jax.tree.map(lambda have, want: have.shape == want.shape, restored["state"], target)
        if not jax.tree.all(shapes):
            raise ConfigError(f"{self._manager.directory}: checkpoint {step} holds arrays of other shapes than this run")
        return restored["state"], restored["host"]

    def close(self) -> None:
        """Releases the folder."""
        self._manager.close()
