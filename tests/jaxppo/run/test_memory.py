"""What a program needs is estimated before it is compiled."""

import types

import jax
import jax.numpy as jnp
import pytest

from jaxppo.errors import ConfigError
from jaxppo.run import memory

CPU = types.SimpleNamespace(platform="cpu", device_kind="cpu", memory_stats=lambda: None)
GPU = types.SimpleNamespace(platform="gpu", device_kind="H200", memory_stats=lambda: {"bytes_limit": 100 * 2**30})


def loss(weights, x):
    """Layers under a scan, whose activations the backward pass needs."""
    return jnp.square(jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]).mean()


def other(weights, x):
    y = jnp.sin(x @ weights[0])
    return jnp.sort(y, axis=0).sum() + jnp.where(y > 0, y, 0.0).sum()


@pytest.mark.parametrize("function", [jax.grad(loss), jax.grad(other), loss])
@pytest.mark.parametrize("rows", [256, 4096])
def test_the_estimate_is_near_what_the_compiler_needs(function, rows):
    arguments = jnp.ones((6, 64, 64)), jnp.ones((rows, 64))
    traced = jax.jit(function).trace(*arguments)
    estimate, needed = (
        memory.estimated_memory(traced.jaxpr.jaxpr),
        memory.memory_needed(traced.lower().compile()),
    )
    assert 0.5 * needed < estimate < 1.5 * needed


def test_what_runs_on_each_of_four_devices_counts_on_each():
    mesh, split = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)), jax.P("data")

    def gradient(weights, x):
        return jax.lax.psum(jax.grad(loss)(weights, x), "data")

    spread = jax.shard_map(gradient, mesh=mesh, in_specs=(jax.P(), split), out_specs=jax.P(), check_vma=False)
    traced = jax.jit(spread).trace(jnp.ones((6, 64, 64)), jnp.ones((16384, 64)))
    needed = memory.memory_needed(traced.lower().compile())
    assert 0.5 * needed < memory.estimated_memory(traced.jaxpr.jaxpr) / 4 < 1.5 * needed


def test_what_does_not_fit_is_refused_with_the_estimate():
    memory.check_fits(99 * 2**30, "an iteration", "ppo.paths", [GPU])
    with pytest.raises(
        ConfigError, match=r"an iteration needs about 101.0 GiB, and H200 has 100.0; smaller: ppo.paths"
    ):
        memory.check_fits(101 * 2**30, "an iteration", "ppo.paths", [GPU])
    assert memory.memory_of([CPU] * 4) == memory.memory_of([CPU]) / 4
    assert memory.memory_usable([GPU]) == 0.8 * memory.memory_of([GPU])


def test_keys_and_arrays_have_a_size():
    assert memory.size_of({"x": jnp.zeros((3, 4)), "y": jnp.zeros(5, jnp.bfloat16), "z": jnp.zeros(2, bool)}) == 60
    assert (
        memory.estimated_memory(jax.make_jaxpr(lambda key: jax.random.normal(key, (9,)))(jax.random.key(0)).jaxpr) > 0
    )


def test_results_in_the_place_of_arguments_count_once():
    x = jnp.ones((256, 256))
    given, kept = (jax.jit(lambda x: x + 1.0, donate_argnums=n).lower(x).compile() for n in (0, ()))
    assert memory.memory_needed(kept) - memory.memory_needed(given) == x.nbytes


def test_a_container_has_less_than_its_machine(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "CONTAINER", limit)
    whole = memory.memory_of([CPU])
    for text, expected in (("max\n", whole), ("1000000\n", 1e6)):
        limit.write_text(text)
        assert memory.memory_of([CPU]) == expected
