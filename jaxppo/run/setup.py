"""From a configuration to the objects of a run; every user mistake surfaces here, before anything is compiled."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo import envs
from jaxppo.book.from_config import make_book
from jaxppo.config import PERIODS, Config, ConfigError, PPOConfig
from jaxppo.config.book import RunStrategy
from jaxppo.envs.execution.costs import Costs, make_costs
from jaxppo.envs.execution.portfolio import FillRule
from jaxppo.envs.market.market_data import MarketData, periods_per_year
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.types import EnvParams
from jaxppo.envs.trading.view import MarketView
from jaxppo.masks.from_config import make_masks
from jaxppo.masks.hours import usual_minutes
from jaxppo.masks.transform import MaskTransform
from jaxppo.policy.networks.actor_critic import Params, Policy, make_policy
from jaxppo.policy.networks.config import EncoderConfig
from jaxppo.policy.networks.head import ActionConfig
from jaxppo.policy.rules import Strategy
from jaxppo.ppo.learner import schedule_left
from jaxppo.ppo.trading_task import action_config
from jaxppo.risk.from_config import make_monitor, make_rewards
from jaxppo.risk.monitor import UNWATCHED, Monitor
from jaxppo.risk.sizing.from_config import make_sizing
from jaxppo.risk.sizing.transform import Sizing, SizingTransform
from jaxppo.run.devices import encoder_config, ppo_for_devices, select_devices
from jaxppo.run.objectives import check_reachable
from jaxppo.run.periods import Period, split_periods
from jaxppo.run.regimes import find_regimes
from jaxppo.run.simulation import SIMULATED, simulated_market

GIVEN_IN_PYTHON = "(a market given in Python)"
"""`data.path` of a run whose prices were an argument."""
TRADING = "trading"
"""`env.name` of a `TradingEnv`."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """What training and evaluation share.

    Attributes:
      config: the configuration, with what the first period decides filled in (`policy.bar_seconds`, `regimes.model`).
      market: the prices.
      env: the environment, with indexed observations.
      params: tables and costs over the whole market; `period_params` restricts them.
      periods: `train`, `validation`, `test`.
      periods_per_year: bars per year, for annualised figures.
      encoder: shape of the network.
      action: what its head parameterises.
      ppo: hyper-parameters with the device's choices filled in.
      devices: devices to train on.
      regimes: `[T, A, 4]` probabilities of the regimes at every close; None without regimes.
      monitor: the watched limits.
    """

    config: Config
    market: MarketData
    env: TradingEnv
    params: EnvParams
    periods: dict[str, Period]
    periods_per_year: float
    encoder: EncoderConfig
    action: ActionConfig
    ppo: PPOConfig
    devices: list[jax.Device]
    regimes: jax.Array | None = None
    monitor: Monitor = UNWATCHED

    def period_params(self, name: str) -> EnvParams:
        """`params` restricted to a period."""
        period = self.periods[name]
        return self.params.replace(
            first_bar=jnp.asarray(period.first, jnp.int32), last_bar=jnp.asarray(period.last, jnp.int32)
        )


def load_data(config: Config) -> MarketData:
    """The configured market.

    Raises:
      envs.DataError: the prices cannot be used as they are; names the keys of the configuration that would allow them.
      ConfigError: `data.path` cannot be looked up at all, or the simulated market does not exist.
    """
    if config.data.path == SIMULATED:
        return simulated_market(config)
    own = {"path", *PERIODS, "purge_bars"}
    options = config.data.model_dump(exclude=own)
    path = config.data.path
    if path == GIVEN_IN_PYTHON:
        raise ConfigError(
            "data.path: the prices of this run were given in Python; give them again as market= in Python, or evaluate "
            "on a file with --data FILE"
        )
    try:
        return envs.load_market(list(path) if isinstance(path, tuple) else path, **options)
    except envs.DataError as error:
        raise envs.DataError(_with_keys(str(error), tuple(options))) from None
    except OSError as error:
        raise ConfigError(f"data.path is {path!r}, which cannot be read: {error.strerror}") from None


def _with_keys(message: str, options: tuple[str, ...]) -> str:
    """`message` with arguments of `envs.load_market` (`on_bad_rows='drop'`) as options (`--data.on_bad_rows drop`)."""

    def option(found: re.Match) -> str:
        value = found["value"].strip("'")
        return f"--data.{found['name']} {value.lower() if value in ('True', 'False') else value}"

    return re.sub(rf"\b(?P<name>{'|'.join(options)})=(?P<value>'[^']*'|[^\s,;)]+)", option, message)


def build(
    config: Config,
    market: MarketData,
    *,
    split: bool = True,
    first: int = 0,
    periods: Mapping[str, Period] | None = None,
) -> Setup:
    """Builds a run's objects.

    Args:
      config: the configuration.
      market: its prices.
      split: False for an evaluation of the whole market: the only period is then `test`.
      first: earliest decision bar of that evaluation.
      periods: `train`, `validation` and `test` in place of those of the configuration; what is fitted is fitted on
        `train` alone.

    Raises:
      ConfigError: the configuration does not fit the data or the devices.
    """
    devices = select_devices(config)
    encoder = encoder_config(config, devices[0].platform)
    annual = periods_per_year(market)
    costs = make_costs(**config.costs.model_dump())
    env = make_env(config, market, encoder.context)
    if split:
        check_reachable(config, env)
    ppo = ppo_for_devices(config, devices)
    learn_from = 0 if periods is None else periods["train"].first
    if periods is not None:
        periods = dict(periods)
    elif split:
        periods = split_periods(market, config.data, env.first_decision, ppo.chunk)
    else:
        first = max(first, env.first_decision)
        if market.n_bars - 1 - first < 2:
            raise ConfigError(
                f"data.path is {config.data.path!r}, which has {market.n_bars} bars; features and window need "
                f"{env.first_decision} before the first decision, and an evaluation three more after bar {first}"
            )
        periods = {"test": Period(first, market.n_bars - 1)}
    _check_unseen(config, market, periods["test"])
    if config.policy.bar_seconds is None:
        config = _with_bar_seconds(config, _median_seconds(market, next(iter(periods.values()))))
        encoder = dataclasses.replace(encoder, bar_seconds=config.policy.bar_seconds)
    learn_until = next(iter(periods.values())).last
    regimes, found = find_regimes(config.regimes, market, learn_until, config.seed, learn_from)
    config = config.model_copy(update={"regimes": found})
    view = MarketView(market, annual, env.position_limit, regimes)
    params = env.make_params(
        market,
        costs,
        initial_cash=config.env.initial_cash,
        risk_aversion=config.env.risk_aversion,
        drawdown_limit=config.env.drawdown_limit,
        episode_bars=config.env.episode_chunks * ppo.chunk,
        feature_dtype=encoder.dtype,
        masks=_table("masks", env.masks, view),
        sizing=_table("sizing", env.sizing, view),
        regimes=regimes,
    )
    return Setup(
        config=config,
        market=market,
        env=env,
        params=params,
        periods=periods,
        periods_per_year=annual,
        encoder=encoder,
        action=action_config(env, config.policy.action_std, config.policy.action_distribution),
        ppo=ppo,
        devices=devices,
        regimes=regimes,
        monitor=make_monitor(config.monitor, annual),
    )


def make_env(config: Config, market: MarketData, context: int) -> TradingEnv:
    """The environment of a run, for a policy that sees `context` bars.

    Raises:
      ConfigError: the configuration does not fit the market.
    """
    costs = make_costs(**config.costs.model_dump())
    displacement = config.costs.transient_impact > 0 or config.costs.permanent_impact > 0
    fill_rule = FillRule(config.env.latency_bars, config.env.unfilled, config.env.fill_price, displacement)
    return TradingEnv(
        n_assets=market.n_assets,
        actions=config.env.actions,
        levels=config.env.levels,
        gross_buckets=config.env.gross_buckets,
        position_limit=config.env.position_limit,
        observation="index",
        window=context,
        fill_rule=fill_rule,
        start=config.env.start,
        groups=config.features.groups,
        normalisation_window=config.features.normalisation_window,
        masks=_masks(config, market),
        sizing=_sizing(config, market, costs, fill_rule),
        rewards=make_rewards(config.rewards, periods_per_year(market)),
    )


def _masks(config: Config, market: MarketData) -> MaskTransform | None:
    """The configured masks.

    Raises:
      ConfigError: one of them does not fit the market.
    """
    try:
        masks = make_masks(config.masks, market.info.symbols, config.data.calendar)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    for number, part in enumerate(masks.parts if masks is not None else ()):
        if part.name == "session":  # the one that fails on a market may do so before anything is compiled
            _rows(f"masks[{number}]", part, MarketView(market, 1.0, 1.0))
            _flat_in_time(number, config, market)
    return masks


def _flat_in_time(number: int, config: Config, market: MarketData) -> None:
    """A ConfigError if orders to close positions before the close would fill after it."""
    flat, latency = config.masks[number].session.flat_minutes, config.env.latency_bars
    least = latency * float(usual_minutes(market)[-1])
    if flat is not None and flat < least:
        raise ConfigError(
            f"masks[{number}].session.flat_minutes is {flat:g}; orders fill env.latency_bars {latency} x "
            f"{least / latency:g} minutes later, so it must be at least {least:g} for positions to be closed in time"
        )


def _sizing(config: Config, market: MarketData, costs: Costs, fill_rule: FillRule) -> Sizing | None:
    """The configured sizing.

    Raises:
      ConfigError: a transform whose keys do not fit together.
    """
    try:
        return make_sizing(
            config.sizing,
            partial(
                make_book,
                costs=costs,
                fill_rule=fill_rule,
                initial_cash=config.env.initial_cash,
                open_run=lambda run: _trained(run, market),
            ),
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _trained(run: RunStrategy, market: MarketData) -> Strategy:
    """An agent that was trained before, as a strategy on these prices."""
    from jaxppo.backtest.trained import open_trained  # which opens runs with `build`

    return open_trained(run.folder, market, name=run.name)


def _check_unseen(config: Config, market: MarketData, test: Period) -> None:
    """A ConfigError if an agent of a book has learned from bars on which the book is tested."""
    from jaxppo.backtest.run import first_unseen

    for number, item in enumerate(config.sizing):
        for place, strategy in enumerate(item.book.strategies if item.kind == "book" else ()):
            if strategy.kind == "run" and first_unseen(pathlib.Path(strategy.run.folder), market) > test.first:
                raise ConfigError(
                    f"sizing[{number}].book.strategies[{place}].run is {strategy.run.folder!r}, which was trained and "
                    "selected on bars of the test period; change data.test or the run"
                )


def _table(name: str, transform: MaskTransform | Sizing | None, view: MarketView) -> Any:
    """What a list of transforms needs of the market.

    Raises:
      ConfigError: a transform that this market does not allow.
    """
    parts = () if transform is None else transform.parts
    return tuple(_rows(f"{name}[{number}]", part, view) for number, part in enumerate(parts))


def _rows(name: str, part: MaskTransform | SizingTransform, view: MarketView) -> Any:
    """The table of one transform; see `_table`."""
    try:
        return part.table(view)
    except ValueError as error:
        raise ConfigError(f"{name}.{part.name}: {error}") from None


def _median_seconds(market: MarketData, period: Period) -> float:
    """Median time between the bars of a period; 1 for a market without times."""
    seconds = np.asarray(market.seconds_since_previous)[period.first : period.last + 1]
    return float(np.median(seconds[seconds > 0])) if np.any(seconds > 0) else 1.0


def _with_bar_seconds(config: Config, seconds: float) -> Config:
    return config.model_copy(update={"policy": config.policy.model_copy(update={"bar_seconds": seconds})})


def as_started(config: Config, saved: Config) -> Config:
    """`config` with what the data decided when the run `saved` was started."""
    if config.policy.bar_seconds is None:
        config = _with_bar_seconds(config, saved.policy.bar_seconds)
    if config.regimes.model is None and config.regimes.states == saved.regimes.states:
        config = config.model_copy(update={"regimes": config.regimes.model_copy(update={"model": saved.regimes.model})})
    return config


def dropout_rate(config: Config) -> Callable[[jax.Array], jax.Array] | None:
    """Rate of dropout `[]` after a share `[]` of the budget; None where nothing is ever dropped."""
    policy = config.policy
    if policy.dropout == 0.0 and (policy.dropout_schedule == "constant" or policy.dropout_final == 0.0):
        return None
    span = policy.dropout - policy.dropout_final

    def rate(progress: jax.Array) -> jax.Array:
        return policy.dropout_final + span * schedule_left(policy.dropout_schedule, progress)

    return rate


def first_policy(setup: Setup) -> tuple[Policy, Params]:
    """The run's policy, and its parameters before any training."""
    key, critic = jax.random.key(setup.config.seed), {"hindsight": setup.ppo.hindsight_critic}
    return make_policy(setup.encoder, setup.action, key, **critic, quantiles=setup.config.policy.quantiles)


def step_budget(config: Config) -> int | None:
    """Budget in environment steps, or None where it is wall time."""
    if config.training.steps is not None:
        return config.training.steps
    if config.training.episodes is not None:
        return config.training.episodes * config.env.episode_chunks * config.ppo.chunk
    return None
