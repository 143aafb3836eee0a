"""`jaxppo sweep` in a checkout: python scripts/sweep.py --config configs/sweep.yaml"""

import sys

from jaxppo.cli import run
from jaxppo.cli.commands.sweep import main

if __name__ == "__main__":
    sys.exit(run(main))
