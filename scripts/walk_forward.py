"""`jaxppo walk-forward` in a checkout: python scripts/walk_forward.py --config configs/quickstart.yaml"""

import sys

from jaxppo.cli import run
from jaxppo.cli.commands.walk_forward import main

if __name__ == "__main__":
    sys.exit(run(main))
