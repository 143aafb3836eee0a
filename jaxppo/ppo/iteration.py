"""One training iteration: rollout, targets and update of PPO, or the pathwise step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxppo.config import PathwiseConfig, PPOConfig
from jaxppo.policy.networks.actor_critic import Params
from jaxppo.policy.rollout import DATA_AXIS, Rollout
from jaxppo.ppo import losses, pathwise, phasic
from jaxppo.ppo.targets import ValueStatistics, make_targets, preserve_outputs
from jaxppo.ppo.task import Task
from jaxppo.ppo.update import Batch, Coefficients, Objective, update
from jaxppo.risk.shaping import RewardShaping

INTEGRAL_GAIN = 0.3
"""Gain of the integral rule of the KL coefficient, per iteration."""


class TrainState(struct.PyTreeNode):
    """State that training carries from one iteration to the next; saved and restored whole.

    Attributes:
      params: network parameters, replicated.
      opt_state: optimiser state, replicated.
      paths: `[P]` states of the task, sharded over `data`.
      values: scale of the critic's values, replicated.
      kl_coefficient: `[]` weight of the KL penalty.
      iteration: `[]` int32; keys are folded from (seed, iteration), so a resumed run draws the same numbers.
      seed: `[]` uint32.
      risk: state of reward shaping, such as multipliers, replicated; empty without.
      accounts: `[P, K]` reward shaping's accounts of running episodes, sharded over `data`; empty without.
      start: parameters that PPO started from after the pathwise learner, replicated; empty without.
    """

    params: Params
    opt_state: optax.OptState
    paths: Any
    values: ValueStatistics
    kl_coefficient: jax.Array
    iteration: jax.Array
    seed: jax.Array
    risk: Any = ()
    accounts: Any = ()
    start: Any = ()


Iteration = Callable[[TrainState, Any, jax.Array], tuple[TrainState, dict[str, jax.Array]]]
"""`(state, env_params, progress) -> (state, metrics)`."""


class Design(NamedTuple):
    """Static choices that the parts of an iteration share.

    Attributes:
      task: what is learned.
      config: hyper-parameters.
      risk: objective and constraints; None without.
      optimiser: gradient to direction.
      n_devices: that the paths are spread over.
      n_groups: shuffle groups on each device.
      pathwise: keys of the pathwise learner; None for PPO alone.
    """

    task: Task
    config: PPOConfig
    risk: RewardShaping | None
    optimiser: optax.GradientTransformation
    n_devices: int
    n_groups: int
    pathwise: PathwiseConfig | None = None


@jax.named_scope("rollout")
def collect(design: Design, state: TrainState, params: Any, progress: jax.Array) -> tuple[Any, Rollout]:
    """Rollout of this device's paths."""
    keys = _keys_of_paths(design, _iteration_keys(state)[0])
    return design.task.collect(state.params, params, state.paths, keys, progress)


def learn(
    design: Design, state: TrainState, paths: Any, rollout: Rollout, params: Any, progress: jax.Array
) -> tuple[TrainState, dict[str, jax.Array]]:
    """State and metrics after the update on this device's rollout.

    Args:
      design: static choices.
      state: before the iteration.
      paths: states of the task where the rollout ended.
      rollout: of this device's paths.
      params: of the environment.
      progress: `[]` spent share of the budget.
    """
    task, config, risk = design.task, design.config, design.risk
    reported, risk_state, accounts = task.metrics(rollout), state.risk, state.accounts
    risk_metrics: dict[str, jax.Array] = {}
    if risk is not None:
        rollout, risk_state, accounts, risk_metrics = risk.apply(risk_state, accounts, rollout)
    net, values, batch, target_metrics = _with_targets(design, state, rollout)
    coefficients = _coefficients(config, progress, state.kl_coefficient)
    objective = Objective(task, params, coefficients, config, _start_of_ppo(design, state))
    groups, key_shuffle = _groups(design), _iteration_keys(state)[1]
    opt_state = state.opt_state if design.pathwise is None else state.opt_state["ppo"]
    net, opt_state, metrics = update(net, opt_state, design.optimiser, batch, objective, key_shuffle, groups)
    new = state.replace(
        params=net,
        opt_state=opt_state if design.pathwise is None else {**state.opt_state, "ppo": opt_state},
        paths=paths,
        values=values,
        kl_coefficient=_next_coefficient(config, state.kl_coefficient, metrics),
        iteration=state.iteration + 1,
        risk=risk_state,
        accounts=accounts,
    )
    weights = {"learning_rate": coefficients.learning_rate, "entropy_coefficient": coefficients.entropy}
    if config.kl_penalty != "none":
        weights["kl_coefficient"] = coefficients.kl
    return new, {**metrics, **target_metrics, **reported, **weights, **risk_metrics}


def ascend(
    design: Design, state: TrainState, params: Any, progress: jax.Array
) -> tuple[TrainState, dict[str, jax.Array]]:
    """State and metrics after a step along the gradient through this device's paths, and a fit of the critic.

    Args:
      design: static choices, the keys of the pathwise learner among them.
      state: before the iteration.
      params: of the environment.
      progress: `[]` spent share of the budget.
    """
    task, config, risk, keys = design.task, design.config, design.risk, _iteration_keys(state)
    unroll_task, keys_of = task.unroll, design.pathwise
    assert unroll_task is not None, "`make_learner` asks for it"
    assert keys_of is not None, "it is called for this learner alone"

    @jax.named_scope("rollout")
    def unroll(net: Params) -> tuple[Rollout, Any]:
        of_paths = _keys_of_paths(design, keys[0])
        paths, rollout = unroll_task(net, params, state.paths, of_paths, progress, bool(keys_of.explore))
        reported = task.metrics(jax.lax.stop_gradient(rollout))
        shaped: Any = (state.risk, state.accounts, {})
        if risk is not None:
            rollout, *shaped = risk.apply(state.risk, state.accounts, rollout)
        return rollout, (paths, reported, shaped)

    gradient, earned = pathwise.ascent(state.params, unroll, state.values, config, keys_of)
    paths, reported, (risk_state, accounts, risk_metrics) = earned.extra
    coefficients = _coefficients(config, progress, state.kl_coefficient)
    loss, norm = -jax.lax.pmean(earned.gain, DATA_AXIS), optax.tree.norm(gradient)
    actor, rate = state.opt_state["actor"], coefficients.learning_rate
    net, actor, taken = pathwise.descend(state.params, actor, design.optimiser, gradient, rate, loss)
    net, values, batch, target_metrics = _with_targets(design, state.replace(params=net), earned.rollout)
    objective = Objective(task, params, coefficients, config)
    fitted = (net, state.opt_state["critic"], design.optimiser, batch, objective)
    net, critic, metrics = pathwise.fit_critic(*fitted, keys[1], _groups(design))
    skipped = metrics.pop("skipped_updates") + 1.0 - taken
    new = state.replace(
        params=net,
        opt_state={**state.opt_state, "actor": actor, "critic": critic},
        paths=paths,
        values=values,
        iteration=state.iteration + 1,
        risk=risk_state,
        accounts=accounts,
        start=net if keys_of.then == "ppo" else (),
    )
    moved = optax.tree.norm(jax.tree.map(jnp.subtract, net, state.params))
    metrics |= {"loss": loss, "gradient_norm": norm, "update_norm": moved, "skipped_updates": skipped}
    return new, {**metrics, **target_metrics, **reported, "learning_rate": rate, **risk_metrics}


def first_moments(design: Design, net: Params) -> Any:
    """State of the optimiser before the first iteration; of the optimisers, for the pathwise learner."""
    if design.pathwise is None:
        return phasic.first_moments(design.optimiser, net, design.config)
    critic = pathwise.parts_of(net, design.task.critic_layers)
    of_all = {"actor": net, "critic": critic} | ({"ppo": net} if design.pathwise.then == "ppo" else {})
    return {name: design.optimiser.init(part) for name, part in of_all.items()}


def _start_of_ppo(design: Design, state: TrainState) -> tuple[Params, float] | None:
    """Parameters that PPO started from, and the weight of the divergence from their policy; None without."""
    return None if design.pathwise is None else (state.start, design.pathwise.then_kl)


@jax.named_scope("targets")
def _with_targets(
    design: Design, state: TrainState, rollout: Rollout
) -> tuple[Params, ValueStatistics, Batch, dict[str, jax.Array]]:
    """Parameters whose values have the unit of the new targets, that unit, the paths with targets, and metrics."""
    targets, values, metrics = make_targets(rollout, design.config, state.values)
    net = state.params
    if design.config.value_normalisation == "popart":
        # The outputs of the first network mean nothing: they are only kept from exceeding the targets' spread.
        small = values.replace(mean=jnp.zeros(()), variance=jnp.maximum(values.variance, 1.0))
        units = jax.tree.map(lambda a, b: jnp.where(state.values.weight > 0, a, b), values, small)
        net = preserve_outputs(net, design.task.value_layer, state.values, units)
    return net, values, Batch(rollout, targets), metrics


def _groups(design: Design) -> jax.Array:
    """Global indices of this device's shuffle groups."""
    return jax.lax.axis_index(DATA_AXIS) * design.n_groups + jnp.arange(design.n_groups)


def _keys_of_paths(design: Design, key: jax.Array) -> jax.Array:
    """One key for each path of this device."""
    shard, n_local = jax.lax.axis_index(DATA_AXIS), design.config.paths // design.n_devices
    return path_keys(key, shard * n_local + jnp.arange(n_local))


def _iteration_keys(state: TrainState) -> jax.Array:
    """Keys `[2]` of an iteration: of the rollout and of the shuffles."""
    return jax.random.split(iteration_key(state.seed, state.iteration))


def iteration_key(seed: int | jax.Array, iteration: int | jax.Array) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed), iteration)


def path_keys(key: jax.Array, path: jax.Array) -> jax.Array:
    """One key per global path index, so that results do not depend on how paths are spread over devices."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, path)


def _coefficients(config: PPOConfig, progress: jax.Array, kl: jax.Array) -> Coefficients:
    """Step size and weights of the loss after a share `progress` of the budget."""
    entropy = config.entropy_final + (config.entropy_coefficient - config.entropy_final) * schedule_left(
        config.entropy_schedule, progress
    )
    return Coefficients(config.learning_rate * schedule_left(config.schedule, progress), entropy, kl)


def schedule_left(schedule: str, progress: jax.Array) -> jax.Array:
    """Value `[]` of a schedule that starts at 1.

    Args:
      schedule: "constant", or "linear" or "cosine" to 0.
      progress: `[]` spent share of the budget, >= 0.
    """
    left = jnp.clip(1.0 - progress, 0.0, 1.0)
    return {"constant": jnp.ones_like(left), "linear": left, "cosine": 0.5 * (1.0 - jnp.cos(jnp.pi * left))}[schedule]


def _next_coefficient(config: PPOConfig, coefficient: jax.Array, metrics: dict[str, jax.Array]) -> jax.Array:
    """The KL coefficient of the next iteration."""
    if config.kl_penalty == "doubling":
        return losses.doubled_or_halved(coefficient, metrics["kl_after"], config.kl_target)
    if config.kl_penalty == "integral":
        return losses.log_integral(coefficient, metrics["kl_after"], config.kl_target, INTEGRAL_GAIN)
    return coefficient
