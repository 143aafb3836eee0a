"""Seeded damage: configurations, price files and folders as nobody should write them, and what a call makes of them."""

from __future__ import annotations

import contextlib
import copy
import csv
import gzip
import io
import json
import pathlib
import shutil
import signal
import time
import traceback
import types
import typing
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

LONGEST_LINE = 600
"""Characters of an error that somebody still reads."""
MOST_SECONDS = 10.0
STRANGE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 0.5, -0.5, 1e-320, 1e-300, 1e-7, 1e15, 1e16, 1e300, -1e300, 2**31, 2**63,
    10**400, float("nan"), float("inf"), "", " ", "null", "auto", "1e-4", "x" * 10_000, "../..", "/dev/null", "NaN",
    "~nobody/x", "\x1b[31m", "\u202eabc", "a\x00b", "2020-01-01", [], [[]], {}, {"": ""}, {"a": {"b": []}}, [None],
    [1, "a"], ["price"], [0.0, 1.0], [1.0, 0.0], ["no_short"], [{"no_short": {}}, {"halt": {"move": 0.1}}],
    ["2015-01-01", "2015-06-30"],
    [0] * 1000,
)  # fmt: skip
"""Values that some key somewhere must refuse."""


# Configurations.


def mutated_config(generator: np.random.Generator, tree: dict[str, Any], model: type[BaseModel]) -> bytes:
    """A configuration with one to three mistakes in values, keys, structure or bytes, or with values that may be none.

    Args:
      generator: is drawn from.
      tree: a configuration without mistakes.
      model: of configurations.

    Returns:
      The content of a YAML file.
    """
    tree = copy.deepcopy(tree)
    keys = [(*key.split("."), field.annotation) for key, field in _keys_of(model)]
    if generator.random() < 0.5:
        for _ in range(generator.integers(1, 4)):
            *place, annotation = keys[generator.integers(len(keys))]
            node = tree.setdefault(place[0], {}) if len(place) > 1 else tree
            node[place[-1]] = plausible(generator, annotation)
        return yaml.safe_dump(tree, allow_unicode=True, sort_keys=False).encode(errors="replace")
    for _ in range(generator.integers(1, 4)):
        _mutate_tree(generator, tree, [".".join(place) for *place, _ in keys])
    with contextlib.suppress(yaml.YAMLError, ValueError, OverflowError):
        text = yaml.safe_dump(tree, allow_unicode=True, sort_keys=False)
        return text.encode(errors="replace") if generator.random() < 0.6 else _mutate_text(generator, text)
    return json.dumps(tree).encode()


def _keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Dotted keys of a model that hold a value, and their fields."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _keys_of(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def plausible(generator: np.random.Generator, annotation: Any) -> Any:
    """A value of a type, whatever its range: what a key that is mistyped, or taken to an extreme, may hold.

    Args:
      generator: is drawn from.
      annotation: of the key.
    """
    origin, options = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return plausible(generator, options[0])
    if origin is typing.Literal or origin in (typing.Union, types.UnionType):
        chosen = options[generator.integers(len(options))]
        return chosen if origin is typing.Literal else plausible(generator, chosen)
    if origin is tuple:
        return [plausible(generator, options[0]) for _ in range(generator.integers(0, 4))]
    if origin is dict:
        return {"group": plausible(generator, options[1])}
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = {name: field for name, field in annotation.model_fields.items() if generator.random() < 0.7}
        if hasattr(annotation, "kinds"):  # an item of a list: one name with its keys
            name = list(annotation.model_fields)[generator.integers(len(annotation.model_fields))]
            fields = {name: annotation.model_fields[name]}
        return {name: plausible(generator, field.annotation) for name, field in fields.items()}
    if annotation is bool:
        return bool(generator.integers(2))
    if annotation is int:
        return int(generator.choice([0, 1, 2, 3, 5, 8, 30, 64, 400, 5000, 2**16, 2**20, -1]))
    if annotation is float:
        return float(generator.choice([0.0, 0.5, 1.0, -1.0, float(10.0 ** generator.uniform(-8.0, 8.0))]))
    return (
        None if annotation is type(None) else str(generator.choice(["XNYS", "AAA", "UTC", "simulated", "2020-03-02"]))
    )


def _mutate_tree(generator: np.random.Generator, tree: dict[str, Any], keys: list[str]) -> None:
    """Changes one key of a configuration in place."""
    key = keys[generator.integers(len(keys))]
    section, _, name = key.rpartition(".")
    node = tree.setdefault(section, {}) if section else tree
    if not isinstance(node, dict):
        return
    value = STRANGE[generator.integers(len(STRANGE))]
    change = generator.integers(8)
    if change == 0:
        node.pop(name, None)
    elif change == 1:
        node[name[:-1] + "x"] = value
    elif change == 2:
        tree[section or name] = value
    elif change == 3:
        tree[name] = {section: value}
    elif change == 4 and isinstance(node.get(name), (int, float)) and not isinstance(node[name], bool):
        node[name] = node[name] * float(generator.choice([-1, 0, 1e-9, 3, 1e9]))
    else:
        node[name] = copy.deepcopy(value)


def _mutate_text(generator: np.random.Generator, text: str) -> bytes:
    """Changes the text of a configuration: cut, repeated, with bytes or YAML that do not belong there."""
    data = bytearray(text.encode())
    at = int(generator.integers(len(data) + 1))
    inserted = (
        b"\t", b"\x00", b"\xff", b"&a *a", b"!!python/name:os.system", b"---\n", b"[" * 300, b"{a: &x [*x]}", b"<<: ",
        b"\xe2\x80\xa8", b": ", b"\n- ", b"'", b'"', b"? [a]\n: ", b"!!binary x", b"!!timestamp 2020-99-99",
        b"9" * 5000,
    )  # fmt: skip
    match generator.integers(5):
        case 0:
            data[at:at] = inserted[generator.integers(len(inserted))]
        case 1:
            del data[at:]
        case 2:
            data += bytes(data)
        case 3:
            data[at : at + 20] = generator.bytes(20)
        case _:
            data = bytearray(data.decode().encode("utf-16"))
    return bytes(data)


# Price files.


def prices(n_bars: int = 80, symbols: tuple[str, ...] = ("AAA", "BBB")) -> pd.DataFrame:
    """Clean daily bars in long form."""
    draws, frames = np.random.default_rng(0), []
    for symbol in symbols:
        close = 50.0 * np.exp(np.cumsum(draws.normal(0.0, 0.01, n_bars)))
        bars = {"date": pd.bdate_range("2020-01-01", periods=n_bars).strftime("%Y-%m-%d"), "symbol": symbol}
        bars |= {"open": close, "high": close * 1.01, "low": close * 0.99, "close": close}
        frames.append(pd.DataFrame({**bars, "volume": draws.integers(10_000, 50_000, n_bars)}))
    return pd.concat(frames, ignore_index=True)


CELLS: tuple[Any, ...] = (
    None, "", " ", "x", "-", "nan", "inf", "-inf", 0, -1, 1e-30, 1e-310, 1e25, 1e300, "1e400", "1,234.5", "1.234,5",
    "$5", "5K", "\x00", "\x1b[31m", "\u202e", "2020-13-45", "9999-12-31", "1700-01-01", "00:00", "24:00", 20200101,
    1577836800, 10**18, 10**30, "١٢٣", "=1+1", "'", '"', "y" * 5000, True,
)  # fmt: skip


def mutated_prices(generator: np.random.Generator, frame: pd.DataFrame) -> tuple[str, bytes]:
    """A price file with one to three mistakes.

    Args:
      generator: is drawn from.
      frame: prices without mistakes, as of `prices`.

    Returns:
      Suffix and content of the file.
    """
    table = [list(frame.columns), *frame.astype(object).to_numpy().tolist()]
    for _ in range(generator.integers(1, 4)):
        _mutate_table(generator, table)
    if generator.random() < 0.15:
        buffer = io.BytesIO()
        with contextlib.suppress(Exception):  # what Parquet cannot hold goes into a text file
            pd.DataFrame(table[1:], columns=table[0]).to_parquet(buffer)
            data = buffer.getvalue()
            return ".parquet", _mutate_bytes(generator, data) if generator.random() < 0.5 else data
    text, separator = io.StringIO(), ",;\t|"[generator.integers(4)] if generator.random() < 0.3 else ","
    rows = table if generator.random() < 0.9 else table[1:]
    csv.writer(text, delimiter=separator).writerows(rows)
    data = text.getvalue().encode("utf-16" if generator.random() < 0.05 else "utf-8", errors="replace")
    if generator.random() < 0.3:
        data = _mutate_bytes(generator, data)
    kind = generator.random()
    if kind < 0.1:
        packed = gzip.compress(data)
        return ".csv.gz", packed[: len(packed) // 2] if generator.random() < 0.3 else packed
    if kind < 0.2:
        archived = io.BytesIO()
        with zipfile.ZipFile(archived, "w") as archive:
            archive.writestr("prices.csv", data)
            archive.writestr(str(generator.choice(["readme.txt", "empty.csv", "x/y.txt"])), "hello")
        return ".zip", archived.getvalue()
    return (".csv", ".tsv", ".txt")[0 if kind < 0.8 else generator.integers(3)], data


def _mutate_table(generator: np.random.Generator, table: list[list[Any]]) -> None:
    """Changes cells, rows, or columns of a table in place; its first row is the header."""
    if len(table) < 2 or len(table[0]) < 2:
        return
    row, column = int(generator.integers(1, len(table))), int(generator.integers(len(table[0])))
    cell = CELLS[generator.integers(len(CELLS))]
    match generator.integers(13):
        case 0:
            for line in table[1:]:
                line[column] = cell
        case 1:
            for line in table[row : row + int(generator.integers(1, 30))]:
                line[column] = cell
        case 2:
            for line in table:
                del line[column]
        case 3:
            table[0][column] = cell
        case 4:
            table += [list(line) for line in table[1 : row + 1]]
        case 5:
            table[1:] = [table[1 + place] for place in generator.permutation(len(table) - 1)]
        case 6:
            del table[int(generator.integers(1, 4)) :]
        case 7:
            for number, line in enumerate(table):
                line.insert(0, cell if number else str(cell))
        case 8:
            generator.shuffle(table[0])
        case 9:
            for line in table:
                line.append(line[column])
        case _:
            table[row][column] = cell


def _mutate_bytes(generator: np.random.Generator, data: bytes) -> bytes:
    """Cuts, repeats or overwrites a part of a file."""
    changed, at = bytearray(data), int(generator.integers(len(data) + 1))
    match generator.integers(5):
        case 0:
            del changed[at:]
        case 1:
            changed[at:at] = changed[: min(len(changed), 500)]
        case 2:
            changed[at : at + 8] = generator.bytes(8)
        case 3:
            changed[at:at] = (b"\n\n", b"\x00", b"\xef\xbb\xbf", b'"', b"\r", b",,,,,,", b"# note\n")[
                generator.integers(7)
            ]
        case _:
            if changed:
                changed[at % len(changed)] ^= 1 << int(generator.integers(8))
    return bytes(changed)


# Folders.


def files_of(folder: pathlib.Path) -> list[pathlib.Path]:
    """All files under a folder, in order."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flip_bit(generator: np.random.Generator, folder: pathlib.Path) -> str:
    """Flips one bit of one file that is not empty; says where."""
    files = [path for path in files_of(folder) if path.stat().st_size]
    path = files[generator.integers(len(files))]
    data = bytearray(path.read_bytes())
    at, bit = int(generator.integers(len(data))), int(generator.integers(8))
    data[at] ^= 1 << bit
    path.write_bytes(data)
    return f"{path.relative_to(folder)} byte {at} bit {bit}"


DAMAGES = ("truncate", "delete", "empty", "swap", "folder", "link", "junk", "newer")
JUNK: tuple[bytes, ...] = (b"junk", b"{}", b"[]", b"null", b'{"a": 1}', b"\xff\xfe\x00", b"[" * 10_000, b"\n")


def damage(generator: np.random.Generator, folder: pathlib.Path, how: str, elsewhere: pathlib.Path) -> str:
    """Damages one file of a folder; says how and where.

    Args:
      generator: is drawn from.
      folder: with files.
      how: one of `DAMAGES`.
      elsewhere: a folder outside, that links lead to.
    """
    files = files_of(folder)
    path = files[generator.integers(len(files))]
    where = path.relative_to(folder)
    if how == "truncate":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "delete" and generator.random() < 0.3 and path.parent != folder:
        where = path.parent.relative_to(folder)
        shutil.rmtree(path.parent)
    elif how == "delete":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "swap":
        other = files[generator.integers(len(files))]
        one, two = path.read_bytes(), other.read_bytes()
        path.write_bytes(two)
        other.write_bytes(one)
        return f"swap {where} and {other.relative_to(folder)}"
    elif how == "folder":
        path.unlink()
        path.mkdir()
    elif how == "link":
        target = elsewhere / path.name
        target.write_bytes(path.read_bytes())
        path.unlink()
        path.symlink_to(target)
    elif how == "junk":
        path.write_bytes(JUNK[generator.integers(len(JUNK))])
    else:
        where = pathlib.Path(["metadata.json", "job.json"][not (folder / "metadata.json").exists()])
        content = json.loads((folder / where).read_text(encoding="utf-8"))
        content |= {"format": 99} if generator.random() < 0.5 else {"something": "new"}
        (folder / where).write_text(json.dumps(content), encoding="utf-8")
    return f"{how} {where}"


# What came of it.


class Outcome(NamedTuple):
    """What a call made of a mutation.

    Attributes:
      kind: "accepted", "refused" (an error in one line, exit code 2 or 74), or "fault".
      text: the line, or what is wrong.
      seconds: that it took of the processor.
    """

    kind: str
    text: str
    seconds: float


class Reached(BaseException):
    """Raised where a command has found no mistake, and would begin to compile."""


@contextlib.contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Ends what hangs."""

    def late(number: int, frame: Any) -> None:
        raise TimeoutError(f"no end after {seconds:.0f} s")

    previous = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, previous)


def outcome_of(call: Callable[[], int | None], patience: float = 120.0) -> Outcome:
    """Calls something, and judges how it ends.

    Args:
      call: returns the exit code of a command, or raises a mistake of a user (`jaxppo.errors.UserError`).
      patience: wall time after which it is ended, seconds.
    """
    from jaxppo.errors import UserError

    errors, began = io.StringIO(), time.process_time()
    kind, text = "accepted", ""
    try:
        with _within(patience), contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            code = call()
        if code in (2, 74):
            lines = [line for line in errors.getvalue().splitlines() if line.startswith("error: ")]
            kind, text = ("refused", lines[0]) if len(lines) == 1 else ("fault", f"{len(lines)} lines of an error")
        elif code:
            kind, text = "fault", f"exit code {code}"
    except Reached:
        pass
    except KeyboardInterrupt:
        raise
    except UserError as error:
        kind, text = "refused", str(error)
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        kind, text = "fault", f"{type(error).__name__}: {str(error)[:200]} ({where.filename}:{where.lineno})"
    seconds = time.process_time() - began
    if kind == "refused" and (len(text) > LONGEST_LINE or "\n" in text or not text.isprintable()):
        kind, text = "fault", f"not one readable line: {text[:200]!r}"
    if seconds > MOST_SECONDS:
        kind, text = "fault", f"took {seconds:.0f} s; {text}"
    return Outcome(kind, text, seconds)
