"""A user's own functions, named `module:function`: found, and called with checked options.

A module is searched in the folder of the configuration file, then in the current folder, then where Python imports
from. A function that no module has, of a notebook or within another function, gets a name by `register`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import hashlib
import importlib
import inspect
import json
import pathlib
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from jaxppo.arguments import check, parameters_of
from jaxppo.errors import ConfigError

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class OwnCode:
    """A function that was found.

    Attributes:
      name: `module:function`.
      function: itself.
      source: its source text; empty where Python does not know it.
      file: of its module; None where that has none, or is the script that runs.
      content: of that file as it was when the function was found; `source` without one.
    """

    name: str
    function: Callable[..., Any]
    source: str
    file: pathlib.Path | None
    content: bytes

    @property
    def sha256(self) -> str:
        """Of `content`, in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()


@dataclasses.dataclass(frozen=True)
class Call:
    """A function and its options; two of the same function and options are equal.

    Attributes:
      function: takes options by name.
      options: as JSON, with sorted keys.
    """

    function: Callable[..., Any]
    options: str = "{}"

    def __call__(self, *arguments: Any, **more: Any) -> Any:
        """Calls the function with its options, of which a list comes as a tuple."""
        return self.function(*arguments, **_frozen(json.loads(self.options)), **more)


KINDS = {
    "features.functions": "a feature is a function of (market, **options)",
    "masks": "a mask is a function of options that returns a jaxppo.masks.MaskTransform",
    "rewards": "a reward is a function of options that returns a jaxppo.risk.rewards.RewardTransform",
    "strategies": "a strategy is a function of options that returns a jaxppo.Policy",
    "sizing": "a sizing transform is a function of options that returns a jaxppo.risk.sizing.SizingTransform",
    "policy.kind": "a network is a function of (rngs, **options) that returns a flax.nnx.Module",
    "policy.base": "a base is a function of options that returns a jaxppo.Policy",
    "evaluation.baselines": "a baseline is a function of options that returns a jaxppo.Policy",
    "regimes": "regimes are a function of (market, **options)",
    "objective": "an objective is a function of options that returns a jaxppo.risk.objectives.EpisodeUtility",
    "costs.function": "slippage is a function of (quantity, price, bar, **options)",
    "--generator": "a generator is a function of (market, n_bars)",
}
"""Key, or a part of one -> what it names; `book.strategies` of sizing are strategies."""
GUIDE = "docs/how-to/own-code.md"

_registered: dict[str, OwnCode] = {}
_imported: dict[str, OwnCode] = {}


def register(function: Function | None = None, *, name: str | None = None) -> Any:
    """Gives a function a name by which configurations find it, where no module has it: in a notebook, say.

    Example:
      >>> import jaxppo
      >>> @jaxppo.register(name="my_notebook:above")
      ... def above(market, *, level=1.0):
      ...     return market.close - level

    Args:
      function: the function, where the decorator is used without arguments.
      name: `module:function`; None takes those of the function.

    Returns:
      The function itself.

    Raises:
      ConfigError: Python does not know its source, which a run has to remember.
    """
    if function is None:
        return lambda function: register(function, name=name)
    found = _described(name_of(function) if name is None else name, function)
    _registered[found.name] = found
    return function


def name_of(function: Callable[..., Any]) -> str:
    """`module:function` of a function."""
    named = inspect.unwrap(function)
    return f"{named.__module__}:{named.__name__}"


def registered_name(function: Callable[..., Any]) -> str:
    """A name by which a function is found from now on: that under which it is known, or else it is registered."""
    known = next((name for name, code in _registered.items() if code.function is function), None)
    if known is not None:
        return known
    name = name_of(function)
    module, _, attribute = name.partition(":")
    if module == "__main__" or getattr(sys.modules.get(module), attribute, None) is not function:
        register(function)
    return name


def find(name: str, key: str, folders: Sequence[pathlib.Path] = ()) -> OwnCode:
    """Finds a function.

    Args:
      name: `module:function`.
      key: that names it, for messages.
      folders: searched for the module first, before the current one; without any, a module that is imported already is
        taken as it is.

    Raises:
      ConfigError: there is none of that name; says why.
    """
    if name in _registered:
        return _registered[name]
    module, _, attribute = name.partition(":")
    where, here = f"{key} is {name!r}", pathlib.Path.cwd()
    if module.partition(".")[0] in sys.stdlib_module_names:
        raise ConfigError(f"{where}, of Python itself; a function of your own is expected")
    try:
        found = sys.modules[module] if module in sys.modules and not folders else _module(module, [*folders, here])
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise ConfigError(f"{where}, whose module cannot be imported: {error}") from error
        places = ", ".join(dict.fromkeys(str(folder) for folder in (*folders, here)))
        raise ConfigError(f"{where}; there is no module {module} in {places} or where Python imports from") from None
    except ConfigError as error:
        raise ConfigError(f"{where}; {error}") from None
    except (Exception, SystemExit) as error:  # whatever a module of a user does when it is imported
        raise ConfigError(f"{where}, whose module cannot be imported: {said(error)}") from error
    function = getattr(found, attribute, None)
    if function is None:
        near = difflib.get_close_matches(attribute, vars(found), n=1, cutoff=0.6)
        hint = f"did you mean {module}:{near[0]}?" if near else f"it is {getattr(found, '__file__', 'built in')}"
        raise ConfigError(f"{where}; the module {module} has no function {attribute}; {hint}")
    if not callable(function):
        raise ConfigError(f"{where}, which is a {type(function).__name__}; a function is expected")
    defined = getattr(inspect.unwrap(function), "__module__", module)
    if defined != found.__name__:  # its source, which a run remembers, is elsewhere
        raise ConfigError(f"{where}, which is a function of {defined}; name that: {defined}:{function.__name__}")
    known = _imported.get(name)
    if known is None or known.function is not function:
        return _remembered(_described(name, function, found))
    if folders and known.file is not None and sha256_of(known.file) != known.sha256:
        raise ConfigError(f"{where}; {known.file} was changed after it was imported: start Python anew")
    return known


def _remembered(code: OwnCode) -> OwnCode:
    _imported[code.name] = code
    return code


def _module(name: str, folders: Iterable[pathlib.Path]) -> Any:
    """Imports a module from the first folder that has it, else from where Python imports.

    Raises:
      ConfigError: another file is imported under that name already.
    """
    folder = next((folder for folder in folders if located(name, folder) is not None), None)
    if folder is None:
        return importlib.import_module(name)
    wanted = located(name, folder)
    assert wanted is not None
    loaded = sys.modules.get(name)
    if loaded is not None:
        there = getattr(loaded, "__file__", None)
        if there is None or not _same(pathlib.Path(there), wanted):
            raise ConfigError(
                f"{wanted} has the name of a module that is imported already, {there or 'of Python itself'}; give it "
                "another name"
            )
        return loaded
    with _first_on_path(folder):
        return importlib.import_module(name)


@contextlib.contextmanager
def _first_on_path(folder: pathlib.Path) -> Iterator[None]:
    """Has Python look into a folder first, and last from then on, for what the module imports later."""
    importlib.invalidate_caches()
    before, text = list(sys.path), str(folder.resolve())
    sys.path.insert(0, text)
    try:
        yield
    finally:
        sys.path[:] = before if text in before else [*before, text]


def _same(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Whether two files are the same, or say the same."""
    return one.resolve() == other.resolve() or (one.is_file() and one.read_bytes() == other.read_bytes())


def _described(name: str, function: Callable[..., Any], module: Any = None) -> OwnCode:
    """A function with its source.

    Raises:
      ConfigError: Python knows of none, so that nobody could say later whether it is the same.
    """
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        source = ""
    module = sys.modules.get(inspect.unwrap(function).__module__) if module is None else module
    path = getattr(module, "__file__", None) if getattr(module, "__name__", "") != "__main__" else None
    file = pathlib.Path(path).resolve() if path is not None and pathlib.Path(path).is_file() else None
    content = source.encode() if file is None else file.read_bytes()
    if not content:
        raise ConfigError(f"{name}: Python does not know its source; define it in a file or in a cell of a notebook")
    return OwnCode(name, function, source, file, content)


def call_of(code: OwnCode, key: str, options: Mapping[str, Any], given: Iterable[str] = (), first: int = 0) -> Call:
    """The call of a function with options, which its signature must have.

    Args:
      code: the function.
      key: that names it, for messages.
      options: by name.
      given: names of arguments that are not options.
      first: how many arguments it is called with before them.

    Raises:
      ConfigError: an option that it does not have, one that is missing, or a value outside the range of an annotation.
    """
    where = f"{key} {code.name}"
    try:
        known = list(parameters_of(code.function).values())[first:]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: its arguments are not known: {error}") from None
    named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    has = [p.name for p in known if p.kind in named and p.name not in given]
    anything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known)
    for option in options:
        if option not in has and not anything:
            near = difflib.get_close_matches(option, has, n=1, cutoff=0.6)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(has) or 'none'}"
            raise ConfigError(f"{where} has no option {option!r}; {hint}")
    missing = next((p.name for p in known if p.name in has and p.default is p.empty and p.name not in options), None)
    if missing is not None:
        raise ConfigError(f"{where} needs the option {missing}, which has no default{meant_by(key)}")
    try:
        check(code.function, _frozen(dict(options)))
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
    except Exception:  # annotations that Python cannot evaluate say nothing of ranges
        pass
    return Call(code.function, json.dumps(dict(options), sort_keys=True))


def meant_by(key: str) -> str:
    """What a key names, for the end of a message; empty for one that is not in `KINDS`.

    Args:
      key: such as `rewards[1]` or `sizing[0].book.strategies[2]`.
    """
    named = "strategies" if ".strategies" in key else key
    found = next((kind for name, kind in KINDS.items() if named.startswith(name)), None)
    return "" if found is None else f"; {found}, see {GUIDE}"


def type_shown(value: Any) -> str:
    """What a value is, with an article: `a Policy`, `an array`.

    Args:
      value: of whatever type.
    """
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return "an array"
    return f"a{'n' if type(value).__name__[0] in 'aeiouAEIOU' else ''} {type(value).__name__}"


def said(error: BaseException) -> str:
    """An error of a user's code in a line: its type, the first line of its text, and the line that raised it.

    Args:
      error: as it was caught.
    """
    text = str(error).strip().split("\n")[0]
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_of_user(frame.filename)]
    at = f" (line {frames[-1].lineno} of {pathlib.Path(frames[-1].filename).name})" if frames else ""
    return f"{type(error).__name__}{f': {text}' if text else ''}{at}"


def _is_of_user(file: str) -> bool:
    """Whether a source file is neither that of this package nor of an installed one."""
    here = str(pathlib.Path(__file__).resolve().parent)
    inside = (here, str(pathlib.Path(here).parent / "envs"), sys.base_prefix)
    return not str(pathlib.Path(file).resolve()).startswith(inside) and "site-packages" not in file and file[0] != "<"


def _frozen(value: Any) -> Any:
    """Lists as tuples, as the factories of jaxppo take them."""
    if isinstance(value, dict):
        return {name: _frozen(one) for name, one in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def known(name: str) -> OwnCode | None:
    """The function that was registered, or found, under a name; None for neither."""
    return _registered.get(name) or _imported.get(name)


def is_registered(name: str) -> bool:
    """Whether a function was given that name by `register`."""
    return name in _registered


def located(module: str, folder: pathlib.Path) -> pathlib.Path | None:
    """File of a module in a folder; None where it has none.

    Args:
      module: dotted name.
      folder: to look into.
    """
    base = folder.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def sha256_of(file: pathlib.Path | None) -> str:
    """SHA-256 of a file in hexadecimal; empty for None."""
    return "" if file is None else hashlib.sha256(file.read_bytes()).hexdigest()
