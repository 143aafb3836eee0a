"""Networks of a user: what configurations of tests name `own_networks:Class`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from jaxppo.arguments import PositiveInt
from jaxppo.policy.networks import sliding


class Convolution(nnx.Module):
    """Convolutions over the bars of each asset, each with the past that it needs."""

    def __init__(self, rngs: nnx.Rngs, width: int, layers: int, dtype: str, *, size: PositiveInt = 3):
        conv = {"padding": "VALID", "dtype": dtype, "rngs": rngs}
        self.layers = nnx.List([nnx.Conv(width, width, (size,), **conv) for _ in range(layers)])
        self.context = layers * (size - 1) + 1

    def __call__(self, tokens: jax.Array, listed: jax.Array) -> jax.Array:
        x = tokens.swapaxes(1, 2)
        for layer in self.layers:
            x = jax.nn.gelu(layer(x))
        return x.swapaxes(1, 2)


class Recurrent(nnx.Module):
    """A recurrent cell over the window of every bar."""

    def __init__(self, rngs: nnx.Rngs, width: int, window: int, dtype: str):
        self.context, self.cell = window, nnx.RNN(nnx.GRUCell(width, width, dtype=dtype, rngs=rngs), rngs=False)

    def __call__(self, tokens: jax.Array, listed: jax.Array) -> jax.Array:
        windows = sliding(tokens, self.context).swapaxes(2, 3)
        return self.cell(windows, initial_carry=jnp.zeros_like(windows[..., 0, :]))[..., -1, :]


class Pooled(nnx.Module):
    """Each asset beside the mean of those listed at the bar."""

    context = 1

    def __init__(self, rngs: nnx.Rngs, width: int):
        self.mix = nnx.Linear(2 * width, width, rngs=rngs)

    def __call__(self, tokens: jax.Array, listed: jax.Array) -> jax.Array:
        there = listed[..., None].astype(tokens.dtype)
        mean = (there * tokens).sum(axis=2, keepdims=True) / jnp.maximum(there.sum(axis=2, keepdims=True), 1.0)
        return self.mix(jnp.concatenate([tokens, jnp.broadcast_to(mean, tokens.shape)], axis=-1))


class Centred(Convolution):
    """Leaks: reads as many bars ahead as behind."""

    def __call__(self, tokens: jax.Array, listed: jax.Array) -> jax.Array:
        later = jnp.concatenate([tokens[:, 1:], tokens[:, :1]], axis=1)
        return super().__call__(later, listed)


class OfAllPaths(nnx.Module):
    """Leaks: centres the tokens of a path by those of the others, which are of other times."""

    context = 1

    def __init__(self, rngs: nnx.Rngs, width: int):
        self.mix = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, tokens: jax.Array, listed: jax.Array) -> jax.Array:
        return self.mix(tokens - tokens.mean(axis=0, keepdims=True))


class LongChunks(Pooled):
    """Leaks where a chunk has more than 12 bars."""

    def __call__(self, tokens: jax.Array, listed: jax.Array) -> jax.Array:
        memory = super().__call__(tokens, listed)
        return memory if memory.shape[1] <= 12 else memory.at[:, 12:].set(memory[:, 12:][:, ::-1])


class FromTheStart(nnx.Module):
    """Depends on where in a chunk a bar is: its recurrence begins with the chunk."""

    context = 2

    def __init__(self, rngs: nnx.Rngs, width: int):
        self.cell = nnx.RNN(nnx.GRUCell(width, width, rngs=rngs), rngs=False)

    def __call__(self, tokens: jax.Array, listed: jax.Array) -> jax.Array:
        return self.cell(tokens.swapaxes(1, 2), initial_carry=jnp.zeros_like(tokens[:, 0])).swapaxes(1, 2)[:, 1:]
