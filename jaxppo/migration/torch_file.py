"""State dictionaries that torch has saved, read without torch: names, shapes and numbers, nothing else."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from jaxppo.errors import ConfigError
from jaxppo.migration.archive import Archive, open_archive
from jaxppo.migration.pickled import STORED, Name, Record, read_pickle

STORAGES = {
    "torch.FloatStorage": "f4",
    "torch.DoubleStorage": "f8",
    "torch.HalfStorage": "f2",
    "torch.BFloat16Storage": "u2",
    "torch.LongStorage": "i8",
    "torch.IntStorage": "i4",
}
BFLOAT16 = "torch.BFloat16Storage"
DICTIONARY, TENSOR = "collections.OrderedDict", "torch._utils._rebuild_tensor_v2"
PARAMETER = "torch._utils._rebuild_parameter"
NAMES = frozenset((*STORAGES, DICTIONARY, TENSOR, PARAMETER))
"""Names that may occur in the pickle of a state dictionary."""
INDEX = "data.pkl"


def read_state_dict(data: bytes, where: str) -> dict[str, np.ndarray]:
    """The tensors of a state dictionary, by name.

    Args:
      data: what `torch.save` (1.6 or later) wrote.
      where: what errors call it.

    Raises:
      ConfigError: damaged, or something else than tensors.
    """
    archive = open_archive(data, where)
    root = next((name.removesuffix(INDEX) for name in archive.names() if name.endswith(f"/{INDEX}")), None)
    if root is None:
        raise ConfigError(f"{where}: has no {INDEX}; a file of torch 1.6 or later is expected")
    saved = read_pickle(archive.read(f"{root}{INDEX}"), NAMES.__contains__, where)
    entries = saved.entries if isinstance(saved, Record) and saved.name == DICTIONARY else saved
    if not isinstance(entries, dict):
        raise ConfigError(f"{where}: holds no dictionary of tensors")
    order = ">" if f"{root}byteorder" in archive.names() and archive.read(f"{root}byteorder") == b"big" else "<"
    return {str(name): _tensor(value, archive, root, order, f"{where}: {name}") for name, value in entries.items()}


def _tensor(value: Any, archive: Archive, root: str, order: str, where: str) -> np.ndarray:
    """One tensor as an array of its own."""
    if isinstance(value, Record) and value.name == PARAMETER and value.arguments:
        value = value.arguments[0]
    if not isinstance(value, Record) or value.name != TENSOR:
        raise ConfigError(f"{where} is no tensor")
    try:
        storage, offset, shape, strides = value.arguments[:4]
        kind, key, numbers = _stored(storage)
        content = archive.read(f"{root}data/{key}")
        flat = np.frombuffer(content, f"{order}{STORAGES[kind]}")
        whole = (offset, *shape, *strides)
        if not all(isinstance(n, int) and n >= 0 for n in whole) or len(shape) != len(strides):
            raise ValueError("its shape is no list of sizes")
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if flat.size != numbers or math.prod(shape) > flat.size or (math.prod(shape) and last >= flat.size):
            raise ValueError(f"shape {tuple(shape)} does not fit its {flat.size} numbers")
        if not math.prod(shape):
            return np.zeros(shape, np.float32)
        tensor = np.lib.stride_tricks.as_strided(
            flat[offset:], shape, [stride * flat.itemsize for stride in strides], writeable=False
        )
        return (tensor.astype(np.uint32) << 16).view(np.float32) if kind == BFLOAT16 else np.array(tensor)
    except ConfigError:
        raise
    except (ValueError, TypeError, KeyError, OverflowError, MemoryError) as error:
        raise ConfigError(f"{where} is a damaged tensor: {error}") from None


def _stored(storage: Any) -> tuple[str, str, int]:
    """Kind, key and length of the numbers behind a tensor."""
    if not isinstance(storage, Record) or storage.name != STORED or not isinstance(storage.arguments, tuple):
        raise ValueError("it has no numbers")
    _, kind, key, _, numbers = storage.arguments
    if not isinstance(kind, Name) or kind.text not in STORAGES:
        raise ValueError("its numbers are of an unknown type")
    return kind.text, str(key), int(numbers)
