"""Monte Carlo over Ray against one job: python -m benchmarks.ray_workers [--paths 1000000]

Equal weights on markets of two assets and 20 bars, first by this process alone, then by two workers of Ray, of which
one is killed when the first part has come. The figures of every path must be the same bits. Needs `jaxppo[ray]`, Linux
and two cores. Seconds include opening the paths and compiling, on the workers too; `load_average` says what else the
machine was doing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import signal
import sys
import tempfile
import threading
import time
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.recording import record

WORKERS = 2
N_BARS, WARMUP = 20, 5


def make_paths() -> Any:
    """The job, in this process and on the workers."""
    import jax

    from jaxppo import envs, rules
    from jaxppo.backtest import plain_conditions
    from jaxppo.envs import simulators
    from jaxppo.envs.simulators.generators import stationary_bootstrap
    from jaxppo.monte_carlo import Paths

    market = simulators.gbm(jax.random.key(0), 500, 2, volatility=0.02)
    policy = rules.equal_weight()._replace(warmup=WARMUP)
    conditions = plain_conditions(2, periods=252.0, costs=envs.basic_costs(commission_bps=2.0))
    generator = stationary_bootstrap(market, WARMUP + N_BARS + 1, mean_block=5.0)
    return Paths(policy, conditions, generator, N_BARS, points=4)


def parent_of(process: int) -> int:
    """Number of the process that has started another one; 0 where that is gone."""
    with contextlib.suppress(OSError, IndexError):
        return int(pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def workers() -> list[int]:
    """Processes of Ray that compute a part for this one."""
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            named = (folder / "cmdline").read_bytes().startswith(b"ray::_part")
            if named and parent_of(parent_of(int(folder.name))) == os.getpid():
                found.append(int(folder.name))
    return found


def kill_one(when: threading.Event, killed: list[int]) -> None:
    """Kills a worker that computes, once something has happened."""
    when.wait()
    deadline = time.monotonic() + 60.0
    while not killed and time.monotonic() < deadline:
        for process in workers()[:1]:
            os.kill(process, signal.SIGKILL)
            killed.append(process)
        time.sleep(0.01)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paths", type=int, default=1_000_000)
    parser.add_argument("--no-record", action="store_true", help="record nothing")
    chosen = parser.parse_args()
    os.environ["JAX_NUM_CPU_DEVICES"] = str(WORKERS)
    import jaxppo.monte_carlo.on_ray as on_ray
    from jaxppo.monte_carlo import PathsOnRay, monte_carlo

    if on_ray._ray().is_initialized():
        raise SystemExit("Ray runs already")
    content: dict[str, Any] = {"paths": chosen.paths, "bars": N_BARS, "workers": WORKERS}
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        one = monte_carlo(make_paths(), chosen.paths, output=pathlib.Path(folder, "one"), progress=False)
        content["seconds_of_one_process"] = time.perf_counter() - began
        print(content, flush=True)
        first, killed = threading.Event(), []
        threading.Thread(target=kill_one, args=(first, killed), daemon=True).start()
        lost: list[str] = []
        hand_out = PathsOnRay._hand_out

        def noticing(self: Any, *given: Any) -> Any:
            for found in hand_out(self, *given):
                first.set()
                yield found

        def writing(*text: Any, **options: Any) -> None:
            lost.append(" ".join(map(str, text)))

        began = time.perf_counter()
        with (
            mock.patch.object(PathsOnRay, "_hand_out", noticing),
            mock.patch.object(on_ray, "print", writing, create=True),
        ):
            two = monte_carlo(PathsOnRay(make_paths), chosen.paths, output=pathlib.Path(folder, "two"), progress=False)
        content["seconds_on_ray"] = time.perf_counter() - began
        names = one.table.names
        different = [
            name for name in names if not np.array_equal(one.table.column(name), two.table.column(name), equal_nan=True)
        ]
        content |= {"parts": len(two.table.files), "killed_workers": len(killed), "computed_again": len(lost)}
        content |= {"columns": len(names), "columns_that_differ": different, "load_average": os.getloadavg()[0]}
        same_summary = {**one.summary} == {**two.summary}
        content["same_summary"] = same_summary
    print(content)
    if different or not same_summary or not killed or not lost:
        raise SystemExit("the job over Ray is not the job of one process, or no worker was lost")
    if not chosen.no_record:
        print(record("ray_workers", content), file=sys.stderr)


if __name__ == "__main__":
    main()
