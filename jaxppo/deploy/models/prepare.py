"""A run made ready for a registry: exported, traded out of sample, and adjusted for selection."""

from __future__ import annotations

import hashlib
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.backtest.agent_account import rules_of, trade
from jaxppo.backtest.ledger import Ledger
from jaxppo.backtest.result import ledger_figures
from jaxppo.backtest.run import best_iteration
from jaxppo.backtest.selection import adjust_for_selection, configuration_hash, record_evaluation
from jaxppo.backtest.shipping import decided, shipped_of
from jaxppo.backtest.simulate import simulate_account
from jaxppo.deploy.export import export_run
from jaxppo.deploy.manifest import NAME as MANIFEST
from jaxppo.deploy.models.entry import POLICY
from jaxppo.deploy.models.returns import Returns, write_returns
from jaxppo.envs.market.market_data import MarketData
from jaxppo.policy import rules
from jaxppo.run import folder as run_folder
from jaxppo.run.base import base_policy
from jaxppo.run.periods import time_of
from jaxppo.run.saved import SavedRun, load_run
from jaxppo.run.setup import Setup


def prepare(folder: str | pathlib.Path, target: pathlib.Path, market: MarketData | None = None) -> dict[str, Any]:
    """Writes what a registry keeps of a run: the exported policy and its out-of-sample returns.

    What trades is evaluated anew, so that the returns are those of the policy that is exported. The evaluation is a
    trial as that of `jaxppo.backtest.run` is.

    Args:
      folder: the run.
      target: empty folder.
      market: prices that the run was trained on, where those were given in Python.

    Returns:
      What the entry of the version says of it, JSON-serialisable.

    Raises:
      ConfigError: not a run, one that cannot be live, or returns that are not finite.
      DataError: its prices cannot be used.
    """
    run = load_run(folder, market=market)
    export_run(folder, target / POLICY, market=market)
    with jax.default_device(run.setup.devices[0]):
        about, returns = _evaluated(decided(run))
    metadata = run_folder.read_metadata(run.folder)
    return {
        "run": str(run.folder.resolve()),
        "commit": metadata.get("commit"),
        "finished": run_folder.is_finished(run.folder),
        "data_fingerprint": run_folder.data_report(run.setup.market)["fingerprint"],
        "symbols": list(run.setup.market.info.symbols),
        **about,
        "seals": {
            "policy": hashlib.sha256((target / POLICY / MANIFEST).read_bytes()).hexdigest(),
            "returns": write_returns(target, returns),
        },
    }


def _evaluated(run: SavedRun) -> tuple[dict[str, Any], Returns]:
    """Trades the test period by what ships and by its reference."""
    setup, period = run.setup, run.setup.periods["test"]
    model = jax.device_get(trade(setup, shipped_of(run), "test"))
    name, reference = _reference(setup)
    iteration = best_iteration(run.folder)
    trial = record_evaluation(setup, run.folder, iteration, "test", model.returns, configuration_hash(setup))
    key, chosen = jax.random.key(setup.config.seed), setup.config.evaluation
    figures = ledger_figures(
        model, periods=setup.periods_per_year, key=key, level=chosen.level, n_resamples=chosen.bootstrap_resamples
    )
    about = {
        "metrics": {**figures, "level": chosen.level},
        "selection": adjust_for_selection(setup, run.folder, trial, model.returns)["out_of_sample"],
        "trial": trial.key,
        "gate": None if run.ship is None else run.ship.figures,
        "reference": name,
        "periods": float(setup.periods_per_year),
        "timed": bool(len(setup.market.info.timestamps)),
        "first_bar": time_of(setup.market, period.first),
        "last_bar": time_of(setup.market, period.last),
    }
    marks = _marks(setup)
    return about, Returns(marks[:-1], marks[1:], model.returns, reference.returns)


def _marks(setup: Setup) -> np.ndarray:
    """Closes `[n + 1]` at which the account of the test period is marked: ns since 1970, or numbers of bars."""
    bars = np.arange(setup.periods["test"].first, setup.periods["test"].last + 1)
    times = setup.market.info.timestamps
    return times[bars].astype("datetime64[ns]").astype(np.int64) if len(times) else bars.astype(np.int64)


def _reference(setup: Setup) -> tuple[str, Ledger]:
    """What the run is measured against: its base, or holding its assets."""
    if setup.env.base is not None:
        return "the base", jax.device_get(trade(setup, base_policy(setup), "test"))
    period, unlimited = setup.periods["test"], rules_of(setup)._replace(limited=False)
    first = jnp.int32(period.first)
    held = simulate_account(rules.buy_and_hold(), unlimited, setup.params, first, period.n_bars)
    return "buy and hold", jax.device_get(held)
