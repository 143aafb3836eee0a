"""Importing the market side leaves JAX as it is: processes can be forked, and devices chosen, afterwards."""

import subprocess
import sys

import pytest
from folders import ROOT

IMPORTED = """
import os, signal
import jaxppo.envs
from jax._src import xla_bridge

assert not xla_bridge._backends, "a backend was started"
child = os.fork()
if child == 0:
    signal.alarm(60)
    print(jaxppo.envs.load_market("us5_1d"), flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0

import gymnax
from gymnax.environments import environment, spaces

assert issubclass(jaxppo.envs.TradingEnv, environment.Environment)
env, _ = gymnax.make("CartPole-v1")
assert isinstance(env, gymnax.environments.CartPole) and isinstance(env, environment.Environment)
assert "CartPole-v1" in gymnax.registered_envs
"""


ONE = "MarketData(3270 bars x 5 assets, AAPL FB GOOG IBM MSFT, 2000-03-01 to 2013-03-01, 1 d a bar)\n"


@pytest.mark.slow
def test_a_process_can_be_forked_after_the_import():
    done = subprocess.run([sys.executable, "-c", IMPORTED], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, ONE), done.stderr[-2000:]
