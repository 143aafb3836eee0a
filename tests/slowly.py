"""Parameters of a test of which some run at every commit, and the others with `-m slow`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def slow_after(n: int, values: Iterable[Any]) -> list[Any]:
    """The values as parameters of a test; those after the first `n` are marked slow."""
    each = [value if isinstance(value, tuple) else (value,) for value in values]
    return [pytest.param(*value, marks=[pytest.mark.slow] if place >= n else []) for place, value in enumerate(each)]
