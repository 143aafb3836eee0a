"""`jaxppo monte-carlo` in a checkout: python scripts/monte_carlo.py --run runs/NAME --paths 100000"""

import sys

from jaxppo.cli import run
from jaxppo.cli.commands.monte_carlo import main

if __name__ == "__main__":
    sys.exit(run(main))
