"""Trading a mean-reverting spread for log or power utility of terminal wealth."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.envs.reference.parameters import count_steps, positive
from jaxppo.envs.reference.terminal_wealth import StepLaw, TerminalWealthProblem, WealthEnv, WealthParams, WealthState


@struct.dataclass(kw_only=True)
class SpreadParams(WealthParams):
    """Parameters of `SpreadEnv`, all `[]` float32; X is the spread, currency per unit; `OUSpread.params` builds them.

    Attributes:
      decay: autocorrelation of X over a step.
      quadratic_variation: volatility squared times `dt`, currency squared.
    """

    decay: jax.Array
    quadratic_variation: jax.Array


class SpreadEnv(WealthEnv):
    """Environment of `OUSpread`; positions are units of the spread per unit of wealth."""

    def _grow(
        self, key: jax.Array, signal: jax.Array, position: jax.Array, params: SpreadParams
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Moves the spread by its exact autoregression. Consumes `key`."""
        noise = params.signal_deviation * jnp.sqrt(1.0 - params.decay**2)
        change = (params.decay - 1.0) * signal + noise * jax.random.normal(key)
        log_growth = position * change - position**2 * params.quadratic_variation / 2
        return signal + change, log_growth, (change / noise)[None]


class OUSpread(TerminalWealthProblem):
    """Trades a mean-reverting spread, without cost and at zero interest.

    Model: `dX = -reversion X dt + volatility dB`, drawn exactly at steps of `dt`. Every `dt` the agent chooses n, the
    units of the spread per unit of wealth, and keeps that proportion over the step, so that wealth
    (`dW = n W dX`) is positive whatever the move: `log G = n (X' - X) - n^2 volatility^2 dt / 2`. The optimum is thus
    the best piecewise constant proportion, and tends to the continuous optimum from below as `dt -> 0`.

    - Criterion: `E[U(W_T)]`, `U(W) = (W^(1-a) - 1) / (1-a)` with `a = risk_aversion`, undiscounted, `W_0 = 1`.
    - Observation `[3]`: share of the time that remains, spread in stationary standard deviations, log wealth in units
      of its typical size at maturity.
    - Action `[1]` in [-1, 1]: n over `position_limit`, the largest |optimal n| within four standard deviations of X.
    - Reward: increment of utility times `reward_scale`, one over the deviation of a step's growth under the myopic
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
        self.params = self._make_params(
            SpreadParams,
            signal_mean=0.0,
            signal_deviation=volatility / math.sqrt(2 * reversion),
            decay=law.decay,
            quadratic_variation=volatility**2 * law.dt,
            position_limit=self._optimum.largest / volatility,
        )
        self.env = SpreadEnv(self.params)

    def optimal_position(self, state: WealthState) -> jax.Array:
        """Optimal units of the spread per unit of wealth, `[]`."""
        return self._units[state.time] * state.signal
