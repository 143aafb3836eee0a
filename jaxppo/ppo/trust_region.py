"""Steps that keep the new policy near the old one: backtracking line search and the natural gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxppo.policy.networks.actor_critic import Params

SMALLEST_RESIDUAL = 1e-7
"""Of conjugate gradients, relative to the right-hand side."""
SHORTER = 0.8
"""Length of a trial of the line search over that of the trial before."""


class LineSearchResult(NamedTuple):
    """Outcome of `line_search`.

    Attributes:
      net: accepted parameters; the old ones where no step was accepted.
      step: `[]` accepted fraction of the proposed step, 0 where none was.
      kl: `[]` mean KL(old || new) at `net`, measured.
    """

    net: Params
    step: jax.Array
    kl: jax.Array


def line_search(
    evaluate: Callable[[Params], tuple[jax.Array, jax.Array]], old: Params, proposed: Params, limit: float, n_steps: int
) -> LineSearchResult:
    """Shortens the step from `old` to `proposed` until `kl <= limit` and the surrogate loss is no worse than at `old`.

    Takes a zero step if `n_steps` trials do not find one, or where the proposal is not finite.

    Args:
      evaluate: parameters to (surrogate loss `[]`, mean KL from the behaviour policy `[]`).
      old: parameters that the rollout was collected with.
      proposed: parameters that an optimiser arrived at.
      limit: delta > 0, nats.
      n_steps: trials, >= 1; the first is the whole step, each further one `SHORTER` times the one before.

    References:
      Schulman et al. (2015), appendix C. https://arxiv.org/abs/1502.05477
    """
    loss_before, kl_before = evaluate(old)
    finite = jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(proposed)]).all()

    def at(step: jax.Array) -> Params:
        return jax.tree.map(lambda a, b: a + step * (b - a), old, proposed)

    def searching(carry: tuple[jax.Array, ...]) -> jax.Array:
        trial, _, accepted, _ = carry
        return ~accepted & (trial < n_steps)

    def shorten(carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        trial, _, _, _ = carry
        step = SHORTER ** trial.astype(jnp.float32)
        loss, kl = evaluate(at(step))
        return trial + 1, step, finite & (kl <= limit) & (loss <= loss_before), kl

    start = (jnp.zeros((), jnp.int32), jnp.zeros(()), jnp.zeros((), bool), kl_before)
    _, step, accepted, kl = jax.lax.while_loop(searching, shorten, start)
    net = jax.tree.map(lambda a, b: jnp.where(accepted, a, b), at(step), old)
    return LineSearchResult(net, jnp.where(accepted, step, 0.0), jnp.where(accepted, kl, kl_before))


def natural_step(
    gradient: Params, fisher_product: Callable[[Params], Params], limit: float, damping: float, n_iterations: int
) -> Params:
    """`-sqrt(2 delta / x'Fx) x` with `F x = g`: the steepest descent of a given KL, to second order.

    Args:
      gradient: of the loss.
      fisher_product: `x -> F x`, the Hessian of the mean KL at the old policy.
      limit: delta > 0, nats.
      damping: multiple of the identity that is added to F.
      n_iterations: of conjugate gradients.

    References:
      Schulman et al. (2015), appendix C. https://arxiv.org/abs/1502.05477
    """

    def damped(x: Params) -> Params:
        return jax.tree.map(lambda f, x: f + damping * x, fisher_product(x), x)

    direction = conjugate_gradients(damped, gradient, n_iterations)
    curvature = optax.tree.vdot(direction, gradient)  # the residual is orthogonal to the solution
    scale = jnp.sqrt(2.0 * limit / jnp.maximum(curvature, 1e-12))
    return jax.tree.map(lambda x: -scale * x, direction)


def conjugate_gradients(product: Callable[[Params], Params], right: Params, n_iterations: int) -> Params:
    """`x` with `A x = right`, from zero; stops early where the residual is round-off.

    `jax.scipy.sparse.linalg.cg` loses track, under `shard_map`, of its result being equal on all devices.

    Args:
      product: `x -> A x`, symmetric and positive definite.
      right: pytree.
      n_iterations: at most.

    References:
      Hestenes and Stiefel (1952); Nocedal and Wright (2006), algorithm 5.2.
    """
    enough = SMALLEST_RESIDUAL**2 * optax.tree.vdot(right, right)

    def unsolved(carry: tuple[Any, ...]) -> jax.Array:
        iteration, _, _, _, square = carry
        return (iteration < n_iterations) & (square > enough)

    def improve(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        iteration, x, residual, direction, square = carry
        image = product(direction)
        length = square / optax.tree.vdot(direction, image)
        x = jax.tree.map(lambda x, d: x + length * d, x, direction)
        residual = jax.tree.map(lambda r, a: r - length * a, residual, image)
        after = optax.tree.vdot(residual, residual)
        direction = jax.tree.map(lambda r, d: r + after / square * d, residual, direction)
        return iteration + 1, x, residual, direction, after

    start = (jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, right), right, right, optax.tree.vdot(right, right))
    return jax.lax.while_loop(unsolved, improve, start)[1]
