"""The market of a configuration."""

from __future__ import annotations

import re

from jaxppo import envs
from jaxppo.config import PERIODS, Config
from jaxppo.envs.market.market_data import MarketData
from jaxppo.errors import ConfigError
from jaxppo.run.simulation import SIMULATED, simulated_market

GIVEN_IN_PYTHON = "(a market given in Python)"
"""`data.path` of a run whose prices were an argument."""


def load_data(config: Config) -> MarketData:
    """The configured market.

    Raises:
      envs.DataError: the prices cannot be used as they are; names the keys of the configuration that would allow them.
      ConfigError: `data.path` cannot be looked up at all, or the simulated market does not exist.
    """
    if config.data.path == SIMULATED:
        return simulated_market(config)
    own = {"path", *PERIODS, "purge_bars"}
    options = config.data.model_dump(exclude=own)
    path = config.data.path
    if path == GIVEN_IN_PYTHON:
        raise ConfigError(
            "data.path: the prices of this run were given in Python; give them again as market= in Python, or evaluate "
            "on a file with --data FILE"
        )
    try:
        return envs.load_market(list(path) if isinstance(path, tuple) else path, **options)
    except envs.DataError as error:
        raise envs.DataError(_with_keys(str(error), tuple(options))) from None
    except OSError as error:
        raise ConfigError(f"data.path is {path!r}, which cannot be read: {error.strerror}") from None


def _with_keys(message: str, options: tuple[str, ...]) -> str:
    """`message` with arguments of `envs.load_market` (`on_bad_rows='drop'`) as options (`--data.on_bad_rows drop`)."""

    def option(found: re.Match) -> str:
        value = found["value"].strip("'")
        return f"--data.{found['name']} {value.lower() if value in ('True', 'False') else value}"

    return re.sub(rf"\b(?P<name>{'|'.join(options)})=(?P<value>'[^']*'|[^\s,;)]+)", option, message)
