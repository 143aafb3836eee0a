"""Repeating a run's evaluation from its checkpoint, also on other prices or costs."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxppo.backtest.capacity import costs_and_capital
from jaxppo.backtest.evaluation import evaluate, report
from jaxppo.backtest.inspection import inspect_policy
from jaxppo.backtest.selection import configuration_hash, judge
from jaxppo.config import Config, ConfigError, dump_config, load_config
from jaxppo.envs.market.market_data import MarketData
from jaxppo.policy.networks.actor_critic import Params, Policy
from jaxppo.run import folder as run_folder
from jaxppo.run.checkpoints import Checkpoints
from jaxppo.run.devices import select_devices
from jaxppo.run.periods import split_periods
from jaxppo.run.setup import Setup, build, first_policy, load_data

LEARNED = ("policy", "ppo", "features", "regimes", "rewards", "objective", "constraints", "training")
"""What is settled once a run is trained."""


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """A run, opened.

    Attributes:
      folder: of the run.
      setup: market, environment and configuration.
      policy: its policy.
      params: network parameters of the checkpoint that was best on validation.
    """

    folder: pathlib.Path
    setup: Setup
    policy: Policy
    params: Params


def load_run(
    folder: str | pathlib.Path,
    *,
    data: str | pathlib.Path | None = None,
    overrides: Sequence[str] = (),
    market: MarketData | None = None,
) -> SavedRun:
    """Opens a run, on its own prices or on others.

    Args:
      folder: the run.
      data: another price file, all symbols; as a whole, or, if it shares a symbol with the run, after the last bar that
        the run was trained or selected on. Default: the run's own prices; the period `test` is then its own.
      overrides: dotted keys, as for `load_config`, for example other costs; they cannot move the test period onto bars
        that the run was trained or selected on.
      market: prices to use instead of the configured file: those of a run that was trained on a market given in Python.

    Raises:
      ConfigError: not a run, or a setting that does not fit it.
      envs.DataError: the prices cannot be used.
    """
    folder, saved = run_folder.open_folder(folder)
    if data is not None:
        overrides = ["--data.path", str(data), "--data.symbols", "null", *overrides]
    config = load_config(folder / "config.yaml", overrides)
    _check_overrides(saved, config)
    config = on_one_device(config)
    with jax.default_device(select_devices(config)[0]):
        market = load_data(config) if market is None else market
        if (saved.data, saved.simulation) == (config.data, config.simulation):
            run_folder.check_same_data(folder, run_folder.data_report(market))
        first = 0 if data is None else _first_unseen(folder, market, config)
        setup = build(config, market, split=data is None, first=first)
        _check_unseen(folder, saved, setup)
        policy, net = best_policy(folder, setup)
    return SavedRun(folder, setup, policy, net)


def best_policy(folder: pathlib.Path, setup: Setup) -> tuple[Policy, Params]:
    """The policy of a run, and the parameters of the checkpoint that was best on validation."""
    policy, net = first_policy(setup)
    best = Checkpoints(folder / "checkpoints" / "best", 1)
    try:
        return policy, best.restore({"params": net})[0]["params"]
    finally:
        best.close()


def best_iteration(folder: pathlib.Path) -> int:
    """Iteration of the checkpoint that was best on validation."""
    best = Checkpoints(folder / "checkpoints" / "best", 1)
    try:
        return best.latest
    finally:
        best.close()


def run(
    folder: str | pathlib.Path,
    *,
    data: str | pathlib.Path | None = None,
    output: str | pathlib.Path | None = None,
    overrides: Sequence[str] = (),
    market: MarketData | None = None,
    capacity: bool = False,
) -> dict[str, Any]:
    """Evaluates the best checkpoint of a run, and records the look in the register of trials beside the run.

    Args:
      folder: the run.
      data: see `load_run`; default: the run's own test period.
      output: folder for summary.json and report.html; None writes nothing.
      overrides: see `load_run`.
      market: see `load_run`.
      capacity: whether to trade at other costs and with other capital too. What comes of that is not recorded as looks:
        nothing is chosen by it.

    Returns:
      The `out_of_sample` entry of a summary, with `capacity` if asked, see `costs_and_capital`.

    Raises:
      ConfigError: not a run, or a setting that does not fit it.
      envs.DataError: the prices cannot be used.
    """
    run_folder.check_output(output)
    saved = load_run(folder, data=data, overrides=overrides, market=market)
    setup = saved.setup
    with jax.default_device(setup.devices[0]):
        result = evaluate(setup, saved.policy, saved.params)
        if capacity:
            result.summary["capacity"] = costs_and_capital(saved)
        content, returns = configuration_hash(setup), result.ledgers["agent"].returns
        worth = judge(setup, saved.folder, best_iteration(saved.folder), returns, content, result.baselines)
        if output is not None:
            target = run_folder.make_folder(output, "backtest")
            run_folder.write_json(target / "summary.json", {"out_of_sample": result.summary, "selection": worth})
            looked = inspect_policy(setup, saved.policy, saved.params)
            report(setup, result, looked, [], dump_config(setup.config), target / "report.html", selection=worth)
    return result.summary


def first_unseen(folder: pathlib.Path, market: MarketData) -> int:
    """First bar after what the run was trained and selected on, where the prices share a symbol with it; else 0.

    Raises:
      ConfigError: the run does not say what it was started with.
    """
    seen = run_folder.read_data(folder).get("learned_from", {})
    shared = set(seen.get("symbols", ())) & set(market.info.symbols)
    if not shared or seen.get("last") is None or not len(market.info.timestamps):
        return 0
    return int(np.searchsorted(market.info.timestamps, np.datetime64(seen["last"]), side="right"))


def _first_unseen(folder: pathlib.Path, market: MarketData, config: Config) -> int:
    """`first_unseen`, and the configured gap after it.

    Raises:
      ConfigError: the run has seen every bar.
    """
    first = first_unseen(folder, market)
    if first:
        first += config.data.purge_bars
    if first >= market.n_bars - 2:
        seen = run_folder.read_data(folder)["learned_from"]
        common = sorted(set(seen["symbols"]) & set(market.info.symbols))
        raise ConfigError(
            f"--data {config.data.path}: the run was trained and selected on {', '.join(common[:5])} up to "
            f"{seen['last'][:10]}; give later prices or other symbols"
        )
    return first


def _check_unseen(folder: pathlib.Path, saved: Config, setup: Setup) -> None:
    """The test period must begin after what the run was trained and selected on.

    Raises:
      ConfigError: it does not; names the keys that moved it.
    """
    test, times = setup.periods["test"], setup.market.info.timestamps
    unseen, prices = first_unseen(folder, setup.market), run_folder.data_report(setup.market)["fingerprint"]
    if not len(times) and prices == run_folder.read_data(folder).get("fingerprint"):
        unseen = split_periods(setup.market, saved.data, setup.env.first_decision, 1)["validation"].last + 1
    if unseen <= test.first:
        return
    moved = [
        f"--{section}.{key} {value}"
        for section in ("data", "simulation")
        for key, value in getattr(setup.config, section).model_dump(mode="json").items()
        if getattr(getattr(saved, section), key) != getattr(getattr(setup.config, section), key)
    ]
    begins, seen = (str(times[bar])[:10] if len(times) else f"bar {bar}" for bar in (test.first, unseen - 1))
    raise ConfigError(
        f"{', '.join(moved) or 'market'}: the test period would begin on {begins}, but the run was trained and "
        f"selected on bars up to {seen}; an evaluation cannot test on them"
    )


def _check_overrides(saved: Config, config: Config) -> None:
    """An evaluation can change prices, costs, rules of trading and statistics, but not what was learned.

    Raises:
      ConfigError: an option that belongs to the training of the run.
    """
    if saved.constraints != config.constraints:
        raise ConfigError(
            "--constraints differ from those that the run was trained under; an evaluation cannot change them"
        )
    for name in LEARNED:
        before, after = getattr(saved, name), getattr(config, name)
        if before == after:
            continue
        if isinstance(before, tuple):
            raise ConfigError(f"--{name} are not those of the run's training; an evaluation cannot change them")
        changed = next(key for key in type(before).model_fields if getattr(before, key) != getattr(after, key))
        raise ConfigError(
            f"--{name}.{changed} is {getattr(after, changed)!r}, but the run was trained with "
            f"{getattr(before, changed)!r}; an evaluation cannot change {', '.join(LEARNED)}"
        )


def on_one_device(config: Config) -> Config:
    """An evaluation needs one device, however many the run was trained on."""
    return config.model_copy(update={"training": config.training.model_copy(update={"devices": 1})})
