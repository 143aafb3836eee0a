"""Trading a mean-reverting spread for log or power utility of terminal wealth."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment

from jaxppo.envs.reference.environment import ReferenceEnv, utility_increment
from jaxppo.envs.reference.parameters import count_steps, positive
from jaxppo.envs.reference.terminal_wealth import StepLaw, TerminalWealthProblem


@struct.dataclass
class SpreadState(environment.EnvState):
    """State of one portfolio.

    Attributes:
      time: `[]` int32 steps since reset.
      spread: `[]` X, currency per unit.
      log_wealth: `[]` log of wealth, 0 at reset.
    """

    spread: jax.Array
    log_wealth: jax.Array


@struct.dataclass(kw_only=True)
class SpreadParams(environment.EnvParams):
    """Parameters of `SpreadEnv`, all `[]` float32; `OUSpread.params` builds them.

    Attributes:
      max_steps_in_episode: int32, steps to maturity.
      decay: autocorrelation of X over a step.
      deviation: stationary standard deviation of X, currency.
      quadratic_variation: volatility squared times `dt`, currency squared.
      power: `1 - risk_aversion`.
      position_limit: units of the spread per unit of wealth at action 1.
      reward_scale: reward of one unit of utility.
      wealth_scale: log wealth that is observed as 1.
    """

    decay: jax.Array
    deviation: jax.Array
    quadratic_variation: jax.Array
    power: jax.Array
    position_limit: jax.Array
    reward_scale: jax.Array
    wealth_scale: jax.Array


class SpreadEnv(ReferenceEnv):
    """The environment of `OUSpread`; see there.

    Args:
      parameters: default parameters.
    """

    def __init__(self, parameters: SpreadParams):
        super().__init__(parameters, n_inputs=3, ends=True)

    def reset_env(self, key: jax.Array, params: SpreadParams) -> tuple[jax.Array, SpreadState]:
        """Draws the spread from its stationary law; wealth is 1. Consumes `key`."""
        spread = params.deviation * jax.random.normal(key)
        state = SpreadState(time=jnp.zeros((), jnp.int32), spread=spread, log_wealth=jnp.zeros(()))
        return self.see(state, params), state

    def step_env(
        self, key: jax.Array, state: SpreadState, action: jax.Array, params: SpreadParams
    ) -> tuple[jax.Array, SpreadState, jax.Array, jax.Array, dict[str, Any]]:
        """One step with the chosen units per wealth. Consumes `key`."""
        noise = params.deviation * jnp.sqrt(1.0 - params.decay**2)
        change = (params.decay - 1.0) * state.spread + noise * jax.random.normal(key)
        units = jnp.clip(jnp.reshape(action, ()), -1.0, 1.0) * params.position_limit
        log_growth = units * change - units**2 * params.quadratic_variation / 2
        utility = utility_increment(state.log_wealth, log_growth, params.power)
        state = SpreadState(time=state.time + 1, spread=state.spread + change, log_wealth=state.log_wealth + log_growth)
        return self.outcome(state, utility, (change / noise)[None], params)

    def see(self, state: SpreadState, params: SpreadParams) -> jax.Array:
        """See the problem."""
        remaining = (params.max_steps_in_episode - state.time) / params.max_steps_in_episode
        return jnp.stack([remaining, state.spread / params.deviation, state.log_wealth / params.wealth_scale])


class OUSpread(TerminalWealthProblem):
    """Trades a mean-reverting spread, without cost and at zero interest.

    Model: `dX = -reversion X dt + volatility dB`, drawn exactly at steps of `dt`. Every `dt` the agent chooses n, the
    units of the spread per unit of wealth, and keeps that proportion over the step, so that wealth
    (`dW = n W dX`) is positive whatever the move: `log G = n (X' - X) - n^2 volatility^2 dt / 2`. The optimum is thus
    the best piecewise constant proportion, and tends to the continuous optimum from below as `dt -> 0`.

    - Criterion: `E[U(W_T)]`, `U(W) = (W^(1-a) - 1) / (1-a)` with `a = risk_aversion`, undiscounted, `W_0 = 1`.
    - Observation `[3]`: share of the time that remains, spread in stationary standard deviations, log wealth in units
      of its typical spread at maturity.
    - Action `[1]` in [-1, 1]: n over `position_limit`, the largest |optimal n| within four standard deviations of X.
    - Reward: increment of utility times `reward_scale`, one over the spread of a step's growth under the myopic
      policy. It telescopes to `reward_scale * U(W_T)`.
    - `info["market"]` `[1]`: `X' - X` in standard deviations of its noise.
    - Start: `W = 1`, X from its stationary law. Terminated at maturity, never truncated.

    Optimum: linear in X, exact in float64 for any `dt`. The spread is a Kim-Omberg market whose premium
    `-reversion X / volatility` is driven by the opposite of the asset's own shock, so `solve_quadratic` applies. For
    log utility `n = -(1 - e^(-k dt)) X / (volatility^2 dt)` with growth `(1 - e^(-k dt))^2 / (4 k dt^2)`, k the
    reversion. As `dt -> 0`, `n -> -(k / volatility^2) X D(tau)`; for log utility D is 1 and the growth is `k / 4`.

    Args:
      reversion: per unit of time (year), > 0.
      volatility: of the spread, currency per square root of a unit of time, > 0.
      risk_aversion: a > 0; 1 is log utility, `1 - g` in the notation `W^g / g`.
      maturity: units of time, > 0, a whole number of `dt`.
      dt: length of a step, > 0.

    Raises:
      ValueError: a parameter outside its range, or an infinite expected utility.

    Reference: Boguslavsky and Boguslavskaya (2004), "Arbitrage under power", Risk 17(6).
    """

    def __init__(
        self,
        *,
        reversion: float = 10.0,
        volatility: float = 0.1,
        risk_aversion: float = 1.0,
        maturity: float = 1.0,
        dt: float = 0.01,
    ):
        positive("reversion", reversion)
        positive("volatility", volatility)
        positive("risk_aversion", risk_aversion)
        n_steps = count_steps(maturity, dt)
        law = StepLaw.exact(reversion, 0.0, reversion, -1.0, maturity / n_steps)
        super().__init__(law, float(risk_aversion), 0.0, n_steps)
        self._units = jnp.asarray(-self._optimum.exposures[:, 1] * reversion / volatility**2, jnp.float32)
        self.params = SpreadParams(
            **self._shared_params(),
            decay=jnp.asarray(law.decay, jnp.float32),
            deviation=jnp.asarray(volatility / math.sqrt(2 * reversion), jnp.float32),
            quadratic_variation=jnp.asarray(volatility**2 * law.dt, jnp.float32),
            position_limit=jnp.asarray(self._optimum.largest / volatility, jnp.float32),
        )
        self.env = SpreadEnv(self.params)

    def optimal_units(self, state: SpreadState) -> jax.Array:
        """`[]` optimal units of the spread per unit of wealth."""
        return self._units[state.time] * state.spread

    def optimal_action(self, state: SpreadState) -> jax.Array:
        """`[1]` optimal units over the position limit, within the box."""
        return jnp.clip(self.optimal_units(state) / self.params.position_limit, -1.0, 1.0)[None]
