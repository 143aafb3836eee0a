"""The register of trials: everything that was looked at on the way to a result, so that luck can be told from skill.

Beside the run folders lies `trials.jsonl`, a line for each look at returns that were not trained on: of each run, seed,
fold and checkpoint, each period and each way to trade it. `trial_returns/KEY.npz` beside it holds the returns.
Lines are only ever added. The same look is added once, however often it is repeated (a resumed run, an evaluation that
is run again); deleting a run folder does not undo that it was looked at. Nothing in it depends on the clock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

try:
    import fcntl
except ImportError:  # not on Windows, where a line is written by one call all the same
    fcntl = None

REGISTER, RETURNS = "trials.jsonl", "trial_returns"
_DAMAGE = (OSError, KeyError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What numpy raises on a file of returns that is missing, cut short or changed."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One look at the returns of one policy over one period.

    Attributes:
      run: name of the run folder.
      content: hash of what was run on what: the configuration, as far as it shapes results, and the prices.
      seed: of the run.
      fold: of a walk-forward; None outside one.
      iteration: of the checkpoint.
      period: "validation" if it selected the checkpoint, "test" if it did not; "fold" is a part of the test of a
        walk-forward, which as a whole is a "test".
      first: time (or number) of the bar at whose close the first decision was taken.
      last: time (or number) of the last mark.
      n_bars: returns in it.
      periods: bars per year.
      sharpe: Sharpe ratio per bar; 0 if nothing was traded.
      attempt: how many looks with other returns there were before under the same name: the run was trained anew.
    """

    run: str
    content: str
    seed: int
    fold: int | None
    iteration: int
    period: str
    first: str | int
    last: str | int
    n_bars: int
    periods: float
    sharpe: float
    attempt: int = 0

    @property
    def key(self) -> str:
        """What makes two looks the same look; the name of the file of returns."""
        same = (self.run, self.content, self.seed, self.fold, self.iteration, self.period, self.first, self.last)
        same += (self.attempt,) if self.attempt else ()
        return hashlib.sha256(json.dumps(same).encode()).hexdigest()[:24]

    @property
    def bars(self) -> tuple[Any, ...]:
        """Trials with equal bars can be compared bar by bar."""
        return (self.first, self.last, self.n_bars, self.periods)


def register_of(folder: str | pathlib.Path) -> pathlib.Path:
    """The register that a run folder belongs to: in the folder that the run folder is in."""
    return pathlib.Path(folder).resolve().parent / REGISTER


def sharpe_of(returns: np.ndarray) -> float:
    """Sharpe ratio per bar; 0 for an account that did nothing."""
    returns = np.asarray(returns, np.float64)
    spread = returns.std(ddof=1) if len(returns) > 1 else 0.0
    return float(returns.mean() / spread) if spread > 0 else 0.0


def record(
    register: str | pathlib.Path,
    returns: np.ndarray,
    *,
    run: str,
    content: str,
    seed: int,
    iteration: int,
    period: str,
    first: str | int,
    last: str | int,
    periods: float,
    fold: int | None = None,
) -> Trial:
    """Adds a look, unless it is there already with the same returns. Several processes may record at once.

    Args:
      register: path of `trials.jsonl`; made if it is missing.
      returns: `[n]` simple return per bar, n >= 2; kept as float32.
      run: see `Trial`, as are the others.
      content: see `Trial`.
      seed: see `Trial`.
      iteration: see `Trial`.
      period: see `Trial`.
      first: see `Trial`.
      last: see `Trial`.
      periods: see `Trial`.
      fold: see `Trial`.

    Returns:
      The trial as it stands in the register.

    Raises:
      ValueError: fewer than 2 returns or one that is not finite; the register is damaged.
      OSError: it cannot be written.
    """
    returns = np.asarray(returns)
    if returns.ndim != 1 or len(returns) < 2 or not np.isfinite(returns).all():
        raise ValueError(f"returns of shape {returns.shape} cannot be recorded; at least 2 finite numbers are expected")
    register, n = pathlib.Path(register), len(returns)
    trial = Trial(run, content, seed, fold, iteration, period, first, last, n, float(periods), sharpe_of(returns))
    register.parent.mkdir(parents=True, exist_ok=True)
    with open(register, "a+b") as file, _locked(file):
        known = {other.key: other for other in _parse(register, _repaired(file))}
        while trial.key in known:
            if _same_returns(_load(register, known[trial.key]), returns):
                return known[trial.key]
            trial = dataclasses.replace(trial, attempt=trial.attempt + 1)
        _save_returns(register, trial, returns)
        file.write((json.dumps({"key": trial.key, **dataclasses.asdict(trial)}) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())
    return trial


def read(register: str | pathlib.Path) -> list[Trial]:
    """Trials in the order they were recorded; none without a register. A line that is still being written is left out.

    Raises:
      ValueError: a line is no trial.
    """
    register = pathlib.Path(register)
    try:
        content = register.read_bytes()
    except FileNotFoundError:
        return []
    return _parse(register, content[: content.rfind(b"\n") + 1])


def table(register: str | pathlib.Path) -> pd.DataFrame:
    """The register as a table, one row for each trial, with `key` and `annual_sharpe` besides the fields of `Trial`."""
    found = read(register)
    columns = ["key", *(field.name for field in dataclasses.fields(Trial)), "annual_sharpe"]
    rows = [{"key": t.key, **dataclasses.asdict(t), "annual_sharpe": t.sharpe * t.periods**0.5} for t in found]
    return pd.DataFrame(rows, columns=columns)


def load_returns(register: str | pathlib.Path, chosen: Sequence[Trial]) -> np.ndarray:
    """Returns `[T, N]` float32 of trials that share their bars.

    Raises:
      ValueError: they do not share their bars, or the returns of one are missing.
    """
    if len({trial.bars for trial in chosen}) > 1:
        raise ValueError("the trials are not over the same bars, so their returns cannot stand side by side")
    return np.stack([_load(pathlib.Path(register), trial) for trial in chosen], axis=1)


def _same_returns(known: np.ndarray, returns: np.ndarray) -> bool:
    """Whether they are those of one policy, up to the rounding of another device."""
    return known.shape == returns.shape and np.allclose(known, returns, rtol=1e-3, atol=1e-6)


def _load(register: pathlib.Path, trial: Trial) -> np.ndarray:
    path = _returns_path(register, trial)
    try:
        with np.load(path, allow_pickle=False) as file:
            returns = file["returns"]
    except _DAMAGE as error:
        raise ValueError(f"{path}: the returns of run {trial.run} are missing or damaged ({error})") from None
    if returns.shape != (trial.n_bars,):
        raise ValueError(f"{path}: holds {returns.shape} returns, but run {trial.run} has {trial.n_bars} bars")
    return returns


def _returns_path(register: pathlib.Path, trial: Trial) -> pathlib.Path:
    return register.parent / RETURNS / f"{trial.key}.npz"


def _save_returns(register: pathlib.Path, trial: Trial, returns: np.ndarray) -> None:
    """Before the line that names it, in one move: a line never lacks its returns."""
    path = _returns_path(register, trial)
    path.parent.mkdir(exist_ok=True)
    draft = path.with_suffix(".part")
    with open(draft, "wb") as file:
        np.savez_compressed(file, returns=np.asarray(returns, np.float32))
    draft.replace(path)


@contextlib.contextmanager
def _locked(file: BinaryIO) -> Iterator[None]:
    """Holds the register for this process alone."""
    if fcntl is None:
        yield
        return
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _repaired(file: BinaryIO) -> bytes:
    """What the locked register holds, without a last line that a crash left unfinished."""
    file.seek(0)
    content = file.read()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        file.truncate(whole)
    return content[:whole]


def _parse(register: pathlib.Path, content: bytes) -> list[Trial]:
    """Trials from whole lines.

    Raises:
      ValueError: a line is no trial.
    """
    found = []
    for number, line in enumerate(content.decode(errors="replace").splitlines(), 1):
        try:
            fields = json.loads(line)
            key = fields.pop("key")
            trial = Trial(**fields)
            sound = trial.n_bars >= 2 and 0 < trial.periods < math.inf and math.isfinite(trial.sharpe)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ValueError(f"{register}: line {number} is no trial; restore the file or delete the line") from None
        if not sound:
            figures = f"n_bars {trial.n_bars}, periods {trial.periods}, sharpe {trial.sharpe}"
            raise ValueError(
                f"{register}: line {number} has {figures}; at least 2 bars and finite numbers are expected"
            )
        if key != trial.key:
            raise ValueError(f"{register}: line {number} was changed; its key does not belong to its content")
        found.append(trial)
    return found
