"""What compilers for accelerators make of the programs, without an accelerator.

    pip install -e '.[test,aot]'
    python -m benchmarks.compiled cuda|tpu [CONFIG ...] [--devices 4] [--before COMMIT]

Compiles training, a batch of the Monte Carlo backtest, the raw step of the environment and the step of a live account
for an H100 or a TPU v5e, and records kernels in all, an iteration, a bar of the rollout and a minibatch, collectives,
temporary memory and the FLOPs of matrix products by dtype. `--before` measures another commit too, in its checkout.

Kernels are launched instructions, loops with their trips, that over iterations once: an upper bound of launches. Times
are not measured: there is nothing to run on. JAX asks the GPU of the machine whether cuDNN has its attention; here it
is told what an H100 says.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

if __name__ == "__main__":
    os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from benchmarks import hlo

HERE = pathlib.Path(__file__).parent
TARGETS = {"cuda": "h100", "tpu": "v5e"}
PROGRAMS = ("training", "monte_carlo", "environment", "live")
QUICK = "configs/quickstart.yaml"
WIDE = [QUICK, "--policy.width", "256", "--policy.layers", "4", "--ppo.paths", "256", "--ppo.portfolios", "32"]
TINY = [
    QUICK, "--policy.width", "16", "--policy.layers", "1", "--policy.heads", "2", "--policy.window", "8",
    "--ppo.paths", "8", "--ppo.portfolios", "2", "--ppo.chunk", "12", "--ppo.epochs", "1", "--ppo.minibatches", "2",
]  # fmt: skip
NAMED = {
    "quick": [QUICK],
    "wide": WIDE,
    "wide_float32": [*WIDE, "--precision", "float32"],
    "wide_lean": [*WIDE, "--policy.rematerialise", "full", "--ppo.micro_batch", "16"],
    "tiny": TINY,
    "tiny32": [*TINY, "--ppo.paths", "32"],
    "tiny64": [*TINY, "--ppo.paths", "64"],
}
"""Configurations by name: the quick start; with 4 layers of width 256 on 256 paths of 32 portfolios, in float32, and
with less stored and 16 paths at a time; the smallest; on 32 and 64 paths, which 16 devices share. XLA does not compile
the matrix products of two such paths for an H100."""
MONTE_CARLO_BARS = 252
COUNTED = ("kernels", "kernels_an_iteration", "kernels_a_bar", "kernels_a_minibatch")
BUDGET = HERE / "compiled_budget.json"


def devices_of(target: str, n: int = 1) -> list[jax.Device]:
    """Devices to compile for that this machine does not have.

    Args:
      target: "cuda" for H100s, "tpu" for v5e.
      n: how many, 1, 4 or 16.

    Raises:
      RuntimeError: the compiler is not installed.
    """
    if target == "tpu":
        shape = {1: "2x2", 4: "2x2", 16: "4x4"}[n]
        return list(topologies.get_topology_desc(f"v5e:{shape}", platform="tpu").devices[:n])
    config = (HERE / "h100.txtpb").read_text()
    found = topologies.get_topology_desc(platform="cuda", target_config=config, topology=f"1x1x{n}")
    say_what_an_h100_has()
    return list(found.devices)


def say_what_an_h100_has() -> None:
    """Answers what JAX asks the GPU of this machine about cuDNN."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    cudnn.check_compute_capability = lambda capability: True
    cudnn.is_cuda_compute_capability_equal = lambda capability: capability == "9.0"
    cudnn.check_cudnn_version = lambda: 91200


def setup_of(words: Sequence[str], devices: list[jax.Device]) -> Any:
    """The set-up of a run for some devices.

    Args:
      words: configuration file and overrides.
      devices: to compile for.
    """
    import jaxppo
    from jaxppo.run import build
    from jaxppo.run.data import load_data

    config = jaxppo.load_config(words[0], list(words[1:]))
    if "devices" in inspect.signature(build.build).parameters:
        return build.build(config, load_data(config), devices=devices)
    # An older commit: it selects its devices itself, and asks JAX for the default one in many places.
    build.select_devices = lambda config: list(devices)
    jax.default_backend = lambda: devices[0].platform
    from jaxppo.run import devices as choices

    choices._cudnn_error = lambda encoder: _older_probe(encoder, devices[0], choices)
    return build.build(config, load_data(config))


def _older_probe(encoder: Any, device: jax.Device, choices: Any) -> str:
    """The probe of older commits, on 8 queries, for a device that is not there."""
    shape = (1, encoder.heads, 8, encoder.width // encoder.heads)
    shapes = (shape, (*shape[:2], 8 + encoder.window - 1, shape[-1]))
    place = SingleDeviceSharding(device)

    def loss(query: jax.Array, key: jax.Array) -> jax.Array:
        return choices.fused_window_attention(query, key, key, encoder.window).astype(jnp.float32).sum()

    try:
        given = [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place) for shape in shapes]
        jax.jit(jax.grad(loss)).lower(*given).compile()
    except Exception as error:
        return str(error)
    return ""


def training(setup: Any) -> jax.stages.Traced:
    """A call of training iterations of a set-up on its devices; of older commits, one iteration."""
    from jaxppo.ppo.learner import data_mesh, make_learner
    from jaxppo.ppo.trading_task import trading_task
    from jaxppo.run.objectives import make_reward_shaping
    from jaxppo.run.setup import dropout_rate, first_policy

    network, net = first_policy(setup)
    task = trading_task(network, setup.env, setup.ppo, dropout_rate(setup.config), setup.monitor)
    mesh, params = data_mesh(setup.devices), setup.period_params("train")
    learner = make_learner(task, setup.ppo, mesh, make_reward_shaping(setup.config, setup.periods_per_year))
    whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    state = jax.eval_shape(lambda net: learner.fresh(net, 0, params), net)
    placed = {
        name: _placed(getattr(state, name), split if name in ("paths", "accounts") else whole)
        for name in state.__dataclass_fields__
    }
    given = (type(state)(**placed), _placed(params, whole))
    try:
        from jaxppo.training.calls import like_call, several_iterations
        from jaxppo.training.monitor import stopping_metrics
    except ImportError:
        return learner.iterate.trace(*given, jax.ShapeDtypeStruct((), jnp.float32, sharding=whole))
    program = several_iterations(learner, stopping_metrics(setup.monitor))
    return program.trace(*given, *_placed(like_call(), whole))


def monte_carlo(setup: Any) -> jax.stages.Traced:
    """A batch of the Monte Carlo backtest of an untrained run."""
    from jaxppo.monte_carlo.from_run import run_paths
    from jaxppo.run.saved import SavedRun
    from jaxppo.run.setup import first_policy

    network, net = first_policy(setup)
    run = SavedRun(pathlib.Path("runs/untrained"), setup, network, net)
    if hasattr(__import__("jaxppo.monte_carlo.engine", fromlist=["Paths"]).Paths, "trace"):
        return run_paths(run, n_bars=MONTE_CARLO_BARS, devices=setup.devices[:1]).trace()
    jax.device_put, put = (lambda tree, device=None: tree), jax.device_put
    try:
        paths = run_paths(run, n_bars=MONTE_CARLO_BARS, devices=setup.devices[:1])
    finally:
        jax.device_put = put
    ids = jnp.arange(paths.batch_size).astype(jnp.uint32)
    given = (*paths._data[0], jnp.uint32(0), ids, jnp.int32(0))
    return paths._program.trace(*_placed(given, SingleDeviceSharding(setup.devices[0])))


def environment(setup: Any) -> jax.stages.Traced:
    """256 bars of random actions in 16,384 environments of one asset, with every cost."""
    from benchmarks.throughput import all_costs
    from jaxppo.envs import simulators
    from jaxppo.envs.trading.environment import TradingEnv

    n_envs, n_bars = 16_384, 256
    env = TradingEnv(n_assets=1, observation="window", window=1, groups=("technical",))
    params = env.make_params(simulators.gbm(jax.random.key(1), 4000, 1), all_costs(), episode_bars=n_bars)

    def run(key: jax.Array, params: Any) -> Any:
        def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
            states, total, _ = carry
            action = (jax.random.uniform(key, (n_envs,)) * env.num_actions).astype(jnp.int32)
            of_all = jax.vmap(env.step, in_axes=(0, 0, 0, None))
            seen, states, reward, _, _, _ = of_all(jax.random.split(key, n_envs), states, action, params)
            return (states, total + reward, seen), None

        seen, states = jax.vmap(env.reset, in_axes=(0, None))(jax.random.split(key, n_envs), params)
        return jax.lax.scan(step, (states, jnp.zeros(n_envs), seen), jax.random.split(key, n_bars))[0][1:]

    place = SingleDeviceSharding(setup.devices[0])
    return jax.jit(_for(setup.devices[0], run)).trace(*_placed((jax.random.key(0), params), place))


def live(setup: Any) -> jax.stages.Traced:
    """The step of a live account of an untrained run."""
    from jaxppo.backtest.agent_account import agent_of, rules_of
    from jaxppo.deploy.live_step import LiveStep
    from jaxppo.deploy.program import program_of
    from jaxppo.run.setup import first_policy

    step = LiveStep(setup, rules_of(setup), agent_of(setup, *first_policy(setup)))
    program, place = program_of(step), SingleDeviceSharding(setup.devices[0])
    given = (program.weights, program.state, list(program.bar.values()))
    return jax.jit(_for(setup.devices[0], program.step)).trace(*_placed(given, place))


def _for(device: jax.Device, function: Any) -> Any:
    """A function as it is traced for a device; older commits know no such thing."""
    from jaxppo.envs.market import kernels

    return kernels.traced_for(device, function) if hasattr(kernels, "traced_for") else function


def _placed(tree: Any, place: Any) -> Any:
    """Shapes and dtypes of a tree on some devices."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jax.dtypes.result_type(x), sharding=place), tree)


def measured(program: str, words: Sequence[str], devices: list[jax.Device]) -> dict[str, Any]:
    """Compiles a program and counts what it consists of.

    Args:
      program: one of `PROGRAMS`.
      words: configuration file and overrides.
      devices: to compile for.
    """
    setup = setup_of(words, devices)
    traced = globals()[program](setup)
    began = time.monotonic()
    compiled = traced.lower().compile()
    found, ppo = hlo.Program(compiled.as_text()), setup.ppo
    bars = {"training": ppo.chunk, "monte_carlo": MONTE_CARLO_BARS, "environment": 256}.get(program)
    loops = found.loops()
    iterations = [loop.kernels for loop in loops if program == "training" and loop.trips == 1]
    bar = max((loop.kernels for loop in loops if loop.trips == bars), default=None)
    steps = [loop for loop in loops if program == "training" and loop.trips == ppo.epochs * ppo.minibatches]
    minibatch = max(steps, key=lambda loop: loop.kernels, default=None)
    memory = compiled.memory_analysis()
    return {
        "attention": setup.encoder.attention,
        "n_devices": len(devices),
        "kernels": found.kernels(),
        "kernels_an_iteration": max(iterations, default=found.kernels()) if program == "training" else None,
        "kernels_a_bar": bar,
        "kernels_a_minibatch": None if minibatch is None else minibatch.kernels,
        "loops": len(loops),
        "loops_over_paths": sum(loop.trips == ppo.paths // len(devices) for loop in loops),
        "collectives_a_minibatch": None if minibatch is None else list(minibatch.collectives),
        "collectives": len(list(found.collectives())),
        "temporary_bytes": memory.temp_size_in_bytes,
        "largest_arrays": found.largest(),
        "product_flops": hlo.product_flops(traced.jaxpr.jaxpr),
        "library_calls": found.library_calls(),
        "float64": sum("f64[" in one.type for one in found.executed()),
        "host_transfers": sum(bool(hlo.HOST.match(one.operation)) for one in found.executed()),
        "compile_seconds": round(time.monotonic() - began, 1),
    }


def over_budget(found: dict[str, Any], budget: dict[str, Any]) -> list[str]:
    """What of a program is beyond its budget, a sentence each.

    Args:
      found: from `measured`.
      budget: most of each figure; of attention, the kernel.
    """
    beyond = [f"{name} is {found[name]}, at most {most}" for name, most in budget.items() if _beyond(found[name], most)]
    beyond += [f"{name} is {found[name]}, not 0" for name in ("float64", "host_transfers") if found[name]]
    collectives = found["collectives_a_minibatch"] or []
    return beyond + [f"a minibatch crosses devices in {one}" for one in collectives if one != "all-reduce f32"]


def _beyond(found: Any, most: Any) -> bool:
    if isinstance(most, str):
        return found != most
    return (len(found) if isinstance(found, list) else found) > most


def budget_of(target: str, name: str, program: str, n_devices: int) -> dict[str, Any]:
    """The committed budget of a program; empty where there is none."""
    return json.loads(BUDGET.read_text())[TARGETS[target]].get(f"{name} {program} {n_devices}", {})


def child(root: pathlib.Path, arguments: Sequence[str]) -> dict[str, Any]:
    """`measured` in a process of its own, in a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "benchmarks.compiled", *arguments, "--print"]
    done = subprocess.run(command, cwd=root, env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    from benchmarks.against_commit import ROOT, checkout, git
    from benchmarks.recording import record

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=tuple(TARGETS))
    parser.add_argument("configs", nargs="*", default=["quick"], help=f"{', '.join(NAMED)}, or a file")
    parser.add_argument("--devices", type=int, default=1, choices=(1, 4, 16))
    parser.add_argument("--programs", nargs="+", default=list(PROGRAMS), choices=PROGRAMS)
    parser.add_argument("--before", metavar="COMMIT")
    parser.add_argument("--print", action="store_true", help="measure one program here, print it and record nothing")
    chosen = parser.parse_args()
    if chosen.print:
        words = NAMED.get(chosen.configs[0], chosen.configs)
        print(json.dumps(measured(chosen.programs[0], words, devices_of(chosen.target, chosen.devices))))
        return
    found: dict[str, Any] = {}
    beyond = []

    def measure(root: pathlib.Path, when: str) -> None:
        for name in chosen.configs:
            for program in chosen.programs:
                key = f"{name} {program}"
                options = ["--devices", str(chosen.devices), "--programs", program]
                one = child(root, [chosen.target, name, *options])
                found.setdefault(key, {})[when] = one
                shown = {k: one.get(k) for k in ("error", *COUNTED)}
                print(when, key, shown, f"{one.get('temporary_bytes', 0) / 1e6:.1f} MB", flush=True)
                if when == "now":
                    sentences = [one["error"]] if "error" in one else []
                    sentences = sentences or over_budget(one, budget_of(chosen.target, name, program, chosen.devices))
                    beyond.extend(f"{key}: {sentence}" for sentence in sentences)

    measure(ROOT, "now")
    commits = {"now": git("rev-parse", "HEAD")}
    if chosen.before:
        commits["before"] = git("rev-parse", chosen.before)
        with checkout(chosen.before) as other:
            for file in ("compiled.py", "hlo.py", "h100.txtpb"):
                shutil.copy(HERE / file, other / "benchmarks" / file)
            measure(other, "before")
    said = [pathlib.Path(config).stem for config in chosen.configs]
    said += chosen.programs if "training" not in chosen.programs else []
    name = "_".join(["compiled", TARGETS[chosen.target], f"x{chosen.devices}", *said])
    content = {"compiled_for": TARGETS[chosen.target], "n_devices": chosen.devices, "commits": commits}
    print(f"wrote {record(name, {**content, 'programs': found, 'beyond_budget': beyond})}")
    if beyond:
        sys.exit("\n".join(beyond))


if __name__ == "__main__":
    main()
