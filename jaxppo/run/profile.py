"""Profiles a training: seconds of each phase, and what the device does in a few iterations."""

from __future__ import annotations

import collections
import contextlib
import contextvars
import dataclasses
import itertools
import pathlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from jaxppo.run.files import write_json

SKIPPED, TRACED = 2, 3
"""Iterations before the trace, which warm up, and in it."""
LARGEST = 10
"""Operations that are listed."""
SCOPES = ("rollout", "targets", "update", "encoder", "optimiser")
"""Names of `jax.named_scope` in an iteration; parts of it are called by those that they lie in."""
_INSTRUCTION = re.compile(r'^\s*(?:ROOT )?%?([\w.-]+) = .*op_name="([^"]*)"', re.MULTILINE)

_profile: contextvars.ContextVar[Profile | None] = contextvars.ContextVar("profile", default=None)


@dataclasses.dataclass
class Profile:
    """Where the time of a training goes.

    Attributes:
      phases: seconds by name, in the order in which they began.
      folder: where the trace is; None before an iteration is traced.
      seconds: of an iteration in the trace, on the clock.
      parts: share by part of an iteration, such as "update: encoder, backward", of the time in which a device computes.
      operations: the largest, as `(name, part, share, how often an iteration)`.
    """

    phases: dict[str, float] = dataclasses.field(default_factory=dict)
    folder: pathlib.Path | None = None
    seconds: float = 0.0
    parts: dict[str, float] = dataclasses.field(default_factory=dict)
    operations: list[tuple[str, str, float, float]] = dataclasses.field(default_factory=list)
    _phase: str = "setting up"
    _since: float = dataclasses.field(default_factory=time.monotonic)
    _tracing: Callable[[], None] | None = None

    def enter(self, phase: str) -> None:
        """Ends the phase that lasts and begins another one, or goes on with it."""
        now = time.monotonic()
        self.phases[self._phase] = self.phases.get(self._phase, 0.0) + now - self._since
        self._phase, self._since = phase, now

    def iterations(self, compiled: Any, folder: pathlib.Path) -> Callable[..., Any]:
        """The iteration, of which the third call to the fifth are traced.

        Args:
          compiled: the iteration.
          folder: of the run; the trace goes to its folder `profile`.
        """
        number = itertools.count()
        took: list[float] = []

        def iterate(*arguments: Any) -> Any:
            called = next(number)
            if called == SKIPPED and self.folder is None:
                self.folder = folder / "profile"
                _start_trace(self.folder)
                self._tracing = lambda: self._read(compiled, took)
            began = time.monotonic()
            with jax.profiler.StepTraceAnnotation("iteration", step_num=called):
                out = jax.block_until_ready(compiled(*arguments))
            if self._tracing is not None:
                took.append(time.monotonic() - began)
            if len(took) == TRACED:
                self.close()
            return out

        return iterate

    def close(self) -> None:
        """Ends a trace that is being taken."""
        if self._tracing is not None:
            read, self._tracing = self._tracing, None
            read()

    def _read(self, compiled: Any, took: list[float]) -> None:
        """Ends the trace and reads it; `took` are the seconds of its iterations."""
        assert self.folder is not None
        jax.profiler.stop_trace()
        text = compiled.as_text()
        found = _self_times(self.folder, text.split(maxsplit=2)[1].rstrip(","))
        parts_of = {name: part_of(scope) for name, scope in _INSTRUCTION.findall(text)}
        total = sum(spent for spent, _ in found.values()) or 1.0
        parts: dict[str, float] = collections.defaultdict(float)
        for name, (spent, _) in found.items():
            parts[parts_of.get(name, "other")] += spent / total
        largest = sorted(found.items(), key=lambda item: -item[1][0])[:LARGEST]
        self.parts = dict(sorted(parts.items(), key=lambda item: -item[1]))
        self.operations = [
            (name, parts_of.get(name, "other"), spent / total, count / len(took)) for name, (spent, count) in largest
        ]
        self.seconds = sum(took) / len(took)

    def describe(self) -> str:
        """What was found, a few lines."""
        whole = sum(self.phases.values())
        lines = [f"where {whole:.1f} s went:"]
        lines += [f"  {name:<36}{spent:8.1f} s {spent / whole:7.1%}" for name, spent in self.phases.items()]
        if not self.parts:
            return "\n".join([*lines, f"no iteration was traced: the first {SKIPPED} are left out"])
        lines += [f"an iteration of {self.seconds:.3g} s, by the time that devices compute:"]
        lines += [f"  {name:<36}{share:18.1%}" for name, share in self.parts.items()]
        lines += ["its largest operations:"]
        lines += [f"  {name:<36}{share:18.1%}  {count:8,.0f} x  {part}" for name, part, share, count in self.operations]
        return "\n".join([*lines, f"trace: {self.folder}; to look at it: pip install xprof; xprof {self.folder}"])


def part_of(scope: str) -> str:
    """The part of an iteration that an operation belongs to.

    Args:
      scope: of the operation, such as "jit(step)/update/transpose(jvp(encoder))/dot_general".
    """
    outer, *inner = [name for name in re.findall(r"\w+", scope) if name in SCOPES] or ["other"]
    direction = ", backward" if outer != "targets" and "transpose(" in scope else ""
    rest = {"rollout": "bars", "update": "heads and losses"}.get(outer, "")
    detail = inner[0] if inner else rest
    return f"{outer}: {detail}{direction}" if detail else outer


@contextlib.contextmanager
def profiling() -> Iterator[Profile]:
    """Profiles what is trained in the block: see `Profile`, which is whole when the block has ended."""
    profile = Profile()
    token = _profile.set(profile)
    try:
        yield profile
    finally:
        _profile.reset(token)
        profile.close()
        profile.enter("")
        if profile.folder is not None:
            of_all = ("phases", "seconds", "parts", "operations")
            write_json(profile.folder / "profile.json", {name: getattr(profile, name) for name in of_all})


def enter(phase: str) -> None:
    """Tells the profile that is taken, if one is, what is done from now on."""
    profile = _profile.get()
    if profile is not None:
        profile.enter(phase)


def profiled(compiled: Any, folder: pathlib.Path) -> Callable[..., Any]:
    """The iteration, some of whose calls are traced if a profile is taken; see `Profile.iterations`."""
    profile = _profile.get()
    return compiled if profile is None else profile.iterations(compiled, folder)


def _start_trace(folder: pathlib.Path) -> None:
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    jax.profiler.start_trace(folder, profiler_options=options)


def _self_times(folder: pathlib.Path, module: str) -> dict[str, tuple[float, int]]:
    """Seconds within each operation of a program, those of operations within it left out, and how often it ran.

    Args:
      folder: of the trace.
      module: name of the program.
    """
    newest = max(folder.glob("**/*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    spent: dict[str, float] = collections.defaultdict(float)
    count: dict[str, int] = collections.defaultdict(int)
    for plane in jax.profiler.ProfileData.from_file(str(newest)).planes:
        for line in plane.lines:
            events = []
            for event in line.events:
                stats = dict(event.stats)
                if stats.get("hlo_module") == module and "hlo_op" in stats:
                    events.append((event.start_ns, -event.duration_ns, stats["hlo_op"]))
            # An operation that begins within another one, such as a loop, is part of it.
            around: list[tuple[float, str]] = []
            for start, negative, name in sorted(events):
                while around and start >= around[-1][0]:
                    around.pop()
                if around:
                    spent[around[-1][1]] += 1e-9 * negative
                spent[name] -= 1e-9 * negative
                count[name] += 1
                around.append((start - negative, name))
    return {name: (seconds, count[name]) for name, seconds in spent.items()}
