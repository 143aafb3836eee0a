"""Devices, memory and disk."""

from __future__ import annotations

import dataclasses
import glob
import importlib
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping

from jaxppo.cli.checks.finding import Finding
from jaxppo.cli.checks.installation import installed_plugins

GIB = 2**30
LITTLE_MEMORY, LITTLE_DISK = 2 * GIB, 1 * GIB
"""Bytes under which a check warns: a quick start takes about one of memory, a run folder with its report megabytes."""
OLDEST_DRIVERS = {"cuda13": 580, "cuda12": 525}
"""Of NVIDIA, by the extra that needs it, the newest CUDA first."""
INSTALL = "pip install 'jaxppo[{0}]' (in a checkout: pip install -e '.[{0}]')"
TPUS = ("0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076")
"""PCI devices of Google, vendor 0x1ae0, that are TPUs."""


@dataclasses.dataclass(frozen=True)
class Hardware:
    """Accelerators that the operating system sees.

    Attributes:
      gpus: names of NVIDIA GPUs, or their device files where nvidia-smi is missing.
      driver: version of their driver; None where it is unknown.
      tpus: number of chips.
    """

    gpus: tuple[str, ...] = ()
    driver: str | None = None
    tpus: int = 0


def seen_hardware() -> Hardware:
    """Asks nvidia-smi, device files and the PCI bus."""
    listed = _nvidia_smi()
    gpus = tuple(line.partition(",")[0].strip() for line in listed) or tuple(sorted(glob.glob("/dev/nvidia[0-9]*")))
    driver = listed[0].rpartition(",")[2].strip() if listed else None
    vendors = (pathlib.Path(path) for path in glob.glob("/sys/bus/pci/devices/*/vendor"))
    ids = [(_text(path), _text(path.with_name("device"))) for path in vendors]
    return Hardware(gpus, driver, sum(vendor == "0x1ae0" and device in TPUS for vendor, device in ids))


def check_devices() -> Finding:
    """Compares the devices that JAX runs on with what the machine has."""
    try:
        found = [(device.platform, device.device_kind) for device in importlib.import_module("jax").devices()]
    except Exception as error:  # whatever is wrong with the installation is what is asked for
        said = " ".join(f"{type(error).__name__} {error}".split())[:300]
        chosen = os.environ.get("JAX_PLATFORMS")
        advice = f"; JAX_PLATFORMS is {chosen}: unset it" if chosen else ""
        return Finding("fix", "device", f"JAX does not start: {said}{advice}")
    return compare_devices(found, seen_hardware(), installed_plugins(), os.environ)


def compare_devices(
    found: list[tuple[str, str]], hardware: Hardware, plugins: Mapping[str, str], environment: Mapping[str, str]
) -> Finding:
    """Says what JAX runs on, and why not on an accelerator that is there.

    Args:
      found: platform and kind of each device of JAX.
      hardware: that the operating system sees.
      plugins: packages by which JAX runs on GPUs, with their versions.
      environment: variables of the process.
    """
    platform, kind = found[0]
    if platform != "cpu" or not (hardware.gpus or hardware.tpus):
        return Finding("ok", "device", f"{len(found)} x {platform}" + (f" ({kind})" if kind != platform else ""))
    there = ", ".join(sorted(set(hardware.gpus))) if hardware.gpus else f"{hardware.tpus} TPU chips"
    text = f"JAX runs on the CPU, but this machine has {there}: {_remedy(hardware, plugins, environment)}"
    return Finding("warn", "device", text)


def _remedy(hardware: Hardware, plugins: Mapping[str, str], environment: Mapping[str, str]) -> str:
    """What brings JAX to the accelerator."""
    chosen, visible = environment.get("JAX_PLATFORMS", ""), environment.get("CUDA_VISIBLE_DEVICES")
    if chosen and not {"cuda", "gpu", "tpu"} & set(chosen.split(",")):
        return f"JAX_PLATFORMS is {chosen}; unset it"
    if not hardware.gpus:
        return INSTALL.format("tpu")
    if visible is not None and visible.strip() in ("", "-1"):
        return f"CUDA_VISIBLE_DEVICES is {visible!r}; unset it"
    number = re.match(r"\d+", hardware.driver or "")
    runs = [extra for extra, oldest in OLDEST_DRIVERS.items() if number is None or int(number[0]) >= oldest]
    if not runs:
        return f"its driver is {hardware.driver}; CUDA 12 needs {OLDEST_DRIVERS['cuda12']} or newer, install that first"
    if not any(extra in name for name in plugins for extra in runs):
        older = f"its driver is {hardware.driver}; CUDA 13 needs {OLDEST_DRIVERS['cuda13']}: "
        return (older if "cuda13" not in runs else "") + INSTALL.format(runs[0])
    given = ", ".join(f"{name} {version}" for name, version in plugins.items())
    return f"{given} does not start; JAX_PLATFORMS=cuda python -c 'import jax; jax.devices()' says why"


def check_memory() -> Iterator[Finding]:
    """Checks the memory of the machine, and of each device that has its own."""
    import jax

    from jaxppo.run.memory import memory_of

    free = available_memory(_text(pathlib.Path("/proc/meminfo")))
    if free is not None:
        low = free < LITTLE_MEMORY
        text = f"{free / GIB:.1f} GiB of the machine are free"
        yield Finding("warn" if low else "ok", "memory", text + (": end other programs" if low else ""))
    devices = jax.devices()
    if devices[0].platform != "cpu" and (each := memory_of(devices)) < float("inf"):
        yield Finding("ok", "memory", f"{each / GIB:.1f} GiB of each {devices[0].device_kind} can be used")


def available_memory(meminfo: str) -> int | None:
    """Bytes that programs can take, from the text of /proc/meminfo; None where it does not say."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", meminfo, re.M)
    return int(found[1]) * 1024 if found else None


def check_output(folder: str) -> Finding:
    """Checks that runs can be written.

    Args:
      folder: that they would be written to; need not be there.
    """
    path = pathlib.Path(folder)
    there = next((one for one in (path, *path.absolute().parents) if one.exists()), path)
    if not there.is_dir():
        return Finding("fix", "output", f"{there} is a file; give --output another folder")
    try:
        with tempfile.TemporaryFile(dir=there):
            free = shutil.disk_usage(there).free
    except OSError as error:
        return Finding("fix", "output", f"{there} cannot be written: {error.strerror}; give --output another folder")
    if (path / "config.yaml").is_file():
        return Finding("fix", "output", f"{path} is the folder of a run; give another folder, or train with --resume")
    if free < LITTLE_DISK:
        return Finding("warn", "output", f"{path} can be written, but only {free / GIB:.2f} GiB are free: make room")
    return Finding("ok", "output", f"{path} can be written, {free / GIB:,.0f} GiB are free")


def _nvidia_smi() -> list[str]:
    """A line `name, driver` for each GPU; none where it is missing or fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    call = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(call, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line for line in done.stdout.splitlines() if line.strip()]


def _text(path: pathlib.Path) -> str:
    """Content of a file of the operating system; empty where it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
