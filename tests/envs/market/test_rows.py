"""Rows of tables: the same whichever way a device reads them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxppo.envs.market import rows


@pytest.mark.parametrize("shape", [(20,), (20, 3), (20, 3, 2)])
def test_rows_are_those_of_the_slice_on_every_device(shape, monkeypatch):
    """Many at a time, and at the ends of the table; a TPU gathers the rows of small tables one by one."""
    table, first = np.random.default_rng(0).normal(size=shape).astype(np.float32), jnp.array([0, 7, 15])
    expected = np.stack([table[start : start + 5] for start in (0, 7, 15)])

    for platform in ("cpu", "gpu", "tpu"):
        monkeypatch.setattr(rows, "platform", lambda platform=platform: platform)
        read = jax.vmap(lambda start: rows.rows_from(jnp.asarray(table), start, 5))
        np.testing.assert_array_equal(jax.jit(read)(first), expected)
        (gather,) = [one for one in jax.make_jaxpr(read)(first).jaxpr.eqns if one.primitive.name == "gather"]
        single = platform == "tpu" and len(shape) < 3
        assert (gather.params["slice_sizes"][0] == 1) == single
