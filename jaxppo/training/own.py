"""Code of a user's own that `train` is given in Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from jaxppo.config import Config, OwnParts, with_own
from jaxppo.tracking import Logger
from jaxppo.tracking.callback import with_callbacks


class TrainParts(OwnParts, total=False):
    """What `train` takes beside its configuration.

    Attributes:
      callbacks: called after each iteration with its row of metrics.jsonl, after the loggers; an error in one is
        reported on stderr and ends nothing.
    """

    callbacks: Sequence[Callable[[Mapping[str, Any]], Any]]


def with_parts(config: Config, loggers: Sequence[Logger], parts: TrainParts) -> tuple[Config, list[Logger]]:
    """Configuration and loggers with what is given beside them.

    Args:
      config: of the run.
      loggers: of the run.
      parts: see `TrainParts`.

    Raises:
      ConfigError: a part that cannot be used.
    """
    own = {name: part for name, part in parts.items() if name != "callbacks"}
    return with_own(config, **cast(OwnParts, own)), with_callbacks(loggers, parts.get("callbacks", ()))
