"""Bytes that a compiled program reads and writes in a device's memory, counted with the trips of its loops."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.hlo import COLLECTIVE, WIDTH, Instruction, Program

ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
SLICES = ("dynamic-slice", "slice", "gather")
"""Operations that read no more of their first operand than they return."""
VIEWS = ("bitcast", "get-tuple-element", "copy", "convert", "reshape")
"""Operations within a kernel that a slice may come after."""


class Traffic(NamedTuple):
    """What one run of a program moves.

    Attributes:
      memory: bytes read from and written to the memory of the device.
      across: bytes that it gives to collectives, and so has to share with the other devices.
    """

    memory: int
    across: int


def traffic(program: Program) -> Traffic:
    """Counts operands and results of each kernel, with the trips of loops.

    A kernel reads of an array what it slices from it, and writes of an array that it updates what it puts there. What
    caches keep from one kernel to the next counts again: it is what a memory without caches would move.

    Args:
      program: compiled.
    """

    @functools.cache
    def of(name: str) -> Traffic:
        types = {_name(one): one.type for one in program.computations.get(name, ())}
        totals = [_times(one, types) for one in program.computations.get(name, ())]
        return Traffic(sum(one.memory for one in totals), sum(one.across for one in totals))

    def _times(one: Instruction, types: dict[str, str]) -> Traffic:
        if not one.launches:
            return Traffic(0, 0)
        if one.operation == "while":
            inner = [of(_called(one, what)) for what in ("body", "condition")]
            trips = program.trips(one)
            return Traffic(trips * sum(x.memory for x in inner), trips * sum(x.across for x in inner))
        if one.operation == "call":
            return of(_called(one, "to_apply"))
        if one.operation == "conditional":
            branches = re.findall(r"(?:branch_computations=\{|computation=)([^},]*(?:,[^},]*)*)", one.line)
            names = [name.strip(" %") for group in branches for name in group.split(",")]
            found = [of(name) for name in names if name in program.computations] or [Traffic(0, 0)]
            return max(found)
        operands = [size_of(types.get(name, "")) for name in _operands(one)]
        if COLLECTIVE.match(one.operation):
            return Traffic(sum(operands) + size_of(one.type), sum(operands))
        return Traffic(_of_kernel(one, operands, program), 0)

    return of(program.entry)


def size_of(text: str) -> int:
    """Bytes of the arrays of a type, such as "(f32[2,3], pred[])"."""
    return sum(
        WIDTH.get(dtype, 4) * math.prod(int(x) for x in shape.split(",") if x) for dtype, shape in ARRAY.findall(text)
    )


def _of_kernel(one: Instruction, operands: Sequence[int], program: Program) -> int:
    """Bytes that a kernel reads and writes."""
    result = size_of(one.type)
    if one.operation in SLICES:
        return 2 * result
    if one.operation == "dynamic-update-slice":
        return 2 * operands[1]
    inside = program.computations.get(_called(one, "calls"), ()) if one.operation == "fusion" else ()
    if not inside:
        return sum(operands) + result
    types = {_name(x): x.type for x in inside}
    users: dict[str, list[Instruction]] = {}
    for x in inside:
        for operand in _operands(x):
            users.setdefault(operand, []).append(x)
    read = 0
    for x in inside:
        if x.operation == "parameter":
            read += min(size_of(x.type), sum(_read(user, _name(x), types, users) for user in users.get(_name(x), ())))
    updates = [x for x in inside if x.operation == "dynamic-update-slice"]
    saved = sum(size_of(x.type) - size_of(types.get(_operands(x)[1], "")) for x in updates)
    return read + max(result - saved, 0)


def _read(user: Instruction, name: str, types: dict[str, str], users: dict[str, list[Instruction]]) -> int:
    """Bytes of an array that an operation within a kernel reads."""
    if user.operation in SLICES and _operands(user)[0] == name:
        return size_of(user.type)
    if user.operation == "dynamic-update-slice" and _operands(user)[0] == name:
        return 0
    if user.operation in VIEWS:
        return sum(_read(after, _name(user), types, users) for after in users.get(_name(user), ())) or size_of(
            types.get(name, "")
        )
    return size_of(types.get(name, ""))


def _operands(one: Instruction) -> list[str]:
    """Names of the operands of an instruction."""
    begins = one.line.index(f" {one.operation}(") + len(one.operation) + 2
    depth, ends = 1, begins
    while depth and ends < len(one.line):
        depth += {"(": 1, ")": -1}.get(one.line[ends], 0)
        ends += 1
    return re.findall(r"%([\w.\-]+)", one.line[begins:ends])


def _name(one: Instruction) -> str:
    found = re.match(r"^\s*(?:ROOT )?%?([\w.\-]+) = ", one.line)
    assert found is not None
    return found[1]


def _called(one: Instruction, what: str) -> str:
    found = re.search(rf"\b{what}=%?([\w.\-]+)", one.line)
    return "" if found is None else found[1]
