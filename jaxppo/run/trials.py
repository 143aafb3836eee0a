"""The register of trials: every evaluation on the way to a result, so that luck can be told from skill.

Beside the run folders lies `trials.jsonl`, a line for each evaluation on bars that were not trained on: of each run,
seed, fold and checkpoint, each period and each way to trade it. `trial_returns/KEY.npz` beside it holds the returns.
Lines are only ever added. The same evaluation is added once, however often it is repeated (a resumed run, a backtest
that is run again), and stays when its run folder is deleted. Nothing in the register depends on the clock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

try:
    import fcntl
except ImportError:  # not on Windows, where a line is written by one call all the same
    fcntl = None  # type: ignore[assignment]  # the only way to say that a module is absent

REGISTER, RETURNS = "trials.jsonl", "trial_returns"
_DAMAGE = (OSError, KeyError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""Exceptions of numpy on a file of returns that is missing, cut short or changed."""
_RENAMED = {"content": "configuration_hash"}
"""Old name of a field -> its name, for the lines of registers from before it was renamed."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One evaluation of one policy over one period.

    Attributes:
      run: name of the run folder.
      configuration_hash: of the configuration, as far as it shapes results, and the prices.
      seed: of the run.
      fold: of a walk-forward; None outside one.
      iteration: of the checkpoint.
      period: "validation" if it selected the checkpoint, "test" if it did not; "fold" for a part of the test of a
        walk-forward, which as a whole is a "test".
      first: time (or number) of the bar at whose close the first decision was taken.
      last: time (or number) of the last mark.
      n_bars: number of returns, >= 2.
      periods: bars per year.
      sharpe: Sharpe ratio per bar; 0 if nothing was traded.
      attempt: evaluations with other returns that were recorded before under the same name: the run was trained anew.
      fingerprint: of the prices; None in lines from before it was recorded.
      symbols: that were traded; empty for a market without names, and in lines from before they were recorded.
    """

    run: str
    configuration_hash: str
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
    fingerprint: str | None = None
    symbols: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Hash of what makes two evaluations the same one; the name of the file of returns."""
        same = [self.run, self.configuration_hash, self.seed, self.fold, self.iteration, self.period]
        same += [self.first, self.last, *([self.attempt] if self.attempt else [])]
        return hashlib.sha256(json.dumps(same).encode()).hexdigest()[:24]

    @property
    def bars(self) -> tuple[Any, ...]:
        """Trials with equal bars can be compared bar by bar."""
        return (self.first, self.last, self.n_bars, self.periods)


def same_market(one: Trial, other: Trial) -> bool:
    """Whether two evaluations are trials on the same market, so that each makes the better of them look luckier.

    They are if their prices have the same fingerprint, or if they share a symbol and their dates overlap. A line from
    before markets were recorded counts wherever its dates do not rule that out: too many trials are the safer mistake.

    Args:
      one: an evaluation.
      other: another one; the order does not matter.
    """
    known = one.fingerprint is not None and other.fingerprint is not None
    if known and one.fingerprint == other.fingerprint:
        return True
    edges = (one.first, one.last, other.first, other.last)
    if not all(isinstance(edge, str) for edge in edges):
        return not known  # numbers of bars on two markets say nothing of when they were
    first, last, others_first, others_last = (str(edge)[: len("2020-12-31")] for edge in edges)
    overlap = first <= others_last and others_first <= last
    return overlap and (not known or not set(one.symbols).isdisjoint(other.symbols))


def register_of(folder: str | pathlib.Path) -> pathlib.Path:
    """Path of the register that a run folder belongs to: beside the folder."""
    return pathlib.Path(folder).resolve().parent / REGISTER


def sharpe_of(returns: np.ndarray) -> float:
    """Sharpe ratio per bar; 0 for an account that did nothing."""
    returns = np.asarray(returns, np.float64)
    spread = returns.std(ddof=1) if len(returns) > 1 else 0.0
    return float(returns.mean() / spread) if spread > 0 else 0.0


def record(register: str | pathlib.Path, trial: Trial, returns: np.ndarray) -> Trial:
    """Adds a trial, unless it is there already with the same returns. Several processes may record at once.

    Args:
      register: path of `trials.jsonl`; made if it is missing.
      trial: the evaluation, `attempt` 0.
      returns: `[n_bars]` simple return per bar; kept as float32.

    Returns:
      The trial as it stands in the register.

    Raises:
      ValueError: fewer than 2 returns or one that is not finite.
      OSError: it cannot be written.
    """
    return record_all(register, [(trial, returns)])[0]


def record_all(register: str | pathlib.Path, evaluations: Sequence[tuple[Trial, np.ndarray]]) -> list[Trial]:
    """Adds trials as `record` does, and reads the register once for all of them.

    Args:
      register: path of `trials.jsonl`; made if it is missing.
      evaluations: each trial, `attempt` 0, with its returns `[n_bars]`.

    Returns:
      The trials as they stand in the register.

    Raises:
      ValueError: fewer than 2 returns of a trial or one that is not finite; nothing is recorded then.
      OSError: it cannot be written.
    """
    for trial, returns in evaluations:
        if np.shape(returns) != (trial.n_bars,) or trial.n_bars < 2 or not np.isfinite(returns).all():
            raise ValueError(
                f"returns of shape {np.shape(returns)} cannot be recorded; at least 2 finite numbers are expected"
            )
    register = pathlib.Path(register)
    register.parent.mkdir(parents=True, exist_ok=True)
    found = []
    with open(register, "a+b") as file, _locked(file):
        known = {other.key: other for other in _parse(register, _repaired(file))}
        for trial, returns in evaluations:
            found.append(_added(register, file, known, trial, np.asarray(returns)))
        file.flush()
        os.fsync(file.fileno())
    return found


def _added(register: pathlib.Path, file: BinaryIO, known: dict[str, Trial], trial: Trial, returns: np.ndarray) -> Trial:
    """Adds a trial to the register that is open, and to those that are known; see `record`."""
    while trial.key in known:
        if _same_returns(_load(register, known[trial.key]), returns):
            return known[trial.key]
        trial = dataclasses.replace(trial, attempt=trial.attempt + 1)
    _save_returns(register, trial, returns)
    file.write((json.dumps({"key": trial.key, **dataclasses.asdict(trial)}) + "\n").encode())
    known[trial.key] = trial
    return trial


def read(register: str | pathlib.Path) -> list[Trial]:
    """Reads trials in the order they were recorded; none without a register.

    An unfinished last line is left out, and so are lines that are no trial, with a warning.
    """
    register = pathlib.Path(register)
    try:
        text = register.read_bytes()
    except FileNotFoundError:
        return []
    return _parse(register, text[: text.rfind(b"\n") + 1])


def table(register: str | pathlib.Path) -> pd.DataFrame:
    """Reads the register as a table: a row for each trial, fields of `Trial`, `key` and `annual_sharpe`."""
    found = read(register)
    columns = ["key", *(field.name for field in dataclasses.fields(Trial)), "annual_sharpe"]
    rows = [{"key": t.key, **dataclasses.asdict(t), "annual_sharpe": t.sharpe * t.periods**0.5} for t in found]
    return pd.DataFrame(rows, columns=columns)


def load_returns(register: str | pathlib.Path, chosen: Sequence[Trial]) -> np.ndarray:
    """Loads the returns of trials that share their bars.

    Args:
      register: path of `trials.jsonl`.
      chosen: N trials.

    Returns:
      `[T, N]` float32.

    Raises:
      ValueError: they do not share their bars, or the returns of one are missing.
    """
    if len({trial.bars for trial in chosen}) > 1:
        raise ValueError("the trials are not over the same bars, so their returns cannot stand side by side")
    return np.stack([_load(pathlib.Path(register), trial) for trial in chosen], axis=1)


def _same_returns(known: np.ndarray, returns: np.ndarray) -> bool:
    """Whether returns are equal up to the rounding of another device."""
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
    """Writes the returns of a trial in one move, before its line in the register: no line lacks its returns."""
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
    """Reads the locked register, and cuts off a last line that a crash left unfinished."""
    file.seek(0)
    text = file.read()
    whole = text.rfind(b"\n") + 1
    if whole < len(text):
        file.truncate(whole)
    return text[:whole]


def _parse(register: pathlib.Path, text: bytes) -> list[Trial]:
    """Parses whole lines; those that are no trial are left out, with a warning: many runs share a register."""
    found = []
    for number, line in enumerate(text.decode(errors="replace").splitlines(), 1):
        trial, problem = _trial_of(line)
        if trial is None:
            warnings.warn(f"{register}: line {number} {problem}; it is left out", stacklevel=3)
        else:
            found.append(trial)
    return found


def _trial_of(line: str) -> tuple[Trial | None, str]:
    """The trial of a line, or None and what is wrong with it."""
    try:
        fields = {_RENAMED.get(name, name): value for name, value in json.loads(line).items()}
        key = fields.pop("key")
        trial = Trial(**{**fields, "symbols": tuple(fields.get("symbols", ()))})
        sound = trial.n_bars >= 2 and 0 < trial.periods < math.inf and math.isfinite(trial.sharpe)
        same = key == trial.key
    except (ValueError, TypeError, KeyError, AttributeError):
        return None, "is no trial"
    if not sound:
        return None, f"has n_bars {trial.n_bars}, periods {trial.periods}, sharpe {trial.sharpe}, which are no figures"
    return (trial, "") if same else (None, "was changed: its key does not belong to its fields")
