"""Almgren-Chriss: liquidation of a block over a fixed number of slices, impact against risk."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment

from jaxppo.envs.reference.environment import ReferenceEnv, make_params
from jaxppo.envs.reference.parameters import checked, non_negative, positive, positive_int
from jaxppo.envs.reference.problem import Problem


@struct.dataclass
class LiquidationState(environment.EnvState):
    """State of one liquidation.

    Attributes:
      time: `[]` int32 slices since reset.
      inventory: `[]` shares that are left, all of them at reset.
      price: `[]` change of the price since reset, currency per share, permanent impact included.
    """

    inventory: jax.Array
    price: jax.Array


@struct.dataclass(kw_only=True)
class LiquidationParams(environment.EnvParams):
    """Parameters of `LiquidationEnv`, all `[]` float32; `AlmgrenChriss.params` builds them.

    Attributes:
      max_steps_in_episode: int32, slices.
      shares: at reset.
      price_noise: standard deviation of the price over a slice, currency per share.
      half_spread: currency per share sold.
      temporary_slope: currency per share sold and share of the same slice.
      permanent_impact: fall of the price, currency per share sold.
      risk_penalty: currency per squared share that is held over a slice.
      reward_scale: reward of one unit of currency.
      inventory_scale: shares that are observed as 1.
      price_scale: change of the price that is observed as 1.
    """

    shares: jax.Array
    price_noise: jax.Array
    half_spread: jax.Array
    temporary_slope: jax.Array
    permanent_impact: jax.Array
    risk_penalty: jax.Array
    reward_scale: jax.Array
    inventory_scale: jax.Array
    price_scale: jax.Array


class LiquidationEnv(ReferenceEnv):
    """Environment of `AlmgrenChriss`."""

    n_inputs = 3
    lowest_action = 0.0

    def _start(self, key: jax.Array, params: LiquidationParams) -> LiquidationState:
        """The whole block is left; nothing is random."""
        del key
        zero = jnp.zeros(())
        return LiquidationState(time=jnp.zeros((), jnp.int32), inventory=params.shares + zero, price=zero)

    def _transition(
        self, key: jax.Array, state: LiquidationState, action: jax.Array, params: LiquidationParams
    ) -> tuple[LiquidationState, jax.Array, jax.Array]:
        """Sells in one slice and holds the rest over it. Consumes `key`."""
        last = state.time >= params.max_steps_in_episode - 1
        fraction = jnp.where(last, 1.0, jnp.clip(jnp.reshape(action, ()), 0.0, 1.0))
        sold = fraction * state.inventory
        inventory = jnp.where(last, 0.0, state.inventory - sold)
        shock = jax.random.normal(key)
        move = params.price_noise * shock - params.permanent_impact * sold
        cost = sold * (params.half_spread + params.temporary_slope * sold)
        reward = inventory * move - cost - params.risk_penalty * inventory**2
        state = LiquidationState(time=state.time + 1, inventory=inventory, price=state.price + move)
        return state, reward, shock[None]

    def _observation(self, state: LiquidationState, params: LiquidationParams) -> jax.Array:
        """Time that remains, inventory and price."""
        scaled = (state.inventory / params.inventory_scale, state.price / params.price_scale)
        return jnp.stack([self._remaining(state, params), *scaled]).astype(jnp.float32)


def held_ratios(rate: float, n_slices: int) -> np.ndarray:
    """Shares after each slice over shares before it, `sinh(rate (N - k)) / sinh(rate (N - k + 1))`, k = 1...N: `[N]`.

    Args:
      rate: kappa tau >= 0; 0 gives equal slices.
      n_slices: N.
    """
    after = np.arange(n_slices - 1.0, -1.0, -1.0)
    if rate == 0.0:
        return after / (after + 1.0)
    # The ratio of sinh with the growing exponentials divided out: they overflow for fast schedules.
    return math.exp(-rate) * np.expm1(-2 * rate * after) / np.expm1(-2 * rate * (after + 1.0))


class AlmgrenChriss(Problem):
    """Sells a block in equal slices of time: fast selling costs impact, slow selling costs risk.

    Model: with X shares to sell in N slices of length `tau = maturity / N`, `n_k` of them in slice k, and
    `x_k = x_{k-1} - n_k` left, the price follows `S_k = S_{k-1} + volatility sqrt(tau) xi_k - permanent_impact n_k`,
    and the slice trades at `S_{k-1} - half_spread - temporary_impact n_k / tau`. The cost of a slice, marked to market,
    `c_k = n_k (half_spread + temporary_impact n_k / tau) + x_k (S_{k-1} - S_k)`, sums to the implementation shortfall.

    - Criterion: minimal `E[sum_k c_k + risk_aversion volatility^2 tau x_k^2]`, undiscounted. For a schedule that is
      fixed in advance it is `E + risk_aversion V`, mean and variance of the shortfall. Expected cost and penalty are
      functions of the schedule alone, and convex, so that reacting to the price cannot help, and the static schedule
      is optimal among all policies. (It is not for the variance itself, which is not additive over time.)
    - Observation `[3]`: share of the time that remains, inventory in root mean squares of the optimal schedule, change
      of the price since the start in units of its typical size at the end.
    - Action `[1]` in [0, 1]: fraction of the remaining inventory that is sold; the last slice sells all of it.
    - Reward: `-(c_k + penalty)` times `reward_scale`, one over the root mean square of a slice's cost under the
      optimum; `objective` turns values back into currency.
    - `info["market"]` `[1]`: `xi_k`. The initial price drops out of the shortfall and is no parameter.
    - Start: the whole block. Terminated after N slices, never truncated.

    Optimum: `x_k = X sinh(kappa (T - t_k)) / sinh(kappa T)` with `2 (cosh(kappa tau) - 1) / tau^2 = risk_aversion
    volatility^2 / (temporary_impact - permanent_impact tau / 2)`, exact for the discrete problem.

    Args:
      shares: X > 0.
      maturity: T > 0, in units of time (days).
      n_slices: N >= 1.
      volatility: of the price, currency per share and square root of a unit of time, > 0.
      half_spread: currency per share, >= 0.
      permanent_impact: gamma >= 0, currency per share and share sold.
      temporary_impact: eta, currency per share and share sold per unit of time, > permanent_impact tau / 2.
      risk_aversion: lambda >= 0, per unit of currency.

    Raises:
      ValueError: a parameter outside its range.

    Attributes:
      reward_scale: reward of one unit of currency.
      urgency: kappa, per unit of time.
      expected_shortfall: E of the optimal schedule, currency.
      variance: V of its shortfall, squared currency.

    Reference: Almgren and Chriss (2000), "Optimal execution of portfolio transactions", Journal of Risk 3(2),
      equations 1-8, 15-18; the defaults are its table 1, with risk_aversion 1e-6.
    """

    discount = 1.0

    def __init__(
        self,
        *,
        shares: float = 1e6,
        maturity: float = 5.0,
        n_slices: int = 5,
        volatility: float = 0.95,
        half_spread: float = 0.0625,
        permanent_impact: float = 2.5e-7,
        temporary_impact: float = 2.5e-6,
        risk_aversion: float = 1e-6,
    ):
        self.shares = positive("shares", shares)
        maturity = positive("maturity", maturity)
        self.horizon = positive_int("n_slices", n_slices)
        self.volatility = positive("volatility", volatility)
        self.half_spread = non_negative("half_spread", half_spread)
        self.permanent_impact = non_negative("permanent_impact", permanent_impact)
        self.risk_aversion = non_negative("risk_aversion", risk_aversion)
        self.slice_length = maturity / self.horizon
        least = self.permanent_impact * self.slice_length / 2
        allowed = f"finite and > permanent_impact * maturity / n_slices / 2 = {least:g}"
        self.temporary_impact = checked("temporary_impact", temporary_impact, temporary_impact > least, allowed)
        curvature = self.risk_aversion * self.volatility**2 / (self.temporary_impact - least)
        self.urgency = 2 * math.asinh(math.sqrt(curvature) * self.slice_length / 2) / self.slice_length
        ratios = held_ratios(self.urgency * self.slice_length, self.horizon)
        self._holdings = self.shares * np.concatenate([[1.0], np.cumprod(ratios)])
        self._fractions = jnp.asarray(1.0 - ratios, jnp.float32)
        sold, held = -np.diff(self._holdings), self._holdings[1:]
        # Mean and standard deviation of the cost of each slice, marked to market.
        cost = sold * (self.half_spread + self.temporary_impact * sold / self.slice_length)
        cost = cost + self.permanent_impact * sold * held
        deviation = self.volatility * math.sqrt(self.slice_length) * held
        risk = self.risk_aversion * deviation**2
        self.expected_shortfall, self.variance = float(np.sum(cost)), float(np.sum(deviation**2))
        self._optimum = self.expected_shortfall + self.risk_aversion * self.variance
        self.reward_scale = 1.0 / math.sqrt(np.mean((cost + risk) ** 2 + deviation**2))
        self.params = make_params(
            LiquidationParams,
            self.horizon,
            shares=self.shares,
            price_noise=self.volatility * math.sqrt(self.slice_length),
            half_spread=self.half_spread,
            temporary_slope=self.temporary_impact / self.slice_length,
            permanent_impact=self.permanent_impact,
            risk_penalty=self.risk_aversion * self.volatility**2 * self.slice_length,
            reward_scale=self.reward_scale,
            inventory_scale=math.sqrt(np.mean(self._holdings[:-1] ** 2)),
            price_scale=math.hypot(self.volatility * math.sqrt(maturity), self.permanent_impact * self.shares),
        )
        self.env = LiquidationEnv(self.params)

    def schedule(self) -> np.ndarray:
        """Optimal holdings `[N + 1]` in shares, from the whole block to 0."""
        return self._holdings.copy()

    def optimal_action(self, state: LiquidationState) -> jax.Array:
        """Fraction of the inventory that the optimal schedule sells in this slice, `[1]`."""
        return self._fractions[state.time][None]

    def optimal_value(self) -> float:
        """Exact value of the criterion, rewards scaled as in the environment; negative."""
        return -self.reward_scale * self._optimum

    def objective(self, value: float) -> float:
        """Converts a value of the criterion to currency: shortfall plus penalty, `E + risk_aversion V`."""
        return -float(value) / self.reward_scale

    def percent_of_optimum(self, value: float) -> float:
        """Optimal objective in per cent of that of a policy of value `value`.

        Raises:
          ValueError: a value >= 0, a liquidation without cost.
        """
        if not value < 0:
            raise ValueError(f"value is {value}; it must be < 0, because every liquidation costs")
        return 100.0 * self.optimal_value() / float(value)
