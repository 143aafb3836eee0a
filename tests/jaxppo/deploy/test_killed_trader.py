"""A trader that the system kills at random instants."""

import json
import os
import signal
import subprocess
import sys

from folders import ROOT

N_BARS, N_KILLS = 1500, 20
HERE = ROOT / "tests" / "jaxppo" / "deploy"


def test_twenty_kills_lose_and_double_no_order(tmp_path):
    arguments = [sys.executable, HERE / "cheap_trader.py", tmp_path, str(N_BARS), str(N_KILLS)]
    path = os.pathsep.join([str(ROOT), str(HERE)])
    done = subprocess.run(arguments, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    codes = [int(line) for line in done.stdout.split()]
    assert codes == [-signal.SIGKILL] * N_KILLS + [0], done.stderr
    log, paper = ([json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
                  for name in ("orders.jsonl", "paper.jsonl"))  # fmt: skip
    bars = [line for line in log if line["kind"] == "bar"]
    assert len(bars) == len({bar["time"] for bar in bars}) == N_BARS
    decided = [order["client_id"] for bar in bars for order in bar["orders"]]
    taken = [line["client_id"] for line in paper if line["kind"] == "order"]
    assert taken == decided
    assert len(set(taken)) == len(taken)
    filled = {symbol: sum(line["fills"].get(symbol, 0.0) for line in paper if line["kind"] == "bar")
              for symbol in ("AAA", "BBB")}  # fmt: skip
    assert {symbol: shares for symbol, shares in filled.items() if shares} == bars[-1]["shares"]
