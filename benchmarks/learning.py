"""Does it learn, and does the chunk pass learn as well as a window per step?

    python -m benchmarks.learning factor|flat|designs|phasic|batches [--seeds 3]

`factor`: simulated market whose volume reveals a mean-reverting return factor through noise; score on unseen markets
in % of the best achievable Sharpe ratio (Kalman filter, linear policy, no limits). `flat`: driftless random walk with
costs; the agent should stop trading. `designs`: the factor market at equal environment steps and equal context, chunk
against window. `phasic`: the factor market with an encoder that is trained in all epochs or in the first one only, in 4
and in 16 minibatches. `batches`: the factor market with one to four times the paths, at an equal number of iterations.
The first seed of a design includes its compilation in `seconds`.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.recording import record
from benchmarks.windowed import make_window_policy
from jaxppo.backtest.account import AccountRules
from jaxppo.backtest.simulate import simulate_account
from jaxppo.config import PPOConfig
from jaxppo.envs import simulators
from jaxppo.envs.execution.costs import Costs, basic_costs
from jaxppo.envs.market import features
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.policy.agent import agent
from jaxppo.policy.networks import EncoderConfig, make_actor_critic
from jaxppo.ppo import Learner, data_mesh, make_learner, trading_task
from jaxppo.ppo.trading_task import action_config

FACTOR = {"strength": 0.15, "persistence": 0.9, "signal_noise": 0.5, "volatility": 0.01}
FACTOR_PPO = PPOConfig(
    paths=64,
    portfolios=8,
    chunk=64,
    micro_batch=4,
    learning_rate=1e-3,
    gamma=0.9,
    gae_lambda=0.9,
    reward_scale=10.0,
)
PHASIC = {
    "all epochs": {},
    "all epochs, 16 minibatches": {"minibatches": 16},
    "first epoch": {"encoder_epochs": 1},
    "first epoch, 16 minibatches": {"encoder_epochs": 1, "minibatches": 16},
}
"""Changes to `FACTOR_PPO`, which has 4 epochs of 4 minibatches."""
FEWEST = 32
BATCHES = {f"{paths} paths": {"paths": paths} for paths in (FEWEST, 2 * FEWEST, 4 * FEWEST)}
"""Changes to `FACTOR_PPO`; `--steps` are those of the fewest paths."""
LIMIT = 15.0
TRAIN_BARS, TEST_BARS, TEST_MARKETS = 200_000, 3_000, 8
LEVELS = tuple(float(level) for level in np.linspace(-1.0, 1.0, 7))


def encoder_config(window: int) -> EncoderConfig:
    """Two layers, width 32, four heads."""
    sizes = tuple(s.stop - s.start for s in features.group_slices(features.GROUPS).values())
    return EncoderConfig("transformer", sizes, 32, 2, 4, window, 2, True, jnp.dtype("float32"))


@dataclasses.dataclass(frozen=True)
class Design:
    """A compiled learner that all seeds share; `fresh` draws initial parameters from a key."""

    policy: Any
    env: TradingEnv
    learner: Learner
    fresh: Callable[[jax.Array], Any]


def build(design: str, limit: float, config: PPOConfig) -> Design:
    """Sliding windows of 16 bars give the chunk pass a context of 31 bars; the window design reads exactly those 31."""
    encoder = encoder_config(16)
    env = TradingEnv(observation="index", window=encoder.context, start="random", levels=LEVELS, position_limit=limit)
    action = action_config(env, 0.6)

    def both(key: jax.Array) -> tuple[Any, Any]:
        if design == "chunk":
            return make_actor_critic(encoder, action, key)
        return make_window_policy(encoder_config(encoder.context), action, key, last_query=True)

    policy, _ = both(jax.random.key(0))
    learner = make_learner(trading_task(policy, env, config), config, data_mesh(jax.devices()[:1]))
    return Design(policy, env, learner, lambda key: both(key)[1])


def train_and_test(
    design: Design, train: MarketData, tests: list[MarketData], costs: Costs, chunk: int, steps: int, seed: int
) -> dict[str, float]:
    """Trains for `steps` environment steps; per-bar Sharpe, turnover and exposure over the test markets."""
    policy, env, learner = design.policy, design.env, design.learner
    started = time.perf_counter()
    params = learner.replicate(env.make_params(train, costs, episode_bars=4 * chunk))
    state = learner.init(design.fresh(jax.random.key(seed)), seed, params)
    iterations = -(-steps // learner.steps_per_iteration)
    for i in range(iterations):
        state, metrics = learner.iterate(state, params, jnp.float32(i / iterations))
    jax.block_until_ready(metrics)
    seconds = time.perf_counter() - started
    first = env.first_decision
    ledgers = []
    for test in tests:
        where = (env.make_params(test, costs), jnp.int32(first), test.n_bars - 1 - first)
        ledgers.append(simulate_account(agent(policy, state.params, env, "mean"), AccountRules(env, 252.0), *where))
    returns = np.concatenate([ledger.returns for ledger in ledgers])
    return {
        "seed": seed,
        "sharpe_per_bar": float(returns.mean() / max(returns.std(), 1e-12)),
        "mean_return_per_bar": float(returns.mean()),
        "turnover_per_bar": float(np.mean([np.mean(ledger.turnover) for ledger in ledgers])),
        "gross_exposure": float(np.mean([np.abs(ledger.weights).sum(axis=-1).mean() for ledger in ledgers])),
        "env_steps": iterations * learner.steps_per_iteration,
        "seconds": seconds,
    }


def factor_score(design: Design, seed: int, steps: int, chunk: int) -> dict[str, float]:
    """One agent on the factor market; `score` is the share of the best achievable Sharpe ratio."""
    train = simulators.predictable_factor(jax.random.key(1000 + seed), TRAIN_BARS, **FACTOR)
    tests = [simulators.predictable_factor(jax.random.key(2000 + i), TEST_BARS, **FACTOR) for i in range(TEST_MARKETS)]
    costs = basic_costs(max_leverage=LIMIT, maintenance_margin=0.0)
    result = train_and_test(design, train, tests, costs, chunk, steps, seed)
    best = simulators.predictable_factor_sharpe(
        FACTOR["strength"], FACTOR["persistence"], FACTOR["signal_noise"], volatility=FACTOR["volatility"]
    )
    return {**result, "best_sharpe_per_bar": best, "score": result["sharpe_per_bar"] / best}


def flat_score(design: Design, seed: int, steps: int, chunk: int) -> dict[str, float]:
    """One agent on a driftless geometric random walk that charges 10 basis points per trade."""
    train = simulators.gbm(jax.random.key(3000 + seed), TRAIN_BARS)
    tests = [simulators.gbm(jax.random.key(4000 + i), TEST_BARS) for i in range(TEST_MARKETS)]
    return train_and_test(design, train, tests, basic_costs(commission_bps=10.0), chunk, steps, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=("factor", "flat", "designs", "phasic", "batches"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2_000_000)
    chosen = parser.parse_args()
    config = FACTOR_PPO
    one_run, limit = factor_score, LIMIT
    if chosen.experiment == "flat":  # what a position costs without trades is small beside a bonus on entropy
        one_run, limit, config = flat_score, 1.0, config.model_copy(update={"entropy_coefficient": 0.0})
    rows: dict[str, list[dict[str, float]]] = {}
    changes: dict[str, dict[str, Any]] = {"phasic": PHASIC, "batches": BATCHES}.get(chosen.experiment, {})
    names = ("chunk", "window") if chosen.experiment == "designs" else tuple(changes) or ("chunk",)
    for name in names:
        changed = config.model_copy(update=changes.get(name, {}))
        design = build(name if name == "window" else "chunk", limit, changed)
        steps = chosen.steps * (changed.paths // FEWEST if name in BATCHES else 1)
        rows[name] = [one_run(design, seed, steps, config.chunk) for seed in range(chosen.seeds)]
    key = "turnover_per_bar" if chosen.experiment == "flat" else "score"
    summary = {}
    for name, runs in rows.items():
        values = [run[key] for run in runs]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        summary[name] = {f"{key}_mean": statistics.mean(values), f"{key}_standard_deviation": spread}
        for run in runs:
            print(name, {k: round(v, 5) for k, v in run.items()})
        print(name, summary[name])
    content = {"ppo": config.model_dump(), "summary": summary, "runs": rows}
    print(f"wrote {record(f'learning_{chosen.experiment}', content)}")


if __name__ == "__main__":
    main()
