"""Writes a training to an MLflow database or server."""

from __future__ import annotations

import logging
import pathlib
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from jaxppo.config.tracking import MlflowConfig
from jaxppo.tracking.flat import final_figures, flat_config, numbers
from jaxppo.tracking.identity import PLACE, known_id
from jaxppo.tracking.protocol import LoggedRun, Results, Status

LONGEST_NAME, LONGEST_VALUE = 250, 6000
"""Characters of a name, and of the value of a parameter."""
MOST_PARAMETERS = 100
"""Parameters of one call."""
MOST_METRICS = 1000
"""Metrics of one call."""
SECONDS_BETWEEN = 2.0
"""Time between two calls with rows: a call for each would take as long as a short iteration."""
STATUSES: dict[Status, str] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
T = TypeVar("T")


class MLflow:
    """A `Logger`: parameters, metrics against environment steps, tags, and report and configuration as artefacts.

    The id of the run stands in `tracking/mlflow.json` of its folder: a resumed run goes on under it. MLflow cannot take
    metrics back, so rows that come again are left out; they are the same unless training has gone back to a checkpoint.

    Args:
      config: keys of `tracking.mlflow`.
    """

    def __init__(self, config: MlflowConfig):
        self.config = config

    def start(self, run: LoggedRun) -> None:
        """Makes the run in its experiment, or opens it again, and logs its parameters."""
        import mlflow

        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # a new database lists its migrations
        config, place = self.config, run.folder / PLACE
        place.mkdir(exist_ok=True)
        self._folder, self._written = run.folder, run.written
        self._waiting: list[Any] = []
        self._sent = 0.0
        self._client = mlflow.MlflowClient(tracking_uri=config.uri)
        path = place / "mlflow.json"
        if path.exists():
            self._id = known_id(path, "")
            self._client.update_run(self._id, status="RUNNING")
        else:
            name, tags = config.name or run.name, {**_tags(run), **(config.tags or {})}
            self._id = known_id(path, self._client.create_run(self._experiment(), run_name=name, tags=tags).info.run_id)
        self._log_parameters(run)

    def write(self, row: Mapping[str, Any]) -> None:
        """Logs the figures of an iteration at its environment steps."""
        if row["iteration"] > self._written:
            self._written = row["iteration"]
            self._waiting += _metrics(numbers(row), int(row["env_steps"]))
            if len(self._waiting) > MOST_METRICS // 2 or time.monotonic() - self._sent > SECONDS_BETWEEN:
                self._send()

    def finish(self, results: Results) -> None:
        """Logs headline figures, and report, summary, configuration and figures as artefacts."""
        known = self._client.get_run(self._id).data.metrics  # of an evaluation that is repeated
        figures = final_figures(results.summary)
        steps = int(figures.get("train/env_steps", 0))
        self._waiting += _metrics({name: x for name, x in figures.items() if known.get(_named(name)) != x}, steps)
        self._send()
        for path in (results.report, self._folder / "summary.json", self._folder / "config.yaml"):
            if path is not None and path.is_file():
                self._client.log_artifact(self._id, str(path))
        with tempfile.TemporaryDirectory() as folder:
            for name, png in results.figures.items():
                path = pathlib.Path(folder, f"{name}.png")
                path.write_bytes(png)
                self._client.log_artifact(self._id, str(path), "figures")

    def close(self, status: Status) -> None:
        """Ends the run; one that was stopped goes on when it is resumed."""
        self._send()
        self._client.set_terminated(self._id, STATUSES[status])

    def _experiment(self) -> str:
        """Id of the experiment, which is made if it is not there."""
        import mlflow

        found = self._client.get_experiment_by_name(self.config.experiment)
        if found is None:
            try:
                return self._client.create_experiment(self.config.experiment)
            except mlflow.MlflowException:  # another training was faster
                found = self._client.get_experiment_by_name(self.config.experiment)
                if found is None:
                    raise
        return found.experiment_id

    def _log_parameters(self, run: LoggedRun) -> None:
        """Logs the configuration; what a resumed run has changed stays as it was, since MLflow changes no parameter."""
        from mlflow.entities import Param

        known = self._client.get_run(self._id).data.params
        values = {_named(name): str(value)[:LONGEST_VALUE] for name, value in flat_config(run.config).items()}
        new = [Param(name, value) for name, value in values.items() if name not in known]
        for part in _parts(new, MOST_PARAMETERS):
            self._client.log_batch(self._id, params=part)

    def _send(self) -> None:
        """Sends the rows that wait; those of a call that fails are lost."""
        metrics, self._waiting, self._sent = self._waiting, [], time.monotonic()
        for part in _parts(metrics, MOST_METRICS):
            self._client.log_batch(self._id, metrics=part)


def _metrics(figures: Mapping[str, float], step: int) -> list[Any]:
    """Figures at a step as MLflow takes them."""
    from mlflow.entities import Metric

    now = int(1000 * time.time())
    return [Metric(_named(name), float(value), now, step) for name, value in figures.items()]


def _tags(run: LoggedRun) -> dict[str, str]:
    """Where a run comes from."""
    found = {
        "mlflow.source.name": "jaxppo",
        "mlflow.source.git.commit": run.metadata.get("commit"),
        "jaxppo.version": run.metadata.get("versions", {}).get("jaxppo"),
        "jaxppo.data": run.metadata.get("data", {}).get("fingerprint"),
        "jaxppo.folder": str(run.folder.resolve()),
    }
    return {name: str(value) for name, value in found.items() if value}


def _named(name: str) -> str:
    """A name with the characters that MLflow allows."""
    return re.sub(r"[^\w./: -]", "_", name)[:LONGEST_NAME]


def _parts(entries: Sequence[T], most: int) -> list[Sequence[T]]:
    return [entries[first : first + most] for first in range(0, len(entries), most)]
