"""What each key of the configuration means, from the reference page that ships: the schema takes seconds to load.

The page is generated from the schema by `jaxppo.config.reference`; a test compares them.
"""

from __future__ import annotations

import difflib
import functools
import pathlib
import re
import shutil
import textwrap
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from jaxppo.errors import ConfigError

PAGE = pathlib.Path(__file__).parents[1] / "config" / "reference.md"
MATTER = (
    "data.path",
    "data.train",
    "data.validation",
    "env.levels",
    "env.position_limit",
    "costs.commission_bps",
    "policy.base",
    "rewards",
    "training.steps",
    "evaluation.decision",
)
"""The ten keys to know first."""
TOP = "Top level"
WIDEST = 100
"""Columns of the widest text."""
EVERYTHING = "all"
MOST_LISTED = 20
"""Keys that a search lists."""


class Key(NamedTuple):
    """A key of the configuration.

    Attributes:
      name: dotted.
      accepts: type and range, in words.
      default: as YAML writes it; empty for a key that must be given.
      meaning: with the unit.
    """

    name: str
    accepts: str
    default: str
    meaning: str

    @property
    def allowed(self) -> str:
        """What it accepts, and its default."""
        return f"{self.accepts}; {f'default: {self.default}' if self.default else 'required'}"


class Section(NamedTuple):
    """Keys that belong together.

    Attributes:
      name: dotted; that of an item of a list is `masks.no_short`.
      meaning: in a sentence; may be empty.
      keys: in order.
    """

    name: str
    meaning: str
    keys: tuple[Key, ...]


@functools.cache
def sections() -> dict[str, Section]:
    """Every section by its name, in the order of the page."""
    found = {}
    for part in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]:
        title, *lines = part.splitlines()
        name = title.replace(": ", ".")
        rows = [line[2:-2].split(" | ") for line in lines if line.startswith("| `")]
        items = "" if name == TOP or ": " not in title else f"{name}."
        keys = tuple(
            Key(items + key.strip("`"), accepts, default.strip().strip("`"), meaning)
            for key, accepts, default, meaning in rows
        )
        found[name] = Section(name, " ".join(line for line in lines if line and not line.startswith("|")), keys)
    return found


@functools.cache
def all_keys() -> dict[str, Key]:
    """Every key by its dotted name, keys of items of lists included."""
    return {key.name: key for section in sections().values() for key in section.keys}


def explain(name: str) -> str:
    """Explains a key, a section, the items of a list, or all; else everything of that last name, and lists what else
    has the word in its name or its meaning.

    Args:
      name: `costs`, `costs.commission_bps`, `--costs.commission-bps`, `masks`, `commission_bps`, `no_short`, `all`, or
        a word such as `stop`.

    Raises:
      ConfigError: the word is nowhere; names the nearest.
    """
    asked = name.removeprefix("--").replace("-", "_")
    if asked == EVERYTHING:
        return "\n\n".join(map(_section_text, sections().values()))
    inside = [one for one in sections().values() if one.name == asked or one.name.startswith(f"{asked}.")]
    named = [key for key in all_keys().values() if key.name == asked]
    listed: list[str] = []
    if not named and not inside:
        named = [key for key in all_keys().values() if key.name.endswith(f".{asked}")]
        inside = [one for one in sections().values() if one.name.endswith(f".{asked}")]
        listed = _listing(asked, {*named, *inside, *(key for section in inside for key in section.keys)})
    if named or inside or listed:
        return "\n\n".join([*map(_key_text, named), *map(_section_text, inside), *listed])
    near = difflib.get_close_matches(asked, [*all_keys(), *sections()], 1)
    guess = f"did you mean {near[0]}?" if near else "jaxppo help all lists every key"
    raise ConfigError(f"no key, section or command {name!r}; {guess}")


def search(word: str) -> list[Key | Section]:
    """Keys and sections with a word in their name or their meaning; the nearest first, in the order of the page.

    Of keys that mean the same in several lists, such as those of a baseline that is a base too, the first alone.

    Args:
      word: in any case; an underscore or a dash stands for a space in a meaning.
    """
    word = word.replace("-", "_").lower()
    found: dict[tuple[str, str], tuple[int, Key | Section]] = {}
    for section in sections().values():
        entries: list[Key | Section] = [*([] if section.name == TOP else [section]), *section.keys]
        for entry in entries:
            distance = _distance(word, entry)
            if distance is not None:
                same = (entry.name.rpartition(".")[2], entry.meaning)
                found.setdefault(same, (distance, entry))
    return [entry for _, entry in sorted(found.values(), key=lambda pair: pair[0])]


def _distance(word: str, entry: Key | Section) -> int | None:
    """How far from an entry a word is, 0 for a word of its last name; None where it is not in it."""
    own = re.split(r"[._]", entry.name.rpartition(".")[2].lower())
    if word in own or entry.name.lower().endswith(word):
        return 0
    if any(part.startswith(word) for part in own) or word in entry.name.rpartition(".")[2].lower():
        return 1
    spoken = word.replace("_", " ")
    if re.search(rf"\b{re.escape(spoken)}", entry.meaning.lower()):
        return 2
    return 3 if spoken in entry.meaning.lower() else None


def _listing(word: str, explained: Collection[Key | Section]) -> list[str]:
    """What else a word is found in, a line each under a heading; nothing where there is nothing."""
    entries = [entry for entry in search(word) if entry not in explained]
    if not entries:
        return []
    width = min(shutil.get_terminal_size().columns, WIDEST)
    lines = [
        textwrap.shorten(f"{entry.name}: {entry.meaning}", max(width - 2, 40), placeholder=" ...")
        for entry in entries[:MOST_LISTED]
    ]
    more = [f"  and {len(entries) - MOST_LISTED} more"] if len(entries) > MOST_LISTED else []
    heading = f"{'also ' if explained else ''}in names and meanings (jaxppo help NAME explains one):"
    return ["\n".join([heading, *(f"  {line}" for line in lines), *more])]


def as_options(names: Sequence[str] = MATTER) -> str:
    """Keys as options of a command: what each means, what it accepts, and its default.

    Args:
      names: of the keys.
    """
    lines: list[str] = []
    for key in (all_keys()[name] for name in names):
        lines += [f"  --{key.name}", *wrapped(f"{key.meaning} ({key.allowed})", " " * 24)]
    return "\n".join(lines)


def wrapped(text: str, indent: str, width: int | None = None) -> list[str]:
    """Lines of a text.

    Args:
      text: without line breaks.
      indent: begins every line.
      width: columns; None takes those of the terminal, at most `WIDEST`.
    """
    width = min(shutil.get_terminal_size().columns, WIDEST) if width is None else width
    return textwrap.wrap(
        text,
        max(width, len(indent) + 20),
        initial_indent=indent,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _section_text(section: Section) -> str:
    """A section with all of its keys."""
    return "\n".join([section.name, *wrapped(section.meaning, "  "), *(_key_text(key, "  ") for key in section.keys)])


def _key_text(key: Key, indent: str = "") -> str:
    """A key with what it accepts and means."""
    return "\n".join(_key_lines(key, indent))


def _key_lines(key: Key, indent: str) -> Iterator[str]:
    yield f"{indent}{key.name}"
    yield from wrapped(key.allowed, f"{indent}    ")
    yield from wrapped(key.meaning, f"{indent}    ")
