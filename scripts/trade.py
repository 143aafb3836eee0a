"""`jaxppo trade` in a checkout: python scripts/trade.py --run runs/NAME --data prices.csv"""

import sys

from jaxppo.cli import run
from jaxppo.cli.commands.trade import main

if __name__ == "__main__":
    sys.exit(run(main))
