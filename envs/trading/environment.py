"""`TradingEnv`: a gymnax environment whose market, costs and period are traced parameters."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from gymnax.environments import environment, spaces

from jaxppo.arguments import (
    AtLeastTwo,
    Cash,
    CodeOnly,
    Coefficient,
    EpisodeLength,
    Leverage,
    Numbers,
    OpenFraction,
    PositiveFloat,
    PositiveInt,
    checked,
)
from jaxppo.envs import simulators
from jaxppo.envs.execution.bars import pack_bars
from jaxppo.envs.execution.costs import Costs, make_costs
from jaxppo.envs.execution.fill_rule import FillRule, check_agree
from jaxppo.envs.execution.portfolio import drawdown
from jaxppo.envs.market import features
from jaxppo.envs.market.feature_set import FeatureSet
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.market.own_columns import OwnGroup
from jaxppo.envs.market.periods import periods_per_year
from jaxppo.envs.market.rows import running_count
from jaxppo.envs.trading.account import Account, BarRow, View
from jaxppo.envs.trading.bar import OneBar
from jaxppo.envs.trading.types import N_ACCOUNT_FEATURES, N_ASSET_FEATURES, EnvParams, EnvState, Observation
from jaxppo.envs.trading.view import MarketView


class TradingEnv(OneBar, environment.Environment[EnvState, EnvParams]):
    """Trades `A` assets from one cash account over a random window of a market.

    At the close of bar t the agent sees bars <= t and its portfolio and chooses targets; orders fill at the open of bar
    `t + latency`, the book is marked at the close of t + 1.

    - Observation: `observation="window"`: `[window * A * F + 3 A + 3]` float32, the features of the last `window` bars
      (oldest first), then `Observation.asset` and `Observation.account`, all flattened, for third-party trainers.
      `observation="index"`: an `Observation`, for policies that read the feature table themselves.
    - Action: `actions="discrete"`: int32 `[A]` (a scalar for one asset): 0 holds the position as it is, `i >= 1`
      targets the weight `levels[i - 1] * position_limit`. `actions="continuous"`: float32 `[A]` in
      `[min(levels), max(levels)]`, times `position_limit`. `actions="band"`: float32 `[A, 2]`, two such weights per
      asset in either order, the edges of a no-trade band: a position outside is traded to the nearest edge, one inside
      is held. `actions="hierarchical"`: int32 `[1 + A]`: first the bucket of the whole portfolio, 0 for risk off or
      `b >= 1` for positions of up to `gross_buckets[b - 1] * position_limit` each; then for each asset a discrete
      action, whose levels count in units of that. A bucket cuts what an asset holds beyond it, risk off closes
      everything; only the last leaves all positions alone.
    - Reward: `(G^(1 - a) - 1) / (1 - a)` of the bar's growth `G = equity_{t+1} / equity_t`, with relative risk aversion
      `a`; the default `a = 1` is the log return. A loss beyond 99.9 % in one bar counts as 99.9 %. Then `rewards`.
    - Terminated: the portfolio was liquidated (equity below the maintenance margin), or its drawdown exceeds the limit.
      Truncated: `max_steps_in_episode` steps, or the last bar of the period.

    Args:
      n_assets: A.
      actions: per asset: discrete target levels, a continuous target weight, or the two edges of a no-trade band.
        Hierarchical: risk off or a gross bucket, then short, flat, long or hold per asset, then a size.
      levels: target levels in units of `position_limit`, increasing, within [-1, 1]; continuous and band actions span
        their range. The sizes of hierarchical actions, in units of the bucket, 0 among them.
      gross_buckets: largest gross exposure in each bucket of hierarchical actions but risk off, as a share of the
        largest possible one, increasing, within (0, 1].
      position_limit: largest absolute weight per asset, fraction of equity; None for 1 / number of assets.
      observation: "window" or "index".
      window: bars that a decision reads; starts are drawn so that they, and the features' warm-up, lie before it.
      fill_rule: latency, partial fills and fill price.
      start: positions at the start of a training episode: none, or uniformly drawn ones within the action range,
        whatever the masks, like positions that prices carried beyond a limit; evaluation starts flat.
      groups: feature groups, see `compute_features`.
      normalisation_window: span in bars of the causal normalisation of features.
      normalise: how each feature group is normalised, see `compute_features`.
      columns: groups of own columns and functions, see `compute_features`.
      timeframes: coarser bars, see `compute_features`, -> bars in one: `timeframes.bars_per_timeframe(market, names)`.
      masks: limits of positions: a transform with `init(n_assets) -> state` and `apply(state, row, portfolio) ->
        (Limits, state)`, such as those of `jaxppo.masks`; `make_params` makes its table. Whoever decides, what is
        executed is the nearest decision within the limits.
      sizing: resizes the targets between decision and masks: a transform with `init(n_assets) -> state`,
        `pre_sizing_targets(state, portfolio) -> targets` and `apply(state, row, portfolio, weights, hold) -> (weights,
        state)`, such as those that `jaxppo.risk.sizing.chain` makes; `make_params` makes its table. Bands, buckets and
        the mean of targets then count a position as its pre-sizing target.
      rewards: shapes the reward: a transform with `init() -> state` and `apply(state, reward, outcome) -> (reward,
        state)`, such as those of `jaxppo.risk.rewards`.

    Raises:
      ValueError: an argument outside its range.
    """

    @checked
    def __init__(
        self,
        *,
        n_assets: PositiveInt = 1,
        actions: Literal["discrete", "continuous", "band", "hierarchical"] = "discrete",
        levels: Numbers = (0.0, 0.25, 0.5, 0.75, 1.0),
        gross_buckets: Numbers = (0.25, 0.5, 1.0),
        position_limit: Leverage | None = None,
        observation: Literal["window", "index"] = "window",
        window: PositiveInt = 32,
        fill_rule: FillRule = FillRule(),
        start: Literal["flat", "random"] = "random",
        groups: features.Groups = features.GROUPS,
        normalisation_window: AtLeastTwo = 252,
        normalise: features.Normalise | None = None,
        columns: CodeOnly[tuple[OwnGroup, ...]] = (),
        timeframes: CodeOnly[features.BarsOfTimeframes | None] = None,
        masks: Any = None,
        sizing: Any = None,
        rewards: Any = None,
    ):
        environment.Environment.__init__(self)
        OneBar.__init__(self, n_assets, actions, levels, gross_buckets, position_limit)
        self.observation = observation
        self.window = window
        self.fill_rule = fill_rule
        self.start = start
        self.groups = tuple(groups)
        self.features = FeatureSet(self.groups, normalisation_window, normalise, tuple(columns), timeframes or {})
        self.unknown = math.nan if observation == "index" else 0.0
        self.masks = masks
        self.sizing = sizing
        self.rewards = rewards

    @property
    def first_decision(self) -> int:
        """Earliest bar at which `window` fully formed feature rows exist."""
        return self.features.warmup + self.window - 1

    @property
    def default_params(self) -> EnvParams:
        """Parameters on a simulated driftless market, so that the environment runs out of the box.

        Raises:
          ValueError: an environment with the feature group `regime`, or a transform, that needs regimes.
        """
        n_bars = self.first_decision + 1024
        return self.make_params(simulators.gbm(jax.random.key(0), n_bars, self.n_assets))

    @checked
    def make_params(
        self,
        market: MarketData,
        costs: Costs | None = None,
        *,
        initial_cash: Cash = 1e6,
        risk_aversion: Coefficient = 1.0,
        drawdown_limit: OpenFraction | None = None,
        episode_bars: EpisodeLength = 256,
        first_bar: int | None = None,
        last_bar: int | None = None,
        feature_dtype: Any = jnp.float32,
        masks: Any = None,
        sizing: Any = None,
        periods: PositiveFloat | None = None,
        regimes: jax.Array | None = None,
    ) -> EnvParams:
        """Precomputes the tables of a market.

        Args:
          market: unbatched, `n_assets` assets.
          costs: None for `make_costs()`, which charges all costs.
          initial_cash: starting capital, currency of the prices.
          risk_aversion: relative risk aversion of the training reward; 1 is the log return.
          drawdown_limit: a training episode of a portfolio terminates beyond this drawdown; None for never.
          episode_bars: steps until truncation.
          first_bar: earliest decision bar; default and minimum: `first_decision`.
          last_bar: last bar of the period; default: the last of the market.
          feature_dtype: storage type of the features.
          masks: table of the environment's mask transform, leading axis T; default: made from the market.
          sizing: table of its sizing transform, likewise.
          periods: bars per year, for these tables; default: counted from the market.
          regimes: `[T, A, 4]` probabilities, for the feature group `regime`, see `compute_features`, and for costs that
            depend on regimes.

        Raises:
          ValueError: the market or the costs do not fit the environment, or the period is empty.
        """
        if market.n_assets != self.n_assets:
            raise ValueError(f"the market has {market.n_assets} assets, the environment {self.n_assets}")
        first = self.first_decision if first_bar is None else int(first_bar)
        last = market.n_bars - 1 if last_bar is None else int(last_bar)
        if first < self.first_decision:
            raise ValueError(f"first_bar is {first}; features and window need {self.first_decision} bars before it")
        if not first < last < market.n_bars:
            raise ValueError(f"the period [{first}, {last}] must hold a step and end before bar {market.n_bars}")
        if periods is None and not (self.masks is None and self.sizing is None):
            periods = periods_per_year(market)
        costs = make_costs() if costs is None else costs
        check_agree(costs, self.fill_rule)
        view = MarketView(market, 1.0 if periods is None else periods, self.position_limit, regimes)
        masks, sizing = (
            given if given is not None else () if transform is None else transform.table(view)
            for given, transform in ((masks, self.masks), (sizing, self.sizing))
        )
        return EnvParams(
            max_steps_in_episode=jnp.asarray(episode_bars, jnp.int32),
            market=market,
            table=pack_bars(market, conditions=costs.conditions, regimes=regimes, ranges=self.fill_rule.ranges),
            features=self.features.table(market, self.unknown, regimes).astype(feature_dtype),
            listed=running_count(market.tradable) > 0,
            costs=costs,
            initial_cash=jnp.asarray(initial_cash, jnp.float32),
            risk_aversion=jnp.asarray(risk_aversion, jnp.float32),
            drawdown_limit=jnp.asarray(jnp.inf if drawdown_limit is None else drawdown_limit, jnp.float32),
            first_bar=jnp.asarray(first, jnp.int32),
            last_bar=jnp.asarray(last, jnp.int32),
            masks=masks,
            sizing=sizing,
        )

    def draw_start(self, key: jax.Array, params: EnvParams) -> jax.Array:
        """First decision bar of an episode, `[]` int32, uniform over those that leave it its full length.

        A period that is shorter has one of them, its first.

        Args:
          key: consumed.
          params: with the period.
        """
        latest = jnp.maximum(params.last_bar - params.max_steps_in_episode, params.first_bar)
        choices = latest - params.first_bar + 1
        if params.first_bar.ndim == 0:
            drawn = (jax.random.uniform(key) * choices).astype(jnp.int32)
            return params.first_bar + jnp.minimum(drawn, choices - 1)
        below = jnp.cumsum(jnp.where(params.last_bar > params.first_bar, choices, 0))
        drawn = jnp.minimum((jax.random.uniform(key) * below[-1]).astype(jnp.int32), below[-1] - 1)
        period = jnp.searchsorted(below, drawn, side="right")
        return params.first_bar[period] + drawn - (below - choices)[period]

    @partial(jax.jit, static_argnames=("self",))
    def step(
        self, key: jax.Array, state: EnvState, action: jax.Array, params: EnvParams | None = None
    ) -> tuple[Any, EnvState, jax.Array, jax.Array, jax.Array, dict[str, Any]]:
        """One decision and one bar, then an automatic reset if the episode ended: gymnax's contract.

        The transition itself is deterministic, so the key is not split, which would cost more than the step: a subclass
        must not draw from it in `step_env`; `decode`, `_fresh_state` and `_observe` may change.

        Args:
          key: consumed by the reset.
          state: at the decision.
          action: see the class docstring.
          params: None takes `default_params`.

        Returns:
          Observation, state, reward `[]`, terminated `[]`, truncated `[]`, info.
        """
        params = self.default_params if params is None else params
        observed, stepped, reward, terminated, info = self.step_env(key, state, action, params)
        truncated = self.is_truncated(stepped, params)
        fresh = self._fresh_state(key, params)
        state = jax.tree.map(lambda new, old: jnp.where(terminated | truncated, new, old), fresh, stepped)
        info |= {"terminated": terminated, "truncated": truncated, "final_observation": observed}
        info |= {"final_action_mask": info["action_mask"], "action_mask": self._seen(state, params).mask}
        return self._observe(state, params), state, reward, terminated, truncated, info

    def reset_env(self, key: jax.Array, params: EnvParams) -> tuple[Any, EnvState]:
        """Starts an episode at a random bar.

        Args:
          key: consumed.
          params: the market and its costs.
        """
        state = self._fresh_state(key, params)
        return self._observe(state, params), state

    def action_mask_of(self, state: EnvState, params: EnvParams) -> jax.Array:
        """Actions that a state allows: `mask` of its `Observation`.

        Args:
          state: of the episode.
          params: the market and its costs.
        """
        return self._seen(state, params).mask

    def _fresh_state(self, key: jax.Array, params: EnvParams) -> EnvState:
        """The first state of an episode. Consumes `key`."""
        key_start, key_portfolio = (key, None) if self.start == "flat" else jax.random.split(key)
        bar = self.draw_start(key_start, params)
        price, tradable = params.market.mark(bar), params.market.tradable[bar]
        portfolio = self.start_portfolio(key_portfolio, price, tradable, params, params.table[bar + 1])
        return EnvState(
            time=jnp.zeros((), jnp.int32),
            bar=bar,
            portfolio=portfolio,
            masks=self.mask_start(),
            sizing=self.sizing_start(),
            rewards=self.rewards_start(),
        )

    def step_env(
        self, key: jax.Array, state: EnvState, action: jax.Array, params: EnvParams
    ) -> tuple[Any, EnvState, jax.Array, jax.Array, dict[str, Any]]:
        """One decision and one bar, without the automatic reset.

        Args:
          key: not used: the transition is deterministic.
          state: at the decision.
          action: see the class docstring.
          params: the market and its costs.
        """
        del key

        def decide(account: Account, view: View, row: BarRow) -> tuple[jax.Array, jax.Array, None]:
            return *self.decode(action, account.portfolio, view.constraint), None

        row = self._row(state.bar, params).replace(next_bar=params.table[state.bar + 1])
        account, result, _ = self.step_bar(decide, _account(state), row, params.costs, params.risk_aversion)
        portfolio, fills = account.portfolio, result.fills
        ended = self.ruined(portfolio, fills, params)
        state = EnvState(state.time + 1, state.bar + 1, portfolio, account.masks, account.sizing, account.rewards)
        info = {
            "discount": jnp.where(ended, 0.0, 1.0),
            "equity": portfolio.equity,
            "costs": jnp.sum(fills.costs.total()) + fills.financing,
            "action_mask": self._seen(state, params).mask,
        }
        return self._observe(state, params), state, result.reward, ended, info

    def is_terminated(self, state: EnvState, params: EnvParams) -> jax.Array:
        """Whether the account is gone or beyond the drawdown limit.

        A liquidation that leaves money is reported by its step alone.

        Args:
          state: of the episode.
          params: with the drawdown limit.
        """
        return (state.portfolio.equity <= 0) | (drawdown(state.portfolio) > params.drawdown_limit)

    def is_truncated(self, state: EnvState, params: EnvParams) -> jax.Array:
        """Whether the episode's length or the period is over.

        Args:
          state: of the episode.
          params: with both.
        """
        return (state.time >= params.max_steps_in_episode) | (state.bar >= params.period_end(state.bar))

    def observe(self, key: jax.Array, state: EnvState, action: Any, params: EnvParams) -> Any:
        """Observation of a state.

        Args:
          key: not used.
          state: of the episode.
          action: not used.
          params: the market and its costs.
        """
        del key, action
        return self._observe(state, params)

    def _observe(self, state: EnvState, params: EnvParams) -> Any:
        seen = self._seen(state, params)
        if self.observation == "index":
            return seen
        shape = (self.window, *params.features.shape[1:])
        window = jax.lax.dynamic_slice(params.features, (state.bar - self.window + 1, 0, 0), shape)
        return jnp.concatenate([x.ravel() for x in (window.astype(jnp.float32), seen.asset, seen.account)])

    def _seen(self, state: EnvState, params: EnvParams) -> Observation:
        return self.view(_account(state), self._row(state.bar, params)).observation

    def _row(self, bar: jax.Array, params: EnvParams) -> BarRow:
        """What a decision at the close of `bar` reads of the tables; without the bar in which it fills."""
        masks, sizing = jax.tree.map(lambda x: x[bar], (params.masks, params.sizing))
        return BarRow(bar, (), params.market.tradable[bar], masks, sizing)

    def observation_space(self, params: EnvParams | None = None) -> spaces.Space:
        """See the class docstring."""
        del params
        if self.observation == "index":
            mask = spaces.Box(False, True, (self.n_assets, self.num_actions), jnp.bool_)
            if self.actions == "hierarchical":
                mask = spaces.Box(False, True, (self.n_assets, self.num_buckets, self.num_actions), jnp.bool_)
            elif self.actions != "discrete":
                mask = spaces.Box(-jnp.inf, jnp.inf, (self.n_assets, 2))
            return spaces.Dict(
                {
                    "bar": spaces.Box(0, jnp.iinfo(jnp.int32).max, (), jnp.int32),
                    "asset": spaces.Box(-jnp.inf, jnp.inf, (self.n_assets, N_ASSET_FEATURES)),
                    "account": spaces.Box(-jnp.inf, jnp.inf, (N_ACCOUNT_FEATURES,)),
                    "mask": mask,
                }
            )
        size = self.n_assets * (self.window * len(self.features.names) + N_ASSET_FEATURES) + N_ACCOUNT_FEATURES
        return spaces.Box(-jnp.inf, jnp.inf, (size,))


def _account(state: EnvState) -> Account:
    return Account(state.portfolio, state.masks, state.sizing, state.rewards)
