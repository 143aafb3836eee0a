"""Market making: Cartea-Jaimungal with inventory penalties, Avellaneda-Stoikov with exponential utility."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment

from jaxppo.envs.reference.environment import ReferenceEnv, make_params, utility_increment
from jaxppo.envs.reference.parameters import checked, count_steps, non_negative, positive, positive_int
from jaxppo.envs.reference.problem import Problem
from jaxppo.envs.reference.quoting import QuoteLaw, root_mean_squares, solve_quotes

LEAST_GAIN = 1e-4
"""Certainty equivalent of the optimum over its mark-up below which the problem is refused."""


@struct.dataclass
class MarketMakingState(environment.EnvState):
    """State of one market maker.

    Attributes:
      time: `[]` int32 steps since reset.
      inventory: `[]` int32 units, 0 at reset.
      price: `[]` change of the mid-price since reset, currency.
      wealth: `[]` cash plus inventory at the mid-price, currency, 0 at reset.
    """

    inventory: jax.Array
    price: jax.Array
    wealth: jax.Array


@struct.dataclass(kw_only=True)
class MarketMakingParams(environment.EnvParams):
    """Parameters of `MarketMakingEnv`, all `[]` float32; the problems of this file build them.

    Attributes:
      max_steps_in_episode: int32, steps to the end.
      inventory_limit: int32, units; the side that would exceed it is not quoted.
      price_noise: standard deviation of the mid-price over a step, currency.
      arrival: probability of a market order on a side in a step.
      fill_decay: k, per currency of depth.
      depth_scale: depth at action 0, currency.
      risk_aversion: absolute, per currency of wealth; 0 for a linear criterion.
      wealth_rate: certainty equivalent of the optimum per step, currency; 0 for a linear criterion.
      running_penalty: currency per squared unit of inventory and step.
      terminal_penalty: currency per squared unit of inventory at the end.
      reward_scale: reward of one unit of currency.
      inventory_scale: units that are observed as 1.
      price_scale: change of the mid-price that is observed as 1.
      wealth_scale: wealth that is observed as 1.
    """

    inventory_limit: jax.Array
    price_noise: jax.Array
    arrival: jax.Array
    fill_decay: jax.Array
    depth_scale: jax.Array
    risk_aversion: jax.Array
    wealth_rate: jax.Array
    running_penalty: jax.Array
    terminal_penalty: jax.Array
    reward_scale: jax.Array
    inventory_scale: jax.Array
    price_scale: jax.Array
    wealth_scale: jax.Array


def depth_of(action: jax.Array, scale: jax.Array) -> jax.Array:
    """Depth of a quote, `scale (1 + a) / (1 - a)`: 0, `scale` and infinite at -1, 0 and 1.

    Args:
      action: a, any shape, clipped to [-1, 1].
      scale: depth at action 0, currency.
    """
    bounded = jnp.clip(action, -1.0, 1.0)
    return scale * (1.0 + bounded) / (1.0 - bounded)


class MarketMakingEnv(ReferenceEnv):
    """Environment of `CarteaJaimungal` and `AvellanedaStoikov`.

    Args:
      parameters: default parameters.
      observes_account: whether mid-price and wealth are observed beside time and inventory.
    """

    n_actions = 2

    def __init__(self, parameters: MarketMakingParams, observes_account: bool):
        super().__init__(parameters)
        self.n_inputs, self.observes_account = 4 if observes_account else 2, observes_account

    def _start(self, key: jax.Array, params: MarketMakingParams) -> MarketMakingState:
        """No inventory, no wealth; nothing is random."""
        del key, params
        time, zero = jnp.zeros((), jnp.int32), jnp.zeros(())
        return MarketMakingState(time=time, inventory=time, price=zero, wealth=zero)

    def _transition(
        self, key: jax.Array, state: MarketMakingState, action: jax.Array, params: MarketMakingParams
    ) -> tuple[MarketMakingState, jax.Array, jax.Array]:
        """Quotes around the mid-price, fills, then the mid-price moves. Consumes `key`."""
        key_orders, key_price = jax.random.split(key)
        uniform = jax.random.uniform(key_orders, (2,), minval=jnp.finfo(jnp.float32).tiny)
        # One uniform number says whether an order arrives and how deep it reaches, so that the market is exogenous.
        reach = jnp.maximum(jnp.log(params.arrival / uniform), 0.0)
        shock = jax.random.normal(key_price)
        depths = depth_of(action, params.depth_scale)
        side = jnp.array([1, -1], jnp.int32)
        quoted = side * state.inventory < params.inventory_limit
        filled = quoted & (params.fill_decay * depths < reach)
        inventory = state.inventory + jnp.sum(jnp.where(filled, side, 0))
        move = params.price_noise * shock
        gain = jnp.sum(jnp.where(filled, depths, 0.0)) + inventory * move
        excess = state.wealth - params.wealth_rate * state.time
        growth = params.wealth_rate + utility_increment(excess, gain - params.wealth_rate, -params.risk_aversion)
        price, wealth = state.price + move, state.wealth + gain
        state = MarketMakingState(time=state.time + 1, inventory=inventory, price=price, wealth=wealth)
        last = self.is_terminated(state, params)
        penalty = params.running_penalty + jnp.where(last, params.terminal_penalty, 0.0)
        return state, growth - penalty * inventory**2, jnp.concatenate([reach, shock[None]])

    def _observation(self, state: MarketMakingState, params: MarketMakingParams) -> jax.Array:
        """Time that remains and inventory, with `observes_account` also mid-price and wealth."""
        seen = [self._remaining(state, params), state.inventory / params.inventory_scale]
        if self.observes_account:
            excess = state.wealth - params.wealth_rate * state.time
            seen += [state.price / params.price_scale, excess / params.wealth_scale]
        return jnp.stack(seen).astype(jnp.float32)


class MarketMakingProblem(Problem):
    """Base of the two problems: arrivals, fills, scales and the dynamic programme.

    Attributes:
      depths: `[n_steps, 2, 2 inventory_limit + 1]` optimal depths of bid and ask by time and inventory (short to long),
        currency; infinite where a side is not quoted.
      depth_scale: depth at action 0, the optimum where inventory does not matter, currency.
      reward_scale: reward of one unit of currency.
      optimal_gain: certainty equivalent of the optimal policy, penalties included, currency.
    """

    discount = 1.0

    def __init__(
        self,
        volatility: float,
        arrival_rate: float,
        fill_decay: float,
        maturity: float,
        dt: float,
        inventory_limit: int,
        *,
        risk_aversion: float = 0.0,
        penalties: tuple[float, float] = (0.0, 0.0),
    ):
        self.volatility = non_negative("volatility", volatility)
        self.fill_decay = positive("fill_decay", fill_decay)
        self.inventory_limit = positive_int("inventory_limit", inventory_limit)
        self.horizon = count_steps(maturity, dt)
        allowed = f"> 0 and at most 1 / dt = {1 / dt:g}, so that a step sees one market order a side"
        self.arrival_rate = checked("arrival_rate", arrival_rate, 0 < arrival_rate * dt <= 1 + 1e-9, allowed)
        self.risk_aversion, noise = risk_aversion, volatility * math.sqrt(dt)
        running_penalty, terminal_penalty = penalties
        law = QuoteLaw(
            n_steps=self.horizon,
            arrival=min(arrival_rate * dt, 1.0),
            fill_decay=fill_decay,
            risk_aversion=risk_aversion,
            running_penalty=running_penalty * dt + risk_aversion * noise**2 / 2,
            terminal_penalty=terminal_penalty,
            inventory_limit=self.inventory_limit,
        )
        self.depths, values = solve_quotes(law)
        self.depth_scale, self.optimal_gain = law.markup, float(values[0, self.inventory_limit])
        if not self.optimal_gain > LEAST_GAIN * law.markup:
            raise ValueError(
                f"volatility is {volatility}; it must be lower, or risk_aversion ({risk_aversion}), running penalty "
                f"({running_penalty}) or terminal_penalty ({terminal_penalty}): the optimum hardly ever trades"
            )
        gain_scale, inventory_scale = root_mean_squares(law, self.depths, noise)
        self.reward_scale = 1.0 / gain_scale
        self.params = make_params(
            MarketMakingParams,
            self.horizon,
            inventory_limit=jnp.asarray(self.inventory_limit, jnp.int32),
            price_noise=noise,
            arrival=law.arrival,
            fill_decay=fill_decay,
            depth_scale=law.markup,
            risk_aversion=risk_aversion,
            wealth_rate=self.optimal_gain / self.horizon if risk_aversion > 0 else 0.0,
            running_penalty=running_penalty * dt,
            terminal_penalty=terminal_penalty,
            reward_scale=self.reward_scale,
            inventory_scale=max(inventory_scale, 1.0),
            price_scale=noise * math.sqrt(self.horizon) if noise > 0 else 1.0,
            wealth_scale=gain_scale * math.sqrt(self.horizon),
        )
        self.env = MarketMakingEnv(self.params, observes_account=risk_aversion > 0)
        self._actions = jnp.asarray(1.0 - 2.0 / (1.0 + self.depths / law.markup), jnp.float32)

    def optimal_action(self, state: MarketMakingState) -> jax.Array:
        """Action of the optimal depths of bid and ask, `[2]`."""
        return self._actions[state.time, :, state.inventory + self.inventory_limit]

    def optimal_value(self) -> float:
        """Exact value of the criterion, by dynamic programming."""
        return self.reward_scale * self.optimal_gain


class CarteaJaimungal(MarketMakingProblem):
    """Quotes both sides of a market for expected wealth less penalties on the squared inventory.

    Model: every `dt` the agent quotes an ask and a bid at depths d from the mid-price S. On each side, independently, a
    market order for one unit arrives with probability `arrival_rate dt` and fills the quote with probability
    `exp(-fill_decay d)`; both sides can fill in the same step. Then the mid-price moves by `volatility sqrt(dt) z`.
    With inventory q, limited to `inventory_limit` either way, marked wealth grows by `sum_filled d + q_{t+1} dS`.

    - Criterion: `E[W_T - inventory_penalty sum_t q_{t+1}^2 dt - terminal_penalty q_T^2]`, undiscounted.
    - Observation `[2]`: share of the time that remains, inventory in units of its root mean square under the optimum,
      at least one unit.
    - Action `[2]` in [-1, 1]: a for bid and ask, `depth = depth_scale (1 + a) / (1 - a)`: -1 quotes the mid-price, 0 is
      optimal where inventory does not matter, 1 withdraws the quote, which a large inventory may ask for.
    - Reward: growth of marked wealth less penalties, times `reward_scale`, one over the root mean square of the growth
      of a step under the optimum.
    - `info["market"]` `[3]`: for bid and ask, how far the market order reaches into the book in units of
      `1 / fill_decay` (0: none came; otherwise exponential), and z.
    - Start: no inventory. Terminated at maturity, never truncated.

    Optimum: dynamic programming over time and inventory, `solve_quotes`, exact for any `dt`.
    As `dt -> 0` depths tend to `1 / fill_decay + h(t, q) - h(t, q +- 1)` with the h of the reference, where they
    do not cross the mid-price: the depth is at least 0 here.

    Args:
      volatility: of the mid-price, currency per square root of a unit of time, >= 0.
      arrival_rate: lambda, market orders per side and unit of time, > 0, at most `1 / dt`.
      fill_decay: k, per currency of depth, > 0.
      inventory_penalty: phi, per squared unit of inventory and unit of time, >= 0.
      terminal_penalty: alpha, per squared unit of inventory at maturity, >= 0.
      maturity: > 0, a whole number of `dt`.
      dt: length of a step, > 0.
      inventory_limit: >= 1.

    Raises:
      ValueError: a parameter outside its range.

    Reference: Cartea, Jaimungal, Penalva (2015), "Algorithmic and high-frequency trading", section 10.2; the defaults
      are those of the PPO notebook of mbt_gym.
    """

    def __init__(
        self,
        *,
        volatility: float = 0.1,
        arrival_rate: float = 10.0,
        fill_decay: float = 1.0,
        inventory_penalty: float = 0.5,
        terminal_penalty: float = 0.001,
        maturity: float = 1.0,
        dt: float = 0.01,
        inventory_limit: int = 10,
    ):
        penalties = (
            non_negative("inventory_penalty", inventory_penalty),
            non_negative("terminal_penalty", terminal_penalty),
        )
        super().__init__(volatility, arrival_rate, fill_decay, maturity, dt, inventory_limit, penalties=penalties)


class AvellanedaStoikov(MarketMakingProblem):
    """Quotes both sides of a market for exponential utility of terminal wealth.

    Model and inventory limit: as in `CarteaJaimungal`; inventory that is left at maturity is worth the mid-price.

    - Criterion: `E[u(W_T)]`, `u(W) = C + (1 - exp(-a (W - C))) / a`, `a = risk_aversion`, undiscounted. This is the
      utility `-exp(-a W)` in units of currency near C, the certainty equivalent of the optimum: `u(C) = C`, `u' = 1`.
    - Observation `[4]`: share of the time that remains, inventory as in `CarteaJaimungal`, change of the mid-price in
      standard deviations at maturity, wealth above `C t / T` in units of its typical size.
    - Action `[2]`, `info["market"]` `[3]`: as in `CarteaJaimungal`.
    - Reward: increment of `C t / T + (1 - exp(-a (W_t - C t / T))) / a` times `reward_scale`, one over the root mean
      square of the growth of wealth of a step under the optimum. It telescopes to `reward_scale * u(W_T)`, and its
      weight does not fade with the wealth that the maker has already earned.
    - Start: no inventory, no wealth. Terminated at maturity, never truncated.

    Optimum: exponential utility separates wealth, and the certainty equivalent of the future
    follows a dynamic programme over time and inventory, `solve_quotes`, exact for any `dt`. The reservation price
    `S - q a volatility^2 (T - t)` with the total spread `a volatility^2 (T - t) + (2 / a) log(1 + a / k)` of the
    reference is an approximation for small inventories and short times.

    Args:
      volatility: of the mid-price, currency per square root of a unit of time, > 0.
      arrival_rate: A, market orders per side and unit of time, > 0, at most `1 / dt`.
      fill_decay: k, per currency of depth, > 0.
      risk_aversion: absolute, per currency, > 0.
      maturity: > 0, a whole number of `dt`.
      dt: length of a step, > 0.
      inventory_limit: >= 1.

    Raises:
      ValueError: a parameter outside its range.

    Reference: Avellaneda and Stoikov (2008), "High-frequency trading in a limit order book", Quantitative Finance 8(3),
      equations 29-30, and its parameters; Gueant, Lehalle, Fernandez-Tapia (2013), "Dealing with the inventory risk",
      Mathematics and Financial Economics 7(4), theorem 1, is the limit `dt -> 0`.
    """

    def __init__(
        self,
        *,
        volatility: float = 2.0,
        arrival_rate: float = 140.0,
        fill_decay: float = 1.5,
        risk_aversion: float = 0.1,
        maturity: float = 1.0,
        dt: float = 0.005,
        inventory_limit: int = 30,
    ):
        volatility, risk_aversion = positive("volatility", volatility), positive("risk_aversion", risk_aversion)
        super().__init__(
            volatility, arrival_rate, fill_decay, maturity, dt, inventory_limit, risk_aversion=risk_aversion
        )

    def certainty_equivalent(self, value: float) -> float:
        """Certain terminal wealth in currency with the value `value`, a mean of episode returns.

        Raises:
          ValueError: no distribution of terminal wealth has this value.
        """
        bound = self.reward_scale * (self.optimal_gain + 1.0 / self.risk_aversion)
        if not value < bound:
            raise ValueError(f"value is {value}; it must be < {bound}, the bound of utility")
        excess = float(value) / self.reward_scale - self.optimal_gain
        return self.optimal_gain - math.log1p(-self.risk_aversion * excess) / self.risk_aversion

    def percent_of_optimum(self, value: float) -> float:
        """Certainty equivalent of a policy of value `value`, in per cent of the optimal one; 0 is doing nothing."""
        return 100.0 * self.certainty_equivalent(value) / self.optimal_gain
