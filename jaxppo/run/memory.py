"""Memory of a device: what there is, what a compiled program needs, and what one will need, estimated."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from jaxppo.errors import ConfigError

USABLE = 0.8
"""Share of a device's memory that a program may need."""
FUSED = ("broadcast_in_dim", "reshape", "squeeze", "transpose", "convert_element_type", "iota", "slice")
"""Primitives whose results no compiler writes to memory."""
OVERESTIMATE = 1.25
"""By how much an estimate may be above what a compiler needs, which fuses more."""
GIB = 2**30
CONTAINER = pathlib.Path("/sys/fs/cgroup/memory.max")
"""Where Linux writes what a container may use."""


def memory_needed(compiled: Any) -> int:
    """Bytes that a compiled program needs on a device: arguments, results and what lies between."""
    sizes = compiled.memory_analysis()
    shared = sizes.alias_size_in_bytes  # results in the place of arguments that are given away
    return sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes - shared


def memory_of(devices: Sequence[jax.Device]) -> float:
    """Bytes of memory of each device; infinite where that is unknown."""
    own = devices
    if jax.process_count() > 1:  # each divides its own machine
        own = [device for device in devices if device.process_index == jax.process_index()]
    limit = (own[0].memory_stats() or {}).get("bytes_limit")
    # A CPU has no limit of its own: the machine is divided among its devices.
    if limit is None and own[0].platform == "cpu" and hasattr(os, "sysconf"):
        limit = min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), _limit_of_container()) / len(own)
    return float("inf") if limit is None else limit


def _limit_of_container() -> float:
    """Bytes that a container of Linux may use; infinite without one."""
    try:
        return float(CONTAINER.read_text())
    except (OSError, ValueError):  # "max" is no limit
        return float("inf")


def memory_usable(devices: Sequence[jax.Device]) -> float:
    """Bytes that a program may need on each device where its size can be chosen; other processes share a CPU."""
    return memory_of(devices) * (0.5 if devices[0].platform == "cpu" else USABLE)


def size_of(tree: Any) -> int:
    """Bytes of a pytree of arrays, or of their shapes and dtypes."""
    return sum(int(np.prod(np.shape(leaf))) * _width(jax.dtypes.result_type(leaf)) for leaf in jax.tree.leaves(tree))


def check_fits(needed: float, what: str, smaller: str, devices: Sequence[jax.Device]) -> None:
    """Refuses what does not fit a device.

    Args:
      needed: bytes on each device.
      what: that needs them, for the message.
      smaller: keys that would make it smaller.
      devices: all alike.

    Raises:
      ConfigError: it needs more than there is.
    """
    there = memory_of(devices)
    if needed > there:
        raise ConfigError(
            f"{what} needs about {needed / GIB:,.1f} GiB, and {devices[0].device_kind} has {there / GIB:,.1f}; "
            f"smaller: {smaller}"
        )


def estimated_memory(jaxpr: core.Jaxpr) -> float:
    """Estimates the bytes that a program needs before it is compiled.

    Its arguments, and the results of its operations from where they are computed to where they are last read, over
    `OVERESTIMATE`. What lies in loops counts once, what runs on each device as often as there are devices.

    Args:
      jaxpr: of the program, such as `jax.make_jaxpr(f)(x).jaxpr`.
    """
    arguments = sum(_bytes(var) for var in (*jaxpr.invars, *jaxpr.constvars))
    return arguments + _most_alive(jaxpr) / OVERESTIMATE


def _most_alive(jaxpr: core.Jaxpr) -> int:
    """Most bytes of results that are alive at the same time; whoever calls holds the arguments."""
    last: dict[core.Var, int] = {}
    for number, equation in enumerate(jaxpr.eqns):
        last |= {var: number for var in equation.invars if isinstance(var, core.Var)}
    last |= {var: len(jaxpr.eqns) for var in jaxpr.outvars if isinstance(var, core.Var)}
    alive: dict[core.Var, int] = {}
    held = most = 0
    for number, equation in enumerate(jaxpr.eqns):
        inner = max(map(_most_alive, _inner(equation)), default=0)
        if equation.primitive.name == "shard_map":  # its shapes are those of one device
            inner *= equation.params["mesh"].size
        written = () if equation.primitive.name in FUSED else equation.outvars
        sizes = {var: _bytes(var) for var in written if last.get(var, -1) > number}
        most = max(most, held + max(inner, sum(sizes.values())))
        alive |= sizes
        held += sum(sizes.values())
        for var in {var for var in equation.invars if isinstance(var, core.Var)}:
            if last[var] == number:
                held -= alive.pop(var, 0)
    return max(most, held)


def _inner(equation: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """Programs within an equation."""
    for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
        if hasattr(value, "eqns"):
            found: Any = getattr(value, "jaxpr", value)
            yield found


def _bytes(var: Any) -> int:
    aval = var.aval
    return int(np.prod(aval.shape)) * _width(aval.dtype) if hasattr(aval, "shape") else 0


def _width(dtype: Any) -> int:
    """Bytes of a number; those of a key are its words."""
    return dtype.itemsize if hasattr(dtype, "itemsize") else np.dtype(dtype).itemsize
