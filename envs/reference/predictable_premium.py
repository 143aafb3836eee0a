"""Kim-Omberg: terminal utility from a stock whose risk premium mean-reverts, with its hedging demand."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.envs.reference.parameters import checked, count_steps, positive
from jaxppo.envs.reference.terminal_wealth import StepLaw, TerminalWealthProblem, WealthEnv, WealthParams, WealthState


@struct.dataclass(kw_only=True)
class PremiumParams(WealthParams):
    """Parameters of `PremiumEnv`; X is the expected excess return per unit of volatility, per unit of time.

    Attributes:
      law: `[10]` float32, the fields of `StepLaw` in order.
      rate: `[]` riskless rate per unit of time.
      volatility: `[]` of the stock, per square root of a unit of time.
    """

    law: jax.Array
    rate: jax.Array
    volatility: jax.Array


class PremiumEnv(WealthEnv):
    """Environment of `KimOmberg`; positions are fractions of wealth in the stock."""

    def _grow(
        self, key: jax.Array, signal: jax.Array, position: jax.Array, params: PremiumParams
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Draws the stock's return and the next premium from their joint law. Consumes `key`."""
        law = StepLaw(*params.law)
        shock = jax.random.normal(key, (2,))
        driver = law.return_shift + law.return_slope * signal
        driver = driver + law.common_noise * shock[0] + law.return_noise * shock[1]
        exposure = position * params.volatility
        log_growth = params.rate * law.dt + exposure * driver - exposure**2 * law.dt / 2
        premium = law.premium_shift + law.decay * signal + law.premium_noise * shock[0]
        return premium, log_growth, jnp.stack([driver / jnp.hypot(law.common_noise, law.return_noise), shock[0]])


class KimOmberg(TerminalWealthProblem):
    """Invests for CRRA utility of terminal wealth in a stock whose risk premium mean-reverts.

    Model, in units of time (years): `dS / S = (rate + volatility X) dt + volatility dB`, and
    `dX = premium_reversion (mean_premium - X) dt + premium_volatility dZ`, `dB dZ = correlation dt`. Every `dt` the
    agent chooses the fraction w of wealth in the stock and keeps it over the step, so that wealth is positive whatever
    the return: `log G = rate dt + w volatility Y - (w volatility)^2 dt / 2`, `Y = int X ds + dB`. The pair `(Y, X')`
    is drawn from its exact Gaussian law given X. The optimum is thus the best piecewise constant policy of the
    continuous model, and tends to the solution of Kim and Omberg from below as `dt -> 0`.

    - Criterion: `E[U(W_T)]`, `U(W) = (W^(1-a) - 1) / (1-a)` with `a = risk_aversion`, undiscounted, `W_0 = 1`.
    - Observation `[3]`: share of the time that remains, premium in stationary standard deviations from its mean, log
      wealth in units of its typical size at maturity.
    - Action `[1]` in [-1, 1]: w over `position_limit`, the largest |optimal w| within four standard deviations of X.
    - Reward: increment of utility times `reward_scale`, one over the deviation of a step's growth under the myopic
      policy. It telescopes to `reward_scale * U(W_T)`.
    - `info["market"]` `[2]`: `Y` and the shock of X, in standard deviations of the step.
    - Start: `W = 1`, X from its stationary law. Terminated at maturity, never truncated.

    Optimum: the log certainty equivalent is quadratic in X and the optimal weight linear, `solve_quadratic`; exact
    for any `dt`. The weight is the sum of the myopic weight, which maximises the utility of one step, and the hedging
    demand, which vanishes at the last step, for uncorrelated shocks (as `dt -> 0`) and for log utility.

    Args:
      rate: riskless rate, per unit of time.
      volatility: of the stock, > 0.
      mean_premium: mean of X (Sharpe ratio per unit of time).
      premium_reversion: > 0.
      premium_volatility: > 0.
      correlation: of the shocks of stock and premium, in [-1, 1].
      risk_aversion: > 0; below 1 the problem may have no finite value, which raises.
      maturity: > 0, a whole number of `dt`.
      dt: length of a step, > 0.

    Raises:
      ValueError: a parameter outside its range, or an infinite expected utility.

    Reference: Kim and Omberg (1996), "Dynamic nonmyopic portfolio behavior", Review of Financial Studies 9(1),
      equations 17-23. The defaults are those of the incomplete-market benchmark of CGDPO.
    """

    def __init__(
        self,
        *,
        rate: float = 0.03,
        volatility: float = 0.2,
        mean_premium: float = 0.45,
        premium_reversion: float = 1.0,
        premium_volatility: float = 0.5,
        correlation: float = 0.5,
        risk_aversion: float = 2.0,
        maturity: float = 5.0,
        dt: float = 0.05,
    ):
        checked("rate", rate, True, "finite")
        positive("volatility", volatility)
        checked("mean_premium", mean_premium, True, "finite")
        positive("premium_reversion", premium_reversion)
        positive("premium_volatility", premium_volatility)
        checked("correlation", correlation, -1 <= correlation <= 1, "in [-1, 1]")
        positive("risk_aversion", risk_aversion)
        n_steps = count_steps(maturity, dt)
        law = StepLaw.exact(premium_reversion, mean_premium, premium_volatility, correlation, maturity / n_steps)
        super().__init__(law, float(risk_aversion), float(rate), n_steps)
        self._optimal = jnp.asarray(self._optimum.exposures / volatility, jnp.float32)
        self._myopic = jnp.asarray(self._optimum.myopic / volatility, jnp.float32)
        self.params = self._make_params(
            PremiumParams,
            signal_mean=law.stationary_mean,
            signal_deviation=law.stationary_deviation,
            law=dataclasses.astuple(law),
            rate=rate,
            volatility=volatility,
            position_limit=self._optimum.largest / volatility,
        )
        self.env = PremiumEnv(self.params)

    def optimal_position(self, state: WealthState) -> jax.Array:
        """Optimal fraction of wealth in the stock, `[]`."""
        return self._optimal[state.time, 0] + self._optimal[state.time, 1] * state.signal

    def myopic_weight(self, state: WealthState) -> jax.Array:
        """Fraction of wealth that maximises the expected utility of the next step alone, `[]`."""
        return self._myopic[0] + self._myopic[1] * state.signal

    def hedging_demand(self, state: WealthState) -> jax.Array:
        """Optimal less myopic weight: the hedge of changes of the premium, `[]`."""
        return self.optimal_position(state) - self.myopic_weight(state)
