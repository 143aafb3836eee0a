"""What a training iteration costs on chips that are not here, by arithmetic: `python -m benchmarks.scaling [cuda tpu]`.

The iteration is compiled for one H100 or v5e, and for sixteen with sixteen times the paths. FLOPs of matrix products,
bytes moved, kernels and collectives are counted in the compiled programs (`benchmarks.hlo`, `benchmarks.traffic`).
Divided by what a chip can do they bound the time of an iteration from below; which of the bounds is largest says what
limits it. The plan to more chips adds the time in which gradients cross devices, and is compared with the program for
sixteen. Nothing is timed: there is nothing to run on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

if __name__ == "__main__":
    os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}

import jax

from benchmarks import compiled, hlo
from benchmarks.traffic import size_of, traffic

N_DEVICES = 16
CHIPS = (1, 8, 16, 64, 256, 1024)


class Chip(NamedTuple):
    """What the manufacturer says that a chip can do, and what is assumed.

    Attributes:
      bfloat16: FLOP/s of dense products.
      float32: FLOP/s of float32 products; on GPUs without TF32, as XLA computes them unless it is told otherwise.
      memory: byte/s.
      link: byte/s from one chip to others, in one direction.
      launch: seconds between the starts of two kernels, assumed; 0 where the chip runs a program by itself.
      hop: seconds that a message takes from one chip to the next, assumed.
    """

    bfloat16: float
    float32: float
    memory: float
    link: float
    launch: float
    hop: float


CHIP = {
    "H100": Chip(989e12, 67e12, 3.35e12, 450e9, 2e-6, 2e-6),
    "H200": Chip(989e12, 67e12, 4.8e12, 450e9, 2e-6, 2e-6),
    "v5e": Chip(197e12, 197e12 / 6, 819e9, 100e9, 0.0, 1e-6),
}
"""Data sheets of NVIDIA (SXM, dense) and Google. A v5e computes float32 products in six passes of bfloat16."""
CHIPS_OF = {"cuda": ("H100", "H200"), "tpu": ("v5e",)}
CONFIGS = {"cuda": ("quick", "wide"), "tpu": ("quick",)}


def counted(target: str, name: str, n_devices: int) -> dict[str, Any]:
    """What an iteration consists of on each of some devices.

    Args:
      target: "cuda" or "tpu".
      name: of a configuration of `benchmarks.compiled`.
      n_devices: each has the paths that one device has in that configuration.
    """
    words = list(compiled.NAMED[name])
    one = compiled.setup_of(words, compiled.devices_of(target))
    if n_devices > 1:
        words += ["--ppo.paths", str(n_devices * one.ppo.paths)]
    setup = one if n_devices == 1 else compiled.setup_of(words, compiled.devices_of(target, n_devices))
    traced = compiled.training(setup)
    built = traced.lower().compile()
    program = hlo.Program(built.as_text())
    moved, flops = traffic(program), hlo.product_flops(traced.jaxpr.jaxpr)
    ppo = setup.ppo
    memory = built.memory_analysis()
    return {
        "n_devices": n_devices,
        "paths": ppo.paths,
        "steps": ppo.paths * ppo.portfolios * ppo.chunk,
        "minibatches": ppo.epochs * ppo.minibatches,
        "flops_bfloat16": sum(n for kind, n in flops.items() if kind.startswith("bfloat16 x bfloat16")),
        "flops_float32": sum(n for kind, n in flops.items() if not kind.startswith("bfloat16 x bfloat16")),
        "bytes_moved": moved.memory,
        "bytes_across": moved.across,
        "gradient_bytes": _gradient_bytes(program),
        "kernels": program.kernels(),
        "memory": memory.argument_size_in_bytes + memory.temp_size_in_bytes,
    }


def _gradient_bytes(program: hlo.Program) -> int:
    """Bytes of the largest thing that crosses devices: the gradient of a minibatch."""
    crossing = [one for one in program.executed() if hlo.COLLECTIVE.match(one.operation)]
    return max((size_of(one.type) for one in crossing), default=0)


def bounds(found: dict[str, Any], chip: Chip) -> dict[str, float]:
    """Seconds of an iteration at least, by what a chip is asked for.

    Args:
      found: from `counted`.
      chip: what it can do.
    """
    products = found["flops_bfloat16"] / chip.bfloat16 + found["flops_float32"] / chip.float32
    return {
        "products": products,
        "memory": found["bytes_moved"] / chip.memory,
        "launches": found["kernels"] * chip.launch,
    }


def all_reduce(n_bytes: float, n_chips: int, chip: Chip) -> float:
    """Seconds of a sum over a ring of chips: `2 (N - 1) / N` of the bytes over each link, in `2 (N - 1)` messages.

    Where a tree takes fewer messages, libraries use one: `2 log2 N`. The shorter time counts.
    """
    if n_chips == 1:
        return 0.0
    ring = 2 * (n_chips - 1) * (n_bytes / n_chips / chip.link + chip.hop)
    tree = 2 * (n_chips - 1).bit_length() * (n_bytes / chip.link + chip.hop)
    return min(ring, tree)


def plan(found: dict[str, Any], chip: Chip) -> list[dict[str, float]]:
    """Iterations on more and more chips, with as many paths on each: a row for each number of `CHIPS`.

    Args:
      found: of the program for sixteen devices, from `counted`.
      chip: what it can do.
    """
    alone = max(bounds(found, chip).values())
    rows = []
    for n_chips in CHIPS:
        crossing = found["minibatches"] * all_reduce(found["gradient_bytes"], n_chips, chip)
        seconds = alone + crossing
        steps = found["steps"] / found["n_devices"] * n_chips
        rows.append(
            {"chips": n_chips, "efficiency": alone / seconds, "million_steps_per_second": 1e-6 * steps / seconds}
        )
    return rows


def child(target: str, name: str, n_devices: int) -> dict[str, Any]:
    """`counted` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scaling", target, "--print", name, str(n_devices)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: Sequence[str] | None = None) -> None:
    from benchmarks.recording import record

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", default=list(CHIPS_OF), help="cuda, tpu")
    parser.add_argument("--configs", nargs="+", choices=tuple(compiled.NAMED), help="quick and wide; on TPUs quick")
    parser.add_argument("--print", nargs=2, metavar=("CONFIG", "N"), help="count one program here and record nothing")
    chosen = parser.parse_args(arguments)
    if chosen.print:
        print(json.dumps(counted(chosen.targets[0], chosen.print[0], int(chosen.print[1]))))
        return
    found: dict[str, Any] = {}
    for target in chosen.targets:
        for name in chosen.configs or CONFIGS[target]:
            one, many = (child(target, name, n) for n in (1, N_DEVICES))
            rows = {
                which: {"bounds": bounds(one, CHIP[which]), "plan": plan(many, CHIP[which])}
                for which in CHIPS_OF[target]
            }
            ratios = ("flops_bfloat16", "flops_float32", "bytes_moved", "kernels")
            check = {f"{key}_of_16_over_1": many[key] / max(one[key], 1) for key in ratios}
            check["crossing_over_gradients"] = many["bytes_across"] / max(
                many["minibatches"] * many["gradient_bytes"], 1
            )
            found[f"{target} {name}"] = {"one": one, "sixteen": many, "check": check, "chips": rows}
            print(target, name, json.dumps(check), json.dumps({k: v["bounds"] for k, v in rows.items()}), flush=True)
    chips = {name: chip._asdict() for name, chip in CHIP.items()}
    print(f"wrote {record('scaling', {'chips': chips, 'jax': jax.__version__, 'programs': found})}")


if __name__ == "__main__":
    main()
