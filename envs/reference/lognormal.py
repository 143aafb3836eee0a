"""Base of the problems that run through the trading environment on lognormal bars."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.envs import simulators
from jaxppo.envs.execution.costs import Costs, basic_costs
from jaxppo.envs.market.market_data import SECONDS_PER_YEAR, MarketData
from jaxppo.envs.reference.parameters import positive
from jaxppo.envs.reference.problem import Problem
from jaxppo.envs.trading.bar import LARGEST_LOSS
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.types import EnvParams, EnvState

RUIN_DEVIATIONS = 8.0
"""Standard deviations of a bar against an allowed weight that the account must survive: one bar in 10^15."""

LONGEST_TABLE = 4096
LARGEST_LOG_PRICE = 60.0
"""Prices must stay within `exp(+-60)`, the range in which float32 prices are exact."""


def utility(log_growth: np.ndarray, risk_aversion: float) -> np.ndarray:
    """Utility `(G^(1 - a) - 1) / (1 - a)` of a growth G, float64; the logarithm for a = 1.

    Args:
      log_growth: log G, any shape.
      risk_aversion: a, relative, > 0.
    """
    power = 1.0 - risk_aversion
    return log_growth if power == 0.0 else np.expm1(power * log_growth) / power


class LognormalProblem(Problem):
    """A problem of `TradingEnv` on bars of geometric Brownian motion, `log(S'/S) ~ N((mu - sigma^2/2) dt, sigma^2 dt)`.

    A bar opens at the previous close, so an order fills at the price at which it was decided; there is no spread,
    slippage or impact. Cash earns nothing: prices are in units of the riskless account, and drifts are in excess of
    its rate (for constant relative risk aversion nothing is lost by that).

    `params` holds one realised table; values are expectations over tables. Draw a new one by
    `params_for(market(key))`, which compiles and may be `vmap`ped over keys, or a copy of the problem by `on_market`.

    Args:
      drift: excess log of the expected gross return, per unit of time; `[A]`, or a number for one asset.
      volatility: per square root of a unit of time, > 0; likewise.
      correlation: `[A, A]` of the log returns; default: the identity.
      risk_aversion: of the reward of `TradingEnv`; 1 is the log growth of a bar.
      dt: length of a bar in units of time (years), > 0.
      horizon: bars of an episode, >= 1.
      n_bars: bars of a table, at least `horizon` and those before its first decision; default: 4096, or as many as
        float32 prices can follow.

    Raises:
      ValueError: an argument outside its range.
    """

    def __init__(
        self,
        drift: np.ndarray | float,
        volatility: np.ndarray | float,
        correlation: np.ndarray | None = None,
        *,
        risk_aversion: float,
        dt: float,
        horizon: int,
        n_bars: int | None,
    ):
        if horizon < 1:
            raise ValueError(f"horizon is {horizon}; it must be >= 1 bars")
        self.drift, self.volatility = np.atleast_1d(drift), np.atleast_1d(volatility)
        self.correlation = np.eye(len(self.drift)) if correlation is None else correlation
        self.risk_aversion = positive("risk_aversion", risk_aversion)
        self.dt = positive("dt", dt)
        self.horizon = int(horizon)
        self.deviation = self.volatility * math.sqrt(dt)
        self.growth = self.drift * dt - self.deviation**2 / 2
        longest = self._longest_table()
        self.n_bars = min(LONGEST_TABLE, longest) if n_bars is None else int(n_bars)
        if self.n_bars > longest:
            raise ValueError(
                f"n_bars is {n_bars}; with this drift, volatility and dt it must be <= {longest}, so that log prices "
                f"stay within {LARGEST_LOG_PRICE:.0f}"
            )

    def _trade(
        self,
        *,
        levels: tuple[float, float],
        position_limit: float,
        start: str,
        actions: str = "continuous",
        commission_rate: float = 0.0,
        drawdown_limit: float | None = None,
        make_env: Callable[..., TradingEnv] = TradingEnv,
    ) -> None:
        """Builds `env` and `params`, with the limits, costs and actions of the problem."""
        n_assets = len(self.drift)
        self.position_limit, self._drawdown_limit = float(position_limit), drawdown_limit
        self._commission_rate = commission_rate
        self.env = make_env(
            n_assets=n_assets,
            actions=actions,
            levels=levels,
            position_limit=position_limit,
            observation="index",
            window=1,
            start=start,
            groups=("calendar",),
            normalisation_window=2,
        )
        shortest = self.env.first_decision + self.horizon + 1
        if self.n_bars < shortest:
            raise ValueError(f"n_bars is {self.n_bars}; it must be >= {shortest} for a horizon of {self.horizon}")
        self.params = self.params_for(self.market(jax.random.key(0)))

    def costs(self) -> Costs:
        """The commission and no other cost; the account may hold `position_limit` in every asset."""
        gross = 1.001 * self.position_limit * len(self.drift)
        return basic_costs(commission_bps=1e4 * self._commission_rate, max_leverage=gross, maintenance_margin=0.0)

    def market(self, key: jax.Array) -> MarketData:
        """Draws a table of `n_bars` bars; jittable. Consumes `key`."""
        bars = simulators.gbm(
            key,
            self.n_bars,
            len(self.drift),
            drift=jnp.asarray(self.drift * self.dt, jnp.float32),
            volatility=jnp.asarray(self.deviation, jnp.float32),
            correlation=jnp.asarray(self.correlation, jnp.float32),
            gap_share=0.0,
            half_spread=0.0,
            start_price=1.0,
        )
        opened = jnp.concatenate([bars.open[:1], bars.close[:-1]])
        seconds = jnp.full(self.n_bars, self.dt * SECONDS_PER_YEAR, jnp.float32).at[0].set(0.0)
        return bars.replace(
            open=opened,
            high=jnp.maximum(bars.high, opened),
            low=jnp.minimum(bars.low, opened),
            seconds_since_previous=seconds,
        )

    def params_for(self, market: MarketData) -> EnvParams:
        """Makes parameters of `env` on a market, with the costs and limits of the problem; jittable."""
        return self.env.make_params(
            market,
            self.costs(),
            risk_aversion=self.risk_aversion,
            drawdown_limit=self._drawdown_limit,
            episode_bars=self.horizon,
        )

    def on_market(self, market: MarketData) -> LognormalProblem:
        """Copies the problem to other bars."""
        other = copy.copy(self)
        other.params = self.params_for(market)
        return other

    def _longest_table(self) -> int:
        """Bars until a log price may leave its range: the root of `growth n + 8 deviation sqrt(n) = limit`."""
        growth, noise = np.max(np.abs(self.growth)), RUIN_DEVIATIONS * np.max(self.deviation)
        root = 2 * LARGEST_LOG_PRICE / (noise + math.sqrt(noise**2 + 4 * growth * LARGEST_LOG_PRICE))
        return int(root**2)

    def tail_value(self, state: EnvState) -> jax.Array:
        """Value of `state` to the optimum after the last bar, up to a constant, `[]`: 0 if nothing depends on it.

        The optima are stationary: over finitely many bars another policy may gain by leaving a worse state behind, but
        none in `E[sum_{t < horizon} discount^t r_t + discount^horizon tail_value(last state)]`.
        """
        del state
        return jnp.zeros(())

    def _survives(self, weights: np.ndarray) -> bool:
        """Whether a bar of `RUIN_DEVIATIONS` standard deviations against the weights `[A]` leaves more than 0.1 %."""
        root = np.linalg.cholesky(self.correlation) * self.deviation[:, None]
        exposure = root.T @ weights
        size = np.linalg.norm(exposure)
        worst = self.growth - RUIN_DEVIATIONS * root @ (exposure / size if size > 0 else exposure)
        return bool(1.0 + weights @ np.expm1(worst) > 1.0 - LARGEST_LOSS)
