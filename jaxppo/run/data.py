"""The market of a configuration."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from typing import Any

from jaxppo import envs
from jaxppo.config import PERIODS, Config
from jaxppo.config.items import OwnFunction
from jaxppo.config.own import is_own
from jaxppo.envs.data.sources.places import absolute, is_there
from jaxppo.envs.data.sources.request import is_download
from jaxppo.envs.execution.fill_time import implausible_volume
from jaxppo.envs.market.check import check_market
from jaxppo.envs.market.market_data import MarketData
from jaxppo.errors import ConfigError
from jaxppo.run.folder import read_metadata
from jaxppo.run.own import own_part
from jaxppo.run.progress import announce
from jaxppo.run.simulation import SIMULATED, simulated_market

LONGEST_SHOWN = 200
"""Characters of a path that a message shows."""
GIVEN_IN_PYTHON = "(a market given in Python)"
"""`data.path` of a run whose prices were an argument."""


def recorded_path(config: Config) -> str | list[str] | None:
    """Where the prices of a configuration lie, absolute, for the metadata of a run; None for what is no file."""
    path = config.data.path
    if path in (SIMULATED, GIVEN_IN_PYTHON):
        return None
    names = [path] if isinstance(path, str) else path
    if not all(map(is_there, names)):  # the name of a shipped data set
        return None
    found = [absolute(one) for one in names]
    return found[0] if isinstance(path, str) else found


def given_data(config: Config, market: MarketData) -> MarketData:
    """A market that was given in Python, checked like one that is read from a file.

    Args:
      config: of the run.
      market: the prices.

    Raises:
      envs.DataError: prices that cannot be right.
    """
    return _with_size_warnings(config, check_market(market))


def full_position(config: Config, n_assets: int) -> float:
    """The largest position in one asset that an account starts with, currency.

    Args:
      config: of the run.
      n_assets: A.
    """
    limit = 1.0 / n_assets if config.env.position_limit is None else config.env.position_limit
    # Margins by volatility change from bar to bar, others from asset to asset.
    own = not (config.costs.margin_volatility is None and config.costs.initial_margins is None)
    return config.env.initial_cash * (limit if own else min(limit, config.costs.max_leverage))


def _with_size_warnings(config: Config, market: MarketData) -> MarketData:
    """The market with warnings in its data report where volumes are implausible for the size of the account."""
    position = full_position(config, market.n_assets)
    lines = implausible_volume(market, position, config.costs.participation_limit)
    if not lines:
        return market
    report = market.info.report
    report = {**report, "warnings": [*lines, *(line for line in report["warnings"] if line not in lines)]}
    return market.replace(info=dataclasses.replace(market.info, report=report))


def load_data(config: Config, folder: pathlib.Path | None = None) -> MarketData:
    """The configured market; its data report warns of volumes that are implausible for the size of the account.

    Args:
      config: of the run.
      folder: of a run that was trained before: relative paths that are not found from here are looked up where they
        were when it was started.

    Raises:
      envs.DataError: the prices cannot be used as they are; names the keys of the configuration that would allow them.
      ConfigError: `data.path` cannot be looked up at all, or the simulated market does not exist.
    """
    announce("reading prices")
    if config.data.path == SIMULATED:
        return simulated_market(config)
    own = {"path", *PERIODS, "purge_bars"}
    options = config.data.model_dump(exclude=own) | {"columns": _columns(config)}
    path = config.data.path
    if path == GIVEN_IN_PYTHON:
        raise ConfigError(
            "data.path: the prices of this run were given in Python; give them again as market= in Python, or evaluate "
            "on a file with --data FILE"
        )
    path = _found(path, folder) if folder is None else _as_downloaded(config, _found(path, folder), folder)
    source: Any = list(path) if isinstance(path, tuple) else path
    of = ""
    if isinstance(path, str) and is_own(path):
        source, of = own_part(OwnFunction(path=path), "data.path", object), f"data.path {path}: "
    try:
        if isinstance(source, MarketData):
            return given_data(config, source)
        market = envs.load_market(source, **options)
    except envs.DataError as error:
        raise envs.DataError(of + _with_keys(_with_column_key(str(error), config), tuple(options))) from None
    except OSError as error:
        shown = repr(path) if len(repr(path)) <= LONGEST_SHOWN else repr(path)[:LONGEST_SHOWN] + " ..."
        raise ConfigError(f"data.path is {shown}, which cannot be read: {error.strerror}") from None
    return _with_size_warnings(config, market)


def _columns(config: Config) -> dict[str, str | None] | None:
    """Own column -> that of its publication: those of `data.columns`, and what features read beside."""
    given = config.data.columns or ()
    known = dict(given) if isinstance(given, dict) else dict.fromkeys(given)
    read = (column for group in config.features.column_groups for column in group.columns)
    return {**dict.fromkeys(read), **known} or None


def _with_column_key(message: str, config: Config) -> str:
    """`message` with the key that names a column which the prices do not have, in place of the argument."""

    def named(found: re.Match) -> str:
        groups = (f"features.columns.{group.name}" for group in config.features.column_groups)
        names = (group.columns for group in config.features.column_groups)
        key = next((key for key, columns in zip(groups, names, strict=True) if found[1] in columns), "data.columns")
        return f"no column {found[1]!r}, which {key} names"

    return re.sub(r"no column '([^']*)', which columns names", named, message)


def _as_downloaded(config: Config, path: str | tuple[str, ...], folder: pathlib.Path) -> str | tuple[str, ...]:
    """The path, in which the downloads of a run are those that it was started with, whatever newer ones there are."""
    names, pins = (path,) if isinstance(path, str) else path, {}
    if not any(map(is_download, names)):
        return path
    try:
        data = read_metadata(folder).get("data")
    except ConfigError:  # of a run that had only begun
        return path
    recorded = data.get("downloads") if isinstance(data, dict) else None
    for record in recorded if isinstance(recorded, list) else []:
        known = isinstance(record, dict) and isinstance(record.get("sha256"), str)
        if known and (record.get("start"), record.get("end")) == (config.data.start, config.data.end):
            pins[record.get("source")] = f"{record['source']}#{record['sha256']}"
    pinned = tuple(pins.get(name, name) for name in names)
    return pinned[0] if isinstance(path, str) else pinned


def _found(path: str | tuple[str, ...], folder: pathlib.Path | None) -> str | tuple[str, ...]:
    """The path as it is, or as the run recorded it where only that exists.

    Raises:
      DataError: a relative path that is neither here nor where the run recorded it.
    """
    names = (path,) if isinstance(path, str) else path
    there = (*envs.datasets.FILES, *(name for name in names if is_own(name)))
    relative = [name for name in names if name not in there and absolute(name) != name]
    if folder is None or not relative or all(map(is_there, names)):
        return path
    try:
        data = read_metadata(folder).get("data")
    except ConfigError:
        return path
    recorded = data.get("path") if isinstance(data, dict) else None
    known = [recorded] if isinstance(recorded, str) else recorded if isinstance(recorded, list) else []
    if len(known) == len(names) and all(isinstance(one, str) and is_there(one) for one in known):
        return known[0] if isinstance(path, str) else tuple(known)
    places = f" and at {', '.join(map(str, known))}" if known else ""
    looked = f"it was looked for in {pathlib.Path.cwd()}{places}"
    raise envs.DataError(f"data.path is {relative[0]!r}: no such file or folder; {looked}; give --data.path")


def _with_keys(message: str, options: tuple[str, ...]) -> str:
    """`message` with arguments of `envs.load_market` (`on_bad_rows='drop'`) as options (`--data.on_bad_rows drop`)."""

    def option(found: re.Match) -> str:
        value = found["value"].strip("'")
        return f"--data.{found['name']} {value.lower() if value in ('True', 'False') else value}"

    return re.sub(rf"\b(?P<name>{'|'.join(options)})=(?P<value>'[^']*'|[^\s,;)]+)", option, message)
