"""Pickles read as data: a name stays a name and a call stays a record, nothing is looked up, imported or called."""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxppo.errors import ConfigError


class Name(NamedTuple):
    """What a pickle would import.

    Attributes:
      text: module and name, such as `collections.OrderedDict`.
    """

    text: str


class Record:
    """What a pickle would make by a call.

    Attributes:
      name: of what it would call.
      arguments: of the call.
      state: what the object would be filled with; None for nothing.
      entries: of a dictionary.
    """

    __slots__ = ("arguments", "entries", "name", "state")

    def __init__(self, name: str, arguments: tuple[Any, ...]):
        self.name = name
        self.arguments = arguments
        self.state: Any = None
        self.entries: dict[str | int, Any] = {}


STORED = "persistent id"
"""Name of the record that stands for data beside the pickle."""
MOST_INSTRUCTIONS = 200_000
LARGEST_NUMBER = 2**130
"""Of whole numbers: the states of random generators have 128 bits."""


def read_pickle(data: bytes, allowed: Callable[[str], bool], where: str) -> Any:
    """Reads a pickle of protocol 2 or later.

    Args:
      data: the pickle.
      allowed: whether a name, such as `torch.FloatStorage`, may occur.
      where: what errors call it.

    Returns:
      Numbers, text, bytes, lists, tuples and dictionaries as they are; `Name` and `Record` for the rest.

    Raises:
      ConfigError: damaged, or there is a name that is not allowed.
    """
    reader = _Reader(allowed, where)
    try:
        for i, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if i > MOST_INSTRUCTIONS or (isinstance(argument, int) and abs(argument) > LARGEST_NUMBER):
                raise ValueError("it is longer, or has larger numbers, than any that Stable-Baselines3 saves")
            reader.read(opcode.name, argument)
        return reader.stack.pop()
    except ConfigError:
        raise
    except (ValueError, TypeError, AttributeError, IndexError, KeyError, OverflowError, MemoryError) as error:
        raise ConfigError(f"{where} is a damaged pickle: {error}") from None


_MARK = object()
_VALUES = frozenset((
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
))  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Reader:
    """The stack machine of a pickle, without the part that imports and calls."""

    def __init__(self, allowed: Callable[[str], bool], where: str):
        self.allowed = allowed
        self.where = where
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def read(self, opcode: str, argument: Any) -> None:
        """Follows one instruction.

        Args:
          opcode: its name in `pickletools`.
          argument: that it carries; None without one.
        """
        stack = self.stack
        if opcode in _VALUES:
            stack.append(argument)
        elif opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode])
        elif opcode in _EMPTY:
            stack.append(_EMPTY[opcode]())
        elif opcode == "MARK":
            stack.append(_MARK)
        elif opcode in _TUPLES:
            n = _TUPLES[opcode]
            stack[-n:] = [tuple(stack[-n:])]
        elif opcode == "TUPLE":
            stack.append(tuple(self.since_mark()))
        elif opcode in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif opcode == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif opcode not in ("PROTO", "FRAME", "STOP"):
            self.build(opcode, argument)

    def build(self, opcode: str, argument: Any) -> None:
        """Follows an instruction that names, calls or fills something.

        Args:
          opcode: its name in `pickletools`.
          argument: that it carries; None without one.
        """
        stack = self.stack
        if opcode == "GLOBAL":
            stack.append(self.name(argument.replace(" ", ".", 1)))
        elif opcode == "STACK_GLOBAL":
            name, module = stack.pop(), stack.pop()
            stack.append(self.name(f"{module!s}.{name!s}"))
        elif opcode in ("REDUCE", "NEWOBJ"):
            arguments, called = stack.pop(), stack.pop()
            if not isinstance(called, Name) or not isinstance(arguments, tuple):
                raise ValueError("something is called that is no name")
            stack.append(Record(called.text, arguments))
        elif opcode == "BINPERSID":
            stack.append(Record(STORED, stack.pop()))
        elif opcode == "BUILD":
            state = stack.pop()
            stack[-1].state = state
        elif opcode in ("APPEND", "APPENDS"):
            added = [stack.pop()] if opcode == "APPEND" else self.since_mark()
            if not isinstance(stack[-1], list):
                raise ValueError("something is appended to what is no list")
            stack[-1].extend(added)
        elif opcode in ("SETITEM", "SETITEMS"):
            pairs = self.since_mark() if opcode == "SETITEMS" else [stack.pop(-2), stack.pop()]
            filled = stack[-1] if isinstance(stack[-1], dict) else stack[-1].entries
            for key, value in zip(pairs[::2], pairs[1::2], strict=True):
                if not isinstance(key, str | int):  # the hash of a tuple in a tuple in a tuple ... ends the process
                    raise ValueError("a key is neither text nor a number")
                filled[key] = value
        else:
            raise ConfigError(f"{self.where} is a pickle with the instruction {opcode}, which is not read")

    def since_mark(self) -> list[Any]:
        """Takes what lies on the stack above the last mark."""
        found = []
        while (value := self.stack.pop()) is not _MARK:
            found.append(value)
        return found[::-1]

    def name(self, text: str) -> Name:
        """A name that may occur."""
        if not self.allowed(text):
            raise ConfigError(f"{self.where} is a pickle that names {text}, which is not read: nothing was executed")
        return Name(text)
