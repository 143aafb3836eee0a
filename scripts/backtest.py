"""`jaxppo backtest` in a checkout: python scripts/backtest.py --run runs/NAME"""

import sys

from jaxppo.cli import run
from jaxppo.cli.commands.backtest import main

if __name__ == "__main__":
    sys.exit(run(main))
