"""Prices and a configuration: what a training would say of them before it begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from jaxppo.cli.checks.finding import Finding
from jaxppo.errors import UserError

if TYPE_CHECKING:
    from jaxppo.config import Config
    from jaxppo.envs.market.market_data import MarketData

MIB, GIB = 2**20, 2**30
MOST_WARNINGS = 10
DEFAULT = "quickstart"
"""Configuration that prices are checked with where none is given."""


def check_training_of(config: str | None, data: str | None, overrides: Sequence[str] = ()) -> Iterator[Finding]:
    """Checks a configuration, its prices, and that a training of it would begin.

    Args:
      config: file, or name of one that ships; None takes `DEFAULT`.
      data: prices in place of those of the configuration.
      overrides: dotted keys, as options.
    """
    from jaxppo.config import load_config

    overrides = [*overrides, *(() if data is None else ("--data.path", data))]
    try:
        loaded = load_config(DEFAULT if config is None else config, overrides)
    except UserError as error:
        yield Finding("fix", "config", str(error))
        return
    trading = loaded.env.name == "trading"
    market = None
    if data is not None and not trading:
        yield Finding("fix", "data", f"--data is {data}, but env.name is {loaded.env.name}, which reads no prices")
        return
    if trading and data is None and (absent := _not_downloaded(loaded)):
        advice = f"a training downloads it, and so does jaxppo doctor --data {absent}"
        yield Finding("warn", "data", f"{absent} is not downloaded yet: {advice}")
        return
    if trading:
        market, found = check_data(loaded)
        yield from found
    if market is not None or not trading:
        yield check_start(f"with --config {DEFAULT}" if config is None else config, loaded, market)


def _not_downloaded(config: Config) -> str | None:
    """The first source of the prices that would have to be asked for them now."""
    from jaxppo.envs.data.sources.downloads import is_kept
    from jaxppo.envs.data.sources.request import is_download, request_of

    path, given = config.data.path, config.data
    for source in filter(is_download, (path,) if isinstance(path, str) else path):
        try:
            if given.refresh or not is_kept(request_of(source, given.start, given.end)):
                return source
        except UserError:  # which loading it says
            return None
    return None


def check_data(config: Config) -> tuple[MarketData | None, list[Finding]]:
    """Loads the prices of a configuration; None where they are refused.

    Args:
      config: of the run.
    """
    from jaxppo.run.data import load_data

    try:
        market = load_data(config)
    except UserError as error:
        return None, [Finding("fix", "data", str(error))]
    report = market.info.report
    size = f"{market.n_assets} asset(s) x {market.n_bars:,} bars"
    span = f", {report['first']} to {report['last']}" if report else ""
    warnings = report["warnings"] if report else []
    more = [f"{len(warnings) - MOST_WARNINGS} more in data.warnings of the run's metadata.json"]
    lines = [*warnings[:MOST_WARNINGS], *(more if len(warnings) > MOST_WARNINGS else [])]
    return market, [
        Finding("ok", "data", f"{config.data.path}: {size}{span}"),
        *(Finding("warn", "data", line) for line in lines),
    ]


def check_start(name: str, config: Config, market: MarketData | None) -> Finding:
    """Makes everything that a training is made of, up to where it would be compiled.

    Args:
      name: of the configuration.
      config: of the run.
      market: its prices; None for an environment that is not trading.
    """
    from jaxppo.training.check import check_training

    try:
        found = check_training(config, market)
    except UserError as error:
        return Finding("fix", "config", f"{name}: {error}")
    where = f"{len(found.devices)} x {found.devices[0].platform}"
    size = f"{found.memory / MIB:,.0f} MiB" if found.memory < GIB else f"{found.memory / GIB:,.1f} GiB"
    text = f"{name}: {found.n_parameters:,} parameters on {where}; an iteration takes about {size} of memory"
    return Finding("ok", "config", text)
