"""`jaxppo export` in a checkout: python scripts/export.py --run runs/NAME --output DIR"""

import sys

from jaxppo.cli import run
from jaxppo.cli.commands.export import main

if __name__ == "__main__":
    sys.exit(run(main))
