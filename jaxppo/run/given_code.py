"""A policy that Python is given, tried for look-ahead where its table is computed by code that is not the package's."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np

from jaxppo.envs.market.market_data import MarketData, slice_bars
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.transform import Transform
from jaxppo.envs.trading.view import MarketView
from jaxppo.errors import ConfigError
from jaxppo.policy.protocol import Policy
from jaxppo.run.own_checks import AFTER, TRIED, column_not_there
from jaxppo.testing import LooksAhead, check_table

FEWEST = 4
"""Bars without which nothing can be drawn anew."""
MOST_REMEMBERED = 64
"""Checks whose results are kept."""
PACKAGES = ("jaxppo", "jax", "jaxlib", "flax", "numpy", "functools", "builtins")
"""Whose functions are not the user's."""

Table = Callable[[MarketView], Any]
_passed: dict[Hashable, list[Any]] = {}
"""What was tried before in this process -> the objects that it is recognised by, which must not be collected."""


def check_given(policy: Policy, env: TradingEnv, market: MarketData, periods: float, *, limits: bool = False) -> None:
    """Refuses a policy whose table looks ahead, as a run refuses that of its configuration.

    Code of the package is not tried, and nothing is twice: functions are recognised by their code, and by the values
    that they enclose. A table that fails is left to whoever trades it.

    Args:
      policy: who decides.
      env: whose masks and sizing limit it.
      market: that it trades on, unbatched; its first bars are used.
      periods: bars per year.
      limits: whether masks and sizing are tried too.

    Raises:
      ConfigError: names the policy, the first bar and asset that change as later bars do, and by how much.
    """
    tables: list[tuple[str, Any, Table, int]] = [
        (policy.name, policy.table, lambda view: policy.table(policy.params, view), policy.warmup)
    ]
    chains = [chain for chain in (env.masks, env.sizing) if chain is not None] if limits else []
    # A base or a book among the parts comes from a configuration, whose code is tried as the run is built.
    parts = [part for chain in chains for part in chain.parts or (chain,) if isinstance(part, Transform)]
    tables += [(part.name, part.table, part.table, part.warmup) for part in parts]
    for label, code, table, warmup in tables:
        found = _Code()
        which = found.of(code)
        n_bars = min(market.n_bars, max(TRIED, warmup + AFTER))
        key = (which, env.n_assets, n_bars, periods, env.position_limit, jax.tree.structure(market))
        if not found.is_own or key in _passed or n_bars < FEWEST:
            continue
        sizes = dict.fromkeys((n_bars, market.n_bars))
        if not any(_check(label, table, market, n, periods, env.position_limit) for n in sizes):
            continue
        while len(_passed) >= MOST_REMEMBERED:
            _passed.pop(next(iter(_passed)))
        _passed[key] = found.pinned


def is_own(table: Callable[..., Any]) -> bool:
    """Whether a function, or one that it encloses, is not the package's."""
    found = _Code()
    found.of(table)
    return found.is_own


def _check(label: str, table: Table, market: MarketData, n_bars: int, periods: float, position_limit: float) -> bool:
    """Whether a table could be tried on the first bars; one that brings its own rows fits the whole market alone."""
    market = slice_bars(market, 0, n_bars)
    computed = jax.jit(lambda market: table(MarketView(market, periods, position_limit)))
    try:
        leaves = jax.tree.leaves(computed(market))
    except Exception as error:
        absent = column_not_there(error, market)
        if absent is not None:
            raise ConfigError(f"{label}: {absent}") from error
        return False  # whatever it is, trading says it
    if any(np.shape(leaf)[:1] != (n_bars,) for leaf in leaves):
        return False
    try:
        view = MarketView(market, periods, position_limit)
        check_table(lambda view: computed(view.market), view, label, key=jax.random.key(0), moves=False)
    except LooksAhead as error:
        raise ConfigError(f"{error}; check=False trades it nevertheless") from None
    return True


class _Code:
    """What functions are made of.

    Attributes:
      is_own: whether one was found that is not the package's.
      pinned: objects that are recognised by their address.
    """

    def __init__(self) -> None:
        self.is_own = False
        self.pinned: list[Any] = []

    def of(self, thing: Any) -> Hashable:
        """Equal for functions of one code that enclose equal values."""
        if any(thing is one for one in self.pinned):
            return id(thing)
        if isinstance(thing, functools.partial):
            return self.of((thing.func, thing.args, thing.keywords))
        if isinstance(thing, types.MethodType):
            return self.of((thing.__func__, thing.__self__))
        if isinstance(thing, types.FunctionType):
            return self._of_function(thing)
        if callable(getattr(thing, "__wrapped__", None)):
            return self.of(thing.__wrapped__)
        if isinstance(thing, tuple | list):
            return tuple(map(self.of, thing))
        if isinstance(thing, dict):
            return tuple((name, self.of(one)) for name, one in thing.items())
        if isinstance(thing, str | bytes | int | float | None):
            return (type(thing), thing)
        self.pinned.append(thing)
        kind = thing if isinstance(thing, type) else type(thing)
        if dataclasses.is_dataclass(kind) and not isinstance(thing, type | MarketData):
            return (kind, *(self.of(getattr(thing, field.name)) for field in dataclasses.fields(thing)))
        self.is_own |= callable(thing) and not _is_known(kind.__module__)
        return id(thing)

    def _of_function(self, function: types.FunctionType) -> Hashable:
        self.is_own |= not _is_known(function.__module__)
        if any(function is one for one in self.pinned):
            return id(function)
        self.pinned += [function, function.__code__]
        enclosed = []
        for cell in function.__closure__ or ():
            try:
                enclosed.append(cell.cell_contents)
            except ValueError:  # not yet filled
                continue
        return (id(function.__code__), self.of((function.__defaults__, function.__kwdefaults__, enclosed)))


def _is_known(module: str | None) -> bool:
    return (module or "").partition(".")[0] in PACKAGES
