"""Trials of runs that never were, for the tests of the register and of what is computed from it."""

from __future__ import annotations

import pathlib

import numpy as np

from jaxppo.run import trials


def record_returns(register: pathlib.Path, returns: np.ndarray, **changed: object) -> trials.Trial:
    """Records returns as those of a test, but for the fields of `Trial` that are changed."""
    fields: dict = {"run": "run", "configuration_hash": "c", "seed": 0, "fold": None, "iteration": 2, "period": "test"}
    fields |= {"first": "2020-01-01", "last": "2020-09-01", "n_bars": len(returns), "periods": 252.0}
    trial = trials.Trial(**{**fields, "sharpe": trials.sharpe_of(returns), **changed})
    return trials.record(register, trial, returns)


def record(register: pathlib.Path, draw: int, n: int = 100, **changed: object) -> trials.Trial:
    """Records random returns, those of a number, as `run-NUMBER`."""
    returns = np.random.default_rng(draw).normal(0.0003, 0.01, n).astype(np.float32)
    return record_returns(register, returns, **{"run": f"run-{draw}", **changed})
