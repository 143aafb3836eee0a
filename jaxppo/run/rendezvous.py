"""How processes find each other before `jax.distributed` connects them: whoever is missing or wrong is named."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from typing import Any

import jax

from jaxppo._version import __version__
from jaxppo.errors import ConfigError

PATIENCE = 300.0
"""Seconds in which all processes must have come."""
PAUSE = 0.5
LONGEST = 10_000
"""Bytes of a message, at most."""
ALL_THREE = "several processes need --coordinator HOST:PORT, --processes N and --process I, or --processes auto"


def join(
    coordinator: str | None, processes: str | None, process: str | None, *, patience: float = PATIENCE
) -> tuple[int, int]:
    """Joins the processes that train together, before JAX looks for devices.

    Args:
      coordinator: `HOST:PORT` that process 0 listens at and all others reach.
      processes: how many there are; or "auto", which leaves all three to the cluster: SLURM, Cloud TPU, Open MPI.
      process: number of this one, from 0 on.
      patience: seconds to wait for the others.

    Returns:
      Number of this process, and how many there are; `(0, 1)` if nothing is given.

    Raises:
      ConfigError: one of them is missing or wrong, the coordinator cannot be reached, or a process did not come.
    """
    if processes is None and coordinator is None and process is None:
        return 0, 1
    # Its handler of SIGTERM would take the place of ours, which stops training after an iteration.
    jax.config.update("jax_enable_preemption_service", False)
    if processes == "auto":
        if coordinator is not None or process is not None:
            raise ConfigError("--processes is auto, which takes no --coordinator and no --process")
        try:
            jax.distributed.initialize()
        except (ValueError, RuntimeError) as error:
            raise ConfigError(f"--processes is auto, but JAX finds no cluster here ({error}); {ALL_THREE}") from None
        return jax.process_index(), jax.process_count()
    if processes is None or coordinator is None or process is None:
        raise ConfigError(ALL_THREE)
    n = _number("--processes", processes, 1, 2**16)
    index = _number("--process", process, 0, n - 1)
    host, port = _address(coordinator)
    if n == 1:
        return 0, 1
    if index == 0:
        _gather(port, n, patience)
    else:
        _arrive((host, port), index, n, patience)
    jax.distributed.initialize(coordinator, n, index, cluster_detection_method="deactivate")
    return index, n


def _number(option: str, text: str, least: int, most: int) -> int:
    if not re.fullmatch(r"\d{1,9}", text) or not least <= int(text) <= most:
        raise ConfigError(f"{option} is {text!r}; it must be a whole number from {least} to {most}")
    return int(text)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not re.fullmatch(r"\d{1,5}", port) or not 1 <= int(port) < 2**16:
        raise ConfigError(f"--coordinator is {text!r}; it must be HOST:PORT, for example node0:12345")
    return host.strip("[]"), int(port)


def _gather(port: int, n: int, patience: float) -> None:
    """Process 0 waits until all others have come, and tells them whether they fit.

    Raises:
      ConfigError: the port is taken, or a process is missing, is there twice, or was given something else.
    """
    here = {"processes": n, **_versions()}
    came: set[int] = set()
    guests: list[socket.socket] = []
    problem, deadline = "", time.monotonic() + patience
    try:
        server = socket.create_server(("", port), backlog=n)
    except OSError as error:
        raise ConfigError(f"--coordinator: port {port} cannot be used here: {error.strerror}") from None
    with server, contextlib.ExitStack() as opened:
        while len(came) < n - 1 and not problem:
            server.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                guest = opened.enter_context(server.accept()[0])
            except TimeoutError:
                missing = [str(index) for index in range(1, n) if index not in came]
                problem = f"after {patience:.0f} s process {', '.join(missing[:8])} of {n} has not come"
                break
            about = _read(guest)
            index = about.get("process")
            if type(index) is not int or not 0 < index < 2**16:
                continue  # no process of ours
            different = next((key for key, value in here.items() if about.get(key) != value), None)
            if different is not None:
                given = str(about.get(different))[:40]
                problem = f"{different} is {given} on process {index} and {here[different]} on process 0"
            elif index in came:
                problem = f"--process {index} was given to two processes"
            came.add(index)
            guests.append(guest)
        for guest in guests:
            _write(guest, {"problem": problem})
    if problem:
        raise ConfigError(problem)


def _arrive(address: tuple[str, int], index: int, n: int, patience: float) -> None:
    """Another process waits until all have come.

    Raises:
      ConfigError: the coordinator cannot be reached, or says that something is wrong.
    """
    where, deadline = f"{address[0]}:{address[1]}", time.monotonic() + patience
    while True:
        left = deadline - time.monotonic()
        try:
            with socket.create_connection(address, timeout=max(left, 0.1)) as host:
                _write(host, {"process": index, "processes": n, **_versions()})
                host.settimeout(max(left, 0.1) + PAUSE)
                answer = _read(host)
            if "problem" in answer:
                break
            problem = "it hangs up"
        except OSError as error:
            problem = error.strerror or str(error)
        if left <= 0.0:
            raise ConfigError(f"--coordinator {where} cannot be reached in {patience:.0f} s: {problem}")
        time.sleep(min(PAUSE, max(left, 0.0)))
    if answer["problem"]:
        raise ConfigError(str(answer["problem"]))


def _versions() -> dict[str, str]:
    return {"jaxppo": __version__, "jax": jax.__version__}


def _write(to: socket.socket, content: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        to.sendall(json.dumps(content).encode() + b"\n")


def _read(of: socket.socket) -> dict[str, Any]:
    """A message; empty where it is none of ours."""
    if of.gettimeout() is None:
        of.settimeout(10.0)
    try:
        with of.makefile("rb") as file:
            content = json.loads(file.readline(LONGEST))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
