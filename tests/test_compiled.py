"""What programs are counted to consist of; and programs for accelerators, where their compilers are installed."""

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
from benchmarks.compiled import BUDGET, COUNTED, NAMED, PROGRAMS, TARGETS, budget_of, over_budget

COMPILERS = {"cuda": ("jax_plugins", "jax_plugins.xla_cuda13"), "tpu": ("libtpu",)}
BUDGETS = {of: json.loads(BUDGET.read_text())[name] for of, name in TARGETS.items()}
QUICKEST = "tiny training 1"
"""The one program that is no slow test."""
LIMITED = ("attention", *COUNTED, "temporary_bytes", "collectives_a_minibatch")
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


def budgeted():
    """Target, configuration, program and devices of every budget."""
    for target, programs in BUDGETS.items():
        for key in programs:
            name, program, n_devices = key.split()
            marks = () if (target, key) == ("cuda", QUICKEST) else pytest.mark.slow
            yield pytest.param(target, name, program, int(n_devices), marks=marks)


def test_budgets_are_of_programs_that_there_are():
    for programs in BUDGETS.values():
        assert {key.split()[0] for key in programs} <= set(NAMED)
        assert {key.split()[1] for key in programs} <= set(PROGRAMS)
        assert {key.split()[2] for key in programs} <= {"1", "4", "16"}
        assert {name for budget in programs.values() for name in budget} <= set(LIMITED)


@pytest.mark.parametrize(("target", "name", "program", "n_devices"), list(budgeted()))
def test_programs_for_accelerators_stay_within_their_budget(target, name, program, n_devices):
    """No float64, nothing that waits for the host, gradients in float32, the kernel of attention, and the budget."""
    if not all(importlib.util.find_spec(module) for module in COMPILERS[target]):
        pytest.skip("needs the compiler of the extra aot or tpu")
    command = [sys.executable, "-m", "benchmarks.compiled", target, name, "--programs", program, "--print"]
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--devices", str(n_devices)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not over_budget(json.loads(done.stdout.splitlines()[-1]), budget_of(target, name, program, n_devices))
