"""A registry of models: versions of exported policies, which of them is in use, and how each came there.

`models/NAME/VERSION/` holds the exported policy (`policy/`), its out-of-sample returns and a sealed entry.
`models/NAME/history.jsonl` is the truth: a version is in the registry once its line is there, and its stage follows
from the lines. So each verb is done by one line, and a process that is killed has done it or has not.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from jaxppo.deploy.live_account import LivePolicy
from jaxppo.deploy.load import load_policy
from jaxppo.deploy.models.entry import POLICY, Model, one_line, read_entry, stamp, write_entry
from jaxppo.deploy.models.history import (
    ADD,
    PRODUCTION,
    PROMOTE,
    ROLLBACK,
    STAGES,
    STAGING,
    History,
    append,
    read_history,
)
from jaxppo.deploy.models.naming import NAME, check_name, check_version, next_version, version_order
from jaxppo.errors import ConfigError
from jaxppo.run.lock import owned

if TYPE_CHECKING:
    from jaxppo.deploy.models.comparison import Comparison
    from jaxppo.envs.market.market_data import MarketData

DRAFTS = ".drafts"
DAY = 86400.0
"""Seconds after which what a killed process left among the drafts is deleted."""
LEVEL = 0.95
"""Deflated Sharpe ratio that a promotion demands."""


class Registry:
    """Models in a folder.

    Every verb raises `ConfigError` for a model, a version or a stage that is not there, and for a history or an entry
    that was changed. Verbs that write refuse a model that another process is writing.

    Args:
      path: of the folder; `add` makes it.
    """

    def __init__(self, path: str | pathlib.Path = "models"):
        self.path = pathlib.Path(path)

    def add(
        self,
        run: str | pathlib.Path,
        name: str | None = None,
        *,
        version: str | None = None,
        bump: str = "minor",
        parent: str | None = None,
        by: str | None = None,
        market: MarketData | None = None,
    ) -> Model:
        """Exports a run as a new version, a candidate.

        Args:
          run: its folder.
          name: of the model; None takes that of the run's folder.
          version: semantic; None raises the highest one.
          bump: what is raised: major, minor or patch.
          parent: version that this one comes from; None takes the one in production, else the newest.
          by: who adds it; None takes the user of the process.
          market: prices that the run was trained on, where those were given in Python.

        Raises:
          ConfigError: not a run, one that cannot be live, or a version that is there already.
          DataError: its prices cannot be used.
        """
        from jaxppo.deploy.models.prepare import prepare  # loads the trainer, which a live policy does without

        name = check_name(pathlib.Path(run).resolve().name if name is None else name)
        folder, signed = self.path / name, stamp(by)
        _new_version(name, self._history(name, new=True), version, bump, parent)  # before minutes of work
        with self._draft() as draft:
            about = prepare(run, draft, market)
            folder.mkdir(exist_ok=True)
            with owned(folder):
                known = self._history(name, new=True)
                version, parent = _new_version(name, known, version, bump, parent)
                digest = write_entry(draft, {"version": version, "parent": parent, **about, **signed})
                if (folder / version).exists():  # of a process that was killed before it was in the history
                    os.replace(folder / version, draft.with_name(f"{draft.name}-left"))
                os.replace(draft, folder / version)
                after = append(folder, {"action": ADD, "version": version, "entry": digest, **signed})
        return self._model(name, version, after)

    def list(self, name: str | None = None) -> tuple[Model, ...]:
        """All versions, by name and version.

        Args:
          name: of the model; None takes all.
        """
        names = self._names() if name is None else [name]
        found = []
        for one in names:
            history = self._history(one, new=name is None)
            found += [self._model(one, version, history) for version in sorted(history.stages, key=version_order)]
        return tuple(found)

    def show(self, name: str, version: str | None = None) -> Model:
        """A version, every byte of which is verified.

        Args:
          name: of the model.
          version: or a stage; None takes the version in production, else the newest.
        """
        history = self._history(name)
        model = self._model(name, _chosen(name, version or history.production or _newest(history), history), history)
        model.verify()
        model.evaluated()
        return model

    def compare(self, first: str, second: str) -> Comparison:
        """Sets two versions side by side, with a paired test over the out-of-sample bars that both have.

        Args:
          first: `NAME@VERSION` or `NAME@STAGE`; `NAME` alone is its version in production.
          second: another one.

        Raises:
          ConfigError: they have no bars in common, too few, or the same returns.
        """
        from jaxppo.deploy.models.comparison import compare_models  # statistics, which a live policy does without

        return compare_models(*(self._referred(reference).evaluated() for reference in (first, second)))

    def promote(
        self,
        name: str,
        version: str,
        to: str = PRODUCTION,
        *,
        level: float = LEVEL,
        force: bool = False,
        reason: str | None = None,
        by: str | None = None,
    ) -> dict[str, Any]:
        """Moves a version to staging or to production; what was in production is archived.

        It demands a deflated Sharpe ratio above the level, a gate that is not shut, and a paired test against the
        version in production, or where there is none against what its run is measured against. What cannot be computed
        counts as not shown.

        Args:
          name: of the model.
          version: that moves.
          to: staging or production.
          level: deflated Sharpe ratio that is demanded, in (0, 1).
          force: promotes it whatever was measured.
          reason: of the promotion; needed with `force`, and kept in the history.
          by: who promotes it; None takes the user of the process.

        Returns:
          The line of the history, with what was measured and demanded.

        Raises:
          ConfigError: it has not shown what is demanded, or it is there already.
        """
        from jaxppo.deploy.models import promotion  # statistics, which a live policy does without

        promotion.check_level(level)
        if to not in (STAGING, PRODUCTION):
            raise ConfigError(f"--to is {to!r:.100}; allowed: {STAGING}, {PRODUCTION}")
        if force and reason is None:
            raise ConfigError("--force needs --reason TEXT, which is kept in the history")
        why = None if reason is None else one_line("--reason", reason)
        signed = stamp(by)
        with self._owned(name) as history:
            model = self._model(name, check_version(version), history)
            if model.stage == to or model.stage == PRODUCTION:
                raise ConfigError(f"{model.title} is in {model.stage}; promote another version, or roll back")
            model.verify()
            found = promotion.demands(model.evaluated(), self._in_use(name, history), level)
            if not force and not all(demand.shown for demand in found):
                raise ConfigError(promotion.refusal(model.title, to, found))
            moved = {"action": PROMOTE, "version": version, "to": to, "former": _archives(history, to)}
            shown = {"forced": force, "reason": why, "demands": [demand._asdict() for demand in found]}
            return append(self.path / name, {**moved, **shown, **signed}).lines[-1]

    def rollback(self, name: str, *, reason: str | None = None, by: str | None = None) -> dict[str, Any]:
        """Brings back the version that was in production before; the present one is archived.

        Args:
          name: of the model.
          reason: kept in the history.
          by: who does it; None takes the user of the process.

        Returns:
          The line of the history.

        Raises:
          ConfigError: none was in production before, or it was changed.
        """
        why = None if reason is None else one_line("--reason", reason)
        signed = stamp(by)
        with self._owned(name) as history:
            if len(history.served) < 2:
                raise ConfigError(
                    f"model {name}: no version was in production before; there is nothing to roll back to"
                )
            version, former = history.served[-2:]
            self._model(name, version, history).verify()
            line = {"action": ROLLBACK, "version": version, "former": former, "reason": why}
            return append(self.path / name, {**line, **signed}).lines[-1]

    def load(
        self,
        name: str,
        stage: str = PRODUCTION,
        *,
        journal: str | pathlib.Path | None = None,
        max_age: float | None = None,
    ) -> LivePolicy:
        """The policy of a stage, ready to trade bar by bar.

        Args:
          name: of the model.
          stage: of which the version that came to it last is taken; or a version.
          journal: see `LivePolicy`.
          max_age: see `LivePolicy`.
        """
        history = self._history(name)
        model = self._model(name, _chosen(name, stage, history), history)
        model.verify()
        return load_policy(model.folder / POLICY, journal=journal, max_age=max_age)

    def history(self, name: str) -> Sequence[dict[str, Any]]:
        """What was done to a model, in order.

        Args:
          name: of the model.
        """
        return self._history(name).lines

    def _names(self) -> Sequence[str]:
        """Models, in order."""
        try:
            there = sorted(entry.name for entry in self.path.iterdir() if entry.is_dir())
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be read: {error.strerror}; no registry is there") from None
        return [name for name in there if NAME.fullmatch(name)]

    def _history(self, name: str, new: bool = False) -> History:
        """The history of a model; with `new` it may have none yet."""
        folder = self.path / check_name(name)
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise ConfigError(f"{folder}: is no folder of a model")
        found = read_history(folder)
        if not new and not found.lines:
            raise ConfigError(f"model {name} is not in {self.path}; add it first")
        return found

    @contextlib.contextmanager
    def _owned(self, name: str) -> Iterator[History]:
        """Owns a model, and reads its history."""
        self._history(name)
        with owned(self.path / name):
            yield self._history(name)

    def _model(self, name: str, version: str, history: History) -> Model:
        """A version, its entry verified."""
        if version not in history.stages:
            raise ConfigError(f"model {name} has no version {version}; known: {', '.join(history.stages)}")
        lines, folder = history.of(version), self.path / name / version
        if folder.is_symlink():
            raise ConfigError(f"{folder}: is a link to another place; remove it")
        entry = read_entry(folder, lines[0]["entry"])
        return Model(name, version, history.stages[version], folder, entry, tuple(lines))

    def _referred(self, reference: str) -> Model:
        """The version that `NAME@VERSION`, `NAME@STAGE` or `NAME` names."""
        name, _, version = reference.partition("@")
        history = self._history(name)
        return self._model(name, _chosen(name, version or PRODUCTION, history), history)

    def _in_use(self, name: str, history: History) -> Any:
        """The version in production with its returns, why they cannot be read, or None."""
        if history.production is None:
            return None
        try:
            return self._model(name, history.production, history).evaluated()
        except ConfigError as error:
            return error

    @contextlib.contextmanager
    def _draft(self) -> Iterator[pathlib.Path]:
        """A folder beside the models, which is moved to its place or is gone afterwards."""
        drafts = self.path / DRAFTS
        if drafts.is_symlink():  # what is old in it would be deleted
            raise ConfigError(f"{drafts}: is a link to another place; remove it")
        try:
            drafts.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise ConfigError(f"{self.path}: is no folder; a registry is one") from None
        for left in drafts.iterdir():
            if time.time() - left.lstat().st_mtime > DAY:
                shutil.rmtree(left, ignore_errors=True)
        draft = pathlib.Path(tempfile.mkdtemp(dir=drafts))
        draft.chmod(0o755)
        try:
            yield draft
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def _new_version(
    name: str, known: History, version: str | None, bump: str, parent: str | None
) -> tuple[str, str | None]:
    """A version that is not there yet, and its parent."""
    proposed = next_version(known.stages, bump)
    chosen = proposed if version is None else check_version(version)
    if chosen in known.stages:
        raise ConfigError(f"model {name} has a version {chosen} already; the next one is {proposed}")
    if parent is not None:
        return chosen, _chosen(name, parent, known)
    return chosen, known.production or _newest(known)


def _newest(history: History) -> str | None:
    """The version that was added last."""
    return list(history.stages)[-1] if history.stages else None


def _chosen(name: str, wanted: str | None, history: History) -> str:
    """The version that a version or a stage names."""
    if wanted not in STAGES:
        version = check_version(str(wanted))
        if version not in history.stages:
            raise ConfigError(f"model {name} has no version {version}; known: {', '.join(history.stages)}")
        return version
    found = history.last_in(str(wanted))
    if found is None:
        raise ConfigError(f"model {name} has no version in {wanted}; known: {', '.join(history.stages)}")
    return found


def _archives(history: History, to: str) -> str | None:
    """The version that a promotion archives."""
    return history.production if to == PRODUCTION else None
