"""`python process_of_many.py DEVICES DIES_AT ...`: `jaxppo ...` with so many CPU devices, compiled quickly.

It kills itself before the call that has the iteration `DIES_AT`, from 1 on; never for 0. Others are gone after 5
seconds.
"""

import os
import signal
import sys

n_devices, dies_at, *arguments = sys.argv[1:]
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={n_devices}"

import jax  # noqa: E402

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_disable_most_optimizations", True)

from jaxppo.cli.main import main  # noqa: E402
from jaxppo.run import processes  # noqa: E402

processes.LOST_AFTER = 5.0
iterations = 0


def dying(method):
    """`Group.tell` or `Group.hear` of a process that dies."""

    def call(group, *given, **content):
        global iterations
        order = method(group, *given, **content)
        iterations += len((content if order is None else order).get("spent", ()))
        if iterations >= int(dies_at):
            os.kill(os.getpid(), signal.SIGKILL)
        return order

    return call


if int(dies_at):
    processes.Group.tell, processes.Group.hear = dying(processes.Group.tell), dying(processes.Group.hear)
sys.exit(main(arguments))
