"""What an action means: target weights, or to hold; and which actions the limits of an account leave."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from gymnax.environments import spaces

from jaxppo.envs.execution.limits import ROUNDING, Constraint, allowed_box
from jaxppo.envs.execution.portfolio import Portfolio, expected_weights
from jaxppo.envs.market.precision import matmul
from jaxppo.envs.trading.spaces import MultiDiscrete

HOLD = 0
ACTIONS = ("discrete", "continuous", "band", "hierarchical")


class TargetActions:
    """The four kinds of actions of `envs.TradingEnv`; static choices, pure methods, written for one account.

    Args:
      n_assets: A.
      actions: "discrete", "continuous", "band" or "hierarchical"; see `envs.TradingEnv`.
      levels: target levels in units of `position_limit`, see there.
      gross_buckets: of hierarchical actions, see there.
      position_limit: largest absolute target weight per asset; None for `1 / A`.

    Raises:
      ValueError: an argument outside its range.
    """

    def __init__(
        self,
        n_assets: int,
        actions: str,
        levels: tuple[float, ...],
        gross_buckets: tuple[float, ...],
        position_limit: float | None,
    ):
        if list(levels) != sorted(set(levels)) or not all(-1 <= level <= 1 for level in levels):
            raise ValueError(f"levels {tuple(levels)} must be increasing, distinct and within [-1, 1]")
        if actions != "discrete" and len(levels) < 2:
            raise ValueError(f"levels {tuple(levels)} must span a range for {actions} actions")
        if actions == "hierarchical" and not (0.0 in levels and len(levels) > 1):
            raise ValueError(f"levels {tuple(levels)} must hold 0 and another for hierarchical actions")
        increasing = list(gross_buckets) == sorted(set(gross_buckets))
        if not increasing or not all(0 < share <= 1 for share in gross_buckets):
            raise ValueError(f"gross_buckets {tuple(gross_buckets)} must be increasing, distinct and within (0, 1]")
        self.n_assets = n_assets
        self.actions = actions
        self.levels = tuple(float(level) for level in levels)
        self.gross_buckets = tuple(float(share) for share in gross_buckets)
        self.position_limit = 1.0 / n_assets if position_limit is None else float(position_limit)

    @property
    def num_actions(self) -> int:
        """Choices per asset: hold, then one per level. For continuous actions, their numbers: one or two per asset."""
        return {"continuous": self.n_assets, "band": 2 * self.n_assets}.get(self.actions, 1 + len(self.levels))

    @property
    def num_buckets(self) -> int:
        """Choices for the portfolio in hierarchical actions: risk off, then one per gross bucket."""
        return 1 + len(self.gross_buckets)

    def decode(
        self, action: jax.Array, portfolio: Portfolio, constraint: Constraint | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Target weights `[A]` and hold flags `[A]` of an action.

        Args:
          action: see the class docstring; a band's edges may also come flat, `[2 A]`, those of an asset side by side.
          portfolio: at the close of the decision bar; a band and a bucket count its outstanding orders as filled.
          constraint: what the account may do; what holding stands for is then what a band holds and a bucket cuts.
        """
        if self.actions == "hierarchical":
            feasible_hold = expected_weights(portfolio) if constraint is None else constraint.present
            weights = jax.vmap(self.bucket_targets)(feasible_hold)[jnp.arange(self.n_assets), action[0], action[1:]]
            return weights, (action[0] == self.num_buckets - 1) & (action[1:] == HOLD)
        if self.actions != "discrete":
            present = expected_weights(portfolio) if constraint is None else constraint.present
            edges = jnp.reshape(action, (self.n_assets, -1)) * self.position_limit
            low: Any = self.levels[0] * self.position_limit
            high: Any = self.levels[-1] * self.position_limit
            if constraint is not None:
                # A position that prices carried beyond the levels may stay.
                low, high = (x[:, None] for x in (jnp.minimum(low, present), jnp.maximum(high, present)))
            edges = jnp.clip(edges, low, high)
            if self.actions == "continuous":
                return edges[:, 0], jnp.zeros(present.shape, bool)
            target = jnp.clip(present, edges.min(axis=-1), edges.max(axis=-1))
            return target, target == present
        weights = jnp.asarray((0.0, *self.levels), jnp.float32) * self.position_limit
        action = jnp.reshape(action, (self.n_assets,))
        chosen = jnp.arange(self.num_actions)[None] == action[:, None]
        return jnp.where(chosen, weights[None], 0.0).sum(axis=-1), action == HOLD

    def bucket_targets(self, feasible_hold: jax.Array | float) -> jax.Array:
        """Target weights `[num_buckets, num_actions]` of the hierarchical actions of one asset.

        Holding keeps `feasible_hold` `[]`, cut in all buckets but the last to the largest position of the bucket.
        """
        share = jnp.asarray((0.0, *self.gross_buckets), jnp.float32)[:, None] * self.position_limit
        cap = share.at[-1].set(jnp.inf)
        return jnp.concatenate(
            [jnp.clip(feasible_hold, -cap, cap), share * jnp.asarray((self.levels,), jnp.float32)], axis=-1
        )

    def target_of(self, action: jax.Array, feasible_hold: jax.Array) -> jax.Array:
        """Target weight `[]` of the action of one asset, of which holding leaves `feasible_hold` `[]`.

        Args:
          action: `[1]`, or `[2]` for a band (its edges) and hierarchical actions (the bucket, then the asset's action).
          feasible_hold: `[]` weight that holding leaves.
        """
        if self.actions == "hierarchical":
            return self.bucket_targets(feasible_hold)[action[0], action[1]]
        if self.actions == "discrete":
            weights = jnp.asarray((0.0, *self.levels), jnp.float32) * self.position_limit
            return jnp.where(action[0] == HOLD, feasible_hold, weights[action[0]])
        weights = action * self.position_limit
        return weights[0] if self.actions == "continuous" else jnp.clip(feasible_hold, weights.min(), weights.max())

    def expected_target(
        self, probabilities: jax.Array, portfolio: Portfolio, constraint: Constraint | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Mean target weights `[A]` of random discrete or hierarchical actions, and hold flags `[A]`.

        Holding counts as the present weight with outstanding orders filled, so a policy that mostly holds moves part of
        the way to its target. An asset that can only be held is held.

        Args:
          probabilities: `[A, num_actions]`, or `[A, num_buckets, num_actions]` of bucket and own action together.
          portfolio: at the close of the decision bar.
          constraint: what the account may do; what holding stands for then counts as the present weight.
        """
        present = expected_weights(portfolio) if constraint is None else constraint.present
        if self.actions == "hierarchical":
            mean = jnp.sum(probabilities * jax.vmap(self.bucket_targets)(present), axis=(-2, -1))
            return mean, probabilities[:, -1, HOLD] == 1.0
        levels = jnp.asarray(self.levels, jnp.float32) * self.position_limit
        moved = matmul(probabilities[:, HOLD + 1 :], levels)
        return probabilities[:, HOLD] * present + moved, probabilities[:, HOLD] == 1.0

    def action_mask(self, tradable: jax.Array, constraint: Constraint | None = None) -> jax.Array:
        """Allowed actions, see `Observation.mask`: an asset without a bar at t can only be held.

        Under shared budgets: what each asset may do while the others hold.

        Args:
          tradable: `[A]` bool at the close of t.
          constraint: what the account may do; None for everything.
        """
        if constraint is None:
            if self.actions == "discrete":
                shape = (*tradable.shape, self.num_actions)
                hold = jnp.broadcast_to(jnp.arange(self.num_actions) == HOLD, shape)
                return jnp.broadcast_to(tradable[..., None], shape) | hold
            if self.actions == "hierarchical":
                return jax.vmap(lambda there: self.feasible_actions(-jnp.inf, jnp.inf, 0.0, there))(tradable)
            return jnp.broadcast_to(jnp.asarray((self.levels[0], self.levels[-1])), (*tradable.shape, 2))
        low, high = allowed_box(constraint)
        return jax.vmap(self.feasible_actions)(low, high, constraint.feasible_hold, tradable)

    def feasible_actions(
        self, low: jax.Array | float, high: jax.Array | float, feasible_hold: jax.Array | float, tradable: jax.Array
    ) -> jax.Array:
        """Allowed actions of one asset whose target weight must lie in `[low, high]`: a row of `Observation.mask`.

        Where all that is allowed comes to holding, holding alone is: there is nothing to choose.

        Args:
          low, high: `[]`.
          feasible_hold: `[]` what holding leaves of its position; always allowed.
          tradable: `[]` bool.
        """
        if self.actions == "hierarchical":
            targets = self.bucket_targets(feasible_hold)
            inside = (targets >= low - ROUNDING) & (targets <= high + ROUNDING) & tradable
            elsewhere = jnp.abs(targets - targets[:, HOLD, None]) > ROUNDING
            inside &= jnp.any(inside & elsewhere, axis=-1, keepdims=True)
            return inside.at[:, HOLD].set(True)
        if self.actions == "discrete":
            weights = jnp.asarray(self.levels, jnp.float32) * self.position_limit
            inside = (weights >= low - ROUNDING) & (weights <= high + ROUNDING) & tradable
            inside &= jnp.any(inside & (jnp.abs(weights - feasible_hold) > ROUNDING))
            return jnp.concatenate([jnp.ones(1, bool), inside])
        present = feasible_hold / self.position_limit
        least = jnp.minimum(jnp.maximum(low / self.position_limit, self.levels[0]), present)
        most = jnp.maximum(jnp.minimum(high / self.position_limit, self.levels[-1]), present)
        return jnp.stack([least, most])

    def action_space(self, params: Any = None) -> spaces.Space:
        """See the class docstring."""
        del params
        if self.actions == "hierarchical":
            return MultiDiscrete((self.num_buckets,) + (self.num_actions,) * self.n_assets)
        if self.actions != "discrete":
            shape = (self.n_assets,) if self.actions == "continuous" else (self.n_assets, 2)
            return spaces.Box(self.levels[0], self.levels[-1], shape, jnp.float32)
        if self.n_assets == 1:
            return spaces.Discrete(self.num_actions)
        return MultiDiscrete((self.num_actions,) * self.n_assets)
