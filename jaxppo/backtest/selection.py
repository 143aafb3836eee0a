"""Selection-adjusted figures: PSR, DSR and PBO of an evaluation among all that are in the register of trials.

Two questions, two sets of trials. Evaluations on *validation* select the checkpoint: its validation score is the best
of many and is deflated by all of them. Evaluations on the *test* period do not select within a run, so its figures are
deflated by those of all runs beside it: once somebody compares runs by their tests, the best test is the best of many.
Both are sets of trials on the same market, see `jaxppo.run.trials.same_market`: nobody chooses between agents of
different markets.
"""

from __future__ import annotations

import hashlib
import json
import math
import pathlib
import sys
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import jax
import numpy as np

from jaxppo.config import digest_tree
from jaxppo.errors import ConfigError
from jaxppo.run import folder as run_folder
from jaxppo.run import trials
from jaxppo.run.periods import Period, time_of
from jaxppo.run.setup import Setup
from jaxppo.run.trials import Trial
from jaxppo.statistics import (
    autocorrelation_adjusted_sharpe,
    deflated_sharpe,
    effective_trials,
    expected_maximum_sharpe,
    minimum_track_record,
    probabilistic_sharpe,
    probability_of_backtest_overfitting,
    sharpe_error,
    superiority_figures,
)
from jaxppo.statistics.summary import json_number

SUPERIORITY = 2000
"""Folded into the key of the tests against baselines; the numbers in `jaxppo.backtest.evaluation` are below."""
BARS_PER_BLOCK = 10
"""Bars that a block of the PBO has at least."""


def trial_of(
    setup: Setup,
    folder: pathlib.Path,
    iteration: int,
    period: str,
    returns: np.ndarray,
    configuration: str,
    *,
    where: Period | None = None,
    **changed: Any,
) -> Trial:
    """Describes an evaluation of a checkpoint for the register of trials.

    Args:
      setup: of the evaluation.
      folder: of the run.
      iteration: of the checkpoint.
      period: see `Trial`.
      returns: `[n]` finite simple return per bar of the policy.
      configuration: `configuration_hash(setup)`.
      where: bars of the returns; default: the period of the setup.
      **changed: `run`, `seed` and `fold` of the `Trial`, where they are not those of folder and setup.
    """
    where = setup.periods[period] if where is None else where
    return Trial(
        configuration_hash=configuration,
        iteration=iteration,
        period=period,
        first=time_of(setup.market, where.first),
        last=time_of(setup.market, where.last),
        n_bars=len(returns),
        periods=float(setup.periods_per_year),
        sharpe=trials.sharpe_of(returns),
        fingerprint=run_folder.data_report(setup.market)["fingerprint"],
        symbols=tuple(setup.market.info.symbols),
        **{"run": folder.resolve().name, "seed": setup.config.seed, "fold": None, **changed},
    )


def record_trials(folder: pathlib.Path, evaluations: Sequence[tuple[Trial, np.ndarray]]) -> list[Trial]:
    """Records evaluations in the register of trials; says on stderr if it cannot be written.

    Args:
      folder: of the run.
      evaluations: from `trial_of`, each with its returns `[n]`.

    Returns:
      The trials as they stand in the register.

    Raises:
      ConfigError: the register is damaged.
    """
    register = trials.register_of(folder)
    try:
        return trials.record_all(register, evaluations)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    except OSError as error:
        which = "this evaluation" if len(evaluations) == 1 else f"{len(evaluations)} evaluations"
        print(f"{which} could not be recorded in {register}: {error.strerror}", file=sys.stderr)
        return [trial for trial, _ in evaluations]


def record_evaluation(
    setup: Setup,
    folder: pathlib.Path,
    iteration: int,
    period: str,
    returns: np.ndarray,
    configuration: str,
    **changed: Any,
) -> Trial:
    """Records one evaluation: takes the arguments of `trial_of`, and raises what `record_trials` does."""
    trial = trial_of(setup, folder, iteration, period, returns, configuration, **changed)
    return record_trials(folder, [(trial, returns)])[0]


def adjust_for_selection(
    setup: Setup,
    folder: pathlib.Path,
    test: Trial,
    returns: np.ndarray,
    baselines: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Adjusts the figures of a recorded evaluation for selection among all trials on its market in the register.

    Where the register cannot be read, the evaluation stands alone.

    Args:
      setup: of the evaluation.
      folder: of the run.
      test: the evaluation.
      returns: `[n]` simple return per bar of the policy.
      baselines: name -> `[n]` returns of the baselines over the same bars; None leaves out the tests against them.

    Returns:
      Figures of `selection_figures`, and as `superiority` the tests of `superiority_figures` against the baselines.

    Raises:
      ConfigError: the register is damaged.
    """
    register, level = trials.register_of(folder), setup.config.evaluation.level
    tried = returns[:, None]
    try:
        known = trials.read(register)
        figures = selection_figures(register, test, _selecting(known, test), level)
        same = [trial for trial in _rivals(known, test) if trial.bars == test.bars]
        if test in same:
            tried = trials.load_returns(register, same)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    except OSError:
        figures = _figures_alone(test, returns, level)
    if baselines is not None:
        key = jax.random.fold_in(jax.random.key(setup.config.seed), SUPERIORITY)
        n_resamples = setup.config.evaluation.bootstrap_resamples
        figures["superiority"] = superiority_figures(key, returns, baselines, tried, n_resamples=n_resamples)
    return figures


def selection_figures(
    register: pathlib.Path, test: Trial, selected: Trial | None = None, level: float = 0.95
) -> dict[str, Any]:
    """Computes the `selection` entry of a summary.

    Args:
      register: with both trials in it.
      test: the evaluation.
      selected: the evaluation on validation that selected its checkpoint; None leaves validation out.
      level: of the interval and of the minimum track record.

    Returns:
      `out_of_sample` and perhaps `validation`: `trials` of that kind and market, what they amount to as
      `effective_trials`, `sharpe` (annual) and `sharpe_ci` from its standard error, `psr` against 0, `hurdle` (annual
      Sharpe ratio that the best of them reaches by luck), `dsr`, `minimum_track_record` (bars to exceed it; None if no
      length would do), `adjusted_sharpe` (annual, Lo's for autocorrelated bars) and `adjusted_sharpe_ci`, and for
      validation, unless trials or bars are too few to tell, `pbo`, `degradation` (slope) and `probability_of_loss` of
      choosing among the trials over the same bars.

    Raises:
      ValueError: the register is damaged, or returns are missing.
    """
    known = trials.read(register)
    figures = {"out_of_sample": _among_trials(register, known, test, level)}
    if selected is not None:
        overfitting = _overfitting(register, known, selected)
        figures["validation"] = _among_trials(register, known, selected, level) | overfitting
    return figures


def _figures_alone(test: Trial, returns: np.ndarray, level: float) -> dict[str, Any]:
    """`selection_figures` as if an evaluation, of returns `[n]`, were the only trial."""
    alone = {"trials": 1, "effective_trials": 1.0, "sharpe": test.sharpe * math.sqrt(test.periods), "hurdle": 0.0}
    found = _adjusted_figures(test, np.asarray(returns, np.float32), np.array([test.sharpe]), 0.0, 1.0, level)
    return {"out_of_sample": alone | found}


def configuration_hash(setup: Setup) -> str:
    """Hash of the configuration, as far as it shapes results, and of the prices."""
    tree = digest_tree(setup.config)
    for key in run_folder.MAY_CHANGE:
        section, _, name = key.partition(".")
        if name:
            tree[section].pop(name, None)  # an added key that changes nothing is not there
        else:
            tree.pop(section, None)
    fingerprint = run_folder.data_report(setup.market)["fingerprint"]
    return hashlib.sha256(json.dumps([tree, fingerprint], sort_keys=True).encode()).hexdigest()[:24]


def _selecting(known: Sequence[Trial], test: Trial) -> Trial | None:
    """The last evaluation on validation of the checkpoint of a test, of the same configuration if there is one."""
    sought = (test.run, test.seed, test.iteration, "validation")
    found = [trial for trial in known if (trial.run, trial.seed, trial.iteration, trial.period) == sought]
    same = [trial for trial in found if trial.configuration_hash == test.configuration_hash]
    return next(iter(same[-1:] or found[-1:]), None)


def _rivals(known: Sequence[Trial], of: Trial) -> list[Trial]:
    """The trials of the same kind of period on the same market, itself among them."""
    return [trial for trial in known if trial.period == of.period and trials.same_market(trial, of)]


def _among_trials(register: pathlib.Path, known: Sequence[Trial], of: Trial, level: float) -> dict[str, Any]:
    """PSR, DSR and what they come from, among all rivals."""
    among = _rivals(known, of)
    annual = math.sqrt(of.periods)
    sharpes = np.array([trial.sharpe * math.sqrt(trial.periods) for trial in among]) / annual
    groups: dict[tuple[Any, ...], list[Trial]] = {}
    for trial in among:
        groups.setdefault(trial.bars, []).append(trial)
    n = sum(_effective(register, group) for group in groups.values())
    spread = float(sharpes.std(ddof=1)) if len(sharpes) > 1 else 0.0
    hurdle = float(expected_maximum_sharpe(max(n, 1.0), spread))
    figures = {"trials": len(among), "effective_trials": n, "sharpe": of.sharpe * annual, "hurdle": hurdle * annual}
    returns = trials.load_returns(register, [of])[:, 0] if of in among else None
    return figures | _adjusted_figures(of, returns, sharpes, hurdle, max(n, 1.0), level)


def _adjusted_figures(
    of: Trial, returns: np.ndarray | None, sharpes: np.ndarray, hurdle: float, n: float, level: float
) -> dict[str, Any]:
    """Figures of the returns of a trial against 0 and against the best of `n` by luck; None where they are too few."""
    figures: dict[str, Any] = {"sharpe_ci": [None, None], "adjusted_sharpe": None, "adjusted_sharpe_ci": [None, None]}
    figures |= {"psr": None, "dsr": None, "minimum_track_record": None}
    if returns is None or of.sharpe == 0.0 or of.n_bars < 3:
        return figures
    z, annual = NormalDist().inv_cdf(0.5 + level / 2.0), math.sqrt(of.periods)
    half = z * float(sharpe_error(returns))
    figures["sharpe_ci"] = [json_number((of.sharpe + sign * half) * annual) for sign in (-1.0, 1.0)]
    if of.n_bars >= 4:
        lo = _autocorrelation_adjusted(returns, periods=max(1, round(of.periods)))
        figures["adjusted_sharpe"] = json_number(lo.sharpe)
        figures["adjusted_sharpe_ci"] = [json_number(lo.sharpe + sign * z * lo.standard_error) for sign in (-1.0, 1.0)]
    figures["psr"] = json_number(probabilistic_sharpe(returns))
    figures["dsr"] = json_number(deflated_sharpe(returns, sharpes, n_trials=n))
    figures["minimum_track_record"] = json_number(minimum_track_record(returns, hurdle, level=level))
    return figures


_autocorrelation_adjusted = jax.jit(autocorrelation_adjusted_sharpe, static_argnames=("periods", "lags"))


def _effective(register: pathlib.Path, group: Sequence[Trial]) -> float:
    """Effective number of the trials over the same bars; those that did nothing count as one."""
    idle = any(trial.sharpe == 0.0 for trial in group)
    active = [trial for trial in group if trial.sharpe != 0.0]
    if len(active) < 2 or group[0].n_bars < 3:
        return float(len(active) + idle)
    return float(effective_trials(trials.load_returns(register, active))) + idle


def _overfitting(register: pathlib.Path, known: Sequence[Trial], of: Trial) -> dict[str, Any]:
    """PBO of choosing among the trials over the same bars; empty with too few of them or too few bars to tell."""
    among = [trial for trial in _rivals(known, of) if trial.bars == of.bars and trial.sharpe != 0.0]
    n_blocks = min(16, of.n_bars // BARS_PER_BLOCK // 2 * 2)
    if len(among) < 2 or n_blocks < 2:
        return {}
    found = probability_of_backtest_overfitting(trials.load_returns(register, among), n_blocks)
    names = {"pbo": found.probability, "degradation": found.slope, "probability_of_loss": found.loss_probability}
    return {name: json_number(value) for name, value in names.items()}
