"""Sends a training to Weights & Biases, or writes it beside the run folder for `wandb sync`."""

from __future__ import annotations

import io
import os
import secrets
import sys
from collections.abc import Mapping
from typing import Any

from jaxppo.config.tracking import WandbConfig
from jaxppo.tracking.flat import final_figures, nested_config, numbers, tables
from jaxppo.tracking.identity import PLACE, known_id
from jaxppo.tracking.protocol import LoggedRun, Results, Status

EXIT_CODES: dict[Status, int] = {"finished": 0, "stopped": 130, "failed": 1}
UPLOAD_SECONDS = 90.0
"""Time that the last upload may take; what is left can be sent by `wandb sync`."""


class WeightsAndBiases:
    """A `Logger`: figures against environment steps, configuration, tables and figures of the test, and the report.

    W&B writes its own files into `wandb/` beside the run folder, or into WANDB_DIR of the environment: there are links
    among them, which the folder of a run must not hold. The id of the run stands in `tracking/wandb.json` of its
    folder: a resumed run goes on under it. W&B cannot take rows back, so rows that come again are left out; they are
    the same unless training has gone back to a checkpoint.

    Args:
      config: keys of `tracking.wandb`.
    """

    def __init__(self, config: WandbConfig):
        self.config = config

    def start(self, run: LoggedRun) -> None:
        """Opens the run at W&B."""
        import wandb

        config, place = self.config, run.folder / PLACE
        place.mkdir(exist_ok=True)
        self._folder, self._written = run.folder, run.written
        metadata = {name: run.metadata.get(name) for name in ("versions", "commit", "devices", "platform")}
        metadata["fingerprint"] = run.metadata.get("data", {}).get("fingerprint")
        # What is printed belongs to the training.
        settings = wandb.Settings(silent=True, console="off", finish_timeout=UPLOAD_SECONDS)
        self._run = wandb.init(
            project=config.project,
            entity=config.entity,
            name=config.name or run.name,
            group=config.group,
            tags=list(config.tags),
            mode=config.mode,
            id=known_id(place / "wandb.json", secrets.token_hex(4)),
            resume="allow",
            reinit="create_new",
            dir=os.environ.get("WANDB_DIR") or str(run.folder.resolve().parent),
            config={**nested_config(run.config), "metadata": metadata},
            allow_val_change=True,
            settings=settings,
        )
        self._run.define_metric("env_steps", hidden=True)
        self._run.define_metric("*", step_metric="env_steps")
        if not self._run.offline and self._run.url:
            print(f"tracked at {self._run.url}", file=sys.stderr)

    def write(self, row: Mapping[str, Any]) -> None:
        """Logs the figures of an iteration at its environment steps."""
        if row["iteration"] > self._written:
            self._written = row["iteration"]
            self._run.log(numbers(row), step=int(row["env_steps"]))

    def finish(self, results: Results) -> None:
        """Logs headline figures, tables and figures of the test, and the report as an artefact."""
        import PIL.Image
        import wandb

        self._run.summary.update(final_figures(results.summary))
        found: dict[str, Any] = {
            name: wandb.Table(columns=list(table.columns), data=[*map(list, table.rows)], allow_mixed_types=True)
            for name, table in tables(results.summary).items()
        }
        found |= {name: wandb.Image(PIL.Image.open(io.BytesIO(png))) for name, png in results.figures.items()}
        if found:
            self._run.log(found)
        artefact = wandb.Artifact(f"report-{self._run.id}", type="report")
        for path in (results.report, self._folder / "summary.json", self._folder / "config.yaml"):
            if path is not None and path.is_file():
                artefact.add_file(str(path))
        self._run.log_artifact(artefact)

    def close(self, status: Status) -> None:
        """Ends the run at W&B; one that was stopped goes on when it is resumed."""
        self._run.finish(exit_code=EXIT_CODES[status])
