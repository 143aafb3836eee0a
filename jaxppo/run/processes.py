"""Processes that train one run together: process 0 leads, the others follow its orders, and all end together.

Process 0 alone decides and writes. The others hear from it what to compute next, over the coordination service of
`jax.distributed`, so that nobody waits within a collective for what another one does on its host. A thread of each
process looks after the others, and ends its own when one of them is gone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxppo.errors import ConfigError, UserError
from jaxppo.run import lock

USER_ERROR, INPUT_OUTPUT_ERROR, LOST = 2, 74, 75
"""Exit codes of a process that ends since another one has: a user's mistake, a full disk, or else (`EX_TEMPFAIL`)."""
BEAT, LOST_AFTER = 1.0, 30.0
"""Seconds between two signs of life of a process, and after which one without is gone."""
GRACE = 3.0
"""Seconds in which a process may end by itself after another one has: most mistakes are found by all."""
LONGEST_WAIT_MS = 60_000
GO_ON = "go on from its last checkpoint with --resume"
_numbers = itertools.count()
"""Groups of this process so far: as many as of the others, since all of them run the same program."""
_failed = False


def failed() -> bool:
    """Whether a group of this process has ended before its time, so that the others will not wait for it."""
    return _failed


def check_alone(what: str) -> None:
    """Refuses a job that runs in one process.

    Args:
      what: the job.

    Raises:
      ConfigError: `jax.distributed` has joined several.
    """
    if jax.process_count() > 1:
        raise ConfigError(
            f"{what} runs in one process, and {jax.process_count()} are joined; only training takes several"
        )


def give_up(code: int, line: str) -> None:
    """Tells the others that this process ends before it has begun to train with them.

    Args:
      code: exit code.
      line: the reason.
    """
    group = Group()
    if group.count > 1:
        group.end(code, line)


@dataclasses.dataclass
class _Sign:
    """A sign of life of a process, and when it was last another one, on this process's clock."""

    content: dict[str, Any]
    changed: float


class Group:
    """The processes of a training; of one alone, every method does nothing or returns what it was given.

    Attributes:
      count: processes.
      index: of this one, from 0 on.
      leads: whether it decides and writes.
    """

    def __init__(self) -> None:
        self.count, self.index = jax.process_count(), jax.process_index()
        self.leads = self.index == 0
        self._told = self._heard = 0
        self._name = f"jaxppo/{next(_numbers)}" if self.count > 1 else ""
        self._client: Any = None
        self._stop: list[int] = []
        self._ended: dict[str, Any] | None = None
        self._left = threading.Event()
        self._where = ""
        if self.count > 1:
            # JAX offers no public way to the service that `jax.distributed.initialize` connects to.
            from jax._src import distributed

            self._client = distributed.global_state.client

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Watches the other processes until the block ends; a failure in it ends them too."""
        if self.count == 1:
            yield
            return
        global _failed
        watching = [self._watch] if self.leads else [self._watch, self._hold_line]
        threads = [threading.Thread(target=watch, daemon=True) for watch in watching]
        for thread in threads:
            thread.start()
        try:
            yield
        except BaseException as error:
            _failed = True
            codes = {UserError: USER_ERROR, OSError: INPUT_OUTPUT_ERROR, KeyboardInterrupt: LOST}
            code = next((code for kind, code in codes.items() if isinstance(error, kind)), None)
            if code is None:
                # Collectives fail when a process is gone: then the thread ends this one too, and says which it was.
                time.sleep(LOST_AFTER + 3 * BEAT)
            self.end(LOST if code is None else code, str(error) or type(error).__name__)
            raise
        else:
            self._ended = {"code": 0, "line": "", "leads": self.leads}
            with contextlib.suppress(Exception):
                self._show(0)
        finally:
            self._left.set()
            with contextlib.suppress(Exception):
                self._client.key_value_set(f"{self._name}/left/{self.index}", "true")
            # A thread that is within the service when Python ends would abort the process.
            for thread in threads:
                thread.join(GRACE)

    def tell(self, do: str, **content: Any) -> None:
        """Has the other processes do something; the leader's.

        Args:
          do: what.
          content: what they need to know for it, JSON-serialisable.
        """
        if self.count == 1:
            return
        self._client.key_value_set(f"{self._name}/order/{self._told}", json.dumps({"do": do, **content}))
        if self._told >= 8:  # heard by all: of eight orders one at least is a collective, in which all take part
            self._client.key_value_delete(f"{self._name}/order/{self._told - 8}")
        self._told += 1

    def hear(self, *expected: str) -> dict[str, Any]:
        """Waits for what the leader tells; the others'.

        Args:
          expected: what it may be; all without any.
        """
        order = self._get(f"order/{self._heard}")
        self._heard += 1
        if expected and order["do"] not in expected:
            raise RuntimeError(f"process 0 says {order['do']}, where {' or '.join(expected)} is expected")
        return order

    def share(self, tree: Any) -> Any:
        """The leader's arrays, bit for bit, in all processes, which call this together.

        Args:
          tree: pytree of arrays; of the others, shapes and dtypes count alone.

        Returns:
          NumPy arrays in the same structure.
        """
        if self.count == 1:
            return tree
        leaves, structure = jax.tree.flatten(tree)
        if self.leads:
            leaves = [np.asarray(leaf) for leaf in jax.device_get(leaves)]
            flat = np.frombuffer(b"".join(leaf.tobytes() for leaf in leaves), np.uint8)
        else:
            flat = np.zeros(sum(int(np.prod(x.shape)) * np.dtype(x.dtype).itemsize for x in leaves), np.uint8)
        found = np.asarray(multihost_utils.broadcast_one_to_all(flat), np.uint8).tobytes()
        arrays, start = [], 0
        for leaf in leaves:
            end = start + int(np.prod(leaf.shape)) * np.dtype(leaf.dtype).itemsize
            arrays.append(np.frombuffer(found[start:end], leaf.dtype).reshape(leaf.shape))
            start = end
        return jax.tree.unflatten(structure, arrays)

    def gather(self, tree: Any) -> Any:
        """The whole of arrays that are spread over the devices of all processes, which call this together.

        Args:
          tree: pytree of arrays on the devices of all.
        """
        if self.count == 1:
            return tree
        return jax.tree.map(
            lambda x: x if x.is_fully_replicated else multihost_utils.process_allgather(x, tiled=True), tree
        )

    def agree(self, what: str, content: dict[str, Any]) -> None:
        """Checks that all processes were given the same.

        Args:
          what: was given, for the message.
          content: key -> value, JSON-serialisable.

        Raises:
          ConfigError: on all of them; names the first key of one that differs from the leader's.
        """
        if self.count == 1:
            return
        problem = ""
        if self.leads:
            here = json.loads(json.dumps(content))
            for index in range(1, self.count):
                there = self._get(f"agree/{what}/{index}")
                different = next((key for key in {**here, **there} if there.get(key) != here.get(key)), None)
                if different is not None and not problem:
                    problem = (
                        f"{what} differs between processes: {different} is {str(there.get(different))[:80]} on process "
                        f"{index} and {str(here.get(different))[:80]} on process 0; give all the same"
                    )
            self.tell("agree", problem=problem)
        else:
            self._client.key_value_set(f"{self._name}/agree/{what}/{self.index}", json.dumps(content))
            problem = self.hear("agree")["problem"]
        if problem:
            raise ConfigError(problem)

    def end(self, code: int, line: str, *, leave: bool = False) -> None:
        """Tells the others that this process ends; the leader, whose service they talk to, waits until they have ended.

        Args:
          code: exit code.
          line: the reason.
          leave: whether to end the process here, with the reason on stderr.
        """
        self._ended = {"code": code, "line": line, "leads": self.leads}
        with contextlib.suppress(Exception):
            self._show(0)
            deadline = time.monotonic() + 3 * GRACE
            while self.leads and time.monotonic() < deadline:
                shown = self._client.key_value_dir_get(f"{self._name}/sign/")
                if sum(json.loads(text)["ended"] is not None for _, text in shown) == self.count:
                    break
                time.sleep(BEAT / 4)
        if leave:
            lock.release()
            with contextlib.suppress(Exception):
                sys.stdout.flush()
            os.write(2, f"\nerror: {line}\n".encode())
            os._exit(code)

    def _get(self, key: str) -> Any:
        """Waits for what another process says under a key."""
        while True:
            try:
                return json.loads(self._client.blocking_key_value_get(f"{self._name}/{key}", LONGEST_WAIT_MS))
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise

    def stop_with(self, stop: list[int], where: str = "") -> None:
        """Has signals of any process reach the list of the leader.

        Args:
          stop: numbers of the signals of this process.
          where: folder of the run, as far as it is known, for the message that ends a process.
        """
        self._stop, self._where = stop, where

    def _watch(self) -> None:
        """Shows that this process lives, and ends it when another one has ended or is gone."""
        signs: dict[int, _Sign] = {}
        for beat in itertools.count():
            if self._left.wait(BEAT):
                return
            try:
                self._show(beat)
                shown = self._client.key_value_dir_get(f"{self._name}/sign/")
            except Exception:  # whatever the service says, it is not there any more
                return self._without_leader()
            now = time.monotonic()
            for key, text in shown:
                index, content = int(key.rpartition("/")[2]), json.loads(text)
                if index not in signs or signs[index].content != content:
                    signs[index] = _Sign(content, now)
            self._look_at(signs, now)

    def _hold_line(self) -> None:
        """Waits within the service until the end, which fails at once when process 0, and the service with it, is gone.

        JAX would end this process as well, with a stack trace; this is sometimes faster.
        """
        while True:
            try:
                self._client.blocking_key_value_get(f"{self._name}/left/{self.index}", LONGEST_WAIT_MS)
                return
            except Exception as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    return self._without_leader()

    def _without_leader(self) -> None:
        """Ends this process, unless it was about to end anyway."""
        if not self._left.is_set():
            os.write(2, f"\nerror: process 0 of {self.count} is gone; {GO_ON}\n".encode())
            os._exit(LOST)

    def _look_at(self, signs: dict[int, _Sign], now: float) -> None:
        """Acts on what the others show."""
        for index, sign in signs.items():
            ended, silent = sign.content["ended"], now - sign.changed
            if index == self.index:
                continue
            if ended and ended["code"] and silent > GRACE:
                line = ended["line"] if ended["leads"] else f"process {index} of {self.count} ended: {ended['line']}"
                self.end(ended["code"], line, leave=True)
            elif not ended and silent > LOST_AFTER:
                line = f"process {index} of {self.count} on {sign.content['host']} is gone; {GO_ON}"
                self.end(LOST, line + (f" --output {self._where}" if self._where else ""), leave=True)
            if self.leads and sign.content["signal"] and not self._stop:
                self._stop.append(sign.content["signal"])

    def _show(self, beat: int) -> None:
        """A sign of life; the last one says how this process has ended."""
        signal = self._stop[0] if self._stop else None
        sign = {"host": socket.gethostname(), "signal": signal, "ended": self._ended}
        sign |= {} if self._ended else {"beat": beat}
        self._client.key_value_set(f"{self._name}/sign/{self.index}", json.dumps(sign), allow_overwrite=True)
