"""A source of bars by its name on the command line, which is that of the broker."""

from __future__ import annotations

from jaxppo.deploy.bars.polled import Source
from jaxppo.deploy.feed import FeedRules
from jaxppo.errors import ConfigError

KINDS = ("ccxt", "alpaca")


def is_source(name: str) -> bool:
    """Whether a name is that of a source, not of a file.

    Args:
      name: of a feed.
    """
    return name.partition(":")[0] in KINDS


def named_source(name: str, rules: FeedRules) -> Source:
    """The source of a name: symbols and length of the bars are those of the policy.

    Args:
      name: `ccxt:EXCHANGE`, `alpaca` or `alpaca:sip`.
      rules: of the policy.

    Raises:
      ConfigError: no such source, its package is missing, or it has no such bars, or no funding.
      SourceError: it cannot be reached.
    """
    kind, _, rest = name.partition(":")
    if rules.funding:
        raise ConfigError(
            f"--feed is {name[:80]!r}, whose bars have no funding; the policy pays {rules.funding!r}: use a file or a "
            "socket whose bars have it"
        )
    if kind == "ccxt" and rest:
        from jaxppo.deploy.bars.ccxt_bars import ccxt_bars

        return ccxt_bars(rest, rules.symbols, rules.bar_seconds)
    if kind == "alpaca":
        from jaxppo.deploy.bars.alpaca_bars import FEEDS, alpaca_bars

        return alpaca_bars(rest or FEEDS[0], rules.symbols, rules.bar_seconds)
    raise ConfigError(f"--feed is {name[:80]!r}; it must be ccxt:EXCHANGE, such as ccxt:binance, alpaca or alpaca:sip")
