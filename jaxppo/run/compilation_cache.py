"""Keeps compiled programs on disk from one command to the next: JAX's persistent cache, and what it saved."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import platform
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from jaxppo.errors import ConfigError

PROCESSORS = pathlib.Path("/proc/cpuinfo")
"""Where Linux says which instructions the processor has."""
_HITS, _MISSES = "/jax/compilation_cache/cache_hits", "/jax/compilation_cache/cache_misses"
_SAVED = "/jax/compilation_cache/compile_time_saved_sec"
_OPTIONS: dict[str, Any] = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}
"""Every program is kept: most of a training's are small, and there are hundreds of them."""


@dataclasses.dataclass
class CacheUse:
    """What a compilation cache did.

    Attributes:
      folder: of its programs.
      found: programs that were read from it.
      added: programs that were compiled and written to it.
      seconds: of compiling that those found had taken, less what reading them took.
    """

    folder: pathlib.Path
    found: int = 0
    added: int = 0
    seconds: float = 0.0

    def describe(self) -> str:
        """What was found, one line."""
        return (
            f"compilation cache {self.folder}: {self.found:,} programs found, {self.added:,} added; "
            f"{self.seconds:.1f} s of compiling saved"
        )


@contextlib.contextmanager
def cached_programs(folder: str | os.PathLike[str]) -> Iterator[CacheUse]:
    """Keeps programs that are compiled within the block in a folder, and takes from there what was kept before.

    Programs for a CPU fit the processor that they were compiled on, so that each kind of processor has a folder of its
    own within. What is read is executed: nobody else should be able to write there.

    Args:
      folder: made where it is missing.

    Yields:
      What the cache does.

    Raises:
      ConfigError: the folder cannot be written.
    """
    use = CacheUse(pathlib.Path(folder).expanduser().absolute() / _processor())
    try:
        use.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        writable = os.access(use.folder, os.W_OK | os.X_OK)
    except OSError:
        writable = False
    if not writable:
        raise ConfigError(f"compilation cache {folder} cannot be written; it must be a folder of yours")

    def count(event: str, **_: Any) -> None:
        use.found += event == _HITS
        use.added += event == _MISSES

    def add(event: str, duration_secs: float, **_: Any) -> None:
        use.seconds += duration_secs if event == _SAVED else 0.0

    options = {"jax_compilation_cache_dir": str(use.folder), **_OPTIONS}
    before = {name: getattr(jax.config, name) for name in options}
    _configure(options)
    jax.monitoring.register_event_listener(count)
    jax.monitoring.register_event_duration_secs_listener(add)
    try:
        yield use
    finally:
        jax.monitoring.unregister_event_listener(count)
        jax.monitoring.unregister_event_duration_listener(add)
        _configure(before)


def _configure(options: dict[str, Any]) -> None:
    for name, value in options.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # it asks for its folder once


def _processor() -> str:
    """A name for what programs can be run on: architecture, and instructions where they are known."""
    flags = ""
    if PROCESSORS.exists():
        lines = PROCESSORS.read_text(errors="replace").splitlines()
        flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return f"{platform.machine()}-{hashlib.sha256(flags.encode()).hexdigest()[:8]}"
