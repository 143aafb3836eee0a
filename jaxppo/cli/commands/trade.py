"""Orders for the next bar: jaxppo trade --run runs/NAME --data prices.csv [--positions positions.csv]

Paper and live trading: jaxppo trade --policy DIR --feed prices.csv --follow --paper --output accounts/NAME
"""

from collections.abc import Sequence

import jaxppo
from jaxppo.cli import OneLineParser, parse_amount, showing_phases
from jaxppo.cli.trading import add_follow_options, check_follow_options, follow_feed, kill_account


def main(arguments: Sequence[str]) -> int | None:
    epilog = "Keys of the costs are options, such as --costs.lot_size 1 for whole shares: jaxppo help costs."
    parser = OneLineParser("trade", __doc__, epilog=epilog)
    parser.add_argument("--run", metavar="DIR", help="run folder")
    parser.add_argument("--data", metavar="PATH", help="prices up to the last close (default: those of the run)")
    parser.add_argument("--positions", metavar="CSV", help="columns symbol and quantity; a line CASH for the cash")
    parser.add_argument("--cash", metavar="N", help="cash of the account, currency, in place of a line CASH")
    parser.add_argument("--peak", metavar="N", help="highest equity of the account so far (default: as it is)")
    parser.add_argument("--orders", metavar="FILE", help="write orders as CSV, or all that is known as .json")
    add_follow_options(parser)
    known, overrides = parser.parse_known_args(arguments)
    check_follow_options(known, overrides)
    if known.kill:
        kill_account(known.output)
        return None
    if known.follow:
        return follow_feed(known, overrides)
    cash, peak = parse_amount("--cash", known.cash), parse_amount("--peak", known.peak)
    positions = jaxppo.deploy.given_positions(known.positions, cash, peak)
    with showing_phases():
        decision = jaxppo.deploy.next_orders(known.run, data=known.data, positions=positions, overrides=overrides)
    print(decision)
    if known.orders:
        print(f"orders: {decision.write(known.orders)}")
    return None
