"""A live policy of a run, without an export."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxppo.backtest.agent_account import rules_of
from jaxppo.backtest.shipping import decided, shipped_of
from jaxppo.config import dump_config
from jaxppo.deploy.drift.of_run import training_reference
from jaxppo.deploy.explained import mask_names
from jaxppo.deploy.live_account import LivePolicy, LiveRules
from jaxppo.deploy.live_step import LiveStep
from jaxppo.deploy.program import Program, program_of
from jaxppo.deploy.spec import feed_rules
from jaxppo.deploy.streams import check_own_streams, check_streams
from jaxppo.envs.market.market_data import MarketData
from jaxppo.policy.protocol import Policy
from jaxppo.run.files import digest_of
from jaxppo.run.regimes import regimes_warmup
from jaxppo.run.saved import SavedRun, load_run
from jaxppo.run.setup import Setup

FORGOTTEN = 1e-6
"""Weight of what a feed need not begin with."""


def live_policy(
    folder: str | pathlib.Path,
    *,
    overrides: Sequence[str] = (),
    market: MarketData | None = None,
    journal: str | pathlib.Path | None = None,
    max_age: float | None = None,
) -> LivePolicy:
    """What of a run trades, bar by bar, under its masks, sizing, costs and monitored limits.

    Args:
      folder: the run.
      overrides: dotted keys, for example `("--costs.lot_size", "1")`.
      market: prices that the run was trained on, where those were given in Python.
      journal: see `LivePolicy`.
      max_age: see `LivePolicy`.

    Raises:
      ConfigError: not a run, or one that learns from all prices so far, see `check_streams`.
    """
    run = load_run(folder, overrides=overrides, market=market)
    live, rules = live_parts(run)
    program = program_of(live)
    return LivePolicy(
        program.step, program.weights, program.state, program.bar, rules_for(program, rules), journal=journal,
        max_age=max_age, reference=training_reference(run.setup),
    )  # fmt: skip


def live_parts(run: SavedRun) -> tuple[LiveStep, dict[str, Any]]:
    """The step of a run, and what a live policy has to know beside it, but for the names of arrays.

    Args:
      run: from `load_run`.

    Raises:
      ConfigError: see `check_streams` and `check_own_streams`.
    """
    check_streams(run.setup)
    with jax.default_device(run.setup.devices[0]):
        check_own_streams(run.setup)
        run = decided(run)
        setup, policy = run.setup, shipped_of(run)
        live = LiveStep(setup, rules_of(setup), policy)
    config, futures = setup.config, setup.market.futures
    sessions = {str(place): dict(item.values) for place, item in enumerate(config.masks) if item.kind == "session"}
    for keys in sessions.values():
        keys["calendar"] = keys["calendar"] or config.data.calendar
    content = [dump_config(config), [_bytes(x) for x in jax.tree.leaves(policy.params)]]
    none = isinstance(futures, tuple)
    return live, {
        "name": run.folder.resolve().name,
        "feed": feed_rules(setup),
        "masks": mask_names(live.rules),
        "sizing": () if setup.env.sizing is None else tuple(part.name for part in setup.env.sizing.parts),
        "sessions": sessions,
        "futures": (False,) * setup.env.n_assets if none else tuple(bool(x) for x in np.asarray(futures)),
        "history": history_of(setup, policy),
        "identity": digest_of(content),
    }


def history_of(setup: Setup, policy: Policy) -> int:
    """Bars of the past after which what lies before them weighs less than `FORGOTTEN` in any exponential average.

    Args:
      setup: of the run.
      policy: who trades.
    """
    config, env = setup.config, setup.env
    longest = max(env.features.timeframes.values(), default=1)
    spans = [config.features.normalisation_window * longest, regimes_warmup(config.regimes), policy.warmup - env.window]
    spans += [part.warmup for part in (env.masks, env.sizing) if part is not None]
    return env.first_decision + math.ceil(-math.log(FORGOTTEN) / 2.0 * max(spans))


def rules_for(program: Program, about: dict[str, Any]) -> LiveRules:
    """What a live policy has to know beside its step.

    Args:
      program: of the step.
      about: from `live_parts`.
    """
    return LiveRules(bar=tuple(program.bar), output=program.output, **about)


def _bytes(x: Any) -> str:
    return np.asarray(x, order="C").tobytes().hex()
