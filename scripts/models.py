"""`jaxppo models` in a checkout: python scripts/models.py add|list|show|compare|promote|rollback ..."""

import sys

from jaxppo.cli import run
from jaxppo.cli.commands.models import main

if __name__ == "__main__":
    sys.exit(run(main))
