"""TensorBoard: curves of training, hyper-parameters beside final figures, and figures of the test period."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import tensorboardX
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import hparams

from jaxppo.tracking.charts import HEIGHT, WIDTH
from jaxppo.tracking.flat import final_figures, flat_config, numbers
from jaxppo.tracking.protocol import LoggedRun, Results, Status

FOLDER = "tensorboard"
HEADLINES = (
    *("out_of_sample/sharpe", "out_of_sample/sortino", "out_of_sample/calmar", "out_of_sample/max_drawdown"),
    *("out_of_sample/total_return", "out_of_sample/turnover", "out_of_sample/costs", "validation/best_sharpe"),
    *("train/env_steps", "train/steps_per_second"),
)
"""Final figures that stand beside the hyper-parameters of a trading run."""
OTHER_HEADLINES = ("evaluation/mean_return", "evaluation/worst_return", "validation/best_return", "train/env_steps")
"""Those of a run on another environment."""
RGB = 3


class TensorBoard:
    """A `Logger` that writes `tensorboard/` of the run folder.

    A resumed run, and one that has gone back to a checkpoint, takes the place of the points that it repeats. Final
    figures stand one step after the last iteration, so that they too are replaced.
    """

    def start(self, run: LoggedRun) -> None:
        """Opens a file of its own, and lists the run with its hyper-parameters."""
        self._folder, self._iteration = run.folder / FOLDER, run.iteration
        self._writer = self._open()
        headlines = HEADLINES if run.config.env.name == "trading" else OTHER_HEADLINES
        experiment, begun, self._ended = hparams(flat_config(run.config), dict.fromkeys(headlines, 0.0))
        for summary in (experiment, begun):
            self._writer.file_writer.add_summary(summary)

    def write(self, row: Mapping[str, Any]) -> None:
        """Writes all figures of an iteration in one event."""
        if row["iteration"] <= self._iteration:
            self._writer.close()
            self._iteration = row["iteration"] - 1
            self._writer = self._open()
        self._iteration = row["iteration"]
        self._add({name: value for name, value in numbers(row).items() if name != "iteration"}, self._iteration)

    def finish(self, results: Results) -> None:
        """Writes the final figures and the figures of the test."""
        after = self._iteration + 1
        self._add(final_figures(results.summary), after)
        size = {"height": HEIGHT, "width": WIDTH, "colorspace": RGB}
        images = {name: Summary.Image(encoded_image_string=png, **size) for name, png in results.figures.items()}
        shown = [Summary.Value(tag=f"test/{name}", image=image) for name, image in images.items()]
        self._writer.file_writer.add_summary(Summary(value=shown), after)
        self._writer.file_writer.add_summary(self._ended)

    def close(self, status: Status) -> None:
        """Flushes and closes the file."""
        self._writer.close()

    def _open(self) -> tensorboardX.SummaryWriter:
        """A new file, which is read after those that are there and replaces their points after `_iteration`."""
        self._folder.mkdir(exist_ok=True)
        count = len(list(pathlib.Path(self._folder).iterdir()))  # files are named by the second: several need an order
        return tensorboardX.SummaryWriter(
            str(self._folder), purge_step=self._iteration + 1, filename_suffix=f".{count:06d}"
        )

    def _add(self, figures: Mapping[str, float], step: int) -> None:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        self._writer.file_writer.add_summary(Summary(value=values), step)
