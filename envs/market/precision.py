"""Products of matrices that decide or account: in full float32, whatever a device does by default.

GPUs round the inputs of a product to TF32 and TPUs to bfloat16: budgets of risk were overrun by up to 1.4 % so.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
"""`a @ b` without rounding of its inputs."""
einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
"""`jnp.einsum` without rounding of its inputs."""
