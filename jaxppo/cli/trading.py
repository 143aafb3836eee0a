"""The options of `scripts/trade.py --follow`, and what they ask for."""

from __future__ import annotations

import argparse
import contextlib
import math
import pathlib
import signal
import sys
import time as clock
import zoneinfo
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from jaxppo.errors import ConfigError

if TYPE_CHECKING:
    from jaxppo.deploy import LivePolicy
    from jaxppo.deploy.brokers import Broker
    from jaxppo.deploy.trading.feeds import Fed

STANDARD_INPUT = "-"
ONLY_FOLLOWING = ("feed", "output", "paper", "broker", "live", "replay", "stop_at_end", "quiet", "serve", "max_age")
NOT_FOLLOWING = ("positions", "cash", "peak", "orders")


def add_follow_options(parser: argparse.ArgumentParser) -> None:
    """Adds what paper and live trading are asked for.

    Args:
      parser: of the command.
    """
    group = parser.add_argument_group("paper and live trading", "without --paper or --live nothing is sent")
    group.add_argument("--follow", action="store_true", help="decide at every bar of a feed, until it is stopped")
    group.add_argument("--policy", metavar="DIR", help="exported policy, in place of --run")
    group.add_argument("--output", metavar="DIR", help="folder of the account: log, state, page; goes on with it")
    group.add_argument("--feed", metavar="FROM", help="CSV file, - for JSON lines, ws://..., ccxt:EXCHANGE, alpaca")
    group.add_argument("--paper", action="store_true", help="send orders to the simulated broker")
    group.add_argument("--broker", metavar="NAME", help="ccxt:EXCHANGE or alpaca; reads its positions")
    group.add_argument("--live", action="store_true", help="send orders to --broker")
    group.add_argument("--replay", action="store_true", help="take every bar as it comes, however old")
    group.add_argument("--stop-at-end", action="store_true", help="end where a CSV file ends")
    group.add_argument("--quiet", metavar="S", help="seconds after which a time is complete, bars missing or not")
    group.add_argument("--max-age", metavar="S", help="seconds after a bar in which it is traded on (default: a bar)")
    group.add_argument("--serve", metavar="PORT", help="show the page at http://127.0.0.1:PORT")
    group.add_argument("--kill", action="store_true", help="close everything in --output at the next bar, and end")


def check_follow_options(known: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Refuses options that do not go together.

    Args:
      known: parsed options.
      overrides: dotted keys.

    Raises:
      ConfigError: names the option.
    """
    given = [name for name in (ONLY_FOLLOWING, NOT_FOLLOWING)[known.follow] if getattr(known, name)]
    if known.kill:
        return _need(known.output, "--kill needs --output, the folder of the account")
    if given and known.follow:
        raise ConfigError(f"--{given[0]} is for the orders of one morning; leave it out with --follow")
    if given:
        raise ConfigError(f"--{given[0].replace('_', '-')} needs --follow")
    if bool(known.run) == bool(known.policy):
        raise ConfigError("--run or --policy is required, one of them")
    if not known.follow:
        return _need(known.run, "--policy needs --follow; the orders of one morning need --run")
    _need(known.output, "--follow needs --output, a folder for log, state and page")
    _need(known.feed or known.data, "--follow needs --feed or --data")
    for wrong, why in (
        (known.paper and known.broker, "--paper has a broker of its own; leave --broker out"),
        (known.live and not known.broker, "--live needs --broker"),
        (known.live and known.replay, "--replay takes old bars, which must not be traded on --live"),
        (known.policy and overrides, f"{overrides[0] if overrides else ''}: keys are fixed in an exported policy"),
    ):
        _need(not wrong, why)
    return None


def follow_feed(known: argparse.Namespace, overrides: Sequence[str]) -> int | None:
    """Trades a feed until it ends or a signal stops it.

    Args:
      known: parsed options.
      overrides: dotted keys.

    Returns:
      The number of the signal; None at the end of the feed.

    Raises:
      ConfigError: see `check_follow_options`, `Trader` and `load_policy`.
      DataError: a feed or positions that cannot be used.
    """
    folder = pathlib.Path(known.output)
    quiet, max_age = seconds("--quiet", known.quiet), seconds("--max-age", known.max_age)
    port = None if known.serve is None else _port(known.serve)
    with _stopping() as received, contextlib.ExitStack() as open_:
        from jaxppo.deploy import live_policy, load_policy
        from jaxppo.deploy.trader import Trader, follow
        from jaxppo.deploy.trading.page import PAGE
        from jaxppo.deploy.trading.serve import serve_page

        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise ConfigError(f"--output {folder}: is a file; a folder is expected") from None
        if known.policy:
            policy = load_policy(known.policy, max_age=max_age)
        else:
            policy = live_policy(known.run, overrides=overrides, max_age=max_age)
        broker = open_.enter_context(_broker(known, folder, policy))
        send, now = bool(known.paper or known.live), None if known.replay else clock.time
        trader = open_.enter_context(contextlib.closing(Trader(policy, folder, broker, send=send, now=now)))
        if port is not None:
            server = serve_page(folder / PAGE, port)
            open_.callback(server.shutdown)
            print(f"page: http://127.0.0.1:{server.server_port}", flush=True)
        for decision in follow(trader, _feed(known, policy, quiet), lambda: bool(received)):
            n_orders = int((decision.values["ordered"] != 0).sum())
            print(f"{decision.time}  {decision.status}  equity {decision.equity:,.2f}  orders {n_orders}", flush=True)
    if received:
        print("interrupted; what was decided is saved", file=sys.stderr)
    return received[0] if received else None


def kill_account(output: str) -> None:
    """Sets the kill switch of a folder.

    Args:
      output: of the account.

    Raises:
      ConfigError: there is no such folder.
    """
    folder = pathlib.Path(output)
    if not folder.is_dir():
        raise ConfigError(f"--output {folder}: no such folder")
    (folder / "KILL").touch()
    print(f"at its next bar everything in {folder} is closed; delete {folder / 'KILL'} and start anew to trade again")


def seconds(option: str, text: str | None) -> float | None:
    """A number of seconds; None where it is not given.

    Args:
      option: that it was given as.
      text: as it was given.

    Raises:
      ConfigError: none, or a negative one.
    """
    if text is None:
        return None
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found < 1e9:
        raise ConfigError(f"{option} is {text!r}; it must be seconds, >= 0")
    return found


@contextlib.contextmanager
def _broker(known: argparse.Namespace, folder: pathlib.Path, policy: LivePolicy) -> Iterator[Broker | None]:
    """The broker that was asked for."""
    from jaxppo.deploy.brokers import SimulatedBroker, named_broker

    if known.paper:
        with contextlib.closing(SimulatedBroker(folder / "paper.jsonl")) as broker:
            yield broker
    else:
        yield None if known.broker is None else named_broker(known.broker, policy.symbols)


def _feed(known: argparse.Namespace, policy: LivePolicy, quiet: float | None) -> Iterator[Fed]:
    """The feed that was asked for."""
    from jaxppo.deploy.bars.named import is_source, named_source
    from jaxppo.deploy.bars.polled import Poller, polled_feed
    from jaxppo.deploy.trading import feeds

    source = known.feed or known.data
    if source == STANDARD_INPUT:
        return feeds.json_stream(sys.stdin)
    if source.startswith(("ws://", "wss://")):
        return feeds.websocket_feed(source)
    if is_source(source):
        rules, since = policy.rules.feed, policy.feed.time
        return polled_feed(
            Poller(named_source(source, rules), rules, since=since, n_bars=policy.rules.history, quiet=quiet)
        )
    symbol = policy.symbols[0] if len(policy.symbols) == 1 else None
    zone = zoneinfo.ZoneInfo(policy.rules.feed.timezone)
    follow, funding = not known.stop_at_end, policy.rules.feed.funding
    return feeds.csv_tail(source, symbol=symbol, zone=zone, quiet=quiet, follow=follow, funding=funding)


def _port(text: str) -> int:
    """A port."""
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535):
        raise ConfigError(f"--serve is {text!r}; it must be a port, 0 to 65535")
    return int(text)


def _need(given: Any, otherwise: str) -> None:
    if not given:
        raise ConfigError(otherwise)


@contextlib.contextmanager
def _stopping() -> Iterator[list[int]]:
    """Collects the first SIGINT or SIGTERM in a list; the second one acts as usual."""
    received: list[int] = []
    previous: dict[int, Any] = {}

    def handle(number: int, frame: Any) -> None:
        received.append(number)
        for known, handler in previous.items():
            signal.signal(known, handler)

    with contextlib.suppress(ValueError):  # only the main thread can catch signals
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:
                previous[number] = signal.signal(number, handle)
    try:
        yield received
    finally:
        for known, handler in previous.items():
            signal.signal(known, handler)
