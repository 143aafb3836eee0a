"""Steps within a trust region around the old policy: backtracking line search and the natural gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxppo.policy.networks.actor_critic import Params

SMALLEST_RESIDUAL = 1e-7
"""Residual at which conjugate gradients stop, relative to the right-hand side."""
SHRINKAGE = 0.8
"""Factor of the step from one trial of the line search to the next."""


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

    Takes a zero step where no trial succeeds, or where the proposal is not finite.

    Args:
      evaluate: parameters to (surrogate loss `[]`, mean KL from the behaviour policy `[]`).
      old: parameters that the rollout was collected with.
      proposed: parameters that an optimiser arrived at.
      limit: delta > 0, nats.
      n_steps: trials, >= 1; the first is the whole step, each further one `SHRINKAGE` times the one before.

    References:
      Schulman et al. (2015), appendix C. https://arxiv.org/abs/1502.05477
    """
    loss_before, kl_before = evaluate(old)
    finite = jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(proposed)]).all()

    def at(step: jax.Array) -> Params:
        return jax.tree.map(lambda a, b: a + step * (b - a), old, proposed)

    def searching(carry: Any) -> jax.Array:
        trial, _, accepted, _ = carry
        return ~accepted & (trial < n_steps)

    def shorten(carry: Any) -> Any:
        trial, _, _, _ = carry
        step = SHRINKAGE ** trial.astype(jnp.float32)
        loss, kl = evaluate(at(step))
        return trial + 1, step, finite & (kl <= limit) & (loss <= loss_before), kl

    start = (jnp.zeros((), jnp.int32), jnp.zeros(()), jnp.zeros((), bool), kl_before)
    _, step, accepted, kl = jax.lax.while_loop(searching, shorten, start)
    net = jax.tree.map(lambda a, b: jnp.where(accepted, a, b), at(step), old)
    return LineSearchResult(net, jnp.where(accepted, step, 0.0), jnp.where(accepted, kl, kl_before))


def natural_step(
    gradient: Params,
    fisher_product: Callable[[Params], Params],
    limit: jax.Array | float,
    damping: float,
    n_iterations: int,
) -> Params:
    """Natural-gradient step `-sqrt(2 delta / x'Fx) x`, `F x = g`: the steepest descent of a given KL, to second order.

    Args:
      gradient: of the loss.
      fisher_product: `x -> F x`, the Hessian of the mean KL at the old policy.
      limit: delta > 0, nats.
      damping: multiple of the identity that is added to F.
      n_iterations: of conjugate gradients, >= 1.

    Reference:
      Schulman et al. (2015), appendix C. https://arxiv.org/abs/1502.05477
    """

    def damped(x: Params) -> Params:
        return jax.tree.map(lambda f, x: f + damping * x, fisher_product(x), x)

    direction = _conjugate_gradients(damped, gradient, n_iterations)
    # x'Fx = x'g, as the residual is orthogonal to the solution.
    curvature = optax.tree.vdot(direction, gradient)
    scale = jnp.sqrt(2.0 * limit / jnp.maximum(curvature, 1e-12))
    return jax.tree.map(lambda x: -scale * x, direction)


def _conjugate_gradients(product: Callable[[Params], Params], right: Params, n_iterations: int) -> Params:
    """Solves `A x = right`, from zero; stops early where the residual is round-off.

    Args:
      product: `x -> A x`, symmetric and positive definite.
      right: pytree.
      n_iterations: at most.

    Reference: Hestenes and Stiefel (1952); Nocedal and Wright (2006), algorithm 5.2.
    """
    # Under `shard_map`, the result of `jax.scipy.sparse.linalg.cg` does not count as equal on all devices.
    enough = SMALLEST_RESIDUAL**2 * optax.tree.vdot(right, right)

    def unsolved(carry: Any) -> jax.Array:
        iteration, _, _, _, square = carry
        return (iteration < n_iterations) & (square > enough)

    def improve(carry: Any) -> Any:
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
