"""Result files: every figure with its device, versions and command."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import pathlib
import platform
import sys
from typing import Any

import jax

RESULTS = pathlib.Path(__file__).parent / "results"
LIBRARIES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "gymnax",
    "gym-trading-env",
    "gym-anytrading",
    "finrl",
    "stable-baselines3",
    "torch",
    "rejax",
    "numpy",
    "pandas",
    "scipy",
    "empyrical-reloaded",
    "ffn",
    "quantstats",
    "skfolio",
    "vectorbt",
)


def device_name() -> str:
    """Short name of the device for file names: `cpu2` for two CPU cores, else the device kind."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return f"cpu{os.cpu_count()}"
    return device.device_kind.lower().replace(" ", "-")


def record(name: str, content: dict[str, Any]) -> pathlib.Path:
    """Writes `results/NAME_DEVICE.json` with provenance."""
    versions = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    words = [pathlib.Path(word).name if os.path.exists(word) else word for word in sys.argv[1:]]
    where = {
        "command": " ".join(["python", os.path.relpath(sys.argv[0]), *words]),
        "device": device_name(),
        "processor": _processor(),
        "versions": versions,
    }
    path = RESULTS / f"{name}_{device_name()}.json"
    path.write_text(json.dumps(finite({**where, **content}), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return path


def finite(value: Any) -> Any:
    """`value` with None for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _processor() -> str:
    """The CPU's model, or the accelerator's kind."""
    if jax.devices()[0].platform != "cpu":
        return jax.devices()[0].device_kind
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
