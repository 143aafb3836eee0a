"""What the files of a run, a walk-forward or a Monte Carlo job say of how far it is; reads them without JAX."""

from __future__ import annotations

import json
import math
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import yaml

from jaxppo.errors import ConfigError
from jaxppo.run.lock import NAME as LOCK
from jaxppo.run.lock import owner_of
from jaxppo.run.resuming import resume_command

METRICS, METADATA, CONFIG, SUMMARY, JOB = "metrics.jsonl", "metadata.json", "config.yaml", "summary.json", "job.json"
WALK_FORWARD, SWEEP = "walk_forward", "sweep"
RECENT = 10
"""Iterations of which the speed is taken."""
BAR, CURVE = 30, 60
"""Characters of a bar, and of a curve."""
BLOCKS = "▁▂▃▄▅▆▇█"
MOST_FIGURES = 3
"""Figures of a validation that are shown."""


class View(NamedTuple):
    """What there is to see of a folder.

    Attributes:
      state: in a word: starting, compiling, training, evaluating, running, finished or interrupted.
      lines: for a terminal, the first with the state.
      over: whether nothing more will come.
    """

    state: str
    lines: list[str]
    over: bool


class Watched:
    """A folder that is looked at again and again; what was read of its metrics is kept.

    Args:
      folder: of a run, a walk-forward or a Monte Carlo job.

    Raises:
      ConfigError: it is none of these.
    """

    def __init__(self, folder: str | pathlib.Path):
        self.folder = pathlib.Path(folder)
        if not self.folder.is_dir():
            raise ConfigError(f"{folder}: no such folder")
        if not any((self.folder / name).exists() for name in (METADATA, CONFIG, JOB, LOCK)):
            raise ConfigError(f"{folder}: not the folder of a run, a walk-forward or a Monte Carlo job")
        self._offset, self._rows = 0, list[dict[str, Any]]()

    def look(self) -> View:
        """Reads what is new, and says how far it is.

        Raises:
          ConfigError: a file has not what its kind has.
        """
        try:
            view = self._look()
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise ConfigError(f"{self.folder}: damaged: {type(error).__name__} {error}") from None
        lines = ["".join(letter if letter.isprintable() else "?" for letter in line) for line in view.lines]
        return view._replace(lines=lines)

    @property
    def remedy(self) -> str:
        """How an interrupted job goes on, in a line."""
        if (self.folder / JOB).exists():
            return "the same command goes on with the job"
        return f"continue with {resume_command(self.folder, str(_read(self.folder / METADATA).get('kind')))}"

    def _look(self) -> View:
        metadata = _read(self.folder / METADATA)
        if (self.folder / JOB).exists():
            state, lines = self._monte_carlo(_read(self.folder / JOB))
        elif metadata.get("kind") == WALK_FORWARD:
            state, lines = self._walk_forward(metadata)
        else:
            state, lines = self._run(metadata)
        owner, gone = owner_of(self.folder)
        if state != "finished" and (gone or not owner):
            state = "interrupted"
        by = f", by process {owner.get('pid')} on {owner.get('host')}" if owner and state != "interrupted" else ""
        return View(state, [f"{self.folder}: {state}{by}", *lines], state in ("finished", "interrupted"))

    def _run(self, metadata: dict[str, Any]) -> tuple[str, list[str]]:
        rows = self._metrics()
        if not rows and metadata.get("finished"):  # a sweep, which has a table of agents instead
            return "finished", self._outcome()
        if not rows:
            return ("training" if metadata.get("kind") == SWEEP else "compiling" if metadata else "starting"), []
        share, left, budget = progress_of(rows, _read(self.folder / CONFIG))
        state = "finished" if metadata.get("finished") else "evaluating" if share >= 1.0 else "training"
        newest = rows[-1]
        lines = [f"  {bar(share)} {share:4.0%}  iteration {newest['iteration']:,}  {budget}"]
        if state == "training":
            lines[0] += f"  {duration(left)} left"
        figures = {name: newest[name] for name in ("sharpe", "reward") if newest.get(name) is not None}
        shown = "  ".join(f"{name} {value:+.3g}" for name, value in figures.items())
        lines.append(f"  training    {newest['steps_per_second']:,.0f} steps/s  {shown}")
        name = next(iter(figures), None)
        if name is not None and len(rows) > 1:
            lines.append(f"  {name:<10}  {curve([row.get(name) for row in rows])}")
        return state, [*lines, *self._validation(rows), *(self._outcome() if state == "finished" else ())]

    def _outcome(self) -> list[str]:
        """The headline figures of a finished run, and where its report is."""
        tested, report = _read(self.folder / SUMMARY).get("out_of_sample", {}), self.folder / "report.html"
        lines = []
        if tested.get("sharpe") is not None:
            low, high = tested["sharpe_ci"]
            figures = f"return {tested['total_return']:.1%}, drawdown {tested['max_drawdown']:.1%}"
            lines.append(f"  test        Sharpe {tested['sharpe']:.2f} ({low:.2f} .. {high:.2f}), {figures}")
        return [*lines, f"  report      {report}"] if report.exists() else lines

    def _validation(self, rows: Sequence[dict[str, Any]]) -> list[str]:
        """Figures of the newest evaluation on validation, and of the one whose checkpoint is kept as best."""
        evaluated = {row["iteration"]: row for row in rows if any(name.startswith("validation_") for name in row)}
        if not evaluated:
            return []
        folders = (self.folder / "checkpoints" / "best").glob("[0-9]*")
        best = max((int(path.name) for path in folders if path.name.isdigit()), default=None)
        lines = [f"  validation  iteration {max(evaluated):,}: {_validated(evaluated[max(evaluated)])}"]
        if best in evaluated:
            lines.append(f"  best so far iteration {best:,}: {_validated(evaluated[best])}")
        return lines

    def _walk_forward(self, metadata: dict[str, Any]) -> tuple[str, list[str]]:
        if metadata.get("finished"):
            return "finished", []
        found = [row for row in _rows_of(self.folder.parent / "trials.jsonl") if row.get("run") == self.folder.name]
        if not found:
            return "compiling", []
        config, row = _read(self.folder / CONFIG), found[-1]
        per = math.prod(config["ppo"][key] for key in ("paths", "portfolios", "chunk"))
        budget = _step_budget(config)
        of = f" of {max(1, -(-budget // per)):,}" if budget is not None else ""
        where = f"fold {row['fold']}, seed {row['seed']}, iteration {row['iteration']:,}{of}"
        return "training", [f"  {len(found):,} evaluations; the newest: {where}, Sharpe {row['sharpe']:+.2f}"]

    def _monte_carlo(self, job: dict[str, Any]) -> tuple[str, list[str]]:
        index, n_shards = job.get("shard") or (0, 1)
        if job.get("part_size") is None:  # merged shards
            return ("finished" if (self.folder / SUMMARY).exists() else "running"), []
        batches = len(range(index, -(-job["n_paths"] // job["batch_size"]), n_shards))
        n_parts = -(-batches * job["batch_size"] // job["part_size"])
        done = len(list((self.folder / "parts").glob("*.parquet")))
        state = "finished" if (self.folder / SUMMARY).exists() else "evaluating" if done >= n_parts else "running"
        share = done / max(n_parts, 1)
        return state, [f"  {bar(share)} {share:4.0%}  {done:,} of {n_parts:,} parts of {job['n_paths']:,} paths"]

    def _metrics(self) -> list[dict[str, Any]]:
        """All whole rows; a file that became shorter, as of a resumed run, is read anew."""
        path = self.folder / METRICS
        try:
            if path.stat().st_size < self._offset:
                self._offset, self._rows = 0, []
            with path.open("rb") as file:
                file.seek(self._offset)
                text = file.read()
        except FileNotFoundError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        self._rows += _parsed(whole.decode("utf-8", "replace"))
        return self._rows


def progress_of(rows: Sequence[dict[str, Any]], config: dict[str, Any]) -> tuple[float, float, str]:
    """How much of the budget of a run is spent.

    Args:
      rows: of its metrics.
      config: its resolved configuration.

    Returns:
      Spent share in [0, 1]; seconds of training that are left, at the speed of the last iterations; and both in words.
    """
    done, speed = rows[-1]["env_steps"], statistics.median(row["steps_per_second"] for row in rows[-RECENT:])
    steps, minutes = _step_budget(config), config["training"].get("minutes")
    found = [(1.0, 0.0, f"{done:,} steps")]
    if steps is not None:
        found.append((done / steps, (steps - done) / speed, f"{done:,} of {steps:,} steps"))
    if minutes is not None:
        each = rows[-1]["env_steps"] / rows[-1]["iteration"]
        spent = sum(each / row["steps_per_second"] for row in rows)
        found.append((spent / (60 * minutes), 60 * minutes - spent, f"{duration(spent)} of {minutes:g} min"))
    share, left, text = max(found[1:] or found)  # what is spent first ends it
    return min(share, 1.0), max(left, 0.0), text


def bar(share: float) -> str:
    """A bar of text of a share in [0, 1]."""
    full = math.floor(BAR * min(max(share, 0.0), 1.0))
    return f"[{'#' * full}{'.' * (BAR - full)}]"


def curve(values: Sequence[float | None], width: int = CURVE) -> str:
    """A line of blocks, of means of equal parts of the values; spaces where there are none.

    Args:
      values: in order of time; None where there is none.
      width: most characters.
    """
    n = min(width, len(values))
    parts = [values[len(values) * i // n : len(values) * (i + 1) // n] for i in range(n)]
    known = [[value for value in part if value is not None] for part in parts]
    means = [statistics.fmean(part) if part else None for part in known]
    heights = [mean for mean in means if mean is not None]
    if not heights:
        return ""
    low, high = min(heights), max(heights)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    blocks = (" " if mean is None else BLOCKS[round((mean - low) * scale)] for mean in means)
    return f"{''.join(blocks)}  {low:+.3g} to {high:+.3g}"


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss, or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _step_budget(config: dict[str, Any]) -> int | None:
    """Budget in environment steps; None where it is wall time alone."""
    training = config["training"]
    if training.get("episodes") is not None:
        return training["episodes"] * config["env"]["episode_chunks"] * config["ppo"]["chunk"]
    return training.get("steps")


def _validated(row: dict[str, Any]) -> str:
    """Figures of an evaluation in words."""
    found = {name.removeprefix("validation_"): row[name] for name in row if name.startswith("validation_")}
    shown = [(name, value) for name, value in found.items() if not name.endswith("_error") and value is not None]
    return ", ".join(f"{name.replace('_', ' ')} {value:+.3g}" for name, value in shown[:MOST_FIGURES])


def _parsed(text: str) -> list[dict[str, Any]]:
    """Rows of JSON lines; what is no row is left out, since others may write while it is read."""
    rows = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows += [row] if isinstance(row, dict) else []
    return rows


def _rows_of(path: pathlib.Path) -> list[dict[str, Any]]:
    try:
        return _parsed(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return []


def _read(path: pathlib.Path) -> dict[str, Any]:
    """A JSON or YAML file; nothing where it is not there yet, or not whole."""
    try:
        text = path.read_text(encoding="utf-8")
        found = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}
