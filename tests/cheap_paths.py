"""Monte Carlo paths that take no time: one asset, ten bars, equal weights."""

import jax

from jaxppo import envs
from jaxppo.backtest import plain_conditions
from jaxppo.envs import simulators
from jaxppo.envs.simulators.generators import stationary_bootstrap
from jaxppo.monte_carlo import Paths
from jaxppo.policy.rules import equal_weight

N_PATHS, N_BARS, WARMUP = 22, 10, 3


def make(volatility=0.02):
    """The paths, on markets of a history with some volatility."""
    market = simulators.gbm(jax.random.key(0), 60, 1, volatility=volatility)
    generator = stationary_bootstrap(market, WARMUP + N_BARS + 1, mean_block=5.0)
    conditions = plain_conditions(1, periods=252.0, costs=envs.basic_costs(commission_bps=2.0))
    policy = equal_weight()._replace(warmup=WARMUP)
    return Paths(policy, conditions, generator, N_BARS, batch_size=4, points=2)


def make_compiled(quickly):
    """The paths on a worker, which does not know how tests are compiled."""
    jax.config.update("jax_disable_most_optimizations", quickly)
    return make()
