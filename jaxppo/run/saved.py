"""A run, opened: on its own prices or on others."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence

import jax

from jaxppo.config import Config, load_config
from jaxppo.envs.market.market_data import MarketData, with_next_bar
from jaxppo.errors import ConfigError
from jaxppo.policy.agent import agent
from jaxppo.policy.networks.actor_critic import ActorCritic, Params
from jaxppo.policy.protocol import Policy
from jaxppo.run import folder as run_folder
from jaxppo.run.build import best_policy, build, first_unseen, on_one_device
from jaxppo.run.data import given_data, load_data
from jaxppo.run.devices import select_devices
from jaxppo.run.periods import Period, split_periods
from jaxppo.run.setup import Setup
from jaxppo.run.ship import Ship, gate_of
from jaxppo.run.strategy import strategy_of
from jaxppo.run.title import title_of_run

LEARNED = ("policy", "ppo", "features", "regimes", "rewards", "objective", "constraints", "training")
"""What is settled once a run is trained."""
FOR_OTHER_PRICES = (
    "--data.symbols", "null", "--data.start", "null", "--data.end", "null", "--data.refresh", "false"
)  # fmt: skip
"""Options that take back which part of its own prices a run used."""


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
            platform=setup.devices[0].platform,
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
    return _opened(pathlib.Path(folder), data, overrides, market)


def load_run_for_next_bar(
    folder: str | pathlib.Path,
    *,
    data: str | pathlib.Path | None = None,
    overrides: Sequence[str] = (),
    market: MarketData | None = None,
) -> SavedRun:
    """Opens a run for the decision at the last bar of its prices: its market has one bar more, in which that fills.

    Its period `test` is the whole time up to that bar after what the run was trained and selected on, so that the
    decision is the one that an evaluation of the same prices makes there once later ones are known.

    Args:
      folder: the run.
      data: see `load_run`, but the symbols of the run.
      overrides: see `load_run`.
      market: see `load_run`.

    Raises:
      ConfigError: see `load_run`; or the prices end before the first decision that the run has not learned from.
      envs.DataError: the prices cannot be used.
    """
    folder = pathlib.Path(folder)
    if data is not None:
        return _opened(folder, data, (*_symbols_of(folder), *overrides), market, ahead=True)
    run = _opened(folder, None, overrides, market)
    setup = run.setup
    longer, periods = with_next_bar(setup.market), dict(setup.periods)
    periods["test"] = Period(periods["test"].first, longer.n_bars - 1)
    return dataclasses.replace(run, setup=build(setup.config, longer, periods=periods))


def _symbols_of(folder: pathlib.Path) -> tuple[str, ...]:
    """The option that names the symbols of a run's market, in its order; nothing where they have no names."""
    folder, _ = run_folder.open_folder(folder)
    symbols = list(run_folder.read_data(folder).get("symbols") or ())
    return ("--data.symbols", json.dumps(symbols)) if symbols else ()


def _opened(
    folder: pathlib.Path,
    data: str | pathlib.Path | None,
    overrides: Sequence[str],
    market: MarketData | None,
    ahead: bool = False,
) -> SavedRun:
    """`load_run`; with `ahead` other prices get the bar after their last."""
    folder, saved = run_folder.open_folder(folder)
    if data is not None:
        overrides = ["--data.path", str(data), *FOR_OTHER_PRICES, *overrides]
    config = load_config(folder / "config.yaml", overrides, saved=True)
    _check_overrides(saved, config)
    config = on_one_device(config)
    with jax.default_device(select_devices(config)[0]):
        market = load_data(config, folder if data is None else None) if market is None else given_data(config, market)
        if (saved.data, saved.simulation) == (config.data, config.simulation):
            run_folder.check_same_data(folder, run_folder.data_report(market))
        first = 0
        if data is not None:
            market = _with_bars_per_year(folder, market)
            market = with_next_bar(market) if ahead else market
            first = _first_unseen(folder, market, config, ahead)
        setup = build(config, market, split=data is None, first=first)
        if not ahead:  # the account may open at a bar that the run has seen; what counts is the last decision
            _check_unseen(folder, saved, setup)
        return SavedRun(folder, setup, *best_policy(folder, setup), trained=saved)


def _with_bars_per_year(folder: pathlib.Path, market: MarketData) -> MarketData:
    """The market with the bars per year of the run, if they are of the same length and it shares a symbol with it.

    A few bars more or less would otherwise change what a year of volatility is.
    """
    seen, found = run_folder.read_data(folder), market.info.report
    shared = set(seen.get("symbols") or ()) & set(market.info.symbols)
    if not shared or seen.get("bar_seconds") != found.get("bar_seconds") or not seen.get("bars_per_year"):
        return market
    return market.replace(info=dataclasses.replace(market.info, periods_per_year=float(seen["bars_per_year"])))


def _first_unseen(folder: pathlib.Path, market: MarketData, config: Config, ahead: bool) -> int:
    """`first_unseen`, and the configured gap after it; with `ahead` the account may open a bar early.

    Raises:
      ConfigError: the run has seen every bar.
    """
    unseen = first_unseen(folder, market)
    first = unseen + config.data.purge_bars if unseen else 0
    seen_all = unseen >= market.n_bars - 1 if ahead else first >= market.n_bars - 2
    if ahead:
        first = min(first, market.n_bars - 3)
    if unseen and seen_all:
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
