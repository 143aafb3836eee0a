"""`jaxppo train` in a checkout: python scripts/train.py --config configs/quickstart.yaml"""

import sys

from jaxppo.cli import run
from jaxppo.cli.commands.train import main

if __name__ == "__main__":
    sys.exit(run(main))
