"""Trading on an AR(1) signal with a quadratic risk penalty, at quadratic or at proportional cost."""

from __future__ import annotations

import abc
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment

from jaxppo.envs.reference.environment import BOX_DEVIATIONS, ReferenceEnv, make_params
from jaxppo.envs.reference.no_trade_band import BandValue, solve_band
from jaxppo.envs.reference.parameters import checked, positive, positive_int
from jaxppo.envs.reference.problem import Problem


@struct.dataclass
class AR1State(environment.EnvState):
    """State of one portfolio.

    Attributes:
      time: `[]` int32 steps since reset.
      signal: `[]` p, profit of one unit held over the next step.
      position: `[]` x, units held over the last step, 0 at reset.
    """

    signal: jax.Array
    position: jax.Array


@struct.dataclass(kw_only=True)
class AR1Params(environment.EnvParams):
    """Parameters of `AR1Env`, all `[]` float32; the problems of this file build them.

    Attributes:
      max_steps_in_episode: int32, steps to truncation.
      decay: autocorrelation of the signal over a step.
      innovation: standard deviation of the signal's shock.
      signal_scale: stationary standard deviation of the signal.
      risk_penalty: per squared unit held, per step.
      quadratic_cost: per squared unit traded.
      proportional_cost: per unit traded.
      position_scale: units that are observed as 1.
      position_limit: units at action 1.
      reward_scale: reward of one unit of profit.
    """

    decay: jax.Array
    innovation: jax.Array
    signal_scale: jax.Array
    risk_penalty: jax.Array
    quadratic_cost: jax.Array
    proportional_cost: jax.Array
    position_scale: jax.Array
    position_limit: jax.Array
    reward_scale: jax.Array


class AR1Env(ReferenceEnv):
    """Environment of `QuadraticCostAR1` and `ProportionalCostAR1`.

    Args:
      parameters: default parameters.
      n_actions: 1, the position to trade to, or 2, the edges of a band to trade into.
    """

    n_inputs = 2
    terminates = False

    def __init__(self, parameters: AR1Params, n_actions: int):
        super().__init__(parameters)
        self.n_actions = n_actions

    def _start(self, key: jax.Array, params: AR1Params) -> AR1State:
        """Draws the signal from its stationary law; the position is 0. Consumes `key`."""
        signal = params.signal_scale * jax.random.normal(key)
        return AR1State(time=jnp.zeros((), jnp.int32), signal=signal, position=jnp.zeros(()))

    def _transition(
        self, key: jax.Array, state: AR1State, action: jax.Array, params: AR1Params
    ) -> tuple[AR1State, jax.Array, jax.Array]:
        """Trades into the band and holds the position for one step. Consumes `key`."""
        bounded = jnp.clip(action, -1.0, 1.0) * params.position_limit
        # Of a single number the band is a point: the position itself.
        position = jnp.clip(state.position, bounded.min(), bounded.max())
        trade = position - state.position
        cost = params.quadratic_cost * trade**2 + params.proportional_cost * jnp.abs(trade)
        profit = state.signal * position - params.risk_penalty * position**2 - cost
        shock = jax.random.normal(key)
        signal = params.decay * state.signal + params.innovation * shock
        return AR1State(time=state.time + 1, signal=signal, position=position), profit, shock[None]

    def _observation(self, state: AR1State, params: AR1Params) -> jax.Array:
        """Signal and position."""
        return jnp.stack([state.signal / params.signal_scale, state.position / params.position_scale])


class AR1Problem(Problem):
    """Base of the two problems, which differ in `_solve` and in what `trading_cost` charges.

    Attributes:
      quadratic: whether trades are charged by their square or by their size.
      default_cost: of `trading_cost`.
      decay: autocorrelation of the signal.
      innovation: standard deviation of its shock.
      signal_deviation: its stationary standard deviation.
      risk_penalty: lambda.
      trading_cost: psi.
      reward_scale: reward of one unit of profit.
      average_reward: stationary mean reward per step of the optimal policy, in units of profit (not scaled).
    """

    quadratic: bool
    default_cost: float
    average_reward: float

    def __init__(
        self,
        *,
        reversion: float = 0.1,
        innovation: float | None = None,
        risk_penalty: float = 0.3,
        trading_cost: float | None = None,
        discount: float = 0.99,
        max_steps_in_episode: int = 1000,
    ):
        reversion = checked("reversion", reversion, 0 < reversion <= 1, "in (0, 1]")
        self.decay = 1.0 - reversion
        self.innovation = positive("innovation", math.sqrt(2 * reversion) if innovation is None else innovation)
        self.signal_deviation = self.innovation / math.sqrt(reversion * (2.0 - reversion))
        self.risk_penalty = positive("risk_penalty", risk_penalty)
        self.trading_cost = positive("trading_cost", self.default_cost if trading_cost is None else trading_cost)
        self.discount = checked("discount", discount, 0 < discount <= 1, "in (0, 1]")
        self.horizon = positive_int("max_steps_in_episode", max_steps_in_episode)
        position_deviation, position_limit = self._solve()
        self.reward_scale = 1.0 / (self.signal_deviation * position_deviation)
        self.params = make_params(
            AR1Params,
            self.horizon,
            decay=self.decay,
            innovation=self.innovation,
            signal_scale=self.signal_deviation,
            risk_penalty=self.risk_penalty,
            quadratic_cost=self.trading_cost if self.quadratic else 0.0,
            proportional_cost=0.0 if self.quadratic else self.trading_cost,
            position_scale=position_deviation,
            position_limit=position_limit,
            reward_scale=self.reward_scale,
        )
        self.env = AR1Env(self.params, n_actions=1 if self.quadratic else 2)

    @abc.abstractmethod
    def _solve(self) -> tuple[float, float]:
        """Finds the optimal policy and `average_reward`; returns its positions' standard deviation and their limit."""


class QuadraticCostAR1(AR1Problem):
    """Trades on an AR(1) signal at quadratic cost.

    Model: `p_{t+1} = (1 - reversion) p_t + innovation z_{t+1}`. The agent sees `p_t` and its position `x_{t-1}`, trades
    to `x_t` and earns `p_t x_t - risk_penalty x_t^2 - trading_cost (x_t - x_{t-1})^2`.

    - Criterion: `E[sum_t discount^t r_t]` over `max_steps_in_episode` steps.
    - Observation `[2]`: signal and position, in stationary standard deviations (the position's under the optimum).
    - Action `[1]` in [-1, 1]: `x_t / position_limit`, four standard deviations of the optimal position.
    - Reward: profit times `reward_scale`, one over the product of the two standard deviations, so that `p x` is of
      order one.
    - `info["market"]` `[1]`: `z_{t+1}`.
    - Start: `x = 0`, p from its stationary law. Truncated after `max_steps_in_episode` steps, never terminated.

    Optimum, of the problem without end (`discount = 1`: of the average reward): `x_t = position_gain x_{t-1} +
    signal_gain p_t` with the gains `psi / S` and `(1 + discount B phi) / (2 S)`, where `phi = 1 - reversion`,
    `S = lambda + psi + discount A`, `B = psi / (S - discount phi psi)`, and A is the positive root of
    `discount A^2 + (lambda + psi (1 - discount)) A = psi lambda`. Its value over the episode is exact, by the
    recursion of the second moments.

    Args:
      reversion: 1 minus the signal's autocorrelation over a step, in (0, 1].
      innovation: standard deviation of the signal's shock, > 0; default `sqrt(2 reversion)`, the paper's.
      risk_penalty: lambda, per squared unit held and step, > 0.
      trading_cost: psi, per squared unit traded, > 0; default 1.
      discount: in (0, 1].
      max_steps_in_episode: >= 1.

    Raises:
      ValueError: a parameter outside its range.

    Attributes:
      position_gain: of the optimal policy.
      signal_gain: of the optimal policy, units per unit of signal.

    Reference: Chaouki, Hardiman, Schmidt, Serie, de Lataillade (2020), "Deep deterministic portfolio optimization",
      arXiv:2003.06497, model 2, which fits an exponential average; the exact optimum is a linear-quadratic regulator.
    """

    quadratic = True
    default_cost = 1.0

    def _solve(self) -> tuple[float, float]:
        """Solves the scalar Riccati equation in closed form."""
        psi, effective = self.trading_cost, self.risk_penalty + self.trading_cost * (1.0 - self.discount)
        root = math.sqrt(effective**2 + 4 * self.discount * psi * self.risk_penalty)
        curvature = self.risk_penalty + psi + self.discount * 2 * psi * self.risk_penalty / (effective + root)
        slope = psi / (curvature - self.discount * self.decay * psi)
        self.position_gain = psi / curvature
        self.signal_gain = (1.0 + self.discount * slope * self.decay) / (2 * curvature)
        variance = self.signal_deviation**2
        covariance = self.signal_gain * variance / (1.0 - self.position_gain * self.decay)
        mean_square = 2 * self.position_gain * self.signal_gain * self.decay * covariance
        mean_square = (mean_square + self.signal_gain**2 * variance) / (1.0 - self.position_gain**2)
        *_, self.average_reward = self._next_moments(covariance, mean_square)
        deviation = math.sqrt(mean_square)
        return deviation, BOX_DEVIATIONS * deviation

    def _next_moments(self, covariance: float, mean_square: float) -> tuple[float, float, float]:
        """`E[p_t x_t]`, `E[x_t^2]` and the mean profit of step t, from `E[p x]` and `E[x^2]` of step t - 1."""
        lagged = self.decay * covariance
        overlap = self.position_gain * mean_square + self.signal_gain * lagged
        covariance = self.position_gain * lagged + self.signal_gain * self.signal_deviation**2
        after = self.position_gain * overlap + self.signal_gain * covariance
        profit = covariance - self.risk_penalty * after - self.trading_cost * (after - 2 * overlap + mean_square)
        return covariance, after, profit

    def optimal_value(self) -> float:
        """Exact value of the criterion, by the recursion of second moments."""
        covariance = mean_square = total = 0.0
        for step in range(self.horizon):
            covariance, mean_square, profit = self._next_moments(covariance, mean_square)
            total += self.discount**step * profit
        return self.reward_scale * total

    def optimal_action(self, state: AR1State) -> jax.Array:
        """Optimal position over the position limit, `[1]`."""
        position = self.position_gain * state.position + self.signal_gain * state.signal
        return (position / self.params.position_limit)[None]


class ProportionalCostAR1(AR1Problem):
    """Trades on an AR(1) signal at proportional cost, where the optimum is a no-trade band.

    Model: `p_{t+1} = (1 - reversion) p_t + innovation z_{t+1}`. The agent sees `p_t` and its position `x_{t-1}`, trades
    to `x_t` and earns `p_t x_t - risk_penalty x_t^2 - trading_cost |x_t - x_{t-1}|`.

    - Criterion, observation, reward, market, start and end: as in `QuadraticCostAR1`.
    - Action `[2]` in [-1, 1]: the edges of the band, in either order, over `position_limit`, the position that the
      optimum buys at a signal of four standard deviations. The trade is the smallest that leads into the band. Two
      equal edges are a target; a target would have to hit the present position exactly in order to hold it.

    Optimum, of the problem without end (`discount = 1`: of the average reward): the nearest position in `band(p_t)`.
    The marginal value of every level of the position solves its own dynamic programme in the signal alone, by policy
    iteration with Gauss-Legendre quadrature (`solve_band`); edges and value are exact to about 1e-6.

    Args:
      trading_cost: psi, per unit traded, > 0, low enough that a flat agent trades within three standard deviations;
        default 4.
      **others: `reversion`, `innovation`, `risk_penalty`, `discount` and `max_steps_in_episode` of `QuadraticCostAR1`.

    Raises:
      ValueError: a parameter outside its range.

    Reference: de Lataillade, Deremble, Potters, Bouchaud (2012), "Optimal trading with linear costs", Journal of
      Investment Strategies 1(3); parameters of Chaouki et al. (2020), arXiv:2003.06497, model 1; levels as games of
      stopping: Karatzas and Wang (2001), "Connections between bounded-variation control and Dynkin games".
    """

    quadratic = False
    default_cost = 4.0

    def _solve(self) -> tuple[float, float]:
        """Solves for the band of every level of the position."""
        self._cost = self.trading_cost / self.innovation
        band = solve_band(self.decay, self._cost, self.discount)
        if band is None:
            highest = 3.0 * self.signal_deviation / (1.0 - self.discount * self.decay)
            allowed = f"lower (about {highest:.3g} at most), so that trading pays"
            raise ValueError(f"trading_cost is {self.trading_cost}; it must be {allowed}")
        unit = self.innovation / (2 * self.risk_penalty)
        self._value, self._profit_unit = BandValue(band, self.decay), self.innovation * unit
        self.average_reward = self._profit_unit * self._value.average_reward(self._cost)
        signals = self.innovation * np.concatenate([-band.sell[::-1], band.buy])
        positions = unit * np.concatenate([-band.level[::-1], band.level])
        self._signals, self._positions = jnp.asarray(signals, jnp.float32), jnp.asarray(positions, jnp.float32)
        limit = float(np.interp(BOX_DEVIATIONS * self.signal_deviation, signals, positions))
        return unit * math.sqrt(self._value.mean_square()), limit

    def band(self, signal: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Edges of the no-trade band at a signal, units, any shape: buy up to the first, sell down to the second."""
        low = jnp.interp(signal, self._signals, self._positions)
        return low, -jnp.interp(-signal, self._signals, self._positions)

    def optimal_value(self) -> float:
        """Exact value of the criterion, by quadrature of the law of the position."""
        value = self._value.discounted_reward(self._cost, self.discount, self.horizon)
        return self.reward_scale * self._profit_unit * value

    def optimal_action(self, state: AR1State) -> jax.Array:
        """Edges of the band over the position limit, `[2]`."""
        return jnp.stack(self.band(state.signal)) / self.params.position_limit
