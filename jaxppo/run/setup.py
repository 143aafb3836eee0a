"""What training and evaluation of a run share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxppo.config import Config, PathwiseConfig, PPOConfig
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.types import EnvParams
from jaxppo.policy.networks.actor_critic import ActorCritic, Params, make_actor_critic
from jaxppo.policy.networks.config import EncoderConfig
from jaxppo.policy.networks.head import ActionConfig
from jaxppo.ppo.iteration import schedule_left
from jaxppo.risk.monitor import NO_MONITOR, Monitor
from jaxppo.risk.rewards import NO_MOMENTS, BaseMoments
from jaxppo.run.periods import Period

TRADING = "trading"
"""`env.name` of a `TradingEnv`."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """What training and evaluation share.

    Attributes:
      config: the configuration, with what the first period decides filled in (`policy.bar_seconds`, `regimes.model`).
      market: the prices.
      env: the environment, with indexed observations.
      params: tables and costs over the whole market; `period_params` restricts them.
      periods: `train`, `validation`, `test`.
      periods_per_year: bars per year, for annualised figures.
      encoder: shape of the network.
      action: what its head parameterises.
      ppo: hyper-parameters with the device's choices filled in.
      devices: devices to train on.
      regimes: `[T, A, 4]` probabilities of the regimes at every close; None without regimes.
      monitor: the monitored limits.
      moments: of the base in the training period; those of no base without one.
    """

    config: Config
    market: MarketData
    env: TradingEnv
    params: EnvParams
    periods: dict[str, Period]
    periods_per_year: float
    encoder: EncoderConfig
    action: ActionConfig
    ppo: PPOConfig
    devices: list[jax.Device]
    regimes: jax.Array | None = None
    monitor: Monitor = NO_MONITOR
    moments: BaseMoments = NO_MOMENTS

    def period_params(self, name: str) -> EnvParams:
        """`params` restricted to a period."""
        period = self.periods[name]
        return self.params.replace(
            first_bar=jnp.asarray(period.first, jnp.int32), last_bar=jnp.asarray(period.last, jnp.int32)
        )


def with_bar_seconds(config: Config, seconds: float | None) -> Config:
    """The configuration with the time between its bars.

    Args:
      config: of the run.
      seconds: between two bars; None leaves it to the data.
    """
    return config.model_copy(update={"policy": config.policy.model_copy(update={"bar_seconds": seconds})})


def as_started(config: Config, saved: Config) -> Config:
    """The configuration with what the data decided when a run was started.

    Args:
      config: of the run that goes on.
      saved: of the run as it was started.
    """
    if config.policy.bar_seconds is None:
        config = with_bar_seconds(config, saved.policy.bar_seconds)
    if config.regimes.model is None and config.regimes.states == saved.regimes.states:
        config = config.model_copy(update={"regimes": config.regimes.model_copy(update={"model": saved.regimes.model})})
    return config


def dropout_rate(config: Config) -> Callable[[jax.Array], jax.Array] | None:
    """Rate of dropout `[]` after a share `[]` of the budget; None where nothing is ever dropped."""
    policy = config.policy
    # A traced rate is no number that could be compared here.
    at_start, at_end = (isinstance(rate, jax.Array) or rate != 0.0 for rate in (policy.dropout, policy.dropout_final))
    if not at_start and (policy.dropout_schedule == "constant" or not at_end):
        return None
    span = policy.dropout - policy.dropout_final

    def rate(progress: jax.Array) -> jax.Array:
        return policy.dropout_final + span * schedule_left(policy.dropout_schedule, progress)

    return rate


def first_policy(setup: Setup) -> tuple[ActorCritic, Params]:
    """The run's policy, and its parameters before any training."""
    key, critic = jax.random.key(setup.config.seed), {"hindsight": setup.ppo.hindsight_critic}
    return make_actor_critic(setup.encoder, setup.action, key, **critic, quantiles=setup.config.policy.quantiles)


def pathwise_of(config: Config) -> PathwiseConfig | None:
    """Keys of the pathwise learner; None where PPO learns alone."""
    if config.training.learner != "pathwise":
        return None
    explore = config.pathwise.explore
    explore = config.env.actions == "band" and config.env.name == TRADING if explore is None else explore
    return config.pathwise.model_copy(update={"explore": explore})


def step_budget(config: Config) -> int | None:
    """Budget in environment steps, or None where it is wall time."""
    if config.training.steps is not None:
        return config.training.steps
    if config.training.episodes is not None:
        return config.training.episodes * config.env.episode_chunks * config.ppo.chunk
    return None
