"""What a compiled program consists of: kernels, loops, collectives, products by dtype, counted with the loops' trips.

XLA's own cost analysis counts the body of a loop once.
"""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\(")
FREE = {
    "parameter", "tuple", "get-tuple-element", "constant", "bitcast", "after-all", "opt-barrier", "partition-id",
    "replica-id",
}  # fmt: skip
"""Instructions that launch nothing."""
COLLECTIVE = re.compile(r"(all-|reduce-scatter|collective)")
HOST = re.compile(r"(send|recv|infeed|outfeed)")
WIDTH = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f64": 8, "s64": 8, "u64": 8}
"""Bytes of a number; 4 where it is not named."""


class Instruction(NamedTuple):
    """A line of a computation: its result type, its operation, and the whole line."""

    type: str
    operation: str
    line: str

    @property
    def launches(self) -> bool:
        """Whether a kernel, or a call of a library, is launched for it."""
        return self.operation not in FREE and not self.operation.endswith("-done")


class Loop(NamedTuple):
    """A loop: how often it runs, and what is launched in one run of it, inner loops with their trips."""

    trips: int
    kernels: int
    collectives: tuple[str, ...]


class Program:
    """A compiled program, from its text."""

    def __init__(self, text: str):
        self.computations: dict[str, list[Instruction]] = {}
        self.entry, current = "", None
        for line in text.splitlines():
            begins = re.match(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{\s*$", line)
            if begins:
                current = self.computations.setdefault(begins[2], [])
                self.entry = begins[2] if begins[1] else self.entry
            elif line.startswith("}"):
                current = None
            elif current is not None and (found := INSTRUCTION.match(line)):
                current.append(Instruction(found[2], found[3], line))
        self._kernels: dict[str, int] = {}

    def kernels(self, name: str | None = None) -> int:
        """Launches of a computation, of the whole program by default; an upper bound: some may be joined."""
        name = self.entry if name is None else name
        if name not in self._kernels:
            self._kernels[name] = sum(self._launches(one) for one in self.computations.get(name, ()))
        return self._kernels[name]

    def _launches(self, one: Instruction) -> int:
        if not one.launches:
            return 0
        if one.operation == "while":
            body, condition = _named(one.line, "body"), _named(one.line, "condition")
            return self.trips(one) * (self.kernels(body) + self.kernels(condition))
        if one.operation == "call":
            return self.kernels(_named(one.line, "to_apply"))
        if one.operation == "conditional":
            return 1 + max(map(self.kernels, _branches(one.line)))
        return 1

    def trips(self, loop: Instruction) -> int:
        """How often a loop runs: what the compiler knows, or the number that its condition compares with; else 1."""
        known = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.line)
        if known:
            return int(known[1])
        condition = self.computations.get(_named(loop.line, "condition"), ())
        bounds = [int(n) for one in condition for n in re.findall(r"s32\[\]\S* constant\((\d+)\)", one.line)]
        return max(bounds, default=1)

    def loops(self) -> list[Loop]:
        """All loops of the program, inner ones too."""
        return [
            Loop(self.trips(one), self.kernels(body := _named(one.line, "body")), tuple(self.collectives(body)))
            for name in self._called(self.entry)
            for one in self.computations[name]
            if one.operation == "while"
        ]

    def collectives(self, name: str | None = None) -> Iterator[str]:
        """Operation and result dtypes of each collective of a computation and of what it calls, loops counted once."""
        for inner in self._called(self.entry if name is None else name):
            for one in self.computations[inner]:
                if COLLECTIVE.match(one.operation) and not one.operation.endswith("-done"):
                    kinds = sorted(set(re.findall(r"\b([a-z]+\d+)\[", one.type)))
                    yield f"{one.operation.removesuffix('-start')} {' '.join(kinds)}"

    def _called(self, name: str) -> list[str]:
        """A computation and those that it runs, but for the insides of kernels."""
        found, waiting = [], [name]
        while waiting:
            name = waiting.pop()
            if name in found or name not in self.computations:
                continue
            found.append(name)
            for one in self.computations[name]:
                if one.operation == "while":
                    waiting.append(_named(one.line, "body"))
                elif one.operation == "call":
                    waiting.append(_named(one.line, "to_apply"))
                elif one.operation == "conditional":
                    waiting.extend(_branches(one.line))
        return found

    def executed(self) -> Iterator[Instruction]:
        """Instructions of the program that are launched, loops counted once."""
        for name in self._called(self.entry):
            yield from (one for one in self.computations[name] if one.launches)

    def library_calls(self) -> dict[str, int]:
        """Calls of libraries by name, loops counted once."""
        targets = (re.search(r'custom_call_target="([^"]+)"', one.line) for one in self.executed())
        return dict(collections.Counter(found[1] for found in targets if found))

    def largest(self, n: int = 5) -> dict[str, int]:
        """The largest arrays that are written to memory, and their bytes."""
        sizes: dict[str, int] = {}
        for one in self.executed():
            for dtype, shape in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", one.type):
                numbers = math.prod(int(x) for x in shape.split(",") if x)
                sizes[f"{dtype}[{shape}]"] = WIDTH.get(dtype, 4) * numbers
        return dict(sorted(sizes.items(), key=lambda item: -item[1])[:n])


def _named(line: str, what: str) -> str:
    found = re.search(rf"{what}=%?([\w.\-]+)", line)
    return "" if found is None else found[1]


def _branches(line: str) -> list[str]:
    """Computations of a conditional."""
    several = re.search(r"branch_computations=\{([^}]*)\}", line)
    if several:
        return several[1].replace("%", "").split(", ")
    return re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", line)


def product_flops(jaxpr: Any) -> dict[str, int]:
    """FLOPs of the matrix products of a program on one device by their dtypes, with the trips of scans.

    Args:
      jaxpr: of the program, as traced.
    """
    found: collections.Counter[str] = collections.Counter()

    def walk(jaxpr: Any, times: int) -> None:
        for one in jaxpr.eqns:
            if one.primitive.name == "dot_general":
                (contracted, _), _ = one.params["dimension_numbers"]
                left, right = (x.aval for x in one.invars)
                size = 2 * math.prod(one.outvars[0].aval.shape) * math.prod(left.shape[i] for i in contracted)
                found[f"{left.dtype.name} x {right.dtype.name} -> {one.outvars[0].aval.dtype.name}"] += times * size
            trips = one.params["length"] if one.primitive.name == "scan" else 1
            for inner in _inner(one):
                walk(inner, times * trips)

    walk(jaxpr, 1)
    return dict(found)


def _inner(equation: Any) -> list[Any]:
    """Programs within an equation; of the branches of a condition, the last."""
    values = list(equation.params.values())
    if equation.primitive.name == "cond":
        values = [equation.params["branches"][-1]]
    found = jax.tree.leaves(values, is_leaf=lambda x: hasattr(x, "eqns"))
    return [getattr(x, "jaxpr", x) for x in found if hasattr(x, "eqns")]
