"""Base of the problems with CRRA utility of terminal wealth: certainty equivalents, exact discrete-time optimum."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment

from jaxppo.envs.reference.environment import (
    BOX_DEVIATIONS,
    LARGEST_EXPONENT,
    Params,
    ReferenceEnv,
    make_params,
    utility_increment,
)
from jaxppo.envs.reference.problem import Problem


@dataclasses.dataclass(frozen=True)
class StepLaw:
    """Joint Gaussian law of one step of the premium `X` and of the stock's driving shock `Y = int X ds + dB`.

    `X' = premium_shift + decay X + premium_noise z_0`, and
    `Y = return_shift + return_slope X + common_noise z_0 + return_noise z_1`, with independent standard normal z.

    Attributes:
      dt: length of the step.
      decay: autocorrelation of X.
      premium_shift: constant of X'.
      premium_noise: deviation of X', > 0.
      return_shift: constant of Y.
      return_slope: of Y in X.
      common_noise: of Y, shared with X'.
      return_noise: of Y alone, >= 0.
      stationary_mean: of X.
      stationary_deviation: of X.
    """

    dt: float
    decay: float
    premium_shift: float
    premium_noise: float
    return_shift: float
    return_slope: float
    common_noise: float
    return_noise: float
    stationary_mean: float
    stationary_deviation: float

    @classmethod
    def exact(cls, reversion: float, mean: float, volatility: float, correlation: float, dt: float) -> StepLaw:
        """Integrates `dX = reversion (mean - X) dt + volatility dZ`, `dZ dB = correlation dt`, over a step.

        Args:
          reversion: of X per unit of time, > 0.
          mean: of X.
          volatility: of X, > 0.
          correlation: of the two shocks, in [-1, 1].
          dt: length of the step, > 0.
        """
        slope = -math.expm1(-reversion * dt) / reversion
        squared_decay = -math.expm1(-2 * reversion * dt) / (2 * reversion)
        # The closed forms cancel for short steps, where quadrature is exact.
        if reversion * dt < 1.0:
            node, weight = np.polynomial.legendre.leggauss(16)
            response = -np.expm1(-reversion * dt * (node + 1.0) / 2) / reversion
            integral, squared_integral = (float(np.sum(weight * response**n)) * dt / 2 for n in (1, 2))
        else:
            integral = (dt - slope) / reversion
            squared_integral = (dt - 2 * slope + squared_decay) / reversion**2
        return_variance = dt + 2 * correlation * volatility * integral + volatility**2 * squared_integral
        premium_noise = volatility * math.sqrt(squared_decay)
        common = volatility * (correlation * slope + volatility * slope**2 / 2) / premium_noise
        return cls(
            dt=dt,
            decay=math.exp(-reversion * dt),
            premium_shift=mean * -math.expm1(-reversion * dt),
            premium_noise=premium_noise,
            return_shift=mean * reversion * integral,
            return_slope=slope,
            common_noise=common,
            return_noise=math.sqrt(max(return_variance - common**2, 0.0)),
            stationary_mean=mean,
            stationary_deviation=volatility / math.sqrt(2 * reversion),
        )

    @property
    def return_variance(self) -> float:
        """Variance of `Y` given the premium."""
        return self.common_noise**2 + self.return_noise**2


class QuadraticOptimum(NamedTuple):
    """Optimal exposures to the driver `Y`; an exposure is weight times volatility.

    Attributes:
      exposures: `[n_steps, 2]` intercept and slope in X of the optimal exposure, by step.
      myopic: `[2]` intercept and slope of the exposure that maximises the expected utility of the next step alone.
      log_growth: log certainty equivalent of terminal wealth, X drawn from its stationary law.
      largest: largest |optimal exposure| over the steps within four stationary deviations of X.
      typical: root mean square of the myopic exposure.
    """

    exposures: np.ndarray
    myopic: np.ndarray
    log_growth: float
    largest: float
    typical: float


def solve_quadratic(law: StepLaw, risk_aversion: float, rate: float, n_steps: int) -> QuadraticOptimum:
    """Solves for the exposures P of CRRA utility of terminal wealth, where `log G = rate dt + P Y - P^2 dt / 2`.

    Backward recursion of the log certainty equivalent `A + B x + C x^2 / 2` of one unit of wealth. With
    `q = 1 - risk_aversion`, s^2 the variance of X', k its covariance with Y, f + phi x the mean of X', m_0 + m_1 x
    that of Y and V its variance: `D = 1 - q C s^2`, `Lambda = dt - q V - q^2 C k^2 / D`,
    `L_0 = m_0 + q k (B + C f) / D`, `L_1 = m_1 + q k C phi / D`, and `P = (L_0 + L_1 x) / Lambda`.

    Args:
      law: of a step.
      risk_aversion: relative, > 0; 1 is the logarithm.
      rate: riskless log growth per unit of time.
      n_steps: to maturity.

    Raises:
      ArithmeticError: the expected utility of some policy is infinite.
    """
    power = 1.0 - risk_aversion
    f, phi, variance = law.premium_shift, law.decay, law.premium_noise**2
    hedge = power * law.common_noise * law.premium_noise
    exposures, a, b, c = np.zeros((n_steps, 2)), 0.0, 0.0, 0.0
    for step in reversed(range(n_steps)):
        slope = _positive(1.0 - power * c * variance)
        curvature = _positive(law.dt - power * law.return_variance - hedge**2 * c / slope)
        constant = law.return_shift + hedge * (b + c * f) / slope
        linear = law.return_slope + hedge * c * phi / slope
        exposures[step] = constant / curvature, linear / curvature
        a = _certainty(power, a, b, c, f, variance) + rate * law.dt + constant**2 / (2 * curvature)
        b = phi * (b + c * f) / slope + constant * linear / curvature
        c = c * phi**2 / slope + linear**2 / curvature
    mean, deviation = law.stationary_mean, law.stationary_deviation
    edges = mean + BOX_DEVIATIONS * deviation * np.array([-1.0, 1.0])
    myopic = np.array([law.return_shift, law.return_slope]) / (law.dt - power * law.return_variance)
    return QuadraticOptimum(
        exposures=exposures,
        myopic=myopic,
        log_growth=_certainty(power, a, b, c, mean, deviation**2),
        largest=float(np.max(np.abs(exposures[:, :1] + exposures[:, 1:] * edges))),
        typical=math.hypot(myopic[0] + myopic[1] * mean, myopic[1] * deviation),
    )


def _certainty(power: float, a: float, b: float, c: float, mean: float, variance: float) -> float:
    """Certainty equivalent `log E[exp(q (a + b X + c X^2 / 2))] / q` of a normal X; the mean for `q = power = 0`."""
    slope = _positive(1.0 - power * c * variance)
    convexity = c * variance / 2 if power == 0.0 else -math.log1p(-power * c * variance) / (2 * power)
    return a + convexity + (b * mean + c * mean**2 / 2 + power * b**2 * variance / 2) / slope


def _positive(divisor: float) -> float:
    """`divisor`, or ArithmeticError where the Gaussian integral behind it diverges."""
    if not divisor > 0:
        raise ArithmeticError("the expected utility is infinite")
    return divisor


@struct.dataclass
class WealthState(environment.EnvState):
    """State of one portfolio.

    Attributes:
      time: `[]` int32 steps since reset.
      signal: `[]` X, the state of the market.
      log_wealth: `[]` log of wealth, 0 at reset.
    """

    signal: jax.Array
    log_wealth: jax.Array


@struct.dataclass(kw_only=True)
class WealthParams(environment.EnvParams):
    """Parameters that every `WealthEnv` has, all `[]` float32.

    Attributes:
      max_steps_in_episode: int32, steps to maturity.
      signal_mean: stationary mean of X.
      signal_deviation: stationary standard deviation of X.
      power: `1 - risk_aversion`.
      position_limit: position at action 1.
      reward_scale: reward of one unit of utility.
      wealth_scale: log wealth that is observed as 1.
    """

    signal_mean: jax.Array
    signal_deviation: jax.Array
    power: jax.Array
    position_limit: jax.Array
    reward_scale: jax.Array
    wealth_scale: jax.Array


class WealthEnv(ReferenceEnv):
    """Environment that pays the increments of CRRA utility of wealth, from wealth 1 and a stationary market.

    A subclass implements `_grow`, a step of the market and of log wealth.
    """

    n_inputs = 3

    @abc.abstractmethod
    def _grow(
        self, key: jax.Array, signal: jax.Array, position: jax.Array, params: Any
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Holds a position for one step: next signal, log growth, exogenous input `[m]`. Consumes `key`."""

    def _start(self, key: jax.Array, params: WealthParams) -> WealthState:
        """Draws the signal from its stationary law. Consumes `key`."""
        signal = params.signal_mean + params.signal_deviation * jax.random.normal(key)
        return WealthState(time=jnp.zeros((), jnp.int32), signal=signal, log_wealth=jnp.zeros(()))

    def _transition(
        self, key: jax.Array, state: WealthState, action: jax.Array, params: WealthParams
    ) -> tuple[WealthState, jax.Array, jax.Array]:
        """Pays the increment of utility. Consumes `key`."""
        position = jnp.clip(jnp.reshape(action, ()), -1.0, 1.0) * params.position_limit
        signal, log_growth, market = self._grow(key, state.signal, position, params)
        utility = utility_increment(state.log_wealth, log_growth, params.power)
        log_wealth = state.log_wealth + log_growth
        return WealthState(time=state.time + 1, signal=signal, log_wealth=log_wealth), utility, market

    def _observation(self, state: WealthState, params: WealthParams) -> jax.Array:
        """Time that remains, signal and log wealth."""
        signal = (state.signal - params.signal_mean) / params.signal_deviation
        return jnp.stack([self._remaining(state, params), signal, state.log_wealth / params.wealth_scale])


class TerminalWealthProblem(Problem):
    """A problem whose episode return is `reward_scale * U(W_T)`, `U(W) = (W^(1 - a) - 1) / (1 - a)`, `W_0 = 1`.

    Values are compared by their certainty equivalent, the constant rate of growth with the same value.

    Attributes:
      risk_aversion: a, relative risk aversion; 1 is the logarithm.
      maturity: T, in units of time.
      rate: riskless growth per unit of time.
      reward_scale: reward of one unit of utility, one over the deviation of a step's growth under the myopic policy.
      optimal_rate: certainty equivalent of the optimal policy, per unit of time, log growth.

    Args:
      law: of a step.
      risk_aversion: > 0.
      rate: per unit of time.
      n_steps: to maturity.

    Raises:
      ValueError: the expected utility is infinite or beyond float32, which takes a risk aversion below 1.
    """

    discount = 1.0

    def __init__(self, law: StepLaw, risk_aversion: float, rate: float, n_steps: int):
        self.risk_aversion, self.rate = risk_aversion, rate
        self.horizon, self.maturity = n_steps, n_steps * law.dt
        try:
            self._optimum = solve_quadratic(law, risk_aversion, rate, n_steps)
        except ArithmeticError as error:
            raise ValueError(
                f"risk_aversion is {risk_aversion}; over {n_steps} steps of {law.dt} the expected utility is infinite: "
                "it must be larger, or the maturity shorter"
            ) from error
        if (1.0 - risk_aversion) * self._optimum.log_growth > LARGEST_EXPONENT / 2:
            raise ValueError(f"maturity is {self.maturity}; the expected utility is too large for float32, shorten it")
        self.optimal_rate = self._optimum.log_growth / self.maturity
        self.reward_scale = 1.0 / (self._optimum.typical * math.sqrt(law.dt))

    def _make_params(self, kind: Callable[..., Params], **fields: Any) -> Params:
        """Parameters of the environment from those that depend on the asset."""
        return make_params(
            kind,
            self.horizon,
            power=1.0 - self.risk_aversion,
            reward_scale=self.reward_scale,
            wealth_scale=self._optimum.typical * math.sqrt(self.maturity),
            **fields,
        )

    @abc.abstractmethod
    def optimal_position(self, state: WealthState) -> jax.Array:
        """Optimal position, `[]`, in the units of `position_limit`."""

    def optimal_action(self, state: WealthState) -> jax.Array:
        """Optimal position over the position limit, within the box, `[1]`."""
        return jnp.clip(self.optimal_position(state) / self.params.position_limit, -1.0, 1.0)[None]

    def certainty_equivalent_rate(self, value: float) -> float:
        """Riskless log growth per unit of time with the value `value`, a mean of episode returns.

        Raises:
          ValueError: no distribution of terminal wealth has this value.
        """
        power, utility = 1.0 - self.risk_aversion, float(value) / self.reward_scale
        if power == 0.0:
            return utility / self.maturity
        if not power * utility > -1.0:
            limit = -self.reward_scale / power
            raise ValueError(f"value is {value}; it must be {'>' if power > 0 else '<'} {limit}, the bound of utility")
        return math.log1p(power * utility) / (power * self.maturity)

    def value_of_rate(self, rate: float) -> float:
        """Value of the criterion for a riskless log growth `rate` per unit of time."""
        power, growth = 1.0 - self.risk_aversion, rate * self.maturity
        return self.reward_scale * (growth if power == 0.0 else math.expm1(power * growth) / power)

    def optimal_value(self) -> float:
        """Exact expected episode return of the optimal policy, from the law of `reset_env`."""
        return self.value_of_rate(self.optimal_rate)

    def percent_of_optimum(self, value: float) -> float:
        """Per cent of the attainable certainty equivalent in excess of the riskless rate.

        `100 (CE(value) - rate) / (CE* - rate)`: 0 is holding cash, 100 the optimum. Unlike the ratio of utilities it
        does not depend on where utility is zero.
        """
        return 100.0 * (self.certainty_equivalent_rate(value) - self.rate) / (self.optimal_rate - self.rate)
