"""Environment steps per second: one encoder pass per chunk against a window per step, and the environment against
peers.

    python -m benchmarks.throughput [--window 64] [--width 64] [--skip-peers]

End to end means rollout, advantages and 4 epochs x 4 minibatches of updates by the same learner, 128 bars, one asset,
all costs on; rows d and e train the encoder in the first epoch only, with 16 minibatches. Every design takes the
micro-batch that suits it best. The chunk pass runs 64 paths, the window designs 16: they take one or two paths at a
time, so that changes nothing but the wait. Run it alone on the machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import peers
from benchmarks.recording import record
from benchmarks.windowed import make_window_policy
from jaxppo.config import PPOConfig
from jaxppo.envs import simulators
from jaxppo.envs.execution.costs import Costs, make_costs
from jaxppo.envs.market import features
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.policy.networks import EncoderConfig, make_actor_critic
from jaxppo.ppo import data_mesh, make_learner, trading_task
from jaxppo.ppo.iteration import TrainState
from jaxppo.ppo.learner import Learner
from jaxppo.ppo.trading_task import action_config

LEVELS = (-1.0, -0.5, 0.0, 0.5, 1.0)

PATHS, WINDOW_PATHS, CHUNK, LAYERS, HEADS = 64, 16, 128, 2, 8
PHASIC = {"encoder_epochs": 1, "minibatches": 16}
"""As many steps of the encoder as 4 epochs of 4 minibatches; agents learn as well, see `benchmarks.learning phasic`."""


def all_costs() -> Costs:
    """Every cost that the environment knows, switched on."""
    return make_costs(
        commission_bps=1.0,
        commission_per_share=0.001,
        commission_minimum=0.01,
        slippage=0.02,
        impact=0.6,
        participation_limit=0.1,
        borrow_rate=0.01,
        margin_rate=0.05,
    )


def iterations_in_turn(built: dict[str, tuple[Learner, TrainState, Any]], repetitions: int) -> dict[str, list[float]]:
    """Seconds of training iterations of several learners that take turns; each compiles in a turn that does not count.

    Args:
      built: name -> learner, first state (donated) and parameters of its environment.
      repetitions: that count.
    """
    states = {name: state for name, (_, state, _) in built.items()}
    seconds: dict[str, list[float]] = {name: [] for name in built}
    for turn in range(repetitions + 1):
        for name, (learner, _, params) in built.items():
            started = time.perf_counter()
            states[name], metrics = learner.iterate(states[name], params, jnp.float32(0.0))
            jax.block_until_ready((states[name], metrics))
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def median_seconds(run: Callable[[], object], repeats: int) -> float:
    """Median wall time of `run` after one warm-up call."""
    jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def trading_learner(
    design: str, window: int, width: int, portfolios: int, micro: int, paths: int
) -> tuple[Learner, TrainState, Any]:
    """Learner, first state and market; `design` is "chunk", "chunk, phasic", "window" or "window, last query"."""
    sizes = tuple(s.stop - s.start for s in features.group_slices(features.GROUPS).values())
    encoder = EncoderConfig("transformer", sizes, width, LAYERS, HEADS, window, 2, True, jnp.dtype("float32"))
    env = TradingEnv(levels=LEVELS, observation="index", window=encoder.context, start="random")
    action = action_config(env, 0.6)
    if design.startswith("chunk"):
        policy, net = make_actor_critic(encoder, action, jax.random.key(0))
    else:
        policy, net = make_window_policy(encoder, action, jax.random.key(0), last_query=design != "window")
    phasic = PHASIC if design == "chunk, phasic" else {}
    config = PPOConfig(paths=paths, portfolios=portfolios, chunk=CHUNK, micro_batch=micro, **phasic)
    learner = make_learner(trading_task(policy, env, config), config, data_mesh(jax.devices()[:1]))
    market = simulators.gbm(jax.random.key(1), 4000, 1)
    params = learner.replicate(env.make_params(market, all_costs(), episode_bars=2 * CHUNK))
    return learner, learner.init(net, 0, params), params


def end_to_end(design: str, window: int, width: int, portfolios: int, micro: int, repeats: int, paths: int) -> float:
    """Environment steps per second of `Learner.iterate`; for `design` see `trading_learner`."""
    learner, first, params = trading_learner(design, window, width, portfolios, micro, paths)
    state = [first]

    def iterate() -> object:
        state[0], metrics = learner.iterate(state[0], params, jnp.float32(0.0))
        return metrics

    return learner.steps_per_iteration / median_seconds(iterate, repeats)


def best_micro_batch(design: str, window: int, width: int, portfolios: int, repeats: int) -> dict[str, float]:
    """Steps per second of a design at the micro-batch that suits it best."""
    micro_batches = {"chunk": (4, 8), "chunk, phasic": (2, 4)}.get(design, (1, 2))
    paths = PATHS if design.startswith("chunk") else WINDOW_PATHS
    rates = {m: end_to_end(design, window, width, portfolios, m, repeats, paths) for m in micro_batches}
    micro = max(rates, key=rates.get)
    return {"steps_per_second": rates[micro], "micro_batch": micro, "paths": paths, "portfolios": portfolios}


def environment_only(n_assets: int, n_envs: int, n_steps: int, repeats: int) -> float:
    """Steps per second of `TradingEnv.step` with automatic resets, all costs on.

    Random actions are drawn beforehand, as the peers' are. So is the observation like theirs, an array of the bar's
    technical indicators and the account; it is part of the scan's carry, so every step has to build it.
    """
    env = TradingEnv(
        start="flat",
        levels=LEVELS,
        n_assets=n_assets,
        observation="window",
        window=1,
        groups=("technical",),
    )
    market = simulators.gbm(jax.random.key(1), 4000, n_assets)
    params = env.make_params(market, all_costs(), episode_bars=256)
    shape = (n_steps, n_envs) if n_assets == 1 else (n_steps, n_envs, n_assets)
    actions = jax.random.randint(jax.random.key(1), shape, 0, env.num_actions)

    @jax.jit
    def run(key: jax.Array, actions: jax.Array) -> tuple[jax.Array, jax.Array]:
        def one(carry, xs):
            states, total, _ = carry
            step_key, actions = xs
            step_keys = jax.random.split(step_key, n_envs)
            step = jax.vmap(env.step, in_axes=(0, 0, 0, None))
            observation, states, reward, _, _, _ = step(step_keys, states, actions, params)
            return (states, total + reward, observation), None

        key_reset, key_steps = jax.random.split(key)
        seen, states = jax.vmap(env.reset, in_axes=(0, None))(jax.random.split(key_reset, n_envs), params)
        keys = jax.random.split(key_steps, n_steps)
        (_, total, seen), _ = jax.lax.scan(one, (states, jnp.zeros(n_envs), seen), (keys, actions))
        return total, seen

    seconds = median_seconds(lambda: run(jax.random.key(0), actions), repeats)
    return n_envs * n_steps / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--skip-peers", action="store_true")
    chosen = parser.parse_args()
    rows = {
        "a: window, every step": best_micro_batch("window", chosen.window, chosen.width, 1, 1),
        "a: window, last query only": best_micro_batch("window, last query", chosen.window, chosen.width, 1, 1),
        "b: chunk, K=1": best_micro_batch("chunk", chosen.window, chosen.width, 1, chosen.repeats),
        "c: chunk, K=8": best_micro_batch("chunk", chosen.window, chosen.width, 8, chosen.repeats),
        "d: chunk, K=1, encoder in 1 epoch of 4": best_micro_batch(
            "chunk, phasic", chosen.window, chosen.width, 1, chosen.repeats
        ),
        "e: chunk, K=8, encoder in 1 epoch of 4": best_micro_batch(
            "chunk, phasic", chosen.window, chosen.width, 8, chosen.repeats
        ),
    }
    for name, row in rows.items():
        row["times_window"] = row["steps_per_second"] / rows["a: window, every step"]["steps_per_second"]
        row["times_best_window"] = row["steps_per_second"] / rows["a: window, last query only"]["steps_per_second"]
        print(
            f"{name:40}{row['steps_per_second']:>12,.0f}/s{row['times_window']:>8.1f}x{row['times_best_window']:>8.1f}x"
        )
    env_rows = {
        "jaxppo, 1 asset": environment_only(1, 16384, 256, chosen.repeats),
        "jaxppo, 30 assets": environment_only(30, 1024, 256, chosen.repeats),
    }
    if not chosen.skip_peers:
        env_rows |= peers.measure(seconds=3.0)
    for name, value in env_rows.items():
        print(f"{name:40}{value:>12,.0f}/s")
    content = {"window": chosen.window, "width": chosen.width, "chunk": CHUNK, "layers": LAYERS}
    name = "throughput" if chosen.window == 64 else f"throughput_window{chosen.window}"
    path = record(name, {**content, "heads": HEADS, "end_to_end": rows, "environment_only": env_rows})
    print(f"wrote {path}")


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
