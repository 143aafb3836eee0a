"""What is rewritten for ONNX says the same, in other operations."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxppo.deploy.onnx.plain import plain

TABLE = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
PLACES = np.asarray([3, 0, 9, -1], np.int32)
FLAGS = TABLE[:, :, 0] > 0


@jax.custom_batching.custom_vmap
def doubled(x):
    return 2 * x


@doubled.def_vmap
def _(size, batched, x):
    return 2 * x, batched[0]


def clipped(x, start):
    return lax.dynamic_slice_in_dim(x, start, 2)


def written(x, place, value):
    return x.at[place].set(value)


CASES = {
    "jit": (lambda x: jax.jit(jnp.sin)(x), (TABLE,)),
    "checkpoint": (lambda x: jax.checkpoint(jnp.sin)(x), (TABLE,)),
    "custom_jvp_call": (lambda x: jax.nn.relu(x), (TABLE,)),
    "custom_vmap_call": (lambda x: doubled(x), (TABLE,)),
    "select_n of booleans": (lambda x, y: jnp.where(x, y, ~x), (FLAGS, FLAGS[::-1])),
    "select_n by one boolean": (lambda x: lax.select(x[0, 0], x, ~x), (FLAGS,)),
    "scan of one step": (lambda x: lax.scan(lambda c, y: (c + y, c * y), x[0], x[1:2]), (TABLE,)),
    "scan": (lambda x: lax.scan(lambda c, y: (jnp.where(c > 0, c, y), y[1]), x[0], x), (TABLE,)),
    "cond": (lambda x: lax.cond(x[0, 0, 0] > 0, jax.nn.relu, jnp.negative, x), (TABLE,)),
    "dynamic_slice beyond the end": (
        lambda x, k: lax.dynamic_slice_p.bind(x, k[2], k[3], slice_sizes=(2, 2)),
        (FLAGS, PLACES - 1),
    ),
    "dynamic_update_slice beyond the end": (
        lambda x, k: lax.dynamic_update_slice_p.bind(x, x[:2, :2], k[2], k[3]),
        (FLAGS, PLACES - 1),
    ),
    "cumsum that wraps": (lambda x: jnp.cumsum(x, dtype=jnp.uint32), (np.full(5, 2**31 - 3, np.uint32),)),
    "nothing": (lambda x: jnp.concatenate([x[:, :0], jnp.cumsum(x[:0], axis=0).reshape(5, 0, 3), x], axis=1), (TABLE,)),
    "gather of one slice": (lambda x, k: x[k[0]], (TABLE, PLACES)),
    "gather beyond the end": (lambda x, k: clipped(x, k[2]), (TABLE, PLACES)),
    "gather, batched": (lambda x, k: jax.vmap(clipped)(x[:4], k), (TABLE, PLACES)),
    "gather, batched along another axis": (lambda x, k: jax.vmap(clipped, (1, 0), 1)(x, k), (TABLE, PLACES)),
    "gather by every index": (lambda x, k: jax.vmap(clipped, (None, 0))(x, k), (TABLE, PLACES)),
    "gather of booleans": (lambda x, k: jax.vmap(clipped, (1, 0))(x, k), (FLAGS, PLACES)),
    "gather that promises": (lambda x, k: x.at[:, k].get(mode="promise_in_bounds"), (TABLE, PLACES[:2])),
    "scatter": (lambda x, k: written(x, k[0], 7.0), (TABLE, PLACES)),
    "scatter beyond the end": (lambda x, k: written(x, k[2], 7.0), (TABLE, PLACES)),
    "scatter of a row": (lambda x, k: x.at[:, k[0]].set(x[:, 0]), (TABLE, PLACES)),
    "scatter of booleans": (lambda x, k: written(x, k[0], ~x[1]), (FLAGS, PLACES)),
    "scatter, batched": (lambda x, k: jax.vmap(written, (1, 0, 1), 1)(x, k, x[0].T), (TABLE, PLACES)),
    "scatter, batched along another axis": (lambda x, k: jax.vmap(written)(x[:4], k, x[:4, 1]), (TABLE, PLACES)),
    "scatter to several places": (lambda x, k: x.at[k].set(7.0), (TABLE, PLACES)),
    "scatter to several columns": (lambda x, k: x.at[:, k].set(x), (TABLE, PLACES)),
    "scatter, batched, to several places": (
        lambda x, k: jax.vmap(written, (0, None, 0))(x, k[:2], x[:, :2]),
        (TABLE, PLACES),
    ),
    "scatter-add": (lambda x, k: x.at[k[1]].add(x[2]), (TABLE, PLACES)),
    "scatter-add to several places": (lambda x, k: x.at[k].add(x[:4]), (TABLE, PLACES)),
    "scatter-add to one place twice": (lambda x, k: x.at[:, k[:1].repeat(2)].add(x[:, :2]), (TABLE, PLACES)),
}
GONE = {"jit", "checkpoint", "custom_jvp_call", "custom_vmap_call", "scatter", "scatter-add"}


def primitives(jaxpr):
    for step in jaxpr.eqns:
        yield step.primitive.name
        yield from (name for inner in jax.extend.core.jaxprs_in_params(step.params) for name in primitives(inner))


@pytest.mark.parametrize(("function", "arrays"), CASES.values(), ids=CASES)
def test_it_says_the_same(function, arrays):
    def leaves(*arrays):
        return jax.tree.leaves(function(*map(jnp.asarray, arrays)))

    rewritten = plain(leaves, *arrays)
    for ours, theirs in zip(rewritten(*arrays), leaves(*arrays), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith(tuple(GONE))])
def test_what_onnx_lacks_is_gone(name):
    function, arrays = CASES[name]
    found = set(primitives(jax.make_jaxpr(plain(lambda *x: [function(*x)], *arrays))(*arrays).jaxpr))
    assert found
    assert not found & GONE
