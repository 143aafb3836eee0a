"""From a configuration to the folds of a walk-forward; mistakes surface here, before anything is compiled."""

from __future__ import annotations

import dataclasses
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.config import Config
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.trading.types import EnvParams
from jaxppo.errors import ConfigError
from jaxppo.run import folder as run_folder
from jaxppo.run.benchmark import check_baselines
from jaxppo.run.build import build, environment_of, on_one_device, unfinished_note
from jaxppo.run.checkpoints import Checkpoints
from jaxppo.run.data import given_data, load_data
from jaxppo.run.devices import encoder_config, select_devices
from jaxppo.run.periods import Period
from jaxppo.run.saved import SavedRun
from jaxppo.run.setup import TRADING, Setup, as_started, first_policy
from jaxppo.run.start import check_start
from jaxppo.walk_forward.job import FoldParams
from jaxppo.walk_forward.plan import Fold, Plan, make_plan

SEEDS_END = 2**31
"""Smallest number that is too large for a seed."""


def load_fold(
    folder: str | pathlib.Path, fold: int, *, seed: int | None = None, market: MarketData | None = None
) -> SavedRun:
    """Opens an agent of a finished walk-forward like a run, with the first test of its fold as the period `test`.

    What its gate decides is what that of the walk-forward decided for the fold.

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
        market = load_data(config, folder) if market is None else given_data(config, market)
        run_folder.check_same_data(folder, run_folder.data_report(market))
        plan = _plan(config, market)
        seeds = seeds_of(config)
        if not 0 <= fold < len(plan.folds) or seed not in (None, *seeds):
            raise ConfigError(
                f"{folder}: there is no agent of fold {fold} and seed {seed}; there are folds 0 to "
                f"{len(plan.folds) - 1} and seeds {seeds[0]} to {seeds[-1]}"
            )
        setup = _fold_setup(config, market, plan.folds[fold])
        network, net = first_policy(setup)
        best = Checkpoints(folder / "checkpoints" / "best", 1)
        try:
            like = jax.tree.map(lambda x: np.empty((len(plan.folds) * len(seeds), *x.shape), x.dtype), net)
            nets, host = best.restore({"params": like})
        finally:
            best.close()
    note = unfinished_note(folder)
    if note:
        print(note, file=sys.stderr)
    of_fold = range(fold * len(seeds), (fold + 1) * len(seeds))
    scores = host.get("scores")
    if not isinstance(scores, list) or [type(score) for score in scores] != [float] * len(plan.folds) * len(seeds):
        raise ConfigError(f"{folder / 'checkpoints' / 'best'}: damaged; it has no score of every agent")
    number = max(of_fold, key=lambda n: scores[n]) if seed is None else of_fold[seeds.index(seed)]
    net = jax.tree.map(lambda x: x[number], nets["params"])
    return SavedRun(folder, setup, network, net, fold=fold)


def check(config: Config) -> None:
    """Refuses what a walk-forward cannot do, before anything is read.

    Raises:
      ConfigError: names the key.
    """
    if config.env.name != TRADING:
        raise ConfigError(f"env.name is {config.env.name!r}; a walk-forward splits the bars of a market: trading")
    if config.evaluation.ship != "always" and config.walk_forward.kind == "combinatorial":
        raise ConfigError(
            "evaluation.ship is base_unless, which weighs what came before a test; agents of walk_forward.kind "
            "combinatorial have learned from bars after it: set walk_forward.kind rolling or expanding"
        )
    if config.training.minutes is not None:
        raise ConfigError(
            f"training.minutes is {config.training.minutes:g}; agents that are trained together share a budget in "
            "steps: set training.steps or training.episodes, of each agent"
        )
    if config.seed + config.walk_forward.seeds > SEEDS_END:
        raise ConfigError(
            f"walk_forward.seeds is {config.walk_forward.seeds}; seed {config.seed} leaves room for fewer"
        )


def restarted(config: Config, saved: Config, section: str = "walk_forward") -> Config:
    """Takes over into a configuration what was settled when a walk-forward, or a sweep, was started.

    Args:
      config: of the resumed walk-forward.
      saved: the configuration in its folder, which must be the same up to what may change.
      section: that says what is trained, with a `batch_size`.

    Raises:
      ConfigError: names what differs.
    """
    what = section.replace("_", "-")
    batch = {"batch_size": getattr(saved, section).batch_size}  # the checkpoints are of batches of this size
    keys = getattr(config, section).model_copy(update=batch)
    config = as_started(config, saved).model_copy(update={section: keys})
    run_folder.check_same_run(saved, config)
    shaping = ((section, None), ("training", ("steps", "episodes", "evaluate_every")))
    if saved.monitor != config.monitor:
        raise ConfigError(f"--resume: monitor differs from the one that the {what} was started with")
    for name, only in shaping:
        old, new = getattr(saved, name).model_dump(), getattr(config, name).model_dump()
        for key in only or old:
            if old[key] != new[key]:
                raise ConfigError(
                    f"--resume: {name}.{key} is {new[key]!r} but the {what} was started with {old[key]!r}"
                )
    return config


def seeds_of(config: Config) -> tuple[int, ...]:
    """Seeds of the agents of each fold."""
    return tuple(range(config.seed, config.seed + config.walk_forward.seeds))


def _plan(config: Config, market: MarketData) -> Plan:
    """Makes the folds of a market."""
    context = encoder_config(config, select_devices(config)[0]).context
    history = environment_of(config, market, context).first_decision
    return make_plan(config.walk_forward, market.n_bars, history, config.ppo.chunk, config.data.purge_bars)


def _fold_setup(config: Config, market: MarketData, fold: Fold) -> Setup:
    """Builds a fold like a run; regimes and masks are fitted on its longest stretch of training."""
    longest = max(fold.train, key=lambda stretch: stretch.n_bars)
    periods = {"train": longest, "validation": fold.validation, "test": fold.tests[0]}
    return build(on_one_device(config), market, periods=periods)


def prepare(config: Config, market: MarketData) -> tuple[Plan, Setup, FoldParams]:
    """Builds the folds, the setup of the first, and the parameters of the training environments of all.

    Args:
      config: the configuration.
      market: that is split.
    """
    plan = _plan(config, market)
    check_baselines(config, market, plan.test)
    first = _fold_setup(config, market, plan.folds[0])
    fitted = config.regimes.kind == "hmm" and config.regimes.model is None
    same_clock = config.model_copy(update={"policy": first.config.policy})
    width = max(len(fold.train) for fold in plan.folds)

    def params(fold: Fold) -> EnvParams:
        setup = _fold_setup(same_clock, market, fold) if fitted and fold is not plan.folds[0] else first
        # Folds are stacked, so that each has as many stretches as the one with the most: the others are empty.
        empty = [Period(market.n_bars, market.n_bars)] * (width - len(fold.train))
        bars = jnp.asarray([(stretch.first, stretch.last) for stretch in (*fold.train, *empty)], jnp.int32)
        bars = bars[0] if width == 1 else bars.T
        found = setup.params.replace(first_bar=bars[0], last_bar=bars[1])
        check_start(setup, found)
        return found

    return plan, first, FoldParams.of([params(fold) for fold in plan.folds])


def settled(setup: Setup, config: Config, batch_size: int) -> Setup:
    """Puts the given configuration into a setup, with what data and memory have decided in it.

    Args:
      setup: of the first fold.
      config: as it was given.
      batch_size: agents that are trained in one program.
    """
    keys = config.walk_forward.model_copy(update={"batch_size": batch_size})
    return dataclasses.replace(
        setup, config=config.model_copy(update={"policy": setup.config.policy, "walk_forward": keys})
    )
