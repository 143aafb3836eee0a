"""Packed arrays: the same numbers, bit for bit, in whatever they are carried and however they are batched."""

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from jaxppo.envs.market import packing


def tree() -> dict:
    """Leaves of every kind that a rollout has, the bits of integers that are no floats among them."""
    return {
        "weights": jnp.asarray([[0.1, -0.0, jnp.inf], [jnp.nan, 1e-40, -3.0]], jnp.float32),
        "count": jnp.asarray([-1, 2**31 - 1, -(2**31), 7], jnp.int32),
        "hash": jnp.asarray(0xFFC00001, jnp.uint32),
        "mask": jnp.asarray([[True], [False]]),
        "memory": jnp.asarray([1.5, -2.25], jnp.bfloat16),
        "nothing": (),
        "keys": jax.random.split(jax.random.key(1), 2),
    }


def same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        a, b = (jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in (a, b))
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_what_is_packed_is_unpacked_bit_for_bit():
    packed = jax.jit(packing.pack)(tree())
    assert len(packed.vectors) == 3
    same(jax.jit(packing.unpack)(packed), tree())
    several = jax.tree.map(lambda x: jnp.stack([x, x]), tree())
    same(packing.unpack(jax.vmap(packing.pack)(several)), several)


def test_parts_with_the_structure_of_parameters_are_packed():
    net = {"a": jnp.arange(3.0), "b": jnp.ones((2, 2))}
    state = (jnp.int32(4), {"mu": net, "nu": jax.tree.map(jnp.square, net)}, ())
    packed = packing.pack_parts(state, net)
    assert [x.shape for x in jax.tree.leaves(packed)] == [(), (7,), (7,)]
    same(packing.unpack_parts(packed), state)


def test_a_packed_scan_is_a_scan(monkeypatch):
    """Carry, results and their derivatives; few arrays are carried and written."""

    def step(carry, row):
        total, seen, begun = carry
        total = total * row["growth"] + jnp.where(begun, row["jump"], 0.0)
        return (total, seen + 1, ~begun), {"total": total, "seen": seen, "begun": begun, "up": row["jump"] > 0}

    rng = np.random.default_rng(0)
    rows = {name: jnp.asarray(rng.normal(size=(6, 3)), jnp.float32) for name in ("growth", "jump")}
    start = (jnp.arange(3.0), jnp.zeros((), jnp.int32), jnp.zeros(3, bool))

    def run(scan):
        whole = jax.jit(lambda rows: scan(step, start, rows))
        slope = jax.jit(jax.grad(lambda rows: scan(step, start, rows)[1]["total"].sum()))
        return whole(rows), slope(rows)

    expected = run(jax.lax.scan)
    monkeypatch.setattr(packing, "platform", lambda: "gpu")
    same(run(packing.packed_scan), expected)
    (scan,) = [
        one
        for one in jax.make_jaxpr(lambda rows: packing.packed_scan(step, start, rows))(rows).jaxpr.eqns
        if one.primitive.name == "scan"
    ]
    assert len(scan.outvars) == 2


def test_a_rollout_that_is_traced_for_a_gpu_is_that_of_a_cpu(monkeypatch):
    """Actions, masks and ends are equal; money is so within the rounding of two programs."""
    net, params = tiny.policy()[1], tiny.shared_params()

    def rollout():
        return jax.jit(lambda key: tiny.roll_out(net, params, key)[2])(jax.random.key(3))

    expected = rollout()
    monkeypatch.setattr(packing, "platform", lambda: "gpu")
    found = rollout()
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-5, atol=1e-6)
