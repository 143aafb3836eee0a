"""A policy that trades bar by bar: a record of bars in, a decision out, in constant time and memory."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import time as clock
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

from jaxppo.deploy.decision import Decision
from jaxppo.deploy.drift.fills import Fill, add_fills, cost_of
from jaxppo.deploy.drift.reference import Reference
from jaxppo.deploy.drift.tracker import Drift, Tracker
from jaxppo.deploy.feed import SECOND, Feed, FeedRules, Reading, RefusedError, time_text
from jaxppo.deploy.positions import Positions
from jaxppo.errors import ConfigError

Step = Callable[[Sequence[Any], Sequence[Any], Sequence[Any]], tuple[Sequence[Any], Sequence[Any]]]
DRIFT = "drift "
"""How names of arrays of a saved state begin that belong to drift."""
MAX_AHEAD = 60.0
"""Seconds by which the start of a bar may lie ahead of the clock."""


@dataclasses.dataclass(frozen=True)
class LiveRules:
    """What a live policy has to know beside its step.

    Attributes:
      name: of the policy.
      feed: how bars are read.
      bar: names of what a step is told, in order.
      output: names of what it says, in order.
      masks: names of the masks, in order.
      sizing: names of the sizing transforms.
      sessions: place in the chain -> keys, of each mask `session`.
      futures: of each asset, whether it is a future.
      history: bars of the past to begin with: what lies before them weighs less than a millionth.
      identity: digest of what decides: a saved state of another policy is refused.
    """

    name: str
    feed: FeedRules
    bar: tuple[str, ...]
    output: tuple[str, ...]
    masks: tuple[str, ...]
    sizing: tuple[str, ...]
    sessions: Mapping[str, Mapping[str, Any]]
    futures: tuple[bool, ...]
    history: int
    identity: str


class LivePolicy:
    """Trades one account, bar by bar; from `live_policy` or `load_policy`.

    Args:
      step: of the account, compiled when it is first called.
      weights: of the policy.
      state: before the first bar.
      bar: name -> array like the one that a step is told.
      rules: what it has to know beside.
      journal: file to which every decision is appended as a line of JSON; None for none.
      max_age: seconds after the end of a bar until which it may be traded on, where a step is told the time; None takes
        the length of a bar.
      reference: what training looked like; None measures no drift.
    """

    def __init__(
        self,
        step: Step,
        weights: Sequence[np.ndarray],
        state: Sequence[np.ndarray],
        bar: Mapping[str, np.ndarray],
        rules: LiveRules,
        *,
        journal: str | pathlib.Path | None = None,
        max_age: float | None = None,
        reference: Reference | None = None,
    ):
        self.rules, self.feed = rules, Feed(rules.feed)
        self.journal = None if journal is None else pathlib.Path(journal)
        self.max_age = rules.feed.bar_seconds if max_age is None else max_age
        self._step, self._like = jax.jit(step), dict(bar)
        self._weights, self._start = [jax.numpy.asarray(x) for x in weights], list(state)
        self._killed, self._reference = False, reference
        self.reset()

    def reset(self) -> None:
        """Forgets everything but the kill switch: as before the first bar."""
        self.feed = Feed(self.rules.feed)
        self._state = [jax.numpy.asarray(x) for x in self._start]
        self._tracker = None if self._reference is None else Tracker(self._reference)

    @property
    def symbols(self) -> tuple[str, ...]:
        """Of the assets, in order."""
        return self.rules.feed.symbols

    def kill(self) -> None:
        """From the next bar on everything is closed, and stays closed."""
        self._killed = True

    @property
    def drift(self) -> Drift:
        """Live features, spreads, volatility and costs against those of training.

        Raises:
          ConfigError: the policy has no reference.
        """
        if self._tracker is None:
            raise ConfigError(f"{self.rules.name}: has no reference of its training; drift is not measured")
        return self._tracker.drift()

    def step(
        self,
        record: Any,
        portfolio: Positions | None = None,
        *,
        now: float | None = None,
        fills: Sequence[Fill] = (),
    ) -> Decision:
        """Takes the account through the bar that has just closed, and decides.

        Args:
          record: time and bars, see `jaxppo.deploy.feed.Feed.read`.
          portfolio: the real account at that close; None for an account that the accounting function keeps, whose
            orders have filled in the bar.
          now: seconds since 1970, by which a bar is too old or ahead of time; None takes every bar as it comes. With it
            the account opens at the first bar that may be traded on.
          fills: those of the real account in the bar, whose costs are compared with the model; of a record that is not
            used, or of an asset without a bar, none are.

        Returns:
          The decision, for the open of the next bar. A record that is not used changes nothing, and says why. Notes
          name what has begun to drift.

        Raises:
          DataError: positions or fills in what the market has not, a fill without size or price, or nothing left of the
            account.
        """
        filled = add_fills(fills, self.symbols, self.rules.feed.multiplier)
        if portfolio is not None:
            portfolio.check(self.symbols)
        try:
            self._check_clock(record, now)
            if isinstance(record, Mapping):
                self._session_rows(self.feed.peek_time(record))  # what no calendar covers changes nothing
            reading = self.feed.read(record)
        except RefusedError as error:
            return self._told(self._refused(str(error)))
        told = self._bar(reading, portfolio, filled.size)
        after, said = self._step(self._weights, self._state, told)
        values = dict(zip(self.rules.output, jax.device_get(said), strict=True))
        if not bool(self._state[-1]):  # `opened`: no account was open in this bar, and one opens where it may trade
            values |= {name: np.zeros_like(values[name]) for name in ("filled", "paid")}
            after = [*after[:-1], after[-1] & (not self._is_old(reading, now))]
        self._state = after
        features, modelled = values.pop("features"), values.pop("modelled")
        drifted: list[str] = []
        if self._tracker is not None and not bool(values["opened"]):
            self._tracker.watch(reading.fields)
        elif self._tracker is not None:
            self._tracker.count(features, reading.fields)
            cost = cost_of(filled, modelled, reading.fields["open"], reading.fields["tradable"])
            if cost is not None:
                self._tracker.count_cost(*cost)
            drifted = self._tracker.begun()
        return self._told(self._decision(reading, values, now, drifted))

    def save(self, path: str | pathlib.Path) -> pathlib.Path:
        """Writes the state, in one move, so that `restore` goes on from here exactly.

        Args:
          path: of the file.
        """
        path = pathlib.Path(path)
        arrays = {f"{number:04d}": np.asarray(x, order="C") for number, x in enumerate(jax.device_get(self._state))}
        about = {"feed": self.feed.state(), "killed": self._killed, "identity": self.rules.identity}
        if self._tracker is not None:
            arrays |= {DRIFT + name: np.asarray(x, order="C") for name, x in self._tracker.arrays().items()}
            about["drift"] = self._tracker.state()
        arrays = dict(sorted(arrays.items()))  # the digest is taken in the order in which `restore` reads
        text = json.dumps(about)
        sealed = {"about": text, "sha256": _digest(arrays, text)}
        draft = path.with_name(path.name + ".part")
        with open(draft, "wb") as file:
            file.write(safetensors.numpy.save(arrays, metadata=sealed))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        return path

    def restore(self, path: str | pathlib.Path) -> None:
        """Goes on from a saved state.

        Args:
          path: from `save`.

        Raises:
          ConfigError: no such file, a damaged one, or of another policy.
        """
        path = pathlib.Path(path)
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                arrays = {name: file.get_tensor(name) for name in sorted(file.keys())}
                sealed = file.metadata() or {}
            about = json.loads(sealed["about"])
            intact = sealed["sha256"] == _digest(arrays, sealed["about"])
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
        except (safetensors.SafetensorError, ValueError, KeyError, TypeError):
            raise ConfigError(f"{path}: damaged; no state of a live policy") from None
        if not intact:
            raise ConfigError(f"{path}: it was changed; start anew with the prices so far")
        if about["identity"] != self.rules.identity:
            raise ConfigError(f"{path}: the state is that of another policy than {self.rules.name}")
        counted = {name.removeprefix(DRIFT): arrays.pop(name) for name in list(arrays) if name.startswith(DRIFT)}
        if self._reference is not None:
            self._tracker = Tracker(self._reference)
            try:
                self._tracker.restore(counted, about["drift"])
            except (KeyError, ValueError):
                raise ConfigError(f"{path}: what it has of drift is not of this policy's training") from None
        self._state = [jax.numpy.asarray(arrays[name]) for name in sorted(arrays)]
        self.feed = Feed(self.rules.feed)
        self.feed.restore(about["feed"])
        self._killed = bool(about["killed"])

    def _check_clock(self, record: Any, now: float | None) -> None:
        """Refuses a bar that begins after the present."""
        if now is None or not isinstance(record, Mapping):
            return
        time = self.feed.peek_time(record)
        if time > (now + MAX_AHEAD) * SECOND:
            raise RefusedError(f"the bar of {time_text(time)} begins after the present {time_text(int(now * SECOND))}")

    def _session_rows(self, time: int) -> dict[str, np.ndarray]:
        """Rows of the masks of trading hours, of which the calendars are loaded when they are needed."""
        if not self.rules.sessions:
            return {}
        from jaxppo.deploy.session import session_rows

        return session_rows(self.rules.sessions, self.rules.feed, time)

    def _is_old(self, reading: Reading, now: float | None) -> bool:
        """Whether a bar ended too long ago to be traded on."""
        return now is not None and now > reading.time / SECOND + self.rules.feed.bar_seconds + self.max_age

    def _bar(
        self, reading: Reading, portfolio: Positions | None, real_fills: np.ndarray | float = 0.0
    ) -> list[np.ndarray]:
        """What the step is told."""
        told = {f"fields.{name}": value for name, value in reading.fields.items()}
        told |= self._session_rows(reading.time)
        told |= {"kill": np.asarray(self._killed), "real_fills": np.asarray(real_fills)}
        if portfolio is not None:
            told["given"] = np.asarray(True)
            for name, of in (("shares", portfolio.shares), ("on_order", portfolio.on_order)):
                told[name] = np.asarray([of.get(symbol, 0.0) for symbol in self.symbols])
            futures = np.asarray(self.rules.futures)
            told["equity"] = np.asarray(portfolio.equity(self.symbols, reading.fields["close"], futures))
        like = self._like
        return [np.broadcast_to(np.asarray(told.get(name, like[name]), like[name].dtype), like[name].shape) for name in
                self.rules.bar]  # fmt: skip

    def _decision(
        self, reading: Reading, values: dict[str, np.ndarray], now: float | None, drifted: Sequence[str]
    ) -> Decision:
        """What a step has said, for people and brokers."""
        said = {name.removeprefix("decided."): value for name, value in values.items()}
        notes = [f"{symbol}: no bar: {reason}" for symbol, reason in reading.refused.items()]
        if reading.unknown:
            notes.append(f"not traded: {', '.join(reading.unknown[:8])}")
        status = "decided" if bool(said["opened"]) else "warming up"
        if now is not None and self._is_old(reading, now):
            status = "stale" if status == "decided" else status
            end = reading.time / SECOND + self.rules.feed.bar_seconds
            notes.append(f"the bar ended {now - end:.0f} s ago; at most {self.max_age:g} s may pass")
        if status != "decided":
            said["ordered"] = np.zeros_like(said["ordered"])
            said["cost"] = np.zeros_like(said["cost"])
        return Decision(
            time=time_text(reading.time),
            symbols=self.symbols,
            price=np.asarray(reading.fields["close"]),
            shares=said["shares"],
            values=said,
            masks=self.rules.masks,
            sizing=self.rules.sizing,
            notes=(*notes, *drifted),
            status=status,
        )

    def _refused(self, reason: str) -> Decision:
        """The decision on a record that is not used: nothing."""
        n, masks = len(self.symbols), len(self.rules.masks)
        nothing, no = np.zeros(n), np.asarray(False)
        values = dict.fromkeys(("weights", "decided", "sized", "targets", "ordered", "cost"), nothing)
        values |= {"bound": np.zeros((masks, n), bool), "tradable": np.ones(n, bool)}
        values |= {"levered": np.zeros(n, bool), "cut": np.zeros(n, bool)}
        values |= {"equity": np.asarray(0.0), "stopped": no, "liquidated": no}
        last = "none" if self.feed.time is None else time_text(self.feed.time)
        return Decision(last, self.symbols, self.feed.close, nothing, values, self.rules.masks, self.rules.sizing,
                        (reason,), "refused")  # fmt: skip

    def _told(self, decision: Decision) -> Decision:
        """Appends a decision to the journal."""
        if self.journal is not None:
            line = json.dumps({"written": round(clock.time(), 3), **decision.as_dict()})
            with open(self.journal, "a", encoding="utf-8") as file:
                file.write(line + "\n")
        return decision


def _digest(arrays: Mapping[str, np.ndarray], about: str) -> str:
    """SHA-256 of arrays, with their names, types and shapes, and of text."""
    found = hashlib.sha256(about.encode())
    for name, array in arrays.items():
        found.update(f"{name} {array.dtype} {array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()
