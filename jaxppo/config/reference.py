"""The reference page of the configuration: `python -m jaxppo.config.reference > docs/reference/config.md`."""

from __future__ import annotations

import json
from typing import Any

from jaxppo.arguments import OWN_NAME
from jaxppo.config.items import OWN, Item, item_of
from jaxppo.config.schema import Config
from jaxppo.config.types import accepted, all_lists, sections

COMMAND = "python -m jaxppo.config.reference > docs/reference/config.md"
HEAD = f"""\
# Configuration keys

Written by `{COMMAND}`; do not edit.

A run is one YAML file. Every key is also an option of `jaxppo train` and `jaxppo backtest`, for example
`--ppo.learning_rate 1e-4` or `--data.symbols AAPL,MSFT`, which takes the place of the file's value. A key that is left
out has its default. An unknown key, a value of another type and a value out of its range are errors.
"""


def reference() -> str:
    """Markdown of every key: what it accepts, its default, and what it means."""
    top = {name: field for name, field in Config.model_fields.items() if name not in sections()}
    parts = [HEAD, _table("Top level", "", top)]
    for name, section in sections().items():
        inside = {f"{name}.{key}": field for key, field in section.model_fields.items()}
        fields = {key: field for key, field in inside.items() if key not in sections()}
        meaning = _in_one_line(section.__doc__)
        parts.append(_table(name, meaning, fields) if fields else f"## {name}\n\n{meaning}\n")
    for key, item in all_lists().items():
        parts += _items(key, item)
    return "\n".join(parts)


def _items(title: str, item: type[Item]) -> list[str]:
    """A section for every kind of item of a list, and for those of the lists that it has."""
    parts = []
    for name, model in item.kinds().items():
        if name == OWN:
            parts.append(f"## {title}: {OWN_NAME}\n\n{_in_one_line(model.__doc__)}\n")
            continue
        parts.append(_table(f"{title}: {name}", _in_one_line(model.__doc__), model.model_fields))
        inner = {key: item_of(field.annotation) for key, field in model.model_fields.items()}
        for key, found in inner.items():
            parts += _items(f"{title}: {name}.{key}", found) if found is not None else []
    return parts


def _table(title: str, meaning: str, fields: dict[str, Any]) -> str:
    """One section as a heading, a sentence and a table."""
    lines = [f"## {title}", "", *([meaning, ""] if meaning else [])]
    lines += ["| key | accepts | default | meaning |", "|---|---|---|---|"] if fields else ["It has no keys."]
    for key, field in fields.items():
        default = "" if field.is_required() else f"`{_default(field.default)}`"
        cells = (f"`{key}`", accepted(field), default, _in_one_line(field.description))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _in_one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def _default(value: Any) -> str:
    """A default as YAML writes it."""
    return value if isinstance(value, str) else json.dumps(value)


if __name__ == "__main__":
    print(reference(), end="")
