"""The policy protocol: whatever decides, as pure functions of one account; `vmap` over accounts.

Trained agents (`jaxppo.policy.agent`), rules (`jaxppo.policy.rules`), arrays of orders (`jaxppo.policy.arrays`), the
strategies of a book and anything of a user's own are a `Policy`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jaxppo.envs.execution.limits import Constraint
from jaxppo.envs.execution.portfolio import Portfolio
from jaxppo.envs.trading.types import EnvParams, Observation
from jaxppo.envs.trading.view import MarketView


class Targets(NamedTuple):
    """A decision.

    Attributes:
      weights: `[A]` target weights, fractions of equity, signed; shares to order for a policy that is `in_shares`.
      hold: `[A]` bool, assets whose positions are left alone, whatever their weight.
    """

    weights: jax.Array
    hold: jax.Array


class Observed(NamedTuple):
    """What a policy reads at the close of bar t.

    Attributes:
      portfolio: of its account.
      row: row t of its table.
      observation: position and account features and the action mask.
      constraint: what masks and sizing allow; None for everything, and for a strategy of a book.
      encoded: what its encoding says of bar t; `()` without one.
    """

    portfolio: Portfolio
    row: Any = ()
    observation: Observation | None = None
    constraint: Constraint | None = None
    encoded: Any = ()


class Encoding(NamedTuple):
    """A part of a policy that reads the market alone and is too large to keep for all bars: computed block by block.

    Attributes:
      inputs: `EnvParams -> pytree`: what `encode` reads of a market.
      encode: `(params, inputs [C, ...], first [C], n) -> pytree [C, n, ...]` of C markets, `n` bars from `first` on.
      block: most bars of one call where many markets are traded side by side.
      batch_size: most markets traded side by side.
    """

    inputs: Callable[[EnvParams], Any]
    encode: Callable[[Any, Any, jax.Array, int], Any]
    block: int
    batch_size: int


def stateless(n_assets: int) -> tuple[()]:
    """The state of a policy that remembers nothing."""
    del n_assets
    return ()


def no_table(params: Any, view: MarketView) -> tuple[()]:
    """The table of a policy that reads nothing of the market in advance.

    Args:
      params: of the policy.
      view: of the market.
    """
    del params, view
    return ()


class Policy(NamedTuple):
    """Whatever decides, as pure functions; static but for `params`.

    Attributes:
      name: for tables and messages; unique within a book.
      apply: `(params, state, observed) -> (Targets, state)` at the close of a bar.
      init: `n_assets -> state` at the start of an episode, a pytree of arrays.
      table: `(params, MarketView) -> pytree` with leading axis T: what depends on the market alone, computed once.
        Row t may use bars <= t only.
      warmup: bars of history that it needs before its first decision, >= 0.
      params: pytree of arrays, such as the parameters of a network.
      encoding: what is computed of the market block by block; None for nothing.
      in_shares: whether it decides on orders in shares, signed, instead of target weights.
    """

    name: str
    apply: Callable[[Any, Any, Observed], tuple[Targets, Any]]
    init: Callable[[int], Any] = stateless
    table: Callable[[Any, MarketView], Any] = no_table
    warmup: int = 0
    params: Any = ()
    encoding: Encoding | None = None
    in_shares: bool = False

    def without_params(self) -> Policy:
        """The static part: what a compiled function is looked up by."""
        return self._replace(params=())
