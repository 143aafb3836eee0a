"""Reward shaping: what an objective and constraints make of the rewards of a rollout, before its targets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.arguments import PositiveFraction, PositiveInt, checked
from jaxppo.policy.rollout import Rollout
from jaxppo.risk import batch, lagrangian
from jaxppo.risk.batch import Average
from jaxppo.risk.constraints import Constraint, Traded
from jaxppo.risk.episodes import Account, Sample, follow, open_account, restart, sample_of
from jaxppo.risk.lagrangian import Gains, Multiplier
from jaxppo.risk.objectives import EpisodeUtility

Outcome = Literal["reward", "log", "simple"]
SCALE_RATE = 0.05
"""Weight of an iteration in the scale of the multipliers."""
SLACK = 0.02
"""A limit counts as held up to this relative violation."""
SMALLEST_SCALE = 1e-12


class PenalisedConstraint(NamedTuple):
    """A constraint with a learned multiplier.

    Attributes:
      constraint: what is limited.
      gains: gains of the PID rule of its multiplier.
      patience: measurements in a row at the maximum, with the limit not held, until it is reported as infeasible.
    """

    constraint: Constraint
    gains: Gains = Gains()
    patience: PositiveInt = 20


class ShapingState(struct.PyTreeNode):
    """State of the shaping, learned beside the policy; the same on every device.

    Attributes:
      threshold: threshold of the utility.
      scale: variance of the mean reward of a portfolio over a rollout: the unit of the multipliers.
      multipliers: one per constraint.
      stuck: `[]` int32 per constraint, measurements in a row with the multiplier at its maximum and the limit not held.
    """

    threshold: Average
    scale: Average
    multipliers: tuple[Multiplier, ...]
    stuck: tuple[jax.Array, ...]


class RewardShaping(NamedTuple):
    """Reward shaping as pure functions, which the learner calls in every iteration.

    Attributes:
      start: `(n_paths, n_portfolios) -> (state, accounts [P, K])` before the first iteration.
      apply: `(state, accounts, rollout) -> (rollout with another reward, state, accounts, metrics)`, under `shard_map`.
      restart: `accounts -> accounts`, of paths whose episodes begin anew.
    """

    start: Callable[[int, int], tuple[ShapingState, Account]]
    apply: Callable[[ShapingState, Account, Rollout], tuple[Rollout, ShapingState, Account, dict[str, jax.Array]]]
    restart: Callable[[Account], Account]


@checked
def shape_rewards(
    utility: EpisodeUtility | None = None,
    constraints: Sequence[PenalisedConstraint] = (),
    *,
    outcome: Outcome = "reward",
    rate: PositiveFraction = 0.1,
) -> RewardShaping:
    """Turns rewards into those of an objective under constraints.

    The reward of a bar becomes `(r - s sum_i lambda_i g_i) / (1 + sum_i lambda_i)`: r is the increment of the utility
    of the episode's return, g_i the relative excess of the bar beyond limit i (`jaxppo.risk.constraints`; a share of
    the measurement where that is above the limit, so that a limit far out of reach does not drown the rest), lambda_i
    its multiplier (`jaxppo.risk.lagrangian`), and the unit s of the multipliers the standard deviation, over
    portfolios, of the mean r of a rollout. Multipliers have seen the rollout that they are applied to.

    Args:
      utility: utility of the return of an episode; None leaves the reward as it is. With a utility episodes end where
        they are truncated, because nothing that comes after counts.
      constraints: limits with distinct names; they read `Rollout.info` of trading.
      outcome: the return of an episode: the sum of its rewards, its log growth, or its simple return. The last two read
        `Rollout.info` of trading.
      rate: weight of an iteration in the learned threshold.

    Raises:
      ValueError: two constraints of one name, or a gain outside its range.

    References:
      Tessler, Mankowitz & Mannor, "Reward constrained policy optimization", ICLR 2019, eq. 8.
      Stooke, Achiam & Abbeel, "Responsive safety in reinforcement learning by PID Lagrangian methods", ICML 2020.
    """
    names = [penalised.constraint.name for penalised in constraints]
    if len(set(names)) != len(names):
        raise ValueError(f"constraints are {names}; each can be given once")
    unmeasured = tuple(lagrangian.start(penalised.gains) for penalised in constraints)

    def start(n_paths: int, n_portfolios: int) -> tuple[ShapingState, Account]:
        account = jax.tree.map(lambda x: jnp.broadcast_to(x, (n_paths, n_portfolios)), open_account())
        multipliers = jax.tree.map(jnp.copy, unmeasured)
        stuck = tuple(jnp.zeros((), jnp.int32) for _ in constraints)
        return ShapingState(batch.no_average(), batch.no_average(), multipliers, stuck), account

    def apply(
        state: ShapingState, accounts: Account, rollout: Rollout
    ) -> tuple[Rollout, ShapingState, Account, dict[str, jax.Array]]:
        ended, info = rollout.terminated | rollout.truncated, rollout.info
        gain = rollout.reward if outcome == "reward" else info["log_growth"]
        drawdown = info.get("drawdown", jnp.zeros_like(gain))
        over_portfolios = jax.vmap(follow, in_axes=(0, 1, 1, 1), out_axes=(0, 1, 1))
        accounts, before, after = jax.vmap(over_portfolios)(accounts, ended, gain, drawdown)
        finished = sample_of(accounts, ended, after)
        reward = rollout.reward
        metrics: dict[str, jax.Array] = {}
        if utility is not None:
            gains = [before.gain, after.gain, finished.episode.gain]
            if outcome == "simple":
                gains = [jnp.expm1(x) for x in gains]
            reward, threshold, metrics = _objective(utility, state.threshold, gains, finished, rate)
            state = dataclasses.replace(state, threshold=threshold)
            rollout = rollout.replace(terminated=ended, truncated=jnp.zeros_like(ended))
        if constraints:
            columns = (jnp.expm1(info["log_growth"]), info["leverage"], info["turnover"])
            traded = Traded(*columns, before, after, finished)
            reward, state, measured = _penalise(constraints, state, reward, traded)
            metrics |= measured
        return rollout.replace(reward=reward), state, accounts, metrics

    return RewardShaping(start, apply, restart)


def _objective(
    utility: EpisodeUtility,
    threshold: Average,
    gains: Sequence[jax.Array],
    finished: Sample,
    rate: float,
) -> tuple[jax.Array, Average, dict[str, jax.Array]]:
    """Computes increments of the utility `[P, S, K]`, the threshold, and metrics.

    `gains` are the returns before and after each bar, and those of finished episodes.
    """
    before, after, returns = gains
    metrics = {"objective_return": batch.mean(returns, finished.counted)}
    if utility.learn is not None:
        learned = utility.learn(jax.lax.stop_gradient(returns), finished.counted)
        threshold = threshold.include(learned, rate, finished.known)
        metrics["objective_threshold"] = threshold.value
    utilities = utility.utility(returns, threshold.value)
    metrics["objective_value"] = batch.mean(utilities, finished.counted)
    increments = utility.utility(after, threshold.value) - utility.utility(before, threshold.value)
    return increments, threshold, metrics


def _penalise(
    constraints: Sequence[PenalisedConstraint], state: ShapingState, reward: jax.Array, traded: Traded
) -> tuple[jax.Array, ShapingState, dict[str, jax.Array]]:
    """Subtracts the penalties of the bars from the reward, and moves the multipliers by what the batch measured."""
    # What is measured is constant to a gradient through the accounts: only rewards and excesses are theirs.
    fixed = jax.lax.stop_gradient(traded)
    spread = batch.spread_of_means(jax.lax.stop_gradient(reward))
    scale = state.scale.include(spread, SCALE_RATE, jnp.ones((), bool))
    unit = jnp.sqrt(jnp.maximum(scale.value, SMALLEST_SCALE**2))
    multipliers, stuck = [], []
    metrics: dict[str, jax.Array] = {}
    total, weight = reward, jnp.ones(())
    for (constraint, gains, patience), before, times in zip(constraints, state.multipliers, state.stuck, strict=True):
        measured = constraint.measure(fixed)
        violation = measured / constraint.limit - 1.0
        fresh = traded.finished.fresh if constraint.episodic else jnp.ones((), bool)
        moved = lagrangian.follow(gains, before, violation)
        after = jax.tree.map(lambda new, old, fresh=fresh: jnp.where(fresh, new, old), moved, before)
        unmet = (after.value >= gains.maximum) & (violation > SLACK)
        times = jnp.where(unmet, times + fresh, 0)
        # A limit far out of reach would drown the reward and the other limits.
        excess = constraint.excess(traded) / jnp.maximum(measured / constraint.limit, 1.0)
        total = total - unit * after.value * excess
        weight = weight + after.value
        multipliers.append(after)
        stuck.append(times)
        metrics |= {
            f"constraint_{constraint.name}": measured,
            f"multiplier_{constraint.name}": after.value,
            f"constraint_{constraint.name}_infeasible": (times >= patience).astype(jnp.float32),
        }
    state = dataclasses.replace(state, scale=scale, multipliers=tuple(multipliers), stuck=tuple(stuck))
    # Divided by the weights, so that the scale of the reward does not grow with the multipliers.
    return total / weight, state, metrics
