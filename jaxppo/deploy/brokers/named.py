"""A broker by its name on the command line."""

from __future__ import annotations

from collections.abc import Sequence

from jaxppo.deploy.brokers.base import Broker
from jaxppo.errors import ConfigError

NAMES = "ccxt:EXCHANGE, such as ccxt:binance, or alpaca"


def named_broker(name: str, symbols: Sequence[str]) -> Broker:
    """The broker of a name, with the keys that the environment has.

    Args:
      name: `ccxt:EXCHANGE` or `alpaca`.
      symbols: that the policy trades.

    Raises:
      ConfigError: no such broker, its package is missing, or keys are.
    """
    kind, _, exchange = name.partition(":")
    if kind == "ccxt" and exchange:
        from jaxppo.deploy.brokers.ccxt_broker import ccxt_broker

        return ccxt_broker(exchange, symbols)
    if name == "alpaca":
        from jaxppo.deploy.brokers.alpaca_broker import alpaca_broker

        return alpaca_broker(symbols)
    raise ConfigError(f"--broker is {name[:80]!r}; it must be {NAMES}")
