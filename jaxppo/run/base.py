"""What the policy of a run tilts around."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jaxppo.book.base import base_returns
from jaxppo.config import Config
from jaxppo.config.base import BaseConfig
from jaxppo.config.book import RunStrategy
from jaxppo.config.items import OWN
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.types import EnvParams
from jaxppo.envs.trading.view import MarketView
from jaxppo.errors import ConfigError
from jaxppo.policy import rules
from jaxppo.policy.protocol import Policy
from jaxppo.risk.rewards import NO_MOMENTS, BaseMoments
from jaxppo.run.own import own_policy
from jaxppo.run.periods import Period
from jaxppo.run.setup import Setup


def make_base(base: BaseConfig, open_run: Callable[[RunStrategy], Policy]) -> Policy:
    """The configured base.

    Args:
      base: its key.
      open_run: opens an agent that was trained before.

    Raises:
      ConfigError: a function that is not found or returns no policy.
    """
    if base.kind == "run":
        return open_run(base.values)
    if base.kind == OWN:
        return own_policy(base.values, "policy.base")
    try:
        return getattr(rules, base.kind)(**dict(base.values))
    except ValueError as error:
        raise ConfigError(f"policy.base.{base.kind}: {error}") from None


def moments_of_base(
    config: Config, policy: Policy | None, env: TradingEnv, params: EnvParams, view: MarketView, period: Period
) -> BaseMoments:
    """Moments of the returns of the base in the training period, as far as a reward reads them.

    Args:
      config: of the run.
      policy: of the base.
      env: what it trades in.
      params: the market, its costs and the cash.
      view: of the market.
      period: of training.
    """
    if policy is None or not any(item.kind == "active_utility" for item in config.rewards):
        return NO_MOMENTS
    returns = np.asarray(base_returns(policy, env, params, view, period.first, period.n_bars), np.float64)
    return BaseMoments(float(returns.mean()), float(returns.var()))


def base_policy(setup: Setup) -> Policy:
    """The policy that a run falls back to, and that its agent is measured against, in an account of the run.

    Args:
      setup: of the run; with a base, its environment adds the base to whatever is decided, so that the policy that
        takes no position trades the base.
    """
    del setup
    return rules.flat()
