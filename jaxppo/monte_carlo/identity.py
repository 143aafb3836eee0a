"""What tells two Monte Carlo jobs apart: digests of arrays, names of functions with what they were made with."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxppo.backtest.conditions import Conditions
from jaxppo.policy.protocol import Policy


def digest(tree: Any) -> str:
    """sha256 of the arrays of a pytree, in hexadecimal."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        found.update(f"{jax.tree_util.keystr(path)} {_array(leaf)}".encode())
    return found.hexdigest()


def function_name(function: Callable | None) -> str:
    """Module and name of a function, and a digest of its bound options, defaults and what it closes over, if any.

    Functions among these count with their own; globals that a function reads do not count. Empty for None.

    Raises:
      ValueError: an object without a name, whose options cannot be known.
    """
    return "" if function is None else _function(function, frozenset())


def _function(function: Callable, within: frozenset[int]) -> str:
    """See `function_name`; `within` are the objects that are being described, by id."""
    options: list[Any] = []
    while isinstance(function, functools.partial) or (
        hasattr(function, "__wrapped__") and not inspect.isfunction(function)
    ):
        if isinstance(function, functools.partial):
            options += [function.args, function.keywords]
            function = function.func
        else:
            function = function.__wrapped__
    if not hasattr(function, "__qualname__"):
        raise ValueError(f"{function!r} has no name that tells it from others; give a function instead")
    if inspect.ismethod(function):
        options.append(function.__self__)
        function = function.__func__
    if inspect.isfunction(function):
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        options += [{name: _content(cell)} for name, cell in cells]
        options += [x for x in (function.__defaults__, function.__kwdefaults__) if x]
    name = f"{function.__module__}.{function.__qualname__}"
    if not options:
        return name
    return f"{name} {hashlib.sha256(_described(options, within).encode()).hexdigest()[:16]}"


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def _described(value: Any, within: frozenset[int]) -> str:
    """A value as text that is the same in every process."""
    if id(value) in within:
        return "itself"
    within |= {id(value)}
    kind = type(value).__qualname__
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return _array(value)
    if isinstance(value, dict):
        return f"{kind}{[(repr(key), _described(x, within)) for key, x in value.items()]}"
    if isinstance(value, list | tuple):
        return f"{kind}{[_described(x, within) for x in value]}"
    if isinstance(value, set | frozenset):
        return f"{kind}{sorted(_described(x, within) for x in value)}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
        return f"{kind}{_described(fields, within)}"
    if inspect.ismodule(value):
        return value.__name__
    if hasattr(value, "__qualname__") or isinstance(value, functools.partial):
        return _function(value, within)
    if callable(value) or type(value).__repr__ is object.__repr__:
        if not hasattr(value, "__dict__"):
            raise ValueError(f"{value!r} has no name that tells it from others; give a function instead")
        return f"{kind}{_described(vars(value), within)}"
    return repr(value)


def _array(value: Any) -> str:
    if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.asarray(value)
    return f"{array.shape} {array.dtype} {hashlib.sha256(array.tobytes()).hexdigest()}"


def identity_of(policy: Policy, conditions: Conditions) -> str:
    """Digest of every setting that shapes decisions and fills; with the arrays, all that tells two policies apart.

    Args:
      policy: who decides.
      conditions: what it trades under.

    Raises:
      ValueError: a policy of objects that cannot be told from others.
    """
    functions = [function_name(function) for function in (policy.table, policy.init, policy.apply)]
    settings = [conditions.identity, policy.warmup, policy.in_shares, *functions]
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()
