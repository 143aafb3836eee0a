"""An account in the trading environment: what it carries, what a bar reads, what it sees, and what a bar did to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import struct

from jaxppo.envs.execution.limits import Constraint
from jaxppo.envs.execution.portfolio import Fills, Portfolio
from jaxppo.envs.trading.types import Observation, Outcome


class Account(struct.PyTreeNode):
    """What an account carries from one close to the next.

    Attributes:
      portfolio: cash, shares and orders at the close.
      masks: state of the mask transform.
      sizing: state of the sizing transform.
      rewards: state of the reward transform.
      liquidated: `[]` bool: the account stays out of the market; None where an episode ends instead.
      stopped: `[]` bool: everything is being closed and stays closed; None where nothing stops an account.
    """

    portfolio: Portfolio
    masks: Any = ()
    sizing: Any = ()
    rewards: Any = ()
    liquidated: jax.Array | None = None
    stopped: jax.Array | None = None


class BarRow(struct.PyTreeNode):
    """What a bar reads of the market's tables.

    Attributes:
      bar: `[]` int32, the decision bar t.
      next_bar: `[fields, A]` packed bar t + 1, in which orders fill; see `execution.bars.pack_bars`.
      tradable: `[A]` bool at t.
      masks: row t of the mask transform's table.
      sizing: row t of the sizing transform's table.
      policy: row t of what the policy reads beside the observation.
    """

    bar: jax.Array
    next_bar: jax.Array
    tradable: jax.Array
    masks: Any = ()
    sizing: Any = ()
    policy: Any = ()


class View(NamedTuple):
    """What an account sees, and may do, at the close of a bar.

    Attributes:
      observation: of the policy.
      constraint: what masks and sizing allow a decision; None for everything.
      masks: next state of the mask transform.
      executed: what masks allow the positions themselves, where a decision is a tilt around a base; None where that is
        `constraint`.
    """

    observation: Observation
    constraint: Constraint | None
    masks: Any
    executed: Constraint | None = None


class Placed(NamedTuple):
    """What an account ordered at the close of a bar.

    Attributes:
      targets: `[A]` weights that are aimed at, after sizing and limits.
      hold: `[A]` bool, assets in which nothing is ordered.
      ordered: `[A]` shares, signed.
    """

    targets: jax.Array
    hold: jax.Array
    ordered: jax.Array


class StepResult(NamedTuple):
    """What one bar did to an account.

    Attributes:
      before: portfolio at the decision.
      targets: `[A]` weights that are aimed at, after sizing and limits.
      ordered: `[A]` shares ordered, signed.
      after: portfolio at the next close.
      fills: what was filled between.
      outcome: of the bar.
      reward: `[]`; the log return where no risk aversion was given.
    """

    before: Portfolio
    targets: jax.Array
    ordered: jax.Array
    after: Portfolio
    fills: Fills
    outcome: Outcome
    reward: jax.Array


Decision = tuple[jax.Array, jax.Array]
"""Target weights `[A]`, and `[A]` bool: assets that are left alone."""
Decide = Callable[[Account, View, BarRow], tuple[jax.Array, jax.Array, Any]]
"""`(account, view, row) -> (target weights [A], hold [A] bool, anything)`."""
