"""What a logger is told of a training: how it begins, a row for each iteration, its results, and how it ends."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from jaxppo.config import Config

Status = Literal["finished", "stopped", "failed"]
"""How a training ended: evaluated, stopped by a signal and ready to be resumed, or by an error."""


@dataclasses.dataclass(frozen=True)
class LoggedRun:
    """The training that a logger is told of.

    Attributes:
      folder: its run folder.
      config: the resolved configuration.
      metadata: versions, commit, fingerprint of the data and devices, as in metadata.json.
      iteration: iterations that are done already, 0 for a new run.
      written: rows that were written before, >= `iteration`: those of `iteration + 1` to `written` come again, since
        the run was killed after its last checkpoint.
    """

    folder: pathlib.Path
    config: Config
    metadata: Mapping[str, Any]
    iteration: int = 0
    written: int = 0

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.resolve().name


class Curves(NamedTuple):
    """Accounts over the test period.

    Attributes:
      times: `[n + 1]` bar times; empty for a market without times.
      equity: name -> `[n + 1]` equity in cash, the agent first.
    """

    times: np.ndarray
    equity: Mapping[str, np.ndarray]


NO_FIGURES: Mapping[str, bytes] = MappingProxyType({})


class Results(NamedTuple):
    """What a training came to.

    Attributes:
      summary: content of summary.json.
      report: report.html; None where the evaluator writes none.
      figures: name -> PNG, such as `equity` and `drawdown` of the test period; empty where there are none.
    """

    summary: Mapping[str, Any]
    report: pathlib.Path | None
    figures: Mapping[str, bytes] = NO_FIGURES


class Logger(Protocol):
    """Where a training is recorded beside its folder; `jaxppo.train(config, loggers=[...])` takes any.

    The methods are called in this order, on the thread that trains, between iterations: what takes long belongs into
    `jaxppo.tracking.in_background`. An error in one of them is reported on stderr once and ends nothing.
    """

    def start(self, run: LoggedRun) -> None:
        """Called once, before the first iteration, also when a run is resumed."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Called after each iteration with its row of metrics.jsonl: `iteration`, `env_steps` and figures by name.

        An iteration comes again where training has gone back to a checkpoint.
        """

    def finish(self, results: Results) -> None:
        """Called once the test period is evaluated; not for a training that was stopped."""

    def close(self, status: Status) -> None:
        """Called last, whatever happened."""
