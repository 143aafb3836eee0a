"""Rules that a result is compared with."""

from __future__ import annotations

import jax

from jaxppo.backtest.account import AccountRules
from jaxppo.backtest.ledger import Ledger
from jaxppo.backtest.simulate import simulate_account
from jaxppo.envs.trading.types import EnvParams
from jaxppo.policy import rules as policies
from jaxppo.policy.protocol import Policy


def baseline_policies(target_volatility: float, max_leverage: float) -> dict[str, Policy]:
    """Name -> rule that needs no learning.

    Args:
      target_volatility: per year, fraction of equity.
      max_leverage: largest gross exposure, multiple of equity.
    """
    return {
        "buy_and_hold": policies.buy_and_hold(),
        "flat": policies.flat(),
        "volatility_target": policies.volatility_target(target_volatility, gross=max_leverage),
    }


def run_baselines(
    rules: AccountRules, params: EnvParams, first: jax.Array, n_bars: int, target_volatility: float
) -> dict[str, Ledger]:
    """Runs the baselines over a period, under the same costs and fills, without masks.

    Args:
      rules: of the account they are compared with; a baseline that breaches a monitored limit trades on.
      params: the market and its costs.
      first: `[]` int32, first decision bar.
      n_bars: number of bars.
      target_volatility: per year, fraction of equity.
    """
    unlimited = rules._replace(limited=False)
    rows = baseline_policies(target_volatility, float(params.costs.max_leverage))
    return {name: simulate_account(policy, unlimited, params, first, n_bars) for name, policy in rows.items()}
