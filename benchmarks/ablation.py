"""Which parts of the policy pay: every part taken away or added alone, at equal environment steps.

    python -m benchmarks.ablation "long lag"|lead-lag|PRICES [--seeds 3] [--steps 1000000] [--designs NAME ...]

`long lag`: volumes of 30 to 39 bars ago predict the next return; the signals of consecutive bars overlap, so recent
returns say something too. `lead-lag`: the first of three assets leads the others by one bar. The score is the Sharpe
ratio on unseen markets as a share of that of an oracle that knows the signal and its strength and has the same limits.
PRICES is a file of real prices: the last quarter is the test, the score its annual Sharpe ratio after costs.
Everything trains with the settings of `benchmarks.learning`; means come with standard errors over seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.learning import FACTOR_PPO, LEVELS, Design, train_and_test
from benchmarks.recording import record
from jaxppo import envs
from jaxppo.backtest.account import AccountRules
from jaxppo.backtest.simulate import simulate_account
from jaxppo.envs.execution.costs import Costs, basic_costs
from jaxppo.envs.market import features
from jaxppo.envs.market.market_data import MarketData, slice_bars
from jaxppo.envs.market.periods import periods_per_year
from jaxppo.envs.simulators.structured import delayed_signal, lead_lag
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.policy.arrays import from_array
from jaxppo.policy.networks import EncoderConfig, make_actor_critic
from jaxppo.ppo import data_mesh, make_learner, trading_task
from jaxppo.ppo.trading_task import action_config

STRENGTH, VOLATILITY, LIMIT = 0.25, 0.01, 5.0
TRAIN_BARS, TEST_BARS, TEST_MARKETS = 100_000, 1_500, 16
DESIGNS: dict[str, dict[str, Any]] = {
    "perceptron on the current bar": {"kind": "mlp"},
    "transformer": {},
    "one layer": {"layers": 1},
    "window of 16": {"window": 16},
    "window of 16 and levels of 5, 20": {"window": 16, "coarse_pools": (5, 20), "coarse_window": 8},
    "levels of 5, 20": {"coarse_pools": (5, 20), "coarse_window": 8},
    "no attention across assets": {"asset_attention": False},
    "no positions": {"positions": "none"},
    "rotary on rows": {"positions": "rotary_rows"},
    "ALiBi": {"positions": "alibi"},
    "sinusoidal bias": {"positions": "sinusoidal"},
    "learned bias": {"positions": "learned"},
    "dropout of 10 %, falling": {"dropout": 0.1},
    "FiLM": {"portfolio": "film"},
    "cross-attention to the portfolio": {"portfolio": "cross_attention"},
}


@dataclasses.dataclass(frozen=True)
class Task:
    """Markets to train and to test on; `oracle` is the score of 1 in Sharpe ratio per bar."""

    train: Callable[[int], MarketData]
    tests: list[MarketData]
    costs: Costs
    limit: float
    bar_seconds: float
    oracle: float
    unit: str


def encoder_config(task: Task, changes: dict[str, Any]) -> EncoderConfig:
    """Two layers of width 32, four heads, 32 bars."""
    sizes = tuple(s.stop - s.start for s in features.group_slices(features.GROUPS).values())
    base = EncoderConfig("transformer", sizes, 32, 2, 4, 32, 2, True, jnp.dtype("float32"))
    own = {name: value for name, value in changes.items() if name != "dropout"}
    return dataclasses.replace(base, **{"bar_seconds": task.bar_seconds, **own})


def trading_env(task: Task) -> TradingEnv:
    """The same for all designs, so that all are tested on the same bars."""
    longest = max(encoder_config(task, changes).context for changes in DESIGNS.values())
    return TradingEnv(
        n_assets=task.tests[0].n_assets,
        observation="index",
        window=longest,
        start="random",
        levels=LEVELS,
        position_limit=task.limit,
    )


def build(task: Task, changes: dict[str, Any]) -> Design:
    encoder, env = encoder_config(task, changes), trading_env(task)
    action = action_config(env, 0.6)
    policy, _ = make_actor_critic(encoder, action, jax.random.key(0))
    dropout = (lambda progress: changes["dropout"] * (1.0 - progress)) if "dropout" in changes else None
    learner = make_learner(trading_task(policy, env, FACTOR_PPO, dropout), FACTOR_PPO, data_mesh(jax.devices()[:1]))
    return Design(policy, env, learner, lambda key: make_actor_critic(encoder, action, key)[1])


def simulated(name: str) -> Task:
    """A structured market; the oracle takes the growth-optimal weights within the limits, by the same accounting."""

    def draw(key: jax.Array, n_bars: int) -> tuple[MarketData, jax.Array]:
        if name == "long lag":
            return delayed_signal(key, n_bars, strength=STRENGTH, volatility=VOLATILITY)
        return lead_lag(key, n_bars, strength=STRENGTH, volatility=VOLATILITY)

    drawn = [draw(jax.random.key(2000 + i), TEST_BARS) for i in range(TEST_MARKETS)]
    costs = basic_costs(max_leverage=LIMIT * drawn[0][0].n_assets, maintenance_margin=0.0)
    task = Task(
        train=lambda seed: draw(jax.random.key(1000 + seed), TRAIN_BARS)[0],
        tests=[market for market, _ in drawn],
        costs=costs,
        limit=LIMIT,
        bar_seconds=86_400.0,
        oracle=1.0,
        unit="of the oracle's Sharpe ratio",
    )
    env = trading_env(task)

    def follow(params: Any, signal: jax.Array) -> jax.Array:
        oracle = from_array(jnp.clip(STRENGTH / VOLATILITY * signal, -LIMIT, LIMIT), name="oracle")
        first = env.first_decision
        rules = AccountRules(env, 252.0)
        return simulate_account(oracle, rules, params, jnp.int32(first), TEST_BARS - 1 - first).equity

    equity = [np.asarray(follow(env.make_params(market, costs), signal), np.float64) for market, signal in drawn]
    returns = np.concatenate([x[1:] / x[:-1] - 1.0 for x in equity])
    return dataclasses.replace(task, oracle=float(returns.mean() / returns.std()))


def real(path: str) -> Task:
    """Prices from a file, with a commission of one basis point and the spread; three quarters to train on."""
    market = envs.load_market(path)
    split = 3 * market.n_bars // 4
    seconds = np.asarray(market.seconds_since_previous)
    return Task(
        train=lambda seed: slice_bars(market, 0, split),
        tests=[slice_bars(market, split, market.n_bars)],
        costs=basic_costs(commission_bps=1.0),
        limit=1.0 / market.n_assets,
        bar_seconds=float(np.median(seconds[seconds > 0])),
        oracle=periods_per_year(market) ** -0.5,
        unit="annual Sharpe ratio",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("market", help="'long lag', 'lead-lag' or a file of prices")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--designs", nargs="+", choices=tuple(DESIGNS), default=list(DESIGNS))
    chosen = parser.parse_args()
    is_simulated = chosen.market in ("long lag", "lead-lag")
    task = simulated(chosen.market) if is_simulated else real(chosen.market)
    name = chosen.market.replace(" ", "_") if is_simulated else pathlib.Path(chosen.market).name.split(".")[0]
    rows = {}
    for design, changes in ((design, DESIGNS[design]) for design in chosen.designs):
        built, runs = build(task, changes), []
        for seed in range(chosen.seeds):
            run = train_and_test(built, task.train(seed), task.tests, task.costs, FACTOR_PPO.chunk, chosen.steps, seed)
            runs.append({**run, "score": run["sharpe_per_bar"] / task.oracle})
        scores = [run["score"] for run in runs]
        error = statistics.stdev(scores) / len(scores) ** 0.5 if len(scores) > 1 else None
        rows[design] = {"score_mean": statistics.mean(scores), "standard_error": error, "runs": runs}
        print(f"{design:36}", [round(score, 3) for score in scores], f"{runs[-1]['seconds']:.0f} s", flush=True)
        jax.clear_caches()
    settings = {"market": name, "steps": chosen.steps, "unit": task.unit, "oracle_sharpe_per_bar": task.oracle}
    content = {**settings, "ppo": FACTOR_PPO.model_dump(), "designs": DESIGNS, "rows": rows}
    print(f"wrote {record(f'ablation_{name}', content)}")


if __name__ == "__main__":
    main()
