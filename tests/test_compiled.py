"""What programs are counted to consist of; and training for an H100, where its compiler is installed."""

import importlib.util
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from folders import ROOT

from benchmarks import hlo
from benchmarks.compiled import NAMED, budget_of, over_budget

PLUGIN = importlib.util.find_spec("jax_plugins") and importlib.util.find_spec("jax_plugins.xla_cuda13")
FOUND = {"attention": "cudnn", "kernels": 10, "float64": 0, "host_transfers": 0, "collectives_a_minibatch": None}


def test_loops_count_with_their_trips():
    """Seven times a product of 3 x 4 by 4 x 4, in a program of one loop."""

    def run(x, weights):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ weights), None), x, length=7)[0]

    traced = jax.jit(run).trace(jnp.ones((3, 4)), jnp.ones((4, 4)))
    assert hlo.product_flops(traced.jaxpr.jaxpr) == {"float32 x float32 -> float32": 7 * 2 * 3 * 4 * 4}
    program = hlo.Program(traced.lower().compile().as_text())
    (loop,) = program.loops()
    assert loop.trips == 7
    assert program.kernels() >= 7 * loop.kernels > 0
    assert not list(program.collectives())


def test_collectives_are_counted_with_their_dtypes():
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2], axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.PartitionSpec("data")

    @jax.jit
    @jax.shard_map(mesh=mesh, in_specs=split, out_specs=jax.sharding.PartitionSpec())
    def total(x):
        return jax.lax.psum(x, "data")

    program = hlo.Program(total.lower(jnp.ones((2, 3))).compile().as_text())
    assert list(program.collectives()) == ["all-reduce f32"]


def test_what_is_beyond_a_budget_is_named():
    assert not over_budget(FOUND, {"kernels": 10, "attention": "cudnn"})
    changes = {"attention": "xla", "float64": 2, "collectives_a_minibatch": ["all-reduce f32", "all-reduce bf16"]}
    beyond = over_budget(FOUND | changes, {"kernels": 9, "attention": "cudnn", "collectives_a_minibatch": 1})
    assert beyond == [
        "kernels is 10, at most 9",
        "attention is xla, at most cudnn",
        "collectives_a_minibatch is ['all-reduce f32', 'all-reduce bf16'], at most 1",
        "float64 is 2, not 0",
        "a minibatch crosses devices in all-reduce bf16",
    ]


@pytest.mark.skipif(not PLUGIN, reason="needs the compiler of the extra aot")
@pytest.mark.parametrize(
    ("name", "program", "n_devices"),
    [
        ("tiny", "training", 1),
        *(
            pytest.param(*one, marks=pytest.mark.slow)
            for one in (("quick", "training", 1), ("quick", "training", 4), ("quick", "monte_carlo", 1))
        ),
    ],
)
def test_programs_for_an_h100_stay_within_their_budget(name, program, n_devices):
    """No float64, nothing that waits for the host, gradients in float32, cuDNN's attention, and the budget."""
    command = [sys.executable, "-m", "benchmarks.compiled", "cuda", name, "--programs", program, "--print"]
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--devices", str(n_devices)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    budget = budget_of("cuda", name, program, n_devices)
    assert name in NAMED
    assert budget
    assert not over_budget(json.loads(done.stdout.splitlines()[-1]), budget)
