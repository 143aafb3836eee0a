"""A run, opened: on its own prices or on others."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

import jax

from jaxppo.config import Config, load_config
from jaxppo.envs.market.market_data import MarketData
from jaxppo.errors import ConfigError
from jaxppo.policy.agent import agent
from jaxppo.policy.networks.actor_critic import ActorCritic, Params
from jaxppo.policy.protocol import Policy
from jaxppo.run import folder as run_folder
from jaxppo.run.build import best_policy, build, first_unseen, on_one_device
from jaxppo.run.data import given_data, load_data
from jaxppo.run.devices import select_devices
from jaxppo.run.periods import split_periods
from jaxppo.run.setup import Setup
from jaxppo.run.ship import Ship, gate_of
from jaxppo.run.strategy import strategy_of
from jaxppo.run.title import title_of_run

LEARNED = ("policy", "ppo", "features", "regimes", "rewards", "objective", "constraints", "training")
"""What is settled once a run is trained."""


@dataclasses.dataclass(frozen=True, repr=False)
class SavedRun:
    """A run, opened.

    Attributes:
      folder: of the run.
      setup: market, environment and configuration.
      network: encoder and head.
      params: their parameters at the checkpoint that was best on validation.
      trained: the configuration that it was trained with; None where it is that of the setup.
      ship: what its gate has decided, see `jaxppo.backtest.shipping.decided`; None before, or without a gate.
      fold: of the walk-forward that it is an agent of; None for a run.
    """

    folder: pathlib.Path
    setup: Setup
    network: ActorCritic
    params: Params
    trained: Config | None = None
    ship: Ship | None = None
    fold: int | None = None

    @property
    def title(self) -> str:
        """Of its reports: the run, the prices it is opened on, and the costs that were changed."""
        return title_of_run(self.folder.resolve().name, self.setup.config, self.trained)

    def agent(self, name: str | None = None) -> Policy:
        """The agent without its randomness, whatever its gate says, for accounts under the rules of the run.

        Args:
          name: for tables; None takes that of the run's folder.
        """
        setup = self.setup
        return agent(
            self.network,
            self.params,
            setup.env,
            setup.config.evaluation.decision,
            name=self.folder.resolve().name if name is None else name,
            on_cpu=setup.devices[0].platform == "cpu",
        )

    def strategy(self, name: str | None = None) -> Policy:
        """What of the run trades, under the masks and the sizing of its training, for a book or another account.

        On other prices it sees what it would have seen there: features, and regimes by the model that was fitted in
        training. Up to the bar at which features and context are complete it stays flat. With `evaluation.ship`
        base_unless as much of the agent trades as in the evaluation of the run.

        Args:
          name: in the book; None takes that of the run's folder.

        Raises:
          ConfigError: its summary does not say what its gate decided.
        """
        name = self.folder.resolve().name if name is None else name
        ship = gate_of(self.folder, self.setup.config, self.fold) if self.ship is None else self.ship
        return strategy_of(self.setup, self.network, self.params, name=name, ship=ship)

    def __repr__(self) -> str:
        """Folder, assets and test period."""
        config, market = self.setup.config, self.setup.market
        return f"SavedRun({str(self.folder)!r}, {market!r}, decision={config.evaluation.decision!r})"


def load_run(
    folder: str | pathlib.Path,
    *,
    data: str | pathlib.Path | None = None,
    overrides: Sequence[str] = (),
    market: MarketData | None = None,
) -> SavedRun:
    """Opens a run, on its own prices or on others.

    Args:
      folder: the run.
      data: another price file, all symbols; as a whole, or, if it shares a symbol with the run, after the last bar that
        the run was trained or selected on. Default: the run's own prices; the period `test` is then its own.
      overrides: dotted keys, as for `load_config`, for example other costs; they cannot move the test period onto bars
        that the run was trained or selected on.
      market: prices to use instead of the configured file: those of a run that was trained on a market given in Python.

    Raises:
      ConfigError: not a run, or a setting that does not fit it.
      envs.DataError: the prices cannot be used.
    """
    folder, saved = run_folder.open_folder(folder)
    if data is not None:
        overrides = ["--data.path", str(data), "--data.symbols", "null", *overrides]
    config = load_config(folder / "config.yaml", overrides, saved=True)
    _check_overrides(saved, config)
    config = on_one_device(config)
    with jax.default_device(select_devices(config)[0]):
        market = load_data(config, folder if data is None else None) if market is None else given_data(config, market)
        if (saved.data, saved.simulation) == (config.data, config.simulation):
            run_folder.check_same_data(folder, run_folder.data_report(market))
        first = 0 if data is None else _first_unseen(folder, market, config)
        setup = build(config, market, split=data is None, first=first)
        _check_unseen(folder, saved, setup)
        return SavedRun(folder, setup, *best_policy(folder, setup), trained=saved)


def _first_unseen(folder: pathlib.Path, market: MarketData, config: Config) -> int:
    """`first_unseen`, and the configured gap after it.

    Raises:
      ConfigError: the run has seen every bar.
    """
    first = first_unseen(folder, market)
    if first:
        first += config.data.purge_bars
    if first and first >= market.n_bars - 2:
        seen = run_folder.read_data(folder)["learned_from"]
        common = sorted(set(seen["symbols"]) & set(market.info.symbols))
        raise ConfigError(
            f"--data {config.data.path}: the run was trained and selected on {', '.join(common[:5])} up to "
            f"{seen['last'][:10]}; give later prices or other symbols"
        )
    return first


def _check_unseen(folder: pathlib.Path, saved: Config, setup: Setup) -> None:
    """The test period must begin after what the run was trained and selected on.

    Raises:
      ConfigError: it does not; names the keys that moved it.
    """
    test, times = setup.periods["test"], setup.market.info.timestamps
    unseen, prices = first_unseen(folder, setup.market), run_folder.data_report(setup.market)["fingerprint"]
    if not len(times) and prices == run_folder.read_data(folder).get("fingerprint"):
        unseen = split_periods(setup.market, saved.data, setup.env.first_decision, 1)["validation"].last + 1
    if unseen <= test.first:
        return
    moved = [
        f"--{section}.{key} {value}"
        for section in ("data", "simulation")
        for key, value in getattr(setup.config, section).model_dump(mode="json").items()
        if getattr(getattr(saved, section), key) != getattr(getattr(setup.config, section), key)
    ]
    begins, seen = (str(times[bar])[:10] if len(times) else f"bar {bar}" for bar in (test.first, unseen - 1))
    raise ConfigError(
        f"{', '.join(moved) or 'market'}: the test period would begin on {begins}, but the run was trained and "
        f"selected on bars up to {seen}; an evaluation cannot test on them"
    )


def _check_overrides(saved: Config, config: Config) -> None:
    """An evaluation can change prices, costs, rules of trading and statistics, but not what was learned.

    Raises:
      ConfigError: an option that belongs to the training of the run.
    """
    if saved.constraints != config.constraints:
        raise ConfigError(
            "--constraints differ from those that the run was trained under; an evaluation cannot change them"
        )
    for name in LEARNED:
        before, after = getattr(saved, name), getattr(config, name)
        if before == after:
            continue
        if isinstance(before, tuple):
            raise ConfigError(f"--{name} are not those of the run's training; an evaluation cannot change them")
        changed = next(key for key in type(before).model_fields if getattr(before, key) != getattr(after, key))
        raise ConfigError(
            f"--{name}.{changed} is {getattr(after, changed)!r}, but the run was trained with "
            f"{getattr(before, changed)!r}; an evaluation cannot change {', '.join(LEARNED)}"
        )
