"""Reading and writing of run configurations: a YAML file or a dict, and dotted overrides."""

from __future__ import annotations

import copy
import difflib
import json
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pydantic
import yaml

from jaxppo.arguments import OWN_NAME
from jaxppo.config.features import ColumnsConfig, FunctionConfig
from jaxppo.config.items import OWN, Keys, item_of, written_out
from jaxppo.config.own import own_names
from jaxppo.config.renamed import RENAMED, with_present_keys
from jaxppo.config.schema import BUDGETS, Config
from jaxppo.config.shipped import find_config
from jaxppo.config.sweep import RangeConfig, gathered
from jaxppo.config.types import accepted, all_lists, keys, lists, nested, sections, takes_list, takes_text, takes_texts
from jaxppo.errors import ConfigError
from jaxppo.own_code import find

LONGEST_SHOWN = 100
DEFAULT_STEPS = 1_000_000
"""Budget of a configuration without a file."""
MOST_ALIASES = 20
"""Aliases of YAML in one file: ten of ten each are ten billion values."""
MOST_KEYS = 12
"""Keys that a message lists."""


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars (1e-4 is a number; ON, NO and 2010-12-31 are text); a key that is given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        given = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and key.value in given:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is given twice", key.start_mark)
            given |= {key.value} if isinstance(key, yaml.ScalarNode) else set()
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes text that a YAML 1.1 or a YAML 1.2 reader would take for something else."""


LINE_BREAKS = "\n\r\x85\u2028\u2029"
"""Characters that only a double-quoted text keeps."""


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, '"' if set(text) & set(LINE_BREAKS) else None)


_Dumper.add_representer(str, _text)

_SCALARS = (
    ("merge", r"<<", "<"),
    ("null", r"~|null|Null|NULL|", ("~", "n", "N", "")),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9](?:_?[0-9])*)", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:(?:[0-9](?:_?[0-9])*\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
)
_Loader.yaml_implicit_resolvers = {}
_TAGS = (*(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map")), None)
"""Of values that a configuration has; other tags, such as !!timestamp, are refused."""
_Loader.yaml_constructors = {tag: _Loader.yaml_constructors[tag] for tag in _TAGS}
for _tag, _pattern, _first in _SCALARS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def load_config(
    source: str | os.PathLike | Mapping[str, Any] | None = None, overrides: Sequence[str] = (), *, saved: bool = False
) -> Config:
    """Reads a configuration, applies overrides and checks it.

    Example:
      >>> from jaxppo import load_config
      >>> config = load_config({"training": {"steps": 100_000}}, ["--ppo.gamma", "0.9"])
      >>> config.ppo.gamma, config.training.steps, config.masks
      (0.9, 100000, ())

    Args:
      source: YAML file, the name of one that ships (`quickstart`), or a dict of its content; keys that it leaves out
        have their defaults. None for the defaults, with a budget of a million steps.
      overrides: command-line style: `("--ppo.learning-rate", "1e-4")` or `("--ppo.learning-rate=1e-4",)`. A dash in a
        key stands for an underscore; values are YAML, and a list may be written `a,b,c`. A budget (`training.steps`,
        `.episodes`, `.minutes`) replaces those of the source.
      saved: whether the file is that of a run, in which keys may have the names of earlier versions.

    Raises:
      ConfigError: file missing or not a mapping, unknown key, value of the wrong type or out of range, bad combination,
        or own code that is not found; its modules are searched beside the file first.
    """
    options = _parse_overrides(overrides)
    if source is None:
        tree: dict[str, Any] = {"training": {"steps": DEFAULT_STEPS}}
    elif isinstance(source, Mapping):
        tree = copy.deepcopy(dict(source))
    else:
        tree = with_present_keys(_read_yaml(source)) if saved else _read_yaml(find_config(source))
    tree = _with_parameters(tree)  # before the options, which replace them
    if any(key == f"training.{budget}" for key in options for budget in BUDGETS) and isinstance(
        tree.get("training"), dict
    ):
        tree["training"] = {key: value for key, value in tree["training"].items() if key not in BUDGETS}
    for key, value in options.items():
        _assign(tree, key, value)
    path = None if source is None or isinstance(source, Mapping) else pathlib.Path(source)
    config = validate_config(tree, source="config" if path is None else str(source), options=tuple(options))
    if path is not None and not saved:
        for key, name in own_names(config):
            find(name, key, [path.parent])
    if options.get("env.units") == "weight" and any(item.kind == "risk_units" for item in config.sizing):
        raise ConfigError("--env.units is weight, but sizing names risk_units; give --sizing without it as well")
    return config


def validate_config(tree: dict[str, Any], *, source: str = "config", options: Sequence[str] = ()) -> Config:
    """Checks a nested dict.

    Args:
      tree: sections and their keys.
      source: what errors name as the place of a key.
      options: dotted keys that errors name as options of the command line instead.

    Raises:
      ConfigError: unknown key, value of the wrong type or out of range, bad combination.
    """
    filled = _without_empty(tree)
    filled = _with_parameters(filled)
    filled |= {name: written_out(filled[name]) for name in lists() if name in filled}
    try:
        return Config.model_validate_json(json.dumps(filled))
    except pydantic.ValidationError as error:
        problem = _first_problem(error, filled, source, options)
    except (TypeError, ValueError) as error:
        problem = f"{source}: {error}; only numbers, text, lists and mappings are allowed"
    raise ConfigError(problem)


def _with_parameters(tree: dict[str, Any]) -> dict[str, Any]:
    """A tree in which dotted keys within `sweep` are gathered in `sweep.parameters`."""
    return {**tree, "sweep": gathered(tree["sweep"])} if "sweep" in tree else tree


def _without_empty(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A tree in which sections that are there without a key are empty mappings."""
    filled = {}
    for name, value in tree.items():
        section = f"{prefix}{name}" in sections()
        value = {} if section and value is None else value
        filled[name] = _without_empty(value, f"{prefix}{name}.") if section and isinstance(value, dict) else value
    return filled


def dump_config(config: Config) -> str:
    """Writes a resolved configuration as YAML, from which `load_config` reads the same one."""
    tree = config.model_dump(mode="json")
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True, width=120)


def dump_value(value: Any) -> str:
    """Writes the value of a key as YAML on one line."""
    return yaml.dump([value], Dumper=_Dumper, default_flow_style=True, allow_unicode=True, width=2**31)[1:-2]


def _read_yaml(path: str | os.PathLike) -> dict[str, Any]:
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder; a YAML file is expected") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: not a text file in UTF-8 (byte {error.object[error.start]:#04x} at position {error.start})"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    tree = _parse_yaml(text, str(path))
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: must be a mapping of sections, not {_shown(tree)}")
    return tree


def _parse_yaml(text: str, source: str) -> Any:
    try:
        _check_aliases(text, source)
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{source}{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from None
    except ValueError as error:
        raise ConfigError(f"{source}: not valid YAML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{source}: lists or mappings are nested too deeply") from None


def _check_aliases(text: str, source: str) -> None:
    """Refuses text whose aliases stand for each other many times over: it expands to more than memory holds."""
    if "*" in text and sum(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, _Loader)) > MOST_ALIASES:
        raise ConfigError(f"{source}: has more than {MOST_ALIASES} aliases (*name); write the values out")


def _parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Dotted key and value of each override; the last of several for one key counts."""
    parsed, rest = {}, list(overrides)
    while rest:
        word = str(rest.pop(0))
        if not word.startswith("--") or len(word) == 2:
            raise ConfigError(f"unexpected argument {word!r}; overrides look like --ppo.learning-rate 1e-4")
        option, equals, text = word.partition("=")
        key = option[2:].replace("-", "_")
        fields = dict(keys())
        if key not in fields and key not in sections():
            raise ConfigError(f"unknown option {_short(option)}; {_nearest(key, '--')}")
        if not equals:
            text = str(rest.pop(0)) if rest and not (str(rest[0]).startswith("--") and len(str(rest[0])) > 2) else ""
        if not text.strip():  # as of an unset variable of a shell; null says that nothing is meant
            raise ConfigError(f"{option} has no value; write {option} VALUE")
        value = _parse_yaml(text, f"{option}: {text!r}")
        parsed[key] = _as_written(value, text, fields[key], option) if key in fields else value
    given = [f"--{key}" for key in (f"training.{budget}" for budget in BUDGETS) if parsed.get(key) is not None]
    if len(given) > 1 and "--training.steps" in given:
        raise ConfigError(f"{' and '.join(given)} are given; only one budget can be set, or episodes and minutes")
    return parsed


def _as_written(value: Any, text: str, field: Any, option: str) -> Any:
    """Text stays text where a key accepts it (a file named 2010), and `a,b` is a list where a key accepts one."""
    if takes_texts(field) and text.strip() != "null" and not text.lstrip().startswith(("[", "{")):
        return [part.strip() for part in text.split(",")]  # symbols such as 000001 or TRUE
    if takes_text(field):
        return value if value is None or isinstance(value, str | list) else text
    alone = "list of" in accepted(field).partition(" or ")[0]
    if takes_list(field) and not isinstance(value, list | dict) and value is not None and (alone or "," in text):
        return _parse_yaml(f"[{text}]", f"{option}: {text!r}")
    return value


def _assign(tree: dict[str, Any], key: str, value: Any) -> None:
    """Sets a dotted key in place."""
    *path, name = key.split(".")
    for depth, part in enumerate(path, 1):
        node = tree[part] = {} if tree.get(part) is None else tree[part]
        if not isinstance(node, dict):
            section = ".".join(path[:depth])
            raise ConfigError(f"{section} is {_shown(node)}; allowed: a section (a mapping of keys)")
        tree = node
    tree[name] = value


def _first_problem(error: pydantic.ValidationError, tree: dict[str, Any], source: str, options: Sequence[str]) -> str:
    """One line for the first error: where, the key, its value, and what is allowed or the nearest known key."""
    problems = error.errors(include_url=False)
    # A misspelt key of an item says more than the required one that is missing for it.
    misspelt = (p for p in problems if p["type"] == "extra_forbidden" and _in_item(p["loc"]))
    problem = next(misspelt, problems[0])
    location = [str(part) for part in problem["loc"]]
    if not location:
        return f"{source}: {problem['msg'].removeprefix('Value error, ')}"
    list_, place = _in_list(problem["loc"])
    if list_ and place:
        return _item_problem(problem, list_, place, f"--{list_}" if list_ in options else source)
    depth = max(n for n in range(len(location)) if n == 0 or ".".join(location[:n]) in sections())
    key = ".".join(location[: depth + 1])
    where = f"--{key}" if key in options else f"{source}: {key}"
    if key in GROUPS and len(location) > 3 and location[3] != "[key]":
        return _group_problem(problem, location[2:4], where, tree[location[0]][location[1]], *GROUPS[key])
    if key in GROUPS and len(location) == 3 and problem["type"] == "value_error":
        return f"{where}.{location[2]}: {problem['msg'].removeprefix('Value error, ')}"
    if problem["type"] == "extra_forbidden":
        return f"{source}: unknown key {key!r}; {_nearest(key, '')}"
    value: Any = tree
    for part in location[: depth + 1]:
        value = value[part]
    field = dict(keys()).get(key)
    if field is None:
        example = next(iter(sections()[key].model_fields))
        return f"{where} is {_shown(value)}; allowed: a section (a mapping of keys such as {example})"
    return f"{where} is {_shown(value)}; allowed: {accepted(field)}"


GROUPS: dict[str, tuple[type[Keys], str]] = {
    "features.columns": (ColumnsConfig, "columns"),
    "features.functions": (FunctionConfig, "function"),
    "sweep.parameters": (RangeConfig, "values"),
}
"""Mapping by names of the user's own -> keys of one of its values, and the key that stands for all."""


def _group_problem(
    problem: Any, place: Sequence[str], where: str, groups: dict[str, Any], model: type[Keys], short: str
) -> str:
    """One line for an error in the keys of a group of a user's own."""
    (name, key), fields = place, model.model_fields
    if problem["type"] == "extra_forbidden":
        return f"{where}.{name}: unknown key {key!r}; allowed: {', '.join(fields)}"
    given = groups[name] if isinstance(groups[name], dict) else {short: groups[name]}
    shown = _shown(given[key]) if key in given else "absent"
    return f"{where}.{name}.{key} is {shown}; allowed: {accepted(fields[key])}"


def _in_item(location: Sequence[Any]) -> bool:
    """Whether a location is in a list of items, or in a mapping of groups of a user's own."""
    return bool(_in_list(location)[0]) or ".".join(map(str, location[:2])) in GROUPS


def _in_list(location: Sequence[Any]) -> tuple[str, Sequence[Any]]:
    """Name of the list of items that a location is in, and the place in it; an empty name where it is in none."""
    for depth in (1, 2):
        name = ".".join(map(str, location[:depth]))
        if len(location) >= depth and name in all_lists():
            return name, location[depth:]
    return "", ()


def _item_problem(problem: Any, key: str, place: Sequence[Any], source: str) -> str:
    """One line for an error at a place in a list of items, or in a key that is one item."""
    single = not (place and isinstance(place[0], int))
    item, path = (key, list(place)) if single else (f"{key}[{place[0]}]", list(place[1:]))
    absent = problem["type"] == "missing" and isinstance(path[-1], str)
    if problem["type"] == "missing" and not absent:
        path.pop()  # an element that a list lacks: the list is what is wrong
    where = ".".join([item, *map(str, path)])
    fields = nested(all_lists()[key], path)
    if problem["type"] == "extra_forbidden":
        if path == [OWN]:  # own code where there is none
            where = f"{item}.{problem['input']['path']}"
        near = difflib.get_close_matches(str(path[-1]), fields, n=1, cutoff=0.6)
        return (
            f"{source}: unknown key {where!r}; "
            f"{f'did you mean {near[0]}?' if near else 'known: ' + (_listed(fields) or 'none')}"
        )
    if absent:
        return f"{source}: {where} is missing; it has no default"
    named = [part for part in path if part in fields]
    allowed = problem["msg"].removeprefix("Value error, ")
    if not path and not isinstance(problem["input"], dict):
        allowed = all_lists()[key].form()
    if named and len(path) > 1:
        allowed = accepted(fields[named[-1]])
    elif path:
        allowed = f"a mapping of keys: {', '.join(fields) or 'it has none'}"
    field = nested(all_lists()[key], path[:-1]).get(path[-1]) if path else None
    if field is not None and item_of(field.annotation) is not None:
        allowed = accepted(field)
    for inner in ("path", "options"):  # of own code, whose name is written in their place
        where = where.removesuffix(f".{OWN}.{inner}")
    return f"{source}: {where} is {_shown(problem['input'])}; allowed: {allowed}"


def _listed(names: Iterable[str]) -> str:
    """Names in a row, as they are written."""
    return ", ".join(OWN_NAME if name == OWN else name for name in names)


def _nearest(key: str, prefix: str) -> str:
    """A hint for an unknown key: the known one that is most like it, or those of its section."""
    if key in RENAMED:
        return f"it is {prefix}{RENAMED[key]} now"
    known = [name for name, _ in keys()]
    short = {name.rpartition(".")[2]: name for name in reversed(known)}
    section, _, last = key.rpartition(".")
    near = difflib.get_close_matches(key, [*known, *sections()], n=1, cutoff=0.75)
    near = near or [short[name] for name in difflib.get_close_matches(last, short, n=1, cutoff=0.75)]
    if near:
        return f"did you mean {prefix}{near[0]}?"
    model = sections().get(section, Config)
    inside = f"of {section} " if section in sections() else ""
    names = list(model.model_fields)
    more = f" and {len(names) - MOST_KEYS} more" if len(names) > MOST_KEYS else ""
    return f"known keys {inside}are {', '.join(names[:MOST_KEYS])}{more}"


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + " ..."


def _shown(value: Any) -> str:
    """A value as YAML would show it, cut to one short piece."""
    return _short(json.dumps(value, ensure_ascii=False, default=str))
