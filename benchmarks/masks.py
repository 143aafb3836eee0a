"""What masks cost: training iterations without them, with masks of single assets, and with budgets that assets share.

    python -m benchmarks.masks [--repetitions 12]

The quick start's learner (32 paths x 8 portfolios x 64 bars, transformer of two layers of width 64, window 32) on a
simulated market of five assets. The three take turns in one process; the median counts. Run it alone on the machine.
"""

from __future__ import annotations

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.recording import record
from benchmarks.throughput import all_costs, iterations_in_turn
from jaxppo import masks
from jaxppo.config import PPOConfig
from jaxppo.envs import simulators
from jaxppo.envs.market import features
from jaxppo.envs.market.regimes import rule_regimes
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.masks import MarketView, MaskTransform
from jaxppo.policy.networks import EncoderConfig, make_actor_critic
from jaxppo.ppo import data_mesh, make_learner, trading_task
from jaxppo.ppo.iteration import TrainState
from jaxppo.ppo.learner import Learner
from jaxppo.ppo.trading_task import action_config

N_ASSETS, PERIODS = 5, 252.0
SIDES = {"crisis": (0.0, 0.5), "bear": (-0.5, 0.5)}
CHAINS: dict[str, tuple[MaskTransform, ...]] = {
    "none": (),
    "five, each asset alone": (
        masks.regime(SIDES),
        masks.volatility_cap(0.1),
        masks.liquidity(spread=1e-3, participation=0.05),
        masks.holding_period(minimum=2),
        masks.halt(move=0.1, bars=5),
    ),
    "five, shared budgets": (
        masks.regime(SIDES),
        masks.volatility_cap(0.1),
        masks.risk_budget(gross=0.9, net=(-0.3, 0.8), volatility=0.2, drawdown_budget=0.3),
        masks.turnover(0.5, window=10),
        masks.holding_period(minimum=2),
    ),
}


def learner_under(chain: tuple[MaskTransform, ...]) -> tuple[Learner, TrainState, Any]:
    """Learner, first state and market."""
    sizes = tuple(s.stop - s.start for s in features.group_slices(features.GROUPS).values())
    encoder = EncoderConfig("transformer", sizes, 64, 2, 8, 32, 2, True, jnp.dtype("float32"))
    transform = masks.chain(*chain) if chain else None
    env = TradingEnv(
        levels=(-1.0, -0.5, 0.0, 0.5, 1.0),
        n_assets=N_ASSETS,
        observation="index",
        window=encoder.context,
        start="random",
        position_limit=0.4,
        masks=transform,
    )
    policy, net = make_actor_critic(encoder, action_config(env, 0.6), jax.random.key(0))
    config = PPOConfig(paths=32, portfolios=8, chunk=64, micro_batch=2)
    learner = make_learner(trading_task(policy, env, config), config, data_mesh(jax.devices()[:1]))
    market = simulators.gbm(jax.random.key(1), 3000, N_ASSETS)
    view = MarketView(market, PERIODS, env.position_limit, rule_regimes(market))
    table = () if transform is None else transform.table(view)
    params = learner.replicate(env.make_params(market, all_costs(), episode_bars=128, masks=table))
    return learner, learner.init(net, 0, params), params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=12)
    chosen = parser.parse_args()
    built = {name: learner_under(chain) for name, chain in CHAINS.items()}
    seconds = iterations_in_turn(built, chosen.repetitions)
    median = {name: float(np.median(taken)) for name, taken in seconds.items()}
    ratio = {name: median[name] / median["none"] for name in built}
    print({name: round(x, 3) for name, x in median.items()}, {name: round(x, 3) for name, x in ratio.items()})
    print(record("masks", {"over_none": ratio, "median_seconds": median, "seconds": seconds}))


if __name__ == "__main__":
    main()
