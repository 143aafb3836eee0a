"""Monte Carlo over Ray: parts of a job are computed by the workers of a cluster, and again if a worker is lost."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import pathlib
import pickle
import re
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from jaxppo.errors import ConfigError, UserError
from jaxppo.monte_carlo.compute import compute_here, settings_of
from jaxppo.monte_carlo.engine import Paths
from jaxppo.run.progress import Progress

LOCAL = "local"
MOST_TRIES = 5
"""How often a part is computed whose workers are lost."""
AHEAD = 2
"""Parts that are handed out for each worker: one that it computes, and one that waits."""
POLL = 1.0
"""Seconds after which the driver looks for more workers, and signals reach it."""
PATIENCE = 10.0
"""Seconds in which a cluster must answer."""
OF_A_WORKER = ("part_size", "shard")
"""Settings of a job that a worker does not have."""


class PathsOnRay:
    """Paths that the workers of a Ray cluster compute, with the numbers of `Paths` on one machine.

    A part of the job is a task. It takes a GPU where the cluster has any and the paths are on GPUs, else a CPU. Workers
    need this package, and whatever `make` reads, such as the run folder, at the same place.

    Args:
      make: makes the `Paths`, here and on each worker, where it comes pickled; the same on all.
      address: "local" for workers on this machine, "auto" for the cluster that it belongs to, `HOST:PORT`, or
        `ray://HOST:PORT` from outside of a cluster.

    Attributes:
      here: those of this process.

    Raises:
      ConfigError: Ray is not installed.
    """

    def __init__(self, make: Callable[[], Paths], address: str = LOCAL):
        self._ray = _ray()
        self._made = self._ray.cloudpickle.dumps(make)
        self.address, self.here = address, make()

    def compute(
        self, parts: Mapping[int, Sequence[int]], settings: Mapping[str, Any], bar: Progress, done: int
    ) -> Iterator[tuple[int, pa.Table]]:
        """Computes parts side by side, in any order.

        Args:
          parts: number of a part -> numbers of its batches.
          settings: of the job; every worker compares its own.
          bar: shows the paths that are done.
          done: paths that are done already.

        Yields:
          Number and table of each part.

        Raises:
          ConfigError: the cluster cannot be reached, workers have other data or another version, or the workers of a
            part were lost `MOST_TRIES` times.
        """
        if not parts:
            return
        ray = self._ray
        started = _connect(ray, self.address)
        try:
            for number, table in self._hand_out(dict(parts), settings):
                done += len(table)
                bar.announce("trading")
                bar.update(done, 0.0)
                yield number, table
        finally:
            if started:
                ray.shutdown()

    def _hand_out(
        self, waiting: dict[int, Sequence[int]], settings: Mapping[str, Any]
    ) -> Iterator[tuple[int, pa.Table]]:
        ray = self._ray
        kind = "GPU" if self.here.devices[0].platform == "gpu" and _slots(ray, "GPU") else "CPU"
        resources = {"num_cpus": 1, "num_gpus": int(kind == "GPU")}
        task = ray.remote(max_retries=0, **resources)(_part)
        shared = {name: value for name, value in settings.items() if name not in OF_A_WORKER}
        constant = ray.put((self._made, os.getcwd(), shared, self.here.batch_size))
        running: dict[Any, int] = {}
        parts, tries = dict(waiting), dict.fromkeys(waiting, 0)
        while waiting or running:
            while waiting and len(running) < AHEAD * max(_slots(ray, kind), 1):
                number = next(iter(waiting))
                running[task.remote(constant, list(waiting.pop(number)))] = number
                tries[number] += 1
            finished, _ = ray.wait(list(running), timeout=POLL)
            for reference in finished:
                number = running.pop(reference)
                try:
                    table = ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    raise _of_worker(error) from None
                except ray.exceptions.RayError as error:
                    first = " ".join(str(error).split())[:200]
                    if tries[number] >= MOST_TRIES:
                        raise ConfigError(
                            f"--ray {self.address}: the workers of part {number} were lost {MOST_TRIES} times; what is "
                            f"computed is kept; the last one: {first}"
                        ) from None
                    print(f"a worker is lost, part {number} is computed again: {first}", file=sys.stderr)
                    waiting[number] = parts[number]
                    time.sleep(POLL)
                    continue
                yield number, table


def _part(constant: tuple[bytes, str, dict[str, Any], int], batches: list[int]) -> pa.Table:
    """A part, on a worker."""
    made, folder, settings, batch_size = constant
    if pathlib.Path(folder).is_dir():
        os.chdir(folder)  # where relative paths are those of the driver
    paths, own = _opened(made, settings["n_paths"], batch_size)
    different = next((key for key in {**settings, **own} if own.get(key) != settings.get(key)), None)
    if different is not None:
        raise ConfigError(
            f"a worker on {os.uname().nodename} has another {different}: {str(own.get(different))[:80]}, not "
            f"{str(settings.get(different))[:80]}; it needs the same run, prices and version of jaxppo"
        )
    return next(compute_here(paths, {0: batches}, settings["n_paths"]))[1]


@functools.lru_cache(maxsize=1)
def _opened(made: bytes, n_paths: int, batch_size: int) -> tuple[Paths, dict[str, Any]]:
    """The paths of a worker, compiled once for all its parts, and their settings."""
    paths = pickle.loads(made)()
    paths.batch_size = batch_size  # a driver without the workers' devices would choose another one
    settings = settings_of(paths, n_paths, None, (0, 1))
    return paths, {name: value for name, value in settings.items() if name not in OF_A_WORKER}


def _slots(ray: Any, kind: str) -> int:
    return int(ray.cluster_resources().get(kind, 0))


def _of_worker(error: Any) -> Exception:
    """What went wrong in a task: a user's mistake is one here too."""
    cause = error.cause
    return type(cause)(str(cause)) if isinstance(cause, UserError) else error


def _ray() -> Any:
    """The package, which reports nothing to anybody.

    Raises:
      ConfigError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ConfigError(f"--ray needs the package ray ({error}): pip install 'jaxppo[ray]'") from None


def _check_address(address: str) -> None:
    """Refuses an address with a host where nothing listens, which Ray would try for minutes.

    Raises:
      ConfigError: nobody answers there, or it is none that Ray takes.
    """
    if address in (LOCAL, "auto"):
        return
    found = re.fullmatch(r"(?:ray://)?\[?([^/\[\]]+?)\]?:(\d{1,5})", address)
    if found is None or not 0 < int(found[2]) < 2**16:
        raise ConfigError(f"--ray is {address!r}; it must be local, auto, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((found[1], int(found[2])), timeout=PATIENCE).close()
    except OSError as error:
        raise ConfigError(f"--ray is {address!r}, where nobody answers: {error.strerror or error}") from None


def _connect(ray: Any, address: str) -> bool:
    """Connects to a cluster, or starts one on this machine; False where the caller has done so before.

    Raises:
      ConfigError: it cannot be reached.
    """
    if ray.is_initialized():
        return False
    _check_address(address)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # A worker is a device: each task takes a core of its own.
    environment = {"env_vars": {"JAX_NUM_CPU_DEVICES": "1", "RAY_USAGE_STATS_ENABLED": "0"}}
    local = {"include_dashboard": False} if address == LOCAL else {}
    try:
        warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called", category=RuntimeWarning)
        ray.init(address, runtime_env=environment, log_to_driver=False, logging_level="ERROR", **local)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        first = " ".join(str(error).split())[:200]
        raise ConfigError(f"--ray is {address!r}, where no cluster can be reached: {first}") from None
    finally:
        with contextlib.suppress(ValueError, TypeError):  # another thread, or a handler that is none of Python's
            for number, handler in handlers.items():  # Ray's own would end the command without a word
                signal.signal(number, handler)
    return True
