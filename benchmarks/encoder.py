"""What the encoder costs, and how fast it is on an accelerator.

    python -m benchmarks.encoder cost|precision|sizes

`cost`: time of a chunk over a grid of lengths S and windows W. `precision`: bfloat16 against float32, value of the
learned policy and memory. `sizes`: tokens/s and share of peak of 2x64, 4x256, 8x768 with each implementation of
attention, and the largest chunk that fits; meant for accelerators.

Times are of a compiled forward and backward pass with respect to the parameters. Run it alone on the machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.learning import LEVELS, LIMIT, Design, encoder_config, factor_score
from benchmarks.recording import record
from benchmarks.throughput import median_seconds
from jaxppo.config import PPOConfig
from jaxppo.envs.market import features
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.policy.networks import ActionConfig, Bars, EncoderConfig, make_actor_critic
from jaxppo.policy.networks.actor_critic import ActorCritic, Params
from jaxppo.ppo import data_mesh, make_learner, trading_task
from jaxppo.ppo.trading_task import action_config

GROUPS = tuple(s.stop - s.start for s in features.group_slices(features.GROUPS).values())
ACTION = ActionConfig("discrete", 6, -1.0, 1.0)
LENGTHS, WINDOWS = (256, 512, 1024, 2048), (16, 32, 64, 128, 256)
SIZES = {"2x64": (2, 64, 8), "4x256": (4, 256, 8), "8x768": (8, 768, 12)}
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L4": 121e12, "T4": 65e12}
"""Dense bfloat16 (T4: float16) FLOP/s of the data sheets."""


def encoder(window: int, **changes: Any) -> EncoderConfig:
    """Two blocks of width 64 with 8 heads."""
    config = EncoderConfig("transformer", GROUPS, 64, 2, 8, window, 2, True, jnp.dtype("float32"))
    return dataclasses.replace(config, **changes)


def bars(n_paths: int, n_bars: int, n_assets: int = 1) -> Bars:
    """Random bars, all known and listed."""
    shape = (n_paths, n_bars, n_assets)
    return Bars(
        jax.random.normal(jax.random.key(0), (*shape, sum(GROUPS))),
        jnp.ones(shape, bool),
        jnp.full(shape[:2], 86_400.0),
    )


def gradient(policy: ActorCritic) -> Any:
    """Compiled gradient of a sum of squares of what the head gets."""
    return jax.jit(jax.grad(lambda net, chunk: jnp.mean(jnp.square(policy.encode(net, chunk)))))


def cost(repeats: int) -> dict[str, Any]:
    """Seconds over the grid, and how they grow in S and in W."""
    policies = {window: make_actor_critic(encoder(window), ACTION, jax.random.key(0)) for window in WINDOWS}
    grid: dict[str, dict[str, float]] = {}
    for window, (policy, net) in policies.items():
        run = gradient(policy)
        row = {}
        for length in LENGTHS:
            chunk = bars(2, policy.context - 1 + length)
            row[str(length)] = median_seconds(lambda chunk=chunk, net=net, run=run: run(net, chunk), repeats)
        grid[str(window)] = row
        print(window, {length: f"{1e3 * seconds:.1f} ms" for length, seconds in row.items()}, flush=True)
    seconds = np.array([[grid[str(window)][str(length)] for length in LENGTHS] for window in WINDOWS])
    return {
        "seconds_by_window_and_length": grid,
        "in_length": {str(w): _line(LENGTHS, row) for w, row in zip(WINDOWS, seconds, strict=True)},
        "in_window": {str(s): _line(WINDOWS, column) for s, column in zip(LENGTHS, seconds.T, strict=True)},
    }


def _line(x: Any, y: np.ndarray) -> dict[str, float]:
    """Least squares line, the share of variance it explains, and the exponent of a power law between the ends."""
    x = np.asarray(x, np.float64)
    slope, intercept = np.polyfit(x, y, 1)
    left = np.sum((y - intercept - slope * x) ** 2)
    return {
        "slope": slope,
        "intercept": intercept,
        "r_squared": float(1.0 - left / np.sum((y - y.mean()) ** 2)),
        "exponent": float(np.log(y[-1] / y[0]) / np.log(x[-1] / x[0])),
    }


def precision(seeds: int, steps: int) -> dict[str, Any]:
    """The factor market of `benchmarks.learning` in both, and the memory of the encoder's gradient."""
    config = PPOConfig(
        paths=64,
        portfolios=8,
        chunk=64,
        micro_batch=4,
        learning_rate=1e-3,
        gamma=0.9,
        gae_lambda=0.9,
        reward_scale=10.0,
    )
    found = {}
    for dtype in ("float32", "bfloat16"):
        design, memory = _factor_design(dtype, config), {}
        for width in (32, 256):
            memory[str(width)] = _memory(dtype, width)
        runs = [factor_score(design, seed, steps, config.chunk) for seed in range(seeds)]
        scores = [run["score"] for run in runs]
        found[dtype] = {
            "score_mean": statistics.mean(scores),
            "score_standard_deviation": statistics.stdev(scores) if seeds > 1 else 0.0,
            "bytes_by_width": memory,
            "runs": runs,
        }
        print(dtype, [round(score, 4) for score in scores], memory, flush=True)
    return {"ppo": config.model_dump(), "precisions": found}


def _factor_design(dtype: str, config: PPOConfig) -> Design:
    shape = dataclasses.replace(encoder_config(16), dtype=jnp.dtype(dtype))
    env = TradingEnv(observation="index", window=shape.context, start="random", levels=LEVELS, position_limit=LIMIT)
    action = action_config(env, 0.6)
    policy, _ = make_actor_critic(shape, action, jax.random.key(0))
    learner = make_learner(trading_task(policy, env, config), config, data_mesh(jax.devices()[:1]))
    return Design(policy, env, learner, lambda key: make_actor_critic(shape, action, key)[1])


def _memory(dtype: str, width: int) -> dict[str, int]:
    """Bytes of the gradient of 4 chunks of 512 bars.

    `temporary`: what the compiled program needs beside its arguments and results. `kept`: what its forward pass keeps
    for the backward pass before any compiler has seen it, the same on every device: XLA for CPUs computes bfloat16 in
    float32.
    """
    policy, net = make_actor_critic(encoder(64, width=width, dtype=jnp.dtype(dtype)), ACTION, jax.random.key(0))
    chunk = bars(4, policy.context - 1 + 512)
    chunk = chunk.replace(features=chunk.features.astype(dtype))
    compiled = gradient(policy).lower(net, chunk).compile()
    kept = jax.eval_shape(lambda net: jax.vjp(lambda n: policy.encode(n, chunk), net)[1], net)
    return {
        "temporary": int(compiled.memory_analysis().temp_size_in_bytes),
        "kept": sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(kept)),
    }


def sizes(names: list[str], window: int, peak: float | None) -> dict[str, Any]:
    """Tokens per second, share of peak, and the largest chunk, of each size and implementation of attention."""
    kind = jax.devices()[0].device_kind
    peak = peak or next((value for name, value in PEAKS.items() if name in kind), None)
    rows = {}
    for name in names:
        layers, width, heads = SIZES[name]
        for attention in ("xla", "cudnn") if jax.devices()[0].platform == "gpu" else ("xla",):
            dtype = "bfloat16" if jax.devices()[0].platform != "cpu" else "float32"
            shape = encoder(
                window,
                layers=layers,
                width=width,
                heads=heads,
                expansion=4,
                dtype=jnp.dtype(dtype),
                attention=attention,
            )
            policy, net = make_actor_critic(shape, ACTION, jax.random.key(0))
            row = rows[f"{name}, {attention}"] = _one_size(policy, net, shape, peak)
            print(name, attention, row, flush=True)
    return {"window": window, "peak_flops_per_second": peak, "rows": rows}


def _one_size(policy: ActorCritic, net: Params, shape: EncoderConfig, peak: float | None) -> dict[str, Any]:
    run, best, largest, length = gradient(policy), {}, 0, 1024
    while length <= 2**22:
        n_bars = policy.context - 1 + length
        try:
            chunk = bars(1, n_bars)
            seconds = median_seconds(lambda chunk=chunk: run(net, chunk), 5)
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            if "RESOURCE_EXHAUSTED" not in str(error) and not isinstance(error, MemoryError):
                raise
            break
        largest = length
        rate = n_bars / seconds
        flops = 3.0 * rate * _forward_flops_per_token(shape)
        if rate > best.get("tokens_per_second", 0.0):
            best = {"tokens_per_second": rate, "at_chunk": length, "flops_per_second": flops}
            best["share_of_peak"] = flops / peak if peak else None
        if jax.devices()[0].platform == "cpu" and seconds > 2.0:
            break
        length *= 2
    return {**best, "largest_chunk": largest}


def _forward_flops_per_token(shape: EncoderConfig) -> float:
    """Products of the blocks: 4 D^2 of attention, 2 e D^2 of the feed-forward part, 2 W D of the weights; times 2."""
    per_block = 4 * shape.width**2 + 2 * shape.expansion * shape.width**2 + 2 * shape.window * shape.width
    return 2.0 * (shape.layers * per_block + 2 * sum(shape.groups) * shape.width)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=("cost", "precision", "sizes"))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--sizes", nargs="+", choices=tuple(SIZES), default=list(SIZES))
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--peak", type=float, help="FLOP/s of the device; default: from its name")
    chosen = parser.parse_args()
    started = time.perf_counter()
    if chosen.experiment == "cost":
        content = cost(chosen.repeats)
    elif chosen.experiment == "precision":
        content = precision(chosen.seeds, chosen.steps)
    else:
        content = sizes(chosen.sizes, chosen.window, chosen.peak)
    print(f"wrote {record(f'encoder_{chosen.experiment}', content)} after {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
