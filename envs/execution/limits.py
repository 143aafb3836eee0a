"""What positions may be: a box of target weights per asset, and budgets that assets share.

Written for one account; `vmap` over accounts. Weights are position values as fractions of equity, signed, with
outstanding orders counted as filled. Two rules hold whatever the limits say:

  - Reducing a position is always allowed: every weight between 0 and the present one is.
  - Holding is always allowed. It means "keep what may be kept": the present position; less of an outstanding order
    where that would go beyond a limit; and where a position must be given up, the nearest one within the limit.

So a limit stops positions from being opened or increased beyond it; prices may still carry one across. Only a limit
that is *forced* then sells what exceeds it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.envs.execution.portfolio import Portfolio, expected_weights, weights_of
from jaxppo.envs.market.precision import matmul
from jaxppo.envs.market.safe import ratio, root

ROUNDING = 1e-6
"""Weights that differ by less count as equal: a target at a limit is within it."""


class GrossBudgets(struct.PyTreeNode):
    """Budgets of `sum_i member_gi |w_i - origin_i|`: gross exposure and sectors (from 0), trades (from the position).

    Attributes:
      member: `[G, A]` bool, whether an asset counts in each budget.
      limit: `[G]` >= 0.
      forced: `[G]` >= limit; beyond it the members' positions are scaled down to it. Infinity for never.
      origin: `[A]` weights from which trades are counted; None for exposure, which counts from 0.
    """

    member: jax.Array
    limit: jax.Array
    forced: jax.Array
    origin: jax.Array | None = None

    def room(self, weights: jax.Array, asset: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Smallest and largest weight of one asset that keeps the budgets, given the others.

        Args:
          weights: `[A]` of all assets, fractions of equity.
          asset: `[]` int32, which.
        """
        own = self.member[:, asset]
        origin = jnp.zeros(()) if self.origin is None else self.origin[asset]
        left = self.limit - self._used(weights.at[asset].set(origin))
        most = jnp.maximum(jnp.where(own, left, jnp.inf).min(), 0.0)
        return origin - most, origin + most

    def share(self, fixed: jax.Array, rest: jax.Array, forced: bool) -> jax.Array:
        """Factor `[A]` in [0, 1] for `rest` `[A]` with which `fixed + factor * rest` is within the budgets.

        Nothing in `rest` reduces what is in `fixed`. As much of it is left as fits; none where `fixed` alone does not.

        Args:
          fixed: `[A]` weights that stay.
          rest: `[A]` what comes on top.
          forced: within the forced budgets, of positions alone; otherwise within the budgets.
        """
        if not forced and self.origin is not None:
            return jnp.ones_like(rest)
        bound = self.forced if forced else self.limit
        base, used = self._used(fixed), self._used(fixed + rest)
        over = used > bound
        left = jnp.maximum(jnp.where(over, bound - base, 0.0), 0.0) / jnp.where(
            over, jnp.maximum(used - base, ROUNDING), 1.0
        )
        factor = jnp.where(over, jnp.minimum(left, 1.0), 1.0)
        return jnp.where(self.member, factor[:, None], 1.0).min(axis=0)

    def relax(self, relaxed: jax.Array) -> GrossBudgets:
        """These budgets, or none where `relaxed` `[]`."""
        limit, forced = (jnp.where(relaxed, jnp.inf, x) for x in (self.limit, self.forced))
        return self.replace(limit=limit, forced=forced)

    def _used(self, weights: jax.Array) -> jax.Array:
        moved = weights if self.origin is None else weights - self.origin
        return jnp.where(self.member, jnp.abs(moved)[None], 0.0).sum(axis=-1)


class NetBudget(struct.PyTreeNode):
    """Bounds of the sum of weights.

    Attributes:
      low: `[]` <= 0.
      high: `[]` >= 0.
      forced_low: `[]` <= low; below it positions are scaled down to it. Minus infinity for never.
      forced_high: `[]` >= high; above it positions are scaled down to it. Infinity for never.
    """

    low: jax.Array
    high: jax.Array
    forced_low: jax.Array
    forced_high: jax.Array

    def room(self, weights: jax.Array, asset: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Smallest and largest weight of one asset that keeps the sum within its bounds, given the others.

        Args:
          weights: `[A]` of all assets, fractions of equity.
          asset: `[]` int32, which.
        """
        others = weights.sum() - weights[asset]
        return jnp.minimum(self.low - others, 0.0), jnp.maximum(self.high - others, 0.0)

    def share(self, fixed: jax.Array, rest: jax.Array, forced: bool) -> jax.Array:
        """Factor `[A]` of `GrossBudgets.share`: one for all assets, 1 where less would not help.

        Args:
          fixed: `[A]` weights that stay.
          rest: `[A]` what comes on top.
          forced: within the forced bounds.
        """
        low, high = (self.forced_low, self.forced_high) if forced else (self.low, self.high)
        base, more = fixed.sum(), rest.sum()
        net = base + more
        bound = jnp.clip(net, low, high)
        factor = jnp.clip((bound - base) / jnp.where(more == 0, 1.0, more), 0.0, 1.0)
        helps = (bound != net) & (more * (net - bound) > 0)
        return jnp.broadcast_to(jnp.where(helps, factor, 1.0), rest.shape)

    def relax(self, relaxed: jax.Array) -> NetBudget:
        """See `GrossBudgets.unless`."""
        low, forced_low = (jnp.where(relaxed, -jnp.inf, x) for x in (self.low, self.forced_low))
        high, forced_high = (jnp.where(relaxed, jnp.inf, x) for x in (self.high, self.forced_high))
        return NetBudget(low, high, forced_low, forced_high)


class QuadraticBudget(struct.PyTreeNode):
    """A bound of `w' C w`: the forecast variance of the portfolio, or its concentration.

    Attributes:
      matrix: `[A, A]` positive semidefinite: the covariance of returns, or the identity.
      limit: `[]` > 0.
      forced: `[]` >= limit beyond which positions are scaled down to it; infinity for never.
    """

    matrix: jax.Array
    limit: jax.Array
    forced: jax.Array

    def room(self, weights: jax.Array, asset: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Smallest and largest weight of one asset that keeps the budget: the roots of a quadratic in it.

        If the others alone are beyond the limit, weights that bring the variance down to its least are allowed.

        Args:
          weights: `[A]` of all assets, fractions of equity.
          asset: `[]` int32, which.
        """
        row = self.matrix[asset]
        own = jnp.maximum(row[asset], jnp.finfo(row.dtype).tiny)
        others = weights.at[asset].set(0.0)
        cross = matmul(row, others)
        rest = matmul(others, matmul(self.matrix, others))
        centre = -cross / own
        half = root(jnp.square(centre) + (self.limit - rest) / own)
        return jnp.minimum(centre - half, 0.0), jnp.maximum(centre + half, 0.0)

    def share(self, fixed: jax.Array, rest: jax.Array, forced: bool) -> jax.Array:
        """Factor `[A]` of `GrossBudgets.share`: the largest that is enough, or the one with the least `w' C w`.

        Args:
          fixed: `[A]` weights that stay.
          rest: `[A]` what comes on top.
          forced: within the forced budget.
        """
        own, cross = (matmul(weights, matmul(self.matrix, rest)) for weights in (rest, fixed))
        bound = self.forced if forced else self.limit
        bounded = jnp.isfinite(bound)
        excess = matmul(fixed, matmul(self.matrix, fixed)) - jnp.where(bounded, bound, 0.0)
        reach = root(jnp.square(cross) - own * excess)
        factor = jnp.clip(ratio(reach - cross, own, 1.0), 0.0, 1.0)
        beyond = bounded & (own + 2.0 * cross + excess > 0)
        return jnp.broadcast_to(jnp.where(beyond, factor, 1.0), rest.shape)

    def relax(self, relaxed: jax.Array) -> QuadraticBudget:
        """See `GrossBudgets.unless`."""
        limit, forced = (jnp.where(relaxed, jnp.inf, x) for x in (self.limit, self.forced))
        return self.replace(limit=limit, forced=forced)


class Limits(struct.PyTreeNode):
    """Limits of one account at one decision; combine with `intersection`.

    Attributes:
      low: `[A]` <= 0, largest short position that may be taken.
      high: `[A]` >= 0, largest long position that may be taken.
      forced_low: `[A]` <= low; a position below it is reduced to it. Minus infinity for never.
      forced_high: `[A]` >= high; a position above it is reduced to it. Infinity for never.
      budgets: shared by assets.
    """

    low: jax.Array
    high: jax.Array
    forced_low: jax.Array
    forced_high: jax.Array
    budgets: tuple[Any, ...] = ()


def relax(limits: Limits, relaxed: jax.Array) -> Limits:
    """Lifts limits on condition.

    Args:
      limits: of an account.
      relaxed: `[]` bool; everything is allowed where it is True.
    """
    low, forced_low = (jnp.where(relaxed, -jnp.inf, x) for x in (limits.low, limits.forced_low))
    high, forced_high = (jnp.where(relaxed, jnp.inf, x) for x in (limits.high, limits.forced_high))
    return Limits(low, high, forced_low, forced_high, tuple(budget.relax(relaxed) for budget in limits.budgets))


def no_limits(n_assets: int) -> Limits:
    """Limits that allow everything."""
    far = jnp.full((n_assets,), jnp.inf)
    return Limits(-far, far, -far, far)


def intersection(first: Limits, second: Limits) -> Limits:
    """Combines two limits: what both allow.

    Args:
      first: limits of an account.
      second: limits of the same account.
    """
    return Limits(
        low=jnp.maximum(first.low, second.low),
        high=jnp.minimum(first.high, second.high),
        forced_low=jnp.maximum(first.forced_low, second.forced_low),
        forced_high=jnp.minimum(first.forced_high, second.forced_high),
        budgets=first.budgets + second.budgets,
    )


def feasible_hold_of(limits: Limits, position: jax.Array, expected: jax.Array, tradable: jax.Array) -> jax.Array:
    """What holding leaves of each position, `[A]`: `expected` unless a limit says otherwise.

    Args:
      limits: at this decision.
      position: `[A]` weights now.
      expected: `[A]` weights once outstanding orders are filled.
      tradable: `[A]` bool; without a bar nothing can be ordered, and everything stays.
    """
    low, high = jnp.minimum(limits.low, position), jnp.maximum(limits.high, position)
    weights = jnp.clip(expected, jnp.minimum(low, 0.0), jnp.maximum(high, 0.0))
    weights = jnp.clip(weights, jnp.minimum(limits.forced_low, 0.0), jnp.maximum(limits.forced_high, 0.0))
    weights = jnp.where(tradable, weights, expected)
    # Those that scale single assets come first: what scales all alike afterwards keeps them.
    budgets = sorted(limits.budgets, key=lambda budget: not isinstance(budget, GrossBudgets))
    # What is on order is cut where it would go beyond a budget; the position itself, and reductions of it, stay.
    there = jnp.clip(weights, jnp.minimum(position, 0.0), jnp.maximum(position, 0.0))
    there = jnp.where(tradable, there, weights)
    ordered = weights - there
    for budget in budgets:
        ordered = ordered * budget.share(there, ordered, forced=False)
    weights = there + ordered
    fixed = jnp.where(tradable, 0.0, weights)
    movable = weights - fixed
    for budget in budgets:
        movable = movable * budget.share(fixed, movable, forced=True)
    return fixed + movable


class Constraint(struct.PyTreeNode):
    """What one account may do at one decision; build with `constrain`.

    Attributes:
      limits: the limits.
      feasible_hold: `[A]` what holding leaves of each position, see `feasible_hold_of`.
      tradable: `[A]` bool, assets with a bar at the decision.
      first: `[]` int32, the asset that is allocated first, see `sequential_allocation`.
      held: `[A]` target weight that holding stands for, where sizing makes it differ; None takes `feasible_hold`.
    """

    limits: Limits
    feasible_hold: jax.Array
    tradable: jax.Array
    first: jax.Array
    held: jax.Array | None = None

    @property
    def present(self) -> jax.Array:
        """`[A]` the targets that holding stands for."""
        return self.feasible_hold if self.held is None else self.held


def constrain(limits: Limits, portfolio: Portfolio, tradable: jax.Array, bar: jax.Array) -> Constraint:
    """Works out what limits allow an account at the close of a bar.

    Args:
      limits: of the account.
      portfolio: at that close.
      tradable: `[A]` bool, assets with a bar.
      bar: `[]` int32; the asset that is allocated first changes with it, so that none is always last.
    """
    feasible_hold = feasible_hold_of(limits, weights_of(portfolio), expected_weights(portfolio), tradable)
    return Constraint(limits, feasible_hold, tradable, bar % feasible_hold.shape[0])


def allowed_range(constraint: Constraint, weights: jax.Array, asset: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Smallest and largest target weight of one asset, `[]` each, given the weights of all `[A]`.

    The range always contains 0 and the weight that the asset has in `weights`; without a bar that weight alone.

    Args:
      constraint: of the account.
      weights: `[A]` of all assets, fractions of equity.
      asset: `[]` int32, which.
    """
    low, high = constraint.limits.low[asset], constraint.limits.high[asset]
    for budget in constraint.limits.budgets:
        least, most = budget.room(weights, asset)
        low, high = jnp.maximum(low, least), jnp.minimum(high, most)
    return _with_own(low, high, weights[asset], constraint.tradable[asset])


def allowed_box(constraint: Constraint) -> tuple[jax.Array, jax.Array]:
    """`allowed_range` of every asset while the others hold, `[A]` each."""
    limits, hold = constraint.limits, constraint.feasible_hold
    if not limits.budgets:
        return _with_own(limits.low, limits.high, hold, constraint.tradable)
    return jax.vmap(lambda asset: allowed_range(constraint, hold, asset))(jnp.arange(hold.shape[0]))


def _with_own(low: jax.Array, high: jax.Array, own: jax.Array, tradable: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Ranges widened to 0 and to an asset's own weight; without a bar that weight alone."""
    low = jnp.minimum(jnp.minimum(low, own), 0.0)
    high = jnp.maximum(jnp.maximum(high, own), 0.0)
    return jnp.where(tradable, low, own), jnp.where(tradable, high, own)


Pick = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, Any]]
"""`(asset, smallest weight, largest weight) -> (target weight, anything)`: the choice of one asset."""


def sequential_allocation(constraint: Constraint, pick: Pick) -> tuple[jax.Array, Any]:
    """Targets chosen so that all limits hold together.

    Assets choose one after the other, each within what the earlier choices leave of the shared budgets while the later
    ones still hold. Any combination of allowed choices therefore keeps the budgets, unless holding already exceeds
    them or the reduction of a hedge does. Without budgets turns do not matter, and all choose at once.

    Args:
      constraint: of one account.
      pick: the choice of one asset.

    Returns:
      Target weights `[A]` and what `pick` returned beside them, `[A, ...]`.
    """
    n_assets = constraint.feasible_hold.shape[0]
    assets = jnp.arange(n_assets)
    if not constraint.limits.budgets:
        return jax.vmap(pick)(assets, *allowed_box(constraint))

    def turn(weights: jax.Array, asset: jax.Array) -> tuple[jax.Array, Any]:
        chosen, other = pick(asset, *allowed_range(constraint, weights, asset))
        return weights.at[asset].set(chosen), other

    order = (assets + constraint.first) % n_assets
    weights, others = jax.lax.scan(turn, constraint.feasible_hold, order)
    return weights, jax.tree.map(lambda x: x[(assets - constraint.first) % n_assets], others)


def project(constraint: Constraint, target: jax.Array, hold: jax.Array) -> jax.Array:
    """The nearest allowed targets `[A]` of any others: what is executed, whoever decides.

    Args:
      constraint: of one account.
      target: `[A]` wanted weights.
      hold: `[A]` bool; the asset is to be held, whatever its target.
    """

    if not constraint.limits.budgets:
        return jnp.where(hold, constraint.feasible_hold, jnp.clip(target, *allowed_box(constraint)))

    def pick(asset: jax.Array, low: jax.Array, high: jax.Array) -> tuple[jax.Array, None]:
        return jnp.where(hold[asset], constraint.feasible_hold[asset], jnp.clip(target[asset], low, high)), None

    return sequential_allocation(constraint, pick)[0]
