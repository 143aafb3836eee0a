"""Trades a cheap policy on paper in processes of which some are killed: python cheap_trader.py FOLDER N_BARS N_KILLS"""

import os
import pathlib
import signal
import sys
import time

import numpy as np
from cheap_policy import CheapPolicy, records

from jaxppo.deploy.brokers import SimulatedBroker
from jaxppo.deploy.trader import Trader, follow


def trade(folder, n_bars):
    trader = Trader(CheapPolicy(), folder, SimulatedBroker(folder / "paper.jsonl"), send=True)
    for _ in follow(trader, records(n_bars)):
        pass


def in_a_process(folder, n_bars, seconds):
    """How a process ended that was killed after some time, or, with None, not at all."""
    number = os.fork()
    if number == 0:
        try:
            trade(folder, n_bars)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(number, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


if __name__ == "__main__":
    folder, n_bars, n_kills = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    draws = np.random.default_rng(0)
    for _ in range(n_kills):
        print(in_a_process(folder, n_bars, float(draws.uniform(0.01, 0.06))))
    print(in_a_process(folder, n_bars, None))
