"""Repeating a run's evaluation from its checkpoint, also on other prices or costs."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import jax

from envs.market import MarketData
from jaxppo.backtest.evaluation import evaluate, report
from jaxppo.config import Config, ConfigError, dump_config, load_config
from jaxppo.training import run_folder
from jaxppo.training.checkpoints import Checkpoints
from jaxppo.training.setup import build, first_policy, load_data, select_devices

LEARNED = ("policy", "ppo", "features", "training")
"""Sections that are settled once a run is trained."""


def run(
    folder: str | pathlib.Path,
    *,
    data: str | pathlib.Path | None = None,
    output: str | pathlib.Path | None = None,
    overrides: Sequence[str] = (),
    market: MarketData | None = None,
) -> dict[str, Any]:
    """Evaluates the best checkpoint of a run.

    Args:
      folder: the run.
      data: another price file, evaluated as a whole, all symbols; default: the run's own test period.
      output: folder for summary.json and report.html; None writes nothing.
      overrides: dotted keys, as for `load_config`, for example other costs.
      market: prices to use instead of the configured file: those of a run that was trained on a market given in Python.

    Returns:
      The `out_of_sample` entry of a summary.

    Raises:
      ConfigError: not a run, or a setting that does not fit it.
      envs.DataError: the prices cannot be used.
    """
    folder, saved = run_folder.open_folder(folder)
    run_folder.check_output(output)
    if data is not None:
        overrides = ["--data.path", str(data), "--data.symbols", "null", *overrides]
    config = load_config(folder / "config.yaml", overrides)
    _check_overrides(saved, config)
    config = _on_one_device(config)
    with jax.default_device(select_devices(config)[0]):
        market = load_data(config) if market is None else market
        if saved.data == config.data:
            run_folder.check_same_data(folder, run_folder.data_report(market))
        setup = build(config, market, split=data is None)
        policy, net = first_policy(setup)
        best = Checkpoints(folder / "checkpoints" / "best", 1)
        try:
            net = best.restore({"params": net})[0]["params"]
        finally:
            best.close()
        result = evaluate(setup, policy, net)
    if output is not None:
        target = run_folder.make_folder(output, "backtest")
        run_folder.write_json(target / "summary.json", {"out_of_sample": result.summary})
        report(setup, result, [], dump_config(config), target / "report.html")
    return result.summary


def _check_overrides(saved: Config, config: Config) -> None:
    """An evaluation can change prices, costs, rules of trading and statistics, but not what was learned.

    Raises:
      ConfigError: an option that belongs to the training of the run.
    """
    for name in LEARNED:
        before, after = getattr(saved, name), getattr(config, name)
        changed = next((key for key in type(before).model_fields if getattr(before, key) != getattr(after, key)), None)
        if changed is not None:
            raise ConfigError(
                f"--{name}.{changed} is {getattr(after, changed)!r}, but the run was trained with "
                f"{getattr(before, changed)!r}; an evaluation cannot change {', '.join(LEARNED)}"
            )


def _on_one_device(config: Config) -> Config:
    """An evaluation needs one device, however many the run was trained on."""
    return config.model_copy(update={"training": config.training.model_copy(update={"devices": 1})})
