"""From a configuration to the folds of a walk-forward; mistakes surface here, before anything is compiled."""

from __future__ import annotations

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.backtest.run import SavedRun, on_one_device
from jaxppo.config import Config, ConfigError
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.trading.types import EnvParams
from jaxppo.run import folder as run_folder
from jaxppo.run.checkpoints import Checkpoints
from jaxppo.run.devices import encoder_config, select_devices
from jaxppo.run.periods import Period
from jaxppo.run.setup import TRADING, Setup, as_started, build, first_policy, load_data, make_env
from jaxppo.walk_forward.plan import Fold, Plan, make_plan
from jaxppo.walk_forward.population import FoldParams

SEEDS_END = 2**31
"""Seeds lie below it."""


def load_fold(
    folder: str | pathlib.Path, fold: int, *, seed: int | None = None, market: MarketData | None = None
) -> SavedRun:
    """Opens an agent of a finished walk-forward like a run: its first test is the period `test`.

    Args:
      folder: of the walk-forward.
      fold: number of the fold, from 0 on.
      seed: of the agent; None takes the one that validation chose.
      market: prices to use instead of the configured file.

    Raises:
      ConfigError: not a finished walk-forward, or it has no such agent.
      envs.DataError: the prices cannot be used.
    """
    folder, config = run_folder.open_folder(folder, run_folder.WALK_FORWARD)
    with jax.default_device(select_devices(config)[0]):
        market = load_data(config) if market is None else market
        run_folder.check_same_data(folder, run_folder.data_report(market))
        plan = _plan(config, market)
        seeds = seeds_of(config)
        if not 0 <= fold < len(plan.folds) or seed not in (None, *seeds):
            raise ConfigError(
                f"{folder}: there is no agent of fold {fold} and seed {seed}; there are folds 0 to "
                f"{len(plan.folds) - 1} and seeds {seeds[0]} to {seeds[-1]}"
            )
        setup = _fold_setup(config, market, plan.folds[fold])
        policy, net = first_policy(setup)
        best = Checkpoints(folder / "checkpoints" / "best", 1)
        try:
            like = jax.tree.map(lambda x: np.empty((len(plan.folds) * len(seeds), *x.shape), x.dtype), net)
            nets, host = best.restore({"params": like})
        finally:
            best.close()
    own = range(fold * len(seeds), (fold + 1) * len(seeds))
    number = max(own, key=lambda n: host["scores"][n]) if seed is None else own[seeds.index(seed)]
    return SavedRun(folder, setup, policy, jax.tree.map(lambda x: x[number], nets["params"]))


def check(config: Config) -> None:
    """A ConfigError for what a walk-forward cannot do, before anything is read."""
    if config.env.name != TRADING:
        raise ConfigError(f"env.name is {config.env.name!r}; a walk-forward splits the bars of a market: trading")
    if config.training.minutes is not None:
        raise ConfigError(
            f"training.minutes is {config.training.minutes:g}; agents that are trained together share a budget in "
            "steps: set training.steps or training.episodes, of each agent"
        )
    if config.seed + config.walk_forward.seeds > SEEDS_END:
        raise ConfigError(
            f"walk_forward.seeds is {config.walk_forward.seeds}; seed {config.seed} leaves room for fewer"
        )


def restarted(config: Config, saved: Config) -> Config:
    """`config` with what was settled when the walk-forward was started, if it is the same one.

    Raises:
      ConfigError: names what differs.
    """
    at_once = {"agents_at_once": saved.walk_forward.agents_at_once}  # what checkpoints hold
    keys = config.walk_forward.model_copy(update=at_once)
    config = as_started(config, saved).model_copy(update={"walk_forward": keys})
    run_folder.check_same_run(saved, config)
    shaping = (("walk_forward", None), ("training", ("steps", "episodes", "evaluate_every")))
    if saved.monitor != config.monitor:
        raise ConfigError("--resume: monitor differs from the one that the walk-forward was started with")
    for section_name, only in shaping:
        old, new = getattr(saved, section_name).model_dump(), getattr(config, section_name).model_dump()
        for key in only or old:
            if old[key] != new[key]:
                raise ConfigError(
                    f"--resume: {section_name}.{key} is {new[key]!r} but the walk-forward was started with {old[key]!r}"
                )
    return config


def seeds_of(config: Config) -> tuple[int, ...]:
    return tuple(range(config.seed, config.seed + config.walk_forward.seeds))


def _plan(config: Config, market: MarketData) -> Plan:
    """The folds of a market."""
    context = encoder_config(config, select_devices(config)[0].platform).context
    history = make_env(config, market, context).first_decision
    return make_plan(config.walk_forward, market.n_bars, history, config.ppo.chunk, config.data.purge_bars)


def _fold_setup(config: Config, market: MarketData, fold: Fold) -> Setup:
    """A fold like a run; what is fitted is fitted on its longest stretch of training."""
    longest = max(fold.train, key=lambda stretch: stretch.n_bars)
    periods = {"train": longest, "validation": fold.validation, "test": fold.tests[0]}
    return build(on_one_device(config), market, periods=periods)


def prepare(config: Config, market: MarketData) -> tuple[Plan, Setup, FoldParams]:
    """The folds, the setup of the first, and the parameters of all of their training environments."""
    plan = _plan(config, market)
    first = _fold_setup(config, market, plan.folds[0])
    fitted = config.regimes.kind == "hmm" and config.regimes.model is None
    same_clock = config.model_copy(update={"policy": first.config.policy})
    width = max(len(fold.train) for fold in plan.folds)

    def params(fold: Fold) -> EnvParams:
        setup = _fold_setup(same_clock, market, fold) if fitted and fold is not plan.folds[0] else first
        if width == 1:
            ends = (fold.train[0].first, fold.train[0].last)
        else:
            none = [Period(market.n_bars, market.n_bars)] * (width - len(fold.train))
            stretches = [*fold.train, *none]
            ends = ([stretch.first for stretch in stretches], [stretch.last for stretch in stretches])
        return setup.params.replace(first_bar=jnp.asarray(ends[0], jnp.int32), last_bar=jnp.asarray(ends[1], jnp.int32))

    return plan, first, FoldParams.of([params(fold) for fold in plan.folds])


def settled(setup: Setup, config: Config, at_once: int) -> Setup:
    """The setup with the configuration as it was given, and what data and memory have decided in it."""
    keys = config.walk_forward.model_copy(update={"agents_at_once": at_once})
    return dataclasses.replace(
        setup, config=config.model_copy(update={"policy": setup.config.policy, "walk_forward": keys})
    )
