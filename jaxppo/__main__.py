"""`python -m jaxppo`: the command line."""

import sys

from jaxppo.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
