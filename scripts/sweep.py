"""Sweep of hyper-parameters: python scripts/sweep.py --config configs/sweep.yaml [--sweep.seeds 4 ...]"""

import os
import sys

os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(os.cpu_count() or 1))  # before JAX counts them: a device for each core

from jaxppo.cli import run
from jaxppo.cli.sweep import main

if __name__ == "__main__":
    sys.exit(run(main))
