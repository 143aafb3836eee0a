"""Checkpoints of Stable-Baselines3 for tests, as they are and with something done to them."""

from __future__ import annotations

import base64
import io
import json
import pathlib
import zipfile
from collections.abc import Callable
from typing import Any

CHECKPOINTS = pathlib.Path(__file__).with_name("sb3_checkpoints")
Change = Callable[[bytes], bytes]


def files_of(data: bytes) -> dict[str, bytes]:
    """Files of an archive, by name."""
    with zipfile.ZipFile(io.BytesIO(data)) as zipped:
        return {name: zipped.read(name) for name in zipped.namelist()}


def archive_of(files: dict[str, bytes]) -> bytes:
    """An archive of files, not compressed, as Stable-Baselines3 writes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        for name, content in files.items():
            zipped.writestr(name, content)
    return buffer.getvalue()


def changed_file(data: bytes, name: str, change: Change) -> bytes:
    """An archive with one file changed."""
    files = files_of(data)
    return archive_of(files | {name: change(files[name])})


def changed_data(data: bytes, **entries: Any) -> bytes:
    """A checkpoint with other entries in its `data`; None leaves one out."""

    def change(text: bytes) -> bytes:
        tree = json.loads(text) | entries
        return json.dumps({name: value for name, value in tree.items() if value is not None}).encode()

    return changed_file(data, "data", change)


def changed_tensors(data: bytes, name: str, change: Change) -> bytes:
    """A checkpoint with one file in its `policy.pth` changed, such as `data.pkl` or `data/0`."""
    return changed_file(data, "policy.pth", lambda inner: changed_file(inner, f"archive/{name}", change))


def serialised(kind: str, pickle: bytes) -> dict[str, str]:
    """An entry of `data` that is a pickle."""
    return {":type:": f"<class '{kind}'>", ":serialized:": base64.b64encode(pickle).decode()}


def pickled_class(name: str) -> bytes:
    """What cloudpickle makes of a class that can be imported."""
    module, _, last = name.rpartition(".")
    texts = b"".join(b"\x8c" + bytes([len(text)]) + text.encode() + b"\x94" for text in (module, last))
    return b"\x80\x05" + texts + b"\x93."
