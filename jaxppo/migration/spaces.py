"""Gymnasium spaces in the `data` of a checkpoint, read without Gymnasium."""

from __future__ import annotations

import base64
import binascii
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxppo.errors import ConfigError
from jaxppo.migration import arrays
from jaxppo.migration.pickled import Record, read_pickle

Kind = Literal["Box", "Discrete", "MultiDiscrete", "MultiBinary"]
CLASSES: dict[str, Kind] = {
    "box.Box": "Box",
    "discrete.Discrete": "Discrete",
    "multi_discrete.MultiDiscrete": "MultiDiscrete",
    "multi_binary.MultiBinary": "MultiBinary",
}
PACKAGES = ("gymnasium.spaces.", "gym.spaces.")
RANDOM = ("numpy.random.", "gymnasium.utils.seeding.", "gym.utils.seeding.")
"""Where the classes of a space's random generator are, which is not read."""


class Space(NamedTuple):
    """Values that an observation or an action has.

    Attributes:
      kind: class of the Gymnasium space.
      shape: of a value.
      sizes: categories of each number of a Discrete (one) or MultiDiscrete value; `()` for others.
    """

    kind: Kind
    shape: tuple[int, ...]
    sizes: tuple[int, ...] = ()

    @property
    def n_values(self) -> int:
        """Numbers in a value."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __str__(self) -> str:
        return f"{self.kind} {list(self.sizes) if self.sizes else list(self.shape)}"


class Bounds(NamedTuple):
    """Of a Box.

    Attributes:
      low: `shape` float32, smallest values.
      high: `shape` float32, largest values.
    """

    low: np.ndarray
    high: np.ndarray


def is_name(name: str) -> bool:
    """Whether a name may occur in the pickle of a space."""
    known = any(name == f"{package}{kind}" for package in PACKAGES for kind in CLASSES)
    return known or name in arrays.NAMES or name.startswith(RANDOM)


def read_space(entry: Any, where: str) -> tuple[Space, Bounds | None]:
    """The space that an entry of a checkpoint's `data` stands for, and the bounds of a Box.

    Args:
      entry: as Stable-Baselines3 writes it: the class as text, a pickle in Base64, attributes as text. The pickle is
        read as data, since the text of an array is rounded and cut short.
      where: what errors call it.

    Raises:
      ConfigError: a space that is not supported, or a damaged one.
    """
    shown = str(entry.get(":type:")) if isinstance(entry, dict) else "missing"
    found = shown.removeprefix("<class '").removesuffix("'>")
    if not any(found == f"{package}{kind}" for package in PACKAGES for kind in CLASSES):
        raise ConfigError(f"{where} is {found}; one of {', '.join(CLASSES.values())} can be imported")
    try:
        data = base64.b64decode(entry[":serialized:"], validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise ConfigError(f"{where} is damaged: {error}") from None
    return space_of(read_pickle(data, is_name, where), where)


def space_of(record: Any, where: str) -> tuple[Space, Bounds | None]:
    """The space that a record of a pickle stands for, and the bounds of a Box.

    Args:
      record: from `read_pickle`.
      where: it stands, for messages.

    Raises:
      ConfigError: see `read_space`.
    """
    try:
        if not isinstance(record, Record) or not isinstance(record.state, dict):
            raise ValueError("it is no space")
        module, _, name = record.name.rpartition(".")
        kind = CLASSES[f"{module.rpartition('.')[2]}.{name}"]
        return _READERS[kind](record.state)
    except ConfigError as error:
        raise ConfigError(f"{where} {error}") from None
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise ConfigError(f"{where} is damaged: {error}") from None


def _box(state: dict[str, Any]) -> tuple[Space, Bounds]:
    shape = _shape(state)
    if str(arrays.dtype_of(state["dtype"])) == "uint8" and len(shape) == 3:
        raise ConfigError(f"is an image {list(shape)}; flat observations can be imported")
    # An integer Box has integer bounds, which are numbers like others here.
    low, high = (np.asarray(arrays.array_of(state[name]), np.float32) for name in ("low", "high"))
    if low.shape != shape or high.shape != shape:
        raise ValueError(f"bounds {low.shape} and {high.shape} of a value {shape}")
    return Space("Box", shape), Bounds(low, high)


def _discrete(state: dict[str, Any]) -> tuple[Space, None]:
    return Space("Discrete", (), (_size(arrays.number_of(state["n"])),)), None


def _multi_discrete(state: dict[str, Any]) -> tuple[Space, None]:
    sizes = arrays.array_of(state["nvec"])
    if sizes.ndim != 1:
        raise ConfigError(f"is a MultiDiscrete space of {sizes.ndim} dimensions; one dimension can be imported")
    return Space("MultiDiscrete", sizes.shape, tuple(_size(n) for n in sizes.tolist())), None


def _multi_binary(state: dict[str, Any]) -> tuple[Space, None]:
    return Space("MultiBinary", _shape(state)), None


_READERS: dict[Kind, Any] = {
    "Box": _box,
    "Discrete": _discrete,
    "MultiDiscrete": _multi_discrete,
    "MultiBinary": _multi_binary,
}
LARGEST = 2**24


def _shape(state: dict[str, Any]) -> tuple[int, ...]:
    shape = tuple(_size(arrays.number_of(n)) for n in state["_shape"])
    if int(np.prod(np.asarray(shape, object))) > LARGEST:
        raise ValueError(f"a value of shape {shape}")
    return shape


def _size(number: float | int) -> int:
    if not isinstance(number, int) or not 1 <= number <= LARGEST:
        raise ValueError(f"a size of {number}")
    return number
