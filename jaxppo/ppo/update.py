"""Update of one iteration: epochs of minibatches, or a natural-gradient step, within a trust region."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxppo.config import PPOConfig
from jaxppo.envs.market.packing import Packed, pack, pack_parts, unpack, unpack_parts
from jaxppo.policy.networks.actor_critic import Params
from jaxppo.policy.rollout import DATA_AXIS, Rollout
from jaxppo.ppo import losses
from jaxppo.ppo.phasic import HEAD, head_alone, is_phasic
from jaxppo.ppo.reduction import EXTREMES, EXTREMES_OF_NOTHING, accumulate, over_devices, varying
from jaxppo.ppo.targets import Targets
from jaxppo.ppo.task import Task
from jaxppo.ppo.trust_region import line_search, natural_step

DECISIVE = ("loss", "kl")
"""Metrics that decide whether a step is taken: every device needs them at once, the others once an iteration."""
RATIO_BOUND = 0.2
"""Ratios beyond `1 +- RATIO_BOUND` count as clipped in the metrics of a surrogate without clip."""


class Coefficients(struct.PyTreeNode):
    """Coefficients of the loss that change from one iteration to the next.

    Attributes:
      learning_rate: `[]` Adam step size.
      entropy: `[]` weight of the entropy bonus.
      kl: `[]` weight of the KL penalty; ignored without one.
    """

    learning_rate: jax.Array
    entropy: jax.Array
    kl: jax.Array


class Batch(struct.PyTreeNode):
    """Paths and the targets of their losses; leading axis P.

    Attributes:
      rollout: of the paths.
      targets: of their decisions.
    """

    rollout: Rollout
    targets: Targets


class Objective(NamedTuple):
    """Objective of an iteration: all that the losses depend on beside the network and the paths.

    Attributes:
      task: the problem.
      params: parameters of its environment.
      coefficients: step size and weights of the terms.
      config: hyper-parameters.
      start: parameters that PPO started from, and the weight of KL(policy || theirs); None for no such penalty.
    """

    task: Task
    params: Any
    coefficients: Coefficients
    config: PPOConfig
    start: tuple[Params, float] | None = None


def policy_loss(distribution: Any, batch: Batch, objective: Objective) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Policy loss of a batch: surrogate, entropy bonus and KL penalties; the mean over this device's paths.

    Args:
      distribution: `[P, S, K]` of the present network.
      batch: paths.
      objective: what is minimised.

    Returns:
      The loss `[]`, and the metrics to report, `[]` each.
    """
    config, coefficients = objective.config, objective.coefficients
    log_ratio = distribution.log_prob(batch.rollout.action) - batch.rollout.log_prob
    surrogate = losses.surrogate(log_ratio, batch.targets.advantage, config.clip, config.dual_clip).mean()
    entropy, kl = distribution.entropy().mean(), batch.rollout.behaviour.kl(distribution).mean()
    loss = surrogate - coefficients.entropy * distribution.entropy_bonus().mean()
    if config.kl_penalty != "none":
        loss = loss + coefficients.kl * kl
    to_start = {}
    if objective.start is not None:
        net, weight = objective.start
        before, _ = objective.task.predict(net, objective.params, batch.rollout)
        to_start["kl_to_start"] = distribution.kl(before).mean()
        loss = loss + weight * to_start["kl_to_start"]
    fixed = jax.lax.stop_gradient(log_ratio)
    ratio = jnp.exp(fixed)
    return loss, {
        "policy_loss": surrogate,
        "entropy": entropy,
        "kl": kl,
        "kl_k3": losses.kl_estimate(fixed).mean(),
        "clip_fraction": losses.clipped_fraction(fixed, RATIO_BOUND if config.clip is None else config.clip).mean(),
        "ratio_mean": ratio.mean(),
        "ratio_square": jnp.square(ratio).mean(),
        "ratio_max": ratio.max(),
        "ratio_min": ratio.min(),
        **to_start,
    }


def value_loss(value: jax.Array, targets: Targets, config: PPOConfig) -> jax.Array:
    """Value loss of a batch, network units; the mean over this device's paths.

    Args:
      value: `[P, S, K]`, or `[P, S, K, N]` quantiles, of the present network.
      targets: of the same decisions.
      config: kind of the loss.
    """
    if value.ndim > targets.advantage.ndim:
        error = losses.quantile_value_error(value, targets.value, config.quantile_kappa)
    elif config.value_loss == "clipped":
        error = losses.clipped_value_error(value, targets.value, targets.old_value, config.value_clip)
    elif config.value_loss == "huber":
        error = losses.huber_value_error(value, targets.value, config.huber_delta)
    else:
        error = losses.squared_value_error(value, targets.value)
    return error.mean()


def ppo_loss(
    net: Params, batch: Batch, objective: Objective, with_policy: bool = True
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss of a minibatch of paths and the metrics to report; the means over this device's paths.

    Args:
      net: parameters.
      batch: paths.
      objective: what is minimised.
      with_policy: False leaves the value loss alone.
    """
    distribution, value = objective.task.predict(net, objective.params, batch.rollout)
    actor, metrics = policy_loss(distribution, batch, objective)
    critic = value_loss(value, batch.targets, objective.config)
    loss = objective.config.value_coefficient * critic + (actor if with_policy else 0.0)
    return loss, {**metrics, "loss": loss, "value_loss": critic}


def loss_and_gradient(
    net: Packed, batch: Batch, objective: Objective, with_policy: bool = True
) -> tuple[Packed, dict[str, jax.Array], dict[str, jax.Array]]:
    """Gradient of the mean of `ppo_loss` over all devices, of `config.micro_batch` paths at a time, and metrics.

    Args:
      net: parameters.
      batch: this device's paths.
      objective: what is minimised.
      with_policy: False leaves the value loss alone.

    Returns:
      The gradient, the metrics `DECISIVE` of all devices, and the others of this device, see `over_devices`.
    """
    own = varying(net)

    def gradient(piece: Batch) -> tuple[Packed, dict[str, jax.Array]]:
        found, metrics = jax.grad(ppo_loss, has_aux=True)(unpack(own), piece, objective, with_policy)
        return pack(found), metrics

    found, metrics = accumulate(gradient, batch, objective.config.micro_batch)
    found, decisive = jax.lax.pmean((found, {name: metrics.pop(name) for name in DECISIVE}), DATA_AXIS)
    return found, decisive, metrics


def shuffled_minibatches(key: jax.Array, groups: jax.Array, group_size: int, n_minibatches: int) -> jax.Array:
    """Splits the paths of a shard into minibatches, shuffling within fixed groups of neighbours.

    The groups do not depend on the number of devices, so neither does the membership of any minibatch.

    Args:
      key: randomness of this epoch, the same on every device. Consumed.
      groups: `[G]` int32, global indices of the groups that live on this shard, in order.
      group_size: paths per group, a multiple of `n_minibatches`.
      n_minibatches: M.

    Returns:
      `[M, G * group_size / M]` int32 positions within the shard.
    """
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, groups)
    order = jax.vmap(lambda k: jax.random.permutation(k, group_size))(keys)
    position = order + jnp.arange(groups.shape[0])[:, None] * group_size
    return position.reshape(groups.shape[0], n_minibatches, -1).swapaxes(0, 1).reshape(n_minibatches, -1)


@jax.named_scope("update")
def update(
    net: Params,
    opt_state: optax.OptState,
    optimiser: optax.GradientTransformation,
    batch: Batch,
    objective: Objective,
    key: jax.Array,
    groups: jax.Array,
) -> tuple[Params, optax.OptState, dict[str, jax.Array]]:
    """Updates the network on the rollout of an iteration. Runs under `shard_map`. Consumes `key`.

    Args:
      net: parameters that the rollout was collected with.
      opt_state: state of `optimiser`.
      optimiser: gradient to direction; the step size is applied here.
      batch: this shard's paths.
      objective: what is minimised.
      key: randomness of the shuffles, the same on every device.
      groups: `[G]` global indices of this shard's shuffle groups.

    Returns:
      New parameters, optimiser state, and metrics: means over the minibatch steps, extremes of ratios, KL over the last
      epoch. `kl_after` is the measured KL of the whole iteration, where the configuration limits or penalises it;
      `minibatch_steps` the number of steps taken, where `kl_stop` may end them; `skipped_updates` the number of steps
      that were left out since their loss or gradient was not finite, which count in no other metric.
    """
    config, natural = objective.config, objective.config.direction == "natural"
    proposed, moved_state, metrics = _epochs(net, opt_state, optimiser, batch, objective, key, groups, not natural)
    if natural:
        step = _natural_direction(net, batch, objective)
        proposed = jax.tree.map(jnp.add, proposed, step)

    def evaluate(net: Params) -> tuple[jax.Array, jax.Array]:
        own = varying(net)
        return jax.lax.pmean(
            accumulate(lambda piece: _surrogate_and_kl(own, piece, objective), batch, config.micro_batch), DATA_AXIS
        )

    if config.kl_limit is not None:
        accepted = line_search(evaluate, net, proposed, config.kl_limit, config.line_search_steps)
        # A proposal that is not finite must not stay in the optimiser's moments.
        finite = jnp.isfinite(optax.tree.norm(proposed))
        moved_state = jax.tree.map(lambda a, b: jnp.where(finite, a, b), moved_state, opt_state)
        metrics["skipped_updates"] += 1.0 - finite
        metrics |= {"line_search_step": accepted.step, "kl_after": accepted.kl}
        proposed = accepted.net
    elif config.kl_penalty != "none":
        metrics["kl_after"] = evaluate(proposed)[1]
    metrics["update_norm"] = optax.tree.norm(pack(jax.tree.map(jnp.subtract, proposed, net)))
    return proposed, moved_state, metrics


@jax.named_scope("optimiser")
def descend(
    params: Params,
    opt_state: optax.OptState,
    optimiser: optax.GradientTransformation,
    gradient: Params,
    rate: jax.Array,
    loss: jax.Array,
    stop: jax.Array | bool = False,
) -> tuple[Params, optax.OptState, jax.Array]:
    """One step against a gradient, and whether it could be taken `[]`: one that is not finite changes nothing.

    Args:
      params: that move.
      opt_state: of `optimiser`.
      optimiser: gradient to direction.
      gradient: over all devices.
      rate: `[]` step size.
      loss: `[]` that the gradient is of.
      stop: `[]` bool, whether the step is not to be taken.
    """
    direction, moved_state = optimiser.update(gradient, opt_state, params)
    moved = jax.tree.map(lambda p, d: p - rate * d, params, direction)
    finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(gradient))
    taken = finite & ~jnp.asarray(stop)
    old, new = (params, opt_state), (moved, moved_state)
    return *jax.tree.map(lambda a, b: jnp.where(taken, b, a), old, new), finite


def _epochs(
    net: Params,
    opt_state: optax.OptState,
    optimiser: optax.GradientTransformation,
    batch: Batch,
    objective: Objective,
    key: jax.Array,
    groups: jax.Array,
    with_policy: bool,
) -> tuple[Params, optax.OptState, dict[str, jax.Array]]:
    """`epochs * minibatches` steps, fewer where `config.kl_stop` ends them; those of the head alone come last."""
    config, none = objective.config, jnp.zeros((), bool)
    keys = jax.random.split(key, config.epochs)
    group_size = batch.rollout.log_prob.shape[0] // groups.shape[0]
    order = jax.vmap(lambda k: shuffled_minibatches(k, groups, group_size, config.minibatches))(keys)
    order = order.reshape(-1, order.shape[-1])
    step = _minibatch_step(optimiser, batch, objective, with_policy)
    if is_phasic(config):
        n_whole = (config.encoder_epochs or 0) * config.minibatches
        start = (net, opt_state["whole"], none)
        (net, whole, stop), first = _scanned(step, start, order[:n_whole])
        task, rollout = head_alone(net, objective.task, objective.params, batch.rollout, config.micro_batch)
        of_head = (optimiser, batch.replace(rollout=rollout), objective._replace(task=task), with_policy)
        start = (net[HEAD], opt_state[HEAD], stop)
        (head, moments, _), last = _scanned(_minibatch_step(*of_head), start, order[n_whole:])
        net, opt_state = {**net, HEAD: head}, {"whole": whole, HEAD: moments}
        rows, own = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, last)
    else:
        (net, opt_state, _), (rows, own) = _scanned(step, (net, opt_state, none), order)
    rows |= over_devices(own)
    evaluated, taken, skipped = rows.pop("evaluated"), rows.pop("taken").sum(), rows.pop("skipped").sum()
    metrics = {**_summarise(rows, evaluated, config), "skipped_updates": skipped}
    return net, opt_state, metrics if config.kl_stop is None else {**metrics, "minibatch_steps": taken}


def _minibatch_step(
    optimiser: optax.GradientTransformation, batch: Batch, objective: Objective, with_policy: bool
) -> Callable[[Any, jax.Array], tuple[Any, Any]]:
    """`((parameters, optimiser state, stop), paths of a minibatch) -> (the same after it, metrics)`, for `_scanned`.

    All are packed. A step that is not finite changes nothing; after `stop` none is taken.
    """
    config, learning_rate = objective.config, objective.coefficients.learning_rate

    def step(carry: Any, index: jax.Array) -> tuple[Any, tuple[Packed, Packed]]:
        net, opt_state, _ = carry
        piece = jax.tree.map(lambda x: x[index], batch)
        gradient, metrics, own = loss_and_gradient(net, piece, objective, with_policy)
        stop = jnp.zeros((), bool) if config.kl_stop is None else metrics["kl"] > config.kl_stop
        net, opt_state, finite = descend(net, opt_state, optimiser, gradient, learning_rate, metrics["loss"], stop)
        counts = {"evaluated": 1.0 * finite, "taken": 1.0 * (finite & ~stop), "skipped": 1.0 - finite}
        metrics |= {"gradient_norm": optax.tree.norm(gradient), **counts}
        return (net, opt_state, stop), (pack(metrics), pack(own))

    def step_unless_stopped(carry: Any, index: jax.Array) -> tuple[Any, Any]:
        shapes = jax.eval_shape(lambda: step(carry, index)[1])
        metrics, own = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        nothing = (metrics, varying(own))
        return jax.lax.cond(carry[-1], lambda: (carry, nothing), lambda: step(carry, index))

    return step if config.kl_stop is None else step_unless_stopped


def _scanned(
    step: Callable[[Any, jax.Array], tuple[Any, Any]], start: tuple[Any, Any, jax.Array], order: jax.Array
) -> tuple[Any, Any]:
    """A scan of minibatch steps, with parameters, moments and metrics in one vector each."""
    net, opt_state, stop = start
    packed = pack(net), pack_parts(opt_state, net), stop
    (net, opt_state, stop), (of_all, own) = jax.lax.scan(step, packed, order)
    return (unpack(net), unpack_parts(opt_state), stop), (unpack(of_all), unpack(own))


def _summarise(rows: dict[str, jax.Array], done: jax.Array, config: PPOConfig) -> dict[str, jax.Array]:
    """Metrics of an iteration from those of the steps `[epochs * minibatches]`; `done` is 0 for skipped steps."""
    rows = {name: jnp.where(done > 0, row, EXTREMES_OF_NOTHING.get(name, 0.0)) for name, row in rows.items()}
    means = {name: jnp.sum(row * done) / done.sum() for name, row in rows.items() if name not in EXTREMES}
    last = done * (jnp.cumsum(done) > done.sum() - config.minibatches)
    for name in ("kl", "kl_k3"):
        means[name] = jnp.sum(rows[name] * last) / last.sum()
    mean, square = means.pop("ratio_mean"), means.pop("ratio_square")
    means["effective_sample_size"] = jnp.square(mean) / square
    means["ratio_max"] = rows["ratio_max"].max()
    means["ratio_min"] = rows["ratio_min"].min()
    return means


def _surrogate_and_kl(net: Params, batch: Batch, objective: Objective) -> tuple[jax.Array, jax.Array]:
    """Surrogate loss and exact mean KL(old || new), of this device's paths."""
    distribution, _ = objective.task.predict(net, objective.params, batch.rollout)
    metrics = policy_loss(distribution, batch, objective)[1]
    return metrics["policy_loss"], metrics["kl"]


def _natural_direction(net: Params, batch: Batch, objective: Objective) -> Params:
    """Natural-gradient step of the policy loss on the whole batch; the length follows the schedule."""
    task, params, config = objective.task, objective.params, objective.config
    own = varying(net)

    def over_pieces(compute: Callable[[Batch], Params]) -> Params:
        return jax.lax.pmean(accumulate(compute, batch, config.micro_batch), DATA_AXIS)

    def actor_loss(net: Params, piece: Batch) -> jax.Array:
        distribution, _ = task.predict(net, params, piece.rollout)
        return policy_loss(distribution, piece, objective)[0]

    def mean_kl(net: Params, piece: Batch) -> jax.Array:
        distribution, _ = task.predict(net, params, piece.rollout)
        return piece.rollout.behaviour.kl(distribution).mean()

    def fisher_product(x: Params) -> Params:
        direction = varying(x)
        return over_pieces(lambda piece: jax.jvp(lambda net: jax.grad(mean_kl)(net, piece), (own,), (direction,))[1])

    gradient = over_pieces(lambda piece: jax.grad(actor_loss)(own, piece))
    left = objective.coefficients.learning_rate / config.learning_rate
    assert config.kl_limit is not None, "`Config` demands a limit for natural gradients"
    # The divergence of a step is quadratic in its length.
    limit = config.kl_limit * jnp.square(left)
    return natural_step(gradient, fisher_product, limit, config.fisher_damping, config.conjugate_gradient_steps)
