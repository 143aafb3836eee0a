"""Recording what a run looks at, as it looks, and judging its evaluation by all that was looked at."""

from __future__ import annotations

import hashlib
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxppo.config import Config, ConfigError
from jaxppo.report.selection import figures_alone, selection_figures
from jaxppo.report.superiority import superiority_figures
from jaxppo.run import folder as run_folder
from jaxppo.run import trials
from jaxppo.run.periods import Period, time_of
from jaxppo.run.setup import Setup
from jaxppo.run.trials import Trial

SUPERIORITY = 2000
"""What the key of these tests is folded with; those of `jaxppo.backtest.evaluation` are below."""


def record_evaluation(
    setup: Setup,
    folder: pathlib.Path,
    iteration: int,
    period: str,
    returns: np.ndarray,
    content: str,
    *,
    where: Period | None = None,
    name: str | None = None,
    seed: int | None = None,
    fold: int | None = None,
) -> Trial:
    """Records that a checkpoint of a run was looked at; says so on stderr where that cannot be written.

    Args:
      setup: of the evaluation.
      folder: of the run.
      iteration: of the checkpoint.
      period: see `Trial`.
      returns: `[n]` finite simple return per bar of the policy.
      content: `configuration_hash(setup)`.
      where: bars of the returns; default: the period of the setup.
      name: of what was run; default: of the folder.
      seed: default: of the setup.
      fold: of a walk-forward.

    Raises:
      ConfigError: the register is damaged.
    """
    register, where = trials.register_of(folder), setup.periods[period] if where is None else where
    first, last = (time_of(setup.market, bar) for bar in (where.first, where.last))
    look = {"run": folder.resolve().name if name is None else name, "content": content, "fold": fold}
    look |= {"seed": setup.config.seed if seed is None else seed, "iteration": iteration, "period": period}
    look |= {"first": first, "last": last, "periods": float(setup.periods_per_year)}
    try:
        return trials.record(register, returns, **look)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    except OSError as error:
        print(f"this look could not be recorded in {register}: {error.strerror}", file=sys.stderr)
        return Trial(**look, n_bars=len(returns), sharpe=trials.sharpe_of(returns))


def judge(
    setup: Setup,
    folder: pathlib.Path,
    iteration: int,
    returns: np.ndarray,
    content: str,
    baselines: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Records the evaluation of a checkpoint on the test period, and says what it is worth.

    Where the register cannot be read, which `record_evaluation` says on stderr, it is judged by itself.

    Args:
      setup: of the evaluation.
      folder: of the run.
      iteration: of the checkpoint.
      returns: `[n]` simple return per bar of the policy over the test period.
      content: `configuration_hash(setup)`.
      baselines: name -> `[n]` returns of the baselines over the same bars; None leaves out the tests against them.

    Returns:
      See `selection_figures`, and as `superiority` the tests of `superiority_figures` against the baselines.

    Raises:
      ConfigError: the register is damaged.
    """
    test = record_evaluation(setup, folder, iteration, "test", returns, content)
    return adjust_for_selection(setup, folder, test, returns, baselines)


def adjust_for_selection(
    setup: Setup,
    folder: pathlib.Path,
    test: Trial,
    returns: np.ndarray,
    baselines: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """`judge` for an evaluation that is recorded already as `test`.

    Raises:
      ConfigError: the register is damaged.
    """
    register, level = trials.register_of(folder), setup.config.evaluation.level
    try:
        known = trials.read(register)
        figures = selection_figures(register, test, _selecting(known, test), level)
        same = [trial for trial in known if trial.period == "test" and trial.bars == test.bars]
        looks = trials.load_returns(register, same) if test in same else returns[:, None]
    except ValueError as error:
        raise ConfigError(str(error)) from None
    except OSError:
        figures, looks = figures_alone(test, returns, level), returns[:, None]
    if baselines is not None:
        key = jax.random.fold_in(jax.random.key(setup.config.seed), SUPERIORITY)
        n_resamples = setup.config.evaluation.bootstrap_resamples
        figures["superiority"] = superiority_figures(key, returns, baselines, looks, n_resamples=n_resamples)
    return figures


def _selecting(known: Sequence[Trial], test: Trial) -> Trial | None:
    """The look at validation that selected the checkpoint of a test: the last with its content, else the last."""
    sought = (test.run, test.seed, test.iteration, "validation")
    found = [trial for trial in known if (trial.run, trial.seed, trial.iteration, trial.period) == sought]
    return next(iter([trial for trial in found if trial.content == test.content][-1:] or found[-1:]), None)


def configuration_hash(setup: Setup) -> str:
    """Hash of the configuration, as far as it shapes results, and of the prices."""
    fingerprint = run_folder.data_report(setup.market)["fingerprint"]
    return hashlib.sha256(json.dumps([_shaping(setup.config), fingerprint], sort_keys=True).encode()).hexdigest()[:24]


def _shaping(config: Config) -> dict[str, Any]:
    """The configuration without what a resumed run may change."""
    tree = config.model_dump(mode="json")
    for key in run_folder.MAY_CHANGE:
        section, _, name = key.partition(".")
        if name:
            tree[section].pop(name)
        else:
            tree.pop(section)
    return tree
