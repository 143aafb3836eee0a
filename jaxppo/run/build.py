"""From a configuration to the objects of a run; every user mistake surfaces here, before anything is compiled."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from jaxppo.config import Config
from jaxppo.config.book import RunStrategy
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.market.periods import periods_per_year
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.types import EnvParams
from jaxppo.envs.trading.view import MarketView
from jaxppo.errors import ConfigError
from jaxppo.policy.networks.actor_critic import ActorCritic, Params
from jaxppo.policy.protocol import Policy
from jaxppo.ppo.learner import own_device
from jaxppo.ppo.trading_task import action_config
from jaxppo.risk.rewards import NO_MOMENTS, BaseMoments
from jaxppo.run import folder as run_folder
from jaxppo.run.base import make_base, moments_of_base
from jaxppo.run.benchmark import check_baselines
from jaxppo.run.checkpoints import Checkpoints
from jaxppo.run.devices import encoder_config, ppo_for_devices, training_devices
from jaxppo.run.environment import costs_of, make_env, transform_table
from jaxppo.run.objectives import check_reachable
from jaxppo.run.own_checks import check_own_code
from jaxppo.run.periods import Period, split_periods
from jaxppo.run.progress import announce
from jaxppo.run.regimes import find_regimes
from jaxppo.run.resuming import resume_command
from jaxppo.run.setup import Setup, first_policy, with_bar_seconds
from jaxppo.run.ship import gate_of
from jaxppo.run.strategy import strategy_of
from jaxppo.run.transforms import make_monitor, make_rewards


def build(
    config: Config,
    market: MarketData,
    *,
    split: bool = True,
    first: int = 0,
    periods: Mapping[str, Period] | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Setup:
    """Builds a run's objects.

    Args:
      config: the configuration.
      market: its prices.
      split: False for an evaluation of the whole market: the only period is then `test`.
      first: earliest decision bar of that evaluation.
      periods: `train`, `validation` and `test` in place of those configured; what is fitted sees the first alone.
      devices: to train on, or to compile for where they are not there; None leaves them to the configuration.

    Raises:
      ConfigError: the configuration does not fit the data or the devices.
    """
    announce("building features and tables")
    devices = training_devices(config) if devices is None else list(devices)
    encoder, annual = encoder_config(config, own_device(devices)), periods_per_year(market)
    costs, env = costs_of(config, market), environment_of(config, market, encoder.context)
    if split:
        check_reachable(config, env)
    ppo = ppo_for_devices(config, devices)
    learn_from = 0 if periods is None else next(iter(periods.values())).first
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
    check_baselines(config, market, periods["test"])
    if config.policy.bar_seconds is None:
        seconds = _median_seconds(market, next(iter(periods.values())))
        config, encoder = with_bar_seconds(config, seconds), dataclasses.replace(encoder, bar_seconds=seconds)
    regimes, found = find_regimes(config.regimes, market, next(iter(periods.values())).last, config.seed, learn_from)
    config = config.model_copy(update={"regimes": found})
    view = MarketView(market, annual, env.position_limit, regimes)
    check_own_code(config, env, view)
    params = env.make_params(
        market,
        costs,
        initial_cash=config.env.initial_cash,
        risk_aversion=config.env.risk_aversion,
        drawdown_limit=config.env.drawdown_limit,
        episode_bars=config.env.episode_chunks * ppo.chunk,
        feature_dtype=encoder.dtype,
        masks=transform_table("masks", env.masks, view),
        sizing=transform_table("sizing", env.sizing, view),
        regimes=regimes,
    )
    moments = _moments_of_base(config, market, env, params, view, next(iter(periods.values())))
    env.rewards = make_rewards(config.rewards, annual, moments)
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
        moments=moments,
    )


def _moments_of_base(
    config: Config, market: MarketData, env: TradingEnv, params: EnvParams, view: MarketView, period: Period
) -> BaseMoments:
    """What is known of the returns of the base in the training period; nothing without a base."""
    base = configured_base(config, market)
    return NO_MOMENTS if base is None else moments_of_base(config, base, env, params, view, period)


def environment_of(config: Config, market: MarketData, context: int) -> TradingEnv:
    """`make_env` with the agents of a book opened from their runs.

    Args:
      config: of the run.
      market: its prices.
      context: bars that one decision of its network depends on.
    """
    return make_env(config, market, context, open_strategy)


def configured_base(config: Config, market: MarketData) -> Policy | None:
    """What the policy of a run tilts around; None where its decisions are targets.

    Args:
      config: of the run.
      market: its prices.
    """
    if config.policy.base is None:
        return None
    return make_base(config.policy.base, lambda run: open_strategy(run, market))


def open_strategy(run: RunStrategy, market: MarketData) -> Policy:
    """Opens what a trained run trades on other prices, whatever it has learned from: the caller has to check that.

    Args:
      run: keys that name it.
      market: the prices.

    Raises:
      ConfigError: not a run, not one of these assets, or one whose summary does not say what its gate decided.
    """
    folder, config = run_folder.open_folder(run.folder)
    alone = config.evaluation.model_copy(update={"baselines": ()})  # what stood beside it there is not compared here
    setup = build(on_one_device(config.model_copy(update={"evaluation": alone})), market, split=False)
    name = folder.name if run.name is None else run.name
    return strategy_of(setup, *best_policy(folder, setup), name=name, ship=gate_of(folder, config))


def strategy_sentences(config: Config) -> list[str]:
    """What trades of each other run that a configuration names and that has a gate, a sentence each.

    Args:
      config: of a run.

    Raises:
      ConfigError: not a run, or one whose summary does not say what its gate decided.
    """
    found = []
    for key, run in _named_runs(config).items():
        folder, other = run_folder.open_folder(run.folder)
        ship = gate_of(folder, other)
        if ship is not None:
            found.append(f"{key} {run.folder!r}: {ship.sentence(other.evaluation.ship_t)}")
    return found


def _named_runs(config: Config) -> dict[str, RunStrategy]:
    """Key -> run that a configuration names: strategies of a book, agents to compare with, the base."""
    named = {
        f"sizing[{number}].book.strategies[{place}].run": strategy.run
        for number, item in enumerate(config.sizing)
        for place, strategy in enumerate(item.values.strategies if item.kind == "book" else ())
    }
    named |= {
        f"evaluation.baselines[{number}].run": item.run for number, item in enumerate(config.evaluation.baselines)
    }
    named["policy.base.run"] = None if config.policy.base is None else config.policy.base.run
    return {key: run for key, run in named.items() if run is not None}


def _check_unseen(config: Config, market: MarketData, test: Period) -> None:
    """A ConfigError if a run of a book, a base, or one to compare with, has learned from bars of the test, or its gate
    has decided nothing."""
    for key, run in _named_runs(config).items():
        gate_of(*run_folder.open_folder(run.folder))
        if first_unseen(pathlib.Path(run.folder), market) > test.first:
            raise ConfigError(
                f"{key} is {run.folder!r}, which was trained and selected on bars of the test period; change data.test "
                "or the run"
            )


def _median_seconds(market: MarketData, period: Period) -> float:
    """Median time between the bars of a period; 1 for a market without times."""
    seconds = np.asarray(market.seconds_since_previous)[period.first : period.last + 1]
    return float(np.median(seconds[seconds > 0])) if np.any(seconds > 0) else 1.0


def best_policy(folder: pathlib.Path, setup: Setup) -> tuple[ActorCritic, Params]:
    """The network of a run, with the parameters of the checkpoint that was best on validation.

    Says so on stderr where the run is not finished.

    Args:
      folder: of the run.
      setup: of the run.

    Raises:
      ConfigError: there is no such checkpoint, or it is damaged.
    """
    policy, net = first_policy(setup)
    best = Checkpoints(folder / "checkpoints" / "best", 1)
    try:
        if best.latest is None and not run_folder.is_finished(folder):
            raise ConfigError(
                f"{folder}: not trained far enough to be evaluated; continue with {resume_command(folder)}"
            )
        params = best.restore({"params": net})[0]["params"]
    finally:
        best.close()
    note = unfinished_note(folder)
    if note:
        print(note, file=sys.stderr)
    return policy, params


def unfinished_note(folder: pathlib.Path) -> str:
    """What to know of a run or walk-forward that is not finished, in a line; empty for a finished one.

    Args:
      folder: of the run.
    """
    if run_folder.is_finished(folder):
        return ""
    command = resume_command(folder, run_folder.read_metadata(folder).get("kind", run_folder.RUN))
    return f"{folder}: is not finished; its policy is the best on validation so far; finish it with {command}"


def first_unseen(folder: pathlib.Path, market: MarketData) -> int:
    """First bar after what a run was trained and selected on, where the prices share a symbol with it; else 0.

    Args:
      folder: of the run.
      market: the prices.

    Raises:
      ConfigError: the run does not say what it was started with.
    """
    seen = run_folder.read_data(folder).get("learned_from") or {}
    shared = set(seen.get("symbols", ())) & set(market.info.symbols)
    if not shared or seen.get("last") is None or not len(market.info.timestamps):
        return 0
    return int(np.searchsorted(market.info.timestamps, np.datetime64(seen["last"]), side="right"))


def on_one_device(config: Config) -> Config:
    """An evaluation needs one device, however many the run was trained on."""
    return config.model_copy(update={"training": config.training.model_copy(update={"devices": 1})})
